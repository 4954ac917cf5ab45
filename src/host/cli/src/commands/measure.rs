//! `measure`

use instar_abi::ops::Record;
use instar_abi::ops::measure::{Measure, Sizes};
use instar_render::escape::terminal;
use instar_vmm::target::Cache;

use super::Command;
use super::option_list;
use super::options::{NEW_STYLE, OBJECT, OUTPUT};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::image_name::ImageName;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::running::{Defaults, Silent};

/// The command.
pub const COMMAND: Command = Command {
    name: "measure",
    group: Group::Look,
    about: "Say how much room an image would need.",
    operands: "(--size SIZE | FILE)",
    options: &[
        Opt::value("target-format", "FMT", "the new image's format: raw if not given").letter('O'),
        Opt::value("options", "OPTS", "the format's options").letter('o'),
        Opt::value("size", "SIZE", "the disk's size").letter_since('s', NEW_STYLE),
        Opt::value("format", "FMT", "the format of FILE; found out if not given").letter('f'),
        Opt::flag("image-opts", "FILE is a list of options"),
        Opt::value("snapshot", "SNAPSHOT", "measure what this snapshot of FILE needs").letter('l'),
        OUTPUT,
        Opt::flag("force-share", "also while another program writes to FILE").letter('U'),
        OBJECT,
    ],
    stock: true,
    manual: &pages::MEASURE,
    run,
};

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let (mut json, mut size) = (false, None);
    // What is wrong with an argument is told in the order in which they were given, and before all else.
    for (key, value) in parsed.each() {
        match key {
            "options" => option_list::check_one(program, value)?,
            "snapshot" => option_list::check_snapshot(program, value)?,
            "output" => json = super::info::is_json(program, Some(&value.to_string_lossy()))?,
            "size" => size = Some(program.size(&value.to_string_lossy(), "image size", 0..=i64::MAX as u64)?),
            _ => {}
        }
    }
    super::info::check_objects(program)?;
    let of_file = parsed.has("image-opts") || parsed.has("format") || parsed.has("snapshot");
    let wrong = [
        (parsed.operands.len() > 1, "At most one filename argument is allowed."),
        (parsed.operands.is_empty() && of_file, "--image-opts, -f, and -l require a filename argument."),
        (parsed.operands.is_empty() && size.is_none(), "Either --size N or one filename must be specified."),
        (!parsed.operands.is_empty() && size.is_some(), "--size N cannot be used together with a filename."),
        (parsed.has("image-opts") && parsed.has("format"), "--image-opts and --format are mutually exclusive"),
    ];
    if let Some((_, text)) = wrong.iter().find(|(is, _)| *is) {
        return Err(program.fail(text));
    }
    let share = parsed.has("force-share");
    let mut call = Call::on(Vec::new(), share);
    let mut subject = String::from("measure");
    if let Some(operand) = parsed.operands.first() {
        subject = terminal(operand.as_encoded_bytes());
        let image = if parsed.has("image-opts") {
            ImageName::from_options(operand, program.version)
        } else {
            ImageName::plain(operand, parsed.text("format"), program.version)
        };
        let image = image.map_err(|e| program.fail(&format!("Could not open '{subject}': {e}")))?;
        call = Call::of(&image, program.open_source(&image, Cache::default(), share)?, share);
    }
    let params = Measure {
        format: parsed.text("target-format").unwrap_or_else(|| "raw".to_string()),
        options: option_list::params(parsed),
        snapshot: parsed.text("snapshot"),
        size,
        image: call.described(program)?.images(1).pop(),
    };
    let (status, results) = program.run(params, call, 1, &Defaults::METADATA, &subject, &Silent)?;
    if let Some(sizes) = results.sizes.filter(|_| status == 0) {
        let told = if json { instar_render::json(&sizes.into_value()) + "\n" } else { text(&sizes) };
        let render = |out: &mut dyn std::fmt::Write| out.write_str(&told);
        program.show(&render, &subject)?;
    }
    Ok(status)
}

fn text(sizes: &Sizes) -> String {
    let bitmaps = sizes.bitmaps.map(|size| format!("bitmaps size: {size}\n")).unwrap_or_default();
    format!("required size: {}\nfully allocated size: {}\n{bitmaps}", sizes.required, sizes.fully_allocated)
}
