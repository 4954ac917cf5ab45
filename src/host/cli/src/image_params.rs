//! What the guest is told of an image that the user named.

use instar_abi::ops::{BelowParams, ImageParams, Pair};

use crate::image_name::ImageName;

/// The image on the device of that index, without further files that the user named. What lies below its driver gets devices
/// of its own, numbered far behind the files'.
pub fn image_params(image: &ImageName, device: usize) -> ImageParams {
    const FIRST: usize = 1 << 16;
    let on = |place: usize| number(if place == 0 { device } else { place * FIRST + device });
    let filename = image.path.as_os_str().as_encoded_bytes();
    let below = image.below.iter().enumerate().map(|(place, node)| BelowParams {
        id: on(place + 1),
        device: on(place),
        shown: image.below_name(place),
        filename: filename.to_vec(),
        format: node.format.clone(),
        options: pairs(&node.options),
        given: Vec::new(),
    });
    ImageParams {
        device: on(image.below.len()),
        filename: filename.to_vec(),
        written: Some(image.written.as_encoded_bytes().to_vec()),
        format: image.format.clone(),
        options: pairs(&image.options),
        below: below.collect(),
        given: Vec::new(),
    }
}

/// A device's index as the guest knows it.
pub fn number(device: usize) -> u32 {
    u32::try_from(device).unwrap_or(u32::MAX)
}

fn pairs(options: &[(String, String)]) -> Vec<Pair> {
    options.iter().map(|(key, value)| Pair { key: key.clone(), value: value.clone() }).collect()
}
