//! The text of a header: key slots, segments and digests (LUKS2 On-Disk Format Specification 1.1, section 3). What is not
//! needed is passed over.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};
use instar_crypto::Hash;
use instar_crypto::kdf::Kdf;
use instar_image::{Error, FileOffset, Result};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::bounded::{List, Table};

/// All of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Metadata {
    /// Key slots.
    pub keyslots: Table<Keyslot>,
    /// Segments of the disk.
    pub segments: Table<Segment>,
    /// How a key is known to be right.
    pub digests: Table<Digest>,
    /// The rest.
    pub config: Config,
}

/// A key slot.
#[derive(Clone, Debug, Deserialize)]
pub struct Keyslot {
    /// `luks2`; others hold no key of a password.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of the key.
    #[serde(default)]
    pub key_size: u32,
    /// 2: first; 0: last.
    pub priority: Option<u32>,
    kdf: Option<Derivation>,
    af: Option<Splitter>,
    area: Option<Area>,
}

/// How a password becomes the key of a slot's area.
#[derive(Clone, Debug, Deserialize)]
struct Derivation {
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "base64")]
    salt: Vec<u8>,
    hash: Option<String>,
    iterations: Option<u32>,
    time: Option<u32>,
    memory: Option<u32>,
    cpus: Option<u32>,
}

/// The anti-forensic splitter.
#[derive(Clone, Debug, Deserialize)]
struct Splitter {
    #[serde(rename = "type")]
    kind: String,
    stripes: u32,
    hash: String,
}

/// Where a slot's key lies, encrypted.
#[derive(Clone, Debug, Deserialize)]
pub struct Area {
    #[serde(rename = "type")]
    kind: String,
    /// The encryption's name.
    pub encryption: Option<String>,
    /// Bytes of the key that it is encrypted with.
    pub key_size: Option<u32>,
    /// Where it begins in the file.
    #[serde(deserialize_with = "place")]
    pub offset: FileOffset,
    /// Bytes.
    #[serde(deserialize_with = "decimal")]
    pub size: u64,
}

/// A part of the disk.
#[derive(Clone, Debug, Deserialize)]
pub struct Segment {
    /// `crypt`, or `linear` while a disk is encrypted anew.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it begins in the file.
    #[serde(deserialize_with = "place")]
    pub offset: FileOffset,
    /// Bytes, or `dynamic`: all that there is.
    pub size: String,
    /// Number of the first sector of 512 bytes.
    #[serde(default, deserialize_with = "decimal")]
    pub iv_tweak: u64,
    /// The encryption's name.
    #[serde(default)]
    pub encryption: String,
    /// Bytes that are encrypted together.
    #[serde(default)]
    pub sector_size: u32,
    /// There are checksums of sectors, too.
    pub integrity: Option<IgnoredAny>,
}

/// How a key is known to be right.
#[derive(Clone, Debug, Deserialize)]
pub struct Digest {
    /// `pbkdf2`
    #[serde(rename = "type")]
    pub kind: String,
    /// The slots that hold such a key.
    pub keyslots: List<String>,
    /// The segments that it is the key of.
    pub segments: List<String>,
    /// The hash.
    pub hash: String,
    /// Rounds.
    pub iterations: u32,
    /// Salt.
    #[serde(deserialize_with = "base64")]
    pub salt: Vec<u8>,
    /// The digest.
    #[serde(deserialize_with = "base64")]
    pub digest: Vec<u8>,
}

/// What is said of all.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Bytes that key slots may lie in, behind both headers.
    #[serde(deserialize_with = "decimal")]
    pub keyslots_size: u64,
    requirements: Option<Requirements>,
}

#[derive(Clone, Debug, Deserialize)]
struct Requirements {
    #[serde(default)]
    mandatory: List<String>,
}

/// Numbers of 64 bits are text in JSON.
fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> core::result::Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| serde::de::Error::custom("a number that is none"))
}

fn place<'de, D: Deserializer<'de>>(deserializer: D) -> core::result::Result<FileOffset, D::Error> {
    decimal(deserializer).map(FileOffset::new)
}

fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> core::result::Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Base64::decode_vec(&text).map_err(|_| serde::de::Error::custom("bytes that are no Base64"))
}

impl Metadata {
    /// Reads it. Objects in objects are read to a depth of 128, by the JSON crate's own limit.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let all: Self = serde_json::from_slice(text)
            .map_err(|e| Error::malformed(format!("the LUKS header's JSON area cannot be read: {e}")))?;
        let needs = all.config.requirements.as_ref().and_then(|r| r.mandatory.0.first());
        match needs {
            Some(what) => Err(Error::unsupported(format!("the LUKS volume needs '{what}', which is not supported"))),
            None => Ok(all),
        }
    }
}

/// The hash called so.
///
/// # Errors
/// There is none.
pub fn hash(name: &str) -> Result<Hash> {
    Hash::by_name(name).ok_or_else(|| Error::unsupported(format!("Hash algorithm '{name}' not supported")))
}

/// All that a key slot of a password needs.
pub struct Parts<'m> {
    /// Key derivation.
    pub kdf: Kdf,
    /// Its salt.
    pub salt: &'m [u8],
    /// Stripes of the splitter.
    pub stripes: u32,
    /// The splitter's hash.
    pub hash: Hash,
    /// Where it lies.
    pub area: &'m Area,
}

impl Keyslot {
    /// The area, if it has one.
    pub const fn area(&self) -> Option<&Area> {
        self.area.as_ref()
    }

    /// Its parts.
    ///
    /// # Errors
    /// One is missing, or of a kind that is not known.
    pub fn parts(&self) -> Result<Parts<'_>> {
        let (Some(derivation), Some(af), Some(area)) = (&self.kdf, &self.af, &self.area) else {
            return Err(Error::malformed("it lacks a part"));
        };
        if af.kind != "luks1" || area.kind != "raw" {
            return Err(Error::unsupported("it is of a kind that is not supported"));
        }
        let (kdf, hash) = (derivation.kdf()?, hash(&af.hash)?);
        Ok(Parts { kdf, salt: &derivation.salt, stripes: af.stripes, hash, area })
    }
}

impl Derivation {
    fn kdf(&self) -> Result<Kdf> {
        match (self.kind.as_str(), self) {
            ("pbkdf2", Self { hash: Some(name), iterations: Some(rounds), .. }) => {
                Ok(Kdf::Pbkdf2 { hash: hash(name)?, rounds: *rounds })
            }
            ("argon2i" | "argon2id", Self { time: Some(time), memory: Some(memory), cpus: Some(lanes), .. }) => {
                Ok(Kdf::Argon2 { id: self.kind == "argon2id", time: *time, memory: *memory, lanes: *lanes })
            }
            (kind, _) => Err(Error::unsupported(format!("its key derivation '{kind}' cannot be done"))),
        }
    }
}
