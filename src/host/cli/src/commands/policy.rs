//! `policy`: which files an image's chain names, and what the open policy says of each.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use instar_abi::ops::policy::Policy;
use instar_abi::record::Value;
use instar_abi::ring::Role;
use instar_render::escape::terminal;
use instar_vmm::policy::{Asked, fold};
use instar_vmm::target::{Cache, absolute};

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT};
use crate::call::Call;
use crate::config::settings::{ALLOW, NONE};
use crate::config::{Config, Said};
use crate::getopt::Parsed;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::refusal::{directories, none_from, not_opened, quoted};
use crate::running::{Defaults, Silent};

/// The command.
pub const COMMAND: Command = Command {
    name: "policy",
    group: Group::Look,
    about: "Show which files a chain of images names, and which may be opened.",
    operands: "FILE",
    options: &[FORMAT, IMAGE_OPTS, FORCE_SHARE, OUTPUT, OBJECT],
    stock: false,
    manual: &pages::POLICY,
    run,
};

/// Some name is refused.
const REFUSED: u8 = 2;

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = super::info::wants_json(program, parsed)?;
    super::info::check_objects(program)?;
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    let image = super::info::named(program, operand, parsed)?;
    let device = program.open_source(&image, Cache::default(), parsed.has("force-share"))?;
    // After the lock-down the current directory is not to be had.
    let places = Places::new(absolute(&image.path), &program.config);
    let subject = image.path.to_string_lossy();
    let mut call = Call::of(&image, device, parsed.has("force-share"));
    let params = Policy { image: call.described(program)?.image() };
    let (status, ()) = program.run(params, call, 1, &Defaults::METADATA, &subject, &Silent)?;
    let asked = program.asked.take();
    let mut names: Vec<Name<'_>> = Vec::new();
    for (place, name) in asked.iter().enumerate() {
        // An image may be looked at more than once.
        if !asked[..place].iter().any(|e| (e.device, &e.name, e.role) == (name.device, &name.name, name.role)) {
            names.push(Name::judged(name, &asked, &places));
        }
    }
    let report = Report { places: &places, names, missing: directories(&asked) };
    let text = if json { report.json() } else { report.human() };
    program.show(&|out| out.write_str(&text), &subject)?;
    let refused = asked.iter().any(Asked::is_refused);
    Ok(if status == 0 && refused { REFUSED } else { status })
}

/// The directories below which names are allowed.
struct Places {
    image: PathBuf,
    /// Those of the configuration, and where each was said.
    allowed: Vec<(PathBuf, String)>,
    /// None at all; and by whose word, if that is not the command's own.
    none: bool,
    none_from: String,
    /// What pins the directories.
    pinned: Option<String>,
}

impl Places {
    fn new(image: PathBuf, config: &Config) -> Self {
        let said = config.in_force(ALLOW);
        let of = |said: &Said| {
            let origin = said.origin.to_string();
            // What is reached is known without any link.
            let real = |folder: &OsString| {
                std::fs::canonicalize(folder).unwrap_or_else(|_| fold(&absolute(Path::new(folder))))
            };
            said.values.iter().map(|folder| (real(folder), origin.clone())).collect::<Vec<_>>()
        };
        Self {
            image,
            allowed: said.into_iter().flat_map(of).collect(),
            none: config.flag(NONE).is_ok_and(|none| none),
            none_from: none_from(config),
            pinned: config.pin(ALLOW).map(|pin| pin.origin.to_string()),
        }
    }

    /// Which directory it is that allows the path: the gate looks at those of the configuration first.
    fn allowing(&self, path: &Path) -> Rule {
        match self.allowed.iter().find(|(folder, _)| path.starts_with(folder)) {
            Some((folder, origin)) => Rule::Allowed(folder.clone(), origin.clone()),
            None => Rule::Own(self.image.parent().map(fold).unwrap_or_default()),
        }
    }
}

/// By what a name is allowed or not.
enum Rule {
    /// In the folder of the image that the user named.
    Own(PathBuf),
    /// Below a directory that was allowed: that, and where it was said.
    Allowed(PathBuf, String),
    /// `backing.none`: by whose word.
    None(String),
    /// No path.
    NoPath,
    /// In none of the directories, or reached by a link that leads out of them.
    Outside,
    /// Allowed, and not to be had.
    Failed(String),
}

impl Rule {
    fn name(&self) -> &'static str {
        match self {
            Self::Own(_) => "own-directory",
            Self::Allowed(..) => "allowed-directory",
            Self::None(_) => "no-backing",
            Self::NoPath => "no-path",
            Self::Outside => "outside",
            Self::Failed(_) => "not-opened",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Own(folder) => format!("allowed: below {}, the directory of the image", shown(folder)),
            Self::Allowed(folder, from) => format!("allowed: below {} ({ALLOW}, from {from})", shown(folder)),
            Self::None(from) => format!("refused: --no-backing (backing.none) allows no name{from}"),
            Self::NoPath => "refused: it is no plain path".to_string(),
            Self::Outside => "refused: in no directory that images may refer to".to_string(),
            Self::Failed(why) => format!("allowed, but not opened: {why}"),
        }
    }
}

