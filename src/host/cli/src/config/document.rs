//! What a configuration file says.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::settings::{Kind, Setting, by_key};
use super::{Origin, Said};

/// The list of keys whose values stand whatever is said elsewhere.
pub const PINNED: &str = "pinned";

/// What the text of the file at `path` says, in the file's order. Only where `may_pin`, it may pin.
///
/// # Errors
/// In words, with the file's name: it does not parse, names what is no setting, a value that makes no sense.
pub fn read(path: &Path, text: &str, may_pin: bool) -> Result<Vec<Said>, String> {
    let wrong = |what: String| format!("{}: {what}", path.display());
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string().trim_end().to_string()))?;
    let mut said = Vec::new();
    let mut pinned = Vec::new();
    for (key, value) in flatten(&table) {
        if key == PINNED {
            if !may_pin {
                return Err(wrong(format!("'{PINNED}' is for the system's file")));
            }
            pinned = strings(&key, value).map_err(wrong)?;
            continue;
        }
        let setting = by_key(&key).ok_or_else(|| wrong(format!("there is no setting '{key}'")))?;
        let values = values(setting, value).map_err(wrong)?;
        said.push(Said { setting, values, origin: Origin::File(path.to_path_buf()), pinned: false });
    }
    for key in pinned {
        let key = key.to_string_lossy();
        by_key(&key).ok_or_else(|| wrong(format!("there is no setting '{key}' to be pinned")))?;
        let said = said.iter_mut().find(|said| said.setting.key == key);
        said.ok_or_else(|| wrong(format!("'{key}' is pinned and has no value here")))?.pinned = true;
    }
    Ok(said)
}

fn values(setting: &Setting, value: toml::Value) -> Result<Vec<OsString>, String> {
    let key = setting.key;
    if setting.kind != Kind::Folders && value.is_array() {
        return Err(format!("'{key}' has a value of the wrong type: it takes one, not a list"));
    }
    let values = strings(key, value)?;
    for value in &values {
        setting.kind.check(value).map_err(|e| format!("{key}: {e}"))?;
        if setting.kind == Kind::Folders {
            check_folder(Path::new(value)).map_err(|e| format!("{key}: '{}' {e}", value.display()))?;
        }
    }
    Ok(values)
}

fn strings(key: &str, value: toml::Value) -> Result<Vec<OsString>, String> {
    let items = match value {
        toml::Value::Array(items) => items,
        other => vec![other],
    };
    let text = |item| match item {
        toml::Value::String(text) => Ok(text.into()),
        toml::Value::Integer(n) => Ok(n.to_string().into()),
        toml::Value::Boolean(b) => Ok(b.to_string().into()),
        _ => Err(format!("'{key}' has a value of the wrong type")),
    };
    items.into_iter().map(text).collect()
}

/// A folder in a file is for every caller, wherever he is.
pub fn check_folder(folder: &Path) -> Result<(), &'static str> {
    if folder.starts_with("~") || folder.to_string_lossy().starts_with('~') {
        return Err("begins with '~', which only a shell knows");
    }
    if !folder.is_absolute() {
        return Err("is not an absolute path");
    }
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err("is not a directory"),
        // Another user may be able to see it.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(_) => Err("is not there"),
    }
}

/// `table.key` for everything in a file of at most two levels.
fn flatten(table: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                flat.extend(inner.iter().map(|(k, v)| (format!("{key}.{k}"), v.clone())));
            }
            other => flat.push((key.clone(), other.clone())),
        }
    }
    flat
}
