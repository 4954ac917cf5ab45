//! Drivers below each other, as `--image-opts` and `json:` can name them (`driver=qcow2,file.driver=luks,..`): an image in
//! what another image shows.
//!
//! The lower image becomes a device of its own, which is read through its chain; everything above goes on as if it were a
//! file. It is written to where its file may be: that follows from the command alone. The user's words alone say how deep it
//! goes, never an image.

mod device;
mod shared;
mod through;

use alloc::format;
use alloc::vec::Vec;

use instar_abi::ops::{BelowParams, GivenParams, ImageParams};
use instar_image::limits::CHAIN_DEPTH_MAX;
use instar_image::machine::display_name;
use instar_image::{DeviceId, Error, Machine, Purpose, Result, Version};

use self::device::{Nested, Shown};
use self::through::Through;
use crate::open::{ImageSpec, Opening};

/// Drivers below others that are opened in one command: the stock tool's own limit is its stack.
const NODES_MAX: usize = 16;

/// An image that becomes the device `id`.
struct Node {
    id: DeviceId,
    spec: ImageSpec,
    /// The name that is shown for it.
    name: Vec<u8>,
    /// As the user wrote the image on top.
    written: Vec<u8>,
    /// How many images are above that it is a backing file of.
    depth: u64,
}

/// Runs `body` with all devices that the images are in.
pub fn with(
    machine: &dyn Machine,
    images: &[&ImageParams],
    version: Version,
    body: &dyn Fn(&dyn Machine) -> Result<u8>,
) -> Result<u8> {
    let mut nodes = Vec::new();
    for image in images {
        let mut found = Collected { written: image.written.as_deref().unwrap_or_default(), nodes: &mut nodes };
        found.below(&image.below, 0)?;
        found.given(&image.given, 0)?;
    }
    open(machine, version, &nodes, body)
}

/// The nodes below an image, each behind those that it lies in or stands on. As deep as the user's words go.
struct Collected<'n> {
    written: &'n [u8],
    nodes: &'n mut Vec<Node>,
}

impl Collected<'_> {
    fn below(&mut self, below: &[BelowParams], depth: u64) -> Result<()> {
        for below in below {
            self.given(&below.given, depth)?;
            if self.nodes.len() >= NODES_MAX {
                return Err(Error::limit(format!("more than {NODES_MAX} drivers below others")));
            }
            self.nodes.push(Node {
                id: DeviceId(below.id),
                spec: ImageSpec::below(below),
                name: below.shown.clone(),
                written: self.written.to_vec(),
                depth,
            });
        }
        Ok(())
    }

    fn given(&mut self, given: &[GivenParams], depth: u64) -> Result<()> {
        given.iter().try_for_each(|file| self.below(&file.below, depth.saturating_add(file.place)))
    }
}

/// One device after the other, each with those before it. As deep as the user's words go.
fn open(
    machine: &dyn Machine,
    version: Version,
    nodes: &[Node],
    body: &dyn Fn(&dyn Machine) -> Result<u8>,
) -> Result<u8> {
    let Some((node, rest)) = nodes.split_first() else { return body(machine) };
    let could_not_open = |error: Error| {
        let error =
            (0..node.depth.min(CHAIN_DEPTH_MAX as u64)).fold(error, |e, _| e.context("Could not open backing file"));
        error.context(format!("Could not open '{}'", display_name(&node.written)))
    };
    let opening = Opening { machine, version };
    let is_written = machine.stat(node.spec.device)?.writable;
    let purpose = |depth, _: &[u8]| if depth == 0 && is_written { Purpose::Write(machine) } else { Purpose::Read };
    let chain = opening.chain(&node.spec, &purpose).map_err(could_not_open)?;
    let image = if is_written {
        Shown::Written(Through::new(opening, node.spec.clone(), chain).map_err(could_not_open)?)
    } else {
        Shown::Read(chain)
    };
    let nested = Nested { below: machine, id: node.id, name: node.name.clone(), file: node.spec.device, image };
    let done = open(&nested, version, rest, body);
    // What was written before something failed is kept, as in a file.
    let finished = nested.finish();
    done.and_then(|status| finished.map(|()| status))
}

/// A device and, if an image is it, those that the image lies on: each with the name that is shown for it. `file` is the
/// name of the lowest.
pub fn devices(machine: &dyn Machine, mut device: DeviceId, file: &[u8]) -> Vec<(DeviceId, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(node) = machine.node(device) {
        found.push((device, node.name.to_vec()));
        device = node.layer.device;
    }
    found.push((device, file.to_vec()));
    found
}
