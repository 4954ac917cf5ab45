//! Where things are in a cloop image. All numbers are big-endian.
//!
//! Source: the Linux driver's `compressed_loop.h`, version 2.0; QEMU where that is silent.

use instar_image::FileOffset;

/// The shell script that every such image begins with.
pub const SCRIPT: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
/// Byte offset of the header: block size and number of blocks (u32 each). The table of byte offsets follows, one entry
/// more than there are blocks (u64 each).
pub const HEADER_AT: FileOffset = FileOffset::new(128);
/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Bytes of a table entry.
pub const ENTRY: u64 = 8;
/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Most bytes of a block (QEMU).
pub const BLOCK_MAX: u32 = 64 << 20;
/// Most bytes of a block as it is stored (QEMU).
pub const STORED_MAX: u64 = 2 * BLOCK_MAX as u64;
/// Most blocks that can be counted (QEMU).
pub const BLOCKS_MAX: u32 = u32::MAX / 8;
/// Most bytes of the table (QEMU).
pub const TABLE_MAX: u32 = 512 << 20;
