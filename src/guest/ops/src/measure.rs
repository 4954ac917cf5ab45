//! `measure`: how large a file an image would need.

use instar_abi::ops::measure::{Measure, MeasureResults, Sizes};
use instar_image::chain::Chain;
use instar_image::walk::walk;
use instar_image::{Backing, Bitmaps, CreateContext, DeviceId, Error, Machine, Measured, Result, Version};

use crate::convert::selector;
use crate::create::texts;
use crate::open::{ImageSpec, Opening, select_snapshot};
use crate::option_help;
use crate::stored::{DATA, PRESENT, Stored, ZERO};
use crate::told::tell;

/// QEMU counts disks in sectors of this many bytes.
const SECTOR: u64 = 512;

/// Measures; exit status 0. The sizes are told.
pub fn run(machine: &dyn Machine, params: &Measure, version: Version) -> Result<u8> {
    let mut chain = match &params.image {
        Some(image) => Some(Opening { machine, version }.to_read(&ImageSpec::of(image))?),
        None => None,
    };
    if let (Some(wanted), Some(chain)) = (&params.snapshot, &mut chain) {
        select_snapshot(chain, &selector(wanted))?;
    }
    let format = option_help::format_named(&params.format)?;
    let creator = option_help::creator_of(format)?;
    let options = option_help::parse(format, &texts(&params.options)?, version).map_err(|error| {
        Error::usage(alloc::format!("Invalid options for file format '{}'", format.name())).after(error.message)
    })?;
    machine.seal()?;
    let size = chain.as_ref().map_or_else(|| params.size.unwrap_or(0), Chain::virtual_size);
    let size = size.checked_next_multiple_of(SECTOR).ok_or_else(|| Error::limit("File too large"))?;
    let backing = options.get("backing_file").map(|name| Backing { name: name.as_bytes().to_vec(), format: None });
    let cx = CreateContext {
        machine,
        device: DeviceId(0),
        name: b"",
        parent: None,
        data_device: None,
        size,
        options: &options,
        backing,
        compressed: false,
        version,
    };
    let source = match &chain {
        Some(chain) => Some(Source { chain, stored: Stored::of(machine, chain)? }),
        None => None,
    };
    let measured = creator.measure(&cx, source.as_ref().map(|source| source as &dyn Measured)).ok_or_else(|| {
        Error::unsupported(alloc::format!("Block driver '{}' does not support size measurement", format.name()))
    })?;
    let instar_image::Measure { required, fully_allocated, bitmaps } = measured?;
    tell(machine, MeasureResults { sizes: Some(Sizes { bitmaps, required, fully_allocated }) })?;
    Ok(0)
}

struct Source<'a> {
    chain: &'a Chain<'a>,
    stored: Stored<'a>,
}

impl Measured for Source<'_> {
    fn data(&self, unit: u64) -> Result<u64> {
        let size = self.chain.virtual_size();
        let mut data = 0u64;
        let units = walk(0..size, |at, max| {
            let mut entry = self.stored.entry(at, max)?;
            if entry.bits & (DATA | PRESENT | ZERO) == DATA | PRESENT {
                let end = at.saturating_add(entry.len).div_ceil(unit).saturating_mul(unit);
                data = data.saturating_add(end - at / unit * unit);
                entry.len = end - at;
            }
            Ok(entry)
        });
        let failed = units.filter_map(Result::err).next();
        match failed {
            Some(_) => Err(Error::malformed("Unable to get block status")),
            None => Ok(data),
        }
    }

    fn bitmaps(&self) -> Option<&dyn Bitmaps> {
        self.chain.layers.first().and_then(|layer| layer.image.bitmaps())
    }
}
