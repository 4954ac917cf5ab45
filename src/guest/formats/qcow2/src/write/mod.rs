//! Making qcow2 images.
//!
//! What the options mean is in [`spec`], what the header looks like in [`header`], who counts references in
//! [`refcounts`]. Writers: [`clusters`] allocates as data comes; [`linear`] and [`reserved`] have every cluster in its
//! place from the start (preallocation, raw data file), in one piece or in several. An image without data is laid out
//! by [`fresh`]; encryption is in [`sealed`]. What changes an image that is there is in
//! [`crate::edit`].

mod clusters;
mod fresh;
mod header;
mod linear;
mod measure;
mod reserved;
mod sealed;
mod spec;

use alloc::boxed::Box;

use instar_crypto::qcow::Method;
use instar_image::options::{OptionKind, OptionSpec};
use instar_image::write::Encrypter;
use instar_image::{CreateContext, Creator, DeviceId, FileOffset, Machine, Measure, Measured, Result, Writer};

use crate::layout::{L1_ENTRY, OFLAG_COPIED};
use sealed::Sealed;
use spec::{Preallocation, Spec};

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
    OptionSpec::new("backing_fmt", OptionKind::Text, "Image format of the base image"),
    OptionSpec::new("cluster_size", OptionKind::Size, "qcow2 cluster size"),
    OptionSpec::new("compat", OptionKind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    OptionSpec::new("compression_type", OptionKind::Text, "Compression method used for image cluster compression"),
    OptionSpec::new("data_file", OptionKind::Text, "File name of an external data file"),
    OptionSpec::new("data_file_raw", OptionKind::Bool, "The external data file must stay valid as a raw image"),
    OptionSpec::new("encrypt.cipher-alg", OptionKind::Text, "Name of encryption cipher algorithm"),
    OptionSpec::new("encrypt.cipher-mode", OptionKind::Text, "Name of encryption cipher mode"),
    OptionSpec::new("encrypt.format", OptionKind::Text, "Encrypt the image, format choices: 'aes', 'luks'"),
    OptionSpec::new("encrypt.hash-alg", OptionKind::Text, "Name of encryption hash algorithm"),
    OptionSpec::new("encrypt.iter-time", OptionKind::Number, "Time to spend in PBKDF in milliseconds"),
    OptionSpec::new("encrypt.ivgen-alg", OptionKind::Text, "Name of IV generator algorithm"),
    OptionSpec::new("encrypt.ivgen-hash-alg", OptionKind::Text, "Name of IV generator hash algorithm"),
    OptionSpec::new("encrypt.key-secret", OptionKind::Text, "ID of secret providing qcow AES key or LUKS passphrase"),
    OptionSpec::new(
        "encryption",
        OptionKind::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    OptionSpec::new("extended_l2", OptionKind::Bool, "Extended L2 tables"),
    OptionSpec::new("extent_size_hint", OptionKind::Size, "Extent size hint for the image file, 0 to disable"),
    OptionSpec::new(
        "keep_data_file",
        OptionKind::Bool,
        "Assume the external data file already exists and do not overwrite it",
    ),
    OptionSpec::new("lazy_refcounts", OptionKind::Bool, "Postpone refcount updates"),
    OptionSpec::new("nocow", OptionKind::Bool, "Turn off copy-on-write (valid only on btrfs)"),
    OptionSpec::new(
        "preallocation",
        OptionKind::Text,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    OptionSpec::new("refcount_bits", OptionKind::Number, "Width of a reference count entry in bits"),
    OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
];

/// The options in the order of "Formatting ..", and what they are if nothing is said.
pub const SHOWN: &[(&str, Option<&str>)] = &[
    ("encryption", None),
    ("encrypt.format", None),
    ("encrypt.key-secret", None),
    ("encrypt.cipher-alg", None),
    ("encrypt.cipher-mode", None),
    ("encrypt.ivgen-alg", None),
    ("encrypt.ivgen-hash-alg", None),
    ("encrypt.hash-alg", None),
    ("encrypt.iter-time", None),
    ("cluster_size", Some("65536")),
    ("extended_l2", Some("off")),
    ("preallocation", None),
    ("compression_type", Some("zlib")),
    ("keep_data_file", None),
    ("size", None),
    ("compat", None),
    ("backing_file", None),
    ("backing_fmt", None),
    ("data_file", None),
    ("data_file_raw", None),
    ("lazy_refcounts", Some("off")),
    ("refcount_bits", Some("16")),
];

/// Makes them.
pub struct Qcow2Creator;

impl Creator for Qcow2Creator {
    fn measure(&self, cx: &CreateContext<'_, '_>, source: Option<&dyn Measured>) -> Option<Result<Measure>> {
        Some(measure::measure(cx, source))
    }

    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx, Method::read(cx.options)?)?;
        // What the header cannot hold is told before anything is made.
        header::encode(&spec, header::Tables::default())?;
        let sealed = Sealed::new(&cx, &spec)?;
        let image = NewImage { machine: cx.machine, device: cx.device, data: cx.data_device, spec, sealed };
        let spec = &image.spec;
        let one_piece = match spec.preallocation {
            Preallocation::Off => return Ok(Box::new(clusters::Clusters::new(image))),
            Preallocation::Metadata => spec.data_file.is_some(),
            Preallocation::Falloc | Preallocation::Full => true,
        };
        let layout = fresh::Layout::new(spec)?;
        if one_piece && !spec.extended_l2 {
            Ok(Box::new(linear::Linear::new(image, layout)?))
        } else {
            Ok(Box::new(reserved::Reserved::new(image, layout)?))
        }
    }
}

/// An image in the making.
struct NewImage<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    /// The external data file.
    data: Option<DeviceId>,
    spec: Spec,
    /// Its encryption.
    sealed: Option<Sealed>,
}

impl NewImage<'_> {
    fn encrypter(&self) -> Option<&dyn Encrypter> {
        self.sealed.as_ref().map(Sealed::encrypter)
    }
}

/// An L1 entry for a table at `offset`.
const fn l1_entry(offset: FileOffset) -> u64 {
    offset.get() | OFLAG_COPIED
}

/// Bytes of the L1 table in the file.
fn l1_bytes(spec: &Spec) -> u64 {
    spec.l1_entries.saturating_mul(L1_ENTRY)
}
