//! The first cluster: header, extensions, name of the backing file.

use alloc::format;
use alloc::vec::Vec;

use instar_crypto::qcow::Method;
use instar_image::machine::display_name;
use instar_image::{Error, FileOffset, Result};

use super::spec::{Codec, Spec};
use crate::layout::{
    AUTOCLEAR_DATA_FILE_RAW, COMPATIBLE_LAZY_REFCOUNTS, HEADER_LENGTH_V2, HEADER_LENGTH_WHOLE, MAGIC, extension, field,
    incompatible,
};

/// Where the tables are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables {
    /// Where the L1 table is.
    pub l1: FileOffset,
    /// Where the refcount table is.
    pub refcounts: FileOffset,
    /// Its clusters.
    pub refcount_clusters: u32,
    /// Where the LUKS header is.
    pub luks: FileOffset,
}

/// Longest name of a backing file in bytes (spec, "Header", `backing_file_size`).
const BACKING_NAME_MAX: usize = 1023;

/// Clusters of so many bytes are too small for the names of the feature bits.
const FEATURE_NAMES_ABOVE: usize = 4096;

/// The names of the feature bits: kind (0 incompatible, 1 compatible, 2 autoclear), bit, name.
const FEATURES: &[(u8, u8, &str)] = &[
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}

fn add_extension(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The backing file's name cannot be put into the header.
fn no_room(spec: &Spec, why: &str) -> Error {
    let (name, format) = spec.backing.clone().unwrap_or_default();
    let format = format.unwrap_or_else(|| "(null)".into());
    Error::usage(format!("Could not assign backing file '{}' with format '{format}': {why}", display_name(&name)))
}

/// The first cluster's bytes.
pub fn encode(spec: &Spec, tables: Tables) -> Result<Vec<u8>> {
    let cluster = usize::try_from(spec.cluster()).unwrap_or(usize::MAX);
    let mut bytes =
        alloc::vec![0; if spec.version == 2 { HEADER_LENGTH_V2 as usize } else { HEADER_LENGTH_WHOLE as usize }];
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, field::VERSION, &spec.version.to_be_bytes());
    put(&mut bytes, field::CLUSTER_BITS, &spec.cluster_bits.to_be_bytes());
    let method: u32 = match spec.encryption {
        Method::None => 0,
        Method::Aes => 1,
        Method::Luks => 2,
    };
    put(&mut bytes, field::CRYPT_METHOD, &method.to_be_bytes());
    put(&mut bytes, field::SIZE, &spec.size.to_be_bytes());
    put(&mut bytes, field::L1_SIZE, &u32::try_from(spec.l1_entries).unwrap_or(u32::MAX).to_be_bytes());
    put(&mut bytes, field::L1_OFFSET, &tables.l1.get().to_be_bytes());
    put(&mut bytes, field::REFCOUNT_OFFSET, &tables.refcounts.get().to_be_bytes());
    put(&mut bytes, field::REFCOUNT_CLUSTERS, &tables.refcount_clusters.to_be_bytes());
    if spec.version > 2 {
        let features = flag(spec.data_file.is_some(), incompatible::DATA_FILE)
            | flag(spec.codec == Codec::Zstd, incompatible::COMPRESSION)
            | flag(spec.extended_l2, incompatible::EXTENDED_L2);
        put(&mut bytes, field::INCOMPATIBLE, &features.to_be_bytes());
        put(&mut bytes, field::COMPATIBLE, &flag(spec.lazy_refcounts, COMPATIBLE_LAZY_REFCOUNTS).to_be_bytes());
        put(&mut bytes, field::AUTOCLEAR, &flag(spec.data_file_raw, AUTOCLEAR_DATA_FILE_RAW).to_be_bytes());
        put(&mut bytes, field::REFCOUNT_ORDER, &spec.refcount_order.to_be_bytes());
        put(&mut bytes, field::HEADER_LENGTH, &HEADER_LENGTH_WHOLE.to_be_bytes());
        put(&mut bytes, field::COMPRESSION_TYPE, &[u8::from(spec.codec == Codec::Zstd)]);
    }
    if let Some((_, Some(format))) = &spec.backing {
        add_extension(&mut bytes, extension::BACKING_FORMAT, format.as_bytes());
    }
    if let Some(name) = &spec.data_file {
        add_extension(&mut bytes, extension::DATA_FILE, name);
    }
    if spec.luks_len > 0 {
        let pointer = [tables.luks.get().to_be_bytes(), spec.luks_len.to_be_bytes()];
        add_extension(&mut bytes, extension::CRYPTO_HEADER, pointer.as_flattened());
    }
    let name = spec.backing.as_ref().map_or(&[][..], |(name, _)| name);
    if spec.version > 2 {
        let mut names = Vec::new();
        for (kind, bit, text) in FEATURES {
            names.extend_from_slice(&[*kind, *bit]);
            names.extend_from_slice(text.as_bytes());
            names.resize(names.len().next_multiple_of(48), 0);
        }
        // Of use to people only: in small clusters the backing file's name may need the room.
        if cluster > FEATURE_NAMES_ABOVE {
            add_extension(&mut bytes, extension::FEATURE_NAMES, &names);
        }
    }
    add_extension(&mut bytes, extension::END, &[]);
    let backing = (bytes.len() as u64, u32::try_from(name.len()).unwrap_or(u32::MAX));
    if !name.is_empty() {
        put(&mut bytes, field::BACKING_OFFSET, &backing.0.to_be_bytes());
        put(&mut bytes, field::BACKING_SIZE, &backing.1.to_be_bytes());
        bytes.extend_from_slice(name);
    }
    if name.len() > BACKING_NAME_MAX {
        return Err(no_room(spec, "Invalid argument"));
    }
    if bytes.len() > cluster {
        return Err(no_room(spec, "No space left on device")
            .with_hint("the name does not fit into the first cluster: use a larger cluster_size or a shorter name"));
    }
    bytes.resize(cluster, 0);
    Ok(bytes)
}
