//! Images that are changed, again and again, and compared with what they should show.
//!
//! An input is a list of numbers: which kind of image is made (by the crate's own creators), how large, over what; then
//! which operation changes it how, or which requests its disk gets, until the numbers run out. After each operation, and in the end, the image shows what a
//! plain array of bytes says, and its check finds nothing. Where the first number says so, the image is damaged
//! in between: then whatever is refused, nothing panics, and nothing takes too long.

mod bitmaps;
mod disk;
mod kinds;
mod numbers;
mod world;

pub use kinds::{KINDS, Kind, formats};
use numbers::Numbers;
pub use numbers::Random;
use world::World;

/// Most operations of one input.
const OPERATIONS: usize = 24;
/// Numbers of an input that is made at random, in bytes.
const LENGTH: usize = 400;

/// One run: `data` begins with the kind's number among those of the format, or of all.
///
/// # Panics
/// On whatever is a finding.
pub fn target(format: Option<&str>, data: &[u8]) {
    let kinds: Vec<&'static Kind> = KINDS.iter().filter(|kind| format.is_none_or(|f| f == kind.format)).collect();
    let mut numbers = Numbers::new(data);
    let Some(kind) = numbers.below(kinds.len() as u64).and_then(|index| kinds.get(index as usize)) else { return };
    let damaged = numbers.below(4) == Some(0);
    let Some(mut world) = World::new(kind, &mut numbers) else { return };
    for _ in 0..OPERATIONS {
        let Some(operation) = numbers.below(16) else { break };
        let before = world.shows.clone();
        match operation {
            0 | 1 => world.write(&mut numbers),
            2 | 3 => world.convert(&mut numbers),
            4 => world.resize(&mut numbers),
            5 => world.rebase(&mut numbers),
            6 => world.commit(&mut numbers),
            7 | 8 => world.requests(&mut numbers),
            9 | 10 => world.snapshot(&mut numbers),
            11 => world.amend(&mut numbers),
            12..=14 => {
                // It looks at them itself.
                world.bitmap(&mut numbers);
                world.look();
                continue;
            }
            _ if damaged => world.damage(&mut numbers),
            _ => {}
        }
        world.look();
        world.look_at_bitmaps(before.as_deref());
    }
}

/// An input at random.
#[must_use]
pub fn input(random: &mut Random) -> Vec<u8> {
    (0..LENGTH).map(|_| random.next() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs of each format; `INSTAR_CHANGES` says more.
    const INPUTS: u64 = 12;

    #[test]
    fn what_is_changed_shows_what_it_should() {
        let inputs = std::env::var("INSTAR_CHANGES").ok().and_then(|text| text.parse().ok()).unwrap_or(INPUTS);
        std::thread::scope(|scope| {
            for format in formats() {
                scope.spawn(move || {
                    let mut random = Random::new(1);
                    for number in 0..inputs {
                        let data = input(&mut random);
                        let outcome = std::panic::catch_unwind(|| target(Some(format), &data));
                        assert!(outcome.is_ok(), "{format}: input {number}");
                    }
                });
            }
        });
    }
}
