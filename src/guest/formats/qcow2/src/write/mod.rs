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
use instar_image::options::{OptionKind, OptionSpec, Options};
use instar_image::write::Encrypter;
use instar_image::{CreateContext, Creator, DeviceId, Machine, Measure, Measured, Result, Writer};

use crate::layout::{L1_ENTRY, OFLAG_COPIED};
use sealed::Sealed;
use spec::{Preallocation, Spec};

pub const fn option(name: &'static str, kind: OptionKind, help: &'static str) -> OptionSpec {
    OptionSpec { name, kind, help }
}

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    option("backing_file", OptionKind::Text, "File name of a base image"),
    option("backing_fmt", OptionKind::Text, "Image format of the base image"),
    option("cluster_size", OptionKind::Size, "qcow2 cluster size"),
    option("compat", OptionKind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    option("compression_type", OptionKind::Text, "Compression method used for image cluster compression"),
    option("data_file", OptionKind::Text, "File name of an external data file"),
    option("data_file_raw", OptionKind::Bool, "The external data file must stay valid as a raw image"),
    option("encrypt.cipher-alg", OptionKind::Text, "Name of encryption cipher algorithm"),
    option("encrypt.cipher-mode", OptionKind::Text, "Name of encryption cipher mode"),
    option("encrypt.format", OptionKind::Text, "Encrypt the image, format choices: 'aes', 'luks'"),
    option("encrypt.hash-alg", OptionKind::Text, "Name of encryption hash algorithm"),
    option("encrypt.iter-time", OptionKind::Number, "Time to spend in PBKDF in milliseconds"),
    option("encrypt.ivgen-alg", OptionKind::Text, "Name of IV generator algorithm"),
    option("encrypt.ivgen-hash-alg", OptionKind::Text, "Name of IV generator hash algorithm"),
    option("encrypt.key-secret", OptionKind::Text, "ID of secret providing qcow AES key or LUKS passphrase"),
    option(
        "encryption",
        OptionKind::Bool,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    option("extended_l2", OptionKind::Bool, "Extended L2 tables"),
    option("extent_size_hint", OptionKind::Size, "Extent size hint for the image file, 0 to disable"),
    option("keep_data_file", OptionKind::Bool, "Assume the external data file already exists and do not overwrite it"),
    option("lazy_refcounts", OptionKind::Bool, "Postpone refcount updates"),
    option("nocow", OptionKind::Bool, "Turn off copy-on-write (valid only on btrfs)"),
    option("preallocation", OptionKind::Text, "Preallocation mode (allowed values: off, metadata, falloc, full)"),
    option("refcount_bits", OptionKind::Number, "Width of a reference count entry in bits"),
    option("size", OptionKind::Size, "Virtual disk size"),
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

    fn keeps_bitmaps(&self, options: &Options) -> bool {
        !matches!(options.get("compat"), Some("0.10" | "v2"))
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

/// An L1 entry for a table at byte `offset`.
const fn l1_entry(offset: u64) -> u64 {
    offset | OFLAG_COPIED
}

/// Bytes of the L1 table in the file.
fn l1_bytes(spec: &Spec) -> u64 {
    spec.l1_entries.saturating_mul(L1_ENTRY)
}
