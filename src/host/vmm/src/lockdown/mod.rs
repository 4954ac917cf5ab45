//! Locking the host half down.

/// Gives up the right to open.
pub fn seal() {}
