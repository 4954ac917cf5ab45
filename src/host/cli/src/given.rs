//! Backing files that the user names instead of (or beside) the images: `backing.file.filename=..`.
//!
//! They are the user's own words, as the image on top is: opened before the guest starts, not by the policy.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use instar_abi::record::Value;
use instar_render::escape::terminal;
use instar_vmm::Device;
use instar_vmm::target::Cache;

use crate::image_name::ImageName;
use crate::program::{Exit, Program};

/// Opens those of every image in the parameters, behind the devices that there are, and says which devices they are.
pub fn open(program: &Program, params: &mut Value, devices: &mut Vec<Device>) -> Result<(), Exit> {
    if params.text("op") == Some("info") {
        // It opens no backing file but those that images name.
        return Ok(());
    }
    let call = Call {
        program,
        share: params.flag("force-share"),
        commits: params.flag("writes-backing"),
        base: params.bytes("base").map(|name| OsStr::from_bytes(name).into()),
    };
    let Value::Map(entries) = params else { return Ok(()) };
    for (_, value) in entries {
        let images = match value {
            Value::List(list) => list.as_mut_slice(),
            one => std::slice::from_mut(one),
        };
        for image in images {
            let mut given = image.list("given").to_vec();
            for file in &mut given {
                let device = call.open(image, file)?;
                file.set("device", devices.len() as u64);
                devices.push(device);
            }
            if !given.is_empty() {
                image.replace("given", given);
            }
        }
    }
    Ok(())
}

/// What the command is to do with them.
struct Call<'a> {
    program: &'a Program,
    share: bool,
    commits: bool,
    /// What `commit -b` says.
    base: Option<PathBuf>,
}

impl Call<'_> {
    fn open(&self, image: &Value, file: &Value) -> Result<Device, Exit> {
        let path = Path::new(OsStr::from_bytes(file.bytes("filename").unwrap_or_default()));
        let place = usize::try_from(file.u64("place").unwrap_or(1)).unwrap_or(1);
        let is_base = self.base.as_deref().map_or(place == 1, |base| base == path);
        let opened = if self.commits && is_base {
            self.program.existing_file(path, Cache::default())?
        } else {
            self.program.try_open(&ImageName::file(path.into(), None), Cache::default(), self.share)
        };
        opened.map_err(|text| {
            let written = terminal(image.bytes("written").unwrap_or_default());
            let above = "Could not open backing file: ".repeat(place);
            self.program.fail(&format!("Could not open '{written}': {above}{text}"))
        })
    }
}
