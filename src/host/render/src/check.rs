//! What `check` found, for people.

use instar_abi::record::Value;

/// The summary, from QEMU's `ImageCheck`.
#[must_use]
pub fn check(check: &Value) -> String {
    let count = |key| check.u64(key).unwrap_or(0);
    let mut text = String::new();
    let found = [
        (
            "corruptions",
            "errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
        ),
        ("leaks", "leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data."),
        ("check-errors", "internal errors have occurred during the check."),
    ];
    if found.iter().all(|(key, _)| count(key) == 0) {
        text += "No errors were found on the image.\n";
    }
    for (key, what) in found {
        if count(key) > 0 {
            text += &format!("\n{} {what}\n", count(key));
        }
    }
    let (total, allocated) = (count("total-clusters"), count("allocated-clusters"));
    if total != 0 && allocated != 0 {
        let percent = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
        text += &format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            percent(allocated, total),
            percent(count("fragmented-clusters"), allocated),
            percent(count("compressed-clusters"), allocated),
        );
    }
    if count("image-end-offset") > 0 {
        text += &format!("Image end offset: {}\n", count("image-end-offset"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `qemu-img check` (10.0.2) of an empty image, and of one with three clusters out of order.
    #[test]
    fn sound_images() {
        let mut record = Value::map();
        record.set("check-errors", 0u64).set("total-clusters", 16u64).set("image-end-offset", 262_144u64);
        assert_eq!(check(&record), "No errors were found on the image.\nImage end offset: 262144\n");
        record.set("allocated-clusters", 3u64).set("fragmented-clusters", 2u64);
        let line = "3/16 = 18.75% allocated, 66.67% fragmented, 0.00% compressed clusters";
        assert!(check(&record).contains(line));
    }
}
