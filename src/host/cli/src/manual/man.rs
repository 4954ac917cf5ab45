//! The pages of the manual, from the lists of commands, options and settings.

use instar_abi::drivers::{FORMATS, Reach};

use super::roff::Page;
use super::{Group, sample};
use crate::STANDARD;
use crate::commands::{COMMANDS, COMMON, Command};
use crate::config::files::SYSTEM;
use crate::config::settings::{Kind, SETTINGS, Setting, Stricter};
use crate::getopt::Opt;
use crate::help::spelled;
use crate::layout::sentence;

/// When the pages were last gone over. No build's date: the same commit makes the same pages.
const REVISED: &str = "December 1, 2026";

/// The page of the configuration file.
const TOML: &str = "instar.toml";

/// A page: its name, its section of the manual, and its text.
pub struct Written {
    /// `instar-convert`
    pub name: String,
    /// 1 or 5.
    pub section: u8,
    /// roff.
    pub text: String,
}

/// All pages, the program's first.
pub fn all() -> Vec<Written> {
    let page = |name: &str, section, text| Written { name: name.to_string(), section, text };
    let commands = COMMANDS.iter().map(|c| page(&format!("instar-{}", c.name), 1, command(c)));
    std::iter::once(page("instar", 1, program()))
        .chain(commands)
        .chain(std::iter::once(page(TOML, 5, file())))
        .collect()
}

const ISOLATION: &[&str] = &[
    "instar does what qemu-img(1) does, with the same arguments, output and exit statuses, but every byte of an image is \
     interpreted in a sandbox that has no rights: a virtual machine without a kernel and without devices (KVM) or, where there \
     is none, an empty process that can make three system calls. Called by a link named qemu-img it behaves as qemu-img in \
     every text but that of the help.",
    "Called without any word it lists its commands, with exit status 0. Options may stand behind file names; -- ends them.",
];

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGUSR1",
        "convert, compare, commit, dd and rebase say once on standard error how far they are, and go on. (The process to \
         be asked is the one that was started: its child only publishes the target.)",
    ),
    (
        "SIGINT, SIGTERM, SIGHUP",
        "End the command. A target that was to be made is not there then, or is what it was before; an image that was \
         being changed in place stays sound, and may have leaked clusters, which check -r leaks gives back.",
    ),
];

const VARIABLES: &[(&str, &str)] = &[
    (
        "INSTAR_CONFIG",
        "The one configuration file to be read; empty: none, for programs that are so confined that they cannot \
         read any. Of the system's file only what it pins holds then, where it can be read.",
    ),
    ("XDG_CONFIG_HOME, HOME", "Where the caller's configuration file is. Ignored if empty or relative."),
    ("COLUMNS", "How wide the help is, 40 to 100; else it is as wide as the terminal, or 80."),
    ("TZ", "The time zone of the times that info and snapshot show."),
];

const FILES: &[(&str, &str)] = &[
    (SYSTEM, "The system's settings."),
    (
        "$XDG_CONFIG_HOME/instar/config.toml, or ~/.config/instar/config.toml",
        "The caller's settings. Ignored if neither root nor the caller owns it, and each link to it.",
    ),
];

const SECURITY: &[&str] = &[
    "The process that holds rights never interprets an image. It opens the files that the command line names, starts the \
     sandbox, gives its own rights up (capabilities, Landlock, a filter of system calls), and then only checks and serves \
     requests to read and write those files. What a hostile image can make of the program in the sandbox is bounded by that.",
    "Names in images: a backing file or data file is opened only below the directory of the image that names it, or below one \
     that --allow-backing or the configuration allows; with --no-backing not at all, as is right for uploads. Block devices \
     are opened only where they are allowed. The refusal is the same whether the file exists or not. policy shows what is \
     named.",
    "Formats: an image whose format is not given is probed, as by qemu-img. Who knows the format should say it with -f: a raw \
     disk can be written so that it looks like another format the next time.",
    "Limits on time, memory, requests, results and growth hold for every run; instar.toml(5) lists them. With isolation set to \
     kvm nothing is read outside of a virtual machine; doctor says whether there is one. It needs no root, only the right to \
     open /dev/kvm.",
];

fn options(page: &mut Page, options: impl Iterator<Item = &'static Opt>) {
    for option in options {
        page.item(&spelled(option), &sentence(option.help));
    }
}

fn see_also(page: &mut Page, names: &[&str]) {
    page.section("SEE ALSO").text(&names.join(", "));
}

