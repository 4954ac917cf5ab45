//! Changing a configuration file: comments and order stay, what would not be read back is not written, and whoever reads
//! the file meanwhile sees the old or the new one.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::document::PINNED;
use super::files::{self, SYSTEM};
use super::settings::{Kind, by_key};
use super::{Config, document};
use crate::program::plain;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The setting's only value.
    Set(String, String),
    /// One value more of a list.
    Add(String, String),
    /// Nothing is said of it any more. It need not be a setting: what is wrong in a file can be taken out.
    Unset(String),
}

/// The file that is changed: the system's, that which `INSTAR_CONFIG` names, or the caller's.
///
/// # Errors
/// In words: there is none.
pub fn file(system: bool) -> Result<PathBuf, String> {
    if system {
        return Ok(SYSTEM.into());
    }
    if let Some(named) = std::env::var_os("INSTAR_CONFIG").filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let found = files::user_file(|name| std::env::var_os(name)).map(|(path, _)| path);
    found.ok_or_else(|| "neither XDG_CONFIG_HOME nor HOME says where your configuration file is".to_string())
}

/// Changes the file at `path`, or makes it.
///
/// # Errors
/// In words; the file is as it was then.
pub fn apply(path: &Path, changes: &[Change]) -> Result<(), String> {
    let failed = |e: &io::Error| format!("cannot change the configuration file '{}': {}", path.display(), plain(e));
    let old = match files::text_to_change(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(&error)),
    };
    let new = changed(path, &old, changes)?;
    // What is wrong in another file is not for this change to mend, nor in its way.
    Config::check_with(path, &new).or_else(|wrong| Config::check_with(path, "").map_or(Ok(()), |()| Err(wrong)))?;
    replace(path, &new).map_err(|e| failed(&e))
}

/// The text with the changes.
fn changed(path: &Path, text: &str, changes: &[Change]) -> Result<String, String> {
    let wrong = |what: String| format!("{}: {what}", path.display());
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| wrong(e.to_string().trim_end().to_string()))?;
    for change in changes {
        let is_list = |key: &str| key == PINNED || by_key(key).is_some_and(|setting| setting.kind == Kind::Folders);
        match change {
            Change::Set(key, value) => set(place(&mut document, key)?, key, single(key, value, is_list(key))?),
            Change::Add(key, value) if is_list(key) => add(place(&mut document, key)?, key, value),
            Change::Add(key, _) => return Err(format!("{key} is no list: use 'config set'")),
            Change::Unset(key) => unset(&mut document, key).map_err(wrong)?,
        }
    }
    let text = document.to_string();
    document::read(path, &text, true)?;
    Ok(text)
}

/// The value as the file has it.
fn single(key: &str, text: &str, is_list: bool) -> Result<Value, String> {
    if is_list {
        // Nothing: an empty list. Else a list of one.
        return Ok(Value::Array(Some(text).filter(|text| !text.is_empty()).into_iter().collect()));
    }
    let setting = by_key(key).ok_or_else(|| format!("there is no setting '{key}'"))?;
    setting.check(text.as_ref()).map_err(|e| format!("{key}: {e}"))?;
    Ok(match setting.kind {
        Kind::Switch => super::settings::switch(text)?.into(),
        Kind::Number => i64::try_from(super::settings::number(text)?).map_err(|_| format!("{key}: too large"))?.into(),
        Kind::Isolation | Kind::Version | Kind::Folders | Kind::Size | Kind::Report | Kind::ReportFormat => text.into(),
    })
}

/// The table in which a key stands.
fn place<'d>(document: &'d mut DocumentMut, key: &str) -> Result<&'d mut dyn TableLike, String> {
    let Some((table, _)) = key.split_once('.') else { return Ok(document.as_table_mut()) };
    let item = document.entry(table).or_insert(Item::Table(Table::new()));
    item.as_table_like_mut().ok_or_else(|| format!("'{table}' is no table in the file"))
}

fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    let key = key.rsplit('.').next().unwrap_or(key);
    if let Some(old) = table.get_mut(key) {
        // The comment behind it stays.
        if let Some(decor) = old.as_value().map(|old| old.decor().clone()) {
            *value.decor_mut() = decor;
        }
        *old = Item::Value(value);
        return;
    }
    table.insert(key, Item::Value(value));
}

fn add(table: &mut dyn TableLike, key: &str, value: &str) {
    let name = key.rsplit('.').next().unwrap_or(key);
    let old = table.get(name).and_then(Item::as_value).cloned();
    let mut list = match old {
        Some(Value::Array(list)) => list,
        // One value may stand without its brackets.
        Some(one) => Array::from_iter([one.decorated("", "")]),
        None => Array::new(),
    };
    if !list.iter().any(|have| have.as_str() == Some(value)) {
        list.push(value);
    }
    set(table, key, Value::Array(list));
}

