//! `commit`: what an overlay (and the images between) holds goes into an image below it.
//!
//! The overlay shows the same all the time: it still holds everything while the lower image is being written, and is emptied
//! only when that is stable.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use instar_abi::ops::commit::Commit;
use instar_image::chain::Chain;
use instar_image::machine::display_name;
use instar_image::names::{combine, without_file};
use instar_image::write::{Target, Writer};
use instar_image::{
    Ability, EditContext, Editor, Error, Kind, Machine, Preallocation, ResizeContext, Result, Version, allowed,
};

use crate::copy::plan::Planner;
use crate::copy::progress::Progress;
use crate::copy::{self, Selection, Settings};
use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening};
use crate::resize;

/// Runs of zeroes of so many bytes become zero clusters.
const SPARSE: u64 = 4096;

/// Commits; exit status 0.
pub fn run(machine: &dyn Machine, params: &Commit, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let base = params.base.as_deref().map(|name| fold(&without_file(&combine(&image.name, name))));
    let is_base = |depth: usize, name: &[u8]| match &base {
        Some(base) => fold(name) == *base,
        None => depth == 1,
    };
    let opening = Opening { machine, version, data: true };
    let mut chain = opening.chain_for(&image, &|depth, name| depth == 0 || is_base(depth, name))?;
    if let Some(top) = chain.layers.first() {
        tell_guessed(machine, &image, top.format)?;
    }
    let depth = chain.layers.iter().enumerate().skip(1).find(|(depth, layer)| is_base(*depth, &layer.name));
    let depth = match (depth, &params.base) {
        (Some((depth, _)), _) => depth,
        (None, None) => return Err(Error::usage("Image does not have a backing file")),
        (None, Some(name)) => {
            let (name, top) = (display_name(name), display_name(&image.written));
            return Err(Error::usage(format!("Did not find '{name}' in the backing chain of '{top}'")));
        }
    };
    let keeps = params.drop || params.base.is_some();
    let options = image.options_at(depth);
    let writer = editor(machine, &chain, depth, &options, version)?;
    let top = if keeps { None } else { Some(editor(machine, &chain, 0, &image.options_at(0), version)?) };
    machine.seal()?;
    let size = chain.virtual_size();
    let writer = if writer.virtual_size() < size {
        drop(writer);
        grow(opening, &mut chain, depth, size, &options)?;
        editor(machine, &chain, depth, &options, version)?
    } else {
        writer
    };
    copy_down(machine, chain, depth, writer.as_ref())?;
    if let Some(top) = top {
        match top.empty() {
            // What cannot be emptied stays as it is: it shows the same.
            Err(error) if error.kind == Kind::Unsupported => {}
            other => other.map_err(|e| e.context(format!("Could not empty {}", display_name(&image.written))))?,
        }
    }
    Ok(0)
}

fn editor<'a>(
    machine: &'a dyn Machine,
    chain: &Chain<'_>,
    depth: usize,
    options: &[(String, String)],
    version: Version,
) -> Result<Box<dyn Editor + 'a>> {
    let layer = chain.layers.get(depth).ok_or_else(|| Error::corrupt("no such layer"))?;
    let name = layer.format.name();
    let editing = layer.format.editing().ok_or_else(|| {
        Error::unsupported(format!("Could not open '{}': Operation not supported", display_name(&layer.name)))
            .with_hint(format!("images of the format {name} cannot be changed in place"))
    })?;
    let cx = EditContext {
        machine,
        device: layer.device,
        name: &layer.name,
        version,
        changes_content: depth > 0,
        keeps_identity: depth
            .checked_sub(1)
            .and_then(|above| chain.layers.get(above))
            .is_some_and(|above| above.format == layer.format),
        backing: None,
        compressed: false,
        options,
    };
    editing.edit(cx).map_err(|e| e.context(format!("Could not open '{}'", display_name(&layer.name))))
}

/// Makes the lower image as large as the upper one, and looks at it anew.
fn grow<'a>(
    opening: Opening<'a>,
    chain: &mut Chain<'a>,
    depth: usize,
    size: u64,
    options: &[(String, String)],
) -> Result<()> {
    let layer = chain.layers.get(depth).ok_or_else(|| Error::corrupt("no such layer"))?;
    let may = allowed(layer.format, Ability::Resize, opening.machine.source());
    let resizer = layer.format.resizer().filter(|_| may).ok_or_else(|| {
        let name = layer.format.name();
        Error::unsupported("Block job failed: Operation not supported")
            .with_hint(format!("images of the format {name} keep their size"))
    })?;
    let tail = resize::tail(opening.machine, chain, depth)?;
    let resized = resizer.resize(ResizeContext {
        machine: opening.machine,
        device: layer.device,
        driver_options: options,
        name: &layer.name,
        size,
        at_least: true,
        preallocation: Preallocation::Off,
        backing_len: chain.layers.get(depth + 1).map(|l| l.image.virtual_size()),
        tail: &tail,
        version: opening.version,
    });
    resized.map_err(|error| match error.kind {
        Kind::Unsupported => {
            Error::new(error.kind, "Block job failed: Operation not supported").with_hint(error.message)
        }
        _ => error.context("Block job failed"),
    })?;
    let format = Some(layer.format.name().to_string());
    let opened = ImageSpec::opened(layer.device, layer.name.clone(), layer.name.clone(), format);
    let spec = ImageSpec { options: options.to_vec(), ..opened };
    let (image, _) = opening.image_for(&spec, true)?;
    if let Some(layer) = chain.layers.get_mut(depth) {
        layer.image = image;
    }
    Ok(())
}

fn copy_down(machine: &dyn Machine, chain: Chain<'_>, depth: usize, writer: &dyn Editor) -> Result<()> {
    let size = chain.virtual_size();
    let rest = match writer.target() {
        Target::Allocated { unit, .. } => size.next_multiple_of(unit).min(writer.virtual_size()) - size,
        Target::Linear { .. } | Target::LinearEncrypted { .. } => 0,
    };
    let chains = [chain];
    let settings = Settings { sparse: SPARSE, zeroed: false, salvage: false, compress: false, as_is: true };
    let progress = Progress::new(machine, size);
    let selection = Selection::Layers(depth);
    let planner = Planner::new(machine.source(), &chains, writer.target(), settings, selection, (size, rest));
    let writer: &dyn Writer = writer;
    copy::run(machine, &chains, writer, &planner, settings, &progress)?;
    writer.finish()?;
    progress.end_counted();
    Ok(())
}

/// Folds `.` and `..` and doubled slashes by the letters alone.
fn fold(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let start: &[u8] = if name.starts_with(b"/") { b"/" } else { b"" };
    [start, &parts.join(&b'/')].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_by_their_letters() {
        assert_eq!(fold(b"./a//b/../c"), b"a/c");
        assert_eq!(fold(b"/x/./y"), b"/x/y");
        assert_eq!(fold(b"../a"), b"../a");
    }
}
