//! The files of a command line: opened, made, and refused.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use instar_render::escape;
use instar_vmm::target::{self, Cache, Target, Written};
use instar_vmm::{Device, Mode, Parts, locks};

use crate::image_name::ImageName;
use crate::program::{Exit, Program, plain};

/// Formats whose images can be several files. Only with these a guest may ask for any.
const OF_SEVERAL_FILES: [&str; 1] = ["vmdk"];

const READ_ONLY: &str = "The device is not writable: Permission denied";
/// What a file holds is the disk's bytes, and no more.
const OF_BYTES: [&str; 5] = ["raw", "luks", "file", "host_device", "host_cdrom"];
/// Drivers of devices, which make none.
const OF_DEVICES: [&str; 2] = ["host_device", "host_cdrom"];

impl Program {
    /// Opens an image to be read.
    pub fn open_source(&self, image: &ImageName, cache: Cache, share: bool) -> Result<Device, Exit> {
        self.try_open(image, cache, share).map_err(|text| {
            let written = escape::terminal(image.written.as_encoded_bytes());
            self.fail(&format!("Could not open '{written}': {text}"))
        })
    }

    /// The same; an error is a text, without the name that the user wrote.
    pub fn try_open(&self, image: &ImageName, cache: Cache, share: bool) -> Result<Device, String> {
        self.warn_of_empty_backing(image);
        let shown = escape::terminal(image.path.as_os_str().as_encoded_bytes());
        if let (Some(text), false) = (&image.wrong, self.command == "info") {
            return Err(text.clone());
        }
        let (cache, share) = (image.ways.cache(cache)?, share || image.ways.share());
        if image.ways.force_share {
            self.force_share.set(true);
        }
        let file = target::open(&image.path, cache).map_err(|e| format!("Could not open '{shown}': {}", plain(&e)))?;
        if !is_data(&file) {
            return Err(self.version.folder(&shown));
        }
        // Into a copy goes one state of an image, of whatever format.
        let bears_writers = self.command != "convert" && image.format.as_deref().is_some_and(|f| OF_BYTES.contains(&f));
        let contended = match (share, bears_writers) {
            (true, _) => Ok(false),
            (false, true) => locks::lock_to_share(&file).map(|()| false),
            (false, false) => locks::lock_beside_writers(&file),
        };
        let contended =
            contended.map_err(|locked| format!("{locked}\nIs another process using the image [{shown}]?"))?;
        let opened = Device { contended, ..device(file, &image.path, Mode::Read) };
        match self.wrong_driver(image.protocol.as_deref(), &opened, &image.path) {
            Some(text) => Err(text),
            None => Ok(opened),
        }
    }

    /// What is said of a file that is not of the kind that the driver is for.
    pub fn wrong_driver(&self, driver: Option<&str>, device: &Device, path: &Path) -> Option<String> {
        let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
        let driver = driver.filter(|name| OF_DEVICES.contains(name) && !device.is_block())?;
        Some(not_a_device(driver, &shown))
    }

    /// How a file that is written may grow.
    pub fn may_write(&self) -> Result<Mode, Exit> {
        let growth = self.config.size("limits.output-growth").map_err(|e| self.fail(&e))?;
        // No file of Linux can be longer.
        Ok(Mode::Write { growth_limit_bytes: growth.unwrap_or(i64::MAX as u64) })
    }

    /// Makes the file that will be `path`, to be published when it is complete. `need`: bytes that will be written, as far as
    /// they are known. An inner error is a text.
    pub fn new_file(&self, path: &Path, cache: Cache, need: u64) -> Result<Result<(Target, Device), String>, Exit> {
        let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
        let mode = self.may_write()?;
        Ok(match Target::create(path, cache, need) {
            Ok((target, Written { file, fresh, old })) => {
                if let (true, Err(error)) = (fresh, cache.hints.apply(&file)) {
                    self.say(&format!("warning: Failed to set extent size hint: {}", plain(&error)));
                }
                Ok((target, Device { fresh, old, ignore_flush: cache.ignore_flush, ..device(file, path, mode) }))
            }
            Err(target::Error::Io(e)) => Err(format!("Could not create '{shown}': {}", plain(&e))),
            Err(target::Error::Locked(text)) => Err(format!("{text}\nIs another process using the image [{shown}]?")),
            Err(target::Error::WrongType) => Err(self.version.folder(&shown)),
            Err(target::Error::ReadOnlyDevice) => Err(format!(
                "Protocol driver 'host_device' does not support creating new images, so an existing image must be selected \
                 as the target; however, opening the given target as an existing image failed: {READ_ONLY}"
            )),
        })
    }

