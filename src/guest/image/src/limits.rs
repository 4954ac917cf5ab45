//! Every bound in one table. "spec": the format's specification says so; "QEMU": qemu-img refuses more;
//! "instar": ours, beyond anything legitimate.

/// Deepest backing chain, in images (instar; qemu-img has none and overflows its stack).
pub const CHAIN_DEPTH_MAX: usize = 200;
/// Most images that `info` shows of a chain, one at a time (instar).
pub const CHAIN_SHOWN_MAX: usize = 4096;
/// Longest backing file name in bytes (QEMU and spec for qcow2: 1023).
pub const BACKING_NAME_MAX: usize = 1023;
/// Bytes of the start of a file that probing looks at (QEMU: 2048). What lies further in (ISO 9660, GPT) is no
/// format to qemu-img, and is looked for only where `info --extra-detail` asks.
pub const PROBE_HEAD: usize = 4096;
/// Most entries of a table that may lie past the end of its file, where they read as zeroes (instar): a file that was cut
/// lacks some, but to look at more of them is work that the file only claims.
pub const LACKING_MAX: u64 = 1 << 13;
