//! Names as Windows products write them into images.

use alloc::string::String;
use alloc::vec::Vec;

/// Text in UTF-16 of that byte order up to its first zero; what is not Unicode becomes U+FFFD.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|c| unit(*c)).take_while(|u| *u != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Little-endian UTF-16.
#[must_use]
pub fn utf16_le(bytes: &[u8]) -> String {
    utf16(bytes, u16::from_le_bytes)
}

/// Big-endian UTF-16.
#[must_use]
pub fn utf16_be(bytes: &[u8]) -> String {
    utf16(bytes, u16::from_be_bytes)
}

/// The bytes of `text` in little-endian UTF-16.
#[must_use]
pub fn to_utf16_le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A file name of Windows as one of ours. A relative one stays relative, with slashes. Of one that begins with a drive,
/// a volume or a server, only the last part means something here: the file beside the image.
#[must_use]
pub fn local_name(path: &str) -> Vec<u8> {
    let path = path.replace('\\', "/");
    let mut chars = path.chars();
    let drive = chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.next() == Some(':');
    if drive || path.starts_with("//") {
        return path.rsplit(['/', ':']).next().unwrap_or_default().as_bytes().to_vec();
    }
    path.strip_prefix("./").unwrap_or(&path).as_bytes().to_vec()
}

/// Random bytes as an identifier of version 4 (RFC 9562, 5.4), its numbers little-endian.
#[must_use]
pub const fn guid(mut random: [u8; 16]) -> [u8; 16] {
    random[7] = random[7] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    random
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_their_first_zero() {
        assert_eq!(utf16_le(b"a\0b\0\0\0c\0"), "ab");
        assert_eq!(utf16_be(b"\0a\xd8\0\0b"), "a\u{fffd}b");
        assert_eq!(to_utf16_le("a\u{e9}"), b"a\0\xe9\0");
    }

    #[test]
    fn drives_and_servers_are_not_ours() {
        assert_eq!(local_name(".\\base.vhd"), b"base.vhd");
        assert_eq!(local_name("..\\x\\base.vhd"), b"../x/base.vhd");
        assert_eq!(local_name("C:\\x\\base.vhd"), b"base.vhd");
        assert_eq!(local_name("\\\\server\\share\\base.vhd"), b"base.vhd");
        assert_eq!(local_name("\\\\?\\Volume{26A21BDA}\\base.vhd"), b"base.vhd");
        assert_eq!(local_name("/var/base.vhd"), b"/var/base.vhd");
    }
}
