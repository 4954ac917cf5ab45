//! Moving the bytes of chains into an image: shared by convert, rebase and commit.
//!
//! A planner walks the sources' extents and hands out jobs in ascending order ([`plan`]); every worker takes jobs
//! until there are none ([`linear`] for targets in which every byte has its place, [`allocated`] for those that hand
//! out clusters).

mod allocated;
pub mod files;
pub mod fill;
mod linear;
pub mod losses;
pub mod plan;
pub mod progress;
pub mod steps;

use instar_image::chain::{Chain, Layer};
use instar_image::write::{Target, Writer};
use instar_image::{DeviceId, Machine, Result};

use plan::Planner;
use progress::Progress;

/// How bytes are moved.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Runs of zeroes of so many bytes are not written; 0: all are.
    pub sparse: u64,
    /// The target reads as zeroes.
    pub zeroed: bool,
    /// Zeroes stand for what cannot be read.
    pub salvage: bool,
    /// Units are compressed.
    pub compress: bool,
    /// Plain bytes are copied by the host as they are, unread: zeroes are where the sources' tables say so.
    pub as_is: bool,
    /// The user had blocks reserved: they are written to, not given up for those of the source.
    pub reserved: bool,
}

impl Settings {
    /// What is there is changed, and nothing is known of it.
    pub const IN_PLACE: Self =
        Self { sparse: 0, zeroed: false, salvage: false, compress: false, as_is: false, reserved: false };
}

/// What is moved.
#[derive(Clone, Copy)]
pub enum Selection<'a> {
    /// Everything.
    All,
    /// What the top image holds; what it leaves to its backing file stays with what the target shows there already.
    Own,
    /// What the first so many layers hold; the rest stays with what the target shows there already.
    Layers(usize),
    /// What the top image leaves to its backing file, where it reads otherwise through this chain.
    Differing(&'a Chain<'a>),
}

/// What is read.
#[derive(Clone, Copy)]
pub struct Disks<'a> {
    /// What is moved, one behind the other.
    pub sources: &'a [Chain<'a>],
    /// What shows the target's own bytes, each in its place: for units that the sources hold only partly.
    pub target: Option<&'a Chain<'a>>,
}

impl<'a> Disks<'a> {
    /// One source.
    pub const fn of(source: &'a Chain<'a>) -> Self {
        Self { sources: core::slice::from_ref(source), target: None }
    }

    /// All that the sources' bytes may lie on.
    pub fn devices(self) -> impl Iterator<Item = DeviceId> + use<'a> {
        self.sources.iter().flat_map(|chain| &chain.layers).flat_map(Layer::devices)
    }

    /// A source by its number; the target has the number behind the last one.
    pub fn get(self, number: usize) -> Option<&'a Chain<'a>> {
        self.sources.get(number).or(self.target.filter(|_| number == self.sources.len()))
    }
}

/// Moves all that the planner hands out, on all workers.
pub fn run(
    machine: &dyn Machine,
    writer: &dyn Writer,
    planner: &Planner<'_>,
    settings: Settings,
    progress: &Progress<'_>,
) -> Result<()> {
    let result = match writer.target() {
        Target::Linear { .. } | Target::LinearEncrypted { .. } => {
            linear::run(machine, writer, planner, settings, progress)
        }
        Target::Allocated { .. } => allocated::run(machine, writer, planner, settings, progress),
    };
    result.map_err(|mut error| match error.earlier.take().map(|line| machine.say(&alloc::format!("{line}\n"))) {
        Some(Err(other)) => other,
        _ => error,
    })
}
