//! `bitmap`

use std::os::unix::fs::MetadataExt;

use instar_abi::ops::bitmap::{Bitmap, BitmapAction, BitmapVerb};
use instar_render::escape::terminal;
use instar_vmm::Device;
use instar_vmm::target::Cache;

use super::Command;
use super::options::{FORMAT, IMAGE_OPTS, OBJECT};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::running::{Defaults, Silent};

/// The command.
pub const COMMAND: Command = Command {
    name: "bitmap",
    group: Group::Change,
    about: "Add, remove, switch and merge dirty bitmaps.",
    operands: "FILE [BITMAP]",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::flag("add", "make BITMAP, which records what is changed from now on"),
        Opt::value("granularity", "SIZE", "how many bytes a bit of the new bitmap stands for").letter('g'),
        Opt::flag("remove", "give BITMAP up"),
        Opt::flag("remove-all", "give all bitmaps up").since((11, 1)),
        Opt::flag("clear", "clear all bits of BITMAP"),
        Opt::flag("enable", "let BITMAP record what is changed"),
        Opt::flag("disable", "let BITMAP stay as it is"),
        Opt::value("merge", "SOURCE", "set the bits of the bitmap SOURCE in BITMAP, too").bytes(),
        Opt::value("source-file", "FILE", "the image that SOURCE is in, if it is another one").letter('b').bytes(),
        Opt::value("source-format", "FMT", "that image's format").letter('F'),
        OBJECT,
    ],
    stock: true,
    manual: &pages::BITMAP,
    run,
};

fn actions(parsed: &Parsed) -> Vec<BitmapAction> {
    let said = parsed.each().filter_map(|(key, argument)| {
        let action = match key {
            "add" => BitmapVerb::Add,
            "remove" => BitmapVerb::Remove,
            "remove-all" => BitmapVerb::RemoveAll,
            "clear" => BitmapVerb::Clear,
            "enable" => BitmapVerb::Enable,
            "disable" => BitmapVerb::Disable,
            "merge" => BitmapVerb::Merge,
            _ => return None,
        };
        Some(BitmapAction { action, from: argument.as_encoded_bytes().to_vec() })
    });
    said.collect()
}

/// `-g`. What stands for nothing is not said, and of the rest the stock tool sees 32 bits.
fn granularity(program: &Program, parsed: &Parsed) -> Result<Option<u64>, Exit> {
    let mut said = None;
    for text in parsed.all("granularity") {
        let size = program.size(&text.to_string_lossy(), "granularity", 0..=i64::MAX as u64)?;
        said = (size != 0).then_some(size & u64::from(u32::MAX));
    }
    Ok(said)
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let granularity = granularity(program, parsed)?;
    super::info::check_objects(program)?;
    let actions = actions(parsed);
    let has = |verb| actions.iter().any(|done| done.action == verb);
    if actions.is_empty() {
        let all = if program.version.major >= 11 { "--remove-all, " } else { "" };
        let text = format!("Need at least one of --add, --remove, {all}--clear, --enable, --disable, or --merge");
        return Err(program.fail(&text));
    }
    if granularity.is_some() && !has(BitmapVerb::Add) {
        return Err(program.fail("granularity only supported with --add"));
    }
    if parsed.has("source-file") && !has(BitmapVerb::Merge) {
        return Err(program.fail("Merge bitmap source file only supported with --merge"));
    }
    if parsed.has("source-format") && !parsed.has("source-file") {
        return Err(program.fail("-F only supported with -b"));
    }
    let of_all = actions.iter().all(|done| done.action == BitmapVerb::RemoveAll);
    let (operand, name) = match &parsed.operands[..] {
        [operand] if of_all => (operand, &[][..]),
        _ if of_all => return Err(program.fail("Expecting filename")),
        [operand, name] => (operand, name.as_encoded_bytes()),
        _ => return Err(program.fail("Expecting filename and bitmap name")),
    };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    let image = super::info::named(program, operand, parsed)?;
    let mut call = Call::of(&image, program.open_in_place(&image, Cache::default())?, false);
    let source_error = open_source(program, parsed, &mut call).err();
    let has_source = call.images.len() > 1;
    let mut images = call.described(program)?;
    let params = Bitmap {
        image: images.image(),
        actions,
        name: name.to_vec(),
        granularity,
        source: if has_source { images.images(1).pop() } else { None },
        source_error,
    };
    let subject = operand.to_string_lossy();
    Ok(program.run(params, call, 1, &Defaults::DATA, &subject, &Silent)?.0)
}

fn same_file(one: &Device, other: &Device) -> bool {
    let number = |device: &Device| device.file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    number(one).is_some_and(|one| number(other) == Some(one))
}

/// The image that bitmaps are merged from, if it is another one; or why not, which is told after all that is wrong with the
/// image itself.
fn open_source(program: &Program, parsed: &Parsed, call: &mut Call) -> Result<(), String> {
    let Some(name) = parsed.last("source-file") else { return Ok(()) };
    let not_opened = |text: String| format!("Could not open '{}': {text}", terminal(name.as_encoded_bytes()));
    let source = ImageName::plain(name, parsed.text("source-format"), program.version).map_err(not_opened)?;
    let device = program.try_open(&source, Cache::default(), false).map_err(not_opened)?;
    if call.devices.iter().any(|target| same_file(target, &device)) {
        let shown = terminal(source.path.as_os_str().as_encoded_bytes());
        let text = format!("Failed to get shared \"write\" lock\nIs another process using the image [{shown}]?");
        return Err(not_opened(text));
    }
    call.image(&source, call.devices.len());
    call.devices.push(device);
    Ok(())
}
