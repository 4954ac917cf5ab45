//! The snapshot table of an image that is repaired: entries without the data that version 3 wants get them, too many extra
//! data and too many entries go.

use alloc::format;
use alloc::vec::Vec;

use instar_image::sealed;
use instar_image::{CheckContext, FileOffset, Machine, Repairs, Result, Step};

use crate::Qcow2Image;
use crate::check::snapshots::first_look;
use crate::cluster;
use crate::layout::{SNAPSHOT_EXTRA_MAX, SNAPSHOT_EXTRA_WHOLE, SNAPSHOT_HEADER, SNAPSHOTS_MAX, field};
use crate::refcount::counts::Counts;
use crate::snapshots::{Entry, Walk};
use crate::window::Window;

/// Bytes of the new table that are written at once.
const AT_ONCE: usize = 1 << 20;
/// Where an entry's length of extra data is.
const EXTRA_LEN: usize = 36;

/// What was found.
#[derive(Default)]
pub struct Found {
    /// Errors that stay.
    pub wrong: u64,
    /// Errors that are gone once the table is written.
    pub fixed: u64,
    /// It has to be.
    pub must_be_written: bool,
}

/// Looks at the table. Entries that are too many are gone from `image` at once.
pub fn look(image: &mut Qcow2Image<'_>, what: Repairs, cx: &mut CheckContext<'_>) -> Result<Found> {
    if what == Repairs::Leaks {
        return Ok(Found { wrong: first_look(image, cx)?, ..Found::default() });
    }
    let over = u64::from(image.header.snapshot_count).saturating_sub(SNAPSHOTS_MAX);
    if over > 0 {
        cx.findings.line(&format!("Discarding {over} overhanging snapshots"))?;
        image.header.snapshot_count = SNAPSHOTS_MAX as u32;
    }
    let mut fixed = over;
    if image.header.check_snapshots("snapshot table").is_err() {
        // It says what is wrong.
        first_look(image, cx)?;
    }
    let mut window = Window::new(cx.machine.source(), image.device);
    let mut walk = Walk::lenient(&image.header);
    let mut incomplete = Vec::new();
    loop {
        let index = walk.index();
        let entry = match walk.next(&mut window) {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(_) if walk.is_too_long() => {
                let over = u64::from(image.header.snapshot_count - index);
                let text = format!("Discarding {over} overhanging snapshots (snapshot table is too big)");
                cx.findings.line(&text)?;
                image.header.snapshot_count = index;
                fixed = fixed.saturating_add(over);
                break;
            }
            // It says what is wrong.
            Err(error) => return first_look(image, cx).and(Err(error)),
        };
        if entry.extra_len > SNAPSHOT_EXTRA_MAX {
            cx.findings.line(&format!(
                "Discarding too much extra metadata in snapshot table entry {index} ({} > {SNAPSHOT_EXTRA_MAX})",
                entry.extra_len
            ))?;
            fixed = fixed.saturating_add(1);
        }
        if image.header.version >= 3 && entry.extra_len < SNAPSHOT_EXTRA_WHOLE {
            incomplete.push(index);
        }
    }
    for index in &incomplete {
        cx.findings.line(&format!("Repairing snapshot table entry {index} is incomplete"))?;
    }
    fixed = fixed.saturating_add(incomplete.len() as u64);
    Ok(Found { wrong: 0, fixed, must_be_written: fixed > 0 })
}

/// A table in the header's cluster is none: what a rebuild writes into the header would be read as snapshots.
pub fn forget_in_header(image: &mut Qcow2Image<'_>, found: &mut Found, cx: &mut CheckContext<'_>) -> Result<()> {
    let header = &mut image.header;
    let count = u64::from(header.snapshot_count);
    if count == 0 || header.snapshot_offset.get() >= header.cluster_size() {
        return Ok(());
    }
    cx.findings.line(&format!("Discarding {count} snapshots: their table would be in the header"))?;
    header.snapshot_count = 0;
    image.snapshots.clear();
    *found = Found { wrong: 0, fixed: found.fixed.max(count), must_be_written: true };
    Ok(())
}

