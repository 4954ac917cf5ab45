//! `resize`: another size for the disk, in place.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::ops::resize::{Relative, Resize, ResizeResults};
use instar_image::chain::Chain;
use instar_image::{Ability, Error, Machine, Preallocation, ResizeContext, Result, Version, allowed};

use crate::copy::fill::read_at;
use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening};
use crate::told::tell;

/// The largest unit that a format has.
const UNIT_MAX: u64 = 2 << 20;

/// Where QEMU's block layer ends, in bytes.
const SIZE_MAX: u64 = (1 << 63) - (1 << 30);

/// Resizes; exit status 0.
pub fn run(machine: &dyn Machine, params: &Resize, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let preallocation = params.preallocation.as_deref().and_then(Preallocation::by_name).unwrap_or_default();
    let opening = Opening { machine, version, data: true };
    let chain = opening.chain_for(&image, &|depth, _| depth == 0)?;
    let format = chain.layers.first().map(|l| l.format).ok_or_else(|| Error::corrupt("a chain without an image"))?;
    tell_guessed(machine, &image, format)?;
    let old = chain.virtual_size();
    let size = new_size(params, old)?;
    if size <= old && preallocation != Preallocation::Off {
        return Err(Error::usage("Preallocation can only be used for growing images"));
    }
    if size < old && !params.shrink {
        tell(machine, ResizeResults { needs_shrink: true })?;
        return Ok(1);
    }
    if size > SIZE_MAX {
        return Err(Error::usage(match version {
            Version::V5_2 => "New image size must be positive".into(),
            _ => format!("offset({size}) exceeds maximum({SIZE_MAX})"),
        }));
    }
    let may = allowed(format, Ability::Resize, machine.source());
    let resizer = format.resizer().filter(|_| may).ok_or_else(|| {
        Error::unsupported("Image format driver does not support resize")
            .with_hint(format!("images of the format {} keep their size", format.name()))
    })?;
    let backing_len = chain.layers.get(1).map(|l| l.image.virtual_size());
    let tail = if size > old { tail(machine, &chain, 0)? } else { Vec::new() };
    machine.seal()?;
    resizer.resize(ResizeContext {
        machine,
        device: image.device,
        driver_options: &image.options_at(0),
        name: &image.name,
        size,
        at_least: false,
        preallocation,
        backing_len,
        tail: &tail,
        version,
    })?;
    Ok(0)
}

fn new_size(params: &Resize, old: u64) -> Result<u64> {
    let by = params.size;
    let size = match params.relative {
        Some(Relative::More) => old.checked_add(by),
        Some(Relative::Less) => old.checked_sub(by),
        None => Some(by),
    };
    let size = size.filter(|size| *size > 0 && i64::try_from(*size).is_ok());
    size.ok_or_else(|| Error::usage("New image size must be positive"))
}

/// The last bytes that layer `depth` of the chain shows, where the one below it is longer; see [`ResizeContext::tail`].
pub fn tail(machine: &dyn Machine, chain: &Chain<'_>, depth: usize) -> Result<Vec<u8>> {
    let size = |depth: usize| chain.layers.get(depth).map_or(0, |l| l.image.virtual_size());
    let len = size(depth) % UNIT_MAX;
    if size(depth + 1) <= size(depth) || len == 0 {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; len as usize];
    read_at(machine.source(), chain, depth, size(depth) - len, &mut bytes)?;
    Ok(bytes)
}
