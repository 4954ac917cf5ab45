//! The kinds of images that can be changed.

/// A kind of image.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its format.
    pub format: &'static str,
    /// What it is made with.
    pub options: &'static str,
    /// The driver option that names the password.
    pub key: Option<&'static str>,
    /// Formats of what it can stand on.
    pub below: &'static [&'static str],
    /// Units of it can be compressed.
    pub compresses: bool,
    /// Whether it can be given another backing file.
    pub rebases: Rebases,
    /// What was never written of it shows anything.
    pub undefined: bool,
}

/// Which images can be given another backing file.
#[derive(Clone, Copy, Debug)]
pub enum Rebases {
    /// None.
    Never,
    /// Those that have one.
    Children,
    /// All.
    Always,
}

const fn alone(format: &'static str, options: &'static str) -> Kind {
    Kind { format, options, key: None, below: &[], compresses: false, rebases: Rebases::Never, undefined: false }
}

const fn qcow2(options: &'static str) -> Kind {
    let below = &["raw", "qcow2", "vmdk"];
    Kind { format: "qcow2", options, key: None, below, compresses: true, rebases: Rebases::Always, undefined: false }
}

const INSIDE: Option<&str> = Some("encrypt.key-secret");
const AES: &str = "encrypt.format=aes,encrypt.key-secret=sec0";

/// All of them.
pub const KINDS: &[Kind] = &[
    alone("raw", ""),
    qcow2("cluster_size=64k"),
    qcow2("cluster_size=512,refcount_bits=1"),
    qcow2("cluster_size=4k,compression_type=zstd,refcount_bits=64"),
    qcow2("compat=0.10,cluster_size=4k"),
    qcow2("extended_l2=on,cluster_size=16k"),
    qcow2("lazy_refcounts=on,cluster_size=2M"),
    Kind { below: &[], ..qcow2("preallocation=metadata,cluster_size=32k") },
    Kind { compresses: false, ..qcow2("data_file=data,cluster_size=16k") },
    Kind { compresses: false, below: &[], ..qcow2("data_file=data,data_file_raw=on,cluster_size=64k") },
    Kind { key: INSIDE, compresses: false, ..qcow2(AES) },
    Kind {
        key: INSIDE,
        compresses: false,
        ..qcow2("encrypt.format=luks,encrypt.iter-time=1,encrypt.key-secret=sec0,cluster_size=8k")
    },
    Kind { below: &["raw", "qcow2"], rebases: Rebases::Always, ..alone("qed", "cluster_size=4k,table_size=2") },
    Kind { below: &["raw", "qcow2"], rebases: Rebases::Always, ..alone("qed", "cluster_size=64k") },
    Kind { below: &["raw", "qcow2"], ..alone("qcow", "") },
    Kind { key: INSIDE, ..alone("qcow", AES) },
    alone("vdi", ""),
    alone("vdi", "static=on"),
    Kind { below: &["vpc"], rebases: Rebases::Children, ..alone("vpc", "force_size=on") },
    alone("vpc", "subformat=fixed,force_size=on"),
    Kind { below: &["vhdx"], rebases: Rebases::Children, ..alone("vhdx", "block_size=1M") },
    alone("vhdx", "subformat=fixed,block_size=1M"),
    Kind { below: &["vmdk"], rebases: Rebases::Always, ..alone("vmdk", "subformat=monolithicSparse") },
    Kind { below: &["vmdk"], rebases: Rebases::Always, ..alone("vmdk", "zeroed_grain=on") },
    alone("vmdk", "subformat=monolithicFlat"),
    alone("vmdk", "subformat=twoGbMaxExtentSparse"),
    alone("vmdk", "subformat=twoGbMaxExtentFlat"),
    alone("parallels", ""),
    alone("parallels", "cluster_size=4k"),
    Kind { key: Some("key-secret"), undefined: true, ..alone("luks", "iter-time=1,key-secret=sec0") },
];

/// Their formats, each once.
pub fn formats() -> impl Iterator<Item = &'static str> {
    let first = |(index, kind): &(usize, &Kind)| !KINDS[..*index].iter().any(|earlier| earlier.format == kind.format);
    KINDS.iter().enumerate().filter(first).map(|(_, kind)| kind.format)
}
