//! One line of JSON for each run, where that is asked for: for audits and metrics (docs/report.schema.json).
//!
//! It is opened before the lock-down and written by one call at the end, so that lines of several programs do not mix.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use instar_render::QemuVersion;
use instar_vmm::{Isolation, standard, tally};
use serde_json::{Value, json};

use crate::commands::Command;
use crate::config::Config;
use crate::config::settings::{REPORT, REPORT_FORMAT};
use crate::getopt::Parsed;
use crate::image_name::ImageName;
use crate::program::plain;

/// Where the kernel's messages are taken, too.
const SYSLOG: &str = "/dev/log";
/// Images that are listed, and what is kept of each name, in characters.
const IMAGES_MAX: usize = 64;
const NAME_MAX: usize = 1024;

enum Out {
    File(File),
    Syslog(UnixDatagram),
}

/// The report of this run.
pub struct Report {
    out: Out,
    rfc5424: bool,
    program: &'static str,
    command: &'static str,
    images: Vec<String>,
    version: QemuVersion,
    begun: (SystemTime, Instant),
    pid: u32,
    limits: Mutex<Vec<Value>>,
}

/// Where a report goes, as it is said: whether that makes sense.
pub fn check(text: &str) -> Result<(), String> {
    match text.strip_prefix("fd:") {
        Some(number) => number.parse::<u16>().map(drop).map_err(|_| format!("'{number}' is no descriptor's number")),
        None if text.is_empty() => Err("it names no file".to_string()),
        None => Ok(()),
    }
}

fn open(text: &OsStr) -> io::Result<Out> {
    if let Some(number) = text.to_str().and_then(|text| text.strip_prefix("fd:")) {
        let number = number.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        return standard::inherited(number).map(|fd| Out::File(fd.into()));
    }
    if text == "syslog" {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SYSLOG)?;
        // A log that nobody empties is no reason to wait.
        socket.set_nonblocking(true)?;
        return Ok(Out::Syslog(socket));
    }
    const READABLE_BY_GROUP: u32 = 0o640;
    // A pipe that nobody reads is an error, and not waited for.
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits().cast_signed();
    let options =
        OpenOptions::new().append(true).create(true).mode(READABLE_BY_GROUP).custom_flags(flags).open(text)?;
    Ok(Out::File(options))
}

impl Report {
    /// The one that is configured, if any.
    ///
    /// # Errors
    /// In words.
    pub fn configured(
        config: &Config,
        (program, version): (&'static str, QemuVersion),
        command: &'static Command,
        parsed: &Parsed,
    ) -> Result<Option<Self>, String> {
        let Some(said) = config.origin(REPORT) else { return Ok(None) };
        let place = said.values.last().map(std::ffi::OsString::as_os_str).unwrap_or_default();
        let shown = instar_render::escape::terminal(place.as_encoded_bytes());
        let out = open(place)
            .map_err(|e| format!("{REPORT} (from {}): '{shown}' cannot be opened: {}", said.origin, plain(&e)))?;
        let format = config.origin(REPORT_FORMAT).and_then(|said| said.values.last());
        Ok(Some(Self {
            out,
            rfc5424: format.is_some_and(|format| format == "rfc5424"),
            program,
            command: command.name,
            images: images(command, parsed, version),
            version,
            begun: (SystemTime::now(), Instant::now()),
            pid: std::process::id(),
            limits: Mutex::default(),
        }))
    }

    /// A limit was reached.
    pub fn limit(&self, name: &str, flag: &str, value: &str) {
        let limit = json!({"name": name, "flag": flag, "value": value});
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).push(limit);
    }

    fn line(&self, status: u8) -> (String, bool) {
        let tally = tally::now();
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_event = tally.refused > 0 || !limits.is_empty();
        let names: Vec<String> = tally.names.iter().map(|name| shortened(&String::from_utf8_lossy(name))).collect();
        let isolation = tally.isolation.map(|place| if place == Isolation::Kvm { "kvm" } else { "process" });
        let line = json!({
            "schema": 1,
            "time": utc(self.begun.0),
            "program": self.program,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": self.pid,
            "command": self.command,
            "images": self.images,
            "isolation": isolation,
            "release": self.version.imitated_as().to_string(),
            "refused": tally.refused,
            "refused_names": names,
            "limits": limits,
            "read_bytes": tally.read,
            "written_bytes": tally.written,
            "seconds": rounded(self.begun.1.elapsed()),
            "cpu_seconds": rounded(tally.cpu),
            "peak_memory_bytes": tally.peak,
            "exit": status,
        });
        (ascii(&line.to_string()), is_event)
    }

