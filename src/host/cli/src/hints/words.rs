//! Words that were mistaken for others.

use instar_abi::drivers::{FORMATS, PROTOCOLS};

use super::Slip;
use crate::STANDARD;
use crate::commands::COMMANDS;
use crate::commands::generate::options_of;
use crate::config::SETTINGS;
use crate::sizes;

/// Longer ones are no slips, and would take long to compare.
const LENGTH_MAX: usize = 40;
/// More than any list has; the guest's own may be of any length.
const CANDIDATES_MAX: usize = 200;

/// The one that is hardly another word, if there is one.
fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let length = word.chars().count();
    if length == 0 || length > LENGTH_MAX {
        return None;
    }
    let far = (length / 3).max(1);
    let small = word.to_lowercase();
    let candidates = candidates.take(CANDIDATES_MAX).filter(|other| other.len() <= LENGTH_MAX && *other != word);
    let distances = candidates.map(|other| (strsim::osa_distance(&small, other), other));
    // A letter more or less of one or two is any word.
    let near = distances.filter(|(distance, _)| *distance <= far && *distance < length);
    near.min_by_key(|(distance, _)| *distance).map(|(_, other)| other)
}

fn meant(word: &str) -> String {
    format!("did you mean '{word}'?")
}

pub fn command(_: &Slip<'_>, found: &[&str]) -> Option<String> {
    nearest(found.first()?, COMMANDS.iter().map(|command| command.name)).map(meant)
}

pub fn option(slip: &Slip<'_>, found: &[&str]) -> Option<String> {
    let typed = found.last()?.strip_prefix("--")?;
    let typed = typed.split('=').next()?;
    let own = slip.command().map(options_of).unwrap_or_else(|| {
        let settings = SETTINGS.iter().map(|setting| &setting.flag);
        STANDARD.iter().chain(settings).collect()
    });
    let names = own.iter().flat_map(|option| option.also.iter().chain([&option.long])).copied();
    nearest(typed, names.filter(|name| name.len() > 1)).map(|name| meant(&format!("--{name}")))
}

/// What formats are called elsewhere.
const ALIASES: &[(&str, &str)] = &[
    ("vhd", "vhd is called vpc here"),
    ("img", "img is called raw here: the bytes of the disk and nothing else"),
    ("iso", "iso is called raw here: the bytes of the disk and nothing else"),
    ("bin", "bin is called raw here: the bytes of the disk and nothing else"),
    ("dd", "dd is called raw here: the bytes of the disk and nothing else"),
    ("hdd", "hdd is called parallels here"),
    ("qcow3", "that is qcow2, with -o compat=1.1 (which is what is made anyway)"),
    ("ova", "an ova is an archive: unpack it with tar; the images in it are vmdk"),
    ("ovf", "an ovf only describes a machine: its images are vmdk beside it"),
    ("zip", "an archive: unpack it, and name the image that is in it"),
    ("gz", "it is compressed: unpack it with gunzip, and name the image that is in it"),
    ("xz", "it is compressed: unpack it with unxz, and name the image that is in it"),
];

pub fn format(_: &Slip<'_>, found: &[&str]) -> Option<String> {
    let typed = found.get(1)?;
    let small = typed.to_lowercase();
    if let Some((_, text)) = ALIASES.iter().find(|(name, _)| *name == small) {
        return Some((*text).to_string());
    }
    if let Some(name) = FORMATS.iter().find(|name| **name == small) {
        return Some(format!("names of formats are written small: {name}"));
    }
    let near = nearest(typed, FORMATS.iter().chain(PROTOCOLS).copied()).map(meant);
    Some(near.unwrap_or_else(|| format!("formats: {}", FORMATS.join(" "))))
}

/// Protocols of the stock tool's, which are not there; and what brings such an image here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("nbd", "nbdcopy"),
    ("nbd+tcp", "nbdcopy"),
    ("nbd+unix", "nbdcopy"),
    ("nbds", "nbdcopy"),
    ("rbd", "rbd export"),
    ("http", "curl"),
    ("https", "curl"),
    ("ftp", "curl"),
    ("ftps", "curl"),
    ("ssh", "scp"),
    ("sftp", "scp"),
    ("iscsi", "the kernel's initiator (iscsiadm), which makes a block device of it"),
    ("nfs", "a mount"),
    ("gluster", "a mount"),
    ("sheepdog", "its own tools"),
];

pub fn protocol(_: &Slip<'_>, found: &[&str]) -> Option<String> {
    let typed = found.last()?.to_lowercase();
    Some(match ELSEWHERE.iter().find(|(name, _)| *name == typed) {
        Some((name, way)) => format!(
            "{name} is not there yet (docs/differences.md): only local files and block devices are read; {way} brings it here"
        ),
        None => {
            "what stands before a colon is a protocol; a file of such a name is written file:NAME or ./NAME".to_string()
        }
    })
}

