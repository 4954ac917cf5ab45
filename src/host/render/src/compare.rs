//! What `compare` says.

use std::fmt::Write as _;

use instar_abi::ops::compare::Found;

/// The outcome, in lines.
#[must_use]
pub fn text(found: &Found) -> String {
    let mut text = String::new();
    if let Some(at) = found.status_at {
        let _ = writeln!(text, "Strict mode: Offset {at} block status mismatch!");
        return text;
    }
    if found.sizes_differ && found.strict {
        return "Strict mode: Image size mismatch!\n".into();
    }
    // Told once what both have is the same.
    if found.sizes_differ && found.content_at.is_none_or(|at| at >= found.smaller) {
        text.push_str("Warning: Image size mismatch!\n");
    }
    match found.content_at {
        Some(at) => {
            let _ = writeln!(text, "Content mismatch at offset {at}!");
        }
        None => text.push_str("Images are identical.\n"),
    }
    text
}
