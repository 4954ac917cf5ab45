//! The `instar` program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    instar_cli::start(None)
}
