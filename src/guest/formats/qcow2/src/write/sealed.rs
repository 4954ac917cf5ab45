//! The encryption of a new image: its key, and the LUKS header that holds it.

use instar_crypto::luks::{Created, Request, password};
use instar_crypto::qcow::{KEY_SECRET, Key, Method, PREFIX, aes};
use instar_image::write::Encrypter;
use instar_image::{CreateContext, DeviceId, FileOffset, Machine, Result, Step};

use super::spec::Spec;

/// The encryption of a new image.
pub struct Sealed {
    key: Key,
    luks: Option<Created>,
}

impl Sealed {
    /// As the options ask for it; `None`: the image is plain. `spec` was read from the same.
    pub fn new(cx: &CreateContext<'_, '_>, spec: &Spec) -> Result<Option<Self>> {
        let source = cx.machine.source();
        match spec.encryption {
            Method::None => Ok(None),
            Method::Aes => {
                let password = password(source, cx.options.get(KEY_SECRET), KEY_SECRET)?;
                Ok(Some(Self { key: Key { crypter: aes(password)?, in_file: false }, luks: None }))
            }
            Method::Luks => {
                let (request, password) = Request::read(source, cx.options, PREFIX, cx.version)?;
                let (created, crypter) = request.create(cx.machine, password)?;
                Ok(Some(Self { key: Key { crypter, in_file: true }, luks: Some(created) }))
            }
        }
    }

    /// What encrypts the clusters.
    pub fn encrypter(&self) -> &dyn Encrypter {
        &self.key
    }

    /// Writes the LUKS header to `offset`, where so many clusters of the file are its own.
    pub fn write(&self, machine: &dyn Machine, device: DeviceId, offset: FileOffset, spec: &Spec) -> Result<()> {
        let Some(Created { header, material, material_at }) = &self.luks else { return Ok(()) };
        let len = spec.luks_clusters() << spec.cluster_bits;
        machine.submit(&[Step::Zero { device, offset, len, unmap: false }])?;
        machine.submit(&[
            Step::Write { device, offset, data: header },
            Step::Write { device, offset: offset + *material_at, data: material },
        ])
    }
}
