//! The first cluster with something else in it: its fields, its extensions, the backing file's name.

use alloc::vec::Vec;
use core::ops::Range;

use instar_image::reader::Reader;
use instar_image::{Backing, DeviceId, Error, FileOffset, Machine, Result, Step, limits};

use crate::bitmaps::Directory;
use crate::header::Header;
use crate::layout::{
    AUTOCLEAR_BITMAPS, BACKING_FORMAT_MAX, HEADER_LENGTH_V2, HEADER_LENGTH_WHOLE, REFCOUNT_ORDER_V2, extension, field,
};
use crate::window::Window;

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Bytes of an extension's own header: type and length.
const EXTENSION_HEADER: usize = 8;

fn full() -> Error {
    Error::limit("No space left on device")
        .with_hint("the name does not fit into the first cluster: use a shorter name, or a larger cluster size")
}

/// What the first cluster holds. Whatever it names lies in it.
pub struct Head {
    /// The header's fields.
    fixed: Vec<u8>,
    /// Type and content.
    extensions: Vec<(u32, Vec<u8>)>,
    /// The backing file's name.
    name: Vec<u8>,
    cluster: usize,
    /// What the first cluster held before.
    old: Old,
}

/// The first cluster as it was.
struct Old {
    /// Bytes that were in use.
    len: usize,
    /// Where the backing file's name was.
    name: Range<usize>,
    /// The first sector without the names of features, which are of use to people only: it says the same, and needs nothing
    /// behind it but the backing file's name. Absent where it is too long for that.
    sector: Option<Vec<u8>>,
}

impl Head {
    /// As it is.
    pub fn read(machine: &dyn Machine, device: DeviceId, header: &Header) -> Result<Self> {
        let mut window = Window::new(machine.source(), device);
        let cluster = header.cluster_size();
        let (offset, len) = header.backing;
        if u64::from(len) > limits::BACKING_NAME_MAX as u64 {
            return Err(Error::malformed("Backing file name too long"));
        }
        let fixed = window.bytes(FileOffset::ZERO, header.length as usize)?.to_vec();
        let extensions = extensions(&mut window, header)?;
        let name = if offset == FileOffset::ZERO { Vec::new() } else { window.bytes(offset, len as usize)?.to_vec() };
        let inside = offset.get().min(cluster);
        let end = inside.saturating_add(u64::from(len)).min(cluster) as usize;
        let mut sector = fixed.clone();
        let others = extensions.iter().filter(|(kind, _)| *kind != extension::FEATURE_NAMES);
        sector.append(&mut encode(others));
        sector.resize(SECTOR.max(sector.len()), 0);
        let is_whole = sector.len() == SECTOR && (inside == 0 || inside >= SECTOR as u64);
        let sector = match end {
            // Nothing of the old one lies behind its first sector.
            1..=SECTOR => Some(window.bytes(FileOffset::ZERO, SECTOR)?.to_vec()),
            _ => Some(sector).filter(|_| is_whole),
        };
        let old = Old { len: end, name: (inside as usize).min(end)..end, sector };
        Ok(Self { fixed, extensions, name, cluster: cluster as usize, old })
    }

    /// Sets an extension, or takes it away if there is nothing in it.
    fn set_extension(&mut self, kind: u32, content: &[u8]) {
        self.extensions.retain(|(other, _)| *other != kind);
        if !content.is_empty() {
            self.extensions.insert(0, (kind, content.to_vec()));
        }
    }

    /// Of another version. What only version 3 has goes, or is as an image has it that uses none of it.
    pub fn with_version(mut self, version: u32) -> Self {
        let length = if version < 3 { HEADER_LENGTH_V2 } else { HEADER_LENGTH_WHOLE };
        self.fixed.truncate(HEADER_LENGTH_V2 as usize);
        self.fixed.resize(length as usize, 0);
        self.put(field::VERSION, &version.to_be_bytes());
        if version < 3 {
            self.set_extension(extension::FEATURE_NAMES, &[]);
        } else {
            self.put(field::REFCOUNT_ORDER, &REFCOUNT_ORDER_V2.to_be_bytes());
            self.put(field::HEADER_LENGTH, &length.to_be_bytes());
        }
        self
    }

