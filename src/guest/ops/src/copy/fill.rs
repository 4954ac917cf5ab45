//! Reading a job's parts into memory: plain and encrypted extents straight to their place, compressed ones by way of
//! their stored bytes, all in one crossing.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::{Error, Kind, Packed, Place, Read, Result, Source, Unpacker};

use super::plan::Part;

/// Bytes that are given up together when a source cannot be read (`--salvage`).
const SALVAGE_UNIT: usize = 4096;
const EIO: u32 = 5;
/// Bytes to be filled.
pub struct Area<'b> {
    /// What they consist of; gaps stay as they are.
    pub parts: &'b [Part],
    /// Their first one, in the target.
    pub base: u64,
    /// They.
    pub buf: &'b mut [u8],
}

/// One worker's buffers and decompressors, used again for every job.
pub struct Filler<'a> {
    chains: &'a [Chain<'a>],
    source: &'a dyn Source,
    unpackers: Vec<Vec<Option<Box<dyn Unpacker + 'a>>>>,
    stored: Vec<u8>,
    unit: Vec<u8>,
    salvage: bool,
}

/// What is said of the bytes from `at` on.
pub fn unreadable(at: u64, error: &Error) -> Error {
    // Whatever is wrong with compressed data, qemu-img calls it an input/output error.
    let text = if matches!(error.kind, Kind::Io(_)) { error.message.as_str() } else { "Input/output error" };
    Error::new(Kind::Io(EIO), format!("error while reading at byte {at}: {text}"))
}