/// One name with its judgement.
struct Name<'a> {
    asked: &'a Asked,
    above: PathBuf,
    rule: Rule,
}

impl<'a> Name<'a> {
    fn judged(asked: &'a Asked, all: &[Asked], places: &Places) -> Self {
        let above = all.iter().find(|other| other.answer == Ok(asked.device) && asked.device != 0);
        let above = above.and_then(|other| other.path.clone()).unwrap_or_else(|| places.image.clone());
        let rule = match (&asked.path, &asked.answer) {
            (_, Err(_)) if asked.is_refused() && places.none => Rule::None(places.none_from.clone()),
            (None, _) => Rule::NoPath,
            (_, Err(_)) if asked.is_refused() => Rule::Outside,
            (_, Err(no)) => Rule::Failed(not_opened(*no)),
            (Some(path), Ok(_)) => places.allowing(path),
        };
        Self { asked, above, rule }
    }

    fn role(&self) -> &'static str {
        match self.asked.role {
            Role::Backing => "backing file",
            Role::DataFile => "data file",
            Role::Extent => "extent",
        }
    }
}

struct Report<'a> {
    places: &'a Places,
    names: Vec<Name<'a>>,
    missing: Vec<PathBuf>,
}

impl Report<'_> {
    fn human(&self) -> String {
        let mut out = format!("image: {}\n", shown(&self.places.image));
        if self.names.is_empty() {
            out += "It names no other file.\n";
        }
        for name in &self.names {
            if name.above != self.places.image {
                out += &format!("in {}:\n", shown(&name.above));
            }
            out += &format!("  {}: {}\n", name.role(), terminal(&name.asked.name));
            if let Some(path) = &name.asked.path {
                out += &format!("    leads to: {}\n", shown(path));
            }
            out += &format!("    {}\n", name.rule.text());
        }
        if let Some(line) = self.line() {
            out += &format!(
                "To allow what is refused, if these directories are to be trusted, in the configuration:\n  {}\n",
                terminal(line.as_bytes())
            );
            if let Some(command) = self.command() {
                out += &format!("or:\n  {command}\n");
            }
        } else if let Some(pin) = self.places.pinned.as_deref().filter(|_| self.is_outside()) {
            out += &format!("The directories that images may refer to are pinned by {}.\n", terminal(pin.as_bytes()));
        }
        out
    }

    fn is_outside(&self) -> bool {
        self.names.iter().any(|name| matches!(name.rule, Rule::Outside))
    }

    /// Nothing can be allowed where all is forbidden, or what is allowed is pinned.
    fn line(&self) -> Option<String> {
        (!self.missing.is_empty() && !self.places.none && self.places.pinned.is_none()).then(|| {
            let folders = self.missing.iter().filter_map(|folder| folder.to_str());
            let folders: Vec<String> = folders.map(|folder| toml_edit::Value::from(folder).to_string()).collect();
            format!("{ALLOW} = [{}]", folders.join(", "))
        })
    }

    fn command(&self) -> Option<String> {
        let folders: Option<Vec<String>> = self.missing.iter().map(|folder| quoted(folder)).collect();
        folders.map(|folders| format!("instar config add {ALLOW} {}", folders.join(" ")))
    }

    fn json(&self) -> String {
        let bytes = |path: &Path| Value::from(path.as_os_str().as_encoded_bytes());
        let names = self.names.iter().map(|name| {
            let mut map = Value::map();
            map.set("image", bytes(&name.above)).set("role", name.role()).set("name", name.asked.name.as_slice());
            if let Some(path) = &name.asked.path {
                map.set("path", bytes(path));
            }
            let allowed = matches!(name.rule, Rule::Own(_) | Rule::Allowed(..) | Rule::Failed(_));
            map.set("allowed", allowed).set("rule", name.rule.name());
            match &name.rule {
                Rule::Own(folder) => {
                    map.set("directory", bytes(folder));
                }
                Rule::Allowed(folder, from) => {
                    map.set("directory", bytes(folder)).set("from", from.as_str());
                }
                Rule::Failed(why) => {
                    map.set("error", why.as_str());
                }
                Rule::None(_) | Rule::NoPath | Rule::Outside => {}
            }
            map
        });
        let mut map = Value::map();
        map.set("image", bytes(&self.places.image)).set("names", names.collect::<Vec<_>>());
        map.set("directories", self.missing.iter().map(|folder| bytes(folder)).collect::<Vec<_>>());
        if let Some(line) = self.line() {
            map.set("configuration", line);
        }
        if let Some(pin) = self.places.pinned.as_deref() {
            map.set("pinned", pin);
        }
        instar_render::json(&map) + "\n"
    }
}

fn shown(path: &Path) -> String {
    terminal(path.as_os_str().as_encoded_bytes())
}
