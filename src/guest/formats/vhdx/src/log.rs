//! The log: what was to be written to the file and may not have been ([MS-VHDX] 2.3).
//!
//! An image that is only read is not changed: what its log says is laid over what is read of it.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::machine::display_name;
use instar_image::reader::Reader;
use instar_image::{DeviceId, Error, FileOffset, OpenContext, Result, Source};

use crate::error::invalid;
use crate::header::Header;
use crate::layout::{ALIGNMENT, Checksum, LOG_SECTOR};

/// Bytes that are read at once.
const PIECE: u64 = 1 << 20;
/// Bytes of the header of an entry.
const ENTRY_HEADER: usize = 64;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 32;
const ENTRY_CHECKSUM: usize = 4;
/// Bytes that may be summed up in search of entries. Logs are some MiB long.
const WORK_MAX: u64 = 256 << 20;
/// Most sectors that a log may change.
const PATCHES_MAX: usize = 1 << 17;

/// A change that a log holds.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    /// Where the file is changed.
    pub at: FileOffset,
    pub len: u64,
    pub kind: PatchKind,
}

/// What it is changed to.
#[derive(Clone, Copy, Debug)]
pub enum PatchKind {
    Zeroes,
    /// A sector: the bytes that the log's own marks stand in place of, and where the rest is.
    Sector {
        from: FileOffset,
        leading: [u8; 8],
        trailing: [u8; 4],
    },
}

impl PatchKind {
    /// The sector as the file is to have it.
    pub fn sector(&self, source: &dyn Source, device: DeviceId) -> Result<[u8; LOG_SECTOR as usize]> {
        let mut sector = [0; LOG_SECTOR as usize];
        if let Self::Sector { from, leading, trailing } = self {
            source.read(device, *from, &mut sector)?;
            sector[..leading.len()].copy_from_slice(leading);
            sector[LOG_SECTOR as usize - trailing.len()..].copy_from_slice(trailing);
        }
        Ok(sector)
    }
}

/// What the log of an image says.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// In the order in which they are to be made.
    pub patches: Vec<Patch>,
    /// Bytes that the file has at least when all is done.
    pub file_len: u64,
    /// There are entries.
    pub dirty: bool,
}

/// One entry that is whole.
struct Entry {
    /// Offset in the log.
    at: u64,
    len: u64,
    tail: u64,
    sequence: u64,
    descriptors: u64,
    flushed: u64,
    last: u64,
}

/// Looks for entries.
struct Search<'s> {
    cx: &'s OpenContext<'s, 's>,
    header: &'s Header,
    /// Bytes summed up so far.
    work: u64,
}

/// Reads the log that `header` tells of.
pub fn read(cx: &OpenContext<'_, '_>, header: &Header) -> Result<Log> {
    if !header.has_log() {
        return Ok(Log::default());
    }
    if !header.log_len.is_multiple_of(ALIGNMENT) {
        return Err(invalid(cx));
    }
    let mut search = Search { cx, header, work: 0 };
    let entries = search.active()?;
    let Some(head) = entries.last() else { return Ok(Log::default()) };
    if cx.source.is_stock() && !cx.purpose.writes() {
        let name = display_name(cx.name);
        return Err(Error::unsupported(format!(
            "VHDX image file '{name}' opened read-only, but contains a log that needs to be replayed\nTo replay the \
             log, run:\nqemu-img check -r all '{name}'"
        )));
    }
    if head.flushed > cx.source.stat(cx.device)?.len {
        return Err(Error::corrupt("the log was written for a longer file: the image is cut short"));
    }
    let mut log = Log { patches: Vec::new(), file_len: head.last, dirty: true };
    for entry in &entries {
        search.patches(entry, &mut log.patches)?;
    }
    Ok(log)
}

