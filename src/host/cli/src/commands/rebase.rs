//! `rebase`

use instar_abi::ops::rebase::Rebase;
use instar_render::escape::terminal;

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, NEW_STYLE, OBJECT, PROGRESS, QUIET};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::progress::Progress;
use crate::running::Defaults;

/// The command.
pub const COMMAND: Command = Command {
    name: "rebase",
    group: Group::Change,
    about: "Put an image on another backing file, or on none.",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::value("cache", "MODE", "how the image is written").letter('t'),
        Opt::value("backing", "FILE", "the new backing file; empty: none").letter('b').bytes(),
        Opt::value("backing-format", "FMT", "the new backing file's format").letter_since('B', NEW_STYLE).also(&["F"]),
        Opt::value("backing-cache", "MODE", "how backing files are read").letter('T'),
        Opt::flag("backing-unsafe", "only change the name: the old and the new backing file read the same").letter('u'),
        Opt::flag("compress", "compress what is copied").letter('c').since((8, 2)),
        PROGRESS,
        QUIET,
        FORCE_SHARE,
        OBJECT,
        Opt::flag("dry-run", "change nothing; say what would be copied (instar only)").own(),
    ],
    stock: true,
    manual: &pages::REBASE,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    let only_name = parsed.has("backing-unsafe");
    if !only_name && !parsed.has("backing") {
        return Err(program.usage("Must specify backing file (-b) or use unsafe mode (-u)"));
    }
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    super::info::check_objects(program)?;
    let progress = Progress::new(parsed.has("progress") && !parsed.has("quiet"), 0);
    progress.show(0.0);
    let cache = program.cache(parsed, "cache", "cache", "writeback")?;
    let source_cache = program.cache(parsed, "backing-cache", "source cache", "writeback")?;
    let image = super::info::named(program, operand, parsed)?;
    let mut call = Call::of(&image, program.open_in_place(&image, cache)?, parsed.has("force-share"));
    let mut new_error = None;
    let name = parsed.last("backing").unwrap_or_default();
    let format = parsed.text("backing-format");
    if !only_name && !name.is_empty() {
        new_error = open_backing(program, &image, name, format.clone(), source_cache, &mut call).err();
    }
    if format.is_none() && !program.version.needs_backing_format() && !name.is_empty() {
        program.say(
            "warning: Deprecated use of backing file without explicit backing format, use of this image requires \
             potentially unsafe format probing",
        );
    }
    let subject = operand.to_string_lossy();
    let workers = if only_name { 1 } else { program.workers() };
    let mut images = call.described(program)?;
    let params = Rebase {
        image: images.image(),
        new: images.images(1).pop(),
        new_error,
        backing: name.as_encoded_bytes().to_vec(),
        backing_format: format,
        only_name,
        compress: parsed.has("compress"),
        dry_run: parsed.has("dry-run"),
        steps: progress.is_shown(),
    };
    let (status, results) = program.run(params, call, workers, &Defaults::DATA, &subject, &progress)?;
    if status == 0 {
        progress.end();
    }
    if let (Some(found), false) = (results.dry_run, parsed.has("quiet")) {
        program.print(&format!(
            "{}: {} bytes would be copied, {} bytes marked as zeroes; nothing was changed\n",
            terminal(operand.as_encoded_bytes()),
            found.data_bytes,
            found.zero_bytes,
        ))?;
    }
    Ok(status)
}

/// The new backing file, relative to the image that is going to name it; or why not, which is told after all that is
/// wrong with the image.
fn open_backing(
    program: &Program,
    image: &ImageName,
    name: &std::ffi::OsStr,
    format: Option<String>,
    cache: instar_vmm::target::Cache,
    call: &mut Call,
) -> Result<(), String> {
    let shown = terminal(name.as_encoded_bytes());
    let not_opened = |text: String| format!("Could not open new backing file '{shown}': {text}");
    // Messages name it as the image will.
    let mut backing = ImageName::plain(name, None, program.version).map_err(not_opened)?.beside(&image.path);
    backing.format = format.or(backing.format);
    let device = program.try_open(&backing, cache, call.force_share).map_err(not_opened)?;
    program.vouch(&backing.path);
    call.image(&backing, call.devices.len());
    call.devices.push(device);
    Ok(())
}
