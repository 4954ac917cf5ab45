//! `-o`: lists of options for the format of what is made.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt;

use instar_abi::ops::option_help::{OptionHelp, OptionRow};
use instar_render::escape::terminal;
use instar_vmm::target::Hints;

use crate::call::Call;
use crate::getopt::Parsed;
use crate::program::{Exit, Program};
use crate::running::{Defaults, Silent};
use crate::sizes;

/// All words of one list; `,,` in them is one comma.
fn split(list: &str) -> Vec<String> {
    list.replace(",,", "\0").split(',').map(|word| word.replace('\0', ",")).collect()
}

/// All words of all lists.
fn words(parsed: &Parsed) -> Vec<String> {
    parsed.all("options").flat_map(|list| split(&list.to_string_lossy())).collect()
}

/// Refuses lists with a word that is empty or begins with a comma.
pub fn check(program: &Program, parsed: &Parsed) -> Result<(), Exit> {
    parsed.all("options").try_for_each(|list| check_one(program, list))
}

/// The same of one list.
pub fn check_one(program: &Program, list: &OsStr) -> Result<(), Exit> {
    let list = list.to_string_lossy();
    match split(&list).iter().any(|word| word.is_empty() || word.starts_with(',')) {
        true => Err(program.fail(&format!("Invalid option list: {}", terminal(list.as_bytes())))),
        false => Ok(()),
    }
}

/// Refuses a snapshot (`-l`) that is named by something else than `snapshot.id` and `snapshot.name`.
pub fn check_snapshot(program: &Program, text: &OsStr) -> Result<(), Exit> {
    let text = text.to_string_lossy();
    if !text.starts_with("snapshot.") {
        return Ok(());
    }
    let known = |name: &str| matches!(name, "snapshot.id" | "snapshot.name");
    let name = |word: &str| word.split('=').next().unwrap_or_default().to_string();
    match text.replace(",,", "").split(',').map(name).find(|name| !known(name)) {
        Some(other) => {
            program.say(&format!("Invalid parameter '{}'", terminal(other.as_bytes())));
            Err(program.fail(&format!("Failed in parsing snapshot param '{}'", terminal(text.as_bytes()))))
        }
        None => Ok(()),
    }
}

/// `-o help` is among them.
pub fn asks_for_help(parsed: &Parsed) -> bool {
    words(parsed).iter().any(|word| matches!(word.as_str(), "help" | "?"))
}

/// The last value of an option that names a file.
pub fn file_option(parsed: &Parsed, name: &str) -> Option<String> {
    let prefix = format!("{name}=");
    words(parsed).iter().rev().find_map(|word| word.strip_prefix(&prefix)).map(ToString::to_string)
}

/// How the file system is to hold what is made. A value that makes no sense is the guest's to refuse.
///
/// # Errors
/// In qemu-img's words.
pub fn hints(parsed: &Parsed) -> Result<Hints, String> {
    let hint = file_option(parsed, "extent_size_hint").and_then(|text| sizes::parse(&text));
    let hint = hint.map(|hint| u32::try_from(hint).map_err(|_| "Extent size hint is too large".to_string()));
    Ok(Hints { no_cow: is_on(parsed, "nocow"), extent_size_hint: hint.transpose()? })
}

fn is_on(parsed: &Parsed, name: &str) -> bool {
    file_option(parsed, name).is_some_and(|text| matches!(text.as_str(), "on" | "yes" | "true" | "y"))
}

/// The data file that is to be used is there, and is not to be made.
pub fn keeps_data_file(parsed: &Parsed) -> bool {
    is_on(parsed, "keep_data_file")
}

/// The lists, as parameters of an operation.
pub fn params(parsed: &Parsed) -> Vec<Vec<u8>> {
    parsed.all("options").map(|list| list.as_encoded_bytes().to_vec()).collect()
}

/// What will hold the image: it offers options of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Unknown,
    File,
    Device,
}

impl Holder {
    fn of(target: Option<&OsString>) -> Self {
        let Some(target) = target else { return Self::Unknown };
        let is_device = |kind: FileType| kind.is_block_device() || kind.is_char_device();
        match std::fs::metadata(target) {
            Ok(found) if is_device(found.file_type()) => Self::Device,
            _ => Self::File,
        }
    }

    /// How an option is described, if there is one of that name here.
    fn help(self, option: &OptionRow) -> Option<&str> {
        match self {
            _ if !option.of_file => Some(&option.help),
            Self::Unknown => None,
            Self::File => Some(&option.help),
            Self::Device => (option.name == "preallocation").then_some("Preallocation mode (allowed values: off)"),
        }
    }
}

/// The line of an option.
fn show(out: &mut dyn Write, option: &OptionRow, help: &str) -> std::fmt::Result {
    let [name, kind] = [&option.name, &option.kind].map(|text| terminal(text.as_bytes()));
    let head = format!("  {name}=<{kind}>");
    writeln!(out, "{head:<24} - {}", terminal(help.as_bytes()))
}

/// Those options of a format that can be changed.
pub fn show_amendable(program: &Program, format: &str, rows: &[OptionRow]) -> Result<(), Exit> {
    let render = |out: &mut dyn Write| {
        writeln!(out, "Amend options for '{}':", terminal(format.as_bytes()))?;
        rows.iter().try_for_each(|option| show(out, option, &option.help))
    };
    program.show(&render, format)
}

/// `-o help`. Without the target's name it is not known what will hold it, and what that offers is left out.
pub fn help(program: &Program, format: &str, target: Option<&OsString>) -> Result<u8, Exit> {
    let holder = Holder::of(target);
    let params = OptionHelp { format: format.to_string(), amend: false };
    let (status, results) = program.run(params, Call::default(), 1, &Defaults::METADATA, format, &Silent)?;
    if status == 0 {
        let render = |out: &mut dyn Write| {
            match holder {
                Holder::Unknown => writeln!(out, "Supported {format} options:")?,
                _ => writeln!(out, "Supported options:")?,
            }
            for option in &results.help {
                let Some(help) = holder.help(option) else { continue };
                show(out, option, help)?;
            }
            if holder == Holder::Unknown {
                out.write_str(
                    "\nThe protocol level may support further options.\n\
                     Specify the target filename to include those options.\n",
                )?;
            }
            Ok(())
        };
        program.show(&render, format)?;
    }
    Ok(status)
}
