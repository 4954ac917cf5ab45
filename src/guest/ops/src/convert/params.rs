//! The command's parameters.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use instar_image::format::SnapshotSelector;
use instar_image::options::{Options, split};
use instar_image::{Backing, DeviceId, Error, Result, Value};

use super::section::Section;
use crate::copy::Settings;
use crate::open::ImageSpec;

/// See `commands::convert` in the host half, which makes them.
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
    /// `-o help`
    pub option_help: bool,
    /// `-B` and `-F`
    backing: Option<Vec<u8>>,
    backing_format: Option<String>,
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
    /// From the parameter tree.
    pub fn read(params: &Value) -> Result<Self> {
        let device = |n: u64| u32::try_from(n).map(DeviceId).map_err(|_| Error::usage("no such device"));
        let target = params.get("target").ok_or_else(|| Error::usage("convert without a target"))?;
        let option_help = params.flag("option-help");
        let mut target_map = target.clone();
        if option_help {
            target_map.set("device", 0u64);
        }
        Ok(Self {
            sources: params.list("sources").iter().map(ImageSpec::from_value).collect::<Result<_>>()?,
            target: ImageSpec::from_value(&target_map)?,
            data_device: target.u64("data-device").map(device).transpose()?,
            existing: target.flag("existing"),
            options: params
                .list("options")
                .iter()
                .filter_map(|o| match o {
                    Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                    _ => None,
                })
                .collect(),
            option_help,
            backing: params.bytes("backing").map(<[u8]>::to_vec),
            backing_format: params.text("backing-format").map(ToString::to_string),
            backing_image: params.get("backing-image").map(ImageSpec::from_value).transpose()?,
            snapshot: params.text("snapshot").map(selector),
            section: params.get("section").map(Section::read),
            bitmaps: params.flag("bitmaps").then(|| params.flag("skip-broken-bitmaps")),
            settings: Settings {
                sparse: params.u64("sparse").unwrap_or(4096),
                zeroed: target.flag("zeroed"),
                salvage: params.flag("salvage"),
                compress: params.flag("compress"),
                as_is: false,
            },
            program: params.text("program").unwrap_or_default().to_string(),
            quiet: params.flag("quiet"),
            steps: params.flag("steps"),
        })
    }

    /// `-B` says that the target stands on what the sources stand on.
    pub const fn shares_backing(&self) -> bool {
        self.backing.is_some()
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
