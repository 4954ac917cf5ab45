//! What to do about a limit that was reached, and about a virtual machine that is not to be had: by whose word it is so.

use crate::config::settings::{SETTINGS, Setting};
use crate::config::{Config, Origin};

/// What can be done about the limit that `flag` sets.
pub fn way_out(flag: &str, config: &Config) -> String {
    let setting = SETTINGS.iter().find(|setting| flag.strip_prefix("--") == Some(setting.flag.long));
    let Some((setting, pin)) = setting.and_then(|setting| Some((setting, config.pin(setting.key)?))) else {
        return format!("{flag} raises it");
    };
    let rank = |values: &[std::ffi::OsString]| values.last().map(|value| setting.kind.rank(value));
    if config.origin(setting.key).is_none_or(|said| rank(&said.values) == rank(&pin.values)) {
        return format!("{} is pinned by {}", setting.key, pin.origin);
    }
    format!("{flag} raises it, up to {}, to which {} is pinned by {}", pin.shown(), setting.key, pin.origin)
}

/// Who says that a setting has the value that it has, as he says it.
pub fn source(setting: &Setting, value: &str, config: &Config) -> String {
    let said = config.origin(setting.key);
    let pinned = if said.is_some_and(|said| said.pinned) { ", which pins it" } else { "" };
    match said.map(|said| &said.origin) {
        Some(Origin::Flag(name)) if setting.flag.argument.is_some() => format!("--{name} {value}"),
        Some(Origin::Flag(name)) => format!("--{name}"),
        Some(Origin::Environment(name)) => format!("{name}={value}"),
        Some(Origin::File(path)) => format!("'{} = {value}' in {}{pinned}", setting.key, path.display()),
        Some(Origin::Default) | None => format!("{} {value}", setting.key),
    }
}
