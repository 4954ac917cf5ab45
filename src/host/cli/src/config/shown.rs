//! What holds and where it was said: for people a table, for programs JSON with the types that the values have.

use std::path::Path;

use instar_abi::record::Value;

use super::settings::{self, Kind, SETTINGS, Setting, Unsaid};
use super::{Config, Origin, Said};
use crate::layout::table;

/// A line a value, and a line a file.
pub fn human(config: &Config) -> String {
    let mut rows = vec![["SETTING", "VALUE", "FROM"].map(ToString::to_string).to_vec()];
    for setting in SETTINGS {
        for (at, (value, from)) in values(config, setting).into_iter().enumerate() {
            rows.push(vec![if at == 0 { setting.key.to_string() } else { String::new() }, value, from]);
        }
    }
    table(&rows) + "\n" + &files(config)
}

/// Where it was looked for files, and what was found.
pub fn files(config: &Config) -> String {
    let head = ["FILE", "FOUND"].map(ToString::to_string).to_vec();
    let row = |(path, state): &(std::path::PathBuf, &str)| vec![path.display().to_string(), (*state).to_string()];
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(config.looked_for.iter().map(row)).collect();
    table(&rows)
}

/// Each value that holds of a setting, and whose word it is.
fn values(config: &Config, setting: &'static Setting) -> Vec<(String, String)> {
    let default = |text: String| (text, Origin::Default.to_string());
    let holds = config.in_force(setting.key);
    if holds.is_empty() {
        return match setting.unsaid {
            Unsaid::Parts(parts) => {
                parts.iter().map(|(what, number)| default(setting.part_in_words(what, *number))).collect()
            }
            Unsaid::Fixed(_) | Unsaid::Computed(_) => vec![default(setting.unsaid_in_words())],
        };
    }
    let of_place = |said: &&Said| {
        let from = format!("{}{}", said.origin, if said.pinned { " (pinned)" } else { "" });
        let each = said.values.iter().map(|value| value.display().to_string());
        let none = said.values.is_empty().then(|| "none".to_string());
        each.chain(none).map(|value| (value, from.clone())).collect::<Vec<_>>()
    };
    holds.iter().flat_map(of_place).collect()
}

/// Settings and files; if something is wrong with the configuration that and the files only, as nothing is in force then.
pub fn json(config: &Config, wrong: Option<&str>) -> Value {
    let mut all = Value::map();
    match wrong {
        Some(text) => all.set("error", text),
        None => {
            let mut map = Value::map();
            for setting in SETTINGS {
                map.set(setting.key, entry(config, setting));
            }
            all.set("settings", map)
        }
    };
    let file = |path: &Path, state: &str| {
        let mut map = Value::map();
        map.set("path", path.display().to_string()).set("found", state);
        map
    };
    let files: Vec<Value> = config.looked_for.iter().map(|(path, state)| file(path, state)).collect();
    all.set("files", files);
    all
}

fn entry(config: &Config, setting: &'static Setting) -> Value {
    let mut map = Value::map();
    let holds = config.in_force(setting.key);
    if holds.is_empty() {
        match setting.unsaid {
            Unsaid::Fixed(text) => map.set("value", typed(setting.kind, text)),
            Unsaid::Parts(parts) => {
                let mut each = Value::map();
                for (what, number) in parts {
                    each.set(what, *number);
                }
                map.set("value", each)
            }
            Unsaid::Computed(text) => {
                if setting.kind == Kind::Folders {
                    map.set("value", Vec::<Value>::new());
                }
                map.set("default", text)
            }
        };
        map.set("from", Origin::Default.to_string());
        return map;
    }
    let said = holds.iter().flat_map(|said| &said.values).map(|value| value.to_string_lossy());
    let mut said: Vec<Value> = said.map(|value| typed(setting.kind, &value)).collect();
    match (setting.kind, said.pop()) {
        (Kind::Folders, last) => map.set("value", said.into_iter().chain(last).collect::<Vec<_>>()),
        (_, last) => map.set("value", last.unwrap_or_else(|| Value::from(""))),
    };
    let mut from: Vec<String> = holds.iter().map(|said| said.origin.to_string()).collect();
    from.dedup();
    map.set("from", from.join(", "));
    if holds.iter().any(|said| said.pinned) {
        map.set("pinned", true);
    }
    map
}

/// The value as JSON has it. Sizes are in bytes.
fn typed(kind: Kind, text: &str) -> Value {
    let number = match kind {
        Kind::Isolation | Kind::Version | Kind::Folders => None,
        Kind::Switch => return settings::switch(text).map_or_else(|_| Value::from(text), Value::from),
        Kind::Number => settings::number(text).ok(),
        Kind::Size => settings::size(text).ok(),
    };
    number.map_or_else(|| Value::from(text), Value::from)
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn each_value_has_a_line_and_its_place() {
        let user = "[backing]\nallow = ['/etc', '/usr']\n";
        let config = config(&[("user", user)], &[("INSTAR_ALLOW_BACKING", "/tmp")]).expect("valid");
        let text = human(&config);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in [&["backing.allow", "/etc", "user"][..], &["/usr", "user"], &["/tmp", "INSTAR_ALLOW_BACKING"]] {
            assert!(lines.iter().any(|line| line[..] == *row), "{row:?}: {text}");
        }
        assert!(lines.iter().any(|line| line[..] == ["limits.seconds", "600", "(metadata)", "default"]), "{text}");
    }

    #[test]
    fn values_have_their_types() {
        assert_eq!(typed(Kind::Size, "7M"), Value::from(7u64 << 20));
        assert_eq!(typed(Kind::Number, "7"), Value::from(7u64));
        assert_eq!(typed(Kind::Switch, "1"), Value::from(true));
        assert_eq!(typed(Kind::Version, "9.0.0"), Value::from("9.0.0"));
    }
}