/// Writes the table anew, has the header tell of it, and gives the old one up.
pub fn write(image: &mut Qcow2Image<'_>, machine: &dyn Machine) -> Result<()> {
    let (header, device) = (&image.header, image.device);
    let mut counts = Counts::open(machine, device, header)?;
    let (bits, mut len, mut old_len) = (header.cluster_bits, 0u64, 0);
    each(image, machine, &mut |bytes, end| {
        (len, old_len) = (len.next_multiple_of(8) + bytes.len() as u64, end);
        Ok(())
    })?;
    let clusters = len.div_ceil(header.cluster_size());
    let offset = match clusters {
        0 => FileOffset::ZERO,
        clusters => counts.allocate(clusters)?.offset(bits),
    };
    let mut steps = Vec::new();
    counts.write(&mut steps)?;
    sealed::submit(machine, steps.drain(..), None)?;
    let (mut piece, mut at) = (Vec::new(), offset);
    each(image, machine, &mut |bytes, _| {
        piece.resize(piece.len().next_multiple_of(8), 0);
        piece.extend_from_slice(bytes);
        if piece.len() >= AT_ONCE {
            piece.resize(piece.len().next_multiple_of(8), 0);
            machine.submit(&[Step::Write { device, offset: at, data: &piece }])?;
            at = at.saturating_add(piece.len() as u64);
            piece.clear();
        }
        Ok(())
    })?;
    machine.submit(&[Step::Write { device, offset: at, data: &piece }, Step::Barrier { device }])?;
    counts.publish()?;
    // Number and place lie together, in one sector.
    let mut fields = header.snapshot_count.to_be_bytes().to_vec();
    fields.extend_from_slice(&offset.get().to_be_bytes());
    let tell = Step::Write { device, offset: FileOffset::new(field::SNAPSHOT_COUNT as u64), data: &fields };
    machine.submit(&[tell, Step::Barrier { device }])?;
    // What lay outside the file was not counted.
    for cluster in cluster::each(cluster::run(header.snapshot_offset, old_len, bits)) {
        if counts.get(cluster)? > 0 {
            counts.release(cluster, 1);
        }
    }
    counts.apply_releases()?;
    counts.write(&mut steps)?;
    sealed::submit(machine, steps.drain(..), None)?;
    counts.publish()?;
    image.header.snapshot_offset = offset;
    machine.submit(&[Step::Barrier { device }])
}

/// Calls `act` for each entry as it is to be, and where it ended in the old table.
fn each(image: &Qcow2Image<'_>, machine: &dyn Machine, act: &mut dyn FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
    let mut window = Window::new(machine.source(), image.device);
    let mut walk = Walk::lenient(&image.header);
    while let Some(entry) = walk.next(&mut window)? {
        let bytes = whole(image, &entry, &mut window)?;
        act(&bytes, walk.len())?;
    }
    Ok(())
}

/// The entry with the extra data that it is to have.
fn whole(image: &Qcow2Image<'_>, entry: &Entry, window: &mut Window<'_>) -> Result<Vec<u8>> {
    let head = SNAPSHOT_HEADER as u64;
    let mut bytes = window.bytes(entry.at, SNAPSHOT_HEADER)?.to_vec();
    let kept = entry.extra_len.min(SNAPSHOT_EXTRA_MAX);
    let mut extra = window.bytes(entry.at.saturating_add(head), kept as usize)?.to_vec();
    if image.header.version >= 3 && kept < SNAPSHOT_EXTRA_WHOLE {
        // The size of the machine's state, and that of the disk.
        extra = entry.shown.vm_state_size.to_be_bytes().to_vec();
        extra.extend_from_slice(&entry.disk_size.unwrap_or(image.header.size).to_be_bytes());
    }
    if let Some(field) = bytes.get_mut(EXTRA_LEN..EXTRA_LEN + 4) {
        field.copy_from_slice(&(extra.len() as u32).to_be_bytes());
    }
    bytes.append(&mut extra);
    let names = entry.at.saturating_add(head).saturating_add(u64::from(entry.extra_len));
    bytes.extend_from_slice(window.bytes(names, entry.names_len)?);
    Ok(bytes)
}
