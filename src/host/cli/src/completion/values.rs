//! What the argument of an option may be.

use instar_abi::drivers::{FORMATS, PROTOCOLS, Reach};
use instar_abi::ops::option_help::{OptionHelp, OptionRow};

use super::{Line, Next, Offer, keyed};
use crate::call::Call;
use crate::getopt::Opt;
use crate::running::{Defaults, Silent};

/// By what an argument is called in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Format,
    File,
    Folder,
    Options,
    Secret,
    Words(&'static [&'static str]),
    /// A number, a size, a name: nobody but the user knows.
    Own,
}

const CACHES: Takes = Takes::Words(&["none", "writeback", "unsafe", "writethrough", "directsync"]);

const ARGUMENTS: &[(&str, Takes)] = &[
    ("FMT", Takes::Format),
    ("FILE", Takes::File),
    ("DIR", Takes::Folder),
    ("OPTS", Takes::Options),
    ("OBJECT", Takes::Secret),
    ("MODE", CACHES),
    ("CACHE", CACHES),
    ("AIO", Takes::Words(&["threads", "native", "io_uring"])),
    ("BYTE", Takes::Own),
    ("COUNT", Takes::Own),
    ("DEPTH", Takes::Own),
    ("LENGTH", Takes::Own),
    ("N", Takes::Own),
    ("OFFSET", Takes::Own),
    ("RATE", Takes::Own),
    ("SIZE", Takes::Own),
    ("SNAPSHOT", Takes::Own),
    ("SOURCE", Takes::Own),
    ("TRACE", Takes::Own),
    ("X.Y[.Z]", Takes::Own),
];

/// What `-o` options may be that have a list of values, by format (empty: any) and name without `encrypt.` in front.
const LISTS: &[(&str, &str, &[&str])] = &[
    ("qcow2", "preallocation", &["off", "metadata", "falloc", "full"]),
    ("", "preallocation", &["off", "falloc", "full"]),
    ("", "compat", &["1.1", "0.10", "v3", "v2"]),
    ("", "compression_type", &["zlib", "zstd"]),
    ("", "refcount_bits", &["1", "2", "4", "8", "16", "32", "64"]),
    ("qcow2", "format", &["luks", "aes"]),
    ("qcow", "format", &["aes"]),
    ("", "cipher-alg", &["aes-128", "aes-192", "aes-256", "serpent-128", "serpent-256", "twofish-128", "twofish-256"]),
    ("", "cipher-mode", &["xts", "cbc", "ecb", "ctr"]),
    ("", "hash-alg", &["sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"]),
    ("", "ivgen-alg", &["plain", "plain64", "essiv"]),
    ("", "ivgen-hash-alg", &["sha1", "sha256", "sha512"]),
    ("", "state", &["active", "inactive"]),
    (
        "vmdk",
        "subformat",
        &["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"],
    ),
    ("", "subformat", &["dynamic", "fixed"]),
    ("", "adapter_type", &["ide", "lsilogic", "buslogic", "legacyESX"]),
];

fn takes(argument: &str) -> Option<Takes> {
    ARGUMENTS.iter().find(|(name, _)| *name == argument).map(|(_, takes)| *takes)
}

impl Line<'_> {
    /// The argument of an option, of which `word` is there.
    pub fn value(&self, option: &Opt, word: &str) -> Offer {
        let argument = option.argument.unwrap_or_default();
        Offer::of(match takes(argument) {
            Some(Takes::Format) => self.formats(self.names_new(option)),
            Some(Takes::File) => Next::File,
            Some(Takes::Folder) => Next::Folder,
            Some(Takes::Options) => return self.options_of_format(word),
            Some(Takes::Secret) => return keyed::secret(word),
            Some(Takes::Words(words)) => Next::plain(words),
            Some(Takes::Own) => Next::nothing(),
            None => Next::plain(argument.split('|')),
        })
    }

    /// Whether the option says of which format something is made.
    fn names_new(&self, option: &Opt) -> bool {
        let makes = self.command.is_some_and(|command| command.name == "create");
        option.short == Some('O') || (makes && option.long == "format")
    }

    fn formats(&self, new: bool) -> Next {
        let known = FORMATS.iter().filter(|format| !new || format.written != Reach::None);
        let about =
            |also: &[&str]| if also.is_empty() { String::new() } else { format!("also called {}", also.join(", ")) };
        let mut words: Vec<_> = known.map(|format| (format.name.to_string(), about(format.also))).collect();
        if !new {
            words.extend(PROTOCOLS.iter().map(|name| ((*name).to_string(), "a file as it is".to_string())));
        }
        Next::Words(words)
    }

    /// `-o`: what images of the format that the line names are made with, or changed in.
    fn options_of_format(&self, word: &str) -> Offer {
        let amend = self.command.is_some_and(|command| command.name == "amend");
        let format =
            self.parsed.text("target-format").or_else(|| self.parsed.text("format").filter(|_| self.is_by_format()));
        let format = match format {
            Some(format) => format,
            // Which one the image has is in the image.
            None if amend => return Offer::of(Next::nothing()),
            None => "raw".to_string(),
        };
        let params = OptionHelp { format: format.clone(), amend };
        let ran = self.program.run(params, Call::default(), 1, &Defaults::METADATA, &format, &Silent);
        let rows = ran.map_or_else(|_| Vec::new(), |(_, results)| results.help);
        let keys: Vec<_> = rows.iter().map(|row| (row.name.clone(), row.help.replace(['\t', '\n'], " "))).collect();
        keyed::list(word, &keys, |key| match rows.iter().find(|row| row.name == key) {
            Some(row) => self.of_row(&format, row),
            None => Next::nothing(),
        })
    }

    /// `-f` says of which format `-o` is.
    fn is_by_format(&self) -> bool {
        self.command.is_some_and(|command| matches!(command.name, "amend" | "create"))
    }

    fn of_row(&self, format: &str, row: &OptionRow) -> Next {
        let name = row.name.strip_prefix("encrypt.").unwrap_or(&row.name);
        let listed = LISTS.iter().find(|(of, key, _)| *key == name && (of.is_empty() || *of == format));
        match listed {
            Some((_, _, values)) => Next::plain(*values),
            None if row.kind.starts_with("bool") => Next::plain(["on", "off"]),
            None => match name {
                "backing_file" | "data_file" => Next::File,
                "backing_fmt" => self.formats(false),
                _ if name.ends_with("secret") => Next::plain(self.secrets()),
                _ => Next::nothing(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STANDARD;
    use crate::commands::{COMMANDS, options_of};

    #[test]
    fn every_argument_is_known_or_says_its_values() {
        for option in COMMANDS.iter().flat_map(|command| options_of(command)).chain(STANDARD) {
            let Some(argument) = option.argument else { continue };
            let known = takes(argument).is_some();
            assert!(known != argument.contains('|'), "{argument} of --{}", option.long);
        }
    }
}