impl Search<'_> {
    /// The entries of the active sequence, the oldest first ("Log Sequence", 2.3.2).
    fn active(&mut self) -> Result<Vec<Entry>> {
        let len = self.header.log_len;
        let mut best: Vec<Entry> = Vec::new();
        let mut at = 0;
        while at < len {
            let sequence = self.sequence_from(at)?;
            let Some(head) = sequence.last() else {
                at = self.next_mark(at + LOG_SECTOR)?;
                continue;
            };
            let end = head.at.saturating_add(head.len);
            let newer = best.last().is_none_or(|b| b.sequence < head.sequence);
            let wrapped = head.at < at || end >= len;
            if let (true, Some(first)) = (newer, sequence.iter().position(|e| e.at == head.tail)) {
                best = sequence.into_iter().skip(first).collect();
            }
            if wrapped {
                break;
            }
            at = end;
        }
        Ok(best)
    }

    /// The next sector from `at` on that looks like the beginning of an entry.
    fn next_mark(&self, at: u64) -> Result<u64> {
        let mut window = vec![0; PIECE as usize];
        let mut from = at;
        while from < self.header.log_len {
            self.cx.source.read(self.cx.device, self.header.log_at.saturating_add(from), &mut window)?;
            if let Some(sector) = window.chunks(LOG_SECTOR as usize).position(|s| s.starts_with(b"loge")) {
                return Ok(from + sector as u64 * LOG_SECTOR);
            }
            from += PIECE;
        }
        Ok(self.header.log_len)
    }

    /// Entries with consecutive numbers, the first at `at`.
    fn sequence_from(&mut self, at: u64) -> Result<Vec<Entry>> {
        let mut found: Vec<Entry> = Vec::new();
        let mut total = 0;
        let mut next = at;
        while let Some(entry) = self.entry(next)? {
            total += entry.len;
            let follows = found.last().is_none_or(|e| e.sequence.checked_add(1) == Some(entry.sequence));
            // Once around there is nothing left that could be new.
            if !follows || total > self.header.log_len {
                break;
            }
            next = (entry.at + entry.len) % self.header.log_len;
            found.push(entry);
        }
        Ok(found)
    }

    /// Reads `buf` from byte `at` of the log on, around its end.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let (device, base) = (self.cx.device, self.header.log_at);
        let room = usize::try_from(self.header.log_len.saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let (first, rest) = buf.split_at_mut(room);
        self.cx.source.read(device, base.saturating_add(at), first)?;
        if rest.is_empty() { Ok(()) } else { self.cx.source.read(device, base, rest) }
    }

    /// The entry at `at`, if there is a whole one.
    fn entry(&mut self, at: u64) -> Result<Option<Entry>> {
        let mut head = [0; ENTRY_HEADER];
        self.read(at, &mut head)?;
        let r = Reader::new(&head);
        let entry = Entry {
            at,
            len: r.le32(8)?.into(),
            tail: r.le32(12)?.into(),
            sequence: r.le64(16)?,
            descriptors: r.le32(24)?.into(),
            flushed: r.le64(48)?,
            last: r.le64(56)?,
        };
        let room = ENTRY_HEADER as u64 + entry.descriptors * DESCRIPTOR as u64;
        let fits = entry.len <= self.header.log_len && entry.len.is_multiple_of(LOG_SECTOR) && room <= entry.len;
        if !head.starts_with(b"loge") || !fits || entry.sequence == 0 || r.array::<16>(32)? != self.header.log_guid {
            return Ok(None);
        }
        self.work += entry.len;
        if self.work > WORK_MAX {
            return Err(Error::limit("the log is too long to be looked through"));
        }
        let mut sum = Checksum::new(ENTRY_CHECKSUM);
        let mut piece = vec![0; PIECE.min(entry.len) as usize];
        let mut done = 0;
        while done < entry.len {
            let part = (entry.len - done).min(PIECE) as usize;
            let piece = piece.get_mut(..part).unwrap_or_default();
            self.read((at + done) % self.header.log_len, piece)?;
            sum.update(piece);
            done += part as u64;
        }
        Ok((r.le32(ENTRY_CHECKSUM)? == sum.finish()).then_some(entry))
    }

    /// Adds what `entry` changes.
    fn patches(&self, entry: &Entry, patches: &mut Vec<Patch>) -> Result<()> {
        let broken = || Error::corrupt("a log entry contradicts itself");
        let room = (ENTRY_HEADER as u64 + entry.descriptors * DESCRIPTOR as u64).next_multiple_of(LOG_SECTOR);
        let mut bytes = vec![0; usize::try_from(room).unwrap_or_default()];
        self.read(entry.at, &mut bytes)?;
        let mut sector = room;
        let descriptors = bytes.get(ENTRY_HEADER..).unwrap_or_default().chunks_exact(DESCRIPTOR);
        for descriptor in descriptors.take(usize::try_from(entry.descriptors).unwrap_or_default()) {
            let r = Reader::new(descriptor);
            let at = FileOffset::new(r.le64(16)?);
            if r.le64(24)? != entry.sequence || !at.is_multiple_of(LOG_SECTOR) {
                return Err(invalid(self.cx));
            }
            if patches.len() >= PATCHES_MAX {
                return Err(Error::limit("the log changes too much to be read over the image"));
            }
            match r.array::<4>(0)? {
                mark if mark == *b"zero" => {
                    let len = r.le64(8)?;
                    at.checked_add(len).filter(|_| len.is_multiple_of(LOG_SECTOR)).ok_or_else(broken)?;
                    patches.push(Patch { at, len, kind: PatchKind::Zeroes });
                }
                mark if mark == *b"desc" => {
                    if sector >= entry.len {
                        return Err(broken());
                    }
                    let within = (entry.at + sector) % self.header.log_len;
                    let from = self.header.log_at.saturating_add(within);
                    self.check_sector(within, entry.sequence)?;
                    sector += LOG_SECTOR;
                    let kind = PatchKind::Sector { from, leading: r.array(8)?, trailing: r.array(4)? };
                    patches.push(Patch { at, len: LOG_SECTOR, kind });
                }
                _ => return Err(invalid(self.cx)),
            }
        }
        Ok(())
    }

    /// The marks at both ends of a data sector are those of its entry.
    fn check_sector(&self, at: u64, sequence: u64) -> Result<()> {
        let mut bytes = [0; LOG_SECTOR as usize];
        self.read(at, &mut bytes)?;
        let r = Reader::new(&bytes);
        let marked = u64::from(r.le32(4)?) << 32 | u64::from(r.le32(LOG_SECTOR as usize - 4)?);
        if !bytes.starts_with(b"data") || marked != sequence {
            return Err(Error::corrupt("a data sector of the log is not of its entry"));
        }
        Ok(())
    }
}
