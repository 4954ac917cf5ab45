//! `amend`: another version, another width of refcounts, and what else the header says.
//!
//! In the stock tool's order, one after the other: a later one that is refused leaves what was done before it.

mod version;
mod width;

use alloc::borrow::ToOwned;
use alloc::format;

use instar_crypto::luks::slots::{self, SlotChange};
use instar_crypto::qcow::{KEY_SECRET, PREFIX};
use instar_image::options::{OptionKind, OptionSpec, Options};
use instar_image::values;
use instar_image::{
    Amendment, Backing, Error, FileOffset, Machine, NewSize, Preallocation, Resizing, Result, Step, Version,
};

use crate::Qcow2Image;
use crate::edit::head::Head;
use crate::header::{Encryption, Header};
use crate::layout::{AUTOCLEAR_DATA_FILE_RAW, COMPATIBLE_LAZY_REFCOUNTS, REFCOUNT_ORDER_MAX, REFCOUNT_ORDER_V2, field};
use crate::window::Window;

/// What can be changed, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec::new("backing_file", OptionKind::Text, "File name of a base image"),
    OptionSpec::new("backing_fmt", OptionKind::Text, "Image format of the base image"),
    OptionSpec::new("compat", OptionKind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])"),
    OptionSpec::new("data_file", OptionKind::Text, "File name of an external data file"),
    OptionSpec::new("data_file_raw", OptionKind::Bool, "The external data file must stay valid as a raw image"),
    slots::OPTIONS_INSIDE[0],
    slots::OPTIONS_INSIDE[1],
    slots::OPTIONS_INSIDE[2],
    slots::OPTIONS_INSIDE[3],
    slots::OPTIONS_INSIDE[4],
    OptionSpec::new("lazy_refcounts", OptionKind::Bool, "Postpone refcount updates"),
    OptionSpec::new("refcount_bits", OptionKind::Number, "Width of a reference count entry in bits"),
    OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
];

/// See [`instar_image::Image::amend`].
pub fn run(image: &mut Qcow2Image<'_>, what: &Amendment<'_>) -> Result<()> {
    // What has begun is settled.
    image.editor = None;
    let machine = image.purpose.machine()?;
    let wanted = Wanted::read(image, what.options)?;
    if wanted.version > image.header.version {
        version::upgrade(image, machine)?;
        reread(image, what.version)?;
    }
    if slots::any_inside(what.options) {
        key_slots(image, machine, what)?;
    }
    if let Some(order) = wanted.order.filter(|order| *order != image.header.refcount_order) {
        if wanted.version < 3 && order != REFCOUNT_ORDER_V2 {
            return Err(Error::usage(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
            ));
        }
        width::change(image, machine, order)?;
    }
    data_file(image, machine, &wanted)?;
    backing(image, machine, &wanted, what)?;
    if let Some(lazy) = wanted.lazy {
        lazy_refcounts(image, machine, lazy, wanted.version)?;
    }
    if let Some(size) = wanted.size {
        resize(image, size, what)?;
    }
    if wanted.version < image.header.version {
        version::downgrade(image, machine, what.version)?;
    }
    Ok(())
}

struct Wanted<'o> {
    version: u32,
    order: Option<u32>,
    size: Option<u64>,
    backing: (Option<&'o str>, Option<&'o str>),
    data_file: Option<&'o str>,
    data_file_raw: Option<bool>,
    lazy: Option<bool>,
}

impl<'o> Wanted<'o> {
    /// Reads what the user said, and refuses what makes no sense.
    fn read(image: &Qcow2Image<'_>, said: &'o Options) -> Result<Self> {
        let boolean = |name: &str| said.get(name).map(|text| values::boolean(name, text)).transpose();
        if slots::any_inside(said) {
            check_encryption(image)?;
        }
        let version = match said.get("compat") {
            None => image.header.version,
            Some("0.10" | "v2") => 2,
            Some("1.1" | "v3") => 3,
            Some(other) => return Err(Error::usage(format!("Unknown compatibility level {other}"))),
        };
        let (data_file, data_file_raw) = (said.get("data_file"), boolean("data_file_raw")?);
        if data_file.is_some() && !image.geometry.external {
            return Err(Error::usage("data-file can only be set for images that use an external data file"));
        }
        if data_file_raw == Some(true) && image.header.autoclear & AUTOCLEAR_DATA_FILE_RAW == 0 {
            return Err(Error::usage("data-file-raw cannot be set on existing images"));
        }
        let order = said.get("refcount_bits").map(|text| -> Result<u32> {
            let bits = values::number("refcount_bits", text)?;
            let fits = bits.is_power_of_two() && bits.trailing_zeros() <= REFCOUNT_ORDER_MAX;
            let wrong = || Error::usage("Refcount width must be a power of two and may not exceed 64 bits");
            fits.then(|| bits.trailing_zeros()).ok_or_else(wrong)
        });
        Ok(Self {
            version,
            order: order.transpose()?,
            // (None is said by zero, as the stock tool has it.)
            size: said.get("size").map(|text| values::size("size", text)).transpose()?.filter(|size| *size != 0),
            backing: (said.get("backing_file"), said.get("backing_fmt")),
            data_file,
            data_file_raw,
            lazy: boolean("lazy_refcounts")?,
        })
    }
}

