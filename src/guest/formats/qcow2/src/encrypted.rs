//! Encrypted images: which key, and how sectors are counted (QEMU: docs/interop/qcow2.txt, sections "Full disk encryption
//! header pointer" and "Data encryption").

use alloc::boxed::Box;
use alloc::sync::Arc;

use instar_crypto::luks::slots::Opener;
use instar_crypto::luks::{self, password};
use instar_crypto::qcow::{self, KEY_SECRET, Key, option};
use instar_image::{Decoder, Error, FileOffset, OpenContext, Result, Value};

use crate::extensions::Extensions;
use crate::header::{Encryption, Header};
use crate::layout::FILE_OFFSET_MAX;

/// An image's encryption; all absent where it has none.
#[derive(Default)]
pub struct Encrypted {
    /// What `info` shows under `encrypt`.
    pub shown: Option<Value>,
    /// Absent too where no data is wanted.
    pub key: Option<Arc<Key>>,
    /// The LUKS header, where it is in the file, and what opens it.
    pub luks: Option<(luks::Header, FileOffset, Opener)>,
}

/// Reads the encryption, and finds its key where data is wanted.
pub fn read(cx: &OpenContext<'_, '_>, header: &Header, extensions: &Extensions) -> Result<Encrypted> {
    let name = match header.encryption {
        Encryption::None => None,
        Encryption::Aes => Some("aes"),
        Encryption::Luks => Some("luks"),
    };
    qcow::check_format(cx, name)?;
    let Some(name) = name else { return Ok(Encrypted::default()) };
    let mut shown = Value::map();
    shown.set("format", name);
    let place = match (header.encryption, extensions.crypto_header) {
        (Encryption::Luks, None) => return Err(Error::malformed("Missing CRYPTO header for crypt method 2")),
        (Encryption::Luks, Some((offset, _))) if offset > FILE_OFFSET_MAX => {
            return Err(Error::malformed("Unable to read LUKS header: Input/output error"));
        }
        (Encryption::Luks, place) => place,
        _ => None,
    };
    let Some((offset, _)) = place else {
        return Ok(Encrypted { shown: Some(shown), key: qcow::open(cx)?.map(Arc::new), luks: None });
    };
    let secret = option(cx, KEY_SECRET);
    let password = cx.purpose.wants_data().then(|| password(cx.source, secret, KEY_SECRET)).transpose()?;
    let luks = luks::Header::read(cx.source, cx.device, offset, cx.version)?;
    if let Value::Map(mut more) = luks.describe(cx.version)
        && let Value::Map(entries) = &mut shown
    {
        entries.append(&mut more);
    }
    let crypter = password.map(|p| luks.unlock(cx.source, cx.device, offset, p)).transpose()?;
    let key = crypter.map(|crypter| Arc::new(Key { crypter, in_file: true }));
    Ok(Encrypted { shown: Some(shown), key, luks: Some((luks, offset, Opener::of(secret))) })
}

impl Encrypted {
    /// Decompresses by `plain`, and decrypts.
    pub fn decoder<'a>(&'a self, plain: Box<dyn Decoder + 'a>) -> Box<dyn Decoder + 'a> {
        Key::decoder(self.key.as_deref(), plain)
    }
}
