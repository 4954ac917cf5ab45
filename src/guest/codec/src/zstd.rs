//! Zstandard, by the reference library: contexts are kept, which is most of its speed on small pieces.

use alloc::vec::Vec;

use instar_image::Result;
use zstd_safe::{CCtx, DCtx};

/// Decompresses.
pub struct ZstdDecoder {
    context: DCtx<'static>,
}

impl ZstdDecoder {
    /// Allocates its state.
    #[must_use]
    pub fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Decompresses the frames that `src` begins with until `dst` is full, and says how many bytes came out. What
    /// follows in `src` is ignored.
    ///
    /// # Errors
    /// Where `dst` is not full after the last frame, or a frame is broken or larger than what is left of `dst`.
    pub fn decode(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize> {
        let broken = |_| crate::broken("zstd");
        let (mut from, mut done) = (0usize, 0usize);
        while done < dst.len() {
            let rest = src.get(from..).unwrap_or_default();
            let len = zstd_safe::find_frame_compressed_size(rest).map_err(broken)?;
            let frame = rest.get(..len).filter(|f| !f.is_empty()).ok_or_else(|| crate::broken("zstd"))?;
            let room = dst.get_mut(done..).unwrap_or_default();
            done = done.saturating_add(self.context.decompress(room, frame).map_err(broken)?);
            from = from.saturating_add(len);
        }
        Ok(done)
    }
}

impl Default for ZstdDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Compresses.
pub struct ZstdEncoder {
    context: CCtx<'static>,
    level: i32,
}

impl ZstdEncoder {
    /// Allocates its state.
    #[must_use]
    pub fn new(level: i32) -> Self {
        Self { context: CCtx::create(), level }
    }

    /// Compresses all of `src` into one frame in `out` (its old content is dropped). False, and nothing in `out`:
    /// it takes more than `max_len` bytes.
    pub fn encode(&mut self, src: &[u8], out: &mut Vec<u8>, max_len: usize) -> bool {
        // The old bytes are overwritten: no need to clear them first.
        out.resize(max_len, 0);
        let len = self.context.compress(out.as_mut_slice(), src, self.level);
        out.truncate(len.unwrap_or(0));
        len.is_ok()
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
        let (mut encoder, mut decoder) = (ZstdEncoder::new(3), ZstdDecoder::new());
        for len in [1, 511, 4096, 65536, 2 << 20] {
            let data = text(len);
            let mut compressed = Vec::new();
            assert!(encoder.encode(&data, &mut compressed, len + 64));
            compressed.extend_from_slice(&[0xff; 300]);
            let mut back = vec![0; len];
            assert_eq!(decoder.decode(&compressed, &mut back).expect("valid"), len);
            assert!(back == data);
        }
    }

    #[test]
    fn output_is_bounded() {
        let data = text(65536);
        let mut compressed = Vec::new();
        assert!(!ZstdEncoder::new(3).encode(&data, &mut compressed, 50));
        assert!(compressed.is_empty());
        assert!(ZstdEncoder::new(3).encode(&data, &mut compressed, 65535));
        assert!(ZstdDecoder::new().decode(&compressed, &mut [0; 1000]).is_err());
    }

    #[test]
    fn several_frames_make_one_unit() {
        let (mut encoder, mut all, mut one) = (ZstdEncoder::new(3), Vec::new(), Vec::new());
        for part in [&b"first"[..], b" and ", b"second"] {
            assert!(encoder.encode(part, &mut one, 100));
            all.extend_from_slice(&one);
        }
        let mut back = [0; 16];
        assert_eq!(ZstdDecoder::new().decode(&all, &mut back).expect("valid"), 16);
        assert_eq!(&back, b"first and second");
        assert!(ZstdDecoder::new().decode(&all, &mut [0; 17]).is_err());
    }

    #[test]
    fn junk_is_told() {
        for junk in [&[][..], &[0xff; 64], &[0; 64]] {
            assert!(ZstdDecoder::new().decode(junk, &mut [0; 100]).is_err());
        }
    }
}
