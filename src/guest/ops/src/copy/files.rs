//! What two chains share.

use alloc::collections::BTreeMap;

use instar_image::{DeviceId, Place, Result, Source};
use spin::Mutex;

/// Which devices are one file.
pub struct Files<'a> {
    source: &'a dyn Source,
    same: Mutex<BTreeMap<DeviceId, DeviceId>>,
}

impl<'a> Files<'a> {
    /// Nothing is known yet.
    pub fn new(source: &'a dyn Source) -> Self {
        Self { source, same: Mutex::default() }
    }

    /// The first device that is the same file.
    fn first(&self, device: DeviceId) -> Result<DeviceId> {
        if let Some(known) = self.same.lock().get(&device) {
            return Ok(*known);
        }
        let first = self.source.stat(device)?.same_file;
        self.same.lock().insert(device, first);
        Ok(first)
    }

    /// Whether two places hold the same bytes, as far as their whereabouts tell.
    pub fn same_bytes(&self, a: Place, b: Place) -> Result<bool> {
        Ok(match (a, b) {
            (Place::Zero { .. } | Place::Unallocated, Place::Zero { .. } | Place::Unallocated) => true,
            (Place::Data { device: x, offset: i }, Place::Data { device: y, offset: j }) => {
                i == j && self.first(x)? == self.first(y)?
            }
            (Place::Compressed(x), Place::Compressed(y)) => {
                let same = (x.offset, x.len, x.unit, x.skip) == (y.offset, y.len, y.unit, y.skip);
                same && self.first(x.device)? == self.first(y.device)?
            }
            _ => false,
        })
    }
}
