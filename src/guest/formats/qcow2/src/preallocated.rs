//! Whether an image looks as if its metadata had been preallocated: far more clusters are counted than the file has
//! blocks. QEMU's rule, by what `map` of the stock tool shows: a tenth more, and two at least.

use alloc::vec;

use instar_image::reader::Reader;
use instar_image::{DeviceId, FileOffset, Result, Source};

use crate::header::Header;
use crate::layout::{HEADER_LENGTH_V2, REFCOUNT_TABLE_BYTES_MAX, block_of, field};
use crate::refcount::block;
use crate::window::Window;

/// Whether the image looks like one that was made with all its clusters in place.
pub fn looks_so(source: &dyn Source, device: DeviceId, header: &Header) -> Result<bool> {
    let stat = source.stat(device)?;
    let real = stat.allocated >> header.cluster_bits;
    let threshold = (real.saturating_mul(10) / 9).max(real.saturating_add(2));
    let end = stat.len.div_ceil(header.cluster_size());
    if end < threshold {
        return Ok(false);
    }
    let mut window = Window::new(source, device);
    let fixed = Reader::new(window.bytes(FileOffset::ZERO, HEADER_LENGTH_V2 as usize)?);
    let offset = FileOffset::new(fixed.be64(field::REFCOUNT_OFFSET)?);
    let clusters = u64::from(fixed.be32(field::REFCOUNT_CLUSTERS)?);
    let mut table = vec![0; (clusters << header.cluster_bits).min(REFCOUNT_TABLE_BYTES_MAX) as usize];
    source.read(device, offset, &mut table)?;
    let order = header.refcount_order;
    let reach = (8u64 << header.cluster_bits) >> order;
    let (mut count, mut first) = (0, 0);
    let mut block = vec![0; 1 << header.cluster_bits];
    for entry in table.as_chunks::<8>().0 {
        let offset = block_of(u64::from_be_bytes(*entry));
        if first >= end {
            break;
        }
        if offset != FileOffset::ZERO {
            source.read(device, offset, &mut block)?;
            let here = reach.min(end - first) as usize;
            count += (0..here).filter(|i| block::get(&block, order, *i) != 0).count() as u64;
            if count >= threshold {
                return Ok(true);
            }
        }
        first = first.saturating_add(reach);
    }
    Ok(false)
}
