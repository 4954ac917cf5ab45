//! An image that is a device, and is written to: steps of what lies in it become changes of its disk.
//!
//! The order of steps is kept through it. What was written before a barrier is part of the image when the barrier is done:
//! its tables are settled, and only then the devices that it is on are made stable. So what lies in the image may be cut
//! wherever the image may.

use alloc::vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use instar_image::chain::Chain;
use instar_image::write::Target;
use instar_image::{Ability, Changes, DeviceId, Error, FileOffset, Kind, Machine, Result, Step, allowed};

use super::shared::Shared;
use crate::copy::fill::{read_at, reason};
use crate::disk::{ROOM, WriteDisk};
use crate::open::{ImageSpec, Opening};
use crate::resize;

/// Files are whole sectors of so many bytes.
const SECTOR: u64 = 512;
/// What lies in the image grows by small pieces; the image is made longer by so much, or by this part of its length.
const AHEAD: u64 = 1 << 20;
const AHEAD_PART: u64 = 16;
const ENOSPC: u32 = 28;
const EIO: u32 = 5;

/// The image.
pub struct Through<'m> {
    opening: Opening<'m>,
    spec: ImageSpec,
    chain: Shared<Chain<'m>>,
    /// Where the device ends. The image may be longer for a while.
    end: AtomicU64,
    /// The image was made longer than the device is.
    is_longer: AtomicBool,
    /// A change failed half way: tables stay as they were settled last.
    broken: AtomicBool,
}

impl<'m> Through<'m> {
    /// Of a chain that was opened with its first image to be written to.
    pub fn new(opening: Opening<'m>, spec: ImageSpec, mut chain: Chain<'m>) -> Result<Self> {
        begin(&mut chain)?;
        let end = AtomicU64::new(chain.virtual_size());
        let (is_longer, broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { opening, spec, chain: Shared::new(chain), end, is_longer, broken })
    }

    /// Why it cannot be as long as that, if it cannot.
    pub fn keeps_length(&self, to: u64) -> Option<Error> {
        self.look(|chain| keeps_size(chain, self.below(), to))
    }

    /// It can be no longer, or no shorter.
    pub fn is_fixed(&self) -> bool {
        let end = self.end();
        self.look(|chain| {
            let keeps = |to| keeps_size(chain, self.below(), to).is_some();
            keeps(end.saturating_add(SECTOR)) || end > 0 && keeps(end.saturating_sub(SECTOR))
        })
    }

