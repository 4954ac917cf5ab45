//! Builds the guest ELF, once for x86-64-v2 and once for v3, and tells the crate where they are.

use std::env;
use std::path::{Path, PathBuf};

mod guest;

/// Set while one works on the guest: one program for all processors, less optimised, made in a fraction of the time.
const QUICK: &str = "INSTAR_QUICK_GUEST";

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let (packed, unpacked) = (here.join("guest"), out.join("guest"));
    let root = if packed.is_dir() {
        println!("cargo:rerun-if-changed=guest");
        guest::unpack(&packed, &unpacked).expect("the guest's sources are unpacked");
        &unpacked
    } else {
        let root = here.ancestors().nth(3).expect("the crate lies three folders below the root");
        for folder in ["src/abi", "src/guest", "Cargo.toml", "Cargo.lock"] {
            println!("cargo:rerun-if-changed={}", root.join(folder).display());
        }
        root
    };
    // target/<profile>/build/<crate>/out: one guest build serves every profile.
    let target = &out.ancestors().nth(4).expect("cargo's layout").join("guest");
    println!("cargo:rerun-if-env-changed={QUICK}");
    println!("cargo:rerun-if-changed=guest.rs");
    let quick = env::var_os(QUICK).is_some();
    let programs: &[(&str, &str)] = if quick { &[("quick", "v2")] } else { &[("v2", "v2"), ("v3", "v3")] };
    // Each is linked by one thread: side by side they take half of the time.
    let elves: Vec<PathBuf> = std::thread::scope(|scope| {
        let start = |(folder, level)| scope.spawn(move || build(root, &target.join(folder), level, quick));
        let started: Vec<_> = programs.iter().copied().map(start).collect();
        started.into_iter().map(|built| built.join().expect("it was built")).collect()
    });
    for (level, elf) in ["V2", "V3"].into_iter().zip(elves.iter().cycle()) {
        println!("cargo:rustc-env=INSTAR_GUEST_{level}={}", elf.display());
    }
}

fn build(root: &Path, target: &Path, level: &str, quick: bool) -> PathBuf {
    let mut command = guest::command(root, "instar-entry", level, target);
    if quick {
        for (key, value) in [("LTO", "thin"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1"), ("INCREMENTAL", "true")] {
            command.env(format!("CARGO_PROFILE_GUEST_{key}"), value);
        }
    }
    guest::built(command, target, "instar-guest")
}
