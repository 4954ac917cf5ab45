//! An encryption as images name it (`aes-xts-plain64`), and what encrypts and decrypts sectors by it.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use instar_image::{Error, Result};
use zeroize::Zeroizing;

use crate::Hash;
use crate::blocks::{Blocks, keyed};
use crate::modes::{self, Way};

/// Bytes that sectors are counted in.
pub const SECTOR: usize = 512;

/// A block cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AES (FIPS 197)
    Aes,
    /// CAST-128 (RFC 2144)
    Cast5,
    /// Serpent
    Serpent,
    /// Twofish
    Twofish,
}

impl Algorithm {
    /// The cipher by its name in LUKS.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Aes, Self::Cast5, Self::Serpent, Self::Twofish].into_iter().find(|a| a.name() == name)
    }

    /// Its name in LUKS.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes => "aes",
            Self::Cast5 => "cast5",
            Self::Serpent => "serpent",
            Self::Twofish => "twofish",
        }
    }

    /// Bytes that a key can have.
    #[must_use]
    pub const fn key_sizes(self) -> &'static [usize] {
        match self {
            Self::Cast5 => &[16],
            _ => &[16, 24, 32],
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block(self) -> usize {
        match self {
            Self::Cast5 => 8,
            _ => 16,
        }
    }
}

/// A mode of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each block by itself.
    Ecb,
    /// Cipher block chaining.
    Cbc,
    /// Counter.
    Ctr,
    /// IEEE 1619; two keys.
    Xts,
}

impl Mode {
    /// The mode called so.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Ecb, Self::Cbc, Self::Ctr, Self::Xts].into_iter().find(|m| m.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ecb => "ecb",
            Self::Cbc => "cbc",
            Self::Ctr => "ctr",
            Self::Xts => "xts",
        }
    }
}

/// How a sector's number becomes its initialisation vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvGenerator {
    /// 32 bits, little-endian.
    Plain,
    /// 64 bits, little-endian.
    Plain64,
    /// 64 bits, encrypted with the key's digest.
    Essiv(Hash),
}

/// A cipher, its mode and its initialisation vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The cipher.
    pub algorithm: Algorithm,
    /// The mode.
    pub mode: Mode,
    /// The initialisation vectors.
    pub iv: IvGenerator,
}

impl Scheme {
    /// Bytes of a key of the cipher, of the `len` bytes that the whole key has.
    #[must_use]
    pub const fn cipher_key(&self, len: usize) -> usize {
        if matches!(self.mode, Mode::Xts) { len / 2 } else { len }
    }

    /// What works with that key. (The key's length is the image's claim.)
    ///
    /// # Errors
    /// A length that the cipher does not have; a mode that it cannot be used in.
    pub fn with_key(&self, key: &[u8]) -> Result<Crypter> {
        let Self { algorithm, mode, iv } = *self;
        let name = algorithm.name();
        if mode == Mode::Xts && algorithm.block() != 16 {
            return Err(Error::unsupported("Unsupported cipher mode xts"));
        }
        let wrong =
            || Error::unsupported(format!("Algorithm '{name}' with key size {} bytes not supported", key.len()));
        let half = self.cipher_key(key.len());
        let (data_key, tweak_key) = key.split_at_checked(half).ok_or_else(wrong)?;
        let data = keyed(algorithm, data_key).ok_or_else(wrong)?;
        let tweak = match mode {
            Mode::Xts => Some(keyed(algorithm, tweak_key).ok_or_else(wrong)?),
            _ => None,
        };
        let iv = match iv {
            _ if mode == Mode::Ecb => Iv::Plain64,
            IvGenerator::Plain => Iv::Plain,
            IvGenerator::Plain64 => Iv::Plain64,
            IvGenerator::Essiv(hash) => {
                let salt = Zeroizing::new(hash.digest(&[key]));
                let cipher = keyed(algorithm, &salt).ok_or_else(|| Error::unsupported(no_essiv(algorithm, hash)))?;
                Iv::Essiv(cipher)
            }
        };
        Ok(Crypter { data, tweak, iv, mode, block: algorithm.block() })
    }
}

fn no_essiv(algorithm: Algorithm, hash: Hash) -> String {
    let name = match algorithm {
        Algorithm::Aes => "AES",
        Algorithm::Cast5 => "CAST5",
        Algorithm::Serpent => "Serpent",
        Algorithm::Twofish => "Twofish",
    };
    format!("No {name} cipher with key size {} available", hash.digest_len())
}

enum Iv {
    Plain,
    Plain64,
    Essiv(Box<dyn Blocks>),
}

