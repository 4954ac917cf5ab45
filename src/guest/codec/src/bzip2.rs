//! bzip2, one way. Our own: the crates that decode it either need `std` or are the C library's interface, which cannot
//! be called without `unsafe`.
//!
//! Source: "bzip2: Format Specification" by J. Tsai. Memory is bounded by the largest block: 900,000 positions of 4
//! bytes.

use alloc::vec::Vec;

use instar_image::{Error, Result};

/// Symbols that a run of zeroes, a move to front and the end of a block can be.
const ALPHABET_MAX: usize = 258;
/// Symbols that are coded by one table before the next is chosen.
const GROUP: usize = 50;
const CODE_LEN_MAX: usize = 20;
const BLOCK_MAGIC: u64 = 0x3141_5926_5359;
const END_MAGIC: u64 = 0x1772_4538_5090;

fn broken() -> Error {
    crate::broken("bzip2")
}

/// Decompresses; its largest buffer is used again.
#[derive(Default)]
pub struct Bzip2Decoder {
    /// In the low 8 bits the byte, above them the position of its successor.
    chain: Vec<u32>,
    selectors: Vec<u8>,
}

/// Bits, the most significant first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl Bits<'_> {
    fn take(&mut self, want: u32) -> Result<u32> {
        while self.count < want {
            let byte = *self.bytes.get(self.at).ok_or_else(broken)?;
            self.held = self.held << 8 | u64::from(byte);
            (self.at, self.count) = (self.at + 1, self.count + 8);
        }
        self.count -= want;
        Ok((self.held >> self.count & ((1 << want) - 1)) as u32)
    }

    fn flag(&mut self) -> Result<bool> {
        self.take(1).map(|b| b == 1)
    }

    fn magic(&mut self) -> Result<u64> {
        Ok(u64::from(self.take(24)?) << 24 | u64::from(self.take(24)?))
    }
}

/// A canonical code: for each length the first code behind it, and where its symbols are.
struct Code {
    /// For each length: the least value, left-aligned in 20 bits, that is no code of it or of a shorter one.
    limit: [u32; CODE_LEN_MAX + 1],
    /// What is added to a code of that length to find its symbol's number.
    base: [i32; CODE_LEN_MAX + 1],
    symbols: [u16; ALPHABET_MAX],
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut code = Self { limit: [0; 21], base: [0; 21], symbols: [0; ALPHABET_MAX] };
        let (mut next, mut placed) = (0u32, 0usize);
        for len in 1..=CODE_LEN_MAX {
            next <<= 1;
            code.base[len] = (placed as i32).wrapping_sub(next as i32);
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, l)| usize::from(**l) == len) {
                if let Some(slot) = code.symbols.get_mut(placed) {
                    *slot = symbol as u16;
                }
                placed += 1;
                next = next.wrapping_add(1);
            }
            code.limit[len] = next;
        }
        code
    }

    fn next(&self, bits: &mut Bits<'_>) -> Result<u16> {
        let mut value = 0u32;
        for len in 1..=CODE_LEN_MAX {
            value = value << 1 | bits.take(1)?;
            if value < self.limit[len] {
                let index = usize::try_from(self.base[len].wrapping_add(value as i32)).map_err(|_| broken())?;
                return self.symbols.get(index).copied().ok_or_else(broken);
            }
        }
        Err(broken())
    }
}

/// What goes into the caller's buffer: four equal bytes are followed by how many more of them there are.
struct Output<'a> {
    dst: &'a mut [u8],
    len: usize,
    crc: u32,
    last: Option<u8>,
    repeats: u32,
}

impl Output<'_> {
    fn begin_block(&mut self) {
        (self.crc, self.last, self.repeats) = (u32::MAX, None, 0);
    }

    fn push(&mut self, byte: u8) -> Result<()> {
        if self.repeats == 4 {
            self.repeats = 0;
            let again = self.last.take().ok_or_else(broken)?;
            return (0..byte).try_for_each(|_| self.put(again));
        }
        self.repeats = if self.last == Some(byte) { self.repeats + 1 } else { 1 };
        self.last = Some(byte);
        self.put(byte)
    }

    fn put(&mut self, byte: u8) -> Result<()> {
        *self.dst.get_mut(self.len).ok_or_else(broken)? = byte;
        self.len += 1;
        self.crc = self.crc << 8 ^ CRC[usize::from((self.crc >> 24) as u8 ^ byte)];
        Ok(())
    }
}

