//! Making VHD images.
//!
//! [`spec`] says what the options mean, [`geometry`] how sizes are rounded, [`encode`] what the structures look like;
//! [`dynamic`] and [`fixed`] are the writers.

mod dynamic;
pub mod encode;
mod fixed;
pub mod geometry;
pub mod spec;

use alloc::boxed::Box;

use instar_image::options::{OptionKind, OptionSpec, of_file};
use instar_image::{CreateContext, Creator, DeviceId, Result, Writer};

use spec::Spec;

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    of_file::EXTENT_SIZE_HINT,
    OptionSpec {
        name: "force_size",
        kind: OptionKind::Bool,
        help: "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based \
               calculation",
    },
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size" },
    OptionSpec {
        name: "subformat",
        kind: OptionKind::Text,
        help: "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
    },
];

/// The options in the order of "Formatting ..".
pub const SHOWN: &[(&str, Option<&str>)] = &[("size", None), ("subformat", None), ("force_size", None)];

/// Makes them.
pub struct VpcCreator;

impl Creator for VpcCreator {
    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        of_file::check_preallocation(cx.options)?;
        let spec = Spec::read(&cx)?;
        if spec.fixed { fixed::create(&cx, spec) } else { dynamic::create(&cx, spec, None) }
    }

    fn create_child<'a>(&self, cx: CreateContext<'a, '_>, parent: DeviceId) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        dynamic::create(&cx, spec, Some(parent))
    }
}
