//! `--dry-run`: a writer that only counts.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use instar_abi::ops::rebase::{DryRun, RebaseResults};
use instar_image::Result;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};

/// Counts the bytes that would be placed.
pub struct Counter {
    target: Target,
    data: AtomicU64,
    zeroes: AtomicU64,
}

impl Counter {
    /// For a target of that kind.
    pub const fn new(target: Target) -> Self {
        Self { target, data: AtomicU64::new(0), zeroes: AtomicU64::new(0) }
    }

    /// What was counted.
    pub fn results(&self) -> RebaseResults {
        let (data_bytes, zero_bytes) = (self.data.load(Ordering::Relaxed), self.zeroes.load(Ordering::Relaxed));
        RebaseResults { dry_run: Some(DryRun { data_bytes, zero_bytes }) }
    }
}

impl Writer for Counter {
    fn target(&self) -> Target {
        self.target
    }

    fn place<'p>(&self, _at: u64, piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        match piece {
            Piece::Data(bytes) | Piece::Compressed(bytes) => self.data.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            Piece::Copy(_, _, len) => self.data.fetch_add(len, Ordering::Relaxed),
            Piece::Zero(len) => self.zeroes.fetch_add(len, Ordering::Relaxed),
        };
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
