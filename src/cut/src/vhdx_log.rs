//! A VHDX whose writer died before what its log says was in its place ([MS-VHDX] 2.3).

use crate::Numbers;

const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGIONS: usize = 192 << 10;
const SECTOR: usize = 4096;
/// How the identifier of the block allocation table's region begins.
const TABLE: [u8; 4] = [0x66, 0x77, 0xc2, 0x2d];
/// Whose log it is.
const LOG: [u8; 16] = [0x5a; 16];

/// CRC-32C.
fn checksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(sum & 1));
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// An entry of the log: sectors and where they are to be, and what is to be zeroes there.
fn entry(sequence: u64, tail: u32, sectors: &[(u64, [u8; SECTOR])], zeroes: &[(u64, u64)], ends: [u64; 2]) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR * (1 + sectors.len())];
    let len = u32::try_from(bytes.len()).expect("it is short");
    let count = u32::try_from(sectors.len() + zeroes.len()).expect("it is short");
    put(&mut bytes, 0, b"loge");
    put(&mut bytes, 8, &len.to_le_bytes());
    put(&mut bytes, 12, &tail.to_le_bytes());
    put(&mut bytes, 16, &sequence.to_le_bytes());
    put(&mut bytes, 24, &count.to_le_bytes());
    put(&mut bytes, 32, &LOG);
    put(&mut bytes, 48, &ends[0].to_le_bytes());
    put(&mut bytes, 56, &ends[1].to_le_bytes());
    let mut at = 64;
    for (index, (offset, sector)) in sectors.iter().enumerate() {
        put(&mut bytes, at, b"desc");
        put(&mut bytes, at + 4, &sector[SECTOR - 4..]);
        put(&mut bytes, at + 8, &sector[..8]);
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 24, &sequence.to_le_bytes());
        let data = SECTOR * (1 + index);
        put(&mut bytes, data, b"data");
        put(&mut bytes, data + 4, &sequence.to_le_bytes()[4..]);
        put(&mut bytes, data + 8, &sector[8..SECTOR - 4]);
        put(&mut bytes, data + SECTOR - 4, &sequence.to_le_bytes()[..4]);
        at += 32;
    }
    for (offset, len) in zeroes {
        put(&mut bytes, at, b"zero");
        put(&mut bytes, at + 8, &len.to_le_bytes());
        put(&mut bytes, at + 16, &offset.to_le_bytes());
        put(&mut bytes, at + 24, &sequence.to_le_bytes());
        at += 32;
    }
    let sum = checksum(&bytes);
    put(&mut bytes, 4, &sum.to_le_bytes());
    bytes
}

/// Has the log say what the table of blocks says now, and the table something else.
pub fn lose_the_table(file: &mut [u8], numbers: &mut Numbers) {
    let region = (REGIONS + 16..).step_by(32).find(|at| file[*at..*at + 4] == TABLE).expect("it has a table");
    let table = usize::try_from(word(file, region + 16)).expect("it is near");
    let newer = HEADERS.into_iter().max_by_key(|at| word(file, at + 8)).expect("there are two");
    let log = usize::try_from(word(file, newer + 72)).expect("it is near");
    let right: [u8; SECTOR] = file[table..table + SECTOR].try_into().expect("a sector");
    let mut torn = right;
    torn[8 * usize::try_from(numbers.below(4)).expect("it is small")..].fill(0);
    let end = file.len() as u64;
    // The file may have to be longer when all is done.
    let ends = [end, end + (numbers.below(2) << 20)];
    let (first, count, mut at) = (1 + numbers.below(1000), 1 + numbers.below(3), log);
    for number in 0..count {
        let sector = if number + 1 == count { right } else { torn };
        let behind = (table + 2 * SECTOR) as u64;
        let zeroes = if numbers.below(2) == 0 { vec![(behind, SECTOR as u64 * 3)] } else { Vec::new() };
        let bytes = entry(first + number, 0, &[(table as u64, sector)], &zeroes, ends);
        put(file, at, &bytes);
        at += bytes.len();
    }
    for header in HEADERS {
        put(file, header + 48, &LOG);
        put(file, header + 4, &[0; 4]);
        let sum = checksum(&file[header..header + SECTOR]);
        put(file, header + 4, &sum.to_le_bytes());
    }
    let cut = 512 * usize::try_from(numbers.below(9)).expect("it is small");
    put(file, table, &torn[..cut]);
}
