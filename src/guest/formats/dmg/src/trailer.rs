//! The trailer: where the tables are.

use alloc::vec;

use instar_image::reader::Reader;
use instar_image::{Error, FileOffset, OpenContext, Result};

use crate::invalid;
use crate::layout::{KOLY, KOLY_LEN, SECTOR, koly};

/// A range of the file: where it begins, and its length.
pub type Range = (FileOffset, u64);

/// What the trailer says.
#[derive(Clone, Copy, Debug)]
pub struct Trailer {
    /// What is added to the offsets of the chunks.
    pub data: u64,
    /// The resource fork.
    pub resources: Range,
    /// The property list.
    pub plist: Range,
    /// Sectors of the disk.
    pub sectors: u64,
}

impl Trailer {
    /// Finds and checks it, in the order in which the stock tool does.
    pub fn read(cx: &OpenContext<'_, '_>) -> Result<Self> {
        let at = find(cx)?;
        let mut bytes = [0; KOLY_LEN as usize];
        cx.source.read(cx.device, at, &mut bytes)?;
        let read = Reader::new(&bytes);
        let number = |field: u64| read.be64(field as usize);
        let range = |field: u64| Ok::<_, Error>((FileOffset::new(number(field)?), number(field + 8)?));
        let trailer = Self {
            data: number(koly::DATA)?,
            resources: range(koly::RESOURCES)?,
            plist: range(koly::PLIST)?,
            sectors: number(koly::SECTORS)?,
        };
        let before = |(offset, len): Range| offset < at && len <= at - offset;
        if trailer.data > at.get() || !before(trailer.resources) || !before(trailer.plist) || trailer.sectors >> 63 != 0
        {
            return Err(invalid(cx));
        }
        Ok(trailer)
    }
}

/// Where the trailer is: the first magic in the last two sectors but a byte, of a file of whole sectors.
fn find(cx: &OpenContext<'_, '_>) -> Result<FileOffset> {
    let end = cx.source.stat(cx.device)?.end().next_multiple_of(SECTOR);
    if end == FileOffset::ZERO {
        return Err(Error::malformed("dmg file must be at least 512 bytes long"));
    }
    let start = end.saturating_sub(2 * KOLY_LEN - 1);
    let mut bytes = vec![0; (end - start) as usize];
    cx.source.read(cx.device, start, &mut bytes)?;
    let found = bytes.windows(KOLY.len()).take(KOLY_LEN as usize).position(|w| w == KOLY);
    found.map(|at| start + at as u64).ok_or_else(|| Error::malformed("Could not locate UDIF trailer in dmg file"))
}
