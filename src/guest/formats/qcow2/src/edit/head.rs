//! The first cluster with another backing file in it: its fields, its extensions, its name.

use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{Backing, DeviceId, Error, Machine, Result, limits};

use crate::header::Header;
use crate::layout::{BACKING_FORMAT_MAX, extension, field};
use crate::window::Window;

/// Bytes of an extension's own header: type and length.
const EXTENSION_HEADER: usize = 8;

fn full() -> Error {
    Error::limit("No space left on device")
        .with_hint("the name does not fit into the first cluster: use a shorter name, or a larger cluster size")
}

/// The bytes from the beginning of the file on that are to be written, in one step: whatever they name lies in them.
pub fn with_backing(
    machine: &dyn Machine,
    device: DeviceId,
    header: &Header,
    backing: Option<&Backing>,
) -> Result<Vec<u8>> {
    let mut window = Window::new(machine.source(), device);
    let cluster = header.cluster_size() as usize;
    let mut head = window.bytes(0, header.length as usize)?.to_vec();
    let name = backing.map_or(&[][..], |b| &b.name);
    let format = backing.and_then(|b| b.format.as_deref()).unwrap_or_default();
    if name.len() > limits::BACKING_NAME_MAX || format.len() >= BACKING_FORMAT_MAX as usize {
        return Err(Error::usage("Invalid argument"));
    }
    let mut kept = extensions(&mut window, header)?;
    kept.retain(|(kind, _)| *kind != extension::BACKING_FORMAT);
    if !format.is_empty() {
        kept.insert(0, (extension::BACKING_FORMAT, format.as_bytes().to_vec()));
    }
    let size = |kept: &[(u32, Vec<u8>)]| {
        let body: usize = kept.iter().map(|(_, data)| EXTENSION_HEADER + data.len().next_multiple_of(8)).sum();
        header.length as usize + body + EXTENSION_HEADER + name.len()
    };
    if size(&kept) > cluster {
        // Of use to people only.
        kept.retain(|(kind, _)| *kind != extension::FEATURE_NAMES);
    }
    if size(&kept) > cluster {
        return Err(full());
    }
    for (kind, data) in kept.iter().chain([&(extension::END, Vec::new())]) {
        head.extend_from_slice(&kind.to_be_bytes());
        head.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        head.extend_from_slice(data);
        head.resize(head.len().next_multiple_of(8), 0);
    }
    let offset = if name.is_empty() { 0 } else { head.len() as u64 };
    head.extend_from_slice(name);
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = head.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(field::BACKING_OFFSET, &offset.to_be_bytes());
    put(field::BACKING_SIZE, &u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
    // What the old name and extensions leave behind goes too.
    let old = header.backing.0.saturating_add(u64::from(header.backing.1)).min(cluster as u64) as usize;
    head.resize(head.len().max(old), 0);
    Ok(head)
}

/// The extensions as they are, without the end.
fn extensions(window: &mut Window<'_>, header: &Header) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut at = u64::from(header.length);
    while at + EXTENSION_HEADER as u64 <= header.extensions_end {
        let r = Reader::new(window.bytes(at, EXTENSION_HEADER)?);
        let (kind, len) = (r.be32(0)?, r.be32(4)?);
        if kind == extension::END {
            break;
        }
        at += EXTENSION_HEADER as u64;
        if u64::from(len) > header.extensions_end.saturating_sub(at) {
            return Err(Error::malformed("Header extension too large"));
        }
        found.push((kind, window.bytes(at, len as usize)?.to_vec()));
        at += u64::from(len).next_multiple_of(8);
    }
    Ok(found)
}
