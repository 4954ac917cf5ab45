//! Which qemu-img is imitated where a format's behaviour depends on it.

/// The four behaviours among the releases that can be had (each stands for the releases up to the next).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 5.2
    V5_2,
    /// 7.2
    V7_2,
    /// 10.0
    V10_0,
    /// 11.1
    #[default]
    V11_1,
}

impl Version {
    /// The behaviour of release `major.minor`.
    #[must_use]
    pub const fn of(major: u32, minor: u32) -> Self {
        match (major, minor) {
            (0..=5, _) | (6, 0) => Self::V5_2,
            (6..=7, _) => Self::V7_2,
            (8..=10, _) => Self::V10_0,
            _ => Self::V11_1,
        }
    }
}
