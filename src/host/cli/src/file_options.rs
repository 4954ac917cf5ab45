//! What the user says of how an image's file is opened: options of the driver of files, and those of an image that are
//! handed down to it.

use instar_vmm::target::Cache;

use crate::image_name::{Pairs, option};

/// How a file is opened, as far as it was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// It is not to be written.
    pub read_only: bool,
    /// Others may do with it what they like, as with `-U`.
    pub force_share: bool,
    /// No locks are asked for.
    unlocked: bool,
    /// `cache.direct`.
    direct: Option<bool>,
    /// `cache.no-flush`.
    no_flush: Option<bool>,
    /// By requests of the kernel's own, which need `cache.direct`.
    native: bool,
}

impl Ways {
    /// From the options of the image, and those of its file. Of both, what the file's say counts.
    pub fn read(image: &Pairs, file: &Pairs, driver: &str) -> Result<Self, String> {
        for key in SWITCHES_OF_ALL {
            switch(image, key)?;
        }
        check(file, driver)?;
        let both = |key: &str| Ok::<_, String>((switch(image, key)?, switch(file, key)?));
        let either = |key: &str| both(key).map(|(above, own)| above == Some(true) || own == Some(true));
        let nearest = |key: &str| both(key).map(|(above, own)| own.or(above));
        Ok(Self {
            read_only: either("read-only")?,
            force_share: either("force-share")?,
            unlocked: option(file, "locking").as_deref() == Some("off"),
            direct: nearest("cache.direct")?,
            no_flush: nearest("cache.no-flush")?,
            native: option(file, "aio").as_deref() == Some("native"),
        })
    }

    /// Nothing is asked of others.
    pub const fn share(self) -> bool {
        self.force_share || self.unlocked
    }

    /// What it says, where it says something, and else what the command does.
    pub fn cache(self, command: Cache) -> Result<Cache, String> {
        let direct = self.direct.unwrap_or(command.direct);
        if self.native && !direct {
            let text = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
            return Err(text.to_string());
        }
        Ok(Cache { direct, ignore_flush: self.no_flush.unwrap_or(command.ignore_flush), ..command })
    }

    /// Why it is not written, if it is not.
    pub const fn not_written(self) -> Option<&'static str> {
        match (self.force_share, self.read_only) {
            (true, _) => Some("force-share=on can only be used with read-only images"),
            (false, true) => Some("Block node is read-only"),
            (false, false) => None,
        }
    }
}

/// Switches that every driver has.
const SWITCHES_OF_ALL: [&str; 5] = ["read-only", "auto-read-only", "force-share", "cache.direct", "cache.no-flush"];

/// Options of the driver of files.
fn check(file: &Pairs, driver: &str) -> Result<(), String> {
    for key in SWITCHES_OF_ALL.into_iter().chain(["drop-cache", "x-check-cache-dropped"]) {
        switch(file, key)?;
    }
    for (key, value) in file {
        let invalid = Err(format!("invalid parameter value: {value}"));
        match key.as_str() {
            "locking" if !matches!(value.as_str(), "on" | "off" | "auto") => return invalid,
            "aio" if !matches!(value.as_str(), "threads" | "native" | "io_uring") => return invalid,
            "detect-zeroes" if !matches!(value.as_str(), "on" | "off" | "unmap") => return invalid,
            "discard" if !matches!(value.as_str(), "on" | "off" | "unmap" | "ignore") => {
                return Err("Invalid discard option".to_string());
            }
            "pr-manager" => return Err(format!("No persistent reservation manager with id '{value}'")),
            "aio-max-batch" => number(key, value)?,
            "node-name" if !is_identifier(value) => return Err(format!("Invalid node-name: '{value}'")),
            _ => {}
        }
    }
    match file.iter().find(|(key, _)| !knows(key)) {
        Some((key, _)) => Err(format!("Block protocol '{driver}' doesn't support the option '{key}'")),
        None => Ok(()),
    }
}

fn knows(key: &str) -> bool {
    const OTHERS: [&str; 10] = [
        "driver",
        "filename",
        "locking",
        "aio",
        "aio-max-batch",
        "detect-zeroes",
        "discard",
        "node-name",
        "drop-cache",
        "x-check-cache-dropped",
    ];
    OTHERS.contains(&key) || SWITCHES_OF_ALL.contains(&key)
}

fn switch(options: &Pairs, key: &str) -> Result<Option<bool>, String> {
    match option(options, key).as_deref() {
        None => Ok(None),
        Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
        Some("off" | "no" | "false" | "n") => Ok(Some(false)),
        Some(_) => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
    }
}

fn number(key: &str, text: &str) -> Result<(), String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |digits| (digits, 16));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(format!("Parameter '{key}' expects a number"));
    }
    u64::from_str_radix(digits, radix)
        .map(drop)
        .map_err(|_| format!("Value '{text}' is too large for parameter '{key}'"))
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_own_options_count_most() {
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Pairs>();
        let ways = |image: &[(&str, &str)], file: &[(&str, &str)]| Ways::read(&pairs(image), &pairs(file), "file");
        let direct = ways(&[("cache.direct", "on")], &[("cache.direct", "no")]).expect("both are switches");
        assert_eq!(direct.cache(Cache { direct: true, ..Cache::default() }).map(|cache| cache.direct), Ok(false));
        let native = ways(&[], &[("aio", "native")]).expect("it is known");
        assert!(native.cache(Cache::default()).is_err());
        assert!(ways(&[("cache.direct", "y")], &[("aio", "native")]).and_then(|w| w.cache(Cache::default())).is_ok());
        assert!(ways(&[], &[("locking", "off")]).is_ok_and(Ways::share));
        assert!(ways(&[("read-only", "on")], &[]).is_ok_and(|ways| ways.not_written().is_some()));
        for (key, value) in
            [("locking", "y"), ("aio-max-batch", "1M"), ("node-name", "0"), ("x", ""), ("read-only", "")]
        {
            assert!(ways(&[], &[(key, value)]).is_err(), "{key}");
        }
    }
}
