//! Raw deflate: no header, no checksum.

use alloc::vec::Vec;

use instar_image::Result;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status};

/// The widest window that the format has: it decodes what any narrower one made.
const WINDOW_BITS_MAX: u8 = 15;
/// As much memory as zlib can use: QEMU's choice.
const MEM_LEVEL: i32 = 9;

/// Decompresses.
pub struct Inflater {
    inner: Inflate,
}

impl Inflater {
    /// Allocates its state.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: Inflate::new(false, WINDOW_BITS_MAX) }
    }

    /// Decompresses the stream that `src` begins with until it ends or `dst` is full, and says how many bytes
    /// came out. What follows the stream in `src` is ignored.
    ///
    /// # Errors
    /// Where the bytes are no stream, or are cut short before `dst` is full.
    pub fn inflate(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize> {
        self.inner.reset(false);
        let status = self.inner.decompress(src, dst, InflateFlush::Finish);
        let len = usize::try_from(self.inner.total_out()).unwrap_or(usize::MAX);
        match status {
            Ok(Status::StreamEnd) => Ok(len),
            Ok(_) if len == dst.len() => Ok(len),
            _ => Err(crate::broken("deflate")),
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

/// Compresses.
pub struct Deflater {
    inner: Deflate,
}

impl Deflater {
    /// Allocates its state. `level` is 1 to 9 as in zlib, `window_bits` 9 to 15.
    #[must_use]
    pub fn new(level: i32, window_bits: u8) -> Self {
        let config = DeflateConfig {
            level,
            window_bits: -i32::from(window_bits),
            mem_level: MEM_LEVEL,
            ..DeflateConfig::default()
        };
        Self { inner: Deflate::new_with_config(config) }
    }

    /// Compresses all of `src` into `out` (its old content is dropped). False, and nothing in `out`: it takes more
    /// than `max_len` bytes.
    pub fn deflate(&mut self, src: &[u8], out: &mut Vec<u8>, max_len: usize) -> bool {
        self.inner.reset();
        // The old bytes are overwritten: no need to clear them first.
        out.resize(max_len, 0);
        let status = self.inner.compress(src, out, DeflateFlush::Finish);
        let done = matches!(status, Ok(Status::StreamEnd));
        let len = if done { usize::try_from(self.inner.total_out()).unwrap_or(0) } else { 0 };
        out.truncate(len);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| b"instar sandboxes images. "[(i * i / 7) % 25]).collect()
    }

    #[test]
    fn there_and_back_with_junk_behind() {
        let (mut deflater, mut inflater) = (Deflater::new(6, 12), Inflater::new());
        for len in [1, 511, 4096, 65536, 2 << 20] {
            let data = text(len);
            let mut packed = Vec::new();
            assert!(deflater.deflate(&data, &mut packed, len + 64));
            packed.extend_from_slice(&[0xff; 300]);
            let mut back = vec![0; len];
            assert_eq!(inflater.inflate(&packed, &mut back).expect("valid"), len);
            assert!(back == data);
        }
    }

    #[test]
    fn output_is_bounded() {
        let mut packed = Vec::new();
        let data = text(65536);
        assert!(!Deflater::new(6, 12).deflate(&data, &mut packed, 100));
        assert!(packed.is_empty());
        assert!(Deflater::new(6, 12).deflate(&data, &mut packed, 65535));
        let mut back = vec![0; 1000];
        assert_eq!(Inflater::new().inflate(&packed, &mut back).expect("full"), 1000);
        assert!(back == data[..1000]);
    }

    #[test]
    fn a_longer_disk_than_stream_and_junk_are_told() {
        let mut packed = Vec::new();
        assert!(Deflater::new(1, 15).deflate(b"short", &mut packed, 100));
        let mut back = [0; 100];
        assert_eq!(Inflater::new().inflate(&packed, &mut back).expect("it ends"), 5);
        assert!(Inflater::new().inflate(&packed[..3], &mut back).is_err());
        assert!(Inflater::new().inflate(&[0xff; 64], &mut back).is_err());
        assert!(Inflater::new().inflate(&[], &mut back).is_err());
    }
}
