//! What each fuzz target does with some bytes: one function for all formats. The targets of cargo-fuzz call it; so does
//! the binary of this crate, under any toolchain.
#![forbid(unsafe_code)]

pub mod change;
pub mod input;
mod luks2;

use cap::Cap;
use instar_image::check::Quiet;
use instar_image::{
    CheckContext, DeviceId, Extent, FileOffset, Format, Image, OpenContext, Place, Purpose, Repairs, Source, Value,
    Version,
};
use instar_sim::{Disk, Machine};
use rustix::time::{ClockId, clock_gettime};

/// Most bytes that one input may take of the heap: what a guest has by default.
const HEAP_MAX: usize = 64 << 20;
/// Most processor time of one input, in milliseconds.
const CPU_MAX: i64 = 2000;
/// Most extents that are looked at of one image.
const EXTENTS: usize = 200;
/// No more units are read and decompressed after so many bytes of one image; most bytes of one.
const READ_MAX: u64 = 1 << 20;
const UNIT_MAX: u64 = 2 << 20;
/// Bytes of plain data that are read of one extent.
const PLAIN: u64 = 64 << 10;
/// The name of the image, and of another file beside it that is no image.
const NAME: &str = "disk.img";
const OTHER: &str = "other.img";

/// All of the heap, counted.
#[global_allocator]
static HEAP: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// One run of a fuzz target: `data` as [`input`] lays an image out.
///
/// # Panics
/// On whatever is a finding: a panic inside, too much processor time. Too much memory aborts.
pub fn target(format: &str, data: &[u8]) {
    let format = instar_registry::by_name(format).expect("a target has the name of a format");
    if let Some(mut disk) = input::image(data) {
        luks2::mend(&mut disk);
        let key = (cheap_key(&disk) || luks2::is_cheap(&disk)).then(|| ("key-secret".to_string(), "sec0".to_string()));
        read_image(format, disk, key.as_slice());
    }
}

/// Whether it is a LUKS header (version 1, section 2) whose keys cost little to try: what a key may cost at most is a
/// matter of the format's own limits, not of fuzzing.
fn cheap_key(disk: &Disk) -> bool {
    const ROUNDS_MAX: u32 = 10_000;
    let mut head = [0; 592];
    disk.read(FileOffset::ZERO, &mut head);
    let rounds = |at: usize| head.get(at..at + 4).map_or(0, |b| b.iter().fold(0, |n, b| n << 8 | u32::from(*b)));
    head.starts_with(b"LUKS\xba\xbe\0\x01")
        && rounds(164) <= ROUNDS_MAX
        && (0..8).all(|slot| rounds(212 + 48 * slot) <= ROUNDS_MAX)
}

fn cpu_milliseconds() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Opens it as an image of that format, tells of it, looks at its first extents, reads and decompresses them, and checks
/// it. What is wrong with an image is an error, never a panic; an extent is never empty and never begins elsewhere.
///
/// # Panics
/// On whatever is a finding: a panic inside, too much processor time. Too much memory aborts.
pub fn read_image(format: &'static dyn Format, disk: Disk, options: &[(String, String)]) {
    let begun = cpu_milliseconds();
    let machine = Machine::new().with_workers(1).with_secret("sec0", "password");
    let copy = machine.add_writable_disk(disk.clone());
    let device = machine.add_disk(disk);
    machine.name(NAME, device);
    machine.name(OTHER, machine.add([0x5a; 8192]));
    let _ = HEAP.set_limit(HEAP.allocated() + HEAP_MAX);
    look(format, &machine, device, options);
    repair(format, &machine, copy, options);
    let _ = HEAP.set_limit(usize::MAX);
    let used = cpu_milliseconds() - begun;
    assert!(used <= CPU_MAX, "{used} ms of processor time");
}

/// What the image is opened with.
fn context<'a, 'n>(
    machine: &'a Machine,
    device: DeviceId,
    purpose: Purpose<'a>,
    options: &'n [(String, String)],
) -> OpenContext<'a, 'n> {
    let (name, version) = (NAME.as_bytes(), Version::default());
    OpenContext { opener: Some(machine), options, ..OpenContext::alone(machine, device, name, version, purpose) }
}

/// Whatever is refused, nothing panics, and nothing goes on for ever.
fn repair(format: &'static dyn Format, machine: &Machine, device: DeviceId, options: &[(String, String)]) {
    let cx = context(machine, device, Purpose::Repair(machine), options);
    if let Ok(mut image) = format.open(cx) {
        let _ = image.repair(Repairs::All, CheckContext { machine, findings: &mut Quiet });
    }
}

fn look(format: &'static dyn Format, machine: &Machine, device: DeviceId, options: &[(String, String)]) {
    let cx = context(machine, device, Purpose::Read, options);
    if let Ok(image) = format.open(cx) {
        walk(machine, image.as_ref());
    }
    if let Ok(image) = format.open(OpenContext { purpose: Purpose::Check, ..cx }) {
        let _ = image.check(CheckContext { machine, findings: &mut Quiet });
    }
    let mut image = Value::map();
    image.set("device", u64::from(device.0)).set("filename", NAME).set("format", format.name());
    let mut params = Value::map();
    params.set("op", "info").set("image", image);
    let _ = instar_ops::run(machine, &params);
}

fn walk(machine: &Machine, image: &dyn Image) {
    let _ = (image.describe(), image.backing(), image.warnings(), image.is_preallocated(), image.data_files());
    let (mut at, mut left, mut decoder) = (0, READ_MAX, image.decoder());
    for _ in 0..EXTENTS {
        if at >= image.virtual_size() {
            break;
        }
        let Ok(extent) = image.extent(at, u64::MAX) else { break };
        assert!(extent.at == at && extent.len > 0, "an extent that is none: {extent:?}");
        assert!(extent.len <= image.virtual_size() - at, "an extent past the end: {extent:?}");
        left = left.saturating_sub(read(machine, extent, decoder.as_deref_mut(), left));
        let _ = image.reserved(at);
        at = extent.end();
    }
    // The last bytes are where sums overflow.
    if let Some(last) = image.virtual_size().checked_sub(1) {
        let _ = image.extent(last, 1).map(|extent| read(machine, extent, decoder.as_deref_mut(), left));
    }
}

/// Reads an extent; returns how many bytes that were.
fn read(machine: &Machine, extent: Extent, decoder: Option<&mut (dyn instar_image::Decoder + '_)>, left: u64) -> u64 {
    match (extent.place, decoder) {
        (Place::Compressed(compressed), Some(decoder)) => {
            assert!(compressed.skip + extent.len <= compressed.unit, "more than the unit: {extent:?}");
            if left == 0 || compressed.unit > UNIT_MAX || compressed.len > UNIT_MAX {
                return 0;
            }
            let (mut stored, mut out) = (vec![0; compressed.len as usize], vec![0; compressed.unit as usize]);
            if machine.read(compressed.device, compressed.offset, &mut stored).is_ok() {
                let _ = decoder.decompress(&compressed, &stored, &mut out);
            }
            compressed.unit + compressed.len
        }
        (Place::Encrypted { device, offset }, Some(decoder)) => {
            let mut out = vec![0; extent.len.min(PLAIN).min(left) as usize & !511];
            if machine.read(device, offset, &mut out).is_ok() {
                let _ = decoder.decrypt(extent.at, offset, &mut out);
            }
            out.len() as u64
        }
        (Place::Data { device, offset }, _) => {
            let mut out = vec![0; extent.len.min(PLAIN).min(left) as usize];
            let _ = machine.read(device, offset, &mut out);
            out.len() as u64
        }
        _ => 0,
    }
}
