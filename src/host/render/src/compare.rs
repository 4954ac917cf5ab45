//! What `compare` says.

use std::fmt::Write as _;

use instar_abi::record::Value;

/// The outcome, in lines.
#[must_use]
pub fn text(found: &Value) -> String {
    let mut text = String::new();
    let (status, content) = (found.u64("status-at"), found.u64("content-at"));
    let differ = found.flag("sizes-differ");
    if let Some(at) = status {
        let _ = writeln!(text, "Strict mode: Offset {at} block status mismatch!");
        return text;
    }
    if differ && found.flag("strict") {
        return "Strict mode: Image size mismatch!\n".into();
    }
    // Told once what both have is the same.
    if differ && content.is_none_or(|at| at >= found.u64("smaller").unwrap_or(0)) {
        text.push_str("Warning: Image size mismatch!\n");
    }
    match content {
        Some(at) => {
            let _ = writeln!(text, "Content mismatch at offset {at}!");
        }
        None => text.push_str("Images are identical.\n"),
    }
    text
}
