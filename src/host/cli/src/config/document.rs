//! What a configuration file says.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, TomlError, Value};

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
    let document: DocumentMut = text.parse().map_err(|e: TomlError| wrong(e.to_string().trim_end().to_string()))?;
    let mut said = Vec::new();
    let mut pinned = Vec::new();
    for (key, value) in flatten(document.as_table()) {
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

fn values(setting: &Setting, item: &Item) -> Result<Vec<OsString>, String> {
    let key = setting.key;
    if setting.kind != Kind::Folders && item.is_array() {
        return Err(format!("'{key}' has a value of the wrong type: it takes one, not a list"));
    }
    let values = strings(key, item)?;
    for value in &values {
        setting.check(value).map_err(|e| format!("{key}: {e}"))?;
        let is_elsewhere = |text: &str| text == "syslog" || text.starts_with("fd:") || text.starts_with('/');
        if setting.kind == Kind::Report && !value.to_str().is_some_and(is_elsewhere) {
            return Err(format!("{key}: '{}' is not an absolute path", value.display()));
        }
        if setting.kind == Kind::Folders {
            check_folder(Path::new(value)).map_err(|e| format!("{key}: '{}' {e}", value.display()))?;
        }
    }
    Ok(values)
}

fn strings(key: &str, item: &Item) -> Result<Vec<OsString>, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.value().into()),
        Value::Integer(n) => Ok(n.value().to_string().into()),
        Value::Boolean(b) => Ok(b.value().to_string().into()),
        _ => Err(format!("'{key}' has a value of the wrong type")),
    };
    match item.as_value() {
        Some(Value::Array(items)) => items.iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
        None => Err(format!("'{key}' has a value of the wrong type")),
    }
}

/// A folder in a file is for every caller, wherever he is.
pub fn check_folder(folder: &Path) -> Result<(), &'static str> {
    if folder.to_string_lossy().starts_with('~') {
        return Err("begins with '~', which only a shell knows");
    }
    if !folder.is_absolute() {
        return Err("is not an absolute path");
    }
    check_is_there(folder)
}

/// A folder that is allowed.
pub fn check_is_there(folder: &Path) -> Result<(), &'static str> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err("is not a directory"),
        // Another user may be able to see it.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(_) => Err("is not there"),
    }
}

/// `table.key` for everything in a file of at most two levels.
fn flatten(table: &Table) -> Vec<(String, &Item)> {
    let mut flat = Vec::new();
    for (key, item) in table {
        match item.as_table_like() {
            Some(inner) => flat.extend(inner.iter().map(|(k, item)| (format!("{key}.{k}"), item))),
            None => flat.push((key.to_string(), item)),
        }
    }
    flat
}
