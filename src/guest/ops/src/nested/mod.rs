//! Drivers below each other, as `--image-opts` and `json:` can name them (`driver=qcow2,file.driver=luks,..`): an image in
//! what another image shows.
//!
//! The lower image becomes a device of its own, which is read through its chain; everything above goes on as if it were a
//! file. The user's words alone say how deep it goes, never an image.

mod device;

use alloc::format;
use alloc::vec::Vec;

use instar_image::machine::display_name;
use instar_image::{DeviceId, Error, Machine, Result, Value, Version};

use self::device::Nested;
use crate::open::{ImageSpec, Opening};

/// Drivers below each other that are opened: the stock tool's own limit is its stack.
const DEPTH_MAX: usize = 16;

/// An image that becomes the device `id`.
struct Node {
    id: DeviceId,
    spec: ImageSpec,
    /// The name that is shown for it.
    name: Vec<u8>,
    /// As the user wrote the image on top.
    written: Vec<u8>,
}

/// Runs `body` with all devices that images of `params` are in.
pub fn with(
    machine: &dyn Machine,
    params: &Value,
    version: Version,
    body: &dyn Fn(&dyn Machine) -> Result<u8>,
) -> Result<u8> {
    let Value::Map(entries) = params else { return body(machine) };
    let mut nodes = Vec::new();
    for (_, value) in entries {
        let images = match value {
            Value::List(list) => list.as_slice(),
            one => core::slice::from_ref(one),
        };
        for image in images.iter().filter(|image| matches!(image, Value::Map(_))) {
            collect(image, &mut nodes)?;
        }
    }
    open(machine, version, &nodes, body)
}

/// The nodes below an image, the lowest first.
fn collect(image: &Value, nodes: &mut Vec<Node>) -> Result<()> {
    let below = image.list("below");
    if below.len() > DEPTH_MAX {
        return Err(Error::limit(format!("more than {DEPTH_MAX} drivers below each other")));
    }
    for node in below {
        let id = node.u64("id").and_then(|id| u32::try_from(id).ok());
        let id = DeviceId(id.ok_or_else(|| Error::usage("a driver without a device"))?);
        let written = image.bytes("written").unwrap_or_default().to_vec();
        let name = node.bytes("shown").unwrap_or_default().to_vec();
        nodes.push(Node { id, spec: ImageSpec::from_value(node)?, name, written });
    }
    Ok(())
}

/// One device after the other, each with those before it. As deep as the user's words go.
fn open(
    machine: &dyn Machine,
    version: Version,
    nodes: &[Node],
    body: &dyn Fn(&dyn Machine) -> Result<u8>,
) -> Result<u8> {
    let Some((node, rest)) = nodes.split_first() else { return body(machine) };
    let opening = Opening { machine, version, data: true };
    let chain = opening
        .layers(&node.spec)
        .map_err(|error| error.context(format!("Could not open '{}'", display_name(&node.written))))?;
    let nested = Nested { below: machine, id: node.id, name: node.name.clone(), file: node.spec.device, chain };
    open(&nested, version, rest, body)
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
