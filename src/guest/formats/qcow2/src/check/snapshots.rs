//! The snapshot table, as `check` sees it: read on its own, so that a broken one is told and not in the way.

use alloc::format;
use alloc::string::String;

use instar_image::machine::display_name;
use instar_image::{CheckContext, Error, Kind, Result};

use super::tables::{Count, Out};
use crate::Qcow2Image;
use crate::layout::{L1_BYTES_MAX, L1_ENTRY, SNAPSHOT_EXTRA_WHOLE, SNAPSHOTS_MAX};
use crate::map::Hex;
use crate::snapshots::Walk;
use crate::window::Window;

/// Reads the table. Returns how many entries of it are damaged.
pub fn first_look(image: &Qcow2Image<'_>, cx: &mut CheckContext<'_>) -> Result<u64> {
    let header = &image.header;
    let count = u64::from(header.snapshot_count);
    if let Err(error) = header.check_snapshots("snapshot table") {
        cx.findings.error(&format!("ERROR {}", error.message))?;
        let over = count.saturating_sub(SNAPSHOTS_MAX);
        if over > 0 {
            let text = format!("You can force-remove all {over} overhanging snapshots with qemu-img check -r all");
            cx.findings.line(&text)?;
        }
        return Err(Error::malformed(if over > 0 { "File too large" } else { "Invalid argument" }));
    }
    let mut window = Window::new(cx.machine.source(), image.device);
    let mut walk = Walk::new(header);
    while let Some(entry) = walk.next(&mut window).transpose() {
        if let Err(error) = entry {
            cx.findings.error(&format!("ERROR failed to read the snapshot table: {}", error.message))?;
            let io = matches!(error.kind, Kind::Io(_));
            return Err(Error::malformed(if io { "Input/output error" } else { "File too large" }));
        }
    }
    // Only a table that can be read wholly is judged.
    let mut walk = Walk::new(header);
    let mut incomplete = 0u64;
    while let Some(entry) = walk.next(&mut window)? {
        if header.version >= 3 && entry.extra_len < SNAPSHOT_EXTRA_WHOLE {
            incomplete = incomplete.saturating_add(1);
            let index = walk.index().saturating_sub(1);
            cx.findings.line(&format!("ERROR snapshot table entry {index} is incomplete"))?;
        }
    }
    Ok(incomplete)
}

/// Counts what the snapshots refer to, and their table.
pub fn count(image: &Qcow2Image<'_>, count: &Count<'_>, out: &mut Out<'_>) -> Result<()> {
    let header = &image.header;
    let mut window = Window::new(count.machine.source(), image.device);
    // What is too much was told, and is on its way out.
    let mut walk = Walk::lenient(header);
    while let Some(entry) = walk.next(&mut window)? {
        let name = || -> String {
            format!("ERROR snapshot {} ({})", display_name(&entry.shown.id), display_name(&entry.shown.name))
        };
        let size = u64::from(entry.l1_size);
        if !entry.l1_offset.is_multiple_of(header.cluster_size()) {
            out.corruption(&|| {
                let offset = Hex(entry.l1_offset.get());
                format!(
                    "{} l1_offset={offset}: L1 table is not cluster aligned; snapshot table entry corrupted",
                    name()
                )
            })?;
        } else if size > L1_BYTES_MAX / L1_ENTRY {
            out.corruption(&|| {
                let size = Hex(size);
                format!("{} l1_size={size}: L1 table is too large; snapshot table entry corrupted", name())
            })?;
        } else {
            count.l1(entry.l1_offset, size, false, out)?;
        }
    }
    count.refer(header.snapshot_offset, walk.len(), out)
}
