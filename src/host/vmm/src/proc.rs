//! Files of /proc: their length is not known before they are read, and each call to read them is work for the kernel.

use std::fs::File;
use std::io::{self, Read};

/// What such a file has on most machines fits in.
const BYTES: usize = 16 << 10;

/// All of the file.
pub fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(BYTES);
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
