//! Replies that say no, as errors.

use alloc::format;
use alloc::string::{String, ToString};

use instar_abi::ring::{LOCK_SHARED, Reply, Status};
use instar_image::{Error, Kind, Result, Scope};

/// The reply, if it says yes.
pub fn check(reply: Reply) -> Result<Reply> {
    let error = |kind, text: &str| Err(Error::new(kind, text));
    match Status::from_wire(reply.status) {
        Some(Status::Ok) => Ok(reply),
        Some(Status::Io) => Err(Error::new(Kind::Io(reply.errno), strerror(reply.errno))),
        Some(Status::Refused) => Err(Error::new(Kind::Refused, "not in a directory that images may refer to")
            .with_hint("--allow-backing DIR (or INSTAR_ALLOW_BACKING, or the configuration file) allows a directory")),
        Some(Status::Loop) => error(Kind::Loop, "the file is in the chain already"),
        Some(Status::TooMany) => error(Kind::Limit, "too many files, or too deep a chain"),
        Some(Status::WrongType) => error(Kind::Refused, "neither a regular file nor a block device"),
        Some(Status::Locked) => error(Kind::Io(EAGAIN), "Failed to get shared \"write\" lock"),
        Some(Status::GrowthLimit) => {
            Err(Error::limit("the output grew past its limit").with_hint("--max-output-growth raises the limit"))
        }
        Some(Status::ReadOnly) => error(Kind::Io(EBADF), "the device is read-only"),
        Some(status) => Err(Error::new(Kind::Corrupt, format!("the host refused a request: {status:?}"))),
        None => error(Kind::Corrupt, "the host answered nonsense"),
    }
}

const EAGAIN: u32 = 11;
const EBADF: u32 = 9;
const ENOSPC: u32 = 28;

/// The reply to a request for a file that is to be written.
pub fn check_target(reply: Reply) -> Result<Reply> {
    if reply.status != Status::Locked as u32 {
        return check(reply);
    }
    let lock = reply.value as u32;
    let permission = match lock & !LOCK_SHARED {
        0 => "consistent read",
        1 => "write",
        _ => "resize",
    };
    let shared = if lock & LOCK_SHARED != 0 { "shared " } else { "" };
    Err(Error::new(Kind::Io(EAGAIN), format!("Failed to get {shared}\"{permission}\" lock")))
}

/// The failure of step number `step`, a copy, with what the reply says of it.
pub fn of_copy(error: Error, reply: Reply, step: usize) -> Error {
    if reply.status != Status::Io as u32 {
        return error;
    }
    let scope = if reply.value2 == 0 { Scope::Source(step, reply.value) } else { Scope::Target(step, reply.value) };
    Error { scope: Some(scope), ..error }
}

/// The failure to set a length: that of a device is what it is.
pub fn of_length(error: Error) -> Error {
    if error.kind == Kind::Io(ENOSPC) { Error::usage("Cannot grow device files") } else { error }
}

/// The errno's text, in the words of the C library.
fn strerror(errno: u32) -> String {
    let text = match errno {
        1 => "Operation not permitted",
        2 => "No such file or directory",
        4 => "Interrupted system call",
        5 => "Input/output error",
        6 => "No such device or address",
        9 => "Bad file descriptor",
        11 => "Resource temporarily unavailable",
        12 => "Cannot allocate memory",
        13 => "Permission denied",
        16 => "Device or resource busy",
        17 => "File exists",
        18 => "Invalid cross-device link",
        19 => "No such device",
        20 => "Not a directory",
        21 => "Is a directory",
        22 => "Invalid argument",
        23 => "Too many open files in system",
        24 => "Too many open files",
        26 => "Text file busy",
        27 => "File too large",
        28 => "No space left on device",
        29 => "Illegal seek",
        30 => "Read-only file system",
        32 => "Broken pipe",
        36 => "File name too long",
        38 => "Function not implemented",
        40 => "Too many levels of symbolic links",
        61 => "No data available",
        75 => "Value too large for defined data type",
        95 => "Operation not supported",
        110 => "Connection timed out",
        116 => "Stale file handle",
        122 => "Disk quota exceeded",
        _ => return format!("Unknown error {errno}"),
    };
    text.to_string()
}
