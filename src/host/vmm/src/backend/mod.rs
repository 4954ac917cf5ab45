//! The two places where a guest can run. Each gives the same guest the same address space and the same ring;
//! only the doorbell differs.

mod access;
mod code;
pub mod kvm;
pub mod process;
mod ranges;
mod stub;

/// How a worker stopped asking for service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The server said so: it knows why.
    Served,
    /// The guest did what it may not: what is known of it.
    Fault(String),
    /// It never ran: what could not be set up.
    Unready(String),
    /// The run was ended from outside (limit, another worker's end).
    Ended,
}

/// What a worker's thread does at each doorbell and each tick of the clock; `false` ends the worker.
pub trait Attend: Sync {
    /// The worker rang.
    fn rang(&self, worker: u32) -> bool;
    /// Time has passed.
    fn ticked(&self) -> bool;
}

/// An error number in the system's words, without the number that Rust adds.
pub fn words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// An error in the system's words, or in those that were put before them.
pub fn plain(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), words)
}
