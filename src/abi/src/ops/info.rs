//! `info`: QEMU's own `ImageInfo` (QAPI, block-core.json). Its keys are what JSON shows.

use alloc::string::String;
use alloc::vec::Vec;

use super::codec::record;
use super::{ImageParams, Operation};
use crate::record::Value;

record! {
    /// What is shown.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Info {
        /// The image.
        pub image: ImageParams = "image",
        /// Every image of its chain.
        pub backing_chain: bool = "backing-chain",
        /// What the block driver is limited to.
        pub limits: bool = "limits",
        /// Partition tables and the like.
        pub extra_detail: bool = "extra-detail",
    }

    /// What came of it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct InfoResults {
        /// The images, the top first.
        pub images: Vec<ImageInfo> = "images" or Vec::new(),
    }

    /// An image, or the file that it is in.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct ImageInfo {
        /// Its name.
        pub filename: Vec<u8> = "filename",
        /// Its format, or the file's protocol.
        pub format: String = "format",
        /// The disk's size, or the file's length, in bytes.
        pub virtual_size: u64 = "virtual-size",
        /// Bytes that its files take.
        pub actual_size: u64 = "actual-size",
        /// Bytes of its clusters.
        pub cluster_size: Option<u64> = "cluster-size",
        /// Its data is encrypted.
        pub encrypted: bool = "encrypted" or false,
        /// It was not closed; `None`: its format does not tell.
        pub dirty_flag: Option<bool> = "dirty-flag",
        /// Where its backing file is.
        pub full_backing_filename: Option<Vec<u8>> = "full-backing-filename",
        /// The same as it is stored.
        pub backing_filename: Option<Vec<u8>> = "backing-filename",
        /// That file's format.
        pub backing_filename_format: Option<String> = "backing-filename-format",
        /// Internal snapshots.
        pub snapshots: Option<Vec<SnapshotInfo>> = "snapshots",
        /// What only such images have.
        pub format_specific: Option<FormatSpecific> = "format-specific",
        /// What it is in; not in every release.
        pub children: Option<Vec<ChildInfo>> = "children",
        /// Its backing files where they are shown as its children, the next first: a chain may be longer than what is told
        /// may be deep.
        pub behind: Vec<ImageInfo> = "behind" or Vec::new(),
        /// What the disk begins with (`--extra-detail`).
        pub content: Option<String> = "content",
        /// What the block driver is limited to (`--limits`).
        pub limits: Option<BlockLimits> = "limits",
    }

    /// A tree that is printed as it comes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct FormatSpecific {
        /// Of which format.
        pub kind: String = "type",
        /// The tree.
        pub data: Value = "data",
    }

    /// What an image is in.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ChildInfo {
        /// What it is for the image.
        pub name: String = "name",
        /// The file or image.
        pub info: ImageInfo = "info",
    }

    /// An internal snapshot.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct SnapshotInfo {
        /// Its identifier.
        pub id: Vec<u8> = "id",
        /// Its name.
        pub name: Vec<u8> = "name",
        /// Bytes of the machine's state.
        pub vm_state_size: u64 = "vm-state-size",
        /// When it was made: seconds since 1970.
        pub date_sec: u64 = "date-sec",
        /// Nanoseconds besides.
        pub date_nsec: u64 = "date-nsec",
        /// What the machine's clock showed, in seconds.
        pub vm_clock_sec: u64 = "vm-clock-sec",
        /// Nanoseconds besides.
        pub vm_clock_nsec: u64 = "vm-clock-nsec",
        /// Instructions that the machine had executed.
        pub icount: Option<u64> = "icount",
    }

    /// QEMU's `BlockLimitsInfo`: in bytes, but for the last.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BlockLimits {
        /// Of ranges that are to read as zeroes.
        pub write_zeroes_alignment: Option<u64> = "write-zeroes-alignment",
        /// Of ranges that are given up.
        pub discard_alignment: Option<u64> = "discard-alignment",
        /// Of all requests.
        pub request_alignment: u64 = "request-alignment",
        /// Of buffers.
        pub min_mem_alignment: u64 = "min-mem-alignment",
        /// The best one.
        pub opt_mem_alignment: u64 = "opt-mem-alignment",
        /// Buffers of one request.
        pub max_iov: u64 = "max-iov",
    }
}

impl Operation for Info {
    const NAME: &'static str = "info";
    type Results = InfoResults;

    fn images(&self) -> Vec<&ImageParams> {
        [&self.image].into()
    }
}
