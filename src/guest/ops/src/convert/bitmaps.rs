//! `--bitmaps`: the source's persistent bitmaps go into the finished target.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::{Changes, DirtyBitmap, Editor, Error, Image, Machine, Purpose, Result, Version};

use crate::bitmap::{already_exists, check_sizes};
use crate::open::{ImageSpec, Opening};
use crate::told::warn;

/// Which bitmaps of the source go into the target, by their numbers.
pub struct Wanted(Vec<usize>);

fn text(bitmap: &DirtyBitmap) -> String {
    String::from_utf8_lossy(&bitmap.name).into_owned()
}

impl Wanted {
    /// Before anything is made. `skip_broken`: those that are inconsistent stay behind.
    pub fn choose(machine: &dyn Machine, chains: &[Chain<'_>], skip_broken: bool) -> Result<Self> {
        let [chain] = chains else {
            return Err(Error::usage("Copying bitmaps only possible with single source"));
        };
        let list = top(chain)?.bitmaps().ok_or_else(|| Error::usage("Source lacks bitmap support"))?.list();
        let mut wanted: Vec<usize> = Vec::new();
        let mut skipped: Vec<String> = Vec::new();
        // From the last to the first, as the stock tool looks at them.
        for (index, bitmap) in list.iter().enumerate().rev() {
            if !bitmap.inconsistent {
                wanted.insert(0, index);
            } else if skip_broken {
                skipped.push(format!("Skipping inconsistent bitmap '{}'", text(bitmap)));
            } else {
                return Err(Error::usage(format!(
                    "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' \
                     to delete it",
                    text(bitmap)
                )));
            }
        }
        warn(machine, skipped)?;
        Ok(Self(wanted))
    }

    /// Copies them into the target, which holds the disk already.
    pub fn copy(&self, machine: &dyn Machine, chain: &Chain<'_>, target: &ImageSpec, version: Version) -> Result<()> {
        let source = top(chain)?;
        let bitmaps = source.bitmaps().ok_or_else(|| Error::usage("Source lacks bitmap support"))?;
        // Nothing of its disk is looked at: no key is needed, and no data file.
        let mut target = Opening { machine, version }.image(target, Purpose::WriteMetadata(machine))?;
        target.image.begin(&Changes::default()).transpose()?;
        let editor = target.image.editor().and_then(Editor::bitmaps);
        let editor = editor.ok_or_else(|| unsupported(target.format.name()))?;
        let list = bitmaps.list();
        let list: Vec<(usize, &DirtyBitmap)> = self.0.iter().filter_map(|i| Some((*i, list.get(*i)?))).collect();
        let there = editor.list();
        let failed = |bitmap: &DirtyBitmap, what: &str| format!("Failed to {what} bitmap {}", text(bitmap));
        if let Some((_, bitmap)) = list.iter().rfind(|(_, new)| there.iter().any(|old| old.name == new.name)) {
            return Err(already_exists(&bitmap.name).context(failed(bitmap, "create")));
        }
        if let Some((_, last)) = list.last() {
            check_sizes(target.image.virtual_size(), source.virtual_size(), version)
                .map_err(|e| e.context(failed(last, "populate")))?;
        }
        for (index, bitmap) in list {
            editor.add(bitmap).map_err(|e| e.context(failed(bitmap, "create")))?;
            editor.merge(&bitmap.name, bitmaps, index)?;
        }
        editor.store()
    }
}

fn top<'c>(chain: &'c Chain<'_>) -> Result<&'c dyn Image> {
    chain.layers.first().map(|layer| layer.image.as_ref()).ok_or_else(|| Error::usage("convert without a source"))
}

/// The target cannot have bitmaps.
pub fn unsupported(format: &str) -> Error {
    Error::usage(format!("Format driver '{format}' does not support bitmaps"))
}