fn check_encryption(image: &Qcow2Image<'_>) -> Result<()> {
    match image.header.encryption {
        Encryption::None => Err(Error::usage("Can't amend encryption options - encryption not present")),
        Encryption::Aes => Err(Error::usage("Only LUKS encryption options can be amended")),
        Encryption::Luks => Ok(()),
    }
}

fn key_slots(image: &Qcow2Image<'_>, machine: &dyn Machine, what: &Amendment<'_>) -> Result<()> {
    let Some((header, offset, opener)) = &image.encryption.luks else { return Ok(()) };
    let room = image.extensions.crypto_header.map_or(0, |(_, len)| len);
    if header.payload() > room {
        return Err(Error::corrupt("the image is corrupt: key slots lie outside the LUKS header's place"));
    }
    let wanted = SlotChange::read(what.options, PREFIX, what.force)?;
    let opening = opener.password(machine.source(), KEY_SECRET)?;
    header.change_slots(machine, (image.device, *offset), opening, &wanted)
}

fn data_file(image: &mut Qcow2Image<'_>, machine: &dyn Machine, wanted: &Wanted<'_>) -> Result<()> {
    let is_raw = image.header.autoclear & AUTOCLEAR_DATA_FILE_RAW != 0;
    if wanted.data_file_raw == Some(false) && is_raw {
        image.header.autoclear &= !AUTOCLEAR_DATA_FILE_RAW;
        put(machine, image, field::AUTOCLEAR, image.header.autoclear)?;
    }
    if let Some(name) = wanted.data_file {
        let head = Head::read(machine, image.device, &image.header)?;
        head.with_data_file(name.as_bytes()).write(machine, image.device)?;
    }
    Ok(())
}

/// Releases before 6.1 name another backing file here, too.
fn backing(image: &Qcow2Image<'_>, machine: &dyn Machine, wanted: &Wanted<'_>, what: &Amendment<'_>) -> Result<()> {
    let (name, format) = wanted.backing;
    let old = image.backing.as_ref();
    let same_name = name.map(str::as_bytes) == old.map(|old| old.name.as_slice());
    if (name.is_none() && format.is_none()) || (same_name && format == old.and_then(|old| old.format.as_deref())) {
        return Ok(());
    }
    if what.version > Version::V5_2 {
        return Err(Error::usage("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead."));
    }
    (what.warn)("Deprecated use of amend to alter the backing file; use qemu-img rebase instead")?;
    let name = name.map(str::as_bytes).or_else(|| old.map(|old| old.name.as_slice())).unwrap_or_default();
    let format = format.or_else(|| old.and_then(|old| old.format.as_deref()));
    let new = (!name.is_empty()).then(|| Backing { name: name.to_vec(), format: format.map(ToOwned::to_owned) });
    let head = Head::read(machine, image.device, &image.header)?;
    head.with_backing(new.as_ref())?.write(machine, image.device)
}

fn lazy_refcounts(image: &mut Qcow2Image<'_>, machine: &dyn Machine, lazy: bool, version: u32) -> Result<()> {
    let old = image.header.compatible;
    let new = if lazy { old | COMPATIBLE_LAZY_REFCOUNTS } else { old & !COMPATIBLE_LAZY_REFCOUNTS };
    if new == old {
        return Ok(());
    }
    if lazy && version < 3 {
        return Err(Error::usage(
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
        ));
    }
    image.header.compatible = new;
    put(machine, image, field::COMPATIBLE, new)
}

fn resize(image: &mut Qcow2Image<'_>, size: u64, what: &Amendment<'_>) -> Result<()> {
    if i64::try_from(size).is_err() {
        return Err(Error::usage("Image size cannot be negative"));
    }
    let to = NewSize { size, at_least: false, preallocation: Preallocation::Off, backing_len: what.backing_len };
    Resizing::resize(image, &to)?;
    reread(image, what.version)
}

/// The header says something else now.
fn reread(image: &mut Qcow2Image<'_>, version: Version) -> Result<()> {
    image.header = Header::parse(&mut Window::new(image.source, image.device), version)?;
    image.geometry.version = image.header.version;
    Ok(())
}

/// Writes a field of the header, and then that is stable.
fn put(machine: &dyn Machine, image: &Qcow2Image<'_>, at: usize, value: u64) -> Result<()> {
    let device = image.device;
    let write = Step::Write { device, offset: FileOffset::new(at as u64), data: &value.to_be_bytes() };
    machine.submit(&[write, Step::Barrier { device }])
}
