//! Keys derived from passwords, with what it may cost (LUKS2 On-Disk Format Specification 1.1, section 3.2.3; RFC 9106).

use alloc::format;
use alloc::vec::Vec;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use instar_image::machine::Parallel;
use instar_image::{Error, Result};
use zeroize::{Zeroize, Zeroizing};

use crate::Hash;
use crate::luks::bounded;

/// KiB that Argon2 still walks through in all its passes (instar): two minutes of work, several times what any program
/// asks for.
pub const ARGON2_WORK_MAX: u64 = 64 << 20;
/// Lanes of memory (LUKS2: at most so many threads).
const LANES_MAX: u32 = 4;
const KIB: u64 = 1 << 10;

/// A key derivation with its costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kdf {
    /// RFC 8018
    Pbkdf2 {
        /// The hash of its HMAC.
        hash: Hash,
        /// Rounds.
        rounds: u32,
    },
    /// RFC 9106
    Argon2 {
        /// Argon2id; else Argon2i.
        id: bool,
        /// Passes over the memory.
        time: u32,
        /// KiB.
        memory: u32,
        /// Lanes.
        lanes: u32,
    },
}

impl Kdf {
    /// A key of `len` bytes. What costs more than any program asks for is refused before anything is done.
    ///
    /// # Errors
    /// It costs too much, or its numbers make no sense.
    pub fn derive(
        &self,
        workers: &dyn Parallel,
        password: &[u8],
        salt: &[u8],
        len: usize,
    ) -> Result<Zeroizing<Vec<u8>>> {
        match *self {
            Self::Pbkdf2 { rounds: 0, .. } => Err(Error::malformed("a key derivation of no rounds")),
            Self::Pbkdf2 { hash, rounds } => {
                bounded(rounds)?;
                Ok(Zeroizing::new(hash.pbkdf2(workers, password, salt, rounds, len)))
            }
            Self::Argon2 { id, time, memory, lanes } => argon2(id, (time, memory, lanes), password, salt, len),
        }
    }
}

fn argon2(
    id: bool,
    (time, memory, lanes): (u32, u32, u32),
    password: &[u8],
    salt: &[u8],
    len: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    let work = u64::from(time) * u64::from(memory);
    if work > ARGON2_WORK_MAX {
        let text = format!("{time} passes over {memory} KiB are more key derivation than instar does");
        return Err(Error::limit(text));
    }
    let wrong = || Error::malformed(format!("Argon2 with {time} passes over {memory} KiB in {lanes} lanes"));
    if lanes > LANES_MAX {
        return Err(wrong());
    }
    let params = Params::new(memory, time, lanes, Some(len)).map_err(|_| wrong())?;
    let mut blocks: Vec<Block> = Vec::new();
    let count = params.block_count();
    blocks.try_reserve_exact(count).map_err(|_| {
        let needed = (count as u64 * KIB).div_ceil(KIB * KIB);
        Error::limit(format!("a key slot asks for {needed} MiB of memory; --max-guest-memory gives the sandbox more"))
    })?;
    blocks.resize(count, Block::default());
    let mut key = Zeroizing::new(alloc::vec![0; len]);
    let algorithm = if id { Algorithm::Argon2id } else { Algorithm::Argon2i };
    let argon2 = Argon2::new(algorithm, Version::V0x13, params);
    let done = argon2.hash_password_into_with_memory(password, salt, &mut key, &mut blocks);
    blocks.zeroize();
    done.map_err(|_| wrong())?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_image::machine::Alone;

    fn hex(bytes: &[u8]) -> alloc::string::String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// By the reference implementation (argon2-cffi 25.1): 3 passes, 64 KiB, 2 lanes.
    #[test]
    fn argon2_is_that_of_the_reference() {
        let kdf =
            |id| Kdf::Argon2 { id, time: 3, memory: 64, lanes: 2 }.derive(&Alone, b"password", b"saltsaltsalt", 32);
        let (i, id) = (kdf(false).expect("valid"), kdf(true).expect("valid"));
        assert_eq!(hex(&i), "63ebfb984db2fece88c5b6bf284f6843dd76e4c9c7ad97b918e92748663da83b");
        assert_eq!(hex(&id), "aab00edde1043552b366f9bd65c3b5845beeff32a52d17ed9d762ae48ee68fea");
    }

    #[test]
    fn argon2_costs_are_bounded() {
        let kdf =
            |time, memory, lanes| Kdf::Argon2 { id: true, time, memory, lanes }.derive(&Alone, b"p", b"saltsalt", 32);
        assert!(kdf(4, 32, 1).is_ok());
        for (time, memory, lanes) in
            [(u32::MAX, u32::MAX, 1), (1, u32::MAX, 4), (1 << 20, 1 << 10, 1), (4, 32, 5), (0, 32, 1), (4, 0, 1)]
        {
            assert!(kdf(time, memory, lanes).is_err(), "{time} {memory} {lanes}");
        }
        assert!(Kdf::Pbkdf2 { hash: Hash::Sha256, rounds: u32::MAX }.derive(&Alone, b"p", b"s", 32).is_err());
        assert!(Kdf::Pbkdf2 { hash: Hash::Sha256, rounds: 0 }.derive(&Alone, b"p", b"s", 32).is_err());
    }
}
