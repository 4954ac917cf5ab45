//! What a format implements.

use alloc::boxed::Box;
use alloc::string::String;

use crate::machine::Opener;
use crate::options::OptionSpec;
use crate::{Ability, Creator, DeviceId, Error, Image, Machine, Purpose, Quirk, Result, Source, Version};

/// What probing may look at.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The first bytes of the file, up to [`crate::limits::PROBE_HEAD`].
    pub head: &'a [u8],
    /// Length of the file in bytes.
    pub len: u64,
    /// Its name, as the user or the image gave it.
    pub name: &'a [u8],
}

/// A check that keeps an image from reaching outside itself, by name: each format lists its own, or says
/// that it needs none. A test asserts that no format leaves the question open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafetyCheck {
    /// The format names no other file and has no table: nothing to check. The reason.
    NoneNeeded(&'static str),
    /// What is checked, in a few words.
    Checked(&'static str),
    /// Images of this format are refused. The reason.
    Banned(&'static str),
}

/// What an image is opened with. `'a` is the machine's lifetime; what has `'n` must be copied to be kept.
#[derive(Clone, Copy)]
pub struct OpenContext<'a, 'n> {
    /// All devices, to read.
    pub source: &'a dyn Source,
    /// Opens what the image names besides its backing file (data file, extents); `None` where no file but this one is to be
    /// looked at.
    pub opener: Option<&'a dyn Opener>,
    /// The device that the image is on.
    pub device: DeviceId,
    /// The file's name as the user or the referring image gave it.
    pub name: &'n [u8],
    /// Whose behaviour.
    pub version: Version,
    /// What for.
    pub purpose: Purpose<'a>,
    /// Driver options of `--image-opts` below the format level (`data-file.filename=..`), key and value.
    pub options: &'n [(String, String)],
}

impl<'a, 'n> OpenContext<'a, 'n> {
    /// No file but this one is looked at, and the user has said nothing of it.
    pub fn alone(
        source: &'a dyn Source,
        device: DeviceId,
        name: &'n [u8],
        version: Version,
        purpose: Purpose<'a>,
    ) -> Self {
        Self { source, opener: None, device, name, version, purpose, options: &[] }
    }
}

impl PartialEq for dyn Format {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// A format: one crate, one static, one line in the registry.
pub trait Format: Sync {
    /// Its name, as qemu-img spells it.
    fn name(&self) -> &'static str;

    /// How surely the file is of this format: 0 no, 100 yes, as qemu-img scores.
    fn probe(&self, probe: &Probe<'_>) -> u32;

    /// Parses and validates, as strictly as the purpose wants it.
    fn open<'a>(&self, _cx: OpenContext<'a, '_>) -> Result<Box<dyn Image + 'a>> {
        Err(Error::unsupported(alloc::format!("instar cannot read the {} format", self.name())))
    }

    /// Makes an image sound again that was not closed, whatever it is opened for; says nothing. Cut anywhere, it is to be
    /// done again. Called before an image is opened to be written to. `lower`: it is open to be read already, by one above
    /// it.
    fn recover(&self, _machine: &dyn Machine, _cx: &OpenContext<'_, '_>, _lower: bool) -> Result<()> {
        Ok(())
    }

    /// What can be done with its images that the stock tool cannot do.
    fn extensions(&self) -> &'static [Ability] {
        &[]
    }

    /// What sets its images apart from those of other formats.
    fn quirks(&self) -> &'static [Quirk] {
        &[]
    }

    /// The checks that keep its images in their place. Never empty.
    fn safety(&self) -> &'static [SafetyCheck];

    /// The options of `create -o` and `convert -o`, in the order of `-o help`.
    fn create_options(&self) -> &'static [OptionSpec] {
        &[]
    }

    /// How the line "Formatting .." of `create` shows the options: their order (which is not that of `-o help`), and
    /// the values of those that have a default. What is not listed follows, last what the file below it is made
    /// with. `preallocation` is listed by a format that knows more of it than that file does.
    fn shown_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        &[]
    }

    /// Makes images of this format. `None`: it is only read.
    fn creator(&self) -> Option<&dyn Creator> {
        None
    }
}
