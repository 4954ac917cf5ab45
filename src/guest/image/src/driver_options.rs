//! The values of driver options (`--image-opts`): what most of them ask for has no meaning here, and a value that makes no
//! sense is refused all the same.

use alloc::format;
use alloc::string::String;

use crate::values::{boolean, number, size};
use crate::{Error, Result};

const SWITCHES: [&str; 18] = [
    "read-only",
    "auto-read-only",
    "force-share",
    "cache.direct",
    "cache.no-flush",
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check.main-header",
    "overlap-check.active-l1",
    "overlap-check.active-l2",
    "overlap-check.refcount-table",
    "overlap-check.refcount-block",
    "overlap-check.snapshot-table",
    "overlap-check.inactive-l1",
    "overlap-check.inactive-l2",
];
const SIZES: [&str; 5] = ["cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size", "prealloc-size"];

/// Checks them, whatever the format.
///
/// # Errors
/// In qemu-img's words.
pub fn check_values<'o>(options: impl Iterator<Item = &'o (String, String)>) -> Result<()> {
    let (mut discards, mut unmaps) = (false, false);
    for (key, value) in options {
        check(key, value)?;
        match key.as_str() {
            "discard" => discards = matches!(value.as_str(), "on" | "unmap"),
            "detect-zeroes" => unmaps = value == "unmap",
            _ => {}
        }
    }
    if unmaps && !discards {
        let text = "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap";
        return Err(Error::usage(text));
    }
    Ok(())
}

fn check(key: &str, value: &str) -> Result<()> {
    let none = |text: String| Err(Error::usage(text));
    let any_of = |words: &[&str], text: String| if words.contains(&value) { Ok(()) } else { Err(Error::usage(text)) };
    match key {
        _ if SWITCHES.contains(&key) || key == "overlap-check.bitmap-directory" => boolean(key, value).map(drop),
        _ if SIZES.contains(&key) => size(key, value).map(drop),
        "cache-clean-interval" if number(key, value)? > u64::from(u32::MAX) => {
            none("Cache clean interval too big".into())
        }
        "overlap-check" | "overlap-check.template" => any_of(
            &["none", "constant", "cached", "all"],
            format!(
                "Unsupported value '{value}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, \
                 constant, cached, all"
            ),
        ),
        "discard" => any_of(&["on", "off", "unmap", "ignore"], "Invalid discard option".into()),
        "detect-zeroes" => any_of(&["on", "off", "unmap"], format!("invalid parameter value: {value}")),
        "prealloc-mode" => any_of(&["falloc", "truncate"], format!("invalid parameter value: {value}")),
        "node-name" if !is_identifier(value) => none(format!("Invalid node-name: '{value}'")),
        _ => Ok(()),
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}
