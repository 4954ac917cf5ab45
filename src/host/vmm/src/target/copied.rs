//! A file beside a new image that cannot be replaced, and must not change unless the command succeeds: what is written goes
//! elsewhere, and is copied into it at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::place::{Place, open_folder};
use super::{Cache, made};

/// The file, and what is to be in it.
pub struct Copied {
    /// What is written to.
    pub file: File,
    into: File,
}

impl Copied {
    /// Room for the new content of `into`, whose name is `path`: in its folder or, where nothing can be made, in that for
    /// temporary files.
    pub fn new(path: &Path, into: File, cache: Cache) -> io::Result<Self> {
        let beside = Place::find(path).and_then(|place| made::nameless(&place.folder, cache));
        let elsewhere = || {
            let folder = open_folder(rustix::fs::CWD, std::env::temp_dir())?;
            made::nameless(&folder, cache)
        };
        Ok(Self { file: beside.or_else(|_| elsewhere())?, into })
    }

    /// Copies it.
    pub fn publish(&self) -> Result<(), Errno> {
        self.copy().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn copy(&self) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        for file in [&self.file, &self.into] {
            let flags = rustix::fs::fcntl_getfl(file)?;
            rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
        }
        let len = self.file.metadata()?.len();
        self.into.set_len(0)?;
        self.into.set_len(len)?;
        let mut buffer = vec![0; CHUNK as usize];
        let mut at = 0;
        while at < len {
            at = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                // A file system that does not know: all is data.
                Err(_) => at,
            };
            let chunk = &mut buffer[..(len - at).min(CHUNK) as usize];
            self.file.read_exact_at(chunk, at)?;
            self.into.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }
}

/// Whether there is room for all of them together: else none is changed.
pub fn check_room<'c>(all: impl Iterator<Item = &'c Copied>) -> Result<(), Errno> {
    const SECTOR: u64 = 512;
    let taken = |file: &File| file.metadata().map_or(0, |meta| meta.blocks() * SECTOR);
    // By file system: what is free there and what the old files give back, and what the new ones take.
    let mut systems: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for copied in all {
        let system = rustix::fs::fstatvfs(&copied.into)?;
        // One that does not tell its size has room.
        let free = if system.f_blocks > 0 { system.f_bavail.saturating_mul(system.f_frsize) } else { u64::MAX };
        let (have, need) = systems.entry(rustix::fs::fstat(&copied.into)?.st_dev).or_insert((free, 0));
        *have = have.saturating_add(taken(&copied.into));
        *need = need.saturating_add(taken(&copied.file));
    }
    if systems.values().any(|(have, need)| need > have) { Err(Errno::NOSPC) } else { Ok(()) }
}
