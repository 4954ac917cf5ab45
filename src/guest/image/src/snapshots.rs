//! Internal snapshots of an image that is being changed.

use crate::Result;

/// A snapshot that is to be taken.
#[derive(Clone, Copy, Debug)]
pub struct NewSnapshot<'n> {
    /// Its name.
    pub name: &'n [u8],
    /// When: seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
}

/// Takes snapshots, goes back to them and gives them up. Each leaves, cut anywhere, the disk and all snapshots as they were or
/// as they are going to be. One of them is all that is done with an [`crate::Editor`].
pub trait SnapshotEditor {
    /// Takes one.
    fn create(&self, new: &NewSnapshot<'_>) -> Result<()>;

    /// Makes the disk what it was in the one with that id, else with that name.
    fn apply(&self, id_or_name: &[u8]) -> Result<()>;

    /// Gives up the first one with that name; `false`: there is none.
    fn delete(&self, name: &[u8]) -> Result<bool>;
}
