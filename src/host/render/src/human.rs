//! `info` for people.

use std::fmt::{self, Write};

use instar_abi::ops::Record;
use instar_abi::ops::info::ImageInfo;
use instar_abi::record::Value;

use crate::escape::terminal;
use crate::order::sorted;
use crate::size::human;
use crate::snapshots;
use crate::version::QemuVersion;

/// Turns seconds since 1970 into `YYYY-MM-DD hh:mm:ss` of this place. What it needs was read before the lock-down.
pub trait LocalTime {
    /// The text.
    fn format(&self, seconds: u64) -> String;
}

/// What `info` prints of one image, or of each of a chain with an empty line between.
///
/// # Errors
/// The writer's.
pub fn info(images: &[ImageInfo], version: QemuVersion, time: &dyn LocalTime, out: &mut dyn Write) -> fmt::Result {
    for (i, image) in images.iter().enumerate() {
        if i > 0 {
            out.write_char('\n')?;
        }
        Page { out, version, time }.node(image, "", 0)?;
    }
    Ok(())
}

struct Page<'a> {
    out: &'a mut dyn Write,
    version: QemuVersion,
    time: &'a dyn LocalTime,
}

impl Page<'_> {
    fn line(&mut self, depth: usize, text: &str) -> fmt::Result {
        writeln!(self.out, "{:indent$}{text}", "", indent = depth * 4)
    }

    fn node(&mut self, info: &ImageInfo, path: &str, depth: usize) -> fmt::Result {
        // What has children is an image; what has none is a file.
        let children = info.children.as_deref().unwrap_or_default();
        let root = path.is_empty() || !children.is_empty();
        let sized = |bytes: u64| format!("{} ({bytes} bytes)", human(bytes));
        let labels =
            if root { ["image", "file format", "virtual size"] } else { ["filename", "protocol type", "file length"] };
        self.line(depth, &format!("{}: {}", labels[0], terminal(&info.filename)))?;
        self.line(depth, &format!("{}: {}", labels[1], terminal(info.format.as_bytes())))?;
        self.line(depth, &format!("{}: {}", labels[2], sized(info.virtual_size)))?;
        self.line(depth, &format!("disk size: {}", human(info.actual_size)))?;
        if let Some(content) = &info.content {
            self.line(depth, &format!("content: {}", terminal(content.as_bytes())))?;
        }
        if info.encrypted {
            self.line(depth, "encrypted: yes")?;
        }
        if let Some(bytes) = info.cluster_size {
            self.line(depth, &format!("cluster_size: {bytes}"))?;
        }
        if info.dirty_flag == Some(true) {
            self.line(depth, "cleanly shut down: no")?;
        }
        if let Some(name) = info.backing_filename.as_deref().map(terminal) {
            let actual = match info.full_backing_filename.as_deref().map(terminal) {
                None => " (cannot determine actual path)".to_string(),
                Some(full) if full != name => format!(" (actual path: {full})"),
                Some(_) => String::new(),
            };
            self.line(depth, &format!("backing file: {name}{actual}"))?;
            if let Some(format) = &info.backing_filename_format {
                self.line(depth, &format!("backing file format: {}", terminal(format.as_bytes())))?;
            }
        }
        if let Some(limits) = &info.limits {
            self.line(depth, "Block limits:")?;
            self.map(&limits.clone().into_entries(), depth + 1)?;
        }
        if let Some(list) = info.snapshots.as_deref().filter(|list| !list.is_empty()) {
            self.line(depth, "Snapshot list:")?;
            for row in snapshots::table(list, self.version, self.time) {
                self.line(depth, &row)?;
            }
        }
        if let Some(Value::Map(entries)) = info.format_specific.as_ref().map(|specific| &specific.data)
            && !entries.is_empty()
        {
            self.line(depth, "Format specific information:")?;
            self.map(entries, depth + 1)?;
        }
        if self.version.has_children() {
            for child in children {
                let path = format!("{path}/{}", terminal(child.name.as_bytes()));
                self.line(depth, &format!("Child node '{path}':"))?;
                self.node(&child.info, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn map(&mut self, entries: &[(String, Value)], depth: usize) -> fmt::Result {
        for (key, value) in sorted(entries) {
            self.entry(&terminal(key.replace('-', " ").as_bytes()), value, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, label: &str, value: &Value, depth: usize) -> fmt::Result {
        match value {
            Value::Map(entries) => {
                self.line(depth, &format!("{label}:"))?;
                self.map(entries, depth + 1)
            }
            Value::List(items) => {
                self.line(depth, &format!("{label}:"))?;
                for (i, item) in items.iter().enumerate() {
                    self.entry(&format!("[{i}]"), item, depth + 1)?;
                }
                Ok(())
            }
            Value::U64(n) => self.line(depth, &format!("{label}: {n}")),
            Value::I64(n) => self.line(depth, &format!("{label}: {n}")),
            Value::Bool(b) => self.line(depth, &format!("{label}: {b}")),
            Value::Bytes(bytes) => self.line(depth, &format!("{label}: {}", terminal(bytes))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::ops::info::FormatSpecific;

    struct Never;

    impl LocalTime for Never {
        fn format(&self, _: u64) -> String {
            String::new()
        }
    }

    #[test]
    fn keys_of_what_only_such_images_have_are_shown_as_text() {
        let mut data = Value::map();
        data.set("k\x1b]0;title\x07\nx", 1u64);
        let specific = Some(FormatSpecific { kind: "qcow2".into(), data });
        let image = ImageInfo { format: "qcow2".into(), format_specific: specific, ..ImageInfo::default() };
        let mut out = String::new();
        info(&[image], QemuVersion::default(), &Never, &mut out).expect("a string has room");
        assert!(out.contains("k\\x1b]0;title\\x07\\x0ax: 1\n"), "{out}");
        assert!(!out.contains('\x1b'));
    }
}
