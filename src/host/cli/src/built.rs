//! How the program was built: what a report of a fault should say.

use instar_vmm::build::{GUESTS, QUICK};

use crate::layout::entry;

/// The commit, by `scripts/build`, which has git.
const COMMIT: Option<&str> = option_env!("INSTAR_COMMIT");

/// What it was built with.
fn features() -> String {
    let all = [
        (true, "kvm"),
        (true, "process"),
        (cfg!(target_feature = "crt-static"), "static"),
        (QUICK, "quick-guest"),
        (cfg!(debug_assertions), "debug"),
    ];
    all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// A line each.
pub fn text() -> String {
    let commit = COMMIT.filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let mut rows = vec![
        ("commit:".to_string(), commit.to_string()),
        ("toolchain:".to_string(), env!("INSTAR_TOOLCHAIN").to_string()),
        ("target:".to_string(), env!("INSTAR_TARGET").to_string()),
        ("features:".to_string(), features()),
    ];
    rows.extend(GUESTS.iter().map(|(level, hash)| (format!("guest {level}:"), format!("sha256:{hash}"))));
    rows.iter().map(|(head, what)| entry(head, what, 18, usize::MAX)).collect()
}
