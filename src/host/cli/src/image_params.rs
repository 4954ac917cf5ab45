//! What the guest is told of an image that the user named.

use instar_abi::record::Value;

use crate::given::Given;
use crate::image_name::ImageName;

/// The image's parameter map. What lies below its driver gets devices of its own, numbered far behind the files'.
pub fn image_params(image: &ImageName, device: u64) -> Value {
    const FIRST: u64 = 1 << 16;
    let on = |place: usize| if place == 0 { device } else { place as u64 * FIRST + device };
    let mut below = Vec::new();
    for (place, node) in image.below.iter().enumerate() {
        let mut map = Value::map();
        map.set("id", on(place + 1)).set("device", on(place)).set("shown", image.below_name(place));
        map.set("filename", image.path.as_os_str().as_encoded_bytes());
        map.set("format", node.format.as_str()).set("options", pairs(&node.options));
        below.push(map);
    }
    let mut map = Value::map();
    map.set("device", on(image.below.len()))
        .set("filename", image.path.as_os_str().as_encoded_bytes())
        .set("written", image.written.as_encoded_bytes());
    if let Some(format) = &image.format {
        map.set("format", format.as_str());
    }
    let given: Vec<Value> = image.given.iter().map(Given::params).collect();
    map.set("options", pairs(&image.options)).set("below", below).set("given", given);
    map
}

fn pairs(options: &[(String, String)]) -> Vec<Value> {
    let pair = |(key, value): &(String, String)| {
        let mut pair = Value::map();
        pair.set("key", key.as_str()).set("value", value.as_str());
        pair
    };
    options.iter().map(pair).collect()
}
