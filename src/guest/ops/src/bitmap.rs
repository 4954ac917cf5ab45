//! `bitmap`: persistent bitmaps are added, given up, cleared, switched and merged. How, the format knows.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_abi::ops::bitmap::{Bitmap, BitmapVerb};
use instar_image::chain::Layer;
use instar_image::machine::display_name;
use instar_image::{BitmapEditor, Changes, DirtyBitmap, Editor, Error, Image, Machine, Purpose, Result, Version};

use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening};
use crate::told::warn;

/// What a node is called that nobody has named; the stock tool numbers them at random.
const NODE: &str = "#block100";
/// Bytes that a bit stands for if nobody says how many: those of a cluster, within these bounds.
const GRANULARITY: core::ops::RangeInclusive<u64> = 4096..=65536;

/// Does what is asked for, in order; exit status 0. Of actions that fail, those before them are done.
pub fn run(machine: &dyn Machine, params: &Bitmap, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let opening = Opening { machine, version };
    let mut target = opening.image(&image, Purpose::Write(machine)).map_err(|e| image.could_not_open(e))?;
    warn(machine, target.image.warnings())?;
    tell_guessed(machine, &image, target.format)?;
    if let Some(text) = &params.source_error {
        return Err(Error::usage(text.as_str()));
    }
    let source = params.source.as_ref().map(ImageSpec::of);
    let source = source.map(|spec| opening.image(&spec, Purpose::Read).map_err(|e| spec.could_not_open(e)));
    let source = source.transpose()?;
    if let Some(source) = &source {
        warn(machine, source.image.warnings())?;
    }
    machine.seal()?;
    match target.image.begin(&Changes::default()).transpose() {
        Err(error) if target.image.bitmaps().is_some() => return Err(image.could_not_open(error)),
        // Of an image that cannot have any, only that is said.
        _ => {}
    }
    let work = Work {
        image: target.image.as_ref(),
        editor: target.image.editor().and_then(Editor::bitmaps),
        source: source.as_ref(),
        name: &params.name,
        granularity: params.granularity,
        version,
    };
    let done = params.actions.iter().try_for_each(|action| {
        let done = work.act(action.action, &action.from);
        done.map_err(|error| {
            let (verb, name) = (word(action.action), display_name(&params.name));
            error.context(format!("Operation {verb} on bitmap {name} failed"))
        })
    });
    let stored = work.editor.map_or(Ok(()), BitmapEditor::store);
    done.and(stored)?;
    Ok(0)
}

struct Work<'w> {
    image: &'w dyn Image,
    editor: Option<&'w dyn BitmapEditor>,
    source: Option<&'w Layer<'w>>,
    name: &'w [u8],
    granularity: Option<u64>,
    version: Version,
}