    fn below(&self) -> &'m dyn Machine {
        self.opening.machine
    }

    /// Where the device ends.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Asks the chain as it is now.
    pub fn look<R>(&self, ask: impl FnOnce(&Chain<'m>) -> R) -> R {
        ask(&self.chain.read(self.below()))
    }

    /// Carries out a step that is for this device. A copy only where [`Self::is_linear`].
    pub fn carry_out(&self, step: &Step<'_>) -> Result<()> {
        let done = match *step {
            Step::Barrier { .. } => self.flush(),
            Step::SetLength { len, .. } => self.set_len(len),
            Step::Discard { offset, len, .. } => {
                let at = offset.get();
                let len = len.min(self.end().saturating_sub(at));
                if len == 0 { Ok(()) } else { self.put(at, len, step) }
            }
            Step::Write { offset, data, .. } => self.reach(offset, data.len() as u64, step),
            Step::Zero { offset, len, .. } | Step::Allocate { offset, len, .. } => self.reach(offset, len, step),
            Step::Copy { to_offset, len, .. } => self.reach(to_offset, len, step),
        };
        done.map_err(|e| reason(&e))
    }

    /// Every byte of it has its place, and is stored as it is.
    pub fn is_linear(&self) -> bool {
        self.look(|chain| matches!(target(chain), Some(Target::Linear { .. })))
    }

    /// Carries out a step about so many bytes from `offset` on, once the device is long enough.
    fn reach(&self, offset: FileOffset, len: u64, step: &Step<'_>) -> Result<()> {
        let at = offset.get();
        let end = at.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(no_room)?;
        if len == 0 {
            return Ok(());
        }
        if end > self.end() {
            let mut chain = self.chain.alone(self.below());
            self.lengthen(&mut chain, at, end)?;
        }
        self.put(at, len, step)
    }

    fn put(&self, at: u64, len: u64, step: &Step<'_>) -> Result<()> {
        let chain = self.chain.read(self.below());
        match target(&chain) {
            Some(Target::Linear { device, base, .. }) => {
                self.below().submit(&[moved(*step, device, base.saturating_add(at))])
            }
            Some(Target::LinearEncrypted { device, base }) => match *step {
                // Blocks that are reserved hold no zeroes.
                Step::Allocate { full: false, .. } => {
                    self.below().submit(&[moved(*step, device, base.saturating_add(at))])
                }
                // What they hold does not matter.
                Step::Discard { .. } => Ok(()),
                Step::Write { data, .. } if (at | data.len() as u64).is_multiple_of(SECTOR) => {
                    WriteDisk::new(self.below(), &chain)?.write(core::iter::once((at, data)))
                }
                _ => {
                    drop(chain);
                    self.encrypt(&self.chain.alone(self.below()), at, len, step)
                }
            },
            Some(Target::Allocated { .. }) => {
                drop(chain);
                self.place(&self.chain.alone(self.below()), at, len, step)
            }
            None => Err(no_editor()),
        }
    }

    /// Parts of sectors, and zeroes.
    fn encrypt(&self, chain: &Chain<'m>, at: u64, len: u64, step: &Step<'_>) -> Result<()> {
        match *step {
            Step::Write { data, .. } => WriteDisk::new(self.below(), chain)?.write(core::iter::once((at, data))),
            Step::Zero { .. } | Step::Allocate { .. } => self.fill(chain, at, at.saturating_add(len)),
            _ => Err(Error::corrupt("a step that an encrypted image does not know")),
        }
    }

    /// Zeroes from `at` up to `end`, written by pieces: what is encrypted goes through memory.
    fn fill(&self, chain: &Chain<'m>, mut at: u64, end: u64) -> Result<()> {
        let disk = WriteDisk::new(self.below(), chain)?;
        let zeroes = vec![0; end.saturating_sub(at).min(ROOM) as usize];
        while at < end {
            let part = zeroes.get(..(end - at).min(ROOM) as usize).unwrap_or_default();
            disk.write(core::iter::once((at, part)))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Into an image that gives places. One at a time: what is read meanwhile must not be where bytes are still on their way.
    fn place(&self, chain: &Chain<'m>, at: u64, len: u64, step: &Step<'_>) -> Result<()> {
        self.check_whole()?;
        let disk = WriteDisk::new(self.below(), chain)?;
        let done = match *step {
            Step::Write { data, .. } => disk.write(core::iter::once((at, data))),
            Step::Zero { .. } => disk.zero(at, len),
            Step::Discard { .. } => disk.discard(at, len),
            // Where its bytes will lie is the image's own affair.
            Step::Allocate { .. } => Ok(()),
            _ => Err(Error::corrupt("a step that an image does not know")),
        };
        self.or_broken(done)
    }

    /// Makes the device longer: it ends at `end` then, of which what lies before `at` shows zeroes.
    fn lengthen(&self, chain: &mut Chain<'m>, at: u64, end: u64) -> Result<()> {
        let before = self.end();
        let Some(end) = end.checked_next_multiple_of(SECTOR).filter(|end| *end > before) else { return Ok(()) };
        if end > chain.virtual_size() {
            let ahead = end.saturating_add(AHEAD.max(end / AHEAD_PART)).next_multiple_of(SECTOR);
            // A block device, say, has no more than it has.
            let longer = self.resize(chain, ahead).or_else(|_| self.resize(chain, end));
            longer.map_err(|error| if matches!(error.kind, Kind::Io(_)) { error } else { no_room() })?;
            self.is_longer.store(true, Ordering::Release);
        }
        if let Some(Target::LinearEncrypted { .. }) = target(chain) {
            // What was never written there would show as noise.
            let gap = if at.is_multiple_of(SECTOR) && before <= at { at } else { end };
            self.fill(chain, before, gap)?;
        }
        self.end.store(end, Ordering::Release);
        Ok(())
    }

    /// Sets the length of the device.
    fn set_len(&self, len: u64) -> Result<()> {
        let mut chain = self.chain.alone(self.below());
        let before = self.end();
        if keeps_size(&chain, self.below(), len).is_some() {
            return if len > before { Err(no_room()) } else { Ok(()) };
        }
        if len > before {
            self.resize(&mut chain, len)?;
            if let Some(Target::LinearEncrypted { .. }) = target(&chain) {
                self.fill(&chain, before, len)?;
            }
        } else if len < chain.virtual_size() {
            self.resize(&mut chain, len)?;
        }
        self.is_longer.store(chain.virtual_size() > len, Ordering::Release);
        self.end.store(len, Ordering::Release);
        Ok(())
    }

    /// Gives the image another size. It is opened anew by that.
    fn resize(&self, chain: &mut Chain<'m>, size: u64) -> Result<()> {
        self.check_whole()?;
        if let Some(editor) = chain.layers.first().and_then(|top| top.image.editor()) {
            self.or_broken(editor.finish())?;
        }
        let resized = resize::own_end(self.below(), chain, 0, size)
            .and_then(|()| resize::to_size(self.opening, chain, 0, size, &self.spec.options_at(0)));
        let begun = resized.and_then(|()| begin(chain));
        if begun.is_err() {
            resize::open_anew(self.opening, chain, 0, &self.spec.options_at(0)).and_then(|()| begin(chain))?;
        }
        begun
    }

    /// Makes all that was written stable, part of the image as it is then.
    fn flush(&self) -> Result<()> {
        let chain = self.chain.alone(self.below());
        self.check_whole()?;
        self.or_broken(WriteDisk::new(self.below(), &chain)?.flush())
    }

    /// Writes what is left, tables and all, and gives back what the image has too much.
    pub fn finish(&self) -> Result<()> {
        let mut chain = self.chain.alone(self.below());
        if self.broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        let end = self.end();
        if self.is_longer.load(Ordering::Acquire) && keeps_size(&chain, self.below(), end).is_none() {
            self.resize(&mut chain, end)?;
        }
        chain.layers.first().and_then(|top| top.image.editor()).map_or(Ok(()), |editor| editor.finish())
    }

    fn check_whole(&self) -> Result<()> {
        let text = "Input/output error";
        if self.broken.load(Ordering::Relaxed) { Err(Error::new(Kind::Io(EIO), text)) } else { Ok(()) }
    }

    fn or_broken(&self, outcome: Result<()>) -> Result<()> {
        outcome.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))
    }

    /// Reads; zeroes behind the end.
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let chain = self.chain.read(self.below());
        let left = usize::try_from(self.end().saturating_sub(at)).unwrap_or(usize::MAX).min(buf.len());
        let (inside, behind) = buf.split_at_mut(left);
        behind.fill(0);
        read_at(self.below().source(), &chain, 0, at, inside)
    }
}