    /// With another name of the data file, or none.
    pub fn with_data_file(mut self, name: &[u8]) -> Self {
        self.set_extension(extension::DATA_FILE, name);
        self
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.fixed.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// With another backing file, or none.
    pub fn with_backing(mut self, backing: Option<&Backing>) -> Result<Self> {
        let name = backing.map_or(&[][..], |b| &b.name);
        let format = backing.and_then(|b| b.format.as_deref()).unwrap_or_default();
        if name.len() > limits::BACKING_NAME_MAX || format.len() >= BACKING_FORMAT_MAX as usize {
            return Err(Error::usage("Invalid argument"));
        }
        self.set_extension(extension::BACKING_FORMAT, format.as_bytes());
        self.name = name.to_vec();
        Ok(self)
    }

    /// With another directory of bitmaps, or none; `autoclear`: these feature bits, and that of the bitmaps as it is to be.
    pub fn with_bitmaps(mut self, directory: Option<Directory>, autoclear: u64) -> Self {
        self.set_extension(extension::BITMAPS, &directory.map(Directory::encode).unwrap_or_default());
        let bits = if directory.is_some() { autoclear | AUTOCLEAR_BITMAPS } else { autoclear & !AUTOCLEAR_BITMAPS };
        self.put(field::AUTOCLEAR, &bits.to_be_bytes());
        self
    }

    fn len(&self) -> usize {
        let body: usize =
            self.extensions.iter().map(|(_, data)| EXTENSION_HEADER + data.len().next_multiple_of(8)).sum();
        self.fixed.len() + body + EXTENSION_HEADER + self.name.len()
    }

    /// The bytes from the beginning of the file on that are to be written, in one step.
    fn encode(self) -> Result<Vec<u8>> {
        let old = self.old.len;
        let mut head = self.laid_out(0)?;
        // What the old name and extensions leave behind goes too.
        head.resize(head.len().max(old), 0);
        Ok(head)
    }

    /// What is to be written one after the other, where and which bytes, each to be stable before the next: a disk writes a
    /// sector whole or not at all, and after each of them the image names the old backing file or the new one.
    pub fn steps(mut self) -> Result<Vec<(FileOffset, Vec<u8>)>> {
        let is_in_the_way = |end: usize| end > SECTOR && self.old.name.start < end && self.old.name.end > SECTOR;
        if is_in_the_way(self.len() - self.name.len()) {
            self.set_extension(extension::FEATURE_NAMES, &[]);
        }
        let (old, sector) = (self.old.name.clone(), self.old.sector.clone());
        let (len, old_len, cluster) = (self.len(), self.old.len, self.cluster);
        let name = self.name.len();
        let begin = len - name;
        let Some(sector) = sector.filter(|_| len.max(old_len) > SECTOR && begin <= cluster) else {
            return Ok(Vec::from([(FileOffset::ZERO, self.encode()?)]));
        };
        // The new name where the old one is not, and the extensions before it.
        let behind = begin.max(old.end).next_multiple_of(8);
        let apart = |from: usize, to: usize| from >= to || to <= old.start || from >= old.end;
        let places = [begin, behind].map(|at| (at, at + name));
        let free = |(at, end): &(usize, usize)| apart(*at, *end) && *end <= cluster;
        let Some((at, _)) = places.into_iter().find(free).filter(|_| apart(SECTOR, begin)) else {
            return Ok(Vec::from([(FileOffset::ZERO, self.encode()?)]));
        };
        let mut head = self.laid_out(at - begin)?;
        let used = head.len();
        head.resize(head.len().max(old_len).max(SECTOR), 0);
        let first = head.get(..SECTOR).unwrap_or_default().to_vec();
        let rest = head.get(SECTOR..).unwrap_or_default().to_vec();
        let mut steps = Vec::from([(FileOffset::ZERO, sector)]);
        // All of it but for the old name, which counts still.
        for part in [SECTOR..old.start.min(used), old.end.max(SECTOR)..used] {
            if let Some(bytes) = head.get(part.clone()).filter(|bytes| !bytes.is_empty()) {
                steps.push((FileOffset::new(part.start as u64), bytes.to_vec()));
            }
        }
        steps.push((FileOffset::ZERO, first));
        if !rest.is_empty() {
            steps.push((FileOffset::new(SECTOR as u64), rest));
        }
        Ok(steps)
    }

    /// Writes it as [`Head::steps`] says, and then that is stable.
    pub fn write(self, machine: &dyn Machine, device: DeviceId) -> Result<()> {
        carry_out(machine, device, &self.steps()?)
    }

    /// Header, extensions and, so many bytes behind them, the backing file's name.
    fn laid_out(mut self, gap: usize) -> Result<Vec<u8>> {
        if self.len() > self.cluster {
            // Of use to people only.
            self.set_extension(extension::FEATURE_NAMES, &[]);
        }
        if self.len() > self.cluster {
            return Err(full());
        }
        let mut behind = encode(self.extensions.iter());
        behind.resize(behind.len() + gap, 0);
        let offset = if self.name.is_empty() { 0 } else { (self.fixed.len() + behind.len()) as u64 };
        behind.extend_from_slice(&self.name);
        self.put(field::BACKING_OFFSET, &offset.to_be_bytes());
        self.put(field::BACKING_SIZE, &u32::try_from(self.name.len()).unwrap_or(u32::MAX).to_be_bytes());
        let mut head = self.fixed;
        head.append(&mut behind);
        Ok(head)
    }
}

/// Carries out what [`Head::steps`] gave, each step stable before the next.
pub fn carry_out(machine: &dyn Machine, device: DeviceId, steps: &[(FileOffset, Vec<u8>)]) -> Result<()> {
    steps.iter().try_for_each(|(offset, data)| {
        machine.submit(&[Step::Write { device, offset: *offset, data }, Step::Barrier { device }])
    })
}

/// Extensions as they are stored, with the end.
fn encode<'e>(extensions: impl Iterator<Item = &'e (u32, Vec<u8>)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = (extension::END, Vec::new());
    for (kind, data) in extensions.map(|(kind, data)| (*kind, data)).chain([(end.0, &end.1)]) {
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

/// The extensions as they are, without the end.
fn extensions(window: &mut Window<'_>, header: &Header) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut at = FileOffset::from(header.length);
    while at + EXTENSION_HEADER as u64 <= header.extensions_end {
        let r = Reader::new(window.bytes(at, EXTENSION_HEADER)?);
        let (kind, len) = (r.be32(0)?, r.be32(4)?);
        if kind == extension::END {
            break;
        }
        at += EXTENSION_HEADER as u64;
        if u64::from(len) > header.extensions_end.saturating_since(at) {
            return Err(Error::malformed("Header extension too large"));
        }
        found.push((kind, window.bytes(at, len as usize)?.to_vec()));
        at += u64::from(len).next_multiple_of(8);
    }
    Ok(found)
}
