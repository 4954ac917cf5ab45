//! What to do about a name that the open policy refused.

use std::io;
use std::path::{Component, Path, PathBuf};

use instar_abi::ring::Status;
use instar_vmm::policy::{Asked, No};

use crate::config::settings::{ALLOW, NONE};
use crate::config::{Config, Origin};
use crate::program::plain;

/// The directories that would have to be allowed, by the letters of the names alone: whether anything is there is not
/// looked at. None for what could not be allowed (names that are no paths), and what nobody should be told to allow.
pub fn directories(asked: &[Asked]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    let refused = asked.iter().filter(|asked| asked.is_refused());
    for folder in refused.filter_map(|asked| allowable(asked.path.as_deref()?)) {
        if !all.iter().any(|have| have == folder) {
            all.push(folder.to_path_buf());
        }
    }
    all
}

/// Trees and folders of the system, where no images are: an image that names something there wants what it should not have.
const TREES: [&str; 4] = ["/boot", "/etc", "/proc", "/sys"];
const FOLDERS: [&str; 4] = ["/", "/home", "/root", "/var"];

fn is_of_system(folder: &Path) -> bool {
    // `.ssh` and the like.
    let is_hidden = |part: Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
    TREES.iter().any(|tree| folder.starts_with(tree))
        || FOLDERS.iter().any(|one| folder == Path::new(one))
        || folder.components().any(is_hidden)
}

fn allowable(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !is_of_system(folder))
}

/// A line for the user about the last name that was refused.
pub fn way_out(asked: &[Asked], config: &Config) -> Option<String> {
    let refused = asked.iter().rev().find(|asked| asked.is_refused())?;
    Some(advice(refused.path.as_deref(), config))
}

/// The same about a name that leads to `path`.
pub fn advice(path: Option<&Path>, config: &Config) -> String {
    if config.flag(NONE).is_ok_and(|none| none) {
        return "--no-backing (backing.none in the configuration) lets images refer to no other file".to_string()
            + &none_from(config);
    }
    if let Some(pin) = config.pin(ALLOW) {
        return format!("the directories that images may refer to are pinned by {}", pin.origin);
    }
    let Some(folder) = path.and_then(allowable) else {
        return match path.and_then(Path::parent) {
            Some(_) => {
                "that is no place for images: nothing there should be read for one that comes from others".into()
            }
            None => "--allow-backing allows directories, and this name lies in none that could be allowed".into(),
        };
    };
    match quoted(folder) {
        Some(dir) => format!(
            "if {dir} is to be trusted: --allow-backing {dir}, or INSTAR_ALLOW_BACKING={dir}, or for good: \
             instar config add {ALLOW} {dir}"
        ),
        None => {
            "--allow-backing DIR (or INSTAR_ALLOW_BACKING, or the configuration file) allows a directory".to_string()
        }
    }
}

/// Who lets images refer to nothing, if that is not seen in the command itself.
pub fn none_from(config: &Config) -> String {
    match config.origin(NONE).filter(|said| !matches!(said.origin, Origin::Flag(_))) {
        Some(said) if said.pinned => format!("; it is pinned by {}", said.origin),
        Some(said) => format!("; it is so by {}", said.origin),
        None => String::new(),
    }
}

/// Why a file that the policy allows was not opened.
pub fn not_opened(no: No) -> String {
    match no.status {
        Status::Io => plain(&io::Error::from_raw_os_error(no.errno.cast_signed())),
        Status::Loop => "it is in the chain already".to_string(),
        Status::Locked => "another program writes to it".to_string(),
        Status::WrongType => "it is neither a regular file nor a block device".to_string(),
        other => format!("{other:?}"),
    }
}

/// The path as a shell takes it. The letters are an image's: what a terminal or a shell could take for something else is
/// not repeated as a thing to be copied.
pub fn quoted(path: &Path) -> Option<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-@%,".contains(c);
    if text.chars().all(plain) {
        return Some(text.to_string());
    }
    // A colon would be two directories in the variable; quotes within quotes are read wrongly.
    let safe = |c: char| c != '\'' && c != ':' && (c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric());
    text.chars().all(safe).then(|| format!("'{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_allow_what_is_the_systems() {
        for path in ["/x", "/etc/passwd", "/proc/self/mem", "/root/x", "/root/.ssh/id", "/home/u/.config/a/b"] {
            assert_eq!(allowable(Path::new(path)), None, "{path}");
        }
        for path in ["/var/lib/nova/instances/_base/x", "/root/images/x", "/tmp/x", "/home/u/x"] {
            assert!(allowable(Path::new(path)).is_some(), "{path}");
        }
    }

    #[test]
    fn what_is_to_be_copied_is_one_word_of_a_shell() {
        let quoted = |text: &str| quoted(Path::new(text));
        assert_eq!(quoted("/var/lib/_base").as_deref(), Some("/var/lib/_base"));
        assert_eq!(quoted("/a b/$(x)").as_deref(), Some("'/a b/$(x)'"));
        for text in ["/a'b", "/a\nb", "/a\u{202e}b", "/a:b", "/a\u{1b}[m"] {
            assert_eq!(quoted(text), None, "{text:?}");
        }
    }
}
