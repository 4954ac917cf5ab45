//! What each fuzz target does with some bytes: one function for all formats, so that any engine can call it. The
//! binary of this crate calls it under the stable toolchain, with bytes changed at random.
#![forbid(unsafe_code)]

use instar_image::check::Quiet;
use instar_image::{CheckContext, DeviceId, Format, Image, OpenContext, Place, Source, Version};
use instar_sim::Machine;

/// Most extents that are looked at of one image.
const EXTENTS: usize = 300;
/// Most bytes of a unit that is decompressed.
const UNIT: u64 = 4 << 20;

/// Opens `data` as an image of that format, looks at its first extents, decompresses them, and checks it. What is
/// wrong with an image is an error, never a panic; an extent is never empty and never begins elsewhere.
pub fn read_image(format: &dyn Format, data: &[u8]) {
    let machine = Machine::new().with_workers(1);
    let device = machine.add(data);
    let version = Version::default();
    let cx =
        OpenContext { source: &machine, opener: None, device, name: b"disk.img", version, write: false, options: &[] };
    if let Ok(image) = format.open(cx) {
        walk(&machine, image.as_ref());
    }
    if let Ok(image) = format.open_to_check(cx) {
        let _ = image.check(CheckContext { machine: &machine, findings: &mut Quiet });
    }
}

fn walk(machine: &Machine, image: &dyn Image) {
    let _ = (image.describe(), image.backing(), image.warnings());
    let (mut at, mut unpacker) = (0, image.unpacker());
    for _ in 0..EXTENTS {
        if at >= image.virtual_size() {
            return;
        }
        let Ok(extent) = image.extent(at, u64::MAX) else { return };
        assert!(extent.at == at && extent.len > 0, "an extent that is none: {extent:?}");
        assert!(extent.len <= image.virtual_size() - at, "an extent past the end: {extent:?}");
        if let (Place::Packed(packed), Some(unpacker)) = (extent.place, unpacker.as_mut())
            && packed.unit <= UNIT
            && packed.len <= UNIT
        {
            assert!(packed.skip + extent.len <= packed.unit, "more than the unit: {extent:?}");
            let (mut stored, mut out) = (vec![0; packed.len as usize], vec![0; packed.unit as usize]);
            if machine.read(DeviceId(packed.device.0), packed.offset, &mut stored).is_ok() {
                let _ = unpacker.unpack(&packed, &stored, &mut out);
            }
        }
        at = extent.end();
    }
}
