//! `--dry-run`: a writer that only counts.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{Machine, Result, Value};

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

    /// Tells what was counted.
    pub fn emit(&self, machine: &dyn Machine) -> Result<()> {
        let mut record = Value::map();
        record
            .set("data-bytes", self.data.load(Ordering::Relaxed))
            .set("zero-bytes", self.zeroes.load(Ordering::Relaxed));
        machine.emit("dry-run", &record)
    }
}

impl Writer for Counter {
    fn target(&self) -> Target {
        self.target
    }

    fn place<'p>(&self, _at: u64, piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        match piece {
            Piece::Data(bytes) | Piece::Packed(bytes) => self.data.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            Piece::Copy(_, _, len) => self.data.fetch_add(len, Ordering::Relaxed),
            Piece::Zero(len) => self.zeroes.fetch_add(len, Ordering::Relaxed),
        };
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
