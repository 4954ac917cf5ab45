//! Our own reading and our own check of images in memory: for those that the stock tool does not know, and for many of them.

use instar_image::{DeviceId, Value};
use instar_sim::{Disk, Machine};

use crate::{Checked, Image, Scenario};

impl Scenario {
    /// A machine with the images, which device the image is on, and the parameters of an operation.
    fn own_run(&self, op: &str, disks: &[Disk], image: &Image) -> (Machine, DeviceId, Value) {
        let (machine, devices) = self.machine(disks);
        let index = self.images.iter().position(|i| i.name == image.name).expect("it is one of them");
        let mut params = Value::map();
        params.set("op", op).set("version-major", 10u64).set("version-minor", 0u64);
        (machine, devices[index], params)
    }

    /// What an image shows.
    pub(crate) fn own_content(&self, disks: &[Disk], image: &Image) -> Result<Vec<u8>, String> {
        let mut content = self.own_converted(disks, image, None)?;
        if self.snapshots {
            for name in self.own_snapshots(disks, image)? {
                let shown = self.own_converted(disks, image, Some(&name))?;
                content.extend([name.as_bytes(), &shown].concat());
            }
        }
        Ok(content)
    }

    /// The names of its internal snapshots.
    fn own_snapshots(&self, disks: &[Disk], image: &Image) -> Result<Vec<String>, String> {
        let (machine, device, mut params) = self.own_run("snapshot", disks, image);
        params.set("image", self.described(image, device)).set("action", "list");
        params.set("date-sec", 0u64).set("date-nsec", 0u64);
        let status = instar_ops::run(&machine, &params);
        let emitted = machine.emitted();
        if status != 0 {
            return Err(format!("{emitted:?}"));
        }
        let list = emitted.iter().find_map(|(key, list)| match list {
            Value::List(list) if key == "snapshots" => Some(list.as_slice()),
            _ => None,
        });
        let name = |snapshot: &Value| snapshot.bytes("name").map(|name| String::from_utf8_lossy(name).into_owned());
        Ok(list.unwrap_or_default().iter().filter_map(name).collect())
    }

    fn own_converted(&self, disks: &[Disk], image: &Image, snapshot: Option<&str>) -> Result<Vec<u8>, String> {
        let (machine, device, mut params) = self.own_run("convert", disks, image);
        let out = machine.add_writable(Vec::new());
        let mut target = Value::map();
        target.set("device", u64::from(out.0)).set("filename", "out").set("format", "raw").set("zeroed", true);
        params.set("target", target).set("sources", vec![self.described(image, device)]).set("sparse", 4096u64);
        if self.worst.is_some() {
            // What cannot be read of a damaged image shows as zeroes, and all else as what it is.
            params.set("salvage", true);
        }
        if let Some(name) = snapshot {
            params.set("snapshot", format!("snapshot.name={name}"));
        }
        match instar_ops::run(&machine, &params) {
            0 => {
                let mut content = machine.disk(out).to_bytes();
                content.extend(self.bitmaps_of(&machine.disk(device).to_bytes(), image)?);
                Ok(content)
            }
            _ => Err(format!("{:?}", machine.emitted())),
        }
    }

    /// Exit status, output and errors of a check.
    pub(crate) fn own_check(&self, disks: &[Disk], image: &Image) -> Checked {
        let (machine, device, mut params) = self.own_run("check", disks, image);
        params.set("image", self.described(image, device));
        let status = instar_ops::run(&machine, &params);
        let emitted = machine.emitted();
        let corruptions =
            emitted.iter().find(|(key, _)| key == "check").and_then(|(_, check)| check.u64("corruptions"));
        let counted = format!("{} errors were found on the image.", corruptions.unwrap_or(0));
        (Some(status.into()), format!("{}\n{counted}", machine.said()), format!("{emitted:?}"))
    }
}