/// Encrypts and decrypts sectors with one key.
pub struct Crypter {
    data: Box<dyn Blocks>,
    /// The second key of XTS.
    tweak: Option<Box<dyn Blocks>>,
    iv: Iv,
    mode: Mode,
    block: usize,
}

impl Crypter {
    fn iv(&self, sector: u64) -> [u8; 16] {
        let number = match self.iv {
            Iv::Plain => sector & u64::from(u32::MAX),
            _ => sector,
        };
        let mut iv = [0; 16];
        iv[..8].copy_from_slice(&number.to_le_bytes());
        if let Iv::Essiv(cipher) = &self.iv {
            cipher.encrypt(iv.get_mut(..self.block).unwrap_or_default());
        }
        iv
    }

    fn run(&self, way: Way, first: u64, unit: usize, data: &mut [u8]) {
        let step = (unit / SECTOR).max(1) as u64;
        let number = |i: usize| first.wrapping_add((i as u64).wrapping_mul(step));
        match (self.mode, &self.tweak) {
            (Mode::Xts, Some(tweak)) => {
                modes::xts(self.data.as_ref(), tweak.as_ref(), way, unit, &|i| self.iv(number(i)), data);
            }
            (Mode::Ecb | Mode::Xts, _) => modes::ecb(self.data.as_ref(), way, data),
            (Mode::Cbc | Mode::Ctr, _) => {
                for (i, sector) in data.chunks_mut(unit).enumerate() {
                    let iv = self.iv(number(i));
                    let iv = iv.get(..self.block).unwrap_or_default();
                    match self.mode {
                        Mode::Cbc => modes::cbc(self.data.as_ref(), way, iv, sector),
                        _ => modes::ctr(self.data.as_ref(), iv, sector),
                    }
                }
            }
        }
    }

    /// Decrypts `data`, whole sectors, the first of which has the number `first`.
    pub fn decrypt(&self, first: u64, data: &mut [u8]) {
        self.run(Way::Decrypt, first, SECTOR, data);
    }

    /// Encrypts in the same way.
    pub fn encrypt(&self, first: u64, data: &mut [u8]) {
        self.run(Way::Encrypt, first, SECTOR, data);
    }

    /// Decrypts sectors of `unit` bytes (512 to 4096), whose numbers still count 512 bytes.
    pub fn decrypt_units(&self, first: u64, unit: usize, data: &mut [u8]) {
        self.run(Way::Decrypt, first, unit.clamp(SECTOR, 4096), data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// IEEE 1619-2007, annex B, vector 2 (its data unit is shorter than a sector: the first 32 bytes of one).
    #[test]
    fn xts_is_that_of_the_standard() {
        let scheme = Scheme { algorithm: Algorithm::Aes, mode: Mode::Xts, iv: IvGenerator::Plain64 };
        let key = [[0x11u8; 16], [0x22; 16]].concat();
        let crypter = scheme.with_key(&key).expect("valid");
        let mut data = [0x44u8; 512];
        crypter.encrypt(0x33_3333_3333, &mut data);
        let expected = [0xc4, 0x54, 0x18, 0x5e, 0x6a, 0x16, 0x93, 0x6e, 0x39, 0x33, 0x40, 0x38, 0xac, 0xef, 0x83, 0x8b];
        assert_eq!(data[..16], expected);
    }

    #[test]
    fn what_is_encrypted_is_decrypted() {
        for algorithm in [Algorithm::Aes, Algorithm::Cast5, Algorithm::Serpent, Algorithm::Twofish] {
            for mode in [Mode::Ecb, Mode::Cbc, Mode::Ctr, Mode::Xts] {
                for iv in [IvGenerator::Plain, IvGenerator::Plain64, IvGenerator::Essiv(Hash::Md5)] {
                    let key: Vec<u8> = (0..if mode == Mode::Xts { 32 } else { 16 }).collect();
                    let Ok(crypter) = (Scheme { algorithm, mode, iv }).with_key(&key) else {
                        assert_eq!((algorithm, mode), (Algorithm::Cast5, Mode::Xts));
                        continue;
                    };
                    let plain: Vec<u8> = (0..512 * 21u32).map(|i| (i * 5 + i / 7) as u8).collect();
                    let mut data = plain.clone();
                    crypter.encrypt(1 << 33, &mut data);
                    assert!(data != plain);
                    // In two parts: a sector's place in the call does not matter.
                    let (head, tail) = data.split_at_mut(512 * 4);
                    crypter.decrypt(1 << 33, head);
                    crypter.decrypt((1 << 33) + 4, tail);
                    assert!(data == plain, "{algorithm:?} {mode:?} {iv:?}");
                }
            }
        }
    }
}