/// CRC-32 with the most significant bit first.
static CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = (i as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = value << 1 ^ if value >> 31 == 1 { 0x04c1_1db7 } else { 0 };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
};

impl Bzip2Decoder {
    /// Decompresses the stream that `src` begins with into `dst` and says how many bytes came out. What follows the
    /// stream is ignored.
    ///
    /// # Errors
    /// Where the bytes are no stream, are cut short, have a wrong checksum, or are more than `dst` holds.
    pub fn decode(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize> {
        let mut bits = Bits { bytes: src, at: 0, held: 0, count: 0 };
        let level = match (bits.take(24)?, bits.take(8)?) {
            (0x42_5a68, level @ 0x31..=0x39) => (level - 0x30) as usize,
            _ => return Err(broken()),
        };
        let mut out = Output { dst, len: 0, crc: 0, last: None, repeats: 0 };
        let mut total = 0u32;
        loop {
            let magic = bits.magic()?;
            let crc = bits.take(16)? << 16 | bits.take(16)?;
            match magic {
                BLOCK_MAGIC => {
                    out.begin_block();
                    self.block(&mut bits, level * 100_000, &mut out)?;
                    if !out.crc != crc {
                        return Err(broken());
                    }
                    total = total.rotate_left(1) ^ crc;
                }
                END_MAGIC if crc == total => return Ok(out.len),
                _ => return Err(broken()),
            }
        }
    }

    fn block(&mut self, bits: &mut Bits<'_>, block_max: usize, out: &mut Output<'_>) -> Result<()> {
        if bits.flag()? {
            return Err(broken()); // "Randomised" blocks: no release since 1996 has made one.
        }
        let origin = bits.take(24)? as usize;
        let (mut front, used) = read_symbols(bits)?;
        let codes = self.read_codes(bits, used + 2)?;
        let mut counts = [0u32; 256];
        self.chain.clear();
        let (mut group, mut left, mut run, mut weight) = (0, 0, 0usize, 1usize);
        loop {
            if left == 0 {
                left = GROUP;
                group += 1;
            }
            left -= 1;
            let table = self.selectors.get(group - 1).ok_or_else(broken)?;
            let symbol = usize::from(codes.get(usize::from(*table)).ok_or_else(broken)?.next(bits)?);
            if symbol <= 1 {
                run = run.saturating_add(weight << symbol);
                weight = weight.saturating_mul(2);
                if run > block_max {
                    return Err(broken());
                }
                continue;
            }
            if run > 0 {
                if self.chain.len() + run > block_max {
                    return Err(broken());
                }
                counts[usize::from(front[0])] += run as u32;
                self.chain.resize(self.chain.len() + run, u32::from(front[0]));
            }
            (run, weight) = (0, 1);
            if symbol == used + 1 {
                break;
            }
            if self.chain.len() >= block_max {
                return Err(broken());
            }
            let moved = front.get_mut(..symbol).ok_or_else(broken)?;
            moved.rotate_right(1);
            counts[usize::from(front[0])] += 1;
            self.chain.push(u32::from(front[0]));
        }
        self.undo_sorting(origin, &counts, out)
    }

    fn undo_sorting(&mut self, origin: usize, counts: &[u32; 256], out: &mut Output<'_>) -> Result<()> {
        let mut starts = [0u32; 256];
        let mut sum = 0;
        for (start, count) in starts.iter_mut().zip(counts) {
            (*start, sum) = (sum, sum + count);
        }
        for i in 0..self.chain.len() {
            let byte = self.chain.get(i).copied().unwrap_or_default() & 0xff;
            let start = &mut starts[byte as usize];
            if let Some(slot) = self.chain.get_mut(*start as usize) {
                *slot |= (i as u32) << 8;
            }
            *start += 1;
        }
        let mut at = *self.chain.get(origin).ok_or_else(broken)? >> 8;
        for _ in 0..self.chain.len() {
            let entry = *self.chain.get(at as usize).ok_or_else(broken)?;
            out.push(entry as u8)?;
            at = entry >> 8;
        }
        Ok(())
    }

    fn read_codes(&mut self, bits: &mut Bits<'_>, alphabet: usize) -> Result<Vec<Code>> {
        let tables = bits.take(3)? as usize;
        let selectors = bits.take(15)? as usize;
        if !(2..=6).contains(&tables) || selectors == 0 {
            return Err(broken());
        }
        let mut order = [0u8, 1, 2, 3, 4, 5];
        self.selectors.clear();
        for _ in 0..selectors {
            let mut place = 0;
            while bits.flag()? {
                place += 1;
            }
            if place >= tables {
                return Err(broken());
            }
            order.get_mut(..=place).ok_or_else(broken)?.rotate_right(1);
            self.selectors.push(order[0]);
        }
        let mut codes = Vec::with_capacity(tables);
        for _ in 0..tables {
            let mut lengths = [0u8; ALPHABET_MAX];
            let mut length = bits.take(5)?;
            for slot in lengths.get_mut(..alphabet).ok_or_else(broken)? {
                loop {
                    if !(1..=CODE_LEN_MAX as u32).contains(&length) {
                        return Err(broken());
                    }
                    if !bits.flag()? {
                        break;
                    }
                    length = if bits.flag()? { length - 1 } else { length + 1 };
                }
                *slot = length as u8;
            }
            codes.push(Code::new(&lengths));
        }
        Ok(codes)
    }
}

/// The bytes that occur, ascending, and how many they are.
fn read_symbols(bits: &mut Bits<'_>) -> Result<([u8; 256], usize)> {
    let (mut found, mut used) = ([0u8; 256], 0);
    let rows = bits.take(16)?;
    for row in (0..16).filter(|row| rows >> (15 - row) & 1 == 1) {
        let columns = bits.take(16)?;
        for column in (0..16).filter(|column| columns >> (15 - column) & 1 == 1) {
            found[used] = row * 16 + column;
            used += 1;
        }
    }
    if used == 0 { Err(broken()) } else { Ok((found, used)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// `hello hello hello hello\n` by bzip2 1.0.8.
    const HELLO: &str =
        "425a68393141592653596f4f10f3000005d100001040000244a00030c002a834710dad870f1772453850906f4f10f3";
    /// 100,000 bytes `a`, by bzip2 1.0.8.
    const RUN: &str = "425a68393141592653594351d9f50000c61100840020000008200030cc0529a71842d810bc5dc914e142410d4767d4";

    fn unhex(text: &str) -> Vec<u8> {
        let digit = |c: u8| char::from(c).to_digit(16).expect("a digit") as u8;
        text.as_bytes().as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) << 4 | digit(*b)).collect()
    }

    #[test]
    fn streams_of_the_reference_program() {
        let (mut decoder, mut out) = (Bzip2Decoder::default(), vec![0; 100_000]);
        assert_eq!(decoder.decode(&unhex(HELLO), &mut out).expect("valid"), 24);
        assert_eq!(&out[..24], b"hello hello hello hello\n");
        assert_eq!(decoder.decode(&unhex(RUN), &mut out).expect("valid"), 100_000);
        assert!(out.iter().all(|b| *b == b'a'));
        assert!(decoder.decode(&unhex(RUN), &mut out[..99_999]).is_err());
    }

    #[test]
    fn any_changed_bit_is_told_or_harmless() {
        let (mut decoder, mut out) = (Bzip2Decoder::default(), [0; 24]);
        let stream = unhex(HELLO);
        for bit in 0..stream.len() * 8 {
            let mut changed = stream.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(len) = decoder.decode(&changed, &mut out) {
                assert_eq!(&out[..len], b"hello hello hello hello\n");
            }
        }
        for len in 0..stream.len() {
            assert!(decoder.decode(&stream[..len], &mut out).is_err());
        }
    }
}
