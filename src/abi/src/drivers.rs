//! The names of drivers. The host has to know which of the user's words is one; what a driver does, only the guest knows,
//! whose registry has a test that these are its formats.

/// Drivers of images.
pub const FORMATS: &[&str] =
    &["raw", "qcow2", "qcow", "vmdk", "vpc", "vhdx", "vdi", "parallels", "qed", "dmg", "bochs", "cloop", "luks"];

/// Drivers of files.
pub const PROTOCOLS: &[&str] = &["file", "host_device", "host_cdrom"];
