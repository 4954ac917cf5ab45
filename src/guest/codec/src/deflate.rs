//! Deflate: raw, without header and checksum, or as zlib has it, with both.

use alloc::vec::Vec;

use instar_image::Result;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateError, InflateFlush, Status};

/// The widest window that the format has: it decodes what any narrower one made.
const WINDOW_BITS_MAX: u8 = 15;
/// As much memory as zlib can use: QEMU's choice.
const MEM_LEVEL: i32 = 9;

/// Decompresses.
pub struct Inflater {
    inner: Inflate,
    /// The stream has zlib's header and checksum.
    zlib: bool,
}

impl Inflater {
    /// Allocates its state.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: Inflate::new(false, WINDOW_BITS_MAX), zlib: false }
    }

    /// The same for streams with zlib's header and checksum.
    #[must_use]
    pub fn zlib() -> Self {
        Self { inner: Inflate::new(true, WINDOW_BITS_MAX), zlib: true }
    }

    /// Decompresses the stream that `src` begins with until it ends or `dst` is full, and says how many bytes
    /// came out. What follows the stream in `src` is ignored.
    ///
    /// # Errors
    /// Where the bytes are no stream, or are cut short before `dst` is full.
    pub fn inflate(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize> {
        match self.run(src, dst) {
            (Ok(_), len) if len == dst.len() => Ok(len),
            (Ok(Status::StreamEnd), len) => Ok(len),
            _ => Err(crate::broken("deflate")),
        }
    }

    /// As [`Inflater::inflate`], of a stream that must end where `dst` is full or before.
    ///
    /// # Errors
    /// The same; and where the stream goes on or its checksum is wrong.
    pub fn inflate_all(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize> {
        match self.run(src, dst) {
            (Ok(Status::StreamEnd), len) => Ok(len),
            _ => Err(crate::broken("deflate")),
        }
    }

    fn run(&mut self, src: &[u8], dst: &mut [u8]) -> (core::result::Result<Status, InflateError>, usize) {
        self.inner.reset(self.zlib);
        let status = self.inner.decompress(src, dst, InflateFlush::Finish);
        (status, usize::try_from(self.inner.total_out()).unwrap_or(usize::MAX))
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
    /// Allocates its state. `level` is 1 to 9 as in zlib, `window_bits` 9 to 15. The output is deflate alone (RFC 1951).
    #[must_use]
    pub fn new(level: i32, window_bits: u8) -> Self {
        Self::with(level, -i32::from(window_bits))
    }

    /// The same with the largest window; the output is a zlib stream (RFC 1950). Level 0 stores.
    #[must_use]
    pub fn zlib(level: i32) -> Self {
        Self::with(level, WINDOW_BITS_MAX.into())
    }

    fn with(level: i32, window_bits: i32) -> Self {
        let config = DeflateConfig { level, window_bits, mem_level: MEM_LEVEL, ..DeflateConfig::default() };
        Self { inner: Deflate::new_with_config(config) }
    }

    /// Compresses all of `src` into `out` (its old content is dropped). False, and nothing in `out`: it takes more
    /// than `max_len` bytes, or looks as if it would.
    pub fn deflate(&mut self, src: &[u8], out: &mut Vec<u8>, max_len: usize) -> bool {
        if looks_random(src) {
            out.clear();
            return false;
        }
        self.deflate_any(src, out, max_len)
    }

    /// The same, whatever it looks like.
    pub fn deflate_any(&mut self, src: &[u8], out: &mut Vec<u8>, max_len: usize) -> bool {
        self.inner.reset();
        // Always room for the worst case: the library panics at some levels where the output runs out.
        out.resize(src.len().saturating_add(src.len() / 4).saturating_add(64), 0);
        let status = self.inner.compress(src, out, DeflateFlush::Finish);
        let len = usize::try_from(self.inner.total_out()).unwrap_or(usize::MAX);
        let done = matches!(status, Ok(Status::StreamEnd)) && len <= max_len;
        out.truncate(if done { len } else { 0 });
        done
    }
}

/// Whether all byte values are as frequent as in random bytes: compressed or encrypted data, on which deflate takes
/// its longest to save nothing. Costs a fraction of a try; other data is told after the first few KiB.
fn looks_random(bytes: &[u8]) -> bool {
    const SAMPLE: usize = 4096;
    bytes.get(..SAMPLE).is_some_and(has_even_histogram) && has_even_histogram(bytes)
}

/// Pearson's test: over random bytes the sum is 255 on average with a deviation of 23, so fewer than one in ten
/// thousand has more than the bound; what repeats or is skewed has far more.
fn has_even_histogram(bytes: &[u8]) -> bool {
    const BOUND: u64 = 345;
    // Four tables: runs of one byte would otherwise wait for their own last increment.
    let mut counts = [[0u32; 256]; 4];
    for quad in bytes.as_chunks::<4>().0 {
        for (count, byte) in counts.iter_mut().zip(quad) {
            count[usize::from(*byte)] += 1;
        }
    }
    let [a, b, c, d] = &counts;
    let squares = a.iter().zip(b).zip(c).zip(d).map(|(((a, b), c), d)| u64::from(a + b + c + d).pow(2)).sum::<u64>();
    let n = (bytes.len() & !3) as u64;
    // sum((count - n/256)^2 / (n/256)) <= BOUND, without fractions.
    squares.saturating_mul(256) <= n.saturating_mul(n.saturating_add(BOUND))
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
            let mut compressed = Vec::new();
            assert!(deflater.deflate(&data, &mut compressed, len + 64));
            compressed.extend_from_slice(&[0xff; 300]);
            let mut back = vec![0; len];
            assert_eq!(inflater.inflate(&compressed, &mut back).expect("valid"), len);
            assert!(back == data);
        }
    }

    #[test]
    fn output_is_bounded() {
        let mut compressed = Vec::new();
        let data = text(65536);
        assert!(!Deflater::new(6, 12).deflate(&data, &mut compressed, 100));
        assert!(compressed.is_empty());
        assert!(Deflater::new(6, 12).deflate(&data, &mut compressed, 65535));
        let mut back = vec![0; 1000];
        assert_eq!(Inflater::new().inflate(&compressed, &mut back).expect("full"), 1000);
        assert!(back == data[..1000]);
    }

    #[test]
    fn random_bytes_are_told_at_once_and_only_they() {
        let mut seed = 7u64;
        let random: Vec<u8> = core::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        })
        .take(65536)
        .collect();
        assert!(looks_random(&random));
        let mut half = random.clone();
        half[32768..].fill(0);
        let repeated = random[..2048].repeat(32);
        for other in [&half, &repeated, &text(65536), &vec![0; 65536]] {
            assert!(!looks_random(other));
        }
        assert!(!looks_random(&random[..512]));
        let mut compressed = Vec::new();
        assert!(!Deflater::new(6, 12).deflate(&random, &mut compressed, 65535));
        assert!(Deflater::new(6, 12).deflate(&repeated, &mut compressed, 65535));
    }

    #[test]
    fn a_longer_disk_than_stream_and_junk_are_told() {
        let mut compressed = Vec::new();
        assert!(Deflater::new(1, 15).deflate(b"short", &mut compressed, 100));
        let mut back = [0; 100];
        assert_eq!(Inflater::new().inflate(&compressed, &mut back).expect("it ends"), 5);
        assert!(Inflater::new().inflate(&compressed[..3], &mut back).is_err());
        assert!(Inflater::new().inflate(&[0xff; 64], &mut back).is_err());
        assert!(Inflater::new().inflate(&[], &mut back).is_err());
    }
}
