//! What `check` found, for people.

use instar_abi::ops::check::{CheckReport, Repaired};

/// The summary, from QEMU's `ImageCheck`.
#[must_use]
pub fn check(check: &CheckReport) -> String {
    let mut text = String::new();
    let found = [
        (
            check.corruptions,
            "errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
        ),
        (check.leaks, "leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data."),
        (check.check_errors, "internal errors have occurred during the check."),
    ];
    if found.iter().all(|(count, _)| *count == 0) {
        text += "No errors were found on the image.\n";
    }
    for (count, what) in found.iter().filter(|(count, _)| *count > 0) {
        text += &format!("\n{count} {what}\n");
    }
    let (total, allocated) = (check.total_clusters, check.allocated_clusters);
    if total != 0 && allocated != 0 {
        let percent = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
        text += &format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            percent(allocated, total),
            percent(check.fragmented_clusters, allocated),
            percent(check.compressed_clusters, allocated),
        );
    }
    if let Some(end) = check.image_end_offset.filter(|end| *end > 0) {
        text += &format!("Image end offset: {end}\n");
    }
    text
}

/// What comes before the summary of an image of which something was repaired.
#[must_use]
pub fn repaired(repaired: &Repaired) -> String {
    let Repaired { corruptions, leaks } = repaired;
    format!(
        "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    {corruptions} \
         corruptions\n\nDouble checking the fixed image now...\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `qemu-img check` (10.0.2) of an empty image, and of one with three clusters out of order.
    #[test]
    fn sound_images() {
        let report = CheckReport { total_clusters: 16, image_end_offset: Some(262_144), ..CheckReport::default() };
        assert_eq!(check(&report), "No errors were found on the image.\nImage end offset: 262144\n");
        let report = CheckReport { allocated_clusters: 3, fragmented_clusters: 2, ..report };
        let line = "3/16 = 18.75% allocated, 66.67% fragmented, 0.00% compressed clusters";
        assert!(check(&report).contains(line));
    }
}
