//! Reading a job's parts into memory: plain and encrypted extents straight to their place, compressed ones by way of
//! their stored bytes, all in one crossing.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::damage::Damage;
use instar_image::error::Stage;
use instar_image::walk::walk;
use instar_image::{Compressed, Decoder, Error, FileOffset, Kind, Place, Read, Result, Source};

use super::Disks;
use super::losses::{Cause, Losses};
use super::plan::Part;

const EIO: u32 = 5;

/// Bytes to be filled.
pub struct Area<'b> {
    /// What they consist of; gaps stay as they are.
    pub parts: &'b [Part],
    /// Their first one, in the target.
    pub base: u64,
    /// Where they go.
    pub buf: &'b mut [u8],
}

/// One worker's buffers and decompressors, used again for every job.
pub struct Filler<'a> {
    disks: Disks<'a>,
    source: &'a dyn Source,
    decoders: Vec<Vec<Option<Box<dyn Decoder + 'a>>>>,
    stored: Vec<u8>,
    unit: Vec<u8>,
    /// Where what cannot be read is remembered; `None`: it is an error.
    losses: Option<&'a Losses>,
    /// What could not be read of the areas at hand.
    gaps: Gaps,
}

/// What could not be read of the parts of some areas, counted through all areas.
#[derive(Default)]
struct Gaps {
    /// Of plain and encrypted parts.
    plain: Vec<(usize, Damage)>,
    /// Of the stored bytes of compressed parts: how many there are before the first that is lost.
    stored: Vec<(usize, usize)>,
}

impl Gaps {
    fn stored(&self, part: usize) -> usize {
        self.stored.iter().find(|(number, _)| *number == part).map_or(usize::MAX, |(_, len)| *len)
    }
}

/// What is said of bytes that cannot be had: whatever is wrong with compressed data, qemu-img calls it an input/output
/// error.
fn as_io(error: &Error) -> Error {
    if matches!(error.kind, Kind::Io(_)) { error.clone() } else { Error::new(Kind::Io(EIO), "Input/output error") }
}

/// What is said of the bytes from `at` on.
pub fn unreadable(at: u64, error: &Error) -> Error {
    as_io(error).during(Stage::Read(at))
}

/// The same without saying where.
pub fn reason(error: &Error) -> Error {
    as_io(error).bare()
}

impl<'a> Filler<'a> {
    /// Nothing is allocated yet.
    pub fn new(disks: Disks<'a>, source: &'a dyn Source, losses: Option<&'a Losses>) -> Self {
        let chains = disks.sources.iter().chain(disks.target);
        let decoders = chains.map(|c| c.layers.iter().map(|_| None).collect()).collect();
        Self { disks, source, decoders, stored: Vec::new(), unit: Vec::new(), losses, gaps: Gaps::default() }
    }

    /// Fills `buf`, which stands for the target's bytes from `base` on, from `parts`.
    pub fn fill(&mut self, parts: &[Part], base: u64, buf: &mut [u8]) -> Result<()> {
        self.fill_all(&mut [Area { parts, base, buf }])
    }

