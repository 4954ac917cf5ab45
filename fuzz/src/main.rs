//! `instar-fuzz FORMAT FOLDER SECONDS [SEED]`: changes the files of the folder at random and reads them. The bytes that
//! made it panic are left as `crash-FORMAT`; the same seed makes the same bytes.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Bytes of a file that are changed: headers and tables are at its beginning, trailers at its end.
const HEAD: u64 = 8192;
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0xff, 0x1ff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    const fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }
}

fn change(data: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(6) {
        let len = data.len() as u64;
        let near = random.below(len.min(HEAD));
        let at = match random.below(8) {
            0..=4 => near,
            5 => len - 1 - near.min(len.saturating_sub(1)).min(1023),
            _ => random.below(len),
        } as usize;
        match random.below(8) {
            0 | 1 => data[at] ^= 1 << random.below(8),
            2 => data[at] = random.next() as u8,
            3..=5 => {
                let number = NUMBERS[random.below(NUMBERS.len() as u64) as usize];
                let width = 1 << random.below(4);
                let bytes = if random.below(2) == 0 { number.to_be_bytes() } else { number.to_le_bytes() };
                let part = if bytes[7] == number as u8 { &bytes[8 - width..] } else { &bytes[..width] };
                let end = (at + width).min(data.len());
                data[at..end].copy_from_slice(&part[..end - at]);
            }
            6 => {
                let count = random.below(64).min(len - at as u64);
                let from = random.below(len - count + 1) as usize;
                data.copy_within(from..from + count as usize, at);
            }
            _ if random.below(10) == 0 => data.truncate(at.max(1)),
            _ => {}
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder, seconds, rest @ ..] = args.as_slice() else {
        eprintln!("usage: instar-fuzz FORMAT FOLDER SECONDS [SEED]");
        return ExitCode::FAILURE;
    };
    let Some(format) = instar_registry::by_name(name) else {
        eprintln!("no format {name}");
        return ExitCode::FAILURE;
    };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut seeds: Vec<_> = files.map(|f| f.path()).filter(|p| p.is_file()).collect();
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.iter().filter_map(|p| std::fs::read(p).ok()).filter(|d| !d.is_empty()).collect();
    if seeds.is_empty() {
        eprintln!("no files in {folder}");
        return ExitCode::FAILURE;
    }
    let mut random = Random(rest.first().and_then(|s| s.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15));
    let end = Instant::now() + Duration::from_secs(seconds.parse().unwrap_or(60));
    let (mut runs, mut slowest) = (0u64, Duration::ZERO);
    while Instant::now() < end {
        let mut data = seeds[random.below(seeds.len() as u64) as usize].clone();
        change(&mut data, &mut random);
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| instar_fuzz::read_image(format, &data))).is_err() {
            let file = format!("crash-{name}");
            eprintln!("{name}: a panic after {runs} images; see {file}");
            let _ = std::fs::write(&file, &data);
            return ExitCode::FAILURE;
        }
        slowest = slowest.max(begun.elapsed());
        runs += 1;
    }
    println!("{name}: {runs} images, the slowest took {} ms", slowest.as_millis());
    ExitCode::SUCCESS
}
