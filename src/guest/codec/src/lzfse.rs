//! LZFSE and the LZVN blocks in it, one way. Our own: no crate decodes it without `std`.
//!
//! Source: Apple's description of the format beside its reference implementation (`lzfse_internal.h`): a stream is
//! blocks, each with a magic of four bytes. Everything is decoded straight into the caller's buffer; what is held
//! besides is one block's literals and tables.

use alloc::vec;
use alloc::vec::Vec;

use instar_image::reader::Reader;
use instar_image::{Error, Result};

use fse::{Bits, Table, Values};

#[path = "lzfse/fse.rs"]
mod fse;
#[path = "lzfse/lzvn.rs"]
mod lzvn;

const END: &[u8] = b"bvx$";
const PLAIN: &[u8] = b"bvx-";
const WIDE: &[u8] = b"bvx1";
const PACKED: &[u8] = b"bvx2";
const LZVN: &[u8] = b"bvxn";

const L_STATES: usize = 64;
const M_STATES: usize = 64;
const D_STATES: usize = 256;
const LITERAL_STATES: usize = 1024;
const L_SYMBOLS: usize = 20;
const M_SYMBOLS: usize = 20;
const D_SYMBOLS: usize = 64;
const LITERAL_SYMBOLS: usize = 256;
const SYMBOLS: usize = L_SYMBOLS + M_SYMBOLS + D_SYMBOLS + LITERAL_SYMBOLS;
const MATCHES_MAX: usize = 10_000;
const LITERALS_MAX: usize = 4 * MATCHES_MAX;
/// Bytes of the header with tables of 16-bit numbers, padding and all.
const WIDE_LEN: usize = 772;
/// Bytes of the header with compressed tables, without them.
const COMPRESSED_LEN: usize = 32;

const L_EXTRA: [u8; L_SYMBOLS] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 5, 8];
const M_EXTRA: [u8; M_SYMBOLS] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 5, 8, 11];

fn broken() -> Error {
    crate::broken("LZFSE")
}

/// Decompresses the stream that `src` begins with into `dst`, and says how many bytes came out. What follows the stream
/// is ignored.
///
/// # Errors
/// Where the bytes are no stream, are cut short, or are more than `dst` holds.
pub fn lzfse_decode(src: &[u8], dst: &mut [u8]) -> Result<usize> {
    let (mut from, mut to) = (0usize, 0usize);
    loop {
        let block = src.get(from..).unwrap_or_default();
        let read = Reader::new(block);
        let used = match read.bytes(0, 4).map_err(|_| broken())? {
            END => return Ok(to),
            PLAIN => {
                let len = read.le32(4)? as usize;
                let plain = read.bytes(8, len).map_err(|_| broken())?;
                dst.get_mut(to..).and_then(|d| d.get_mut(..len)).ok_or_else(broken)?.copy_from_slice(plain);
                to += len;
                8 + len
            }
            LZVN => {
                let (raw, payload) = (read.le32(4)? as usize, read.le32(8)? as usize);
                let end = to.checked_add(raw).filter(|end| *end <= dst.len()).ok_or_else(broken)?;
                let ops = read.bytes(12, payload).map_err(|_| broken())?;
                to = lzvn::decode(ops, dst.get_mut(..end).unwrap_or_default(), to).ok_or_else(broken)?;
                if to != end {
                    return Err(broken());
                }
                12 + payload
            }
            WIDE | PACKED => {
                let header = Header::read(read)?;
                to = header.decode(read, dst, to)?;
                header.len + header.literal_bytes + header.match_bytes
            }
            _ => return Err(broken()),
        };
        from += used;
    }
}

/// A header of a block that is coded by tables.
struct Header {
    len: usize,
    literals: usize,
    matches: usize,
    literal_bytes: usize,
    match_bytes: usize,
    /// Bits of the last byte that are not used, for literals and for matches.
    unused: [u32; 2],
    literal_states: [usize; 4],
    /// Of the lengths of literals, the lengths of matches, the distances.
    states: [usize; 3],
    frequencies: [u16; SYMBOLS],
}

impl Header {
    fn read(read: Reader<'_>) -> Result<Self> {
        let header = if read.bytes(0, 4)? == WIDE { Self::wide(read)? } else { Self::compressed(read)? };
        let [l, m, d] = header.states;
        let sane = header.literals <= LITERALS_MAX
            && header.matches <= MATCHES_MAX
            && header.literals.is_multiple_of(4)
            && header.unused.iter().all(|n| *n < 8)
            && header.literal_states.iter().all(|s| *s < LITERAL_STATES)
            && (l < L_STATES && m < M_STATES && d < D_STATES);
        if sane { Ok(header) } else { Err(broken()) }
    }

