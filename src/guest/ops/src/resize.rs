//! `resize`: another size for the disk, in place.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use instar_abi::ops::resize::{Relative, Resize, ResizeResults};
use instar_image::chain::Chain;
use instar_image::sealed;
use instar_image::write::{Piece, Target};
use instar_image::{Ability, Changes, Error, Machine, NewSize, Preallocation, Purpose, Result, Version, allowed};

use crate::copy::fill::read_at;
use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening};
use crate::told::tell;

/// Where QEMU's block layer ends, in bytes.
const SIZE_MAX: u64 = (1 << 63) - (1 << 30);

/// Resizes; exit status 0.
pub fn run(machine: &dyn Machine, params: &Resize, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let preallocation = params.preallocation.as_deref().and_then(Preallocation::by_name).unwrap_or_default();
    let purpose = |depth, _: &[u8]| if depth == 0 { Purpose::Write(machine) } else { Purpose::Read };
    let chain = Opening { machine, version }.chain(&image, &purpose);
    let mut chain = chain.map_err(|e| image.could_not_open(e))?;
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
    let cannot = || {
        Error::unsupported("Image format driver does not support resize")
            .with_hint(format!("images of the format {} keep their size", format.name()))
    };
    if !may || chain.layers.first().is_none_or(|top| top.image.resizing().is_none()) {
        return Err(cannot());
    }
    machine.seal()?;
    own_end(machine, &mut chain, 0, size)?;
    let backing_len = chain.layers.get(1).map(|l| l.image.virtual_size());
    let resizing = chain.layers.first().and_then(|top| top.image.resizing()).ok_or_else(cannot)?;
    resizing.resize(&NewSize { size, at_least: false, preallocation, backing_len })?;
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

/// Where the backing file of layer `depth` is longer than that one, and would show behind its old end: the unit that the end
/// is in becomes the image's own, with what it shows.
pub fn own_end(machine: &dyn Machine, chain: &mut Chain<'_>, depth: usize, size: u64) -> Result<()> {
    let len = |depth: usize| chain.layers.get(depth).map_or(0, |l| l.image.virtual_size());
    let (old, below) = (len(depth), len(depth + 1));
    if size <= old || below <= old || old == 0 {
        return Ok(());
    }
    let Some(layer) = chain.layers.get_mut(depth) else { return Ok(()) };
    if layer.image.editor().is_none() {
        layer.image.begin(&Changes::default()).transpose()?;
    }
    let Some(editor) = chain.layers.get(depth).and_then(|layer| layer.image.editor()) else { return Ok(()) };
    let Target::Allocated { unit, .. } = editor.target() else { return Ok(()) };
    if old.is_multiple_of(unit) || editor.own(old - 1, 1)?.is_some() {
        return Ok(());
    }
    let mut bytes = vec![0; (old % unit) as usize];
    let start = old - bytes.len() as u64;
    read_at(machine.source(), chain, depth, start, &mut bytes)?;
    let mut steps = Vec::new();
    editor.place(start, Piece::Data(&bytes), &mut steps)?;
    sealed::submit(machine, steps, editor.encrypter())?;
    editor.settle()
}

/// Gives the image of layer `depth` that size, and opens it anew. `options`: the user's, of that image.
pub fn to_size<'a>(
    opening: Opening<'a>,
    chain: &mut Chain<'a>,
    depth: usize,
    size: u64,
    options: &[(String, String)],
) -> Result<()> {
    let backing_len = chain.layers.get(depth + 1).map(|l| l.image.virtual_size());
    let layer = chain.layers.get(depth).ok_or_else(|| Error::corrupt("no such layer"))?;
    let may = allowed(layer.format, Ability::Resize, opening.machine.source());
    let resizing = layer.image.resizing().filter(|_| may);
    let resizing = resizing
        .ok_or_else(|| Error::unsupported(format!("images of the format {} keep their size", layer.format.name())))?;
    resizing.resize(&NewSize { size, at_least: true, preallocation: Preallocation::Off, backing_len })?;
    open_anew(opening, chain, depth, options)
}

/// Opens the image of layer `depth` anew, to be written to.
pub fn open_anew<'a>(
    opening: Opening<'a>,
    chain: &mut Chain<'a>,
    depth: usize,
    options: &[(String, String)],
) -> Result<()> {
    let layer = chain.layers.get_mut(depth).ok_or_else(|| Error::corrupt("no such layer"))?;
    let format = Some(layer.format.name().to_string());
    let opened = ImageSpec::opened(layer.device, layer.name.clone(), layer.name.clone(), format);
    let spec = ImageSpec { options: options.to_vec(), ..opened };
    layer.image = opening.image(&spec, Purpose::Write(opening.machine))?.image;
    Ok(())
}
