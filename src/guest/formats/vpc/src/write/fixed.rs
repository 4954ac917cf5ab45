//! The writer of fixed disks: every byte has its place, and the footer follows.

use alloc::boxed::Box;
use alloc::vec;

use instar_image::create::check_room;
use instar_image::fixed::FixedWriter;
use instar_image::{CreateContext, FileOffset, Result, Step, Writer};

use super::encode::footer_of;
use super::spec::Spec;
use crate::layout::FOOTER;

/// The block that is there in every new file, in bytes: QEMU finds out by it what the file's blocks are like.
const FIRST: u64 = 4096;

/// Reserves the length.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    check_room(machine, device, spec.size + FOOTER as u64)?;
    let size = spec.size;
    let finish = move |_| {
        let write = Step::Write { device, offset: FileOffset::new(spec.size), data: &footer_of(&spec) };
        machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])
    };
    let writer = FixedWriter::new(machine, device, FileOffset::ZERO, size + FOOTER as u64, finish)?;
    if writer.is_zeroed() {
        machine.submit(&[Step::Write {
            device,
            offset: FileOffset::ZERO,
            data: &vec![0; FIRST.min(size) as usize],
        }])?;
    }
    Ok(Box::new(writer))
}
