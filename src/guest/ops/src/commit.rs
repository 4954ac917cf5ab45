//! `commit`: what an overlay (and the images between) holds goes into an image below it.
//!
//! The overlay shows the same all the time: it still holds everything while the lower image is being written, and is emptied
//! only when that is stable.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_abi::ops::commit::Commit;
use instar_image::chain::Chain;
use instar_image::machine::display_name;
use instar_image::names::{combine, without_file};
use instar_image::write::Target;
use instar_image::{Changes, Editor, Error, Image, Kind, Machine, Purpose, Result, Version};

use crate::copy::plan::Planner;
use crate::copy::progress::Progress;
use crate::copy::{self, Disks, Selection, Settings};
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
    let opening = Opening { machine, version };
    let purpose = |depth: usize, name: &[u8]| {
        if depth == 0 || is_base(depth, name) { Purpose::Write(machine) } else { Purpose::Read }
    };
    let mut chain = opening.chain(&image, &purpose).map_err(|e| image.could_not_open(e))?;
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
    begin(&mut chain, depth)?;
    if !keeps {
        begin(&mut chain, 0)?;
    }
    machine.seal()?;
    let size = chain.virtual_size();
    if chain.layers.get(depth).is_some_and(|base| base.image.virtual_size() < size) {
        grow(opening, &mut chain, depth, size, &options)?;
        begin(&mut chain, depth)?;
    }
    copy_down(machine, &chain, depth)?;
    let top = chain.layers.first().filter(|_| !keeps).and_then(|top| top.image.editor());
    // What cannot be emptied stays as it is: it shows the same.
    if let Some(emptying) = top.and_then(Editor::emptying) {
        emptying.empty().map_err(|e| e.context(format!("Could not empty {}", display_name(&image.written))))?;
    }
    Ok(0)
}

/// Begins to change one of the images.
fn begin(chain: &mut Chain<'_>, depth: usize) -> Result<()> {
    let above = depth.checked_sub(1).and_then(|above| chain.layers.get(above)).map(|above| above.format);
    let layer = chain.layers.get_mut(depth).ok_or_else(|| Error::corrupt("no such layer"))?;
    let keeps_identity = above.is_some_and(|above| above == layer.format);
    let changes = Changes { content: depth > 0, keeps_identity, ..Changes::default() };
    let begun = layer.image.begin(&changes).ok_or_else(|| {
        Error::unsupported(format!("Could not open '{}': Operation not supported", display_name(&layer.name)))
            .with_hint(format!("images of the format {} cannot be changed in place", layer.format.name()))
    })?;
    begun.map_err(|e| e.context(format!("Could not open '{}'", display_name(&layer.name))))
}

/// Makes the lower image as large as the upper one, and looks at it anew.
fn grow<'a>(
    opening: Opening<'a>,
    chain: &mut Chain<'a>,
    depth: usize,
    size: u64,
    options: &[(String, String)],
) -> Result<()> {
    resize::own_end(opening.machine, chain, depth, size)?;
    resize::to_size(opening, chain, depth, size, options).map_err(|error| match error.kind {
        Kind::Unsupported => {
            Error::new(error.kind, "Block job failed: Operation not supported").with_hint(error.message)
        }
        _ => error.context("Block job failed"),
    })
}

fn copy_down(machine: &dyn Machine, chain: &Chain<'_>, depth: usize) -> Result<()> {
    let base = chain.layers.get(depth).map(|base| base.image.as_ref());
    let (Some(base), Some(writer)) = (base, base.and_then(Image::editor)) else {
        return Err(Error::corrupt("an image that is not being changed"));
    };
    let size = chain.virtual_size();
    let rest = match writer.target() {
        Target::Allocated { unit, .. } => size.next_multiple_of(unit).min(base.virtual_size()) - size,
        Target::Linear { .. } | Target::LinearEncrypted { .. } => 0,
    };
    let disks = Disks { target: Some(chain), ..Disks::of(chain) };
    let settings = Settings { sparse: SPARSE, as_is: true, ..Settings::IN_PLACE };
    let progress = Progress::new(machine, size);
    let selection = Selection::Layers(depth);
    let planner = Planner::new(machine, disks, writer.target(), settings, selection, (size, rest));
    copy::run(machine, writer, &planner, settings, &progress)?;
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
