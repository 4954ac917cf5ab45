//! Changing an image in place. It asks to be checked meanwhile, as QEMU has it, though a run that is cut leaves clusters that
//! nothing refers to at worst.

use alloc::vec::Vec;

use instar_image::check::Quiet;
use instar_image::levels::LevelWriter;
use instar_image::sealed::Placed;
use instar_image::write::{Piece, Target, Writer};
use instar_image::{
    Backing, Changes, CheckContext, DeviceId, Editor, Error, FileOffset, Kind, Machine, NewSize, Preallocation,
    Rebasing, Resizing, Result, Spot, Step,
};
use spin::Mutex;

use crate::QedImage;
use crate::check;
use crate::header::Header;
use crate::layout::{HEADER_LEN, SECTOR, feature, field, size_max};

/// Where a backing file's name is, as the stock tool has it.
const NAME_AT: FileOffset = FileOffset::new(HEADER_LEN as u64);
/// End of the sector that the header lies in.
const FIRST_END: FileOffset = FileOffset::new(SECTOR);

/// Refuses an image that must not be written to.
fn check_writable(image: &QedImage<'_>, machine: &dyn Machine) -> Result<()> {
    if image.header.features & feature::NEED_CHECK != 0 {
        let report = check::run(&image.header, image.device, &CheckContext { machine, findings: &mut Quiet })?;
        if report.corruptions > 0 {
            return Err(Error::corrupt("the image was not closed, and is damaged"));
        }
    }
    Ok(())
}

/// The header's bytes: they lie in one sector, so that they change at once.
pub struct Head {
    device: DeviceId,
    bytes: [u8; HEADER_LEN],
}

impl Head {
    /// As they are.
    pub fn read(machine: &dyn Machine, device: DeviceId) -> Result<Self> {
        let mut bytes = [0; HEADER_LEN];
        machine.read(device, FileOffset::ZERO, &mut bytes)?;
        let mut head = Self { device, bytes };
        // Whoever does not know these switches them off.
        head.put(field::AUTOCLEAR_FEATURES, &[0; 8]);
        Ok(head)
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }

    fn features(&self) -> u64 {
        let bytes = self.bytes.get(field::FEATURES..).and_then(|b| b.first_chunk::<8>());
        bytes.map_or(0, |b| u64::from_le_bytes(*b))
    }

    /// Sets and clears bits of the features.
    pub fn set_features(&mut self, set: u64, clear: u64) {
        let features = self.features() & !clear | set;
        self.put(field::FEATURES, &features.to_le_bytes());
    }

    /// Writes them, once what is before is stable.
    pub fn write(&self, machine: &dyn Machine) -> Result<()> {
        let device = self.device;
        let write = Step::Write { device, offset: FileOffset::ZERO, data: &self.bytes };
        machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])
    }
}

/// An image that is being changed.
pub struct QedEditor<'a> {
    machine: &'a dyn Machine,
    header: Header,
    /// The clusters.
    pub clusters: LevelWriter<'a>,
    head: Mutex<Head>,
}

impl<'a> QedEditor<'a> {
    /// Reads what has to be known of the image.
    pub fn open(image: &QedImage<'a>, changes: &Changes<'_>) -> Result<Self> {
        let (machine, device, header) = (image.purpose.machine()?, image.device, image.header.clone());
        check_writable(image, machine)?;
        // Of a rebase it is not known yet.
        let levels = header.levels(device, header.backing.is_some() || !changes.content);
        let clusters = LevelWriter::new(machine, levels, header.file_end)?;
        Ok(Self { machine, header, clusters, head: Mutex::new(Head::read(machine, device)?) })
    }

    /// The image asks to be checked, or no longer does.
    fn mark(&self, unclean: bool) -> Result<()> {
        let mut head = self.head.lock();
        let is_set = head.features() & feature::NEED_CHECK != 0;
        if is_set == unclean {
            return Ok(());
        }
        let (set, clear) = if unclean { (feature::NEED_CHECK, 0) } else { (0, feature::NEED_CHECK) };
        head.set_features(set, clear);
        head.write(self.machine)
    }
}

impl Editor for QedEditor<'_> {
    fn own(&self, at: u64, max: u64) -> Result<Option<Spot>> {
        self.mark(true)?;
        self.clusters.own(at, max)
    }

    fn rebasing(&self) -> Option<&dyn Rebasing> {
        Some(self)
    }
}

