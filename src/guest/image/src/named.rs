//! Files that images have named in this run: what looks at an image again (to change it, or once more when it has become
//! larger) finds the file that was opened, even when nothing can be opened any more.

use alloc::vec::Vec;

use spin::Mutex;

use crate::{DeviceId, Result, Role};

/// One that is open.
#[derive(Debug)]
struct Named {
    from: DeviceId,
    name: Vec<u8>,
    role: Role,
    write: bool,
    device: DeviceId,
}

/// All that are open. The host has so many devices at most, and no more.
#[derive(Debug, Default)]
pub struct NamedFiles(Mutex<Vec<Named>>);

impl NamedFiles {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The file of that name, of the image on the device `from`, that can be written if `write`; `open` opens it if it is
    /// not open yet.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn open(
        &self,
        (from, name, role, write): (DeviceId, &[u8], Role, bool),
        open: impl FnOnce() -> Result<DeviceId>,
    ) -> Result<DeviceId> {
        let is_it =
            |file: &&Named| file.from == from && file.role == role && file.name == name && (file.write || !write);
        if let Some(file) = self.0.lock().iter().find(is_it) {
            return Ok(file.device);
        }
        let device = open()?;
        self.0.lock().push(Named { from, name: name.to_vec(), role, write, device });
        Ok(device)
    }
}
