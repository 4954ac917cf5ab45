//! Which qemu-img is imitated, and everything in the host half that depends on it, in one table.

use std::fmt;
use std::str::FromStr;

/// A release of qemu-img.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// 11 of 11.1.3.
    pub major: u32,
    /// 1 of 11.1.3.
    pub minor: u32,
    /// 3 of 11.1.3.
    pub patch: u32,
}

impl Default for QemuVersion {
    /// The newest that is known.
    fn default() -> Self {
        Self { major: 11, minor: 1, patch: 3 }
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for QemuVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no qemu-img version: X.Y or X.Y.Z is");
        let numbers: Vec<u32> =
            text.split('.').map(|part| part.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        match numbers[..] {
            [major, minor] => Ok(Self { major, minor, patch: 0 }),
            [major, minor, patch] => Ok(Self { major, minor, patch }),
            _ => Err(wrong()),
        }
    }
}

/// How a snapshot table looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotTable {
    /// Up to 6.0: columns may touch.
    Touching,
    /// Up to 8.2: `VM SIZE`, two-digit hours.
    Spaced,
    /// From 9.0: `VM_SIZE`, four-digit hours.
    Underscored,
}

/// How a usage error looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageStyle {
    /// `qemu-img: unrecognized option '--x'` / `Try 'qemu-img --help' for more information`
    General,
    /// `qemu-img info: ...` / `Try 'qemu-img info --help' for more info`
    CommandInfo,
    /// `qemu-img info: ...` / `Try 'qemu-img info --help' for more information`
    CommandInformation,
}

/// The releases that are known: the first number, and which second numbers there are.
const SERIES: [(u32, std::ops::RangeInclusive<u32>); 7] =
    [(5, 2..=2), (6, 0..=2), (7, 0..=2), (8, 0..=2), (9, 0..=2), (10, 0..=2), (11, 0..=1)];

impl QemuVersion {
    /// The known release that this one is imitated as: the last one before it, or else the first.
    #[must_use]
    pub fn imitated_as(self) -> Self {
        let known = SERIES.into_iter().flat_map(|(major, minors)| minors.map(move |minor| (major, minor)));
        let before = known.take_while(|release| *release <= (self.major, self.minor)).last();
        let (major, minor) = before.unwrap_or((SERIES[0].0, *SERIES[0].1.start()));
        Self { major, minor, ..self }
    }

    const fn at_least(self, major: u32, minor: u32) -> bool {
        self.major > major || (self.major == major && self.minor >= minor)
    }

    /// `info` shows child nodes.
    #[must_use]
    pub const fn has_children(self) -> bool {
        self.at_least(8, 0)
    }

    /// See [`SnapshotTable`].
    #[must_use]
    pub const fn snapshot_table(self) -> SnapshotTable {
        match self.major {
            0..=5 => SnapshotTable::Touching,
            6..=8 => SnapshotTable::Spaced,
            _ => SnapshotTable::Underscored,
        }
    }

    /// See [`UsageStyle`].
    #[must_use]
    pub const fn usage(self) -> UsageStyle {
        match (self.major, self.minor) {
            (0..=9, _) => UsageStyle::General,
            (10, 0) => UsageStyle::CommandInfo,
            _ => UsageStyle::CommandInformation,
        }
    }

    /// The help lists formats in lines of their own.
    #[must_use]
    pub const fn wraps_formats(self) -> bool {
        self.at_least(10, 0)
    }

    /// The year in the copyright line.
    #[must_use]
    pub const fn copyright_year(self) -> u32 {
        match self.major {
            0..=5 => 2020,
            6 => 2021,
            7 => 2022,
            8 => 2023,
            9 => 2024,
            10 => 2025,
            _ => 2026,
        }
    }

    /// What follows `--output` with something else than `human` or `json`.
    #[must_use]
    pub fn bad_output(self, given: &str) -> String {
        match self.usage() {
            UsageStyle::General => "--output must be used with human or json as argument.".to_string(),
            UsageStyle::CommandInfo => format!("--output expects 'human' or 'json' not '{given}'"),
            UsageStyle::CommandInformation => format!("--output expects 'human' or 'json', not '{given}'"),
        }
    }

    /// What follows `--repair` with something else than `leaks` or `all`.
    #[must_use]
    pub fn bad_repair(self, given: &str) -> String {
        match self.usage() {
            UsageStyle::General => format!("Unknown option value for -r (expecting 'leaks' or 'all'): {given}"),
            UsageStyle::CommandInfo => format!("--repair (-r) expects 'leaks' or 'all' not '{given}'"),
            UsageStyle::CommandInformation => format!("--repair (-r) expects 'leaks' or 'all', not '{given}'"),
        }
    }

    /// What is said of a number that is no size; `what` is `buffer size for sparse output` or the like.
    #[must_use]
    pub fn bad_size(self, what: &str, given: &str) -> String {
        match self.usage() {
            UsageStyle::General => format!(
                "Invalid {what} specified. You may use k, M, G, T, P or E suffixes for\n\
                 qemu-img: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes."
            ),
            UsageStyle::CommandInfo => format!("Invalid {what} specified: '{given}'."),
            UsageStyle::CommandInformation => format!("Invalid {what} specified: '{given}'"),
        }
    }

    /// `dd` takes `count=1k` and `skip=1k`: all but the releases in between.
    #[must_use]
    pub const fn counts_blocks_in_suffixes(self) -> bool {
        !self.at_least(10, 0) || self.at_least(10, 1)
    }

    /// `map` says whether a range is in any layer.
    #[must_use]
    pub const fn map_has_present(self) -> bool {
        self.at_least(6, 1)
    }