impl Rebasing for QedEditor<'_> {
    fn set_backing(&self, backing: Option<&Backing>) -> Result<()> {
        self.finish()?;
        let mut head = self.head.lock();
        head.set_features(0, feature::BACKING | feature::BACKING_RAW);
        let (offset, len) = match backing {
            // As QEMU leaves it.
            None => (NAME_AT, 0),
            Some(backing) => {
                let raw = if backing.format.as_deref() == Some("raw") { feature::BACKING_RAW } else { 0 };
                head.set_features(feature::BACKING | raw, 0);
                (self.place_name(&backing.name)?, backing.name.len() as u64)
            }
        };
        head.put(field::BACKING_OFFSET, &(offset.get() as u32).to_le_bytes());
        head.put(field::BACKING_LEN, &(len as u32).to_le_bytes());
        let device = head.device;
        let mut bytes = head.bytes.to_vec();
        if let Some(backing) = backing.filter(|_| offset == NAME_AT) {
            bytes.extend_from_slice(&backing.name);
        }
        let write = Step::Write { device, offset: FileOffset::ZERO, data: &bytes };
        self.machine.submit(&[Step::Barrier { device }, write, Step::Barrier { device }])
    }
}

impl QedEditor<'_> {
    /// Where in the header's clusters the name is to be, as the stock tool has it right behind the header if that is written
    /// at once with it. Else it is put where the old name is not, before the header tells of it.
    fn place_name(&self, name: &[u8]) -> Result<FileOffset> {
        let (len, room) = (name.len() as u64, FileOffset::new(self.header.header * self.header.cluster));
        let first = NAME_AT;
        if first + len > room {
            return Err(Error::new(Kind::Limit, "No space left on device"));
        }
        let device = self.clusters.levels().device;
        let old = self.header.backing_at;
        if first + len <= FIRST_END || old.1 == 0 {
            if first + len > FIRST_END {
                self.machine.submit(&[Step::Write { device, offset: first, data: name }, Step::Barrier { device }])?;
            }
            return Ok(first);
        }
        let places = [FIRST_END, (old.0 + old.1).next_multiple_of(SECTOR), room - len];
        let free = |at: &FileOffset| *at + len <= room && (*at >= old.0 + old.1 || *at + len <= old.0);
        let at = places.into_iter().find(free).ok_or_else(|| Error::new(Kind::Limit, "No space left on device"))?;
        self.machine.submit(&[Step::Write { device, offset: at, data: name }, Step::Barrier { device }])?;
        Ok(at)
    }
}

impl Writer for QedEditor<'_> {
    fn target(&self) -> Target {
        let unit = self.header.cluster;
        Target::Allocated { unit, zero_unit: unit, zeroed: false }
    }

    fn place<'p>(&self, at: u64, piece: Piece<'p>, steps: &mut Vec<Placed<'p>>) -> Result<()> {
        self.mark(true)?;
        self.clusters.place(at, piece, steps)
    }

    fn is_full(&self) -> bool {
        self.clusters.is_full()
    }

    fn settle(&self) -> Result<()> {
        self.clusters.settle()
    }

    fn finish(&self) -> Result<()> {
        self.settle()?;
        self.mark(false)
    }
}

impl Resizing for QedImage<'_> {
    fn resize(&self, to: &NewSize) -> Result<()> {
        let (machine, header) = (self.purpose.machine()?, &self.header);
        check_writable(self, machine)?;
        if to.size > header.size && to.backing_len.is_some_and(|len| len > header.size) {
            return Err(Error::unsupported("Block driver does not support requested flags"));
        }
        if to.preallocation != Preallocation::Off {
            let mode = to.preallocation.name();
            return Err(Error::unsupported(alloc::format!("Unsupported preallocation mode '{mode}'")));
        }
        if !to.size.is_multiple_of(SECTOR) || to.size > size_max(header.cluster, header.table) {
            return Err(Error::usage("Invalid image size specified"));
        }
        if let Some(error) = self.keeps_size(to.size) {
            return Err(error);
        }
        let mut head = Head::read(machine, self.device)?;
        head.put(field::IMAGE_SIZE, &to.size.to_le_bytes());
        head.set_features(0, feature::NEED_CHECK);
        head.write(machine)
    }

    fn keeps_size(&self, to: u64) -> Option<Error> {
        (to < self.header.size).then(|| Error::unsupported("Shrinking images is currently not supported"))
    }
}
