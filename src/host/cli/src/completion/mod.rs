//! What may be typed at the end of a command line. A shell asks for it with the words so far and shows what is offered, so
//! that there is one place that knows, and it knows of this version, and of the release that is imitated.

mod keyed;
pub mod shells;
mod values;

use std::ffi::OsString;
use std::path::Path;

use crate::STANDARD;
use crate::commands::{self, COMMANDS, COMMON, Command, options_of};
use crate::config::SETTINGS;
use crate::config::profiles::PROFILES;
use crate::config::settings::{Kind, by_key};
use crate::getopt::{self, Opt, Parsed, Wrong};
use crate::help::taken_as;
use crate::program::Program;

/// What may come, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// One of these words, each with what it is.
    Words(Vec<(String, String)>),
    /// The name of a file.
    File,
    /// The name of a directory.
    Folder,
}

impl Next {
    /// Words that say it all.
    fn plain<T: ToString>(words: impl IntoIterator<Item = T>) -> Self {
        Self::Words(words.into_iter().map(|word| (word.to_string(), String::new())).collect())
    }

    /// Nobody knows.
    const fn nothing() -> Self {
        Self::Words(Vec::new())
    }
}

/// What is offered for the last word.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// What of the word stays as it is.
    stem: String,
    /// What may stand behind it.
    next: Next,
}

impl Offer {
    fn of(next: Next) -> Self {
        Self { stem: String::new(), next }
    }

    /// The same behind what stands there already.
    fn behind(mut self, before: &str) -> Self {
        self.stem.insert_str(0, before);
        self
    }

    /// As the shells read it: of what kind, the stem, and a line a word. Only what begins as `word` does is told.
    pub fn lines(&self, word: &str) -> String {
        let kind = match self.next {
            Next::Words(_) => "words",
            Next::File => "file",
            Next::Folder => "folder",
        };
        let mut text = format!("{kind}\n{}\n", self.stem);
        if let (Next::Words(words), Some(begun)) = (&self.next, word.strip_prefix(&self.stem)) {
            for (word, about) in words.iter().filter(|(word, _)| word.starts_with(begun)) {
                text += &format!("{word}\t{about}\n");
            }
        }
        text
    }
}

/// A command line: what it is called by, and what is known of it.
struct Line<'p> {
    program: &'p Program,
    /// As the stock tool.
    stock: bool,
    command: Option<&'static Command>,
    parsed: Parsed,
}

/// What may stand instead of the last of the words. The first is the program's name.
pub fn offer(program: &Program, words: &[OsString]) -> Offer {
    let [name, before @ .., last] = words else { return Offer::of(Next::nothing()) };
    let stock = Path::new(name).file_name().is_some_and(|name| name == "qemu-img");
    let last = last.to_string_lossy();
    let mut line = Line { program, stock, command: None, parsed: Parsed::default() };
    let standard = line.options();
    let at = crate::command_at(before, &standard.iter().collect::<Vec<_>>());
    let behind = match before.get(at) {
        Some(word) => {
            line.command = commands::by_name(&word.to_string_lossy(), stock);
            if line.command.is_none() {
                return Offer::of(Next::nothing());
            }
            &before[at + 1..]
        }
        None => before,
    };
    let options = line.options();
    match getopt::parse(behind, &options.iter().collect::<Vec<_>>(), false) {
        Ok(parsed) => line.parsed = parsed,
        Err(Wrong::Missing(typed)) => {
            let named = |option: &&Opt| option.short.is_some_and(|letter| typed == format!("-{letter}"));
            let option = options.iter().find(|o| named(o) || typed == format!("--{}", o.long));
            // What stands in front of it is complete.
            let complete = behind.split_last().map_or(behind, |(_, complete)| complete);
            line.parsed = getopt::parse(complete, &options.iter().collect::<Vec<_>>(), false).unwrap_or_default();
            return option.map_or(Offer::of(Next::nothing()), |option| line.value(option, &last));
        }
        Err(_) => {}
    }
    if last.starts_with('-') && !behind.iter().any(|word| word == "--") {
        return line.option(&options, &last);
    }
    line.operand(&last)
}

