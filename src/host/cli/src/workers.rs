//! How many workers a command has, and the memory that they need.

use instar_abi::boot::{MAX_WORKERS, WORKER_MEMORY};
use instar_vmm::Device;

use crate::program::Program;

/// The setting.
pub const SETTING: &str = "workers";

/// More than so many take longer to start than a small image takes.
const FEW: u32 = 8;
/// Past those there is a worker for each so many bytes of the files that were named.
const BYTES_EACH: u64 = 64 << 20;

/// Guest memory in bytes where nothing is said: what the program and its tables need, and for each worker what it reads,
/// compresses and decompresses at a time.
pub const fn guest_memory(workers: u32) -> u64 {
    const LEAST: u64 = 64 << 20;
    const TABLES: u64 = 32 << 20;
    let wanted = TABLES + WORKER_MEMORY * workers as u64;
    if wanted < LEAST { LEAST } else { wanted }
}

impl Program {
    /// How many workers move data: what the user says, else as many as this process may use processors.
    pub fn workers(&self) -> u32 {
        let processors = || std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        self.config.number(SETTING).ok().flatten().unwrap_or_else(processors).clamp(1, MAX_WORKERS.into()) as u32
    }

    /// How many of those are worth starting for these files. What the user says stands.
    pub(crate) fn worth_starting(&self, workers: u32, devices: &[Device]) -> u32 {
        if workers <= FEW || self.config.origin(SETTING).is_some() {
            return workers;
        }
        // A device's length is not in its metadata: it is taken for large.
        let len =
            |device: &Device| device.file.metadata().map_or(u64::MAX, |m| if m.is_file() { m.len() } else { u64::MAX });
        let bytes = devices.iter().fold(0u64, |sum, device| sum.saturating_add(len(device)));
        workers.min(u32::try_from(bytes / BYTES_EACH).unwrap_or(u32::MAX).saturating_add(FEW))
    }
}
