//! From version 2 to version 3, and back.

use alloc::format;
use core::sync::atomic::{AtomicBool, Ordering};

use instar_image::table::Span;
use instar_image::{BitmapEditor, Changes, Error, Machine, Result, Version};

use super::reread;
use crate::Qcow2Image;
use crate::below::Below;
use crate::edit::Qcow2Editor;
use crate::edit::head::Head;
use crate::header::Header;
use crate::layout::{OFLAG_COMPRESSED, REFCOUNT_ORDER_V2, SNAPSHOT_EXTRA_WHOLE, incompatible};
use crate::repair::snapshots;
use crate::snapshots::Entry;

/// To version 3: all that it adds is as if it were not there. Snapshots tell more of themselves there.
pub fn upgrade(image: &mut Qcow2Image<'_>, machine: &dyn Machine) -> Result<()> {
    if image.snapshots.iter().any(|entry| entry.extra_len < SNAPSHOT_EXTRA_WHOLE) {
        image.header.version = 3;
        snapshots::write(image, machine)?;
        image.header.version = 2;
    }
    write(image, machine, 3)
}

/// Refuses an image that version 2 cannot say.
fn check(image: &Qcow2Image<'_>, machine: &dyn Machine) -> Result<()> {
    let header = &image.header;
    if header.refcount_order != REFCOUNT_ORDER_V2 {
        return Err(Error::usage("compat=0.10 requires refcount_bits=16"));
    }
    if header.has(incompatible::DATA_FILE) {
        return Err(Error::usage("Cannot downgrade an image with a data file"));
    }
    // Only what version 3 adds to an entry tells a size of more than 32 bits, or a disk's own.
    let fits = |size: Option<u64>| size.is_none_or(|size| size == header.size);
    let has_large_state = |entry: &Entry| entry.shown.vm_state_size > u64::from(u32::MAX);
    if image.snapshots.iter().any(|entry| has_large_state(entry) || !fits(entry.disk_size)) {
        return Err(Error::usage("Internal snapshots prevent downgrade of image"));
    }
    // Of compressed clusters there is one kind only.
    let features = header.incompatible & !incompatible::DIRTY;
    if features == incompatible::COMPRESSION && has_compressed(image, machine)? {
        let text = "Cannot downgrade an image with zstd compression type and existing compressed clusters";
        return Err(Error::usage(text));
    }
    let features = features & !incompatible::COMPRESSION;
    if features != 0 {
        return Err(Error::usage(format!("Cannot downgrade an image with incompatible features {features:#x} set")));
    }
    Ok(())
}

/// Whether the disk or a snapshot has compressed clusters.
fn has_compressed(image: &Qcow2Image<'_>, machine: &dyn Machine) -> Result<bool> {
    let (header, found) = (&image.header, AtomicBool::new(false));
    let active = Span { offset: header.l1_offset, count: u64::from(header.l1_size) };
    let snapshots = image.snapshots.iter().map(|entry| entry.l1(header));
    for l1 in core::iter::once(Ok(active)).chain(snapshots) {
        let below = Below { machine, device: image.device, cluster_bits: header.cluster_bits, l1: l1? };
        below.each(&|_| !found.load(Ordering::Relaxed), &|_, _, table| {
            // (Entries of 16 bytes are refused.)
            let mut entries = table.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry));
            if entries.any(|entry| entry & OFLAG_COMPRESSED != 0) {
                found.store(true, Ordering::Relaxed);
            }
            Ok(0..0)
        })?;
    }
    Ok(found.into_inner())
}

/// To version 2, which has neither zero clusters nor bitmaps.
pub fn downgrade(image: &mut Qcow2Image<'_>, machine: &dyn Machine, version: Version) -> Result<()> {
    check(image, machine)?;
    forget_bitmaps(image)?;
    for entry in image.snapshots.clone() {
        reread(image, version)?;
        // As a disk of its own.
        let active = image.header.clone();
        let (l1, then) = entry.disk(&active)?;
        image.header = Header { l1_offset: l1.offset, l1_size: entry.l1_size, ..then };
        Qcow2Editor::open(image, &Changes::default())?.expand_zeroes()?;
    }
    reread(image, version)?;
    let editor = Qcow2Editor::open(image, &Changes::default())?;
    editor.expand_zeroes()?;
    if !image.snapshots.is_empty() {
        // What they shared may be the disk's alone now.
        editor.correct_flags()?;
    }
    drop(editor);
    reread(image, version)?;
    write(image, machine, 2)
}

fn forget_bitmaps(image: &mut Qcow2Image<'_>) -> Result<()> {
    if image.bitmaps.is_empty() {
        return Ok(());
    }
    let editor = Qcow2Editor::open(image, &Changes::default())?;
    for bitmap in &image.bitmaps {
        editor.remove(&bitmap.name)?;
    }
    editor.store()?;
    drop(editor);
    image.bitmaps.clear();
    image.extensions.bitmaps = None;
    Ok(())
}

fn write(image: &Qcow2Image<'_>, machine: &dyn Machine, version: u32) -> Result<()> {
    let head = Head::read(machine, image.device, &image.header)?;
    head.with_version(version).write(machine, image.device)
}
