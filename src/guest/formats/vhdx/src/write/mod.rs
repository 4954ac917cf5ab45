//! Making VHDX images.
//!
//! [`spec`] says what the options mean and where everything lies, [`encode`] what the structures look like; [`dynamic`]
//! and [`fixed`] are the writers.

mod dynamic;
pub mod encode;
mod fixed;
mod pages;
pub mod spec;

use alloc::boxed::Box;

use instar_image::options::{OptionKind, OptionSpec, of_file};
use instar_image::{CreateContext, Creator, DeviceId, Result, Writer};

use spec::Spec;

/// The options, in the order of `-o help`.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "block_size",
        kind: OptionKind::Size,
        help: "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
    },
    OptionSpec {
        name: "block_state_zero",
        kind: OptionKind::Bool,
        help: "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using \
               'qemu-img convert' with subformat=dynamic.",
    },
    of_file::EXTENT_SIZE_HINT,
    OptionSpec { name: "log_size", kind: OptionKind::Size, help: "Log size; min 1MB." },
    of_file::NOCOW,
    of_file::PREALLOCATION,
    OptionSpec { name: "size", kind: OptionKind::Size, help: "Virtual disk size; max of 64TB." },
    OptionSpec {
        name: "subformat",
        kind: OptionKind::Text,
        help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
    },
];

/// The options in the order of "Formatting ..", and what they are if nothing is said.
pub const SHOWN: &[(&str, Option<&str>)] = &[
    ("size", None),
    ("log_size", Some("1048576")),
    ("block_size", Some("0")),
    ("subformat", None),
    ("block_state_zero", None),
];

/// Makes them.
pub struct VhdxCreator;

impl Creator for VhdxCreator {
    fn create<'a>(&self, cx: CreateContext<'a, '_>) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        if spec.fixed { fixed::create(&cx, spec) } else { dynamic::create(&cx, spec, None) }
    }

    fn create_child<'a>(&self, cx: CreateContext<'a, '_>, parent: DeviceId) -> Result<Box<dyn Writer + 'a>> {
        let spec = Spec::read(&cx)?;
        dynamic::create(&cx, spec, Some(parent))
    }
}
