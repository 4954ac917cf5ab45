//! The writer of static disks: every block has its place.

use alloc::boxed::Box;

use instar_image::fixed::FixedWriter;
use instar_image::{CreateContext, Result, Writer};

use super::{Spec, encode};
use crate::layout::BLOCK;

/// Reserves the length and writes the map.
pub fn create<'a>(cx: &CreateContext<'a, '_>, spec: Spec) -> Result<Box<dyn Writer + 'a>> {
    let (machine, device) = (cx.machine, cx.device);
    let (base, count, blocks) = (spec.data(), spec.count(), spec.blocks(device));
    let finish = move |_| machine.submit(&encode::finish(device, &encode::header(&spec, count)));
    let writer = FixedWriter::new(machine, device, base, (base + count * BLOCK).get(), finish)?;
    blocks.fill(machine, 0, |number| number as u32)?;
    Ok(Box::new(writer))
}
