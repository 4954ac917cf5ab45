//! Runs of equal bits.

use core::ops::Range;

use crate::Result;

/// Calls `each` with every run of numbers for which `bit` is the same: the first, how many, and what it is.
pub fn runs_of(
    numbers: Range<u64>,
    bit: impl Fn(u64) -> bool,
    mut each: impl FnMut(u64, u64, bool) -> Result<()>,
) -> Result<()> {
    let mut first = numbers.start;
    while first < numbers.end {
        let is = bit(first);
        let next = (first + 1..numbers.end).find(|next| bit(*next) != is).unwrap_or(numbers.end);
        each(first, next - first, is)?;
        first = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let mut runs = Vec::new();
        let each = |first, count, is| {
            runs.push((first, count, is));
            Ok(())
        };
        runs_of(2..9, |n| (4..6).contains(&n) || n == 8, each).expect("nothing fails");
        assert_eq!(runs, [(2, 2, false), (4, 2, true), (6, 2, false), (8, 1, true)]);
    }
}
