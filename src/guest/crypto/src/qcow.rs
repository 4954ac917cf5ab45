//! Encryption of qcow and qcow2: as the options ask for it, and the kind that was there before LUKS, AES in CBC mode with
//! the password itself as the key (QEMU: docs/interop/qcow2.txt, "Data encryption").

use alloc::boxed::Box;
use alloc::format;

use instar_image::options::Options;
use instar_image::values::boolean;
use instar_image::write::Encrypter;
use instar_image::{Compressed, Decoder, Error, FileOffset, OpenContext, Result, Source};
use zeroize::Zeroizing;

use crate::luks::password;
use crate::{Algorithm, Crypter, IvGenerator, Mode, Scheme};

/// Bytes of the old encryption's key: the password itself.
const AES_KEY: usize = 16;
/// What begins the names of the options.
pub const PREFIX: &str = "encrypt.";
/// The option that names the password.
pub const KEY_SECRET: &str = "encrypt.key-secret";
/// The option that names the kind of encryption.
const FORMAT: &str = "encrypt.format";

/// What a new image is encrypted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing.
    None,
    /// The old kind: AES in CBC mode, the password as the key.
    Aes,
    /// A LUKS header in the image.
    Luks,
}

impl Method {
    /// Reads the options.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn read(options: &Options) -> Result<Self> {
        let old = options.get("encryption").map_or(Ok(false), |text| boolean("encryption", text))?;
        let given = |name: &&&str| options.get(&format!("{PREFIX}{name}")).is_some();
        let of_luks = ["cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg", "iter-time"];
        let method = match (old, options.get(FORMAT)) {
            (true, Some(_)) => {
                let text = "'encrypt.format' and its alias 'encryption' can't be used at the same time";
                return Err(Error::usage(text));
            }
            (true, None) | (false, Some("aes" | "qcow")) => Self::Aes,
            (false, Some("luks")) => Self::Luks,
            (false, Some(other)) => {
                return Err(Error::usage(format!("Parameter 'format' does not accept value '{other}'")));
            }
            (false, None) if options.get(KEY_SECRET).is_some() || of_luks.iter().any(|name| given(&name)) => {
                return Err(Error::usage("Parameter 'encrypt.format' is missing"));
            }
            (false, None) => Self::None,
        };
        match of_luks.iter().find(given) {
            Some(name) if method == Self::Aes => Err(Error::usage(format!("Parameter '{PREFIX}{name}' is unexpected"))),
            _ => Ok(method),
        }
    }
}

/// The cipher of the old encryption, with the password as its key.
///
/// # Errors
/// Never: the key has the right length.
pub fn aes(password: &[u8]) -> Result<Crypter> {
    let mut key = Zeroizing::new([0; AES_KEY]);
    key.iter_mut().zip(password).for_each(|(k, p)| *k = *p);
    Scheme { algorithm: Algorithm::Aes, mode: Mode::Cbc, iv: IvGenerator::Plain64 }.with_key(key.as_slice())
}

/// The key of an image of the old encryption; `None`: only its header is wanted.
///
/// # Errors
/// There is no such secret.
pub fn open(cx: &OpenContext<'_, '_>) -> Result<Option<Key>> {
    cx.purpose.wants_data().then(|| key(cx.source, option(cx, KEY_SECRET))).transpose()
}

/// The key of the old encryption that the secret of that name is.
///
/// # Errors
/// There is no such secret.
pub fn key(source: &dyn Source, secret: Option<&str>) -> Result<Key> {
    Ok(Key { crypter: aes(password(source, secret, KEY_SECRET)?)?, in_file: false })
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

/// A key, and what it counts sectors by.
pub struct Key {
    /// The key.
    pub crypter: Crypter,
    /// Sectors are counted in the file; else in the virtual disk.
    pub in_file: bool,
}

const SECTOR: u64 = 512;

impl Key {
    /// What decompresses by `plain` and, with a key, decrypts.
    pub fn decoder<'a>(key: Option<&'a Self>, plain: Box<dyn Decoder + 'a>) -> Box<dyn Decoder + 'a> {
        match key {
            Some(key) => Box::new(Decrypter { plain, key }),
            None => plain,
        }
    }

    /// The number of the first sector, as the cipher knows it.
    fn sector(&self, at: u64, offset: FileOffset) -> u64 {
        if self.in_file { offset / SECTOR } else { at / SECTOR }
    }

    /// Decrypts sectors for byte `at` of the disk, from `offset` in the file.
    pub fn decrypt(&self, at: u64, offset: FileOffset, data: &mut [u8]) {
        self.crypter.decrypt(self.sector(at, offset), data);
    }
}

impl Encrypter for Key {
    fn encrypt(&self, at: u64, offset: FileOffset, data: &mut [u8]) {
        self.crypter.encrypt(self.sector(at, offset), data);
    }
}

struct Decrypter<'a> {
    plain: Box<dyn Decoder + 'a>,
    key: &'a Key,
}

impl Decoder for Decrypter<'_> {
    fn decompress(&mut self, compressed: &Compressed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        self.plain.decompress(compressed, stored, out)
    }

    fn decrypt(&mut self, at: u64, offset: FileOffset, data: &mut [u8]) -> Result<()> {
        self.key.decrypt(at, offset, data);
        Ok(())
    }
}
