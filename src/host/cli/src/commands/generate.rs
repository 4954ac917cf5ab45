//! `generate`: manual, completions and a sample configuration, all from the lists of commands, options and settings.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::Command;
use crate::completion::{self, shells::SHELLS};
use crate::getopt::{Opt, Parsed};
use crate::manual::man::{self, Written};
use crate::manual::{Group, pages, sample};
use crate::program::{Exit, Program, plain};

/// The command.
pub const COMMAND: Command = Command {
    name: "generate",
    group: Group::About,
    about: "Write a manual page, completions or a sample configuration.",
    operands: "config | man [PAGE] | bash|zsh|fish | words -- WORD...",
    options: &[
        Opt::value("all", "DIR", "with man: write all pages below DIR, in man1 and man5"),
        Opt::flag("qemu-img", "with a shell: for a link of that name"),
    ],
    stock: false,
    manual: &pages::GENERATE,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let words: Vec<String> = parsed.operands.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let text = match (&words[..], parsed.last("all")) {
        (["man"], Some(folder)) => {
            let written = man::all().iter().try_for_each(|page| write(Path::new(folder), page));
            written.map_err(|text| program.fail(&text))?;
            return Ok(0);
        }
        (["words", ..], None) => return answer(program, &parsed.operands[1..]),
        ([shell], None) if is_shell(shell) => {
            completion::shells::script(shell, parsed.has("qemu-img")).unwrap_or_default()
        }
        (["config"], None) => sample::text(),
        (["man"], None) => page("instar").unwrap_or_default(),
        (["man", name], None) => {
            page(name).ok_or_else(|| program.fail(&format!("there is no page '{name}': instar(1) lists them")))?
        }
        (_, Some(_)) => return Err(program.usage("--all goes with man, and with no page")),
        _ => return Err(program.usage("generate what? config, man, bash, zsh or fish")),
    };
    program.print(&text)?;
    Ok(0)
}

fn is_shell(name: &str) -> bool {
    SHELLS.iter().any(|(shell, _)| *shell == name)
}

/// What may come in place of the last of those words.
fn answer(program: &Program, line: &[OsString]) -> Result<u8, Exit> {
    let last = line.last().map(|word| word.to_string_lossy()).unwrap_or_default();
    program.print(&completion::offer(program, line).lines(&last))?;
    Ok(0)
}

/// A page, by its name or its command's.
fn page(name: &str) -> Option<String> {
    let is_named = |page: &Written| page.name == name || page.name.strip_prefix("instar-") == Some(name);
    man::all().into_iter().find(is_named).map(|page| page.text)
}

fn write(folder: &Path, page: &Written) -> Result<(), String> {
    let folder = folder.join(format!("man{}", page.section));
    let path = folder.join(OsString::from(format!("{}.{}", page.name, page.section)));
    let written = fs::create_dir_all(&folder).and_then(|()| fs::write(&path, &page.text));
    written.map_err(|error| format!("cannot write '{}': {}", path.display(), plain(&error)))
}
