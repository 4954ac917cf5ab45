//! Encryption as the options of qcow and qcow2 ask for it, and the old kind of it.

use alloc::boxed::Box;
use alloc::format;

use instar_image::options::{Options, boolean};
use instar_image::write::Encrypter;
use instar_image::{Error, Packed, Result, Unpacker};
use zeroize::Zeroizing;

use crate::{Algorithm, Crypter, IvGenerator, Mode, Scheme};

/// Bytes of the old encryption's key: the password itself.
const AES_KEY: usize = 16;
/// What begins the names of the options.
pub const PREFIX: &str = "encrypt.";
/// The option that names the password.
pub const KEY_SECRET: &str = "encrypt.key-secret";

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
        let method = match (old, options.get("encrypt.format")) {
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

/// Checks what a driver option says of an image's encryption, which is `is`.
///
/// # Errors
/// It says something else; in qemu-img's words.
pub fn check_format(said: Option<&str>, is: Option<&str>) -> Result<()> {
    match (said, is) {
        (Some(said), None) => {
            Err(Error::usage(format!("No encryption in image header, but options specified format '{said}'")))
        }
        (Some(said), Some(is)) if said != is => {
            Err(Error::usage(format!("Header reported '{is}' encryption format but options specify '{said}'")))
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
    pub fn unpacker<'a>(key: Option<&'a Self>, plain: Box<dyn Unpacker + 'a>) -> Box<dyn Unpacker + 'a> {
        match key {
            Some(key) => Box::new(Decrypter { plain, key }),
            None => plain,
        }
    }

    /// Decrypts sectors for byte `at` of the disk, from byte `offset` of the file.
    pub fn decrypt(&self, at: u64, offset: u64, data: &mut [u8]) {
        self.crypter.decrypt(if self.in_file { offset } else { at } / SECTOR, data);
    }
}

impl Encrypter for Key {
    fn encrypt(&self, at: u64, offset: u64, data: &mut [u8]) {
        self.crypter.encrypt(if self.in_file { offset } else { at } / SECTOR, data);
    }
}

struct Decrypter<'a> {
    plain: Box<dyn Unpacker + 'a>,
    key: &'a Key,
}

impl Unpacker for Decrypter<'_> {
    fn unpack(&mut self, packed: &Packed, stored: &[u8], out: &mut [u8]) -> Result<()> {
        self.plain.unpack(packed, stored, out)
    }

    fn decrypt(&mut self, at: u64, offset: u64, data: &mut [u8]) -> Result<()> {
        self.key.decrypt(at, offset, data);
        Ok(())
    }
}
