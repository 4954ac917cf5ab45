//! A new LUKS header, version 1: a fresh master key, which the password opens by the first key slot.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::{Error, Machine, Result};
use zeroize::Zeroizing;

use super::options::Request;
use super::{
    DIGEST, HEADER, HEADER_ROOM, MAGIC, SALT, SECTOR, SLOT, SLOT_ACTIVE, SLOT_FREE, SLOTS, SLOTS_AT, STRIPES, VERSION,
    bounded,
};
use crate::{Crypter, Hash, IvGenerator, Scheme, af};

/// Fewest rounds of a key derivation (QEMU).
const ROUNDS_MIN: u64 = 1000;
/// The master key's digest takes so much less time than a key slot (QEMU, cryptsetup).
const DIGEST_SHARE: u64 = 8;
const MILLISECONDS: u64 = 1000;
const NANOSECONDS: u64 = 1_000_000_000;

/// A header that is made.
pub struct Created {
    /// The header's bytes.
    pub header: [u8; HEADER],
    /// The first slot's key material, as it is stored.
    pub material: Vec<u8>,
    /// Where it lies, in bytes from the header's beginning on.
    pub material_at: u64,
}

impl Request {
    /// Bytes of a slot's place: its key material in whole pages.
    const fn slot_room(&self) -> u64 {
        (self.key_bytes as u64 * STRIPES as u64).next_multiple_of(HEADER_ROOM)
    }

    /// Bytes of the header and the key slots: behind them lies a whole image's data.
    #[must_use]
    pub const fn payload(&self) -> u64 {
        HEADER_ROOM + SLOTS as u64 * self.slot_room()
    }

    /// Makes the header, with key and salts from the machine's random bytes; and what works with the key.
    ///
    /// # Errors
    /// More rounds than can be stored or than are tried when the image is opened.
    pub fn create(&self, machine: &dyn Machine, password: &[u8]) -> Result<(Created, Crypter)> {
        let mut key = Zeroizing::new(vec![0; self.key_bytes]);
        machine.random(&mut key);
        let crypter = self.scheme.with_key(&key)?;
        let per_second = rounds_per_second(machine, self.hash)?;
        let digest_rounds = rounds(self.hash, self.iter_time, per_second, DIGEST, DIGEST_SHARE)?;
        let slot_rounds = rounds(self.hash, self.iter_time, per_second, self.key_bytes, 1)?;
        let mut salt = [0; SALT];
        machine.random(&mut salt);
        let digest = self.hash.pbkdf2(machine.source(), &key, &salt, digest_rounds, DIGEST);
        let (slot_salt, material) = seal(machine, self.scheme, self.hash, &key, password, slot_rounds)?;

        let mut header = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = header.get_mut(at..at.saturating_add(bytes.len())) {
                place.copy_from_slice(bytes);
            }
        };
        put(0, &MAGIC);
        put(6, &VERSION.to_be_bytes());
        put(8, self.scheme.algorithm.name().as_bytes());
        let iv = match self.scheme.iv {
            IvGenerator::Plain => "plain",
            IvGenerator::Plain64 => "plain64",
            IvGenerator::Essiv(_) => "essiv",
        };
        let iv_hash = self.iv_hash.map_or_else(Default::default, |hash| format!(":{}", hash.name()));
        put(40, format!("{}-{iv}{iv_hash}", self.scheme.mode.name()).as_bytes());
        put(72, self.hash.name().as_bytes());
        put(104, &sectors(self.payload()).to_be_bytes());
        put(108, &(self.key_bytes as u32).to_be_bytes());
        put(112, &digest);
        put(132, &salt);
        put(164, &digest_rounds.to_be_bytes());
        put(168, uuid(machine).as_bytes());
        for (number, at) in (0u64..).zip((SLOTS_AT..HEADER).step_by(SLOT)) {
            let first = number == 0;
            put(at, &if first { SLOT_ACTIVE } else { SLOT_FREE }.to_be_bytes());
            if first {
                put(at + 4, &slot_rounds.to_be_bytes());
                put(at + 8, &slot_salt);
            }
            put(at + 40, &sectors(HEADER_ROOM + number * self.slot_room()).to_be_bytes());
            put(at + 44, &STRIPES.to_be_bytes());
        }
        Ok((Created { header, material, material_at: HEADER_ROOM }, crypter))
    }
}

/// What a key slot holds that `password` opens to `key`: a salt, and the key material as it is stored.
pub fn seal(
    machine: &dyn Machine,
    scheme: Scheme,
    hash: Hash,
    key: &[u8],
    password: &[u8],
    rounds: u32,
) -> Result<([u8; SALT], Vec<u8>)> {
    let mut salt = [0; SALT];
    machine.random(&mut salt);
    let slot_key = Zeroizing::new(hash.pbkdf2(machine.source(), password, &salt, rounds, key.len()));
    let mut material = vec![0; key.len() * STRIPES as usize];
    machine.random(&mut material);
    af::split(hash, key, &mut material);
    scheme.with_key(&slot_key)?.encrypt(0, &mut material);
    Ok((salt, material))
}

/// Rounds that derive `len` bytes in `iter_time` milliseconds, divided by `share`. `per_second`: for one digest.
pub fn rounds(hash: Hash, iter_time: u64, per_second: u64, len: usize, share: u64) -> Result<u32> {
    let digests = len.div_ceil(hash.digest_len()) as u64;
    let rate = per_second / digests;
    let wanted = rate.checked_mul(iter_time).ok_or_else(|| {
        let text = format!("PBKDF iterations {rate} too large to scale: Numerical result out of range");
        Error::usage(text)
    })?;
    let wanted = wanted / MILLISECONDS / share;
    let rounds = u32::try_from(wanted.max(ROUNDS_MIN)).map_err(|_| {
        let text = format!("PBKDF iterations {wanted} larger than {}", u32::MAX);
        Error::usage(format!("{text}: Numerical result out of range"))
    })?;
    bounded(rounds)?;
    Ok(rounds)
}

/// Sectors of a place in the header, which is far below what 32 bits count.
fn sectors(bytes: u64) -> u32 {
    u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX)
}

/// A random one (RFC 9562, version 4).
fn uuid(machine: &dyn Machine) -> alloc::string::String {
    let mut id = machine.random_id();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<alloc::string::String>();
    let [a, b, c, d, e] = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].map(hex);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Rounds that derive one digest in a second here. A measurement can only be disturbed to seem slow, so that the best of
/// several is taken: a busy machine makes no weaker keys.
pub fn rounds_per_second(machine: &dyn Machine, hash: Hash) -> Result<u64> {
    const FIRST: u32 = 1 << 10;
    const MEASUREMENTS: u32 = 5;
    /// Nanoseconds that one shall take at least.
    const ENOUGH: u64 = 10_000_000;
    let time = |rounds: u32| -> Result<u64> {
        let before = machine.clock()?;
        Zeroizing::new(hash.pbkdf2(machine.source(), b"password", &[0; SALT], rounds, hash.digest_len()));
        Ok(machine.clock()?.saturating_sub(before).max(1))
    };
    let mut rounds = FIRST;
    while time(rounds)? < ENOUGH && rounds < 1 << 30 {
        rounds *= 2;
    }
    let mut best = u64::MAX;
    for _ in 0..MEASUREMENTS {
        best = best.min(time(rounds)?);
    }
    Ok(u64::try_from(u128::from(rounds) * u128::from(NANOSECONDS) / u128::from(best)).unwrap_or(u64::MAX))
}
