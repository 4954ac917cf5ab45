//! What the options ask for, checked.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use instar_crypto::luks::Request;
use instar_crypto::qcow::{Method, PREFIX};
use instar_image::names::without_file;
use instar_image::options::Options;
use instar_image::{CreateContext, Error, Result, Version};

use crate::layout::{CLUSTER_BITS, L1_BYTES_MAX, L1_ENTRY, REFCOUNT_ORDER_MAX, SUBCLUSTERS, VIRTUAL_SIZE_MAX};
use crate::refcount::Geometry;

/// Compression of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// How much exists before any data comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    Off,
    /// The tables.
    Metadata,
    /// And the clusters are reserved.
    Falloc,
    /// And written.
    Full,
}

/// An image to be made.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Virtual size in bytes.
    pub size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Cluster size as a power of two.
    pub cluster_bits: u32,
    /// Refcount width as a power of two of bits.
    pub refcount_order: u32,
    /// 16-byte L2 entries.
    pub extended_l2: bool,
    /// The bit that lets refcounts be written late.
    pub lazy_refcounts: bool,
    /// Of compressed clusters.
    pub codec: Codec,
    /// See [`Preallocation`].
    pub preallocation: Preallocation,
    /// Name of the external data file.
    pub data_file: Option<Vec<u8>>,
    /// It is a raw image by itself.
    pub data_file_raw: bool,
    /// It is there already, and keeps what it holds.
    pub keep_data_file: bool,
    /// Name and format of the backing file.
    pub backing: Option<(Vec<u8>, Option<String>)>,
    /// Entries of the L1 table.
    pub l1_entries: u64,
    /// What the clusters are encrypted by.
    pub encryption: Method,
    /// Bytes of the LUKS header with its key slots; 0: there is none.
    pub luks_len: u64,
}

/// QEMU counts disks in sectors of this many bytes.
const SECTOR: u64 = 512;

fn boolean(options: &Options, name: &str) -> Result<bool> {
    options.get(name).map_or(Ok(false), |text| instar_image::values::boolean(name, text))
}

