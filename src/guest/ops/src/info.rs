//! `info`: what an image, or every image of a chain, says of itself.
//!
//! The result is QEMU's own `ImageInfo` tree (QAPI, block-core.json), so that the host can print it without
//! knowing any format.

use alloc::boxed::Box;
use alloc::vec::Vec;

use instar_image::chain::Node;
use instar_image::machine::{Stat, display_name};
use instar_image::names::{combine, without_file};
use instar_image::quirk::has;
use instar_image::{
    Description, DeviceId, Error, Format, Image, Kind, Machine, Quirk, Result, Snapshot, Source, Value, Version,
};

use crate::guessed::is_guessed;
use crate::open::{ImageSpec, Opening, open_backing, stored_name};

const SECTOR: u64 = 512;

/// Emits `images`: one map an image, the top first; just one without `backing-chain`.
pub fn run(machine: &dyn Machine, params: &Value, version: Version) -> Result<u8> {
    let image = params.get("image").ok_or_else(|| Error::usage("info without an image"))?;
    let mut spec = ImageSpec::from_value(image)?;
    let follow = params.flag("backing-chain");
    let opening = Opening { machine, version, data: false };
    // All of them are opened before anything is told of one: then no file can be asked for any more.
    let mut opened: Vec<(ImageSpec, Box<dyn Image + '_>, &'static dyn Format)> = Vec::new();
    loop {
        let (image, format) = opening.image(&spec).map_err(|e| spec.could_not_open(e))?;
        let backing = image.backing().filter(|_| follow);
        let below = backing.map(|backing| (stored_name(format, &backing), backing.format));
        let (device, name) = (spec.device, spec.name.clone());
        opened.push((spec, image, format));
        let Some((stored, format)) = below else { break };
        if opened.len() >= instar_image::limits::CHAIN_SHOWN_MAX {
            return Err(Error::limit(alloc::format!("the backing chain has more than {} images", opened.len())));
        }
        let (device, name) = open_backing(machine, device, &name, &stored).map_err(|error| match error.kind {
            Kind::Io(_) => {
                let shown = display_name(&without_file(&combine(&name, &stored)));
                error.context(alloc::format!("Could not open '{shown}'"))
            }
            _ => error,
        })?;
        spec = ImageSpec::opened(device, name.clone(), name, format);
    }
    machine.seal()?;
    let mut images: Vec<Value> = Vec::new();
    let mut warnings: Vec<Value> = Vec::new();
    for (spec, image, format) in opened {
        let mut info = image_info(machine.source(), image.as_ref(), format, &spec)?;
        if params.flag("extra-detail")
            && let Some(content) = instar_registry::content::recognise(machine.source(), spec.device)?
        {
            info.set("content", content.name());
        }
        if params.flag("limits") {
            set_limits(machine.source(), &mut info, spec.device, is_guessed(&spec, format))?;
        }
        images.push(info);
        warnings.extend(image.warnings().into_iter().map(Value::from));
    }
    if !warnings.is_empty() {
        machine.emit("warnings", &Value::List(warnings))?;
    }
    machine.emit("images", &Value::List(images))?;
    Ok(0)
}

fn image_info(source: &dyn Source, image: &dyn Image, format: &dyn Format, spec: &ImageSpec) -> Result<Value> {
    if has(format, Quirk::FileDriver) {
        return protocol_info(&source.stat(spec.device)?, &spec.name, format.name());
    }
    let Description { cluster_size, encrypted, dirty, snapshots, specific, children } = image.describe()?;
    let mut child_list = Vec::new();
    let mut actual = 0u64;
    let files = image.data_files();
    for (name, device) in children.into_iter().chain([("file".into(), spec.device)]) {
        let stat = source.stat(device)?;
        actual = actual.saturating_add(stat.allocated);
        let file = files.iter().find(|(other, _)| *other == device && device != spec.device);
        let file = file.map_or(&spec.name, |(_, name)| name);
        let below = match source.node(device) {
            Some(node) => node_info(source, node)?,
            None => protocol_info(&stat, file, if stat.block_device { "host_device" } else { "file" })?,
        };
        let mut child = Value::map();
        child.set("name", name).set("info", below);
        child_list.push(child);
    }
    let mut info = Value::map();
    info.set("filename", spec.name.as_slice())
        .set("format", format.name())
        .set("virtual-size", image.virtual_size())
        .set("actual-size", actual);
    let below = if has(format, Quirk::ClusterSizeOfFile) { clusters(source, spec.device) } else { None };
    if let Some(bytes) = cluster_size.or(below) {
        info.set("cluster-size", bytes);
    }
    if encrypted {
        info.set("encrypted", true);
    }
    if !has(format, Quirk::NoDriverInfo) {
        info.set("dirty-flag", dirty);
    }
    if let Some(backing) = image.backing() {
        info.set("full-backing-filename", combine(&spec.name, &stored_name(format, &backing)));
        info.set("backing-filename", backing.name);
        if let Some(format) = backing.format {
            info.set("backing-filename-format", format);
        }
    }
    if !snapshots.is_empty() {
        info.set("snapshots", snapshots.iter().map(snapshot_info).collect::<Vec<_>>());
    }
    if let Some(data) = specific {
        let mut map = Value::map();
        map.set("type", format.name()).set("data", data);
        info.set("format-specific", map);
    }
    info.set("children", child_list);
    Ok(info)
}

