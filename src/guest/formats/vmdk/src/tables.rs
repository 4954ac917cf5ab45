//! Where a part's bytes lie: its tables, and the runs of a flat one.

use instar_image::runs::RunMap;
use instar_image::table::{Span, TableCache};
use instar_image::{Compressed, DeviceId, Error, Extent, FileOffset, Place, Result, Source};

use crate::extent::{Content, Entries, Grains, Part};
use crate::layout::{MARKER, ZERO_GRAIN, sector_at};

/// What one grain is.
enum Grain {
    None,
    Zero,
    At(FileOffset),
}

/// Bytes that the file has from there on; fails if there is none.
fn held(bound: Option<FileOffset>, offset: FileOffset) -> Result<u64> {
    match bound.map_or(u64::MAX, |end| end.saturating_since(offset)) {
        0 => Err(Error::malformed("Input/output error")),
        held => Ok(held),
    }
}

/// A window on the tables of one extent.
pub struct Tables<'a> {
    /// Directory and table of four-byte entries; and the redundant ones.
    short: [[TableCache<'a, 4>; 2]; 2],
    long: [TableCache<'a, 8>; 2],
    /// End of the file, of an image that may be damaged: what refers to a place behind it is wrong, and the redundant
    /// tables are asked.
    bound: Option<FileOffset>,
    /// Data and holes of the file.
    runs: RunMap<'a>,
}

impl<'a> Tables<'a> {
    /// Nothing is read yet; `len`: of the file, which may be damaged.
    pub fn new(source: &'a dyn Source, device: DeviceId, len: u64, damaged: bool) -> Self {
        let short = || [TableCache::new(source, device), TableCache::new(source, device)];
        Self {
            runs: RunMap::new(source, device, len),
            short: [short(), short()],
            long: [TableCache::new(source, device), TableCache::new(source, device)],
            bound: damaged.then_some(FileOffset::new(len)),
        }
    }

    /// The table that maps the grain, if there is one. `redundant`: as the second directory has it.
    fn table(&mut self, grains: &Grains, number: u64, redundant: bool) -> Result<Option<Span>> {
        let index = number / grains.table;
        let offset = match grains.entries {
            Entries::Sectors { .. } => {
                let [short, _] = self.short_of(redundant);
                let entry = short.entry(grains.directory, index)?.map_or(0, u32::from_le_bytes);
                (entry != 0).then(|| sector_at(u64::from(entry)))
            }
            Entries::Numbers { tables, .. } => {
                const IS_TABLE: u64 = 0x1000_0000_0000_0000;
                let entry = self.long[0].entry(grains.directory, index)?.map_or(0, u64::from_le_bytes);
                if entry != 0 && entry & 0xffff_ffff_0000_0000 != IS_TABLE {
                    return Err(Error::malformed("Input/output error"));
                }
                let number = entry & 0xffff_ffff;
                (entry != 0).then(|| tables.saturating_add(number.saturating_mul(grains.table * 8)))
            }
        };
        if let Some(offset) = offset {
            held(self.bound, offset)?;
        }
        Ok(offset.map(|offset| Span { offset, count: grains.table }))
    }

    const fn short_of(&mut self, redundant: bool) -> &mut [TableCache<'a, 4>; 2] {
        let [first, second] = &mut self.short;
        if redundant { second } else { first }
    }

    fn grain(entries: Entries, grain: u64, entry: u64) -> Result<Grain> {
        Ok(match entries {
            Entries::Sectors { zeroes } => match entry {
                0 => Grain::None,
                _ if entry == u64::from(ZERO_GRAIN) && zeroes => Grain::Zero,
                _ => Grain::At(sector_at(entry)),
            },
            Entries::Numbers { grains, .. } => match entry >> 60 {
                0 => Grain::None,
                1 | 2 => Grain::Zero,
                3 => {
                    let number = (entry & 0x0fff_0000_0000_0000) >> 48 | (entry & 0x0000_ffff_ffff_ffff) << 12;
                    Grain::At(grains.saturating_add(number.saturating_mul(grain)))
                }
                _ => return Err(Error::malformed("Input/output error")),
            },
        })
    }

    /// The extent at byte `at` of the part, at most `max` bytes.
    pub fn extent(&mut self, part: &Part, at: u64, max: u64) -> Result<Extent> {
        let left = part.len.saturating_sub(at).min(max);
        let Part { device, content, .. } = *part;
        let grains = match content {
            Content::Flat(offset) => {
                let offset = offset.saturating_add(at);
                let run = self.runs.run(offset)?;
                let place = match run.data {
                    true => Place::Data { device, offset },
                    false => Place::Zero { at: Some((device, offset)) },
                };
                return Ok(Extent { at, len: left.min(run.len.max(1)), place });
            }
            Content::Zero => return Ok(Extent { at, len: left, place: Place::Zero { at: None } }),
            Content::Grains(grains) => grains,
        };
        match (self.in_grains(part, &grains, at, left, false), grains.second) {
            (Err(error), Some(directory)) if self.bound.is_some() => {
                let redundant = Grains { directory, ..grains };
                self.in_grains(part, &redundant, at, left, true).map_err(|_| error)
            }
            (found, _) => found,
        }
    }

    fn in_grains(&mut self, part: &Part, grains: &Grains, at: u64, left: u64, redundant: bool) -> Result<Extent> {
        let (device, bound) = (part.device, self.bound);
        let (number, skip) = (at / grains.grain, at % grains.grain);
        let Some(table) = self.table(grains, number, redundant)? else {
            let reach = grains.table.saturating_mul(grains.grain);
            return Ok(Extent { at, len: (reach - at % reach).min(left), place: Place::Unallocated });
        };
        let first = number % grains.table;
        let mut short = [].iter();
        let mut long = [].iter();
        match grains.entries {
            Entries::Sectors { .. } => {
                let [_, pieces] = self.short_of(redundant);
                short = pieces.from(table, first)?.iter();
            }
            Entries::Numbers { .. } => long = self.long[1].from(table, first)?.iter(),
        }
        let mut next = || {
            short
                .next()
                .map(|e| u64::from(u32::from_le_bytes(*e)))
                .or_else(|| long.next().map(|e| u64::from_le_bytes(*e)))
        };
        let here = Self::grain(grains.entries, grains.grain, next().unwrap_or(0))?;
        let left = match here {
            Grain::At(offset) if grains.compressed.is_some() => held(bound, offset).map(|_| left)?,
            Grain::At(offset) => held(bound, offset.saturating_add(skip))?.min(left),
            Grain::None | Grain::Zero => left,
        };
        let mut len = grains.grain - skip;
        if let (Grain::At(offset), Some(markers)) = (&here, grains.compressed) {
            // How long it is stands before it: at most where the next one begins.
            let most = 2 * grains.grain + if markers { MARKER as u64 } else { 0 };
            let behind = next().and_then(|e| sector_at(e).checked_since(*offset)).filter(|n| *n > 0);
            // The last grain may be stored as far as the disk reaches only.
            let unit = grains.grain.min(part.len.saturating_sub(at - skip));
            let compressed = Compressed { device, offset: *offset, len: behind.unwrap_or(most).min(most), unit, skip };
            return Ok(Extent { at, len: len.min(left), place: Place::Compressed(compressed) });
        }
        // As long as the same goes on.
        let mut count = 1u64;
        while len < left {
            let Some(entry) = next() else { break };
            // A bad entry is reported when it is its turn.
            let goes_on = match (&here, Self::grain(grains.entries, grains.grain, entry)) {
                (Grain::None, Ok(Grain::None)) | (Grain::Zero, Ok(Grain::Zero)) => true,
                (Grain::At(a), Ok(Grain::At(b))) => a.saturating_add(count.saturating_mul(grains.grain)) == b,
                _ => false,
            };
            if !goes_on {
                break;
            }
            count += 1;
            len = len.saturating_add(grains.grain);
        }
        let place = match here {
            Grain::None => Place::Unallocated,
            Grain::Zero => Place::Zero { at: None },
            Grain::At(offset) => Place::Data { device, offset: offset.saturating_add(skip) },
        };
        Ok(Extent { at, len: len.min(left), place })
    }
}
