//! The LUKS header inside an encrypted image, as far as `info` shows it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{Error, Result, Value, Version};

use crate::extensions::text;
use crate::layout::FILE_OFFSET_MAX;
use crate::window::Window;

/// Bytes of the header with its key slots.
const HEADER: usize = 592;
const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
const VERSION: u16 = 1;
const SLOTS: usize = 8;
const SLOTS_AT: usize = 208;
const SLOT: usize = 48;
const SLOT_ACTIVE: u32 = 0x00ac_71f3;
const SECTOR: u64 = 512;
/// Ciphers by their names in LUKS: the name before the key size, and the key sizes in bytes.
const CIPHERS: [(&str, &str, &[u32]); 6] = [
    ("aes", "aes", &[16, 24, 32]),
    ("cast5", "cast5", &[16]),
    ("serpent", "serpent", &[16, 24, 32]),
    ("twofish", "twofish", &[16, 24, 32]),
    ("des3_ede", "3des", &[24]),
    ("sm4", "sm4", &[16]),
];
const MODES: [&str; 4] = ["ecb", "cbc", "xts", "ctr"];
const IVGENS: [&str; 3] = ["plain", "plain64", "essiv"];
const HASHES: [&str; 8] = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"];

/// Reads the header at `offset` and gives the map that `info` shows under `encrypt`.
pub fn describe(window: &mut Window<'_>, offset: u64, version: Version) -> Result<Value> {
    if offset > FILE_OFFSET_MAX {
        return Err(Error::malformed("Unable to read LUKS header: Input/output error"));
    }
    let bytes: Vec<u8> = window.bytes(offset, HEADER)?.to_vec();
    let r = Reader::new(&bytes);
    if r.array::<6>(0)? != MAGIC {
        return Err(Error::malformed("Volume is not in LUKS format"));
    }
    let number = r.be16(6)?;
    if number != VERSION {
        return Err(Error::unsupported(format!("LUKS version {number} is not supported")));
    }
    let string = |at, len| Ok::<_, Error>(String::from_utf8_lossy(&text(r.bytes(at, len)?)).into_owned());
    let (cipher, mode, hash) = (string(8, 32)?, string(40, 32)?, string(72, 32)?);
    let payload = u64::from(r.be32(104)?).saturating_mul(SECTOR);
    let key_bytes = r.be32(108)?;
    let mut map = Value::map();
    let (mode, ivgen) = mode
        .split_once('-')
        .ok_or_else(|| Error::malformed(format!("Unexpected cipher mode string format '{mode}'")))?;
    let (ivgen, ivgen_hash) = ivgen.split_once(':').map_or((ivgen, None), |(name, hash)| (name, Some(hash)));
    map.set("format", "luks")
        .set("cipher-alg", cipher_name(&cipher, mode, key_bytes)?)
        .set("cipher-mode", one_of(mode, &MODES, "Cipher mode")?)
        .set("ivgen-alg", one_of(ivgen, &IVGENS, "IV generator")?);
    if let Some(hash) = ivgen_hash {
        map.set("ivgen-hash-alg", one_of(hash, &HASHES, "Hash algorithm")?);
    }
    map.set("hash-alg", one_of(&hash, &HASHES, "Hash algorithm")?)
        .set("payload-offset", payload)
        .set("master-key-iters", u64::from(r.be32(164)?))
        .set("uuid", string(168, 40)?);
    if version >= Version::V10_0 {
        map.set("detached-header", false);
    }
    let slots = (0..SLOTS).map(|i| slot(&Reader::new(r.bytes(SLOTS_AT.saturating_add(i.saturating_mul(SLOT)), SLOT)?)));
    map.set("slots", slots.collect::<Result<Vec<_>>>()?);
    Ok(map)
}

fn slot(r: &Reader<'_>) -> Result<Value> {
    let active = r.be32(0)? == SLOT_ACTIVE;
    let mut map = Value::map();
    map.set("active", active).set("key-offset", u64::from(r.be32(40)?).saturating_mul(SECTOR));
    if active {
        map.set("iters", u64::from(r.be32(4)?)).set("stripes", u64::from(r.be32(44)?));
    }
    Ok(map)
}

/// The cipher with the size of its key in bits. XTS has two keys.
fn cipher_name(cipher: &str, mode: &str, key_bytes: u32) -> Result<String> {
    let size = if mode == "xts" { key_bytes.div_ceil(2) } else { key_bytes };
    let known = CIPHERS.iter().find(|(name, _, sizes)| *name == cipher && sizes.contains(&size));
    match known {
        Some((_, name @ ("3des" | "sm4"), _)) => Ok((*name).into()),
        Some((_, name, _)) => Ok(format!("{name}-{}", size.saturating_mul(8))),
        None => Err(Error::unsupported(format!("Algorithm '{cipher}' with key size {key_bytes} bytes not supported"))),
    }
}

fn one_of(name: &str, known: &[&'static str], what: &str) -> Result<&'static str> {
    let found = known.iter().find(|k| **k == name);
    found.copied().ok_or_else(|| Error::unsupported(format!("{what} '{name}' is not supported")))
}