    /// The same for an image of that format, which may want further files.
    pub fn new_image(
        &self,
        path: &Path,
        cache: Cache,
        format: &str,
        need: u64,
    ) -> Result<Result<(Target, Device), String>, Exit> {
        if OF_DEVICES.contains(&format) && !path.metadata().is_ok_and(|meta| meta.file_type().is_block_device()) {
            return Ok(Err(no_device(path, format)));
        }
        let mut made = self.new_file(path, cache, need)?;
        if let (Ok((target, device)), true) = (&mut made, OF_SEVERAL_FILES.contains(&format)) {
            device.maker = target.maker();
        }
        Ok(made)
    }

    /// Opens an image to be changed in place, with the parts that its format has.
    pub fn open_in_place(&self, image: &ImageName, cache: Cache) -> Result<Device, Exit> {
        self.check_writable(image)?;
        self.warn_of_empty_backing(image);
        let written = escape::terminal(image.written.as_encoded_bytes());
        let opened = match image.ways.cache(cache) {
            Ok(cache) => self.existing_file(&image.path, cache)?,
            Err(text) => Err(text),
        };
        let mut device = opened.map_err(|text| self.fail(&format!("Could not open '{written}': {text}")))?;
        device.parts = parts_of(image, image.format.as_deref());
        Ok(device)
    }

    /// Refuses to change an image that is said not to be changed, or of which something wrong is said.
    pub fn check_writable(&self, image: &ImageName) -> Result<(), Exit> {
        let Some(text) = image.ways.not_written().or(image.wrong.as_deref()) else { return Ok(()) };
        let written = escape::terminal(image.written.as_encoded_bytes());
        Err(self.fail(&format!("Could not open '{written}': {text}")))
    }

    fn warn_of_empty_backing(&self, image: &ImageName) {
        if image.empty_backing {
            self.say("warning: Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
        }
    }

    /// Opens a file to be changed in place, alone. An inner error is a text.
    pub fn existing_file(&self, path: &Path, cache: Cache) -> Result<Result<Device, String>, Exit> {
        let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
        let mode = self.may_write()?;
        Ok(match Target::existing(path, cache) {
            Ok(file) => Ok(Device { ignore_flush: cache.ignore_flush, ..device(file, path, mode) }),
            Err(target::Error::Io(e)) => Err(format!("Could not open '{shown}': {}", plain(&e))),
            Err(target::Error::Locked(text)) => Err(format!("{text}\nIs another process using the image [{shown}]?")),
            Err(target::Error::WrongType) => Err(self.version.folder(&shown)),
            Err(target::Error::ReadOnlyDevice) => Err(READ_ONLY.to_string()),
        })
    }
}

/// The parts that an image which is changed may have, and those that it lies in. `format`: its own.
pub fn parts_of(image: &ImageName, format: Option<&str>) -> Parts {
    let below = image.below.iter().map(|below| Parts::of_format(Some(&below.format)));
    below.fold(Parts::of_format(format), Parts::and)
}

/// A device for a file opened by the name `path`.
pub fn device(file: File, path: &Path, mode: Mode) -> Device {
    let direct = target::is_direct(&file);
    Device { direct, ..Device::new(file, target::absolute(path), mode) }
}

/// Bytes that the devices' files take on disk.
pub fn allocated(devices: &[Device]) -> u64 {
    use std::os::unix::fs::MetadataExt;
    const SECTOR: u64 = 512;
    devices.iter().filter_map(|device| device.file.metadata().ok()).map(|meta| meta.blocks() * SECTOR).sum()
}

/// Why there can be no target of a driver of devices.
fn no_device(path: &Path, format: &str) -> String {
    let shown = escape::terminal(path.as_os_str().as_encoded_bytes());
    let why = match path.metadata() {
        Ok(_) => not_a_device(format, &shown),
        Err(error) => format!("Could not open '{shown}': {}", plain(&error)),
    };
    format!(
        "Protocol driver '{format}' does not support creating new images, so an existing image must be selected as the \
         target; however, opening the given target as an existing image failed: {why}"
    )
}

fn not_a_device(driver: &str, shown: &str) -> String {
    format!("'{driver}' driver requires '{shown}' to be either a character or block device")
}

/// A regular file or a block device.
fn is_data(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() || meta.file_type().is_block_device())
}
