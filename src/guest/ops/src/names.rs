//! `policy`: asks for every file that the images of a chain name. What may be opened, and what of it is told, is the
//! host's affair: it sees the requests.

use instar_abi::ops::policy::Policy;
use instar_image::{Error, Kind, Machine, Result, Version};

use crate::open::{ImageSpec, Opening, open_backing};

/// Goes down the chain as far as it can be known.
///
/// # Errors
/// What keeps the chain from being known, but for names that are refused: these are what is asked for.
pub fn run(machine: &dyn Machine, params: &Policy, version: Version) -> Result<u8> {
    let mut spec = ImageSpec::of(&params.image);
    for _ in 0..instar_image::limits::CHAIN_DEPTH_MAX {
        let open = |data| Opening { machine, version, data }.image(&spec);
        // Without its data file the image still tells its backing file; without an extent it cannot be known.
        let opened = match open(true) {
            Err(error) if error.kind == Kind::Refused => open(false),
            other => other,
        };
        let backing = match opened {
            Ok((image, _)) => image.backing(),
            Err(error) if error.kind == Kind::Refused => return Ok(0),
            Err(error) => return Err(spec.could_not_open(error)),
        };
        let Some(backing) = backing else { return Ok(0) };
        match open_backing(machine, spec.device, &spec.name, &backing.name) {
            Ok((device, name)) => spec = ImageSpec::opened(device, name.clone(), name, backing.format),
            Err(error) if error.kind == Kind::Refused => return Ok(0),
            Err(error) => return Err(spec.could_not_open(error.context("Could not open backing file"))),
        }
    }
    Err(Error::limit("the backing chain is too long"))
}