    /// `map` says whether a range is compressed.
    #[must_use]
    pub const fn map_has_compressed(self) -> bool {
        self.at_least(8, 2)
    }

    /// A size below zero is a number out of range; in between it was no number at all.
    #[must_use]
    pub const fn reads_negative_sizes(self) -> bool {
        !self.at_least(6, 0) || self.at_least(10, 0)
    }

    /// What is said of `--image-opts` that names a node: there are none in a tool.
    #[must_use]
    pub fn no_node(self, name: &str) -> String {
        if self.at_least(6, 0) {
            format!("Cannot find device='{name}' nor node-name='{name}'")
        } else {
            format!("Cannot find device={name} nor node_name={name}")
        }
    }

    /// What is said of JSON that does not parse; `line` and `column` count from 1.
    #[must_use]
    pub fn json_error(self, ended: bool, line: usize, column: usize) -> String {
        match (self.at_least(11, 0), ended) {
            (true, true) => format!("{line}:{column}: JSON parse error, premature end of input"),
            (true, false) => format!("{line}:{column}: JSON parse error, expecting value"),
            (false, true) => "JSON parse error, premature EOI".to_string(),
            (false, false) => "JSON parse error, expecting value".to_string(),
        }
    }

    /// What is said of a type of `--object` that there is not.
    #[must_use]
    pub fn bad_object(self, kind: &str) -> String {
        if self.at_least(6, 0) {
            format!("Parameter 'qom-type' does not accept value '{kind}'")
        } else {
            format!("invalid object type: {kind}")
        }
    }

    /// Objects are typed (QAPI): what they are made of is checked before anything else.
    #[must_use]
    pub fn has_typed_objects(self) -> bool {
        self.at_least(6, 0)
    }

    /// What is said of a property that an object does not have.
    #[must_use]
    pub fn unexpected_property(self, kind: &str, name: &str) -> String {
        if !self.has_typed_objects() {
            return format!("Property '{kind}.{name}' not found");
        }
        match name.split_once('.') {
            Some((group, _)) => format!("Parameters '{group}.*' are unexpected"),
            None => format!("Parameter '{name}' is unexpected"),
        }
    }

    /// What is said of a value that is none of those that a parameter can have.
    #[must_use]
    pub fn bad_choice(self, name: &str, value: &str) -> String {
        if self.has_typed_objects() {
            format!("Parameter '{name}' does not accept value '{value}'")
        } else {
            format!("Invalid parameter '{value}'")
        }
    }

    /// What is said of a second object of that name.
    #[must_use]
    pub fn duplicate_object(self, id: &str) -> String {
        if self.has_typed_objects() {
            format!("attempt to add duplicate property '{id}' to object (type 'container')")
        } else {
            format!("Duplicate ID '{id}' for object")
        }
    }

    /// What is said of a number of coroutines that is none from 1 to 16; `number` where it is a number at all.
    #[must_use]
    pub fn bad_parallel(self, given: &str, number: bool) -> String {
        match self.usage() {
            UsageStyle::General => {
                "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16".to_string()
            }
            _ if number => "Invalid number of coroutines specified. Must be between 1 and 16.".to_string(),
            UsageStyle::CommandInfo => format!("Invalid number of coroutines specified: '{given}'."),
            UsageStyle::CommandInformation => format!("Invalid number of coroutines specified: '{given}'"),
        }
    }

    /// What is said of a folder where a file should be.
    #[must_use]
    pub fn folder(self, name: &str) -> String {
        if self.at_least(6, 1) {
            format!("'file' driver requires '{name}' to be a regular file")
        } else {
            "A regular file was expected by the 'file' driver, but something else was given".to_string()
        }
    }

    /// A message ends with its line: 7.2 forgot to end this one.
    #[must_use]
    pub fn ends_line(self, message: &str) -> bool {
        let last = message.lines().last().unwrap_or_default();
        !(self.at_least(6, 1) && !self.at_least(8, 0) && last.starts_with("Detected format of "))
    }

    /// Sizes may be written as `1e3`.
    #[must_use]
    pub const fn reads_exponents(self) -> bool {
        !self.at_least(6, 0)
    }

    /// An image may be made over a data file that is there.
    #[must_use]
    pub const fn keeps_data_files(self) -> bool {
        self.at_least(11, 1)
    }

    /// `convert -B` needs `-F`.
    #[must_use]
    pub const fn needs_backing_format(self) -> bool {
        self.at_least(6, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_is_not_known_is_the_one_before() {
        for (given, known) in [
            ("9.9", (9, 2)),
            ("10.2.7", (10, 2)),
            ("11.1.3", (11, 1)),
            ("50.1", (11, 1)),
            ("4.1", (5, 2)),
            ("6.3", (6, 2)),
        ] {
            let found: QemuVersion = given.parse().expect("two numbers");
            let found = found.imitated_as();
            assert_eq!((found.major, found.minor), known, "{given}");
        }
        let newest = QemuVersion::default();
        assert_eq!(newest.imitated_as(), newest);
    }

    #[test]
    fn versions_are_two_or_three_numbers() {
        assert_eq!("10.0".parse(), Ok(QemuVersion { major: 10, minor: 0, patch: 0 }));
        assert_eq!("7.2.22".parse(), Ok(QemuVersion { major: 7, minor: 2, patch: 22 }));
        for wrong in ["", "10", "10.x", "1.2.3.4", "-1.0"] {
            assert!(wrong.parse::<QemuVersion>().is_err(), "{wrong}");
        }
    }
}