/// What the guest's list of options begins with.
const OPTIONS_HERE: &str = "the options here: ";

/// `-o KEY=..`: the guest knows which there are.
pub fn key(slip: &Slip<'_>, found: &[&str]) -> Option<String> {
    let list = slip.theirs?.strip_prefix(OPTIONS_HERE)?;
    let names = || list.split(", ").filter(|name| is_key(name));
    let typed = found.last()?.replace('-', "_");
    let near = names().find(|name| *name == typed).or_else(|| nearest(&typed, names()));
    near.map(|name| format!("did you mean '{name}'? -o help lists them"))
}

fn is_key(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte))
}

const UNITS: &str = "sizes end in K M G T P E, powers of 1024";

/// Such a size without what other programs write behind it: `10GB`, `10GiB`, `10g`, `10 G`.
fn corrected(text: &str) -> Option<String> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-'))?;
    let (number, unit) = text.split_at(at);
    let unit = unit.trim().to_lowercase();
    let units = ["", "k", "m", "g", "t", "p", "e"];
    let names = ["byte", "kilo", "mega", "giga", "tera", "peta", "exa"];
    let of = |unit: &str| units.iter().position(|one| *one == unit);
    let long = |unit: &str| {
        names.iter().position(|name| unit.strip_suffix("bytes").or(unit.strip_suffix("byte")) == Some(*name))
    };
    let power =
        unit.strip_suffix("ib").and_then(of).or_else(|| unit.strip_suffix('b').and_then(of)).or_else(|| of(&unit));
    let power = power.or_else(|| long(&unit))?;
    let right = format!("{number}{}", units.get(power)?.to_uppercase());
    let plain = right.trim_start_matches(['+', '-']);
    (right != text && sizes::parse(plain).is_some()).then_some(right)
}

/// Sizes are the user's words. Some releases repeat the one that is wrong, and some do not.
pub fn size(slip: &Slip<'_>, found: &[&str]) -> Option<String> {
    let of_image = found.get(1).is_some_and(|what| *what == "image size");
    if let ([first, _, ..], true) = (slip.named(), of_image && slip.program.command == "create")
        && first.to_str().is_some_and(|word| sizes::parse(word).is_some())
    {
        return Some("the file's name comes first, and its size behind it".to_string());
    }
    value(slip, &[found.last()?.split('\'').nth(1).unwrap_or_default()])
}

/// The same where it is repeated at the end of what is said, is an option's, or stands behind the file's name.
pub fn value(slip: &Slip<'_>, found: &[&str]) -> Option<String> {
    let behind = slip.named().iter().skip(1);
    let all = slip.program.values.iter().chain(behind).filter_map(|value| value.to_str());
    let mut words = all.flat_map(|value| value.split([',', '='])).filter_map(corrected);
    found.last().and_then(|typed| corrected(typed)).or_else(|| words.next()).map(|right| format!("{UNITS}: {right}"))
}

pub fn no_size(_: &Slip<'_>, _: &[&str]) -> Option<String> {
    Some("the size comes behind the name: create -f qcow2 disk.qcow2 10G".to_string())
}

pub fn several(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    (slip.named().len() > 1).then(|| "one image at a time: for file in A B; do instar info \"$file\"; done".to_string())
}

pub fn dd(_: &Slip<'_>, found: &[&str]) -> Option<String> {
    let name = found.first()?;
    let near = nearest(name, ["bs", "count", "skip", "if", "of"].into_iter()).filter(|_| name.len() > 2);
    Some(near.map_or_else(
        || "dd takes if=FILE of=FILE, and bs= count= skip=".to_string(),
        |word| meant(&format!("{word}=")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_hardly_another_word_is_meant() {
        let near = |word| nearest(word, ["convert", "create", "check", "info", "map"].into_iter());
        assert_eq!(near("convrt"), Some("convert"));
        assert_eq!(near("CONVERT"), Some("convert"));
        assert_eq!(near("ifno"), Some("info"));
        assert_eq!(near("mpa"), Some("map"));
        for word in ["delete", "x", "", "xy", "information-about-all-of-the-images-that-are-there"] {
            assert_eq!(near(word), None, "{word}");
        }
    }

    #[test]
    fn sizes_of_other_programs() {
        for (text, right) in [
            ("10GB", "10G"),
            ("10GiB", "10G"),
            ("+5mb", "+5M"),
            ("1.5 tib", "1.5T"),
            ("2megabytes", "2M"),
            ("7kilobyte", "7K"),
        ] {
            assert_eq!(corrected(text).as_deref(), Some(right), "{text}");
        }
        for text in ["10G", "ten", "10X", "", "GB", "1.2.3GB", "512"] {
            assert_eq!(corrected(text), None, "{text}");
        }
    }
}
