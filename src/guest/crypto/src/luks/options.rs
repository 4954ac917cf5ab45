//! What the options of a new LUKS header ask for.

use alloc::{format, vec};

use instar_image::options::Options;
use instar_image::values::number;
use instar_image::{Error, Result, Source, Version};

use super::password;
use crate::{Algorithm, Hash, IvGenerator, Mode, Scheme};

const KEY_SECRET: &str = "key-secret";
/// Milliseconds that opening a key slot shall take, if nothing is said (QEMU).
pub(super) const ITER_TIME: u64 = 2000;

/// Ciphers as options name them: what they are, if they can be had, and bytes of a key.
const CIPHERS: [(&str, Option<(Algorithm, usize)>); 13] = [
    ("aes-128", Some((Algorithm::Aes, 16))),
    ("aes-192", Some((Algorithm::Aes, 24))),
    ("aes-256", Some((Algorithm::Aes, 32))),
    ("des", None),
    ("3des", None),
    ("cast5-128", Some((Algorithm::Cast5, 16))),
    ("serpent-128", Some((Algorithm::Serpent, 16))),
    ("serpent-192", Some((Algorithm::Serpent, 24))),
    ("serpent-256", Some((Algorithm::Serpent, 32))),
    ("twofish-128", Some((Algorithm::Twofish, 16))),
    ("twofish-192", Some((Algorithm::Twofish, 24))),
    ("twofish-256", Some((Algorithm::Twofish, 32))),
    ("sm4", None),
];
const IV_GENERATORS: [&str; 3] = ["plain", "plain64", "essiv"];

/// A header to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) scheme: Scheme,
    /// Named behind the initialisation vectors' generator, whether that needs it or not.
    pub(super) iv_hash: Option<Hash>,
    /// Of the key derivations and of the anti-forensic splitter.
    pub(super) hash: Hash,
    /// Bytes of the master key.
    pub(super) key_bytes: usize,
    /// Milliseconds that opening a key slot shall take.
    pub(super) iter_time: u64,
}

impl Request {
    /// Reads the options whose names begin with `prefix`, in the order in which the stock tool does; and the password.
    ///
    /// # Errors
    /// A value that an option does not have, no password, a cipher that is not there; in qemu-img's words.
    pub fn read<'s>(
        source: &'s dyn Source,
        options: &Options,
        prefix: &str,
        version: Version,
    ) -> Result<(Self, &'s [u8])> {
        let given = |name: &str| options.get(&format!("{prefix}{name}"));
        let no_value = |name: &str, value: &str| {
            Error::usage(match version {
                Version::V5_2 => format!("Invalid parameter '{value}'"),
                _ => format!("Parameter '{name}' does not accept value '{value}'"),
            })
        };
        let hash =
            |name: &str| given(name).map(|value| Hash::by_name(value).ok_or_else(|| no_value(name, value))).transpose();
        let cipher = given("cipher-alg").unwrap_or("aes-256");
        let (_, known) =
            CIPHERS.iter().find(|(name, _)| *name == cipher).ok_or_else(|| no_value("cipher-alg", cipher))?;
        let mode = given("cipher-mode").unwrap_or("xts");
        let mode = Mode::by_name(mode).ok_or_else(|| no_value("cipher-mode", mode))?;
        let iv = given("ivgen-alg").unwrap_or("plain64");
        if !IV_GENERATORS.contains(&iv) {
            return Err(no_value("ivgen-alg", iv));
        }
        let iv_hash = hash("ivgen-hash-alg")?;
        let of_slots = hash("hash-alg")?.unwrap_or(Hash::Sha256);
        let iter_time = given("iter-time").map_or(Ok(ITER_TIME), |text| number("iter-time", text))?;
        if given("detached-header").is_some() {
            return Err(Error::usage(format!("Parameter '{prefix}detached-header' is unexpected")));
        }
        let password = password(source, given(KEY_SECRET), &format!("{prefix}{KEY_SECRET}"))?;
        let (algorithm, cipher_key) =
            known.ok_or_else(|| Error::unsupported(format!("Algorithm '{cipher}' not supported")))?;
        let iv = match (iv, iv_hash) {
            ("essiv", hash) => IvGenerator::Essiv(hash.unwrap_or(Hash::Sha256)),
            ("plain", _) => IvGenerator::Plain,
            _ => IvGenerator::Plain64,
        };
        let iv_hash = match iv {
            IvGenerator::Essiv(hash) => Some(hash),
            _ => iv_hash,
        };
        let request = Self {
            scheme: Scheme { algorithm, mode, iv },
            iv_hash,
            hash: of_slots,
            key_bytes: if mode == Mode::Xts { 2 * cipher_key } else { cipher_key },
            iter_time,
        };
        // Ciphers that do not go together are found out before any work is done.
        request.scheme.with_key(&vec![0; request.key_bytes])?;
        Ok((request, password))
    }
}