    fn wide(read: Reader<'_>) -> Result<Self> {
        let field = |at| read.le32(at).map(|n| n as usize);
        let half = |at| read.le16(at).map(usize::from);
        let mut frequencies = [0; SYMBOLS];
        for (i, slot) in frequencies.iter_mut().enumerate() {
            *slot = read.le16(50 + 2 * i)?;
        }
        Ok(Self {
            len: WIDE_LEN,
            literals: field(12)?,
            matches: field(16)?,
            literal_bytes: field(20)?,
            match_bytes: field(24)?,
            unused: [read.le32(28)?.wrapping_neg(), read.le32(40)?.wrapping_neg()],
            literal_states: [half(32)?, half(34)?, half(36)?, half(38)?],
            states: [half(44)?, half(46)?, half(48)?],
            frequencies,
        })
    }

    fn compressed(read: Reader<'_>) -> Result<Self> {
        let words = [read.le64(8)?, read.le64(16)?, read.le64(24)?];
        let field = |word: usize, at: u32, bits: u32| (words[word] >> at & ((1 << bits) - 1)) as usize;
        let len = field(2, 0, 32);
        let tables =
            len.checked_sub(COMPRESSED_LEN).and_then(|n| read.bytes(COMPRESSED_LEN, n).ok()).ok_or_else(broken)?;
        Ok(Self {
            len,
            literals: field(0, 0, 20),
            matches: field(0, 40, 20),
            literal_bytes: field(0, 20, 20),
            match_bytes: field(1, 40, 20),
            unused: [7u32.wrapping_sub(field(0, 60, 3) as u32), 7u32.wrapping_sub(field(1, 60, 3) as u32)],
            literal_states: [field(1, 0, 10), field(1, 10, 10), field(1, 20, 10), field(1, 30, 10)],
            states: [field(2, 32, 10), field(2, 42, 10), field(2, 52, 10)],
            frequencies: fse::unpack_frequencies(tables).ok_or_else(broken)?,
        })
    }

    fn decode(&self, read: Reader<'_>, dst: &mut [u8], mut to: usize) -> Result<usize> {
        let literals = self.read_literals(read)?;
        let mut literals = literals.as_slice();
        let (l, rest) = self.frequencies.split_at(L_SYMBOLS);
        let (m, rest) = rest.split_at(M_SYMBOLS);
        let d_extra: [u8; D_SYMBOLS] = core::array::from_fn(|symbol| (symbol / 4) as u8);
        let tables = [
            Values::new(l, L_STATES, &L_EXTRA),
            Values::new(m, M_STATES, &M_EXTRA),
            Values::new(rest.get(..D_SYMBOLS).unwrap_or_default(), D_STATES, &d_extra),
        ];
        let [Some(lengths), Some(matches), Some(distances)] = tables else { return Err(broken()) };
        let coded = read.bytes(self.len + self.literal_bytes, self.match_bytes).map_err(|_| broken())?;
        let mut bits = Bits::new(coded, self.unused[1]).ok_or_else(broken)?;
        let ([mut l, mut m, mut d], mut distance) = (self.states, 0);
        for _ in 0..self.matches {
            let plain = lengths.next(&mut l, &mut bits).ok_or_else(broken)?;
            let len = matches.next(&mut m, &mut bits).ok_or_else(broken)?;
            match distances.next(&mut d, &mut bits).ok_or_else(broken)? {
                0 => {}
                other => distance = other,
            }
            let (now, later) = literals.split_at_checked(plain).ok_or_else(broken)?;
            dst.get_mut(to..).and_then(|rest| rest.get_mut(..plain)).ok_or_else(broken)?.copy_from_slice(now);
            (literals, to) = (later, to + plain);
            if len > 0 {
                crate::copy_match(dst, to, distance, len).ok_or_else(broken)?;
            }
            to += len;
        }
        Ok(to)
    }

    fn read_literals(&self, read: Reader<'_>) -> Result<Vec<u8>> {
        let frequencies = self.frequencies.get(SYMBOLS - LITERAL_SYMBOLS..).unwrap_or_default();
        let table = Table::new(frequencies, LITERAL_STATES).ok_or_else(broken)?;
        let coded = read.bytes(self.len, self.literal_bytes).map_err(|_| broken())?;
        let mut bits = Bits::new(coded, self.unused[0]).ok_or_else(broken)?;
        let mut states = self.literal_states;
        let mut literals = vec![0; self.literals];
        for four in literals.chunks_mut(4) {
            for (literal, state) in four.iter_mut().zip(&mut states) {
                *literal = table.next(state, &mut bits).ok_or_else(broken)? as u8;
            }
        }
        Ok(literals)
    }
}

#[cfg(test)]
#[path = "lzfse/tests.rs"]
mod tests;
