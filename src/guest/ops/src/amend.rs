//! `amend`: what an image says of itself is changed in place. How, the format knows.

use alloc::string::String;
use alloc::vec::Vec;

use instar_abi::ops::amend::{Amend, AmendResults};
use instar_image::options::Options;
use instar_image::values::size;
use instar_image::{Amendment, Error, Format, Machine, Purpose, Result, Version};

use crate::guessed::tell_guessed;
use crate::open::{ImageSpec, Opening};
use crate::option_help::{amendable, options, row};
use crate::resize::own_end;
use crate::told::{tell, warn};

/// Changes the image; exit status 0.
pub fn run(machine: &dyn Machine, params: &Amend, version: Version) -> Result<u8> {
    let image = ImageSpec::of(&params.image);
    let purpose = |depth, _: &[u8]| if depth == 0 { Purpose::Write(machine) } else { Purpose::Read };
    let chain = Opening { machine, version }.chain(&image, &purpose);
    let mut chain = chain.map_err(|e| image.could_not_open(e))?;
    let top = chain.layers.first().ok_or_else(|| Error::corrupt("a chain without an image"))?;
    let format = top.format;
    warn(machine, top.image.warnings())?;
    tell_guessed(machine, &image, format)?;
    if params.help {
        let rows = amendable(format)?.iter().map(|option| row(option, false)).collect();
        tell(machine, AmendResults { format: Some(String::from(format.name())), rows, ..AmendResults::default() })?;
        return Ok(0);
    }
    let said = parse(format, &params.options, version)?;
    tell(machine, AmendResults { began: true, ..AmendResults::default() })?;
    machine.seal()?;
    let backing_len = chain.layers.get(1).map(|layer| layer.image.virtual_size());
    if let Some(text) = said.get("size") {
        own_end(machine, &mut chain, 0, size("size", text)?)?;
    }
    let what = Amendment {
        options: &said,
        version,
        backing_len,
        force: params.force,
        warn: &|text| warn(machine, Vec::from([String::from(text)])),
    };
    let amended = chain.layers.first_mut().and_then(|top| top.image.amend(&what));
    amended.unwrap_or_else(|| Err(Error::unsupported("the options of such an image cannot be changed")))?;
    Ok(0)
}

/// What `-o` says, of what can be changed.
fn parse(format: &dyn Format, texts: &[Vec<u8>], version: Version) -> Result<Options> {
    let specs = amendable(format)?;
    let texts = texts.iter().map(|text| core::str::from_utf8(text));
    let texts: core::result::Result<Vec<&str>, _> = texts.collect();
    let texts = texts.map_err(|_| Error::usage("the options (-o) are not UTF-8"))?;
    let only_new = |name: &str| {
        let is_one = options(format, version).any(|option| option.name == name);
        if is_one { "\nThis option is only supported for image creation" } else { "" }
    };
    Options::parse(&texts, specs, &only_new)
}
