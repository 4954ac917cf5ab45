//! A call of the guest as the host has it: which images there are, the files that they are in, and what may be done with
//! further ones. What the guest is told is made from it; nothing of it is read back from there.

use std::path::PathBuf;
use std::vec::IntoIter;

use instar_abi::ops::ImageParams;
use instar_vmm::Device;

use crate::given;
use crate::image_name::ImageName;
use crate::program::{Exit, Program};

/// The images and files of one run of the guest.
#[derive(Default)]
pub struct Call {
    /// By index; each says itself whether it, and what parts of it, may be written.
    pub devices: Vec<Device>,
    /// `-U`: further files are read whoever writes them.
    pub force_share: bool,
    /// What `commit -b` says.
    pub base: Option<PathBuf>,
    /// The images that the user named, each on the device of that index.
    pub images: Vec<(ImageName, usize)>,
}

impl Call {
    /// On these devices, without an image.
    pub fn on(devices: Vec<Device>, force_share: bool) -> Self {
        Self { devices, force_share, ..Self::default() }
    }

    /// On one image.
    pub fn of(image: &ImageName, device: Device, force_share: bool) -> Self {
        Self { images: vec![(image.clone(), 0)], ..Self::on(vec![device], force_share) }
    }

    /// Adds an image that is on the device of that index.
    pub fn image(&mut self, image: &ImageName, device: usize) {
        self.images.push((image.clone(), device));
    }

    /// What the guest is told of the images, once the files are open that the user named for them besides.
    pub fn described(&mut self, program: &Program) -> Result<Described, Exit> {
        given::open(program, self).map(|images| Described(images.into_iter()))
    }
}

/// What the guest is told of the images of a call, in the order in which they were added.
pub struct Described(IntoIter<ImageParams>);

impl Described {
    /// The next one.
    pub fn image(&mut self) -> ImageParams {
        self.0.next().unwrap_or_default()
    }

    /// So many more.
    pub fn images(&mut self, count: usize) -> Vec<ImageParams> {
        self.0.by_ref().take(count).collect()
    }
}
