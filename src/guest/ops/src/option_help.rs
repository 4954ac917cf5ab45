//! `-o help`: the options that a format's images are made with, and those that can be changed.

use alloc::format;
use alloc::vec::Vec;

use instar_abi::ops::option_help::{OptionHelp, OptionHelpResults, OptionRow};
use instar_image::options::{OptionKind, OptionSpec, Options};
use instar_image::quirk::{amends, has_option};
use instar_image::{Creator, Error, Format, Machine, Result, Version};

use crate::told::tell;

/// Options of the file that an image is in, whatever its format.
const OF_THE_FILE: [&str; 3] = ["nocow", "preallocation", "extent_size_hint"];

/// Tells the options; exit status 0.
pub fn run(machine: &dyn Machine, params: &OptionHelp, version: Version) -> Result<u8> {
    let format = format_named(&params.format)?;
    let help = if params.amend {
        amendable(format)?.iter().map(|option| row(option, false)).collect()
    } else {
        creator_of(format)?;
        options(format, version).map(|option| row(option, is_of_file(format, option.name))).collect()
    };
    tell(machine, OptionHelpResults { help })?;
    Ok(0)
}

/// An option as it is told.
pub fn row(option: &OptionSpec, of_file: bool) -> OptionRow {
    OptionRow { name: option.name.into(), kind: kind_text(option.kind).into(), help: option.help.into(), of_file }
}

/// Those options of a format's images that can be changed, in the order of `-o help`.
pub fn amendable(format: &dyn Format) -> Result<&'static [OptionSpec]> {
    let refused = || Error::unsupported(format!("Format driver '{}' does not support option amendment", format.name()));
    amends(format).ok_or_else(refused)
}

/// The options that a format has in that release, in the order of `-o help`.
pub fn options(format: &dyn Format, version: Version) -> impl Iterator<Item = &'static OptionSpec> + '_ {
    format.create_options().iter().filter(move |option| has_option(format, option.name, version))
}

/// What `-o` says for a new image of the format, as far as that release has such options.
pub fn parse(format: &dyn Format, texts: &[&str], version: Version) -> Result<Options> {
    let specs: Vec<OptionSpec> = options(format, version).copied().collect();
    Options::parse(texts, &specs, &|_| "")
}

/// The option is one of the file, not of the format.
pub fn is_of_file(format: &dyn Format, name: &str) -> bool {
    OF_THE_FILE.contains(&name) && !format.shown_options().iter().any(|(own, _)| *own == name)
}

/// All options in the order of the line "Formatting ..", with their default values.
pub fn shown(format: &dyn Format, version: Version) -> Vec<(&'static OptionSpec, Option<&'static str>)> {
    let listed = format.shown_options();
    let size = [("size", None)];
    let first = if listed.is_empty() { &size[..] } else { listed };
    let all: Vec<_> = options(format, version).collect();
    let by_name = |name: &str| all.iter().copied().find(|option| option.name == name);
    let mut shown: Vec<_> = first.iter().filter_map(|(name, default)| Some((by_name(name)?, *default))).collect();
    let is_listed = |name: &str| first.iter().any(|(listed, _)| *listed == name);
    let rest = all.iter().copied().filter(|o| !is_listed(o.name) && !is_of_file(format, o.name));
    shown.extend(rest.map(|option| (option, None)));
    let of_file = OF_THE_FILE.iter().filter(|name| is_of_file(format, name));
    shown.extend(of_file.filter_map(|name| Some((by_name(name)?, None))));
    shown
}

/// The format called `name`, as the commands that write name it.
pub fn format_named(name: &str) -> Result<&'static dyn Format> {
    instar_registry::by_name(name).ok_or_else(|| Error::usage(format!("Unknown file format '{name}'")))
}

/// The same as `dd` does, which does not repeat the name.
pub fn format_to_write(name: &str) -> Result<&'static dyn Format> {
    instar_registry::by_name(name).ok_or_else(|| Error::usage("Unknown file format"))
}

/// What makes its images.
pub fn creator_of(format: &'static dyn Format) -> Result<&'static dyn Creator> {
    format
        .creator()
        .ok_or_else(|| Error::unsupported(format!("Format driver '{}' does not support image creation", format.name())))
}

/// What qemu-img says of an option's kind.
const fn kind_text(kind: OptionKind) -> &'static str {
    match kind {
        OptionKind::Text => "str",
        OptionKind::Size => "size",
        OptionKind::Number => "num",
        OptionKind::Bool => "bool (on/off)",
    }
}
