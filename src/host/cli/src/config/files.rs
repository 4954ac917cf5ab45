//! The configuration files: where they are, and reading them.
//!
//! What a file says may be the only thing that forbids something, so one that is there and cannot be read ends the
//! command. Only a file that is looked for by default, and is not there, is fine.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::way;
use crate::program::plain;

/// The system's file.
pub const SYSTEM: &str = "/etc/instar/config.toml";
/// Longest file.
const BYTES_MAX: u64 = 1 << 20;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The system's.
    System,
    /// The system's beside one that `INSTAR_CONFIG` names: only what it pins holds.
    Pins,
    /// The caller's.
    User,
    /// Named by `INSTAR_CONFIG`.
    Named,
}

/// A file that was looked for.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub path: PathBuf,
    /// Whose it is.
    pub role: Role,
    /// The folder that a variable says the caller's files are in.
    home: Option<PathBuf>,
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// Its text.
    Text(String),
    /// Nothing.
    Absent,
    /// Something that does not count: why.
    Ignored(&'static str),
}

/// The files, the weakest first. A folder that is empty or relative counts for none: it would make the current
/// directory the caller's home.
pub fn places(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let place = |path: PathBuf, role, home| Place { path, role, home };
    if let Some(named) = variable("INSTAR_CONFIG") {
        let named = Some(named).filter(|name| !name.is_empty()).map(|name| place(name.into(), Role::Named, None));
        return std::iter::once(place(SYSTEM.into(), Role::Pins, None)).chain(named).collect();
    }
    let user = user_file(&variable).map(|(path, home)| place(path, Role::User, Some(home)));
    std::iter::once(place(SYSTEM.into(), Role::System, None)).chain(user).collect()
}

/// The caller's file, and the folder by which it is found.
pub fn user_file(variable: impl Fn(&str) -> Option<OsString>) -> Option<(PathBuf, PathBuf)> {
    let folder = |name: &str| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    if let Some(folder) = folder("XDG_CONFIG_HOME") {
        return Some((folder.join("instar/config.toml"), folder));
    }
    folder("HOME").map(|home| (home.join(".config/instar/config.toml"), home))
}

impl Place {
    /// Reads it.
    ///
    /// # Errors
    /// In words, with its name.
    pub fn read(&self) -> Result<Found, String> {
        if self.role != Role::Named && is_nowhere(&self.path) {
            return Ok(Found::Absent);
        }
        match open(&self.path) {
            Ok(file) => match self.unless_strangers(file) {
                Ok(Some(file)) => self.text(file),
                Ok(None) => Ok(Found::Ignored(STRANGERS)),
                Err(error) => self.cannot_open(&error),
            },
            Err(error) if self.is_absent(&error) => Ok(Found::Absent),
            Err(error) => self.cannot_open(&error),
        }
    }

    /// The caller's file by the way that leads to it, unless that is somebody else's.
    fn unless_strangers(&self, file: File) -> io::Result<Option<File>> {
        let home = self.home.as_deref().filter(|_| self.role == Role::User);
        match home.and_then(|home| Some((home, self.path.strip_prefix(home).ok()?))) {
            Some((home, rest)) => way::open(home, rest, is_trusted),
            None => Ok(Some(file)),
        }
    }

    fn is_absent(&self, error: &io::Error) -> bool {
        match error.kind() {
            _ if self.role == Role::Named => false,
            // A link that leads nowhere is a file, or a folder, that somebody wanted there.
            ErrorKind::NotFound => {
                let there = self.path.ancestors().find_map(|at| Some((at, at.symlink_metadata().ok()?)));
                there.is_none_or(|(at, found)| !found.is_symlink() || at.metadata().is_ok())
            }
            ErrorKind::NotADirectory => true,
            _ => false,
        }
    }

