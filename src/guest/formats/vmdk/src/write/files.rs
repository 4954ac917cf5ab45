//! Images of several files: a descriptor, and extents beside it, plain or in grains.

use alloc::format;
use alloc::vec::Vec;

use instar_image::create::set_first_length;
use instar_image::machine::display_name;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{DeviceId, Error, FileOffset, Kind, Machine, Result, Step};

use super::spec::{SPLIT, Spec};

/// The errno of a file that another program uses.
const EAGAIN: u32 = 11;

/// Where each extent is, and how many bytes of the disk it has. `name`: the image's.
pub fn make(machine: &dyn Machine, device: DeviceId, name: &[u8], spec: &Spec) -> Result<Vec<(DeviceId, u64)>> {
    let Some(kind) = spec.kind.files() else { return Ok(Vec::from([(device, spec.size)])) };
    if machine.stat(device)?.block_device {
        let error = Error::unsupported(format!("Could not create '{}'", display_name(&kind.name(name, 1))));
        return Err(error.with_hint("beside a block device no files are made"));
    }
    let numbered = (1..).zip(spec.lengths());
    numbered
        .map(|(number, len)| {
            let made = machine.create_beside(device, kind, number).map_err(|error| {
                let shown = display_name(&kind.name(name, number));
                match error.kind {
                    Kind::Io(EAGAIN) => Error::new(
                        error.kind,
                        format!("{}\nIs another process using the image [{shown}]?", error.message),
                    ),
                    _ => error.context(format!("Could not create '{shown}'")),
                }
            })?;
            Ok((made, len))
        })
        .collect()
}

/// A disk in plain files: every byte has its place.
pub struct FlatWriter<'a> {
    machine: &'a dyn Machine,
    /// The descriptor's.
    device: DeviceId,
    spec: Spec,
    extents: Vec<DeviceId>,
}

impl<'a> FlatWriter<'a> {
    pub fn new(machine: &'a dyn Machine, device: DeviceId, spec: Spec, extents: Vec<(DeviceId, u64)>) -> Result<Self> {
        for (device, len) in &extents {
            set_first_length(machine, *device, *len)?;
        }
        let extents = extents.into_iter().map(|(device, _)| device).collect();
        Ok(Self { machine, device, spec, extents })
    }
}

impl Writer for FlatWriter<'_> {
    fn target(&self) -> Target {
        let device = self.extents.first().copied().unwrap_or(self.device);
        Target::Linear { device, base: FileOffset::ZERO, zeroed: true }
    }

    fn split(&self) -> Option<(u64, &[DeviceId])> {
        (self.extents.len() > 1).then_some((SPLIT, &self.extents))
    }

    fn place<'p>(&self, _at: u64, _piece: Piece<'p>, _steps: &mut Vec<Placed<'p>>) -> Result<()> {
        Err(Error::corrupt("the bytes of a flat extent have their places"))
    }

    fn finish(&self) -> Result<()> {
        for device in &self.extents {
            self.machine.submit(&[Step::Barrier { device: *device }])?;
        }
        let device = self.device;
        self.machine.submit(&[
            Step::Write { device, offset: FileOffset::ZERO, data: &self.spec.text() },
            Step::Barrier { device },
        ])
    }
}
