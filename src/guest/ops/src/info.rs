//! `info`: what an image, or every image of a chain, says of itself.

use alloc::vec::Vec;

use instar_abi::ops::info::{BlockLimits, ChildInfo, FormatSpecific, ImageInfo, Info, InfoResults, SnapshotInfo};
use instar_image::chain::{Layer, Node};
use instar_image::machine::{Stat, display_name};
use instar_image::names::{combine, without_file};
use instar_image::quirk::has;
use instar_image::{
    Description, DeviceId, Error, Kind, Machine, Purpose, Quirk, Result, Snapshot, Source, Value, Version,
};

use crate::guessed::is_guessed;
use crate::open::{ImageSpec, Opening, stored_name};
use crate::told::{tell, warn};

const SECTOR: u64 = 512;

/// Tells the images, the top first; just one without `backing-chain`.
pub fn run(machine: &dyn Machine, params: &Info, version: Version) -> Result<u8> {
    let mut spec = ImageSpec::of(&params.image);
    let follow = params.backing_chain;
    let opening = Opening { machine, version };
    // All of them are opened before anything is told of one: then no file can be asked for any more.
    let mut opened: Vec<(ImageSpec, Layer<'_>)> = Vec::new();
    loop {
        let layer = opening.image(&spec, Purpose::Describe).map_err(|e| spec.could_not_open(e))?;
        let below = if follow { opening.below(&layer) } else { None };
        opened.push((spec, layer));
        let Some(below) = below else { break };
        if opened.len() >= instar_image::limits::CHAIN_SHOWN_MAX {
            return Err(Error::limit(alloc::format!("the backing chain has more than {} images", opened.len())));
        }
        let Some((_, layer)) = opened.last() else { break };
        spec = below.map_err(|error| match error.kind {
            Kind::Io(_) => {
                error.context(alloc::format!("Could not open '{}'", display_name(&without_file(&full_backing(layer)))))
            }
            _ => error,
        })?;
    }
    machine.seal()?;
    let (mut images, mut warnings) = (Vec::new(), Vec::new());
    for (spec, layer) in opened {
        let mut info = image_info(machine.source(), &layer, &spec.name)?;
        if params.extra_detail
            && let Some(content) = instar_registry::content::recognise(machine.source(), spec.device)?
        {
            info.content = Some(content.name().into());
        }
        if params.limits {
            set_limits(machine.source(), &mut info, spec.device, is_guessed(&spec, layer.format))?;
        }
        images.push(info);
        warnings.extend(layer.image.warnings());
    }
    warn(machine, warnings)?;
    tell(machine, InfoResults { images })?;
    Ok(0)
}

/// The full name of an image's backing file.
fn full_backing(layer: &Layer<'_>) -> Vec<u8> {
    let backing = layer.image.backing();
    backing.map_or_else(Vec::new, |backing| combine(&layer.name, &stored_name(layer.format, &backing)))
}

fn image_info(source: &dyn Source, layer: &Layer<'_>, name: &[u8]) -> Result<ImageInfo> {
    let (image, format, own) = (layer.image.as_ref(), layer.format, layer.device);
    if has(format, Quirk::FileDriver) {
        return protocol_info(&source.stat(own)?, name, format.name());
    }
    let Description { cluster_size, encrypted, dirty, snapshots, specific, children } = image.describe()?;
    let (mut inner, mut actual_size) = (Vec::new(), 0u64);
    let files = image.data_files();
    for (node, device) in children.into_iter().chain([("file".into(), own)]) {
        let stat = source.stat(device)?;
        let file = files.iter().find(|(other, _)| *other == device && device != own);
        let file = file.map_or(name, |(_, name)| name.as_slice());
        let info = match source.node(device) {
            Some(node) => node_info(source, node)?,
            None => protocol_info(&stat, file, if stat.block_device { "host_device" } else { "file" })?,
        };
        actual_size = actual_size.saturating_add(info.actual_size);
        inner.push(ChildInfo { name: node, info });
    }
    let below = if has(format, Quirk::ClusterSizeOfFile) { clusters(source, own) } else { None };
    let backing = image.backing();
    let full = backing.as_ref().map(|_| full_backing(layer));
    let (backing_filename, backing_filename_format) = backing.map(|backing| (backing.name, backing.format)).unzip();
    let snapshots: Vec<SnapshotInfo> = snapshots.iter().map(snapshot_info).collect();
    Ok(ImageInfo {
        filename: name.to_vec(),
        format: format.name().into(),
        virtual_size: image.virtual_size(),
        actual_size,
        cluster_size: cluster_size.or(below),
        encrypted,
        dirty_flag: (!has(format, Quirk::NoDriverInfo)).then_some(dirty),
        full_backing_filename: full,
        backing_filename,
        backing_filename_format: backing_filename_format.flatten(),
        snapshots: (!snapshots.is_empty()).then_some(snapshots),
        format_specific: specific.map(|data| FormatSpecific { kind: format.name().into(), data }),
        children: Some(inner),
        ..ImageInfo::default()
    })
}

/// What `--limits` (11.1) adds: QEMU's `BlockLimitsInfo` of the image and of the file that it is in. A `probed` raw
/// image is read in sectors, so that nothing can be written over its first one unseen.
fn set_limits(source: &dyn Source, info: &mut ImageInfo, device: DeviceId, probed: bool) -> Result<()> {
    const OPTIMAL_MEMORY: u64 = 4096;
    const VECTORS_MAX: u64 = 1024;
    let alignment = u64::from(source.stat(device)?.alignment.max(1));
    let of = |request_alignment: u64, cluster: Option<u64>| BlockLimits {
        write_zeroes_alignment: cluster,
        discard_alignment: cluster,
        request_alignment,
        min_mem_alignment: alignment,
        opt_mem_alignment: OPTIMAL_MEMORY,
        max_iov: VECTORS_MAX,
    };
    info.limits = Some(of(if probed { SECTOR } else { 1 }, info.cluster_size));
    for child in info.children.iter_mut().flatten() {
        child.info.limits = Some(of(alignment, None));
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
fn node_info(source: &dyn Source, Node { layer, behind, name }: Node<'_>) -> Result<ImageInfo> {
    let info = image_info(source, layer, &layer.name)?;
    let named = |layer: &Layer<'_>| {
        let info = image_info(source, layer, &layer.name)?;
        Ok(ImageInfo { filename: layer.shown.as_ref().unwrap_or(&layer.name).clone(), ..info })
    };
    let behind = behind.iter().map(named).collect::<Result<_>>()?;
    Ok(ImageInfo { filename: name.to_vec(), behind, ..info })
}

/// A file, as QEMU's protocol layer sees it (its length in sectors): what an image is in, or an image by itself.
/// `protocol`: the driver that QEMU opens it with.
fn protocol_info(stat: &Stat, name: &[u8], protocol: &str) -> Result<ImageInfo> {
    let len = stat.len.checked_next_multiple_of(SECTOR).ok_or_else(|| Error::limit("File too large"))?;
    let mut data = Value::map();
    if stat.extent_size_hint > 0 {
        data.set("extent-size-hint", stat.extent_size_hint);
    }
    Ok(ImageInfo {
        filename: name.to_vec(),
        format: protocol.into(),
        virtual_size: len,
        actual_size: stat.allocated,
        dirty_flag: Some(false),
        children: Some(Vec::new()),
        format_specific: Some(FormatSpecific { kind: "file".into(), data }),
        ..ImageInfo::default()
    })
}

/// A snapshot as it is told.
pub fn snapshot_info(snapshot: &Snapshot) -> SnapshotInfo {
    const NANOSECONDS: u64 = 1_000_000_000;
    SnapshotInfo {
        id: snapshot.id.clone(),
        name: snapshot.name.clone(),
        vm_state_size: snapshot.vm_state_size,
        date_sec: u64::from(snapshot.date_sec),
        date_nsec: u64::from(snapshot.date_nsec),
        vm_clock_sec: snapshot.vm_clock_nsec / NANOSECONDS,
        vm_clock_nsec: snapshot.vm_clock_nsec % NANOSECONDS,
        icount: snapshot.icount,
    }
}
