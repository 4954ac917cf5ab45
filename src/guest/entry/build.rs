//! How the guest ELF is linked. Applies to binaries only, so only where the feature `elf` is on.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rerun-if-changed={here}/link.ld");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--gc-sections",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        &format!("-Wl,-T,{here}/link.ld"),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
