//! Encryptions by the names that Linux has for them: `aes-xts-plain64`, `aes-cbc-essiv:sha256`.

use alloc::format;

use instar_image::{Error, Result};

use crate::{Algorithm, Hash, IvGenerator, Mode, Scheme};

impl Scheme {
    /// The encryption called so.
    ///
    /// # Errors
    /// There is no such here.
    pub fn by_name(name: &str) -> Result<Self> {
        parse(name).ok_or_else(|| Error::unsupported(format!("the encryption '{name}' is not supported")))
    }
}

fn parse(name: &str) -> Option<Scheme> {
    let (algorithm, rest) = name.split_once('-')?;
    let (mode, iv) = rest.split_once('-').map_or((rest, None), |(mode, iv)| (mode, Some(iv)));
    let mode = Mode::by_name(mode)?;
    let iv = match iv {
        Some("plain64") => IvGenerator::Plain64,
        Some("plain") => IvGenerator::Plain,
        Some(iv) => IvGenerator::Essiv(Hash::by_name(iv.strip_prefix("essiv:")?)?),
        None if mode == Mode::Ecb => IvGenerator::Plain64,
        None => return None,
    };
    Some(Scheme { algorithm: Algorithm::by_name(algorithm)?, mode, iv })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let (algorithm, essiv) = (Algorithm::Aes, IvGenerator::Essiv(Hash::Sha256));
        assert_eq!(parse("aes-cbc-essiv:sha256"), Some(Scheme { algorithm, mode: Mode::Cbc, iv: essiv }));
        assert_eq!(parse("aes-xts-plain64").map(|s| s.iv), Some(IvGenerator::Plain64));
        assert_eq!(parse("serpent-ecb").map(|s| s.mode), Some(Mode::Ecb));
        for none in ["", "aes", "aes-xts", "aes-xts-plain64be", "aes-xts-essiv:", "capi:xts(aes)-plain64", "-xts-plain"]
        {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
