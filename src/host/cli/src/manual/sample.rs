//! A configuration file with every setting in it, none of them in force.

use crate::config::settings::{Kind, SETTINGS, Setting, Unsaid};
use crate::layout::sentence;

const HEAD: &str = "\
# Configuration of instar: instar.toml(5).
#
# Nothing here is in force: take the # away in front of a setting. What stands there is its default, or an example where
# the default depends on the command or the machine. The system's file (/etc/instar/config.toml) may pin settings, which
# no other file, variable or flag loosens then:
#pinned = []
";

/// What a setting's value is, in words.
pub fn kind(setting: &Setting) -> &'static str {
    match setting.kind {
        Kind::Isolation => "\"auto\", \"kvm\" or \"process\"",
        Kind::Version => "a release, as text",
        Kind::Folders => "a list of directories",
        Kind::Switch => "true or false",
        Kind::Number => "a number",
        Kind::Size => "bytes, as a number or as text with K, M, G, T, P or E behind it",
    }
}

/// The file.
pub fn text() -> String {
    let mut text = HEAD.to_string();
    let mut tables: Vec<&str> = SETTINGS.iter().map(|setting| parted(setting).0).collect();
    tables.sort_by_key(|table| !table.is_empty());
    tables.dedup();
    for table in tables {
        if !table.is_empty() {
            text += &format!("\n[{table}]\n");
        }
        for setting in SETTINGS.iter().filter(|setting| parted(setting).0 == table) {
            text += &format!("\n# {}\n", sentence(setting.flag.help));
            text += &format!("# Value: {}.\n", kind(setting));
            text += &format!("# Default: {}.\n", setting.unsaid_in_words());
            text += &format!("#{} = {}\n", parted(setting).1, value(setting));
        }
    }
    text
}

/// The table of a setting, and its name there.
fn parted(setting: &Setting) -> (&'static str, &'static str) {
    setting.key.split_once('.').unwrap_or(("", setting.key))
}

/// Its default, or something that could be.
fn value(setting: &Setting) -> String {
    match (setting.kind, setting.unsaid) {
        (Kind::Folders, _) => "[]".to_string(),
        (Kind::Switch, Unsaid::Fixed(value)) => value.to_string(),
        (Kind::Number, Unsaid::Parts(parts)) => parts.last().map_or(0, |(_, number)| *number).to_string(),
        (Kind::Number, _) => "4".to_string(),
        (Kind::Size, Unsaid::Computed(_)) => "\"256M\"".to_string(),
        (Kind::Size, Unsaid::Parts(parts)) => format!("\"{}M\"", parts.last().map_or(0, |(_, number)| *number >> 20)),
        (_, Unsaid::Fixed(value) | Unsaid::Computed(value)) => format!("\"{value}\""),
        (_, Unsaid::Parts(_)) => "0".to_string(),
    }
}