impl Spec {
    /// Reads the options, and refuses what qemu-img refuses, in its words.
    pub fn read(cx: &CreateContext<'_, '_>, encryption: Method) -> Result<Self> {
        let options = cx.options;
        let version = match options.get("compat") {
            None | Some("1.1" | "v3") => 3,
            Some("0.10" | "v2") => 2,
            Some(other) => return Err(no_value(cx.version, "version", other)),
        };
        let extended_l2 = boolean(options, "extended_l2")?;
        let lazy_refcounts = boolean(options, "lazy_refcounts")?;
        let data_file_raw = boolean(options, "data_file_raw")?;
        let keep_data_file = boolean(options, "keep_data_file")?;
        let cluster_bits = cluster_bits(options)?;
        let codec = match options.get("compression_type") {
            None | Some("zlib") => Codec::Zlib,
            Some("zstd") => Codec::Zstd,
            Some(other) => {
                return Err(no_value(cx.version, "compression-type", other));
            }
        };
        let data_file = options.get("data_file").map(|name| without_file(name.as_bytes()));
        let mut preallocation = match options.get("preallocation") {
            None | Some("off") => Preallocation::Off,
            Some("metadata") => Preallocation::Metadata,
            Some("falloc") => Preallocation::Falloc,
            Some("full") => Preallocation::Full,
            Some(other) => {
                return Err(no_value(cx.version, "preallocation", other));
            }
        };
        let refcount_order = refcount_order(options)?;
        check(&[
            (
                extended_l2 && version < 3,
                "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or \
                 greater)",
            ),
            (
                extended_l2 && cluster_bits < 14,
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
            ),
            (
                lazy_refcounts && version < 3,
                "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            ),
            (
                version < 3 && refcount_order != 4,
                "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or \
                 greater)",
            ),
            (
                options.get("backing_fmt").is_some() && cx.backing.is_none(),
                "Backing format cannot be used without backing file",
            ),
            (keep_data_file && data_file.is_none(), "Must not use 'keep_data_file=on' without 'data_file'"),
            (
                keep_data_file && !data_file_raw && preallocation == Preallocation::Off,
                "'keep_data_file=on' requires 'preallocation=metadata' or 'data_file_raw=on', or the file contents will \
                 not be visible",
            ),
            (
                keep_data_file && matches!(preallocation, Preallocation::Falloc | Preallocation::Full),
                "Preallocating more than only metadata would overwrite the external data file's content and is \
                 therefore incompatible with 'keep_data_file=on'",
            ),
            (data_file_raw && data_file.is_none(), "data-file-raw requires data-file"),
            (data_file_raw && cx.backing.is_some(), "Backing file and data-file-raw cannot be used at the same time"),
            (
                data_file.is_some() && version < 3,
                "External data files are only supported with compatibility level 1.1 and above (use version=v3 or \
                 greater)",
            ),
            (
                codec == Codec::Zstd && version < 3,
                "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 \
                 or greater)",
            ),
            (
                preallocation != Preallocation::Off && cx.backing.is_some() && !extended_l2,
                "Backing file and preallocation can only be used at the same time if extended_l2 is on",
            ),
        ])?;
        if data_file_raw && preallocation == Preallocation::Off {
            // A raw data file is only right if every cluster is where the disk's own offset says.
            preallocation = Preallocation::Metadata;
        }
        let size = cx.size.checked_next_multiple_of(SECTOR).filter(|size| i64::try_from(*size).is_ok());
        let size = size.ok_or_else(|| Error::usage("Could not resize image: Image size cannot be negative"))?;
        let mut spec = Self {
            size,
            version,
            cluster_bits,
            refcount_order,
            extended_l2,
            lazy_refcounts,
            codec,
            preallocation,
            data_file,
            data_file_raw,
            keep_data_file,
            backing: cx.backing.clone().map(|b| (b.name, b.format)),
            l1_entries: 0,
            encryption,
            luks_len: 0,
        };
        spec.l1_entries = size.div_ceil(spec.l2_reach());
        if size > VIRTUAL_SIZE_MAX || spec.l1_entries.saturating_mul(L1_ENTRY) > L1_BYTES_MAX {
            return Err(Error::limit("Image size too large for file format (try using a larger cluster size)"));
        }
        if encryption == Method::Luks {
            spec.luks_len = Request::read(cx.machine.source(), options, PREFIX, cx.version)?.0.payload();
        }
        Ok(spec)
    }

    /// How clusters are counted.
    pub const fn refcounts(&self) -> Geometry {
        Geometry { cluster_bits: self.cluster_bits, order: self.refcount_order }
    }

    /// Bytes of a cluster.
    pub const fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The disk's size in whole clusters or, where there are any, subclusters; in bytes.
    pub const fn rounded(&self) -> u64 {
        let unit = if self.extended_l2 { self.cluster() / SUBCLUSTERS as u64 } else { self.cluster() };
        self.size.next_multiple_of(unit)
    }

    /// Clusters of the LUKS header.
    pub const fn luks_clusters(&self) -> u64 {
        self.luks_len.div_ceil(self.cluster())
    }

    /// Bytes of an L2 entry.
    pub const fn l2_entry(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub const fn l2_entries(&self) -> u64 {
        self.cluster() / self.l2_entry()
    }

    /// Bytes of the disk that an L2 table maps.
    pub const fn l2_reach(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }
}

/// What is said of a value that an option does not have.
fn no_value(version: Version, name: &str, value: &str) -> Error {
    Error::usage(match version {
        Version::V5_2 => format!("Invalid parameter '{value}'"),
        _ => format!("Parameter '{name}' does not accept value '{value}'"),
    })
}

fn check(rules: &[(bool, &str)]) -> Result<()> {
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, text)) => Err(Error::usage(*text)),
        None => Ok(()),
    }
}

fn cluster_bits(options: &Options) -> Result<u32> {
    const DEFAULT: u64 = 65536;
    let bytes = match options.get("cluster_size") {
        Some(text) => instar_image::values::size("cluster_size", text)?,
        None => DEFAULT,
    };
    if bytes.is_power_of_two() && CLUSTER_BITS.contains(&bytes.trailing_zeros()) {
        Ok(bytes.trailing_zeros())
    } else {
        Err(Error::usage("Cluster size must be a power of two between 512 and 2048k"))
    }
}

fn refcount_order(options: &Options) -> Result<u32> {
    let Some(text) = options.get("refcount_bits") else { return Ok(4) };
    let bits = instar_image::values::number("refcount_bits", text)?;
    if bits.is_power_of_two() && bits.trailing_zeros() <= REFCOUNT_ORDER_MAX {
        Ok(bits.trailing_zeros())
    } else {
        Err(Error::usage("Refcount width must be a power of two and may not exceed 64 bits"))
    }
}
