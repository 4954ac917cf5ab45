//! `map`: its lines, from the guest's records.

use std::fmt::Write;

use instar_abi::ops::map::{COMPRESSED, DATA, HAS_OFFSET, MapRecord, PRESENT, ZERO};
use itoa::Buffer;

use crate::version::QemuVersion;

/// What `map` prints before all else in human form.
pub const MAP_HEAD: &str = "Offset          Length          Mapped to       File\n";

/// What a record cannot be shown as in human form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

/// Renders records.
#[derive(Debug)]
pub struct MapLines {
    /// JSON; else human.
    json: bool,
    started: bool,
    /// What JSON lines say of a record's bits, by the bits: there are hundreds of thousands of lines, and few kinds.
    said: Vec<String>,
}

impl MapLines {
    /// Nothing is shown yet.
    #[must_use]
    pub fn new(version: QemuVersion, json: bool) -> Self {
        let said = if json { (0..HAS_OFFSET).map(|bits| said(version, bits)).collect() } else { Vec::new() };
        Self { json, started: false, said }
    }

    /// Adds the lines of whole records to `out`. `file` names a file by its number, fit to be shown.
    ///
    /// # Errors
    /// A stored range without a plain place cannot be shown in human form.
    pub fn add<'f>(&mut self, records: &[u8], file: &dyn Fn(u16) -> &'f str, out: &mut String) -> Result<(), NoPlace> {
        for bytes in records.as_chunks::<{ MapRecord::LEN }>().0 {
            let record = MapRecord::from_bytes(*bytes);
            if self.json { self.json_line(&record, out) } else { human_line(&record, file, out)? }
        }
        Ok(())
    }

    /// What comes after the last record.
    pub fn end(&self, out: &mut String) {
        if self.json {
            out.push_str("]\n");
        }
    }

    /// What comes after the last record where no more could be told.
    pub fn broken_off(&self, out: &mut String) {
        if self.json {
            out.push_str(if self.started { ",\n" } else { "[" });
        }
    }

    fn json_line(&mut self, record: &MapRecord, out: &mut String) {
        out.push_str(if self.started { ",\n{ \"start\": " } else { "[{ \"start\": " });
        self.started = true;
        let mut digits = Buffer::new();
        out.push_str(digits.format(record.start));
        out.push_str(", \"length\": ");
        out.push_str(digits.format(record.len));
        out.push_str(", \"depth\": ");
        out.push_str(digits.format(record.depth));
        out.push_str(&self.said[usize::from(record.bits & (HAS_OFFSET - 1))]);
        if record.has(HAS_OFFSET) {
            out.push_str(", \"offset\": ");
            out.push_str(digits.format(record.offset));
        }
        out.push('}');
    }
}

/// The part of a JSON line between the depth and the offset, for records with these bits.
fn said(version: QemuVersion, bits: u16) -> String {
    let told = [
        ("present", PRESENT, version.map_has_present()),
        ("zero", ZERO, true),
        ("data", DATA, true),
        ("compressed", COMPRESSED, version.map_has_compressed()),
    ];
    told.iter().filter(|(_, _, told)| *told).map(|(key, bit, _)| format!(", \"{key}\": {}", bits & bit != 0)).collect()
}

fn human_line<'f>(record: &MapRecord, file: &dyn Fn(u16) -> &'f str, out: &mut String) -> Result<(), NoPlace> {
    if record.has(DATA) && !record.has(HAS_OFFSET) {
        return Err(NoPlace);
    }
    if record.has(DATA) && !record.has(ZERO) {
        let hex = |n: u64| if n == 0 { "0".to_string() } else { format!("{n:#x}") };
        let (start, len, offset) = (hex(record.start), hex(record.len), hex(record.offset));
        let name = file(record.file);
        let _ = writeln!(out, "{start:<16}{len:<16}{offset:<16}{name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(start: u64, len: u64, offset: u64, depth: u32, bits: u16) -> [u8; MapRecord::LEN] {
        MapRecord { start, len, offset, depth, bits, file: 0 }.to_bytes()
    }

    #[test]
    fn json_of_every_release() {
        let line = |version: &str| {
            let mut lines = MapLines::new(version.parse().expect("a version"), true);
            let mut out = String::new();
            lines.add(&record(0, 512, 1024, 1, PRESENT | DATA | HAS_OFFSET), &|_| "", &mut out).expect("plain");
            lines.end(&mut out);
            out
        };
        let old =
            "[{ \"start\": 0, \"length\": 512, \"depth\": 1, \"zero\": false, \"data\": true, \"offset\": 1024}]\n";
        assert_eq!(line("5.2.0"), old);
        assert_eq!(line("7.2.22"), old.replace("1, \"zero", "1, \"present\": true, \"zero"));
        assert_eq!(
            line("10.0.2"),
            old.replace("1, \"zero", "1, \"present\": true, \"zero")
                .replace("true, \"off", "true, \"compressed\": false, \"off")
        );
    }

    #[test]
    fn compressed_ranges_have_no_human_form() {
        let mut lines = MapLines::new("10.0.2".parse().expect("a version"), false);
        let mut out = String::new();
        let records = [record(0, 16, 0x5000, 0, DATA | HAS_OFFSET), record(16, 16, 0, 0, DATA | COMPRESSED)].concat();
        assert_eq!(lines.add(&records, &|_| "a", &mut out), Err(NoPlace));
        assert_eq!(out, "0               0x10            0x5000          a\n");
    }
}
