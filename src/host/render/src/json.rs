//! JSON as QEMU prints it: four spaces, its own key order, its own escapes.

use std::fmt::{self, Write};

use instar_abi::ops::Record;
use instar_abi::ops::info::ImageInfo;
use instar_abi::record::Value;

use crate::order::sorted;
use crate::version::QemuVersion;

/// The value as JSON, without a line end.
#[must_use]
pub fn print(value: &Value) -> String {
    text(value, Some(0))
}

/// The value as JSON in one line, as QEMU writes names of images.
#[must_use]
pub fn line(value: &Value) -> String {
    text(value, None)
}

fn text(value: &Value, depth: Option<usize>) -> String {
    let mut out = String::new();
    // A string takes everything.
    let _ = write_value(&mut out, value, depth);
    out
}

/// The same as [`print`], with a line end, for a value that may be large.
///
/// # Errors
/// The writer's.
pub fn write(value: &Value, out: &mut dyn Write) -> fmt::Result {
    write_value(out, value, Some(0))?;
    out.write_char('\n')
}

/// What `info --output=json` prints: the list of a chain, or the one image.
#[derive(Debug)]
pub struct InfoJson {
    images: Vec<Value>,
    chain: bool,
}

impl InfoJson {
    /// Of these images.
    #[must_use]
    pub fn new(images: Vec<ImageInfo>, chain: bool, version: QemuVersion) -> Self {
        let of = |image: ImageInfo| {
            let children = image.children.filter(|_| version.has_children());
            ImageInfo { children, ..image }.into_value()
        };
        Self { images: images.into_iter().map(of).collect(), chain }
    }

    /// As text.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut dyn Write) -> fmt::Result {
        match &self.images[..] {
            [only] if !self.chain => write_value(out, only, Some(0))?,
            several => {
                out.write_char('[')?;
                for (i, image) in several.iter().enumerate() {
                    begin(out, i == 0, Some(1))?;
                    write_value(out, image, Some(1))?;
                }
                end(out, Some(0))?;
                out.write_char(']')?;
            }
        }
        out.write_char('\n')
    }
}

/// What is before an item: a new line, or a space between two in one line.
fn begin(out: &mut dyn Write, first: bool, depth: Option<usize>) -> fmt::Result {
    out.write_str(if first { "" } else { "," })?;
    match depth {
        Some(_) => end(out, depth),
        None if !first => out.write_char(' '),
        None => Ok(()),
    }
}

/// A new line, unless all is in one.
fn end(out: &mut dyn Write, depth: Option<usize>) -> fmt::Result {
    match depth {
        Some(depth) => write!(out, "\n{:indent$}", "", indent = depth * 4),
        None => Ok(()),
    }
}

/// `depth`: how far it is indented; `None`: all in one line.
fn write_value(out: &mut dyn Write, value: &Value, depth: Option<usize>) -> fmt::Result {
    // The tree is as deep as the record decoder allows, no deeper.
    let inner = depth.map(|depth| depth + 1);
    match value {
        Value::U64(n) => write!(out, "{n}"),
        Value::I64(n) => write!(out, "{n}"),
        Value::Bool(b) => write!(out, "{b}"),
        Value::Bytes(bytes) => write_string(out, bytes),
        Value::List(items) => {
            out.write_char('[')?;
            for (i, item) in items.iter().enumerate() {
                begin(out, i == 0, inner)?;
                write_value(out, item, inner)?;
            }
            end(out, depth)?;
            out.write_char(']')
        }
        Value::Map(entries) => {
            out.write_char('{')?;
            for (i, (key, item)) in sorted(entries).into_iter().enumerate() {
                begin(out, i == 0, inner)?;
                write_string(out, key.as_bytes())?;
                out.write_str(": ")?;
                write_value(out, item, inner)?;
            }
            end(out, depth)?;
            out.write_char('}')
        }
    }
}

fn write_string(out: &mut dyn Write, bytes: &[u8]) -> fmt::Result {
    out.write_char('"')?;
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            ' '..='~' => out.write_char(c)?,
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04X}")?;
                }
            }
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::ops::info::ChildInfo;

    #[test]
    fn empty_and_nested_as_qemu_prints_them() {
        let mut map = Value::map();
        map.set("children", Value::List(vec![])).set("filename", "ä\u{1f600}\"\x1b");
        let expected = "{\n    \"children\": [\n    ],\n    \"filename\": \"\\u00E4\\uD83D\\uDE00\\\"\\u001B\"\n}";
        assert_eq!(print(&map), expected);
    }

    #[test]
    fn releases_without_children_and_lists_of_images() {
        let file = ImageInfo { filename: b"x".to_vec(), format: "file".into(), ..ImageInfo::default() };
        let child = ChildInfo { name: "file".into(), info: file.clone() };
        let image = ImageInfo { children: Some(vec![child]), ..file };
        let of = |version: &str, images: &[ImageInfo], chain| {
            let mut out = String::new();
            let json = InfoJson::new(images.to_vec(), chain, version.parse().expect("a version"));
            json.write(&mut out).expect("a string takes it");
            out
        };
        let short = r#"{
    "virtual-size": 0,
    "filename": "x",
    "format": "file",
    "actual-size": 0
}"#;
        assert_eq!(of("7.2", std::slice::from_ref(&image), false), format!("{short}\n"));
        assert_eq!(of("10.0", std::slice::from_ref(&image), false), print(&image.clone().into_value()) + "\n");
        let list = of("7.2", &[image.clone(), image.clone()], false);
        let inner = short.replace('\n', "\n    ");
        assert_eq!(list, format!("[\n    {inner},\n    {inner}\n]\n"));
        assert_eq!(of("7.2", &[image], true), format!("[\n    {inner}\n]\n"));
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