fn program() -> String {
    let mut page = Page::new("instar", 1, REVISED, "qemu-img for images from strangers");
    page.synopsis("instar", "COMMAND [OPTION...] [FILE...]").section("DESCRIPTION").paragraphs(ISOLATION);
    page.section("COMMANDS");
    for group in Group::ALL {
        page.paragraph(&format!("{}:", group.title()));
        for command in COMMANDS.iter().filter(|command| command.group == group) {
            page.item(&format!("instar-{}(1)", command.name), command.about);
        }
    }
    page.section("OPTIONS").text("Before the command:");
    options(&mut page, STANDARD.iter());
    page.paragraph("Of every command, also before it:");
    options(&mut page, COMMON[1..].iter().chain(SETTINGS.iter().map(|setting| &setting.flag)));
    let names = |kept: &dyn Fn(Reach) -> bool| {
        FORMATS.iter().filter(|format| kept(format.written)).map(|format| format.name).collect::<Vec<_>>().join(" ")
    };
    page.section("FORMATS").text(&format!("Read: {}.", names(&|_| true)));
    page.paragraph(&format!("Written: {}. instar formats tells more.", names(&|written| written != Reach::None)));
    page.section("EXIT STATUS").text("Of every command but check, compare and policy, whose pages say theirs:");
    page.item("0", "Done.").item("1", "Not done, or not all that was to be printed could be; standard error says why.");
    page.item("128 and N", "As a shell shows that signal N ended it: 130 for Ctrl-C.");
    page.section("ENVIRONMENT");
    for setting in SETTINGS {
        let list = if setting.kind == Kind::Folders { " Colons stand between directories." } else { "" };
        page.item(setting.variable, &format!("{}: {}{list}", setting.key, sentence(setting.flag.help)));
    }
    items(&mut page, VARIABLES);
    items(page.section("SIGNALS"), SIGNALS);
    items(page.section("FILES"), FILES);
    page.section("SECURITY").paragraphs(SECURITY);
    page.section("EXAMPLES").text("The pages of the commands have more.");
    for (line, what) in crate::help::EXAMPLES {
        page.example(line, what);
    }
    let pages: Vec<String> = COMMANDS.iter().map(|command| format!("instar-{}(1)", command.name)).collect();
    let mut pages: Vec<&str> = pages.iter().map(String::as_str).collect();
    pages.extend(["instar.toml(5)", "qemu-img(1)"]);
    see_also(&mut page, &pages);
    page.end()
}

fn items(page: &mut Page, rows: &[(&str, &str)]) {
    for (head, text) in rows {
        page.item(head, text);
    }
}

fn command(command: &Command) -> String {
    let name = format!("instar-{}", command.name);
    let about = command.about.trim_end_matches('.');
    let mut page = Page::new(&name, 1, REVISED, &format!("{}{}", about[..1].to_lowercase(), &about[1..]));
    let words = if command.options.is_empty() { "" } else { "[OPTION...] " };
    page.synopsis(&format!("instar {}", command.name), &format!("{words}{}", command.operands));
    page.section("DESCRIPTION").paragraphs(command.manual.detail);
    page.section("OPTIONS");
    options(&mut page, command.options.iter());
    page.paragraph("Options of every command are in instar(1).");
    items(page.section("EXIT STATUS"), command.manual.statuses);
    page.section("EXAMPLES");
    for (line, what) in command.manual.examples {
        page.example(line, what);
    }
    let mut others = vec!["instar(1)", "instar.toml(5)"];
    if command.stock {
        others.push("qemu-img(1)");
    }
    see_also(&mut page, &others);
    page.end()
}

const LAYERS: &[&str] = &[
    "A setting is said in the system's file, in the caller's, by a variable or by a flag; the last of these holds. Directories \
     of backing.allow add up instead: those of all of them are allowed. instar config shows what is in force and where it comes \
     from, instar config explain by which rule.",
    "The files are TOML. A key with a dot stands in the table of that name. Directories have to be there and be written in \
     full. A file that is there and cannot be read, that does not parse or has an unknown key ends every command but those \
     that look at it or mend it: it may be what forbids something.",
    "Where a limit has two defaults, that of metadata is for commands that read only what images say of themselves (info, \
     policy, measure), that of data for all others.",
    "What the system's file lists as pinned = [\"KEY\", ...] at its top nothing else loosens: a limit may be lowered, \
     backing.none be set, isolation go from process to auto to kvm; whatever is looser ends the command.",
];

fn file() -> String {
    let mut page = Page::new(TOML, 5, REVISED, "configuration of instar");
    page.section("SYNOPSIS").text(FILES[0].0).paragraph(FILES[1].0);
    page.section("DESCRIPTION").paragraphs(LAYERS);
    page.section("SETTINGS");
    for setting in SETTINGS {
        page.item(setting.key, &said(setting));
    }
    items(page.section("FILES"), FILES);
    page.section("EXAMPLES").text("All of a cloud's instances stand on images of one directory:");
    page.literal(
        "isolation = \"kvm\"\n\n[backing]\nallow = [\"/var/lib/nova/instances/_base\"]\n\n[limits]\nseconds = 3600",
    );
    page.paragraph("Uploads, which may name no file; nobody may loosen it:");
    page.literal("pinned = [\"backing.none\"]\n\n[backing]\nnone = true");
    page.paragraph("instar generate config writes a file with every setting in it.");
    see_also(&mut page, &["instar(1)", "instar-config(1)"]);
    page.end()
}

/// What there is to be said of a setting.
fn said(setting: &Setting) -> String {
    let pinned = match (setting.kind, setting.stricter) {
        (Kind::Folders, _) => " Pinned, no others are added.",
        (_, Stricter::None) => " Pinned, it stays as it is.",
        (Kind::Isolation, Stricter::Higher) => " Pinned, it may go towards kvm.",
        (_, Stricter::Higher) => " Pinned, it may be set to true.",
        (_, Stricter::Lower) => " Pinned, it may be lowered.",
    };
    format!(
        "{} Value: {}. Default: {}. Also {} and --{}.{pinned}",
        sentence(setting.flag.help),
        sample::kind(setting),
        setting.unsaid_in_words(),
        setting.variable,
        setting.flag.long,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_in_its_page() {
        let pages = all();
        assert_eq!(pages.len(), COMMANDS.len() + 2);
        for (command, page) in COMMANDS.iter().zip(&pages[1..]) {
            for option in command.options {
                let named = format!("\\-\\-{}", option.long.replace('-', "\\-"));
                assert!(page.text.contains(&named), "{}: {named}", page.name);
            }
        }
        for setting in SETTINGS {
            assert!(pages[0].text.contains(setting.variable), "{}", setting.variable);
            assert!(pages.last().is_some_and(|page| page.text.contains(setting.variable)), "{}", setting.variable);
        }
    }
}
