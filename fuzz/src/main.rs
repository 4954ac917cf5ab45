//! - `instar-fuzz seeds FROM TO`: makes inputs for the targets of the images in the folder `FROM`.
//! - `instar-fuzz replay FORMAT FILE..`: runs the target on inputs.
//! - `instar-fuzz blind FORMAT FOLDER SECONDS [SEED]`: changes the inputs of the folder at random and runs the target on
//!   them, blind to what they reach; for where there is no cargo-fuzz. The input that made it panic is left as
//!   `crash-FORMAT`; the same seed makes the same inputs.
//! - `instar-fuzz change FORMAT SECONDS [SEED]`: makes images of the format and changes them at random; see
//!   [`instar_fuzz::change`]. Replayed as the format `change-FORMAT`. `instar-fuzz changed` lists the formats.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use instar_fuzz::change::Random;

/// Bytes of a file that are changed: headers and tables are at its beginning, trailers at its end.
const HEAD: u64 = 8192;
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0xff, 0x1ff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

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

fn files(folder: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = files.map(|f| f.path()).filter(|p| p.is_file()).collect();
    files.sort();
    files
}

fn seeds(from: &str, to: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for path in files(from) {
        let name = path.file_name().unwrap_or_default();
        std::fs::write(Path::new(to).join(name), instar_fuzz::input::of_image(&std::fs::read(&path)?))?;
    }
    Ok(())
}

/// Whether nothing was found in it.
fn passes(format: &str, data: &[u8]) -> bool {
    let run = || match format.strip_prefix("change-") {
        Some(format) => instar_fuzz::change::target(Some(format), data),
        None if format == "change" => instar_fuzz::change::target(None, data),
        None => instar_fuzz::target(format, data),
    };
    catch_unwind(AssertUnwindSafe(run)).is_ok()
}

fn replay(format: &str, paths: &[String]) -> std::io::Result<bool> {
    let mut fine = true;
    for path in paths {
        let data = std::fs::read(path)?;
        let begun = Instant::now();
        let passed = passes(format, &data);
        println!("{path}: {} in {} ms", if passed { "fine" } else { "a finding" }, begun.elapsed().as_millis());
        fine &= passed;
    }
    Ok(fine)
}

fn blind(format: &str, folder: &str, seconds: &str, seed: Option<&String>) -> std::io::Result<bool> {
    let seeds = files(folder).iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    if seeds.is_empty() {
        return Err(std::io::Error::other(format!("no files in {folder}")));
    }
    run(format, seconds, seed, |random| {
        let mut data = seeds[random.below(seeds.len() as u64) as usize].clone();
        change(&mut data, random);
        data
    })
}

/// Runs the target on inputs that `make` makes.
fn run(
    format: &str,
    seconds: &str,
    seed: Option<&String>,
    make: impl Fn(&mut Random) -> Vec<u8>,
) -> std::io::Result<bool> {
    let mut random = Random::new(seed.and_then(|s| s.parse().ok()).unwrap_or(0));
    let end = Instant::now() + Duration::from_secs(seconds.parse().unwrap_or(60));
    let (mut runs, mut slowest, file) = (0u64, Duration::ZERO, format!("crash-{format}"));
    while Instant::now() < end {
        let data = make(&mut random);
        // Before it is run: a heap that is full ends the program at once.
        std::fs::write(&file, &data)?;
        let begun = Instant::now();
        if !passes(format, &data) {
            eprintln!("{format}: a finding after {runs} inputs; see {file}");
            return Ok(false);
        }
        slowest = slowest.max(begun.elapsed());
        runs += 1;
    }
    std::fs::remove_file(&file)?;
    println!("{format}: {runs} inputs, the slowest took {} ms", slowest.as_millis());
    Ok(true)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["seeds", from, to] => seeds(from, to).map(|()| true),
        ["replay", format, _, ..] => replay(format, &args[2..]),
        ["changed"] => {
            instar_fuzz::change::formats().for_each(|format| println!("{format}"));
            Ok(true)
        }
        ["change", format, seconds, ..] => {
            run(&format!("change-{format}"), seconds, args.get(3), instar_fuzz::change::input)
        }
        ["blind", format, folder, seconds, ..] => blind(format, folder, seconds, args.get(4)),
        _ => Err(std::io::Error::other(
            "usage: instar-fuzz seeds FROM TO | replay FORMAT FILE.. | blind FORMAT FOLDER SECONDS [SEED] \
             | change FORMAT SECONDS [SEED] | changed",
        )),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instar-fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}
