//! The command's parameters, made ready for use.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use instar_abi::ops::convert::{Convert, TargetParams};
use instar_image::image::SnapshotSelector;
use instar_image::options::{Options, split};
use instar_image::{Backing, DeviceId};

use super::section::Section;
use crate::copy::Settings;
use crate::open::ImageSpec;

/// See [`Convert`].
pub struct Params {
    /// The images, to be put behind one another.
    pub sources: Vec<ImageSpec>,
    /// The target.
    pub target: ImageSpec,
    /// Its external data file.
    pub data_device: Option<DeviceId>,
    /// `-n`
    pub existing: bool,
    /// `-o`, each as given.
    pub options: Vec<String>,
    /// `-B` and `-F`
    backing: Option<Vec<u8>>,
    pub backing_format: Option<String>,
    /// That file, open.
    pub backing_image: Option<ImageSpec>,
    /// `-l`
    pub snapshot: Option<SnapshotSelector>,
    /// `dd`: which part of the source.
    pub section: Option<Section>,
    /// `--bitmaps`; with `--skip-broken-bitmaps`?
    pub bitmaps: Option<bool>,
    /// `-S`, `--target-is-zero`, `--salvage`, `-c`
    pub settings: Settings,
    /// The name that the program was called by.
    pub program: String,
    /// `-q`
    pub quiet: bool,
    /// `-p`
    pub steps: bool,
}

impl Params {
    /// From what the host sends.
    pub fn of(sent: &Convert, program: &str) -> Self {
        let TargetParams { image: target, data_device, existing, zeroed } = &sent.target;
        Self {
            sources: sent.sources.iter().map(ImageSpec::of).collect(),
            target: ImageSpec::of(target),
            data_device: data_device.map(DeviceId),
            existing: *existing,
            options: sent.options.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect(),
            backing: sent.backing.clone(),
            backing_format: sent.backing_format.clone(),
            backing_image: sent.backing_image.as_ref().map(ImageSpec::of),
            snapshot: sent.snapshot.as_deref().map(selector),
            section: sent.section.as_ref().map(Section::of_blocks),
            bitmaps: sent.bitmaps.then_some(sent.skip_broken_bitmaps),
            settings: Settings {
                sparse: sent.sparse,
                zeroed: *zeroed,
                salvage: sent.salvage,
                compress: sent.compress,
                as_is: false,
                ..Settings::IN_PLACE
            },
            program: program.to_string(),
            quiet: sent.quiet,
            steps: sent.steps,
        }
    }

    /// `-B` says that the target stands on what the sources stand on.
    pub const fn shares_backing(&self) -> bool {
        self.backing.is_some()
    }

    /// Whether the target's blocks are reserved before anything is written to them.
    pub fn reserves(&self) -> bool {
        let said = self.options.iter().flat_map(|text| split(text));
        said.into_iter().any(|(name, value)| name == "preallocation" && matches!(value.as_str(), "falloc" | "full"))
    }

    /// The backing file that the target is to name.
    pub fn backing(&self, options: &Options) -> Option<Backing> {
        let name = self.backing.clone().or_else(|| options.get("backing_file").map(|n| n.as_bytes().to_vec()))?;
        let format = self.backing_format.clone().or_else(|| options.get("backing_fmt").map(ToString::to_string));
        Some(Backing { name, format })
    }
}

/// `-l` takes a name or id, or `snapshot.id=..,snapshot.name=..`.
pub fn selector(text: &str) -> SnapshotSelector {
    if !text.starts_with("snapshot.") {
        return SnapshotSelector::IdOrName(text.as_bytes().to_vec());
    }
    let words = split(text);
    let part = |key: &str| words.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_bytes().to_vec());
    SnapshotSelector::Exact { id: part("snapshot.id"), name: part("snapshot.name") }
}
