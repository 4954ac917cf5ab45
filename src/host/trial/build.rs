//! Builds the hostile guest as the vmm builds the real one, and tells the crate where it is.

use std::env;
use std::path::PathBuf;

#[path = "../vmm/guest.rs"]
mod guest;

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = here.ancestors().nth(3).expect("the crate lies three folders below the root");
    for folder in [
        "src/abi",
        "src/guest/image",
        "src/guest/entry",
        "src/guest/hostile",
        "src/host/vmm/guest.rs",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(folder).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    // Beside the real guest's, whose dependencies are the same.
    let target = out.ancestors().nth(4).expect("cargo's layout").join("guest").join("v2");
    let elf = guest::built(guest::command(root, "instar-hostile", "v2", &target), &target, "hostile-guest");
    println!("cargo:rustc-env=INSTAR_HOSTILE_GUEST={}", elf.display());
}
