//! A file beside a new image that cannot be replaced, and must not change unless the command succeeds: what is written goes
//! elsewhere, and is copied into it at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::place::{Place, open_folder};
use super::{Cache, made};

/// The file, and what is to be in it.
pub struct Copied {
    /// What is written to.
    pub file: File,
    into: File,
    /// What is copied is stable in the end.
    flush: bool,
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
        Ok(Self { file: beside.or_else(|_| elsewhere())?, into, flush: !cache.ignore_flush })
    }

    /// Takes the room that the content needs, where the file system can: from then on a full disk or quota is no reason to
    /// fail. What the file holds stays.
    pub fn reserve(&self) -> Result<(), Errno> {
        let reserved = self.data(|at, len| {
            loop {
                return match rustix::fs::fallocate(&self.into, FallocateFlags::KEEP_SIZE, at, len) {
                    Err(Errno::INTR) => continue,
                    Err(errno) if ![Errno::NOSPC, Errno::DQUOT, Errno::IO].contains(&errno) => Ok(()),
                    other => Ok(other?),
                };
            }
        });
        reserved.map_err(|error| {
            // What was taken behind its end goes again.
            let _ = self.into.metadata().and_then(|meta| self.into.set_len(meta.len()));
            errno(&error)
        })
    }

    /// Copies it.
    pub fn publish(&self) -> Result<(), Errno> {
        self.copy().map_err(|error| errno(&error))
    }

    fn copy(&self) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        for file in [&self.file, &self.into] {
            let flags = rustix::fs::fcntl_getfl(file)?;
            rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?;
        }
        let len = self.file.metadata()?.len();
        // Over what is there: the room that was reserved stays taken.
        let mut buffer = vec![0; CHUNK as usize];
        let mut end = 0;
        self.data(|mut at, mut len| {
            self.clear(end, at)?;
            end = at + len;
            while len > 0 {
                let chunk = &mut buffer[..len.min(CHUNK) as usize];
                self.file.read_exact_at(chunk, at)?;
                self.into.write_all_at(chunk, at)?;
                (at, len) = (at + chunk.len() as u64, len - chunk.len() as u64);
            }
            Ok(())
        })?;
        self.clear(end, self.into.metadata()?.len().min(len))?;
        self.into.set_len(len)?;
        if self.flush { self.into.sync_data() } else { Ok(()) }
    }

    /// Gives each range of data that is to be in the file, in their order: where it begins, and its length, in bytes.
    fn data(&self, mut with: impl FnMut(u64, u64) -> io::Result<()>) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        let mut at = 0;
        while at < len {
            let begin = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                // A file system that does not know: all is data.
                other => other.unwrap_or(at),
            };
            at = rustix::fs::seek(&self.file, SeekFrom::Hole(begin)).map_or(len, |hole| hole.min(len));
            with(begin, at.saturating_sub(begin))?;
        }
        Ok(())
    }

    /// What the file held there becomes zeroes.
    fn clear(&self, from: u64, to: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        let to = to.min(self.into.metadata()?.len());
        let Some(mut len) = to.checked_sub(from).filter(|len| *len > 0) else { return Ok(()) };
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.into, punch, from, len).is_ok() {
            return Ok(());
        }
        let mut at = from;
        while len > 0 {
            let zeroes = &ZEROES[..len.min(ZEROES.len() as u64) as usize];
            self.into.write_all_at(zeroes, at)?;
            (at, len) = (at + zeroes.len() as u64, len - zeroes.len() as u64);
        }
        Ok(())
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was there, of whatever length: afterwards it reads as the new one.
    #[test]
    fn what_was_there_is_gone() {
        const MIB: usize = 1 << 20;
        let _alone = crate::target::tests::alone();
        let folder = std::env::temp_dir().join(format!("instar-copied-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let path = folder.join("into");
        // Length of the new one, and where it has data.
        let news: [(usize, &[(usize, usize)]); 5] = [
            (0, &[]),
            (4 * MIB, &[]),
            (4 * MIB + 5, &[(MIB, MIB), (3 * MIB, 70_000)]),
            (3 * MIB, &[(0, 4096), (3 * MIB - 4096, 4096)]),
            (2 * MIB, &[(0, 2 * MIB)]),
        ];
        for old in [1, 2 * MIB, 6 * MIB] {
            for (len, data) in news {
                std::fs::write(&path, vec![7; old]).expect("room on the disk");
                let into = File::options().read(true).write(true).open(&path).expect("it is there");
                let copied = Copied::new(&path, into, Cache::default()).expect("room on the disk");
                let mut expected = vec![0; len];
                copied.file.set_len(len as u64).expect("room on the disk");
                for (at, len) in data {
                    expected[*at..at + len].fill(9);
                    copied.file.write_all_at(&expected[*at..at + len], *at as u64).expect("room on the disk");
                }
                copied.reserve().expect("room on the disk");
                assert!(std::fs::read(&path).expect("it is there") == vec![7; old], "nothing has changed yet");
                copied.publish().expect("room on the disk");
                assert!(std::fs::read(&path).expect("it is there") == expected, "{old} {len}");
            }
        }
        std::fs::remove_dir_all(folder).expect("made here");
    }
}