    /// Fills several areas, reading in one crossing.
    pub fn fill_all(&mut self, areas: &mut [Area<'_>]) -> Result<()> {
        let stored_len: usize = areas.iter().flat_map(|a| compressed(a.parts)).map(|(_, p)| p.len as usize).sum();
        if self.stored.len() < stored_len {
            self.stored.resize(stored_len, 0);
        }
        self.gaps = Gaps::default();
        if let Err(error) = self.read(areas) {
            if self.losses.is_none() {
                let first = areas.iter().find_map(|a| a.parts.first()).map_or(0, |p| p.at);
                return Err(unreadable(first, &error));
            }
            self.read_what_can_be(areas);
        }
        let (mut stored, mut number) = (0, 0);
        for area in areas {
            stored = self.decompress(area, stored, number)?;
            self.decrypt(area)?;
            self.leave_gaps(area, number)?;
            number += area.parts.len();
        }
        Ok(())
    }

    fn read(&mut self, areas: &mut [Area<'_>]) -> Result<()> {
        let mut reads = Vec::with_capacity(areas.iter().map(|a| a.parts.len()).sum());
        let mut stored = self.stored.as_mut_slice();
        for area in areas {
            let mut rest = &mut *area.buf;
            let mut at = area.base;
            for part in area.parts {
                let (gap, len) = ((part.at - at) as usize, part.extent.len as usize);
                let (_, after) = rest.split_at_mut(gap.min(rest.len()));
                let (here, after) = after.split_at_mut(len.min(after.len()));
                (rest, at) = (after, part.at + part.extent.len);
                match part.extent.place {
                    Place::Data { device, offset } => reads.push(Read { device, offset, buf: here }),
                    Place::Compressed(compressed) => {
                        let (bytes, after) = stored.split_at_mut(compressed.len as usize);
                        stored = after;
                        reads.push(Read { device: compressed.device, offset: compressed.offset, buf: bytes });
                    }
                    Place::Zero { .. } | Place::Unallocated => here.fill(0),
                    Place::Encrypted { device, offset } => {
                        let unit = decoder(self.disks, &mut self.decoders, part)?.unit();
                        // Else it is read with the whole of its units when it is decrypted.
                        if in_units(offset, here.len(), unit) {
                            reads.push(Read { device, offset, buf: here });
                        }
                    }
                }
            }
        }
        if reads.is_empty() { Ok(()) } else { self.source.read_many(&mut reads) }
    }

    /// `--salvage`: each part by itself, those that are broken sector by sector.
    fn read_what_can_be(&mut self, areas: &mut [Area<'_>]) {
        let source = self.source;
        let read = |device, offset: FileOffset| {
            move |skip: usize, buf: &mut [u8]| source.read(device, offset.saturating_add(skip as u64), buf)
        };
        let (mut number, mut stored) = (0, 0);
        for area in areas {
            for part in area.parts {
                match part.extent.place {
                    Place::Data { device, offset } | Place::Encrypted { device, offset } => {
                        let start = (part.at - area.base) as usize;
                        let here = area.buf.get_mut(start..start + part.extent.len as usize).unwrap_or_default();
                        let damage = Damage::read(part.extent.at, here, read(device, offset));
                        if !damage.lost().is_empty() {
                            self.gaps.plain.push((number, damage));
                        }
                    }
                    Place::Compressed(unit) => {
                        let bytes = self.stored.get_mut(stored..stored + unit.len as usize).unwrap_or_default();
                        stored += unit.len as usize;
                        let damage = Damage::read(unit.offset.get(), bytes, read(unit.device, unit.offset));
                        if let Some(lost) = damage.lost().first() {
                            self.gaps.stored.push((number, lost.start));
                        }
                    }
                    Place::Zero { .. } | Place::Unallocated => {}
                }
                number += 1;
            }
        }
    }

    /// Zeroes for what could not be read in place, where it is encrypted for all that is encrypted with it. `number`: of
    /// the area's first part.
    fn leave_gaps(&mut self, area: &mut Area<'_>, number: usize) -> Result<()> {
        let Some(losses) = self.losses else { return Ok(()) };
        for (number, damage) in self.gaps.plain.iter().map(|(at, damage)| (at.wrapping_sub(number), damage)) {
            let (Some(part), Some(error)) = (area.parts.get(number), damage.error()) else { continue };
            let start = (part.at - area.base) as usize;
            let here = area.buf.get_mut(start..start + part.extent.len as usize).unwrap_or_default();
            let unit = match part.extent.place {
                Place::Encrypted { .. } => decoder(self.disks, &mut self.decoders, part)?.unit() as usize,
                _ => 1,
            };
            for lost in damage.lost() {
                let end = lost.end.next_multiple_of(unit).min(here.len());
                let start = lost.start / unit * unit;
                here.get_mut(start..end).unwrap_or_default().fill(0);
                losses.add(part.source, part.extent.at + start as u64, (end - start) as u64, Cause::Bytes, error);
            }
        }
        Ok(())
    }

    /// Decrypts what was read in place, and reads what is not whole units.
    fn decrypt(&mut self, area: &mut Area<'_>) -> Result<()> {
        let Area { parts, base, buf } = area;
        for part in *parts {
            let Place::Encrypted { device, offset } = part.extent.place else { continue };
            let start = (part.at - *base) as usize;
            let here = buf.get_mut(start..start + part.extent.len as usize).unwrap_or_default();
            let decoder = decoder(self.disks, &mut self.decoders, part)?;
            let unit = decoder.unit();
            let result = if in_units(offset, here.len(), unit) {
                decoder.decrypt(part.extent.at, offset, here)
            } else {
                let skip = offset % unit;
                let len = (skip + here.len() as u64).next_multiple_of(unit);
                self.unit.clear();
                self.unit.resize(len as usize, 0);
                let read = self.source.read(device, offset - skip, &mut self.unit);
                let done = read
                    .and_then(|()| decoder.decrypt(part.extent.at.saturating_sub(skip), offset - skip, &mut self.unit));
                let from = skip as usize;
                here.copy_from_slice(self.unit.get(from..from + here.len()).unwrap_or_default());
                done
            };
            if let Err(error) = result {
                give_up(self.losses, part, &error, here)?;
            }
        }
        Ok(())
    }

    /// `at`: where its stored bytes begin; `number`: of its first part. Returns where the next area's bytes do.
    fn decompress(&mut self, area: &mut Area<'_>, mut at: usize, number: usize) -> Result<usize> {
        let Area { parts, base, buf } = area;
        for (index, part) in parts.iter().enumerate() {
            let Place::Compressed(unit) = part.extent.place else { continue };
            // What could be read may be enough: how much is needed is known only once it is decompressed.
            let stored = self.stored.get(at..at + unit.len as usize).unwrap_or_default();
            let stored = stored.get(..self.gaps.stored(number + index)).unwrap_or(stored);
            at += unit.len as usize;
            let start = (part.at - *base) as usize;
            let here = buf.get_mut(start..start + part.extent.len as usize).unwrap_or_default();
            let decoder = decoder(self.disks, &mut self.decoders, part)?;
            let result = if unit.skip == 0 && here.len() as u64 == unit.unit {
                decoder.decompress(&unit, stored, here)
            } else {
                if self.unit.len() != unit.unit as usize {
                    self.unit = vec![0; unit.unit as usize];
                }
                decoder.decompress(&unit, stored, &mut self.unit).map(|()| {
                    let from = unit.skip as usize;
                    here.copy_from_slice(self.unit.get(from..from + here.len()).unwrap_or_default());
                })
            };
            if let Err(error) = result {
                give_up(self.losses, part, &error, here)?;
            }
        }
        Ok(at)
    }
}

/// A part whose bytes cannot be had: an error, or zeroes.
fn give_up(losses: Option<&Losses>, part: &Part, error: &Error, here: &mut [u8]) -> Result<()> {
    let Some(losses) = losses else { return Err(unreadable(part.at, error)) };
    here.fill(0);
    losses.add(part.source, part.extent.at, part.extent.len, Cause::Bytes, &as_io(error));
    Ok(())
}

/// The decoder of the image that the part is of, made when it is first needed.
fn decoder<'u, 'a>(
    disks: Disks<'a>,
    decoders: &'u mut [Vec<Option<Box<dyn Decoder + 'a>>>],
    part: &Part,
) -> Result<&'u mut (dyn Decoder + 'a)> {
    let none = || Error::corrupt("compressed or encrypted data in a format that has none");
    let slot = decoders.get_mut(part.source).and_then(|layers| layers.get_mut(part.depth)).ok_or_else(none)?;
    let layer = disks.get(part.source).and_then(|chain| chain.layers.get(part.depth)).ok_or_else(none)?;
    if slot.is_none() {
        *slot = layer.image.decoder();
    }
    Ok(slot.as_mut().ok_or_else(none)?.as_mut())
}

/// Whether a range is made of whole sectors, as encryption has them.
fn in_units(offset: FileOffset, len: usize, unit: u64) -> bool {
    offset.is_multiple_of(unit) && (len as u64).is_multiple_of(unit)
}

/// The parts of the `len` bytes that layer `depth` of a chain shows at `at`.
pub fn parts_of(chain: &Chain<'_>, depth: usize, at: u64, len: u64) -> Result<Vec<Part>> {
    let found = walk(at..at.saturating_add(len), |at, max| {
        let (depth, extent) = chain.extent_below(depth, at, max)?;
        let extent = chain.readable(depth, extent)?;
        Ok(Part { source: 0, depth, at, extent, work: true })
    });
    found.collect()
}

/// Reads what layer `depth` of a chain shows at `at`.
pub fn read_at(source: &dyn Source, chain: &Chain<'_>, depth: usize, at: u64, buf: &mut [u8]) -> Result<()> {
    let parts = parts_of(chain, depth, at, buf.len() as u64)?;
    Filler::new(Disks::of(chain), source, None).fill(&parts, at, buf)
}

/// The compressed parts with their units.
fn compressed(parts: &[Part]) -> impl Iterator<Item = (&Part, Compressed)> {
    parts.iter().filter_map(|part| match part.extent.place {
        Place::Compressed(unit) => Some((part, unit)),
        _ => None,
    })
}
