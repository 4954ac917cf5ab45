//! LZVN: bytes that say how many plain ones follow, and what to copy behind them.

/// Carries out `ops` on `dst` from byte `to` on; returns the byte that it reaches.
pub fn decode(ops: &[u8], dst: &mut [u8], mut to: usize) -> Option<usize> {
    let (mut from, mut distance) = (0, 0);
    loop {
        let op = Op::read(ops.get(from..)?)?;
        from += op.used;
        if op.end {
            return Some(to);
        }
        let plain = ops.get(from..from + op.literals)?;
        dst.get_mut(to..to + op.literals)?.copy_from_slice(plain);
        (from, to) = (from + op.literals, to + op.literals);
        distance = op.distance.unwrap_or(distance);
        if op.copied > 0 {
            crate::copy_match(dst, to, distance, op.copied)?;
            to += op.copied;
        }
    }
}

#[derive(Default)]
struct Op {
    /// Its own bytes.
    used: usize,
    literals: usize,
    copied: usize,
    /// `None`: as before.
    distance: Option<usize>,
    end: bool,
}

impl Op {
    fn read(bytes: &[u8]) -> Option<Self> {
        let first = usize::from(*bytes.first()?);
        let byte = |i: usize| bytes.get(i).map(|b| usize::from(*b));
        let pair = || Some(byte(1)? | byte(2)? << 8);
        // Most have two bits for the literals and three for the copy.
        let (literals, copied) = (first >> 6, (first >> 3 & 7) + 3);
        Some(match first {
            0x06 => Self { used: 8, end: true, ..Self::default() },
            0x0e | 0x16 => Self { used: 1, ..Self::default() },
            0x1e | 0x26 | 0x2e | 0x36 | 0x3e | 0x70..=0x7f | 0xd0..=0xdf => return None,
            0xa0..=0xbf => {
                let more = pair()?;
                let copied = ((first & 7) << 2 | more & 3) + 3;
                Self { used: 3, literals: first >> 3 & 3, copied, distance: Some(more >> 2), end: false }
            }
            0xe0 => Self { used: 2, literals: byte(1)? + 16, ..Self::default() },
            0xe1..=0xef => Self { used: 1, literals: first & 15, ..Self::default() },
            0xf0 => Self { used: 2, copied: byte(1)? + 16, ..Self::default() },
            0xf1..=0xff => Self { used: 1, copied: first & 15, ..Self::default() },
            _ => match first & 7 {
                6 => Self { used: 1, literals, copied, ..Self::default() },
                7 => Self { used: 3, literals, copied, distance: Some(pair()?), end: false },
                high => Self { used: 2, literals, copied, distance: Some(high << 8 | byte(1)?), end: false },
            },
        })
    }
}
