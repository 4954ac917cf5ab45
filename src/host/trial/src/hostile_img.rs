//! `hostile-img COMMAND ...`: instar with the hostile guest in the place of its own. The first line of the first image
//! says what the guest does: `hostile CASE WORD...`. For tests; never installed.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    instar_cli::start(Some(instar_trial::GUEST))
}