impl<'a> Filler<'a> {
    /// Nothing is allocated yet.
    pub fn new(chains: &'a [Chain<'a>], source: &'a dyn Source, salvage: bool) -> Self {
        let unpackers = chains.iter().map(|c| c.layers.iter().map(|_| None).collect()).collect();
        Self { chains, source, unpackers, stored: Vec::new(), unit: Vec::new(), salvage }
    }

    /// Fills `buf`, which stands for the target's bytes from `base` on, from `parts`.
    pub fn fill(&mut self, parts: &[Part], base: u64, buf: &mut [u8]) -> Result<()> {
        self.fill_all(&mut [Area { parts, base, buf }])
    }

    /// Fills several areas, reading in one crossing.
    pub fn fill_all(&mut self, areas: &mut [Area<'_>]) -> Result<()> {
        let stored_len: usize = areas.iter().flat_map(|a| packed(a.parts)).map(|(_, p)| p.len as usize).sum();
        if self.stored.len() < stored_len {
            self.stored.resize(stored_len, 0);
        }
        let result = self.read(areas);
        if let Err(error) = result {
            if !self.salvage {
                let first = areas.iter().find_map(|a| a.parts.first()).map_or(0, |p| p.at);
                return Err(unreadable(first, &error));
            }
            self.read_what_can_be(areas);
        }
        let mut stored = 0;
        for area in areas {
            stored = self.unpack(area, stored)?;
            self.decrypt(area)?;
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
                    Place::Packed(packed) => {
                        let (bytes, after) = stored.split_at_mut(packed.len as usize);
                        stored = after;
                        reads.push(Read { device: packed.device, offset: packed.offset, buf: bytes });
                    }
                    Place::Zero { .. } | Place::Unallocated => here.fill(0),
                    Place::Encrypted { device, offset } => {
                        let unit = unpacker(self.chains, &mut self.unpackers, part)?.unit();
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

    /// `--salvage`: a little at a time, zeroes where nothing comes.
    fn read_what_can_be(&mut self, areas: &mut [Area<'_>]) {
        for area in &mut *areas {
            for part in area.parts {
                let (Place::Data { device, offset } | Place::Encrypted { device, offset }) = part.extent.place else {
                    continue;
                };
                let start = (part.at - area.base) as usize;
                let here = area.buf.get_mut(start..start + part.extent.len as usize).unwrap_or_default();
                for (i, piece) in here.chunks_mut(SALVAGE_UNIT).enumerate() {
                    if self.source.read(device, offset + (i * SALVAGE_UNIT) as u64, piece).is_err() {
                        piece.fill(0);
                    }
                }
            }
        }
        let mut at = 0;
        for (_, unit) in areas.iter().flat_map(|a| packed(a.parts)) {
            let bytes = self.stored.get_mut(at..at + unit.len as usize).unwrap_or_default();
            if self.source.read(unit.device, unit.offset, bytes).is_err() {
                bytes.fill(0);
            }
            at += unit.len as usize;
        }
    }

    /// Decrypts what was read in place, and reads what is not whole units.
    fn decrypt(&mut self, area: &mut Area<'_>) -> Result<()> {
        let Area { parts, base, buf } = area;
        for part in *parts {
            let Place::Encrypted { device, offset } = part.extent.place else { continue };
            let start = (part.at - *base) as usize;
            let here = buf.get_mut(start..start + part.extent.len as usize).unwrap_or_default();
            let unpacker = unpacker(self.chains, &mut self.unpackers, part)?;
            let unit = unpacker.unit();
            let result = if in_units(offset, here.len(), unit) {
                unpacker.decrypt(part.extent.at, offset, here)
            } else {
                let skip = offset % unit;
                let len = (skip + here.len() as u64).next_multiple_of(unit);
                self.unit.clear();
                self.unit.resize(len as usize, 0);
                let read = self.source.read(device, offset - skip, &mut self.unit);
                let done = read.and_then(|()| {
                    unpacker.decrypt(part.extent.at.saturating_sub(skip), offset - skip, &mut self.unit)
                });
                let from = skip as usize;
                here.copy_from_slice(self.unit.get(from..from + here.len()).unwrap_or_default());
                done
            };
            match result {
                Err(error) if !self.salvage => return Err(unreadable(part.at, &error)),
                Err(_) => here.fill(0),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// `at`: where its stored bytes begin. Returns where the next area's do.
    fn unpack(&mut self, area: &mut Area<'_>, mut at: usize) -> Result<usize> {
        let Area { parts, base, buf } = area;
        for (part, unit) in packed(parts) {
            let stored = self.stored.get(at..at + unit.len as usize).unwrap_or_default();
            at += unit.len as usize;
            let start = (part.at - *base) as usize;
            let here = buf.get_mut(start..start + part.extent.len as usize).unwrap_or_default();
            let unpacker = unpacker(self.chains, &mut self.unpackers, part)?;
            let result = if unit.skip == 0 && here.len() as u64 == unit.unit {
                unpacker.unpack(&unit, stored, here)
            } else {
                if self.unit.len() != unit.unit as usize {
                    self.unit = vec![0; unit.unit as usize];
                }
                unpacker.unpack(&unit, stored, &mut self.unit).map(|()| {
                    let from = unit.skip as usize;
                    here.copy_from_slice(self.unit.get(from..from + here.len()).unwrap_or_default());
                })
            };
            match result {
                Err(error) if !self.salvage => return Err(unreadable(part.at, &error)),
                Err(_) => here.fill(0),
                Ok(()) => {}
            }
        }
        Ok(at)
    }
}

/// The unpacker of the image that the part is of, made when it is first needed.
fn unpacker<'u, 'a>(
    chains: &'a [Chain<'a>],
    unpackers: &'u mut [Vec<Option<Box<dyn Unpacker + 'a>>>],
    part: &Part,
) -> Result<&'u mut (dyn Unpacker + 'a)> {
    let none = || Error::corrupt("compressed or encrypted data in a format that has none");
    let slot = unpackers.get_mut(part.source).and_then(|layers| layers.get_mut(part.depth)).ok_or_else(none)?;
    let layer = chains.get(part.source).and_then(|chain| chain.layers.get(part.depth)).ok_or_else(none)?;
    if slot.is_none() {
        *slot = layer.image.unpacker();
    }
    Ok(slot.as_mut().ok_or_else(none)?.as_mut())
}

/// Whether a range is made of whole sectors, as encryption has them.
fn in_units(offset: u64, len: usize, unit: u64) -> bool {
    offset.is_multiple_of(unit) && (len as u64).is_multiple_of(unit)
}

/// Reads what layer `depth` of a chain shows at `at`.
pub fn read_at(source: &dyn Source, chain: &Chain<'_>, depth: usize, at: u64, buf: &mut [u8]) -> Result<()> {
    let (mut parts, mut done) = (Vec::new(), 0);
    while done < buf.len() as u64 {
        let (depth, extent) = chain.extent_below(depth, at + done, buf.len() as u64 - done)?;
        if extent.len == 0 {
            return Err(Error::corrupt("an extent without a byte"));
        }
        let extent = chain.readable(depth, extent)?;
        parts.push(Part { source: 0, depth, at: at + done, extent, work: true });
        done += extent.len;
    }
    Filler::new(core::slice::from_ref(chain), source, false).fill(&parts, at, buf)
}

/// The compressed parts with their units.
fn packed(parts: &[Part]) -> impl Iterator<Item = (&Part, Packed)> {
    parts.iter().filter_map(|part| match part.extent.place {
        Place::Packed(unit) => Some((part, unit)),
        _ => None,
    })
}
