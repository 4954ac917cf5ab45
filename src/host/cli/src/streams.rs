//! Standard output and standard error. That they are full or closed is an error of the command, and never a panic.

use std::io::{self, Write};
use std::sync::OnceLock;

use instar_vmm::standard::was_absent;

/// What the first write that failed failed with, on standard output and on standard error.
static FAILED: [OnceLock<i32>; 2] = [const { OnceLock::new() }; 2];

const BAD_DESCRIPTOR: i32 = 9;

fn write(fd: u32, text: &str) -> io::Result<()> {
    let done = match fd {
        _ if was_absent(fd) => Err(io::Error::from_raw_os_error(BAD_DESCRIPTOR)),
        1 => {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
        _ => io::stderr().lock().write_all(text.as_bytes()),
    };
    done.inspect_err(|error| {
        FAILED[fd as usize - 1].get_or_init(|| error.raw_os_error().unwrap_or(0));
    })
}

/// Writes to standard output, at once.
pub fn show(text: &str) -> io::Result<()> {
    write(1, text)
}

/// Writes to standard error. That it cannot be written to is nobody to be told, but for the exit status.
pub fn tell(text: &str) {
    let _ = write(2, text);
}

/// Why standard output could not be written to, if so.
pub fn output_error() -> Option<io::Error> {
    FAILED[0].get().map(|errno| io::Error::from_raw_os_error(*errno))
}

/// Whether anything that should have been told or shown was not.
pub fn failed() -> bool {
    FAILED.iter().any(|failed| failed.get().is_some())
}
