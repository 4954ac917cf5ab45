//! JSON as QEMU prints it: four spaces, its own key order, its own escapes.

use std::fmt::Write;

use instar_abi::record::Value;

use crate::order::sorted;
use crate::version::QemuVersion;

/// The value as JSON, without a line end.
#[must_use]
pub fn print(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, Some(0));
    out
}

/// The value as JSON in one line, as QEMU writes names of images.
#[must_use]
pub fn line(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, None);
    out
}

/// What `info --output=json` prints: the list of a chain, or the one image.
#[must_use]
pub fn info(images: &[Value], chain: bool, version: QemuVersion) -> String {
    let images: Vec<Value> = images.iter().map(|image| for_version(image, version)).collect();
    let value = match <[Value; 1]>::try_from(images) {
        Ok([only]) if !chain => only,
        Ok(one) => Value::List(one.to_vec()),
        Err(several) => Value::List(several),
    };
    print(&value) + "\n"
}

fn for_version(image: &Value, version: QemuVersion) -> Value {
    match image {
        Value::Map(entries) if !version.has_children() => {
            Value::Map(entries.iter().filter(|(key, _)| key != "children").cloned().collect())
        }
        other => other.clone(),
    }
}

/// What is before an item: a new line, or a space between two in one line.
fn begin(out: &mut String, first: bool, depth: Option<usize>) {
    out.push_str(if first { "" } else { "," });
    match depth {
        Some(_) => end(out, depth),
        None if !first => out.push(' '),
        None => {}
    }
}

/// A new line, unless all is in one.
fn end(out: &mut String, depth: Option<usize>) {
    if let Some(depth) = depth {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
    }
}

/// `depth`: how far it is indented; `None`: all in one line.
fn write_value(out: &mut String, value: &Value, depth: Option<usize>) {
    // The tree is as deep as the record decoder allows, no deeper.
    let inner = depth.map(|depth| depth + 1);
    match value {
        Value::U64(n) => out.push_str(&n.to_string()),
        Value::I64(n) => out.push_str(&n.to_string()),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Bytes(bytes) => write_string(out, bytes),
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                begin(out, i == 0, inner);
                write_value(out, item, inner);
            }
            end(out, depth);
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (i, (key, item)) in sorted(entries).into_iter().enumerate() {
                begin(out, i == 0, inner);
                write_string(out, key.as_bytes());
                out.push_str(": ");
                write_value(out, item, inner);
            }
            end(out, depth);
            out.push('}');
        }
    }
}

fn write_string(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04X}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_nested_as_qemu_prints_them() {
        let mut map = Value::map();
        map.set("children", Value::List(vec![])).set("filename", "ä\u{1f600}\"\x1b");
        let expected = "{\n    \"children\": [\n    ],\n    \"filename\": \"\\u00E4\\uD83D\\uDE00\\\"\\u001B\"\n}";
        assert_eq!(print(&map), expected);
    }

    /// `qemu-img info --image-opts driver=raw,file.filename=x,size=512` (10.0.2).
    #[test]
    fn one_line() {
        let (mut map, mut file) = (Value::map(), Value::map());
        file.set("filename", "x").set("driver", "file");
        map.set("file", file).set("size", "512").set("driver", "raw");
        let expected = r#"{"driver": "raw", "size": "512", "file": {"driver": "file", "filename": "x"}}"#;
        assert_eq!(line(&map), expected);
    }
}
