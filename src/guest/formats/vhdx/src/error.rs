//! The stock tool's words where it has only an error number.

use alloc::format;

use instar_image::machine::display_name;
use instar_image::{Error, OpenContext};

/// `EINVAL`: the image contradicts the specification.
pub fn invalid(cx: &OpenContext<'_, '_>) -> Error {
    Error::malformed(format!("Could not open '{}': Invalid argument", display_name(cx.name)))
}

/// `ENOTSUP`: a sound image of a kind that the stock tool does not know.
pub fn unsupported(cx: &OpenContext<'_, '_>) -> Error {
    Error::unsupported(format!("Could not open '{}': Operation not supported", display_name(cx.name)))
}

/// `EIO`: it lies outside of what a file can have.
pub fn unreadable(cx: &OpenContext<'_, '_>) -> Error {
    const EIO: u32 = 5;
    let error = Error::new(instar_image::Kind::Io(EIO), "Input/output error");
    error.context(format_args!("Could not open '{}'", display_name(cx.name)))
}