/// Takes it out, and its table if nothing is left of that.
fn unset(document: &mut DocumentMut, key: &str) -> Result<(), String> {
    let absent = || format!("it says nothing of '{key}'");
    let Some((table, name)) = key.split_once('.') else {
        return document.remove(key).map(|_| ()).ok_or_else(absent);
    };
    let inner = document.get_mut(table).and_then(Item::as_table_like_mut).ok_or_else(absent)?;
    inner.remove(name).ok_or_else(absent)?;
    if inner.is_empty() {
        document.remove(table);
    }
    Ok(())
}

/// Writes a new file beside the old one and puts it in its place. A link stays one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| instar_vmm::target::absolute(path));
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let hidden = folder.join(format!(".config.toml.{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&hidden)?;
    let written = (|| {
        file.write_all(text.as_bytes())?;
        let old = fs::metadata(&path).ok();
        if let Some(old) = &old {
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.set_permissions(Permissions::from_mode(old.map_or(0o644, |old| old.mode() & 0o7777)))?;
        file.sync_all()?;
        fs::rename(&hidden, &path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, changes: &[Change]) -> Result<String, String> {
        changed(Path::new("f"), text, changes)
    }

    fn set(key: &str, value: &str) -> Change {
        Change::Set(key.into(), value.into())
    }

    fn add(key: &str, value: &str) -> Change {
        Change::Add(key.into(), value.into())
    }

    #[test]
    fn comments_and_order_stay() {
        let old = "# ours\nisolation = 'auto' # for now\n\n[backing] # names\n# folders\nallow = ['/usr'] # two\n";
        let new = edited(old, &[set("isolation", "kvm"), add("backing.allow", "/etc"), set("limits.seconds", "5")]);
        let expected = "# ours\nisolation = \"kvm\" # for now\n\n[backing] # names\n# folders\nallow = ['/usr', \"/etc\"] # two\n\
                        \n[limits]\nseconds = 5\n";
        assert_eq!(new.as_deref(), Ok(expected));
    }

    #[test]
    fn values_have_their_types() {
        for (key, value, line) in [
            ("backing.none", "1", "[backing]\nnone = true\n"),
            ("limits.requests", "7", "[limits]\nrequests = 7\n"),
            ("limits.guest-memory", "1G", "[limits]\nguest-memory = \"1G\"\n"),
            ("backing.allow", "", "[backing]\nallow = []\n"),
            ("qemu-version", "9.0.0", "qemu-version = \"9.0.0\"\n"),
        ] {
            assert_eq!(edited("", &[set(key, value)]).as_deref(), Ok(line));
        }
        let twice = edited("backing.allow = '/usr'\n", &[add("backing.allow", "/etc"), add("backing.allow", "/etc")]);
        assert_eq!(twice.as_deref(), Ok("backing.allow = ['/usr', \"/etc\"]\n"));
    }

    #[test]
    fn what_is_unset_is_gone_and_the_rest_stays() {
        let unset = |text: &str, key: &str| edited(text, &[Change::Unset(key.into())]);
        let old = "# ours\nisolation = 'auto' # for now\n\n[backing]\nnone = true\n\n[limits] # few\nseconds = 5\n";
        let without = unset(old, "backing.none").expect("it is there");
        assert_eq!(without, "# ours\nisolation = 'auto' # for now\n\n[limits] # few\nseconds = 5\n");
        assert_eq!(
            unset("backing.none = true\nbacking.allow = []\n", "backing.none").as_deref(),
            Ok("backing.allow = []\n")
        );
        assert_eq!(unset("isolation = 'kvm'\nmoon = 1\n", "moon").as_deref(), Ok("isolation = 'kvm'\n"));
        for (text, key, says) in [
            ("", "isolation", "f: it says nothing of 'isolation'"),
            ("isolation = 'kvm'\n", "isolation.x", "it says nothing"),
            ("pinned = ['isolation']\nisolation = 'kvm'\n", "isolation", "is pinned and has no value"),
            ("moon = 1\nsun = 2\n", "moon", "there is no setting 'sun'"),
        ] {
            assert!(unset(text, key).is_err_and(|e| e.contains(says)), "{text:?}");
        }
    }

    #[test]
    fn nonsense_is_not_written() {
        for (change, says) in [
            (set("moon", "1"), "there is no setting 'moon'"),
            (set("isolation", "moon"), "none of auto, kvm, process"),
            (add("isolation", "kvm"), "is no list"),
            (add("backing.allow", "x"), "is not an absolute path"),
            (add(PINNED, "isolation"), "is pinned and has no value"),
        ] {
            assert!(edited("", std::slice::from_ref(&change)).is_err_and(|e| e.contains(says)), "{change:?}");
        }
        assert!(edited("isolation = ", &[set("isolation", "kvm")]).is_err());
    }
}
