//! Builds the hostile guest as the vmm builds the real one, and tells the crate where it is.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = here.ancestors().nth(3).expect("the crate lies three folders below the root");
    for folder in ["src/abi", "src/guest/image", "src/guest/entry", "src/guest/hostile", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(folder).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    // Beside the real guest's, whose dependencies are the same.
    let target = out.ancestors().nth(4).expect("cargo's layout").join("guest").join("v2");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .current_dir(root)
        .args(["build", "--locked", "-p", "instar-hostile", "--features", "elf", "--profile", "guest"])
        .args(["--target", TRIPLE, "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Crelocation-model=static\x1f-Ctarget-cpu=x86-64-v2")
        .env("CFLAGS", "-march=x86-64-v2 -O3 -fno-stack-protector -U_FORTIFY_SOURCE -fno-pic -fcf-protection=none")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_MAKEFLAGS")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the hostile guest does not build");
    let elf = target.join(TRIPLE).join("guest").join("hostile-guest");
    println!("cargo:rustc-env=INSTAR_HOSTILE_GUEST={}", elf.display());
}
