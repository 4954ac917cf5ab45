//! Arguments as GNU `getopt_long` reads them: options after file names, `-fraw`, `-pq`, `--opt=value`, unambiguous
//! beginnings of long names, `--`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// One option. Everything else about options (help, man page, completions) derives from lists of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// `--long`; empty for none.
    pub long: &'static str,
    /// What else it is called: `source-image-opts`, or `B` for `-B`. Taken, never shown.
    pub also: &'static [&'static str],
    /// `-s`.
    pub short: Option<char>,
    /// What the argument is called; none for a switch.
    pub argument: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
    /// Only under the own name: the stock tool does not know it.
    pub own: bool,
    /// The first release that knows it.
    pub since: (u32, u32),
    /// The first release that knows its letter; before it another name of one letter was shown.
    pub letter_since: (u32, u32),
    /// Its argument need not be UTF-8.
    pub bytes: bool,
}

impl Opt {
    /// A switch.
    #[must_use]
    pub const fn flag(long: &'static str, help: &'static str) -> Self {
        Self {
            long,
            also: &[],
            short: None,
            argument: None,
            help,
            own: false,
            since: (0, 0),
            letter_since: (0, 0),
            bytes: false,
        }
    }

    /// Not known to the stock tool.
    #[must_use]
    pub const fn own(self) -> Self {
        Self { own: true, ..self }
    }

    /// Known from that release on.
    #[must_use]
    pub const fn since(self, since: (u32, u32)) -> Self {
        Self { since, ..self }
    }

    /// With a letter that is known from that release on.
    #[must_use]
    pub const fn letter_since(self, letter: char, release: (u32, u32)) -> Self {
        Self { short: Some(letter), letter_since: release, ..self }
    }

    /// As that release has it, if it has it.
    #[must_use]
    pub fn of_release(mut self, release: (u32, u32)) -> Option<Self> {
        if release < self.letter_since {
            self.short = self.also.iter().filter(|name| name.len() == 1).find_map(|name| name.chars().next());
        }
        (self.since <= release).then_some(self)
    }

    /// One with an argument.
    #[must_use]
    pub const fn value(long: &'static str, argument: &'static str, help: &'static str) -> Self {
        Self {
            long,
            also: &[],
            short: None,
            argument: Some(argument),
            help,
            own: false,
            since: (0, 0),
            letter_since: (0, 0),
            bytes: false,
        }
    }

    /// With an argument of any bytes.
    #[must_use]
    pub const fn bytes(self) -> Self {
        Self { bytes: true, ..self }
    }

    /// With a letter.
    #[must_use]
    pub const fn letter(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// With other names.
    #[must_use]
    pub const fn also(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }

    fn checked(&self, argument: OsString) -> Result<OsString, Wrong> {
        if self.bytes || argument.to_str().is_some() {
            return Ok(argument);
        }
        let long = (!self.long.is_empty()).then(|| format!("--{}", self.long));
        Err(Wrong::NotText(self.short.map(|letter| format!("-{letter}")).or(long).unwrap_or_default()))
    }

    fn has_short(&self, letter: char) -> bool {
        self.short == Some(letter) || self.also.iter().any(|name| name.chars().eq([letter]))
    }

    fn has_long(&self, name: &str) -> bool {
        name.len() > 1 && (self.long == name || self.also.contains(&name))
    }

    /// The name by which the program asks for it.
    #[must_use]
    pub fn key(&self) -> String {
        if self.long.is_empty() { self.short.map_or_else(String::new, String::from) } else { self.long.to_string() }
    }
}

/// What was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    options: Vec<(String, OsString)>,
    /// File names and the like, in order.
    pub operands: Vec<OsString>,
}

