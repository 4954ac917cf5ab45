//! Names of files, as images have them.

use alloc::vec::Vec;

/// The full name of a file that the image called `base` names: a relative one is relative to that image's
/// directory; an absolute one, or one with a protocol, stands as it is.
#[must_use]
pub fn combine(base: &[u8], name: &[u8]) -> Vec<u8> {
    if has_protocol(name) || name.is_empty() { name.to_vec() } else { beside(base, name) }
}

/// The same of a name that is always one of a file, whatever stands in it.
#[must_use]
pub fn beside(base: &[u8], name: &[u8]) -> Vec<u8> {
    let directory = base.iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
    match name.first() {
        Some(b'/') => name.to_vec(),
        _ => [base.get(..directory).unwrap_or_default(), name].concat(),
    }
}

/// A colon before any slash makes what is before it a protocol, as QEMU reads names.
#[must_use]
pub fn has_protocol(name: &[u8]) -> bool {
    name.iter().find(|b| matches!(b, b':' | b'/')) == Some(&b':')
}

/// The name as one that has no protocol, for who goes by [`has_protocol`].
#[must_use]
pub fn without_protocol(name: &[u8]) -> Vec<u8> {
    if has_protocol(name) { [b"./", name].concat() } else { name.to_vec() }
}

/// What comes after `file:` is a file's name, whatever stands in it: that name, as one without a protocol.
#[must_use]
pub fn without_file(name: &[u8]) -> Vec<u8> {
    name.strip_prefix(b"file:").map_or_else(|| name.to_vec(), without_protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_to_the_image_that_has_them() {
        assert_eq!(combine(b"dir/a.qcow2", b"b.raw"), b"dir/b.raw");
        assert_eq!(combine(b"a.qcow2", b"b.raw"), b"b.raw");
        assert_eq!(combine(b"dir/a.qcow2", b"/b.raw"), b"/b.raw");
        assert_eq!(combine(b"dir/a.qcow2", b"nbd:x"), b"nbd:x");
        assert_eq!(combine(b"dir/a.qcow2", b"./b:c"), b"dir/./b:c");
    }

    #[test]
    fn a_file_may_have_a_colon_in_its_name() {
        assert_eq!(beside(b"dir/a.vmdk", b"b:c"), b"dir/b:c");
        assert_eq!(beside(b"a.vmdk", b"/b:c"), b"/b:c");
        assert_eq!(without_protocol(b"b:c"), b"./b:c");
        assert_eq!(without_protocol(b"b/c:d"), b"b/c:d");
        assert_eq!(without_file(b"file:b:c"), b"./b:c");
        assert_eq!(without_file(b"file:/b:c"), b"/b:c");
        assert_eq!(without_file(b"b:c"), b"b:c");
    }
}
