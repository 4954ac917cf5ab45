//! Keys that a password has opened in this run: deriving one takes seconds, and a command that changes an image opens it
//! more than once.

use alloc::vec::Vec;

use spin::Mutex;

/// Most keys that are remembered: some 100 bytes each.
const KEYS_MAX: usize = 256;

/// By all that the key follows from, the password included.
#[derive(Default)]
pub struct Keys(Mutex<Vec<(Vec<u8>, Vec<u8>)>>);

impl Keys {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The key that was found for `origin`.
    #[must_use]
    pub fn find(&self, origin: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().iter().find(|(known, _)| known == origin).map(|(_, key)| key.clone())
    }

    /// Remembers a key.
    pub fn add(&self, origin: Vec<u8>, key: Vec<u8>) {
        let mut keys = self.0.lock();
        if keys.len() < KEYS_MAX {
            keys.push((origin, key));
        }
    }
}