impl Parsed {
    /// The option was given.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.options.iter().any(|(k, _)| k == key)
    }

    /// The last argument given for it.
    #[must_use]
    pub fn last(&self, key: &str) -> Option<&OsStr> {
        self.options.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_os_str())
    }

    /// The same as text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.last(key).map(|v| v.to_string_lossy().into_owned())
    }

    /// These options and, before them, those of `earlier`.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        self.options.splice(..0, earlier.options.iter().cloned());
        self
    }

    /// All options with their arguments, in order.
    pub fn each(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.options.iter().map(|(k, v)| (k.as_str(), v.as_os_str()))
    }

    /// All arguments given for it, in order, which are then no longer here.
    pub fn take(&mut self, key: &str) -> Vec<OsString> {
        self.options.extract_if(.., |(k, _)| k == key).map(|(_, v)| v).collect()
    }

    /// All arguments given for it, in order.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &OsStr> {
        self.options.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_os_str())
    }
}

/// What is wrong with the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No such option: as typed, with its dashes.
    Unknown(String),
    /// Several long names begin like that.
    Ambiguous(String, Vec<&'static str>),
    /// Its argument is missing: `-f` or `--format`.
    Missing(String),
    /// A switch was given an argument.
    Unwanted(String, String),
    /// Its argument is not UTF-8: it would not be taken as it was meant.
    NotText(String),
}

/// Reads `arguments` by `options`. Where a number may come last (`resize FILE -1G`) it may be negative, and is an operand.
///
/// # Errors
/// The first thing wrong.
pub fn parse(arguments: &[OsString], options: &[&Opt], number_last: bool) -> Result<Parsed, Wrong> {
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            parsed.operands.extend(rest.cloned());
            break;
        }
        if let Some(long) = bytes.strip_prefix(b"--") {
            let (name, value) = match long.iter().position(|b| *b == b'=') {
                Some(at) => (&long[..at], Some(OsString::from_vec(long[at + 1..].to_vec()))),
                None => (long, None),
            };
            let typed = String::from_utf8_lossy(bytes).into_owned();
            let option = find_long(&String::from_utf8_lossy(name), typed, options)?;
            let value = match (option.argument, value) {
                (None, None) => OsString::new(),
                (None, Some(_)) => {
                    let typed = format!("--{}", String::from_utf8_lossy(long));
                    return Err(Wrong::Unwanted(format!("--{}", option.long), typed));
                }
                (Some(_), Some(value)) => value,
                (Some(_), None) => rest.next().cloned().ok_or_else(|| Wrong::Missing(format!("--{}", option.long)))?,
            };
            parsed.options.push((option.key(), option.checked(value)?));
        } else if bytes.len() > 1 && bytes[0] == b'-' && !(number_last && rest.len() == 0 && bytes[1].is_ascii_digit())
        {
            cluster(&bytes[1..], &mut rest, options, &mut parsed)?;
        } else {
            parsed.operands.push(argument.clone());
        }
    }
    Ok(parsed)
}

fn cluster<'a>(
    letters: &[u8],
    rest: &mut impl Iterator<Item = &'a OsString>,
    options: &[&Opt],
    parsed: &mut Parsed,
) -> Result<(), Wrong> {
    for (i, letter) in letters.iter().enumerate() {
        let letter = char::from(*letter);
        let option =
            options.iter().find(|o| o.has_short(letter)).ok_or_else(|| Wrong::Unknown(format!("-{letter}")))?;
        if option.argument.is_none() {
            parsed.options.push((option.key(), OsString::new()));
            continue;
        }
        let value = match &letters[i + 1..] {
            [] => rest.next().cloned().ok_or_else(|| Wrong::Missing(format!("-{letter}")))?,
            attached => OsString::from_vec(attached.to_vec()),
        };
        parsed.options.push((option.key(), option.checked(value)?));
        break;
    }
    Ok(())
}

