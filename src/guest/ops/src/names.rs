//! `policy`: asks for every file that the images of a chain name. What may be opened, and what of it is told, is the
//! host's affair: it sees the requests.

use instar_abi::ops::policy::Policy;
use instar_image::{Error, Kind, Machine, Purpose, Result, Version};

use crate::open::{ImageSpec, Opening};

/// Goes down the chain as far as it can be known.
///
/// # Errors
/// What keeps the chain from being known, but for names that are refused: these are what is asked for.
pub fn run(machine: &dyn Machine, params: &Policy, version: Version) -> Result<u8> {
    let mut spec = ImageSpec::of(&params.image);
    for _ in 0..instar_image::limits::CHAIN_DEPTH_MAX {
        let opening = Opening { machine, version };
        // Without its data file the image still tells its backing file; without an extent it cannot be known.
        let opened = match opening.image(&spec, Purpose::Read) {
            Err(error) if error.kind == Kind::Refused => opening.image(&spec, Purpose::Describe),
            other => other,
        };
        let below = match opened {
            Ok(layer) => opening.below(&layer),
            Err(error) if error.kind == Kind::Refused => return Ok(0),
            Err(error) => return Err(spec.could_not_open(error)),
        };
        match below {
            Some(Ok(below)) => spec = below,
            Some(Err(error)) if error.kind != Kind::Refused => {
                return Err(spec.could_not_open(error.context("Could not open backing file")));
            }
            _ => return Ok(0),
        }
    }
    Err(Error::limit("the backing chain is too long"))
}
