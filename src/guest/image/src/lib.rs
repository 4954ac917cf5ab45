//! The vocabulary of the guest half: devices, extents, steps, and the traits that a format implements.
//!
//! Nothing here touches the machine or knows a format. Formats implement [`Format`], [`Image`] and, if they
//! can be written, [`Creator`] and [`Writer`]; operations are written once against them; the entry crate
//! (in the sandbox) and the simulator (in tests) implement [`Machine`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ability;
pub mod amend;
pub mod bitmap;
pub mod bits;
pub mod blocks;
pub mod chain;
pub mod check;
pub mod create;
pub mod damage;
pub mod driver_options;
pub mod edit;
pub mod error;
pub mod extent;
pub mod fixed;
pub mod format;
pub mod image;
pub mod keys;
pub mod levels;
pub mod limits;
pub mod machine;
pub mod named;
pub mod names;
pub mod offset;
pub mod options;
pub mod packing;
pub mod purpose;
pub mod quirk;
pub mod reader;
pub mod resize;
pub mod runs;
pub mod sealed;
pub mod snapshots;
pub mod table;
pub mod values;
pub mod version;
pub mod walk;
pub mod windows;
pub mod write;

pub use ability::{Ability, allowed};
pub use amend::Amendment;
pub use bitmap::{BitmapEditor, Bitmaps, DirtyBitmap};
pub use check::{CheckContext, CheckReport, Findings, Repaired, Repairs};
pub use create::{CreateContext, Creator, Measure, Measured};
pub use edit::{Changes, Editor, Emptying, NewBacking, Rebasing, Spot};
pub use error::{ENOTSUP, Error, Kind, Result, Scope};
pub use extent::{Compressed, Extent, Place};
pub use format::{Format, OpenContext, Probe, SafetyCheck};
pub use image::{Backing, Decoder, Description, Identity, Image, Snapshot};
pub use instar_abi::record::Value;
pub use machine::{Beside, DeviceId, Machine, RangePair, Read, Role, Run, Sink, Source, Stat, Step, Zeroes, until};
pub use offset::FileOffset;
pub use purpose::Purpose;
pub use quirk::Quirk;
pub use resize::{NewSize, Preallocation, Resizing};
pub use snapshots::{NewSnapshot, SnapshotEditor};
pub use version::Version;
pub use write::{Compressor, Piece, Target, Writer};