    fn text(&self, file: File) -> Result<Found, String> {
        let found = file.metadata().map_err(|e| self.failed(&plain(&e)))?;
        if self.role == Role::User && !is_trusted(found.uid()) {
            return Ok(Found::Ignored(STRANGERS));
        }
        if found.is_dir() {
            return Err(self.failed("Is a directory"));
        }
        if !found.is_file() && !is_nothing(&found) {
            return Err(self.failed(NO_FILE));
        }
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| self.failed(&plain(&e)))?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(self.failed("it is larger than 1 MiB"));
        }
        String::from_utf8(bytes).map(Found::Text).map_err(|_| self.failed("it is not UTF-8"))
    }

    fn cannot_open(&self, error: &io::Error) -> Result<Found, String> {
        let denied = error.kind() == ErrorKind::PermissionDenied;
        if denied && self.role == Role::Pins {
            return Ok(Found::Ignored("it cannot be read, and INSTAR_CONFIG says what holds instead"));
        }
        if denied && self.role == Role::User {
            if fs::metadata(&self.path).is_ok_and(|found| !is_trusted(found.uid())) {
                return Ok(Found::Ignored(STRANGERS));
            }
            if self.home.as_deref().is_some_and(is_anothers_home) {
                return Ok(Found::Ignored("its folder is another user's, and closed to this one"));
            }
        }
        Err(self.failed(&plain(error)))
    }

    fn failed(&self, why: &str) -> String {
        let path = self.path.display();
        if self.role == Role::Named {
            return format!("cannot read the configuration file '{path}', which INSTAR_CONFIG names: {why}");
        }
        format!(
            "cannot read the configuration file '{path}': {why}\n\
             INSTAR_CONFIG= (set, and empty) does without configuration files: for programs that are confined"
        )
    }
}

const STRANGERS: &str = "it, or a link that leads to it, belongs to another user";
const NO_FILE: &str = "it is not a regular file";

/// There is no such file, and no link on the way that leads nowhere: the usual case, told with one call. `false`: it is
/// not known (the kernel may be older than the call).
fn is_nowhere(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    found.is_err_and(|error| error == Errno::NOENT)
}

/// A pipe without a writer is not waited for.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed()).open(path)
}

/// `/dev/null` is as good as an empty file.
fn is_nothing(found: &Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == rustix::fs::makedev(1, 3)
}

/// The text of a file that is to be changed.
pub fn text_to_change(path: &Path) -> io::Result<String> {
    let mut file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(NO_FILE));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

/// `HOME` kept from another user (`setpriv`, `su` without `-`): not the caller's, who cannot even look into it.
fn is_anothers_home(home: &Path) -> bool {
    let closed = || fs::metadata(home.join(OsStr::new("."))).is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
    fs::metadata(home).is_ok_and(|found| found.uid() != rustix::process::geteuid().as_raw()) && closed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Vec<(String, Role)> {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        places(value).into_iter().map(|place| (place.path.display().to_string(), place.role)).collect()
    }

    #[test]
    fn homes_that_are_empty_or_relative_are_none() {
        let system = (SYSTEM.to_string(), Role::System);
        let user = |path: &str| (path.to_string(), Role::User);
        let alone = vec![system.clone()];
        assert_eq!(found(&[]), alone);
        for (xdg, home) in [("", ""), (".", ".."), ("instar", "home/x")] {
            assert_eq!(found(&[("XDG_CONFIG_HOME", xdg), ("HOME", home)]), alone);
            let kept = found(&[("XDG_CONFIG_HOME", xdg), ("HOME", "/h")]);
            assert_eq!(kept, [system.clone(), user("/h/.config/instar/config.toml")]);
        }
        let both = found(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]);
        assert_eq!(both, [system, user("/x/instar/config.toml")]);
    }

    #[test]
    fn instar_config_leaves_of_the_system_what_is_pinned() {
        let pins = (SYSTEM.to_string(), Role::Pins);
        assert_eq!(found(&[("INSTAR_CONFIG", ""), ("HOME", "/h")]), vec![pins.clone()]);
        assert_eq!(found(&[("INSTAR_CONFIG", "f")]), [pins, ("f".to_string(), Role::Named)]);
    }
}
