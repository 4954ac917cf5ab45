//! The two headers, of which the newer one counts.

use instar_image::reader::Reader;
use instar_image::windows::guid;
use instar_image::{DeviceId, Error, FileOffset, Machine, OpenContext, Purpose, Read, Result, Step, Version};

use crate::error::invalid;
use crate::layout::{ALIGNMENT, FILE_SIGNATURE, HEADER, HEADERS, checksum, header, put};

/// The current header.
#[derive(Clone, Debug)]
pub struct Header {
    pub sequence: u64,
    /// Identifies the log's entries; zeroes: nothing is in it.
    pub log_guid: [u8; 16],
    /// Bytes of the log.
    pub log_len: u64,
    /// Where the log is.
    pub log_at: FileOffset,
    /// All of it.
    pub bytes: [u8; HEADER],
}

impl Header {
    /// Reads both and takes the newer sound one.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let mut signature = [0; FILE_SIGNATURE.len()];
        let mut both = [[0; HEADER]; 2];
        let [first, second] = &mut both;
        cx.source.read_many(&mut [
            Read { device: cx.device, offset: FileOffset::ZERO, buf: &mut signature },
            Read { device: cx.device, offset: HEADERS[0], buf: first },
            Read { device: cx.device, offset: HEADERS[1], buf: second },
        ])?;
        if signature != *FILE_SIGNATURE {
            return Err(invalid(cx));
        }
        let none = || Error::malformed("No valid VHDX header found");
        let [first, second] = both;
        let header = match (is_sound(&first)?, is_sound(&second)?) {
            (false, false) => return Err(none()),
            (true, false) => Self::parse(first)?,
            (false, true) => Self::parse(second)?,
            (true, true) => {
                let (a, b) = (Self::parse(first)?, Self::parse(second)?);
                match a.sequence.cmp(&b.sequence) {
                    // Of two that differ none can be told to be the newer.
                    core::cmp::Ordering::Equal if a.bytes != b.bytes => return Err(none()),
                    core::cmp::Ordering::Less => b,
                    _ => a,
                }
            }
        };
        if header.log_at < FileOffset::new(ALIGNMENT) || !header.log_at.is_multiple_of(ALIGNMENT) {
            return Err(invalid(cx));
        }
        if Reader::new(&header.bytes).le16(header::LOG_VERSION)? != 0 {
            return Err(invalid(cx));
        }
        Ok(header)
    }

    fn parse(bytes: [u8; HEADER]) -> Result<Self> {
        let r = Reader::new(&bytes);
        Ok(Self {
            sequence: r.le64(header::SEQUENCE)?,
            log_guid: r.array(header::LOG_GUID)?,
            log_len: r.le32(header::LOG_LENGTH)?.into(),
            log_at: FileOffset::new(r.le64(header::LOG_OFFSET)?),
            bytes,
        })
    }

    /// Gives both headers new identifiers, the one that does not count first ([MS-VHDX] 2.2.2): whoever knew the disk sees
    /// that it changes. The log is empty from then on. `content`: what the disk shows changes, too, not only the file.
    pub fn renew(&self, machine: &dyn Machine, device: DeviceId, content: bool) -> Result<()> {
        let mut bytes = self.bytes;
        put(&mut bytes, header::FILE_WRITE_GUID, &guid(machine.random_id()));
        if content {
            put(&mut bytes, header::DATA_WRITE_GUID, &guid(machine.random_id()));
        }
        put(&mut bytes, header::LOG_GUID, &[0; 16]);
        let mut first = [0; HEADER];
        machine.read(device, HEADERS[0], &mut first)?;
        let [one, other] = HEADERS;
        let order = if first == self.bytes { [other, one] } else { [one, other] };
        for (offset, sequence) in order.into_iter().zip(1..) {
            let sequence = self.sequence.checked_add(sequence);
            let sequence = sequence.ok_or_else(|| Error::limit("the headers' number is too large"))?;
            put(&mut bytes, header::SEQUENCE, &sequence.to_le_bytes());
            let sum = checksum(&bytes, header::CHECKSUM);
            put(&mut bytes, header::CHECKSUM, &sum.to_le_bytes());
            machine.submit(&[Step::Write { device, offset, data: &bytes }, Step::Barrier { device }])?;
        }
        Ok(())
    }

    /// Whether something may be in the log.
    pub fn has_log(&self) -> bool {
        self.log_guid != [0; 16] && self.log_len != 0
    }
}

/// What a child knows the disk on `device` by: it changes whenever the disk's content does.
pub fn identity(machine: &dyn Machine, device: DeviceId, version: Version) -> Result<[u8; 16]> {
    let parent = OpenContext::alone(machine.source(), device, b"parent", version, Purpose::Describe);
    let found = Header::read(&parent).map_err(|_| Error::usage("The parent of a differencing VHDX must be a VHDX"))?;
    Reader::new(&found.bytes).array(header::DATA_WRITE_GUID)
}

fn is_sound(bytes: &[u8; HEADER]) -> Result<bool> {
    let r = Reader::new(bytes);
    Ok(bytes.starts_with(b"head")
        && r.le32(header::CHECKSUM)? == checksum(bytes, header::CHECKSUM)
        && r.le16(header::VERSION)? == 1)
}
