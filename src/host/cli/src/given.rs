//! Backing files that the user names instead of (or beside) the images: `backing.file.filename=..`.
//!
//! They are the user's own words, as the image on top is: opened before the guest starts, not by the policy.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use instar_abi::record::Value;
use instar_render::escape::terminal;
use instar_vmm::Device;
use instar_vmm::target::Cache;

use crate::image_name::ImageName;
use crate::program::{Exit, Files, Program};

/// Opens those of every image in the parameters, behind the devices that there are, and says which devices they are.
pub fn open(program: &Program, params: &mut Value, files: &mut Files) -> Result<(), Exit> {
    if params.text("op") == Some("info") {
        // It opens no backing file but those that images name.
        return Ok(());
    }
    let Value::Map(entries) = params else { return Ok(()) };
    for (_, value) in entries {
        let images = match value {
            Value::List(list) => list.as_mut_slice(),
            one => std::slice::from_mut(one),
        };
        for image in images {
            let mut given = image.list("given").to_vec();
            for file in &mut given {
                let device = open_one(program, files, image, file)?;
                file.set("device", files.devices.len() as u64);
                files.devices.push(device);
            }
            if !given.is_empty() {
                image.replace("given", given);
            }
        }
    }
    Ok(())
}

fn open_one(program: &Program, files: &mut Files, image: &Value, file: &Value) -> Result<Device, Exit> {
    let path = Path::new(OsStr::from_bytes(file.bytes("filename").unwrap_or_default()));
    let place = usize::try_from(file.u64("place").unwrap_or(1)).unwrap_or(1);
    let is_base = files.base.as_deref().map_or(place == 1, |base| base == path);
    let commits = files.devices.iter_mut().find(|device| device.parts.bases > 0);
    let opened = match commits.filter(|_| is_base) {
        Some(above) => {
            // The user has named it: no image names another.
            above.parts.bases = 0;
            let parts = above.parts.of_base();
            program.existing_file(path, Cache::default())?.map(|base| Device { parts, ..base })
        }
        None => program.try_open(&ImageName::file(path.into(), None), Cache::default(), files.force_share),
    };
    opened.map_err(|text| {
        let written = terminal(image.bytes("written").unwrap_or_default());
        let above = "Could not open backing file: ".repeat(place);
        program.fail(&format!("Could not open '{written}': {above}{text}"))
    })
}