/// Why the first image cannot have that size, if it cannot: its format's images keep theirs, the user says so, or it fills a
/// device.
fn keeps_size(chain: &Chain<'_>, machine: &dyn Machine, to: u64) -> Option<Error> {
    let top = chain.layers.first()?;
    let may = allowed(top.format, Ability::Resize, machine.source());
    let Some(resizing) = top.image.resizing().filter(|_| may) else {
        return Some(Error::unsupported("Image format driver does not support resize"));
    };
    let file = || match target(chain)? {
        Target::Linear { device, base, .. } | Target::LinearEncrypted { device, base } => {
            let is_device = machine.stat(device).is_ok_and(|stat| stat.block_device);
            let device = is_device.then(|| Error::unsupported("Cannot resize device files"));
            machine.keeps_length(top.device, base.saturating_add(to).get()).or(device)
        }
        Target::Allocated { .. } => None,
    };
    resizing.keeps_size(to).or_else(file)
}

/// Begins to change the first image.
fn begin(chain: &mut Chain<'_>) -> Result<()> {
    let top = chain.layers.first_mut().ok_or_else(no_editor)?;
    let changes = Changes { content: true, ..Changes::default() };
    top.image.begin(&changes).ok_or_else(|| Error::unsupported("Block node is read-only"))?
}

fn target(chain: &Chain<'_>) -> Option<Target> {
    chain.layers.first().and_then(|top| top.image.editor()).map(|editor| editor.target())
}

/// The same at another place.
fn moved(step: Step<'_>, to: DeviceId, at: FileOffset) -> Step<'_> {
    match step {
        Step::Write { data, .. } => Step::Write { device: to, offset: at, data },
        Step::Copy { from, from_offset, len, zeroes, .. } => {
            Step::Copy { from, from_offset, to, to_offset: at, len, zeroes }
        }
        Step::Zero { len, unmap, .. } => Step::Zero { device: to, offset: at, len, unmap },
        Step::Discard { len, .. } => Step::Discard { device: to, offset: at, len },
        Step::Allocate { len, full, .. } => Step::Allocate { device: to, offset: at, len, full },
        Step::SetLength { len, .. } => Step::SetLength { device: to, len },
        Step::Barrier { .. } => Step::Barrier { device: to },
    }
}

fn no_room() -> Error {
    Error::new(Kind::Io(ENOSPC), "No space left on device")
}

fn no_editor() -> Error {
    Error::corrupt("an image that is not being changed")
}
