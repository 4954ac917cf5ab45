//! What `info` shows under `format-specific`.

use alloc::vec::Vec;

use instar_image::Value;

use crate::Qcow2Image;
use crate::header::Compression;
use crate::layout::{AUTOCLEAR_DATA_FILE_RAW, COMPATIBLE_LAZY_REFCOUNTS, incompatible};

/// The map under `data`.
pub fn specific(image: &Qcow2Image<'_>) -> Value {
    let header = &image.header;
    let compression = match header.compression {
        Compression::Zlib => "zlib",
        Compression::Zstd => "zstd",
    };
    let refcount_bits = 1u64.unbounded_shl(header.refcount_order);
    let mut map = Value::map();
    if header.version < 3 {
        map.set("compat", "0.10").set("compression-type", compression).set("refcount-bits", refcount_bits);
    } else {
        map.set("compat", "1.1")
            .set("compression-type", compression)
            .set("lazy-refcounts", header.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0)
            .set("refcount-bits", refcount_bits)
            .set("corrupt", header.has(incompatible::CORRUPT))
            .set("extended-l2", header.has(incompatible::EXTENDED_L2));
        if !image.bitmaps.is_empty() {
            map.set("bitmaps", image.bitmaps.iter().map(crate::bitmaps::Bitmap::describe).collect::<Vec<_>>());
        }
        if let Some(name) = &image.extensions.data_file {
            map.set("data-file", name.as_slice());
        }
        if header.has(incompatible::DATA_FILE) {
            map.set("data-file-raw", header.autoclear & AUTOCLEAR_DATA_FILE_RAW != 0);
        }
    }
    if let Some(encrypt) = &image.encryption.shown {
        map.set("encrypt", encrypt.clone());
    }
    map
}
