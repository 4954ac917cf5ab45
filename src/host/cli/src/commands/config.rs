//! `config`

use super::Command;
use super::options::OUTPUT;
use crate::config::edit::{self, Change};
use crate::config::profiles::PROFILES;
use crate::config::settings::{Kind, SETTINGS, Setting, Stricter, by_key};
use crate::config::shown;
use crate::getopt::{Opt, Parsed};
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};

/// The command.
pub const COMMAND: Command = Command {
    name: "config",
    group: Group::About,
    about: "Show the settings in force; change a configuration file.",
    operands: "[explain [KEY] | set KEY VALUE | add KEY VALUE... | unset KEY | profile nova|libvirt|proxmox|incus|strict]",
    options: &[OUTPUT, Opt::flag("system", "change the system's file, /etc/instar/config.toml, instead of your own")],
    stock: false,
    manual: &pages::CONFIG,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = super::info::wants_json(program, parsed)?;
    let words: Vec<String> = parsed.operands.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let system = parsed.has("system");
    let changes = match words[..] {
        [] if system => return Err(program.usage("--system goes with set, add, unset and profile")),
        [] => return show(program, json),
        ["explain"] => return explain(program, SETTINGS),
        ["explain", key] => {
            let setting = by_key(key).ok_or_else(|| program.fail(&format!("there is no setting '{key}'")))?;
            return explain(program, std::slice::from_ref(setting));
        }
        ["set", key, value] => vec![Change::Set(key.into(), value.into())],
        ["add", key, _, ..] => words[2..].iter().map(|value| Change::Add(key.into(), (*value).into())).collect(),
        ["unset", key] => vec![Change::Unset(key.into())],
        ["profile", name] => {
            let profile = PROFILES.iter().find(|profile| profile.name == name);
            let profile = profile.ok_or_else(|| {
                let known: Vec<String> = PROFILES.iter().map(|p| format!("{}: {}", p.name, p.about)).collect();
                program.fail(&format!("there is no profile '{name}'\n{}", known.join("\n")))
            })?;
            profile.changes(system)
        }
        _ => {
            let known = "config: nothing, explain [KEY], set KEY VALUE, add KEY VALUE..., unset KEY, or profile NAME";
            return Err(program.usage(known));
        }
    };
    edit::file(system).and_then(|path| edit::apply(&path, &changes)).map_err(|e| program.fail(&e))?;
    Ok(0)
}

fn show(program: &Program, json: bool) -> Result<u8, Exit> {
    let (config, wrong) = (&program.config, program.misconfigured.as_deref());
    let text = match (json, wrong) {
        (true, _) => instar_render::json(&shown::json(config, wrong)) + "\n",
        (false, None) => shown::human(config),
        // Nothing is in force then.
        (false, Some(_)) => shown::files(config),
    };
    program.print(&text)?;
    wrong.map_or(Ok(0), |text| Err(program.fail(text)))
}

/// What each place says of a setting, and by which rule one of them holds. Works as far as the configuration could be read.
fn explain(program: &Program, settings: &'static [Setting]) -> Result<u8, Exit> {
    let mut text = String::new();
    for setting in settings {
        let list = setting.kind == Kind::Folders;
        let rule = match (list, setting.stricter) {
            (true, _) => "all places add up, the directory of the image itself always; pinned: no others",
            (_, Stricter::None) => "the last of these holds; pinned: as it is",
            (_, Stricter::Higher) if setting.kind == Kind::Isolation => {
                "the last of these holds; pinned: kvm is stricter than auto, and that than process"
            }
            (_, Stricter::Higher) => "the last of these holds; pinned: true is stricter",
            (_, Stricter::Lower) => "the last of these holds; pinned: less is stricter",
        };
        text += &format!(
            "{}: {}\n  rule: {rule}\n  default: {}\n",
            setting.key,
            setting.flag.help,
            setting.unsaid_in_words()
        );
        for said in program.config.of(setting.key) {
            let pinned = if said.pinned { " (pinned)" } else { "" };
            text += &format!("  {}: {}{pinned}\n", said.origin, said.shown());
        }
        text += &format!("  also: {} and --{}\n", setting.variable, setting.flag.long);
    }
    text += "\n";
    text += &shown::files(&program.config);
    program.print(&text)?;
    match &program.misconfigured {
        Some(text) => Err(program.fail(text)),
        None => Ok(0),
    }
}
