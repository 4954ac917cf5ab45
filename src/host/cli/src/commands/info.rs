//! `info`

use instar_abi::ops::info::Info;
use instar_render::{InfoJson, LocalTime};
use instar_vmm::target::Cache;

use super::Command;
use super::options::{FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT};
use crate::call::Call;
use crate::getopt::{Opt, Parsed};
use crate::given::Role;
use crate::image_name::ImageName;
use crate::manual::{Group, pages};
use crate::program::{Exit, Program};
use crate::running::{Defaults, Silent};

/// The command.
pub const COMMAND: Command = Command {
    name: "info",
    group: Group::Look,
    about: "Show what an image is: its format, its size, what it stands on.",
    operands: "FILE",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt::flag("backing-chain", "show every image of the chain").also(&["b"]),
        FORCE_SHARE,
        Opt::flag("limits", "show what the block driver is limited to").since((11, 0)),
        Opt::value("cache", "MODE", "how the file is opened").letter('t').since((11, 0)),
        OUTPUT,
        OBJECT,
        Opt::flag("extra-detail", "show partition tables and the like, too").own(),
    ],
    stock: true,
    manual: &pages::INFO,
    run,
};

/// This place's time.
pub struct Local;

impl LocalTime for Local {
    fn format(&self, seconds: u64) -> String {
        instar_vmm::clock::local(seconds)
    }
}

/// What `--output` asks for: true for JSON.
pub fn wants_json(program: &Program, parsed: &Parsed) -> Result<bool, Exit> {
    is_json(program, parsed.text("output").as_deref())
}

/// The same of one argument of it.
pub fn is_json(program: &Program, text: Option<&str>) -> Result<bool, Exit> {
    match text {
        None | Some("human") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => {
            let text = program.version.bad_output(other);
            Err(if program.version.major >= 10 { program.usage(&text) } else { program.fail(&text) })
        }
    }
}

/// The image that an operand names, with `-f` or `--image-opts`.
pub fn named(program: &Program, operand: &std::ffi::OsStr, parsed: &Parsed) -> Result<ImageName, Exit> {
    let image = if parsed.has("image-opts") {
        ImageName::from_options(operand, program.version)
    } else {
        ImageName::plain(operand, parsed.text("format"), program.version)
    };
    image.map_err(|e| {
        let shown = instar_render::escape::terminal(operand.as_encoded_bytes());
        program.fail(&format!("Could not open '{shown}': {e}"))
    })
}

/// Reads the secrets that `--object` gives.
pub fn check_objects(program: &Program) -> Result<(), Exit> {
    program.secrets.borrow_mut().read(program.version).map_err(|text| program.fail(&text))
}

/// The image as it is opened to be described: without what shows no more than its data.
fn opened_alone(image: &ImageName) -> ImageName {
    let given = image.given.iter().filter(|given| given.role == Role::Header).cloned().collect();
    ImageName { given, ..image.clone() }
}

fn run(program: &Program, parsed: &Parsed) -> Result<u8, Exit> {
    let json = wants_json(program, parsed)?;
    check_objects(program)?;
    let [operand] = &parsed.operands[..] else { return Err(program.usage("Expecting one image file name")) };
    if parsed.has("image-opts") && parsed.has("format") {
        return Err(program.fail("--image-opts and --format are mutually exclusive"));
    }
    let cache = match parsed.text("cache") {
        Some(name) => Cache::by_name(&name).ok_or_else(|| program.fail(&format!("Invalid cache option: {name}")))?,
        None => Cache::default(),
    };
    let image = named(program, operand, parsed)?;
    let device = program.open_source(&image, cache, parsed.has("force-share"))?;
    let chain = parsed.has("backing-chain");
    let mut call = Call::of(&opened_alone(&image), device, parsed.has("force-share"));
    let params = Info {
        image: call.described(program)?.image(),
        backing_chain: chain,
        limits: parsed.has("limits"),
        extra_detail: parsed.has("extra-detail"),
    };
    let subject = image.path.to_string_lossy();
    let (status, results) = program.run(params, call, 1, &Defaults::METADATA, &subject, &Silent)?;
    let mut images: Vec<_> = results.images.into_iter().map(instar_render::unfold).collect();
    if let Some(first) = images.first_mut()
        && let Some(name) = image.with_options(&first.format)
    {
        first.filename = name.into_bytes();
    }
    if status != 0 || images.is_empty() {
        return Ok(status);
    }
    if json {
        let tree = InfoJson::new(images, chain, program.version);
        program.show(&|out| tree.write(out), &subject)?;
    } else {
        program.show(&|out| instar_render::info_human(&images, program.version, &Local, out), &subject)?;
    }
    Ok(status)
}
