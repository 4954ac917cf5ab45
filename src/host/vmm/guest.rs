//! How a guest program is built. A part of the build scripts of this crate and of the trial's.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the crates of crates.io lie in cargo's folder: the same on every machine.
const CRATES: &str = "registry/src/index.crates.io-1949cf8c6b5b557f";

/// The guest's only target.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The command that builds `package`, for processors of `level`, in `target`.
pub fn command(root: &Path, package: &str, level: &str, target: &Path) -> Command {
    let mut rust = format!("-Crelocation-model=static\x1f-Ctarget-cpu=x86-64-{level}");
    let mut c =
        format!("-march=x86-64-{level} -O3 -fno-stack-protector -U_FORTIFY_SOURCE -fno-pic -fcf-protection=none");
    // The same bytes wherever it is built: scripts/build gives the host half the same names.
    let folders = [cargo_home(), cargo_home().join(CRATES), root.into(), root.join("vendor")];
    for (folder, name) in folders.iter().zip(["/cargo", "/crates", "/instar", "/crates"]) {
        let map = format!("{}={name}", folder.display());
        rust += &format!("\x1f--remap-path-prefix={map}");
        if !map.contains(char::is_whitespace) {
            c += &format!(" -ffile-prefix-map={map}");
        }
    }
    let mut command = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    command
        .current_dir(root)
        .args(["build", "--locked", "-p", package, "--features", "elf", "--profile", "guest"])
        .args(["--target", TRIPLE, "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", rust)
        .env("CFLAGS", c)
        // clippy and the like wrap the compiler; the guest is built by the plain one.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_MAKEFLAGS");
    command
}

/// Runs it, and says where the program is.
pub fn built(mut command: Command, target: &Path, name: &str) -> PathBuf {
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the guest does not build");
    target.join(TRIPLE).join("guest").join(name)
}

/// The sources as a published crate brings them (packaging/crates.py): cargo packs no folder that has a manifest of its own,
/// so that of each has another ending there.
pub fn unpack(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = if path.extension() == Some(OsStr::new("packed")) { path.file_stem() } else { path.file_name() };
        let target = to.join(name.unwrap_or_default());
        if path.is_dir() {
            unpack(&path, &target)?;
        } else {
            fs::copy(&path, target)?;
        }
    }
    Ok(())
}

fn cargo_home() -> PathBuf {
    let default = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(default, PathBuf::from)
}
