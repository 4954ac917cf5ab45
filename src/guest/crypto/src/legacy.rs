//! The encryption that images had before LUKS: AES in CBC mode, and the password itself is the key (QEMU:
//! docs/interop/qcow2.txt, "Data encryption"); and what images of either encryption are opened with.

use alloc::format;

use instar_image::{Error, OpenContext, Result};
use zeroize::Zeroizing;

use crate::luks::password;
use crate::{Algorithm, Crypter, IvGenerator, Mode, Scheme};

/// The option that names the secret.
pub const KEY_SECRET: &str = "encrypt.key-secret";
const FORMAT: &str = "encrypt.format";
const KEY: usize = 16;

/// The cipher with that password as its key: cut, or filled up with zeroes.
///
/// # Errors
/// Never: the key has the right length.
pub fn aes(password: &[u8]) -> Result<Crypter> {
    let mut key = Zeroizing::new([0; KEY]);
    key.iter_mut().zip(password).for_each(|(k, p)| *k = *p);
    Scheme { algorithm: Algorithm::Aes, mode: Mode::Cbc, iv: IvGenerator::Plain64 }.with_key(key.as_slice())
}

/// What opens an image of the old encryption; `None`: only its header is wanted.
///
/// # Errors
/// There is no such secret.
pub fn open(cx: &OpenContext<'_, '_>) -> Result<Option<Crypter>> {
    let secret = cx.opener.map(|_| password(cx.source, option(cx, KEY_SECRET), KEY_SECRET));
    secret.transpose()?.map(aes).transpose()
}

/// The value of an option that the image is opened with.
#[must_use]
pub fn option<'o>(cx: &OpenContext<'_, 'o>, name: &str) -> Option<&'o str> {
    cx.options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Compares the encryption that the header has with what `encrypt.format` says, if it says anything.
///
/// # Errors
/// It says another one.
pub fn check_format(cx: &OpenContext<'_, '_>, stored: Option<&str>) -> Result<()> {
    match (option(cx, FORMAT), stored) {
        (Some(asked), None) => {
            Err(Error::usage(format!("No encryption in image header, but options specified format '{asked}'")))
        }
        (Some(asked), Some(stored)) if asked != stored => {
            let text = format!("Header reported '{stored}' encryption format but options specify '{asked}'");
            Err(Error::usage(text))
        }
        _ => Ok(()),
    }
}
