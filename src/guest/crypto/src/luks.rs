//! The LUKS header, version 1: parsed, described, and its key found (LUKS On-Disk Format Specification 1.2.3).
//!
//! A whole image has it at its beginning; an encrypted image of another format has it inside. Key material is read where
//! a password is tried, one slot at a time.

mod create;
mod options;
pub mod slots;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{DeviceId, Error, FileOffset, Result, Source, Value, Version};
use zeroize::Zeroizing;

use crate::{Algorithm, Crypter, Hash, IvGenerator, Mode, Scheme, af};

pub use create::Created;
pub use options::Request;

/// Magic of both versions.
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// Bytes of the header with its key slots.
pub const HEADER: usize = 592;
/// Bytes of a digest of the key.
pub const DIGEST: usize = 20;
/// Bytes of a salt.
pub const SALT: usize = 32;
/// How many key slots there are.
pub const SLOTS: usize = 8;
/// Byte of the header at which the slots begin, and bytes of one.
pub const SLOTS_AT: usize = 208;
/// See [`SLOTS_AT`].
pub const SLOT: usize = 48;
/// A slot in use, and one that is not.
pub const SLOT_ACTIVE: u32 = 0x00ac_71f3;
/// See [`SLOT_ACTIVE`].
pub const SLOT_FREE: u32 = 0x0000_dead;
/// Stripes of the anti-forensic splitter (QEMU: no other number).
pub const STRIPES: u32 = 4000;
/// Bytes that no key material may lie in, from the header's beginning on (QEMU).
pub const HEADER_ROOM: u64 = 4096;
/// Rounds of key derivation that are still tried (instar): a minute of work, ten times what any program asks for.
pub const ROUNDS_MAX: u32 = 100_000_000;
const VERSION: u16 = 1;
const SECTOR: u64 = 512;
/// Bytes of key material that may be read (instar): a key of 64 bytes has 256,000.
const MATERIAL_MAX: u64 = 4 << 20;

/// Ciphers by their names in LUKS: the name before the key size, and the key sizes in bytes.
const CIPHERS: [(&str, &str, &[u32]); 6] = [
    ("aes", "aes", &[16, 24, 32]),
    ("cast5", "cast5", &[16]),
    ("serpent", "serpent", &[16, 24, 32]),
    ("twofish", "twofish", &[16, 24, 32]),
    ("des3_ede", "3des", &[24]),
    ("sm4", "sm4", &[16]),
];
const IVGENS: [&str; 3] = ["plain", "plain64", "essiv"];

/// A key; nothing of it stays in memory.
type Key = Zeroizing<Vec<u8>>;

/// One key slot.
#[derive(Clone, Debug)]
struct Slot {
    active: bool,
    state: u32,
    rounds: u32,
    salt: [u8; SALT],
    /// Bytes from the header's beginning.
    offset: u64,
    stripes: u32,
}

/// A checked header.
#[derive(Clone, Debug)]
pub struct Header {
    cipher: String,
    /// As `info` shows it, with the size of its key.
    cipher_shown: String,
    mode: Mode,
    ivgen: &'static str,
    ivgen_hash: Option<Hash>,
    hash: Hash,
    payload: u64,
    key_bytes: usize,
    digest: [u8; DIGEST],
    salt: [u8; SALT],
    rounds: u32,
    uuid: String,
    slots: Vec<Slot>,
    /// The data lies in another file.
    detached: bool,
}

/// What the key encrypts with: a password is a secret that is text.
///
/// # Errors
/// In qemu-img's words; `option` is how the option is called that names the secret.
pub fn password<'s>(source: &'s dyn Source, id: Option<&str>, option: &str) -> Result<&'s [u8]> {
    let id = id.ok_or_else(|| Error::usage(format!("Parameter '{option}' is required for cipher")))?;
    let data = source.secret(id).ok_or_else(|| Error::usage(format!("No secret with id '{id}'")))?;
    if core::str::from_utf8(data).is_err() {
        return Err(Error::usage(format!("Data from secret {id} is not valid UTF-8")));
    }
    Ok(data)
}