fn find_long<'o>(name: &str, typed: String, options: &[&'o Opt]) -> Result<&'o Opt, Wrong> {
    if let Some(exact) = options.iter().find(|o| o.has_long(name)) {
        return Ok(exact);
    }
    let begins = |o: &Opt| o.also.iter().any(|other| other.len() > 1 && other.starts_with(name));
    let begun: Vec<&Opt> = options
        .iter()
        .copied()
        .filter(|o| !name.is_empty() && !o.long.is_empty() && (o.long.starts_with(name) || begins(o)))
        .collect();
    match begun[..] {
        [] => Err(Wrong::Unknown(typed)),
        [one] => Ok(one),
        _ => Err(Wrong::Ambiguous(typed, begun.iter().map(|o| o.long).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Opt = Opt::value("format", "FMT", "").letter('f');
    const FORCE: Opt = Opt::flag("force-share", "").letter('U');
    const PROGRESS: Opt = Opt::flag("", "").letter('p').also(&["P", "progress"]);
    const QUIET: Opt = Opt::flag("quiet", "").letter('q');

    fn go(arguments: &[&str]) -> Result<Parsed, Wrong> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        parse(&arguments, &[&FORMAT, &FORCE, &PROGRESS, &QUIET], false)
    }

    #[test]
    fn a_negative_number_is_an_operand_only_where_one_may_come_last() {
        let parse = |words: &[&str], number_last| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            parse(&words, &[&FORMAT], number_last).map(|parsed| parsed.operands)
        };
        assert_eq!(parse(&["x", "-1G"], true), Ok(vec!["x".into(), "-1G".into()]));
        assert_eq!(parse(&["x", "-1G"], false), Err(Wrong::Unknown("-1".into())));
        assert_eq!(parse(&["-1G", "x"], true), Err(Wrong::Unknown("-1".into())));
        assert_eq!(parse(&["--", "-1"], false), Ok(vec!["-1".into()]));
    }

    #[test]
    fn options_may_follow_operands_and_values_may_be_attached() {
        let parsed = go(&["x", "-fraw", "y", "-pq", "--force-s", "--format=a", "-f", "b", "--", "-z"]).expect("valid");
        assert_eq!(parsed.operands, ["x", "y", "-z"]);
        assert!(go(&["-P"]).expect("valid").has("p") && go(&["--progress"]).expect("valid").has("p"));
        assert!(parsed.has("p") && parsed.has("quiet") && parsed.has("force-share"));
        assert_eq!(parsed.text("format").as_deref(), Some("b"));
        assert_eq!(parsed.all("format").count(), 3);
    }

    #[test]
    fn what_is_wrong_is_told_as_typed() {
        assert_eq!(go(&["--nosuch=1"]), Err(Wrong::Unknown("--nosuch=1".into())));
        assert_eq!(go(&["-pZ"]), Err(Wrong::Unknown("-Z".into())));
        assert_eq!(go(&["-f"]), Err(Wrong::Missing("-f".into())));
        assert_eq!(go(&["--form"]), Err(Wrong::Missing("--format".into())));
        assert_eq!(go(&["--fo"]), Err(Wrong::Ambiguous("--fo".into(), vec!["format", "force-share"])));
        assert_eq!(go(&["--quiet=x"]), Err(Wrong::Unwanted("--quiet".into(), "--quiet=x".into())));
    }

    #[test]
    fn the_last_one_wins_wherever_it_stands() {
        let parsed = go(&["-f", "late"]).expect("valid").after(&go(&["-qf", "early"]).expect("valid"));
        assert!(parsed.has("quiet"));
        assert_eq!(parsed.text("format").as_deref(), Some("late"));
        assert_eq!(parsed.all("format").count(), 2);
    }

    #[test]
    fn a_lone_dash_is_an_operand() {
        assert_eq!(go(&["-"]).expect("valid").operands, ["-"]);
    }

    #[test]
    fn what_is_no_text_is_not_taken_for_another() {
        let name = || OsString::from_vec(b"caf\xe9".to_vec());
        let given = |option: &Opt, arguments: &[OsString]| parse(arguments, &[option], false);
        let long = OsString::from_vec(b"--format=caf\xe9".to_vec());
        for arguments in [vec!["-f".into(), name()], vec![long]] {
            assert_eq!(given(&FORMAT, &arguments), Err(Wrong::NotText("-f".into())));
            let parsed = given(&FORMAT.bytes(), &arguments).expect("it may be bytes");
            assert_eq!(parsed.last("format"), Some(name().as_os_str()));
        }
        assert_eq!(given(&FORMAT, &[name()]).map(|parsed| parsed.operands), Ok(vec![name()]));
    }
}
