//! The persistent bitmaps of a qcow2 image, read by the specification and by nothing of ours ("Bitmaps extension").

const EXTENSION: u32 = 0x2385_2875;
const IN_USE: u32 = 1;

fn number(file: &[u8], at: usize, len: usize) -> Option<u64> {
    Some(file.get(at..at + len)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Names, flags, granularities and bits, in the order of the directory; of those that are in use no bits. `None`: it cannot
/// be read.
pub fn shown(file: &[u8]) -> Option<Vec<u8>> {
    let cluster = 1usize << number(file, 20, 4)?;
    let version = number(file, 4, 4)?;
    let mut shown = Vec::new();
    if version < 3 || number(file, 88, 8)? & 1 == 0 {
        return Some(shown);
    }
    let mut at = number(file, 100, 4)? as usize;
    let (count, mut at) = loop {
        let (kind, len) = (number(file, at, 4)? as u32, number(file, at + 4, 4)? as usize);
        match kind {
            EXTENSION => break (number(file, at + 8, 4)?, number(file, at + 24, 8)? as usize),
            0 => return None,
            _ => at += 8 + len.next_multiple_of(8),
        }
    };
    for _ in 0..count {
        let (table, entries) = (number(file, at, 8)? as usize, number(file, at + 8, 4)? as usize);
        let (flags, name_len) = (number(file, at + 12, 4)? as u32, number(file, at + 18, 2)? as usize);
        shown.extend_from_slice(file.get(at + 12..at + 18)?);
        shown.extend_from_slice(file.get(at + 24..at + 24 + name_len)?);
        for index in (0..entries).filter(|_| flags & IN_USE == 0) {
            match number(file, table + 8 * index, 8)? as usize {
                same @ (0 | 1) => shown.resize(shown.len() + cluster, [0, 0xff][same]),
                // The file may end within its last cluster.
                place => {
                    let end = shown.len() + cluster;
                    shown.extend_from_slice(file.get(place..(place + cluster).min(file.len()))?);
                    shown.resize(end, 0);
                }
            }
        }
        at += (24 + name_len).next_multiple_of(8);
    }
    Some(shown)
}