/// Bytes up to the first zero.
fn until_nul(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

impl Header {
    /// Reads and checks the header at byte `offset` of `device`.
    ///
    /// # Errors
    /// What is wrong with it, in qemu-img's words.
    pub fn read(source: &dyn Source, device: DeviceId, offset: FileOffset, version: Version) -> Result<Self> {
        let mut bytes = [0; HEADER];
        source.read(device, offset, &mut bytes)?;
        Self::parse(&bytes, false, version)
    }

    /// The same of a header that is a file by itself.
    ///
    /// # Errors
    /// What is wrong with it, in qemu-img's words.
    pub fn read_detached(source: &dyn Source, device: DeviceId, version: Version) -> Result<Self> {
        let mut bytes = [0; HEADER];
        source.read(device, FileOffset::ZERO, &mut bytes)?;
        Self::parse(&bytes, true, version)
    }

    fn parse(bytes: &[u8], detached: bool, version: Version) -> Result<Self> {
        let r = Reader::new(bytes);
        if r.array::<6>(0)? != MAGIC {
            return Err(Error::malformed("Volume is not in LUKS format"));
        }
        let number = r.be16(6)?;
        if number != VERSION {
            return Err(Error::unsupported(format!("LUKS version {number} is not supported")));
        }
        // Release 5.2 checks nothing of the following, and has no quotation marks.
        let old = version <= Version::V5_2;
        for (at, what) in [(8, "cipher name"), (40, "cipher mode"), (72, "hash spec")] {
            if !old && r.u8(at + 31)? != 0 {
                return Err(Error::malformed(format!("LUKS header {what} is not NUL terminated")));
            }
        }
        let payload = u64::from(r.be32(104)?) * SECTOR;
        let (key_bytes, rounds) = (r.be32(108)?, r.be32(164)?);
        let slots = (0..SLOTS).map(|i| slot(&Reader::new(r.bytes(SLOTS_AT + i * SLOT, SLOT)?)));
        let slots = slots.collect::<Result<Vec<_>>>()?;
        if !old {
            check_places(&slots, (!detached).then_some(payload), key_bytes, rounds)?;
        }
        let none = |what: &str, name: &str| {
            let quote = if old { "" } else { "'" };
            Error::unsupported(format!("{what} {quote}{name}{quote} not supported"))
        };
        let string = |at, len| r.bytes(at, len).map(until_nul);
        let (cipher, mode, hash) = (string(8, 32)?, string(40, 32)?, string(72, 32)?);
        let quote = if old { "" } else { "'" };
        let (mode, ivgen) = mode
            .split_once('-')
            .ok_or_else(|| Error::malformed(format!("Unexpected cipher mode string format {quote}{mode}{quote}")))?;
        let (ivgen, ivgen_hash) = ivgen.split_once(':').map_or((ivgen, None), |(name, hash)| (name, Some(hash)));
        let hash_named = |name: &str| Hash::by_name(name).ok_or_else(|| none("Hash algorithm", name));
        let ivgen_hash = ivgen_hash.map(hash_named).transpose()?;
        let mode = Mode::by_name(mode).ok_or_else(|| none("Cipher mode", mode))?;
        let size = if mode == Mode::Xts { key_bytes / 2 } else { key_bytes };
        let known = CIPHERS.iter().find(|(name, _, sizes)| *name == cipher && sizes.contains(&size));
        let cipher_shown = match known {
            Some((_, name @ ("3des" | "sm4"), _)) => (*name).into(),
            Some((_, name, _)) => format!("{name}-{}", size.saturating_mul(8)),
            None => {
                let text = format!("Algorithm {quote}{cipher}{quote} with key size {size} bytes not supported");
                return Err(Error::unsupported(text));
            }
        };
        let hash = hash_named(&hash)?;
        let ivgen = IVGENS.into_iter().find(|k| *k == ivgen).ok_or_else(|| none("IV generator", ivgen))?;
        if ivgen == "essiv" && ivgen_hash.is_none() {
            return Err(Error::malformed("Missing IV generator hash specification"));
        }
        Ok(Self {
            cipher,
            cipher_shown,
            mode,
            ivgen,
            ivgen_hash,
            hash,
            payload,
            key_bytes: key_bytes as usize,
            digest: r.array(112)?,
            salt: r.array(132)?,
            rounds,
            uuid: string(168, 40)?,
            slots,
            detached,
        })
    }

    /// Byte from the header's beginning on at which a whole image's data lies.
    #[must_use]
    pub const fn payload(&self) -> u64 {
        self.payload
    }

    /// Bytes of key material of one slot.
    #[must_use]
    pub fn material(&self) -> u64 {
        self.key_bytes as u64 * u64::from(STRIPES)
    }

    /// The map that `info` shows.
    #[must_use]
    pub fn describe(&self, version: Version) -> Value {
        let mut map = Value::map();
        map.set("cipher-alg", self.cipher_shown.as_str())
            .set("cipher-mode", self.mode.name())
            .set("ivgen-alg", self.ivgen);
        if let (Some(hash), "essiv") = (self.ivgen_hash, self.ivgen) {
            map.set("ivgen-hash-alg", hash.name());
        }
        map.set("hash-alg", self.hash.name())
            .set("payload-offset", self.payload)
            .set("master-key-iters", u64::from(self.rounds))
            .set("uuid", self.uuid.as_str());
        if version >= Version::V10_0 {
            map.set("detached-header", self.detached);
        }
        map.set("slots", self.slots.iter().map(Slot::describe).collect::<Vec<_>>());
        map
    }

    fn scheme(&self) -> Result<Scheme> {
        let none = || Error::unsupported(format!("Algorithm '{}' not supported", self.cipher_shown));
        let algorithm = Algorithm::by_name(&self.cipher).ok_or_else(none)?;
        let iv = match (self.ivgen, self.ivgen_hash) {
            ("essiv", Some(hash)) => IvGenerator::Essiv(hash),
            ("plain", _) => IvGenerator::Plain,
            _ => IvGenerator::Plain64,
        };
        Ok(Scheme { algorithm, mode: self.mode, iv })
    }

    /// What tells the key from others before it is known: what it must fit, and the password that opens it.
    fn origin(&self, password: &[u8]) -> Vec<u8> {
        let (rounds, len) = (self.rounds.to_le_bytes(), (self.key_bytes as u64).to_le_bytes());
        [&self.digest[..], &self.salt, &rounds, &len, self.hash.name().as_bytes(), b"/", password].concat()
    }

    /// Tries the password on all slots, and gives what decrypts the data. `offset` is the header's.
    ///
    /// # Errors
    /// No slot opens with it; a cipher that is not there.
    pub fn unlock(
        &self,
        source: &dyn Source,
        device: DeviceId,
        offset: FileOffset,
        password: &[u8],
    ) -> Result<Crypter> {
        let scheme = self.scheme()?;
        scheme.with_key(&self.master_key(source, device, offset, password)?)
    }

    /// The same; the key itself.
    fn master_key(&self, source: &dyn Source, device: DeviceId, offset: FileOffset, password: &[u8]) -> Result<Key> {
        if self.mode == Mode::Xts && !self.key_bytes.is_multiple_of(2) {
            return Err(Error::malformed("XTS cipher key length should be a multiple of 2"));
        }
        if self.material() > MATERIAL_MAX {
            return Err(Error::limit("the key material of a slot is too long"));
        }
        let keys = source.keys();
        let origin = self.origin(password);
        if let Some(key) = keys.and_then(|keys| keys.find(&origin)) {
            return Ok(Zeroizing::new(key));
        }
        for number in 0..SLOTS {
            if let Some(key) = self.open_slot(source, device, offset, number, password)? {
                if let Some(keys) = keys {
                    keys.add(origin, key.to_vec());
                }
                return Ok(key);
            }
        }
        Err(Error::usage("Invalid password, cannot unlock any keyslot"))
    }

    /// The key, if the password opens that slot, which is none that is free.
    fn open_slot(
        &self,
        source: &dyn Source,
        device: DeviceId,
        offset: FileOffset,
        number: usize,
        password: &[u8],
    ) -> Result<Option<Key>> {
        let Some(slot) = self.slots.get(number).filter(|slot| slot.active) else { return Ok(None) };
        bounded(self.rounds).and(bounded(slot.rounds)).map_err(|e| e.context(format!("key slot {number}")))?;
        let mut material = Zeroizing::new(vec![0; self.material() as usize]);
        source.read(device, offset.saturating_add(slot.offset), &mut material)?;
        let slot_key = Zeroizing::new(self.hash.pbkdf2(source, password, &slot.salt, slot.rounds, self.key_bytes));
        self.scheme()?.with_key(&slot_key)?.decrypt(0, &mut material);
        let key = af::merge(self.hash, &material, self.key_bytes);
        let fits = self.hash.pbkdf2(source, &key, &self.salt, self.rounds, DIGEST) == self.digest;
        Ok(fits.then_some(key))
    }
}

/// The rounds of a key derivation that are still tried.
///
/// # Errors
/// More than that.
pub fn bounded(rounds: u32) -> Result<()> {
    if rounds > ROUNDS_MAX {
        let text = format!("{rounds} rounds of key derivation are more than instar does ({ROUNDS_MAX})");
        return Err(Error::limit(text));
    }
    Ok(())
}

fn slot(r: &Reader<'_>) -> Result<Slot> {
    let state = r.be32(0)?;
    Ok(Slot {
        active: state == SLOT_ACTIVE,
        state,
        rounds: r.be32(4)?,
        salt: r.array(8)?,
        offset: u64::from(r.be32(40)?) * SECTOR,
        stripes: r.be32(44)?,
    })
}

impl Slot {
    fn describe(&self) -> Value {
        let mut map = Value::map();
        map.set("active", self.active).set("key-offset", self.offset);
        if self.active {
            map.set("iters", u64::from(self.rounds)).set("stripes", u64::from(self.stripes));
        }
        map
    }
}

/// Header, key material and data lie side by side. `payload`: where the data is, if it is in the same file.
fn check_places(slots: &[Slot], payload: Option<u64>, key_bytes: u32, rounds: u32) -> Result<()> {
    if payload.is_some_and(|payload| payload < HEADER_ROOM) {
        return Err(Error::malformed("LUKS payload is overlapping with the header"));
    }
    if rounds == 0 {
        return Err(Error::malformed("LUKS key iteration count is zero"));
    }
    let len = (u64::from(key_bytes) * u64::from(STRIPES)).next_multiple_of(HEADER_ROOM);
    for (i, slot) in slots.iter().enumerate() {
        let end = slot.offset + len;
        let wrong = if slot.stripes != STRIPES {
            Some(format!("is corrupted (stripes {} != {STRIPES})", slot.stripes.cast_signed()))
        } else if slot.state != SLOT_ACTIVE && slot.state != SLOT_FREE {
            Some("state (active/disable) is corrupted".into())
        } else if slot.active && slot.rounds == 0 {
            Some("iteration count is zero".into())
        } else if slot.offset < HEADER_ROOM {
            Some("is overlapping with the LUKS header".into())
        } else if payload.is_some_and(|payload| end > payload) {
            Some("is overlapping with the encrypted payload".into())
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(Error::malformed(format!("Keyslot {i} {wrong}")));
        }
        let other = slots.iter().enumerate().skip(i + 1);
        if let Some((j, _)) = other.into_iter().find(|(_, o)| slot.offset < o.offset + len && o.offset < end) {
            return Err(Error::malformed(format!("Keyslots {i} and {j} are overlapping in the header")));
        }
    }
    Ok(())
}