impl Work<'_> {
    fn act(&self, action: BitmapVerb, from: &[u8]) -> Result<()> {
        match action {
            BitmapVerb::Add => self.add(),
            BitmapVerb::Remove => self.found(self.name)?.0.remove(self.name),
            BitmapVerb::RemoveAll => {
                let list = self.list();
                self.editor.map_or(Ok(()), |editor| list.iter().try_for_each(|bitmap| editor.remove(&bitmap.name)))
            }
            BitmapVerb::Clear => self.usable(self.name)?.clear(self.name),
            BitmapVerb::Enable => self.usable(self.name)?.set_auto(self.name, true),
            BitmapVerb::Disable => self.usable(self.name)?.set_auto(self.name, false),
            BitmapVerb::Merge => self.merge(from),
        }
    }

    fn list(&self) -> Vec<DirtyBitmap> {
        self.editor.map(BitmapEditor::list).unwrap_or_default()
    }

    fn found(&self, name: &[u8]) -> Result<(&dyn BitmapEditor, DirtyBitmap)> {
        let bitmap = find(&self.list(), name)?.1;
        self.editor.map(|editor| (editor, bitmap)).ok_or_else(|| missing(name))
    }

    fn usable(&self, name: &[u8]) -> Result<&dyn BitmapEditor> {
        let (editor, bitmap) = self.found(name)?;
        check_usable(&bitmap)?;
        Ok(editor)
    }

    fn add(&self) -> Result<()> {
        let name = self.name;
        if name.is_empty() {
            return Err(Error::usage("Bitmap name cannot be empty"));
        }
        let usual =
            || self.image.cluster_size().unwrap_or(*GRANULARITY.end()).clamp(*GRANULARITY.start(), *GRANULARITY.end());
        let granularity = self.granularity.unwrap_or_else(usual);
        // Clusters of formats without bitmaps may be of any length.
        if self.granularity.is_some() && (!granularity.is_power_of_two() || granularity < 512) {
            return Err(Error::usage("Granularity must be power of 2 and at least 512"));
        }
        if self.list().iter().any(|bitmap| bitmap.name == name) {
            return Err(already_exists(name));
        }
        let Some(editor) = self.editor else {
            return Err(Error::unsupported(format!(
                "Can't store persistent bitmaps to {NODE}: Operation not supported"
            )));
        };
        let granularity_bits = granularity.trailing_zeros() as u8;
        let new = DirtyBitmap { name: name.to_vec(), granularity_bits, auto: true, inconsistent: false };
        let cannot = || format!("Can't make bitmap '{}' persistent in '{NODE}'", String::from_utf8_lossy(name));
        editor.add(&new).map_err(|e| e.context(cannot()))
    }

    fn merge(&self, from: &[u8]) -> Result<()> {
        let (editor, into) = self.found(self.name)?;
        let source = self.source.map(|layer| layer.image.as_ref());
        let bitmaps = source.unwrap_or(self.image).bitmaps();
        // What was done to those of the same image counts, though it is not in it yet.
        let list = match source {
            None => self.list(),
            Some(_) => bitmaps.map(|bitmaps| bitmaps.list()).unwrap_or_default(),
        };
        let (index, bitmap) = find(&list, from)?;
        check_usable(&bitmap)?;
        let (to, size) = (self.image.virtual_size(), source.map(Image::virtual_size));
        check_sizes(to, size.unwrap_or(to), self.version)?;
        check_usable(&into)?;
        if source.is_none() && from == self.name {
            return Ok(());
        }
        let bitmaps = bitmaps.ok_or_else(|| missing(from))?;
        let index = if source.is_none() { find(&bitmaps.list(), from)?.0 } else { index };
        editor.merge(self.name, bitmaps, index)
    }
}

const fn word(action: BitmapVerb) -> &'static str {
    match action {
        BitmapVerb::Add => "add",
        BitmapVerb::Remove => "remove",
        BitmapVerb::RemoveAll => "remove-all",
        BitmapVerb::Clear => "clear",
        BitmapVerb::Enable => "enable",
        BitmapVerb::Disable => "disable",
        BitmapVerb::Merge => "merge",
    }
}

fn missing(name: &[u8]) -> Error {
    Error::usage(format!("Dirty bitmap '{}' not found", String::from_utf8_lossy(name)))
}

fn find(list: &[DirtyBitmap], name: &[u8]) -> Result<(usize, DirtyBitmap)> {
    let mut numbered = list.iter().cloned().enumerate();
    numbered.find(|(_, bitmap)| bitmap.name == name).ok_or_else(|| missing(name))
}

/// There is one of that name.
pub fn already_exists(name: &[u8]) -> Error {
    Error::usage(format!("Bitmap already exists: {}", String::from_utf8_lossy(name)))
}

/// Bits of disks of these sizes in bytes can be put together.
pub fn check_sizes(to: u64, from: u64, version: Version) -> Result<()> {
    if to == from {
        return Ok(());
    }
    if version == Version::V5_2 {
        return Err(Error::usage("Bitmaps are incompatible and can't be merged"));
    }
    Err(Error::usage(format!(
        "Bitmaps are of different sizes (destination size is {to}, source size is {from}) and can't be merged"
    )))
}

fn check_usable(bitmap: &DirtyBitmap) -> Result<()> {
    if !bitmap.inconsistent {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "Bitmap '{}' is inconsistent and cannot be used\nTry block-dirty-bitmap-remove to delete this bitmap from disk",
        String::from_utf8_lossy(&bitmap.name)
    )))
}
