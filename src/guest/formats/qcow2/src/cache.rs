//! Tables of a cluster each that are being changed (L2 tables, refcount blocks): those that differ from the file's wait, of
//! the others a few are kept, also when all that waited has been written.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;

use instar_image::Result;

/// Bytes of tables that are kept though they have not changed; of large ones, one.
const KEPT: usize = 1 << 20;

/// A table in memory.
pub trait Cached {
    /// It differs from the file's.
    fn is_changed(&self) -> bool;
}

/// Tables by number.
pub struct WriteCache<T> {
    held: BTreeMap<u64, T>,
    cluster_bits: u32,
}

impl<T: Cached> WriteCache<T> {
    /// Nothing is held yet.
    pub const fn new(cluster_bits: u32) -> Self {
        Self { held: BTreeMap::new(), cluster_bits }
    }

    /// The table of that number, which `read` reads if it is not held.
    pub fn get(&mut self, number: u64, read: impl FnOnce() -> Result<T>) -> Result<&mut T> {
        if !self.held.contains_key(&number) {
            self.make_room();
        }
        match self.held.entry(number) {
            Entry::Occupied(held) => Ok(held.into_mut()),
            Entry::Vacant(place) => Ok(place.insert(read()?)),
        }
    }

    fn make_room(&mut self) {
        let most = (KEPT >> self.cluster_bits).max(1);
        if self.held.len() >= most && self.held.values().filter(|table| !table.is_changed()).count() >= most {
            self.held.retain(|_, table| table.is_changed());
        }
    }

    /// The table of that number is held.
    pub fn holds(&self, number: u64) -> bool {
        self.held.contains_key(&number)
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.held.values().filter(|table| table.is_changed()).count() << self.cluster_bits
    }

    /// A table that the file does not have yet.
    pub fn insert(&mut self, number: u64, table: T) {
        self.held.insert(number, table);
    }

    /// Forgets a table.
    pub fn remove(&mut self, number: u64) {
        self.held.remove(&number);
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// Those that wait, in ascending order.
    pub fn changed(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.held.iter_mut().filter(|(_, table)| table.is_changed()).map(|(number, table)| (*number, table))
    }
}
