//! Hashes by name, and keys derived with them (PBKDF2, RFC 8018 section 5.2).

use alloc::vec;
use alloc::vec::Vec;

use hmac::digest::{Digest, KeyInit};
use hmac::{Hmac, Mac};
use instar_image::machine::Parallel;
use spin::Mutex;
use zeroize::Zeroize;

/// A hash that images name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// 16 bytes
    Md5,
    /// 20 bytes
    Sha1,
    /// 28 bytes
    Sha224,
    /// 32 bytes
    Sha256,
    /// 48 bytes
    Sha384,
    /// 64 bytes
    Sha512,
    /// 20 bytes
    Ripemd160,
    /// 32 bytes
    Sm3,
}

/// Runs an expression with `$type` as each hash's type.
macro_rules! with_hash {
    ($hash:expr, $name:ident => $body:expr) => {
        match $hash {
            Hash::Md5 => {
                type $name = md5::Md5;
                $body
            }
            Hash::Sha1 => {
                type $name = sha1::Sha1;
                $body
            }
            Hash::Sha224 => {
                type $name = sha2::Sha224;
                $body
            }
            Hash::Sha256 => {
                type $name = sha2::Sha256;
                $body
            }
            Hash::Sha384 => {
                type $name = sha2::Sha384;
                $body
            }
            Hash::Sha512 => {
                type $name = sha2::Sha512;
                $body
            }
            Hash::Ripemd160 => {
                type $name = ripemd::Ripemd160;
                $body
            }
            Hash::Sm3 => {
                type $name = sm3::Sm3;
                $body
            }
        }
    };
}

/// All, with their names.
const NAMES: [(&str, Hash); 8] = [
    ("md5", Hash::Md5),
    ("sha1", Hash::Sha1),
    ("sha224", Hash::Sha224),
    ("sha256", Hash::Sha256),
    ("sha384", Hash::Sha384),
    ("sha512", Hash::Sha512),
    ("ripemd160", Hash::Ripemd160),
    ("sm3", Hash::Sm3),
];

impl Hash {
    /// The hash called `name`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, hash)| *hash)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, hash)| *hash == self).map_or("", |(name, _)| name)
    }

    /// Bytes of a digest.
    #[must_use]
    pub fn digest_len(self) -> usize {
        with_hash!(self, H => <H as Digest>::output_size())
    }

    /// The digest of `parts`, one after the other.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        with_hash!(self, H => {
            let mut hash = H::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        })
    }

    /// PBKDF2 with HMAC of this hash: `len` bytes. `rounds` is at least 1. A key of more bytes than a digest is put together
    /// from blocks that do not depend on one another: `workers` share them.
    #[must_use]
    pub fn pbkdf2(self, workers: &dyn Parallel, password: &[u8], salt: &[u8], rounds: u32, len: usize) -> Vec<u8> {
        let mut key = vec![0; len];
        let blocks: Vec<Mutex<&mut [u8]>> = key.chunks_mut(self.digest_len()).map(Mutex::new).collect();
        workers.each(blocks.len(), &|index| {
            if let Some(mut block) = blocks.get(index).map(Mutex::lock) {
                with_hash!(self, H => pbkdf2_block::<Hmac<H>>(password, salt, rounds, index as u32 + 1, &mut block));
            }
        });
        drop(blocks);
        key
    }
}

/// Block `number`, the first is 1 (RFC 8018, section 5.2, step 3).
fn pbkdf2_block<M: Mac + KeyInit + Clone>(password: &[u8], salt: &[u8], rounds: u32, number: u32, block: &mut [u8]) {
    // HMAC takes keys of every length.
    let Ok(keyed) = <M as KeyInit>::new_from_slice(password) else { return };
    let mut digest = keyed.clone().chain_update(salt).chain_update(number.to_be_bytes()).finalize().into_bytes();
    let mut sum = digest.clone();
    for _ in 1..rounds {
        digest = keyed.clone().chain_update(&digest).finalize().into_bytes();
        sum.iter_mut().zip(&digest).for_each(|(sum, byte)| *sum ^= byte);
    }
    block.iter_mut().zip(&sum).for_each(|(to, byte)| *to = *byte);
    sum.zeroize();
    digest.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_image::machine::Alone;

    fn hex(bytes: &[u8]) -> alloc::string::String {
        bytes.iter().map(|b| alloc::format!("{b:02x}")).collect()
    }

    /// RFC 6070 and RFC 7914 section 11.
    #[test]
    fn keys_are_those_of_the_standards() {
        let key = Hash::Sha1.pbkdf2(&Alone, b"password", b"salt", 4096, 20);
        assert_eq!(hex(&key), "4b007901b765489abead49d926f721d065a429c1");
        let key = Hash::Sha256.pbkdf2(&Alone, b"passwd", b"salt", 1, 64);
        let blocks = [
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc",
            "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ];
        assert_eq!(hex(&key), blocks.concat());
    }

    #[test]
    fn names_and_lengths() {
        for (name, hash) in NAMES {
            assert_eq!((Hash::by_name(name), hash.name()), (Some(hash), name));
            assert_eq!(hash.digest(&[b"a", b"b"]).len(), hash.digest_len());
            assert_eq!(hash.digest(&[b"a", b"b"]), hash.digest(&[b"ab"]));
        }
        assert_eq!(hex(&Hash::Ripemd160.digest(&[b"abc"])), "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc");
        assert_eq!(Hash::by_name("whirlpool"), None);
    }
}