/// What `--limits` (11.1) adds: QEMU's `BlockLimitsInfo` of the image and of the file that it is in. A `probed` raw
/// image is read in sectors, so that nothing can be written over its first one unseen.
fn set_limits(source: &dyn Source, info: &mut Value, device: DeviceId, probed: bool) -> Result<()> {
    const OPTIMAL_MEMORY: u64 = 4096;
    const VECTORS_MAX: u64 = 1024;
    let alignment = u64::from(source.stat(device)?.alignment.max(1));
    let of = |request: u64, cluster: Option<u64>| {
        let mut limits = Value::map();
        if let Some(bytes) = cluster {
            limits.set("write-zeroes-alignment", bytes).set("discard-alignment", bytes);
        }
        limits
            .set("request-alignment", request)
            .set("min-mem-alignment", alignment)
            .set("opt-mem-alignment", OPTIMAL_MEMORY)
            .set("max-iov", VECTORS_MAX);
        limits
    };
    info.set("limits", of(if probed { SECTOR } else { 1 }, info.u64("cluster-size")));
    if let Value::Map(entries) = info
        && let Some((_, Value::List(children))) = entries.iter_mut().find(|(key, _)| key == "children")
    {
        for child in children {
            if let Value::Map(entries) = child
                && let Some((_, info)) = entries.iter_mut().find(|(key, _)| key == "info")
            {
                info.set("limits", of(alignment, None));
            }
        }
    }
    Ok(())
}

/// Bytes of the clusters of the image that is the device, or of what that one lies in.
fn clusters(source: &dyn Source, mut device: DeviceId) -> Option<u64> {
    while let Some(node) = source.node(device) {
        let description = node.layer.image.describe().ok()?;
        if description.cluster_size.is_some() || !has(node.layer.format, Quirk::ClusterSizeOfFile) {
            return description.cluster_size;
        }
        device = node.layer.device;
    }
    None
}

/// The child node: an image that is a device for the one above. As deep as the user's own words go.
fn node_info(source: &dyn Source, Node { layer, name }: Node<'_>) -> Result<Value> {
    let (file, format) = (layer.name.clone(), Some(layer.format.name().into()));
    let spec = ImageSpec::opened(layer.device, file.clone(), file, format);
    let mut info = image_info(source, layer.image.as_ref(), layer.format, &spec)?;
    info.replace("filename", name);
    Ok(info)
}

/// A file, as QEMU's protocol layer sees it (its length in sectors): what an image is in, or an image by itself.
/// `protocol`: the driver that QEMU opens it with.
fn protocol_info(stat: &Stat, name: &[u8], protocol: &str) -> Result<Value> {
    let len = stat.len.checked_next_multiple_of(SECTOR).ok_or_else(|| Error::limit("File too large"))?;
    let mut specific = Value::map();
    let mut data = Value::map();
    if stat.extent_size_hint > 0 {
        data.set("extent-size-hint", stat.extent_size_hint);
    }
    specific.set("type", "file").set("data", data);
    let mut info = Value::map();
    info.set("children", Value::List(Vec::new()))
        .set("virtual-size", len)
        .set("filename", name)
        .set("format", protocol)
        .set("actual-size", stat.allocated)
        .set("format-specific", specific)
        .set("dirty-flag", false);
    Ok(info)
}

fn snapshot_info(snapshot: &Snapshot) -> Value {
    const NANOSECONDS: u64 = 1_000_000_000;
    let mut info = Value::map();
    info.set("id", snapshot.id.as_slice())
        .set("name", snapshot.name.as_slice())
        .set("vm-state-size", snapshot.vm_state_size)
        .set("date-sec", u64::from(snapshot.date_sec))
        .set("date-nsec", u64::from(snapshot.date_nsec))
        .set("vm-clock-sec", snapshot.vm_clock_nsec / NANOSECONDS)
        .set("vm-clock-nsec", snapshot.vm_clock_nsec % NANOSECONDS);
    if let Some(icount) = snapshot.icount {
        info.set("icount", icount);
    }
    info
}
