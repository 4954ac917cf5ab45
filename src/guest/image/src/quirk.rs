//! What sets the images of a format apart from all others: each format lists its own in one table ([`Format::quirks`]), and
//! a command that has to know asks [`has`] for the quirk, never for a format's name.

use crate::chain::Layer;
use crate::format::Format;
use crate::options::{OptionSpec, Options};
use crate::version::Version;

/// A way in which a format, or the stock tool's driver of it, differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// Whatever is of no other format is of this one, so that one that was only guessed is warned of.
    Fallback,
    /// It is no format of images: QEMU's driver of the files that they are in.
    FileDriver,
    /// Its images can have a backing file.
    Backs,
    /// Its images can hold compressed units.
    Compresses,
    /// Its images can hold snapshots.
    HoldsSnapshots,
    /// Its new images can hold persistent bitmaps, but not with that option of `create -o` at one of these values.
    HoldsBitmapsUnless(&'static str, &'static [&'static str]),
    /// These options of its images can be changed.
    Amends(&'static [OptionSpec]),
    /// Its images are read while another program writes to them: their file holds nothing but the disk's bytes.
    SharedWithWriters,
    /// Its images are in several files, which are opened whatever the command wants of them.
    SeveralFiles,
    /// A colon in the name of a backing file is a part of it, `file:` in front excepted.
    BackingIsFile,
    /// The driver takes a backing file from the command line, though nothing makes images that have one.
    BackingOnlyByOption,
    /// An image can say of its backing file only that it is of one of these formats; of others, readers find out
    /// themselves.
    BackingFormats(&'static [&'static str]),
    /// `create` has words of its own for a backing format that nobody knows.
    OwnWordsForBackingFormat,
    /// `create -o` has this option only from that release on: it is younger than the format itself.
    OptionSince(&'static str, Version),
    /// `info`: the driver tells nothing of itself, so that `dirty-flag` is not shown; `rebase` (10.0) refuses its images.
    NoDriverInfo,
    /// `info`: the cluster size is that of the image that this one lies in, if it lies in one.
    ClusterSizeOfFile,
    /// `map`, `measure`: the driver does not tell where anything is, so that all of the disk is data without a place.
    NoBlockStatus,
    /// `map`: what reads as zeroes and has a place is stored.
    StoredZeroes,
    /// `map`: what lies in another image is told of as that one tells it.
    StatusOfFile,
    /// `compare -s`: the driver tells of no more than one cluster at once.
    StatusByCluster,
}

/// Whether the format has that quirk.
#[must_use]
pub fn has(format: &dyn Format, quirk: Quirk) -> bool {
    format.quirks().contains(&quirk)
}

/// Those options of a format's images that can be changed ([`Quirk::Amends`]); `None`: none of them can.
#[must_use]
pub fn amends(format: &dyn Format) -> Option<&'static [OptionSpec]> {
    format.quirks().iter().find_map(|quirk| match quirk {
        Quirk::Amends(options) => Some(*options),
        _ => None,
    })
}

/// Whether an image that is made with these options can hold persistent bitmaps.
#[must_use]
pub fn holds_bitmaps(format: &dyn Format, options: &Options) -> bool {
    format.quirks().iter().any(|quirk| match quirk {
        Quirk::HoldsBitmapsUnless(name, values) => !options.get(name).is_some_and(|value| values.contains(&value)),
        _ => false,
    })
}

/// Whether an image of `format` can say that its backing file is of the format called `backing`.
#[must_use]
pub fn can_name(format: &dyn Format, backing: &str) -> bool {
    format.quirks().iter().all(|quirk| match quirk {
        Quirk::BackingFormats(names) => names.contains(&backing),
        _ => true,
    })
}

/// Whether that release has the option called `name` of `create -o`.
#[must_use]
pub fn has_option(format: &dyn Format, name: &str, version: Version) -> bool {
    format.quirks().iter().all(|quirk| match quirk {
        Quirk::OptionSince(option, since) => *option != name || version >= *since,
        _ => true,
    })
}

/// [`Quirk::NoBlockStatus`] of an image: not of one that stands on another, which no such driver can read.
#[must_use]
pub fn hides_places(layer: &Layer<'_>) -> bool {
    has(layer.format, Quirk::NoBlockStatus) && layer.image.backing().is_none()
}

/// [`Quirk::StatusByCluster`] of an image: bytes in whose multiples is told where its data is.
#[must_use]
pub fn told_at_once(layer: Option<&Layer<'_>>) -> u64 {
    let by_cluster = layer.filter(|layer| has(layer.format, Quirk::StatusByCluster));
    by_cluster.and_then(|layer| layer.image.cluster_size()).unwrap_or(u64::MAX).max(1)
}
