//! Writes: all of one byte's value, at random in the disk.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::chain::Chain;
use instar_image::machine::display_name;
use instar_image::{Changes, Error, Machine, Result};

use super::{Requests, failed};
use crate::disk::{ROOM, WriteDisk};
use crate::open::ImageSpec;

/// Begins to change the chain's first image.
pub fn begin(chain: &mut Chain<'_>, image: &ImageSpec) -> Result<()> {
    let Some(top) = chain.layers.first_mut() else { return Err(Error::corrupt("a chain without an image")) };
    let begun = top.image.begin(&Changes { content: true, ..Changes::default() }).ok_or_else(|| {
        let error = Error::unsupported(format!("Could not open '{}'", display_name(&image.written)));
        error.with_hint(format!("images of the format {} cannot be changed in place", top.format.name()))
    })?;
    begun.map_err(|error| image.could_not_open(error))
}

/// A disk that is being written to by all workers.
pub struct Writing<'a> {
    disk: WriteDisk<'a>,
    /// Length of a request in bytes.
    len: u64,
    /// As much as is written at once, all of one value.
    bytes: Vec<u8>,
}

impl<'a> Writing<'a> {
    /// Of a chain whose first image is being changed.
    pub fn new(machine: &'a dyn Machine, chain: &'a Chain<'a>, pattern: u8, requests: &Requests) -> Result<Self> {
        let len = requests.len;
        Ok(Self { disk: WriteDisk::new(machine, chain)?, len, bytes: vec![pattern; len.min(ROOM) as usize] })
    }

    /// Carries out the requests that begin there.
    pub fn write(&self, starts: &[u64]) -> Result<()> {
        // What is longer than the bytes are is several writes.
        let parts = self.len.div_ceil(ROOM);
        let writes = starts.iter().flat_map(|start| (0..parts).map(move |part| (*start, part * ROOM)));
        let writes = writes.map(|(start, skip)| {
            let len = (self.len - skip).min(ROOM) as usize;
            (start.saturating_add(skip), self.bytes.get(..len).unwrap_or_default())
        });
        self.disk.write(writes).map_err(|error| failed(&error))
    }

    /// Makes all that was written stable.
    pub fn flush(&self) -> Result<()> {
        self.disk.flush().map_err(|error| failed(&error))
    }

    /// Writes what is left, tables and all.
    pub fn finish(&self) -> Result<()> {
        self.disk.finish().map_err(|error| failed(&error))
    }
}
