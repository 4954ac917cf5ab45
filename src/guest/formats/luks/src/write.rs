//! Making luks images, and writing into those that are there: every byte has its place, encrypted.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use instar_crypto::Crypter;
use instar_crypto::luks::{Created, Request};
use instar_image::create::check_room;
use instar_image::edit::own_linear;
use instar_image::options::{OptionKind, OptionSpec, Options, of_file};
use instar_image::sealed::Placed;
use instar_image::write::{Encrypter, Piece, Target, Writer};
use instar_image::{
    CreateContext, Creator, DeviceId, Editor, Error, FileOffset, Kind, Machine, Measure, Measured, NewSize,
    Preallocation, Purpose, Resizing, Result, Spot, Step,
};

use crate::image::LuksImage;
use crate::{KEY_SECRET, SECTOR};

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec { name: "cipher-alg", kind: OptionKind::Text, help: "Name of encryption cipher algorithm" },
    OptionSpec { name: "cipher-mode", kind: OptionKind::Text, help: "Name of encryption cipher mode" },
    OptionSpec { name: "detached-header", kind: OptionKind::Bool, help: "Create a detached LUKS header" },
    of_file::EXTENT_SIZE_HINT,
    OptionSpec { name: "hash-alg", kind: OptionKind::Text, help: "Name of encryption hash algorithm" },
    OptionSpec { name: "iter-time", kind: OptionKind::Number, help: "Time to spend in PBKDF in milliseconds" },
    OptionSpec { name: "ivgen-alg", kind: OptionKind::Text, help: "Name of IV generator algorithm" },
    OptionSpec { name: "ivgen-hash-alg", kind: OptionKind::Text, help: "Name of IV generator hash algorithm" },
    OptionSpec {
        name: KEY_SECRET,
        kind: OptionKind::Text,
        help: "ID of the secret that provides the keyslot passphrase",
    },
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
];

/// The options in the order of "Formatting ..".
pub const SHOWN: &[(&str, Option<&str>)] = &[
    ("size", None),
    (KEY_SECRET, None),
    ("cipher-alg", None),
    ("cipher-mode", None),
    ("ivgen-alg", None),
    ("ivgen-hash-alg", None),
    ("hash-alg", None),
    ("iter-time", None),
    ("detached-header", None),
];

/// Makes them.
pub struct LuksCreator;

impl Creator for LuksCreator {
    fn measure(&self, cx: &CreateContext<'_, '_>, _source: Option<&dyn Measured>) -> Option<Result<Measure>> {
        let request = Request::read(cx.machine.source(), cx.options, "", cx.version);
        Some(request.map(|(request, _)| {
            let len = cx.size.saturating_add(request.payload());
            Measure { required: len, fully_allocated: len, bitmaps: None }
        }))
    }

    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let (machine, device) = (cx.machine, cx.device);
        let preallocation = preallocation(cx.options)?;
        let (request, password) = Request::read(machine.source(), cx.options, "", cx.version)?;
        let payload = request.payload();
        let len = cx.size.checked_add(payload).filter(|len| i64::try_from(*len).is_ok());
        let len = len.ok_or_else(|| Error::usage("The requested file size is too large"))?;
        let stat = machine.stat(device)?;
        if stat.block_device {
            check_room(machine, device, len)?;
        } else {
            let resized = |error: Error| match error.kind {
                Kind::Io(_) => error.context("Could not resize file"),
                _ => error,
            };
            machine.submit(&[Step::SetLength { device, len }]).map_err(resized)?;
            if let Some(full) = preallocation {
                machine.submit(&[Step::Allocate { device, offset: FileOffset::ZERO, len, full }]).map_err(resized)?;
            }
        }
        let (Created { header, material, material_at }, crypter) = request.create(machine, password)?;
        machine.submit(&[Step::Write { device, offset: FileOffset::new(material_at), data: &material }])?;
        let header = Some(header.to_vec());
        Ok(Box::new(LuksWriter { machine, device, data: FileOffset::new(payload), crypter: Arc::new(crypter), header }))
    }
}

/// Whether blocks are reserved (false) or written (true); `None`: neither.
fn preallocation(options: &Options) -> Result<Option<bool>> {
    match options.get("preallocation") {
        // The header is all the metadata that there is.
        None | Some("off" | "metadata") => Ok(None),
        Some("falloc") => Ok(Some(false)),
        Some("full") => Ok(Some(true)),
        Some(other) => Err(Error::usage(alloc::format!("invalid parameter value: {other}"))),
    }
}

impl Resizing for LuksImage<'_> {
    /// What is added reads as nothing in particular, as in every encrypted image.
    fn resize(&self, to: &NewSize) -> Result<()> {
        let purpose = self.writing.ok_or_else(|| Error::unsupported("the image is only read"))?;
        let (machine, device) = (purpose.machine()?, self.device);
        let before = machine.stat(device)?.end();
        let end = self.data.checked_add(to.size).filter(|end| *end <= FileOffset::END_MAX);
        let end = end.ok_or_else(|| Error::usage("The requested file size is too large"))?;
        let full = match to.preallocation {
            Preallocation::Off => None,
            Preallocation::Falloc => Some(false),
            Preallocation::Full => Some(true),
            Preallocation::Metadata => return Err(Error::unsupported("Unsupported preallocation mode: metadata")),
        };
        if let (Some(full), Some(more)) = (full, end.checked_since(before)) {
            let allocate = Step::Allocate { device, offset: before, len: more, full };
            if let Err(error) = machine.submit(&[allocate]) {
                machine.submit(&[Step::SetLength { device, len: before.get() }])?;
                return Err(error.context("Could not preallocate new data"));
            }
        }
        let resize = Step::SetLength { device, len: end.get() };
        machine.submit(&[resize]).map_err(|error| error.context("Could not resize file"))?;
        machine.submit(&[Step::Barrier { device }])
    }
}

/// An image that is made or changed.
pub struct LuksWriter<'a> {
    machine: &'a dyn Machine,
    device: DeviceId,
    /// Where in the device the disk begins.
    data: FileOffset,
    crypter: Arc<Crypter>,
    /// What makes the file an image, where it is none yet.
    header: Option<Vec<u8>>,
}

impl<'a> LuksWriter<'a> {
    /// Of an image that is there.
    pub fn open(image: &LuksImage<'a>, purpose: Purpose<'a>) -> Result<Self> {
        let crypter = image.crypter.clone();
        let crypter = crypter.ok_or_else(|| Error::corrupt("an image that is written to without its key"))?;
        let (machine, device, data) = (purpose.machine()?, image.device, image.data);
        Ok(Self { machine, device, data, crypter, header: None })
    }
}

impl Encrypter for LuksWriter<'_> {
    /// Sectors are counted from the disk's beginning on.
    fn encrypt(&self, at: u64, _offset: FileOffset, data: &mut [u8]) {
        self.crypter.encrypt(at / SECTOR, data);
    }
}

impl Editor for LuksWriter<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        own_linear(self.target(), at, max)
    }
}

impl Writer for LuksWriter<'_> {
    fn target(&self) -> Target {
        Target::LinearEncrypted { device: self.device, base: self.data }
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the bytes of a luks image have their places"))
    }

    fn encrypter(&self) -> Option<&dyn Encrypter> {
        Some(self)
    }

    fn finish(&self) -> Result<()> {
        let device = self.device;
        if let Some(header) = &self.header {
            self.machine
                .submit(&[Step::Barrier { device }, Step::Write { device, offset: FileOffset::ZERO, data: header }])?;
        }
        self.machine.submit(&[Step::Barrier { device }])
    }
}