    /// Writes it, by one call.
    ///
    /// # Errors
    /// The system's; or not all of it was taken.
    pub fn write(&self, status: u8) -> io::Result<()> {
        let (line, is_event) = self.line(status);
        // RFC 5424: facility user, and error, warning or informational.
        let severity = match status {
            _ if is_event => 4,
            0 => 6,
            _ => 3,
        };
        let priority = 8 + severity;
        let pid = self.pid;
        let mut bytes = match (&self.out, self.rfc5424) {
            (_, true) => format!("<{priority}>1 {} - instar {pid} run - {line}", utc(self.begun.0)),
            (Out::Syslog(_), false) => format!("<{priority}>instar[{pid}]: {line}"),
            (Out::File(_), false) => line,
        };
        let written = match &self.out {
            Out::Syslog(socket) => socket.send(bytes.as_bytes())?,
            Out::File(file) => {
                bytes.push('\n');
                let mut file = file;
                file.write(bytes.as_bytes())?
            }
        };
        if written == bytes.len() { Ok(()) } else { Err(io::Error::other("only a part of it was taken")) }
    }
}

/// The images as they were named: the file where options name it, as others may say what is secret.
fn images(command: &Command, parsed: &Parsed, version: QemuVersion) -> Vec<String> {
    let spec: Vec<&str> =
        command.operands.split(' ').filter(|word| word.contains("FILE") || *word == "TARGET").collect();
    let count = match spec.len() {
        0 => 0,
        1 if command.operands.starts_with("FILE") => 1,
        _ => IMAGES_MAX,
    };
    let as_options = parsed.has("image-opts") || parsed.has("target-image-opts");
    let shown = |word: &OsStr| {
        let text = word.to_string_lossy();
        if command.name == "dd" {
            return text.strip_prefix("if=").or(text.strip_prefix("of=")).map(ToString::to_string);
        }
        let named = match () {
            () if as_options && text.contains('=') => ImageName::from_options(word, version),
            () if text.starts_with("json:") => ImageName::plain(word, None, version),
            () => return Some(text.into_owned()),
        };
        Some(named.map_or_else(|_| "?".to_string(), |image| image.path.to_string_lossy().into_owned()))
    };
    parsed.operands.iter().take(count).filter_map(|word| shown(word)).map(|name| shortened(&name)).collect()
}

fn shortened(name: &str) -> String {
    name.chars().take(NAME_MAX).collect()
}

fn rounded(time: Duration) -> f64 {
    const PARTS: f64 = 1e6;
    (time.as_secs_f64() * PARTS).round() / PARTS
}

/// The line without what a terminal or a log could take for something else than letters; JSON has such characters in texts only.
fn ascii(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            plain.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| plain += &format!("\\u{unit:04x}"));
        }
    }
    plain
}

/// A time as RFC 3339 has it.
fn utc(time: SystemTime) -> String {
    const DAY: u64 = 86_400;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / DAY, since.as_secs() % DAY);
    // Years that begin in March, so that the day that only some have is their last; eras of 400 of them.
    let from_era = days + 719_468;
    let (era, day) = (from_era / 146_097, from_era % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date_1() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799, "2024-02-28T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_line_is_plain_letters() {
        let line = ascii(&json!(["a\u{1b}[2J\n", "\u{202e}x", "\u{1f600}", "\u{7f}"]).to_string());
        assert_eq!(line, r#"["a\u001b[2J\n","\u202ex","\ud83d\ude00","\u007f"]"#);
    }

    #[test]
    fn a_descriptor_has_a_number() {
        assert!(check("fd:3").is_ok() && check("/var/log/instar").is_ok() && check("syslog").is_ok());
        assert!(check("fd:x").is_err() && check("fd:").is_err() && check("fd:-1").is_err() && check("").is_err());
    }
}
