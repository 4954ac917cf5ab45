//! What images named in a run, and what the policy said: for the user, after it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use instar_abi::ring::{Role, Status};

use super::No;

/// Most names that are kept: a guest may ask as often as it likes.
const NAMES_MAX: usize = 2048;

/// A name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The device whose image has it.
    pub device: u32,
    /// As it came.
    pub name: Vec<u8>,
    /// Where it leads, as far as that could be followed; nowhere, if it is no plain path.
    pub path: Option<PathBuf>,
    /// What for.
    pub role: Role,
    /// The device that it is now, or why it is none.
    pub answer: Result<u32, No>,
}

impl Asked {
    /// The policy said no.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.answer.is_err_and(|no| no.status == Status::Refused)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Log(Mutex<Vec<Asked>>);

impl Log {
    /// Keeps one.
    pub fn add(&self, asked: Asked) {
        if asked.is_refused() {
            crate::tally::refused(&asked.name);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < NAMES_MAX {
            kept.push(asked);
        }
    }

    /// Gives them away.
    #[must_use]
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
