//! Making VDI images: dynamic ones, whose blocks are placed in the order in which their data comes, and static ones, which
//! have all blocks in their places.

mod dynamic;
mod encode;
mod fixed;

use alloc::boxed::Box;
use alloc::format;

use instar_image::blocks::Blocks;
use instar_image::options::{OptionKind, OptionSpec, of_file};
use instar_image::table::Span;
use instar_image::values::boolean;
use instar_image::windows::guid;
use instar_image::{CreateContext, Creator, DeviceId, Error, FileOffset, Result, Writer};

use crate::layout::{BLOCK, ENTRY, HEADER_LEN, SECTOR, SIZE_MAX, is_absent};

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    of_file::EXTENT_SIZE_HINT,
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
    OptionSpec { name: "static", kind: OptionKind::Bool, help: "VDI static (pre-allocated) image" },
];

/// The options in the order of "Formatting ..".
pub const SHOWN: &[(&str, Option<&str>)] = &[("size", None), ("static", Some("off"))];

/// A new disk.
struct Spec {
    /// Size in bytes, in whole sectors.
    size: u64,
    /// Every block is there from the start.
    all: bool,
    /// Identifiers of the image and of its last snapshot.
    ids: [[u8; 16]; 2],
}

impl Spec {
    /// From what the user said.
    fn read(cx: &CreateContext<'_, '_>) -> Result<Self> {
        let all = cx.options.get("static").map_or(Ok(false), |text| boolean("static", text))?;
        of_file::check_preallocation(cx.options)?;
        let size = cx.size.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        if size > SIZE_MAX {
            return Err(Error::unsupported(format!(
                "Unsupported VDI image size (size is 0x{size:x}, max supported is 0x{SIZE_MAX:x})"
            )));
        }
        Ok(Self { size, all, ids: [guid(cx.machine.random_id()), guid(cx.machine.random_id())] })
    }

    /// Blocks of the disk.
    const fn count(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// The map, of an image on `device`.
    const fn blocks(&self, device: DeviceId) -> Blocks {
        Blocks {
            device,
            size: self.size,
            block: BLOCK,
            table: Span { offset: FileOffset::new(HEADER_LEN as u64), count: self.count() },
            base: self.data(),
            scale: BLOCK,
            absent: is_absent,
            big_endian: false,
            backed: false,
        }
    }

    /// Byte offset of the first block, behind the map.
    const fn data(&self) -> FileOffset {
        FileOffset::new(HEADER_LEN as u64 + (self.count() * ENTRY).next_multiple_of(SECTOR))
    }
}

/// Makes them.
pub struct VdiCreator;

impl Creator for VdiCreator {
    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        if spec.all { fixed::create(&cx, spec) } else { dynamic::create(&cx, spec) }
    }
}
