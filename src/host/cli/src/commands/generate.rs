//! `generate`: the man page and the completions, from the one list of options.

use super::{COMMANDS, COMMON, Command};
use crate::config::SETTINGS;
use crate::config::settings::{Kind, Setting};
use crate::getopt::{Opt, Parsed};
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "generate",
    about: "Write the man page or a shell's completions to standard output.",
    operands: "man|bash|zsh|fish",
    options: &[],
    stock: false,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let what: Vec<_> = parsed.operands.iter().map(|o| o.to_string_lossy()).collect();
    let text = match what.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] {
        ["man"] => man(),
        ["bash"] => bash(),
        ["zsh"] => format!("#compdef instar\nautoload -U +X bashcompinit && bashcompinit\n{}", bash()),
        ["fish"] => fish(),
        _ => return Err(program.usage("generate what? man, bash, zsh or fish")),
    };
    program.print(&text)?;
    Ok(0)
}

/// All options of a command, the common and the configuration's last.
pub fn options_of(command: &Command) -> Vec<&'static Opt> {
    command.options.iter().chain(COMMON).chain(SETTINGS.iter().map(|s| &s.flag)).collect()
}

/// `-f, --format FMT`
pub fn spelled(option: &Opt) -> String {
    let short = option.short.map(|c| format!("-{c}"));
    let long = (!option.long.is_empty()).then(|| format!("--{}", option.long));
    let names = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    option.argument.map_or(names.clone(), |argument| format!("{names} {argument}"))
}

/// Variables that are no setting's.
const ENVIRONMENT: &str = "\
.TP\n.B INSTAR_CONFIG\nThe one configuration file to be read; empty: none, for programs that are so confined that they\n\
cannot read any. Of the system's file only what it pins holds then, where it can be read.\n\
.TP\n.B XDG_CONFIG_HOME, HOME\nWhere the caller's configuration file is. Ignored if empty or relative.\n";

/// In the words of roff.
const FILES: &str = "\
.TP\n.I /etc/instar/config.toml\nThe system's settings.\n\
.TP\n.I $XDG_CONFIG_HOME/instar/config.toml, or ~/.config/instar/config.toml\n\
The caller's settings. Ignored if neither root nor the caller owns it, and each link to it.\n\
.PP\nThe files are TOML; the keys are those that \\fBinstar config\\fR shows, such as \\fBisolation\\fR or\n\
\\fBallow\\fR in the table \\fB[backing]\\fR. Flags win over variables, these over the caller's file, and that over the\n\
system's; only the folders of \\fBbacking.allow\\fR add up. In a file they have to be there and be written in full.\n\
What the system's file lists as \\fBpinned = [\"KEY\", ...]\\fR at its top is loosened by nothing else: limits may be lowered,\n\
\\fBbacking.none\\fR be set, \\fBisolation\\fR go from process to auto to kvm; whatever is looser ends the command.\n\
A file that is there and cannot be read, does not parse or has an unknown key ends it, too.\n";

const EXIT_STATUS: &str = "0 for success, 1 for failure, also where what was to be printed could not be.\n\
.PP\n\\fBcheck\\fR: 1 the check was not completed, 2 the image is corrupt, 3 it has leaked clusters and is not corrupt,\n\
63 there is no check for its format.\n\
.PP\n\\fBcompare\\fR: 1 the images differ, 2 one cannot be opened or the run was stopped, 3 the areas in use cannot be\n\
told, 4 data cannot be read.\n\
.PP\n\\fBpolicy\\fR: 2 a file that the image names is refused.\n";

fn man() -> String {
    let quote = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
    let list = |options: &[&Opt]| -> String {
        options.iter().map(|o| format!(".TP\n.B {}\n{}\n", quote(&spelled(o)), quote(o.help))).collect()
    };
    let commands: String = COMMANDS
        .iter()
        .map(|c| {
            let own: Vec<&Opt> = c.options.iter().collect();
            format!(".SS {} [OPTION...] {}\n{}\n{}", c.name, quote(c.operands), quote(c.about), list(&own))
        })
        .collect();
    let variable = |s: &Setting| {
        let list = if s.kind == Kind::Folders { "folders, with colons between them; " } else { "" };
        format!(".TP\n.B {}\nFor {}: {list}{}\n", s.variable, quote(s.key), quote(s.flag.help))
    };
    let environment: String = SETTINGS.iter().map(variable).collect::<String>() + ENVIRONMENT;
    let common: Vec<&Opt> = COMMON.iter().chain(SETTINGS.iter().map(|s| &s.flag)).collect();
    format!(
        ".TH INSTAR 1 \"\" \"instar {}\" \"User Commands\"\n\
         .SH NAME\ninstar \\- qemu\\-img for images from strangers\n\
         .SH SYNOPSIS\n.B instar\nCOMMAND [OPTION...] [FILE...]\n\
         .SH DESCRIPTION\n\
         Does what qemu\\-img does, with the same arguments, output and exit statuses, but reads images in a sandbox\n\
         that has no rights: a virtual machine without a kernel, or where there is no KVM a process that can make\n\
         three system calls. Called by a link named qemu\\-img it behaves as qemu\\-img in every text but help.\n\
         .SH COMMANDS\n{commands}\
         .SH OPTIONS OF EVERY COMMAND\n{}\
         .SH ENVIRONMENT\n{environment}\
         .SH FILES\n{FILES}\
         .SH EXIT STATUS\n{EXIT_STATUS}\
         .SH SEE ALSO\nqemu\\-img(1)\n",
        env!("CARGO_PKG_VERSION"),
        list(&common),
    )
}

fn long_names(command: &Command) -> Vec<String> {
    options_of(command).iter().filter(|o| !o.long.is_empty()).map(|o| format!("--{}", o.long)).collect()
}

fn bash() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    let cases: String =
        COMMANDS.iter().map(|c| format!("        {}) words=\"{}\" ;;\n", c.name, long_names(c).join(" "))).collect();
    format!(
        "_instar() {{\n    local words=\"{}\"\n    case \"${{COMP_WORDS[1]}}\" in\n{cases}    esac\n    \
         COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n}}\n\
         complete -o default -F _instar instar\n",
        names.join(" ")
    )
}

fn fish() -> String {
    let mut out = String::new();
    for command in COMMANDS {
        out += &format!(
            "complete -c instar -n __fish_use_subcommand -a {} -d '{}'\n",
            command.name,
            command.about.replace('\'', "\\'")
        );
        for option in options_of(command).iter().filter(|o| !o.long.is_empty()) {
            let argument = if option.argument.is_some() { " -r" } else { "" };
            out += &format!(
                "complete -c instar -n '__fish_seen_subcommand_from {}' -l {}{argument} -d '{}'\n",
                command.name,
                option.long,
                option.help.replace('\'', "\\'")
            );
        }
    }
    out
}