impl Line<'_> {
    /// The options that the command has, or those that may stand in front of one.
    fn options(&self) -> Vec<Opt> {
        let release = (self.program.version.major, self.program.version.minor);
        match self.command {
            Some(command) => taken_as(self.stock, release, options_of(command).into_iter()),
            None => {
                let settings = SETTINGS.iter().map(|setting| &setting.flag);
                taken_as(self.stock, release, STANDARD.iter().chain(&COMMON[1..]).chain(settings))
            }
        }
    }

    /// A word that begins with a dash.
    fn option(&self, options: &[Opt], word: &str) -> Offer {
        if let Some((name, value)) = word.strip_prefix("--").and_then(|long| long.split_once('=')) {
            let option = options.iter().find(|option| option.long == name && option.argument.is_some());
            return option.map_or(Offer::of(Next::nothing()), |option| {
                self.value(option, value).behind(&word[..word.len() - value.len()])
            });
        }
        let letters = word[1..].char_indices().take_while(|(_, letter)| *letter != '-');
        for (at, letter) in letters {
            match options.iter().find(|option| option.short == Some(letter)) {
                None => return Offer::of(Next::nothing()),
                Some(option) if option.argument.is_some() => {
                    let value = &word[1 + at + letter.len_utf8()..];
                    return match value {
                        // The value is the next word.
                        "" => Offer::of(Next::plain([word])),
                        _ => self.value(option, value).behind(&word[..word.len() - value.len()]),
                    };
                }
                Some(_) => {}
            }
        }
        if word.len() > 1 && !word.starts_with("--") {
            return Offer::of(Next::plain([word]));
        }
        // A switch is said once.
        let open = options.iter().filter(|option| option.argument.is_some() || !self.parsed.has(&option.key()));
        let names = open.flat_map(|option| {
            let short = option.short.map(|letter| format!("-{letter}"));
            let long = (!option.long.is_empty()).then(|| format!("--{}", option.long));
            [short, long].into_iter().flatten().map(|name| (name, option.help.to_string()))
        });
        Offer::of(Next::Words(names.collect()))
    }

    /// A word that is no option.
    fn operand(&self, word: &str) -> Offer {
        let Some(command) = self.command else {
            let known = COMMANDS.iter().filter(|command| command.stock || !self.stock);
            return Offer::of(Next::Words(known.map(|c| (c.name.to_string(), c.about.to_string())).collect()));
        };
        let given: Vec<_> = self.parsed.operands.iter().map(|word| word.to_string_lossy()).collect();
        let given: Vec<&str> = given.iter().map(AsRef::as_ref).collect();
        match command.name {
            "help" if given.is_empty() => Offer::of(Next::plain(COMMANDS.iter().map(|command| command.name))),
            "dd" => keyed::block(word),
            "config" => Offer::of(setting(&given)),
            "generate" => Offer::of(generated(&given)),
            _ if self.is_file(command, given.len()) => {
                if self.parsed.has("image-opts") {
                    return keyed::image_options(word, self.secrets());
                }
                Offer::of(Next::File)
            }
            _ => Offer::of(Next::nothing()),
        }
    }

    /// Whether the operand at that place is a file.
    fn is_file(&self, command: &Command, place: usize) -> bool {
        let words = command.operands.rsplit("| ").next().unwrap_or_default();
        if words.contains("...") {
            return true;
        }
        words.split(' ').nth(place).is_some_and(|word| word.contains("FILE"))
    }

    /// What secrets the command line has, by their names.
    fn secrets(&self) -> Vec<String> {
        let objects = self.parsed.all("object").map(|object| object.to_string_lossy().into_owned());
        objects
            .filter_map(|text| text.split(',').find_map(|word| word.strip_prefix("id=").map(ToString::to_string)))
            .collect()
    }
}

/// The operands of `config`.
fn setting(given: &[&str]) -> Next {
    let keys = || Next::Words(SETTINGS.iter().map(|s| (s.key.to_string(), s.flag.help.to_string())).collect());
    match given {
        [] => Next::plain(["explain", "set", "add", "unset", "profile"]),
        ["explain" | "set" | "add" | "unset"] => keys(),
        ["profile"] => Next::Words(PROFILES.iter().map(|p| (p.name.to_string(), p.about.to_string())).collect()),
        ["set" | "add", key, ..] => match by_key(key).map(|setting| setting.kind) {
            Some(Kind::Isolation) => Next::plain(["auto", "kvm", "process"]),
            Some(Kind::Switch) => Next::plain(["true", "false"]),
            Some(Kind::Folders) => Next::Folder,
            _ => Next::nothing(),
        },
        _ => Next::nothing(),
    }
}

/// The operands of `generate`.
fn generated(given: &[&str]) -> Next {
    match given {
        [] => Next::plain(["config", "man", "bash", "zsh", "fish", "words"]),
        ["man"] => Next::plain(crate::manual::man::all().iter().map(|page| page.name.clone())),
        _ => Next::nothing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_begins_so_is_told() {
        let offer = Offer::of(Next::plain(["one", "other", "two"])).behind("--x=");
        assert_eq!(offer.lines("--x=o"), "words\n--x=\none\t\nother\t\n");
        assert_eq!(offer.lines("--y=o"), "words\n--x=\n");
        assert_eq!(Offer::of(Next::File).lines("a"), "file\n\n");
    }

    #[test]
    fn of_config_the_second_word_hangs_on_the_first() {
        assert_eq!(setting(&["set", "isolation"]), Next::plain(["auto", "kvm", "process"]));
        assert_eq!(setting(&["add", "backing.allow", "/usr"]), Next::Folder);
        assert_eq!(setting(&["set", "nosuch"]), Next::nothing());
    }
}
