//! Files that the user named, and that are not as they should be.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use instar_render::escape::terminal;

use super::Slip;

/// The path of what was named: `file:x` and `if=x`, too.
fn path(word: &OsStr) -> PathBuf {
    let bytes = word.as_bytes();
    let heads: [&[u8]; 3] = [b"file:", b"if=", b"of="];
    let bytes = heads.iter().find_map(|head| bytes.strip_prefix(*head)).unwrap_or(bytes);
    OsStr::from_bytes(bytes).into()
}

fn shown(path: &Path) -> String {
    terminal(path.as_os_str().as_bytes())
}

/// Those that the message tells of.
fn told_of(slip: &Slip<'_>) -> Vec<PathBuf> {
    let named = slip.named().iter().map(|word| path(word));
    // A target's name stands before what is said of it; all others are in quotation marks.
    let told = |path: &PathBuf| {
        let shown = shown(path);
        slip.message.contains(&format!("'{shown}'")) || slip.message.starts_with(&format!("{shown}: "))
    };
    named.filter(|path| !path.as_os_str().is_empty() && told(path)).collect()
}

pub fn dash(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    let is_dash = told_of(slip).iter().any(|path| path.as_os_str() == "-");
    is_dash.then(|| {
        "'-' is no standard input here: pipes are not read, images are files (one of that name is ./-)".to_string()
    })
}

pub fn missing_folder(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    let folder = |path: PathBuf| path.parent().filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_path_buf);
    let missing = |folder: &PathBuf| folder.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let folder = told_of(slip).into_iter().filter_map(folder).find(missing)?;
    Some(format!("there is no folder '{}'", shown(&folder)))
}

pub fn no_folder(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    let file = |path: PathBuf| path.ancestors().skip(1).find(|above| above.is_file()).map(Path::to_path_buf);
    let file = told_of(slip).into_iter().find_map(file)?;
    Some(format!("'{}' is a file, and no folder", shown(&file)))
}

pub fn no_file(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    let named = slip.named().iter().map(|word| path(word));
    let kind = |path: PathBuf| path.metadata().ok().and_then(|meta| Some((path, what_else(&meta)?)));
    let (path, what) = named.filter_map(kind).next()?;
    Some(format!("'{}' is {what}", shown(&path)))
}

fn what_else(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => Some("a folder: name the image that is in it"),
        () if kind.is_fifo() => Some("a pipe, and pipes are not read: images are files and block devices"),
        () if kind.is_socket() => Some("a socket: images are files and block devices"),
        () if kind.is_char_device() => Some("a device of characters: images are files and block devices"),
        () => None,
    }
}

/// What makes a file this one.
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().filter(|meta| !meta.is_dir()).map(|meta| (meta.dev(), meta.ino()))
}

/// A lock of one's own is in the way.
pub fn same_twice(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    if !slip.message.contains("Is another process using the image") {
        return None;
    }
    let named: Vec<PathBuf> = slip.named().iter().map(|word| path(word)).collect();
    let (target, sources) = named.split_last()?;
    let own = identity(target)?;
    let source = sources.iter().find(|source| identity(source) == Some(own))?;
    Some(format!("'{}' and '{}' are the same file: give the target another name", shown(source), shown(target)))
}

pub fn in_use(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    let shares = slip.command()?.options.iter().any(|option| option.long == "force-share");
    shares.then(|| {
        "another program writes to it; -U (--force-share) reads it all the same, as it is at that moment, perhaps half \
         changed"
            .to_string()
    })
}

pub fn permission(slip: &Slip<'_>, _: &[&str]) -> Option<String> {
    let path = told_of(slip).pop()?;
    let own = slip.program.user;
    // A target that is not there would be made in its folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = path.metadata().map(|meta| (path.as_path(), meta));
    let found = found.or_else(|_| folder.metadata().map(|meta| (folder, meta)));
    Some(match found {
        Ok((path, meta)) => format!(
            "this runs as user {own}; '{}' belongs to user {}, with mode {:04o}",
            shown(path),
            meta.uid(),
            meta.mode() & 0o7777
        ),
        Err(_) => format!("this runs as user {own}, who may not look into a folder on the way to '{}'", shown(&path)),
    })
}
