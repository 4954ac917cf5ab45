//! What a child process gives back before its guest runs: all of its addresses but the guest's.

/// From the first address to behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Behind the last one.
    pub end: u64,
    /// The kernel made it and may have sealed it: it holds nothing of the host half's.
    pub may_stay: bool,
}

/// Mappings that the kernel makes by itself, and seals if built with `CONFIG_MSEAL_SYSTEM_MAPPINGS`: its own code and
/// clock for every process. No file or memory of a program can have such a name in /proc/self/maps.
const KERNEL: &[&str] = &["[vdso]", "[vvar]", "[vvar_vclock]"];

/// The kernel's own mappings in this process. None where /proc is missing: if they are sealed there, no child runs.
pub fn of_the_kernel() -> Vec<Range> {
    crate::proc::read("/proc/self/maps").map_or_else(|_| Vec::new(), |maps| named(&String::from_utf8_lossy(&maps)))
}

fn named(maps: &str) -> Vec<Range> {
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let name = words.nth(4).filter(|name| KERNEL.contains(name))?;
            let number = |digits| u64::from_str_radix(digits, 16).ok();
            (words.next().is_none() && !name.is_empty()).then_some(Range {
                start: number(start)?,
                end: number(end)?,
                may_stay: true,
            })
        })
        .collect()
}

/// All addresses of a process but those of `keep` (sorted, not overlapping); `kernel` apart from the others.
pub fn all_but(keep: &[(u64, u64)], kernel: &[Range]) -> Vec<Range> {
    const HIGHEST: u64 = 0x7fff_ffff_f000;
    let mut whole: Vec<Range> =
        keep.iter().map(|(start, end)| Range { start: *start, end: *end, may_stay: false }).collect();
    whole.extend(kernel.iter().filter(|range| range.end <= HIGHEST));
    whole.sort_by_key(|range| range.start);
    let (mut ranges, mut from) = (Vec::new(), 0);
    for range in whole {
        if range.start > from {
            ranges.push(Range { start: from, end: range.start, may_stay: false });
        }
        if range.may_stay && range.start >= from {
            ranges.push(range);
        }
        from = from.max(range.end);
    }
    if from < HIGHEST {
        ranges.push(Range { start: from, end: HIGHEST, may_stay: false });
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000001000 r--p 00000000 08:01 42 /tmp/[vdso]
7f0000001000-7f0000002000 r--p 00000000 08:01 42 /tmp/a [vdso]
7f0000002000-7f0000003000 rw-p 00000000 00:00 0 [anon:[vdso]]
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
7ffd000f0000-7ffd000f4000 r--p 00000000 00:00 0                          [vvar]
7ffd000f4000-7ffd000f6000 r--p 00000000 00:00 0                          [vvar_vclock]
7ffd000f6000-7ffd000f8000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn only_what_the_kernel_made_may_stay() {
        let found: Vec<(u64, u64)> = named(MAPS).iter().map(|range| (range.start, range.end)).collect();
        let wanted = [
            (0x7ffd_000f_0000, 0x7ffd_000f_4000),
            (0x7ffd_000f_4000, 0x7ffd_000f_6000),
            (0x7ffd_000f_6000, 0x7ffd_000f_8000),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn every_address_is_kept_or_given_back() {
        let keep = [(0x40_0000, 0x50_0000), (0x50_0000, 0x60_0000), (0x4000_0000, 0x4400_0000)];
        let ranges = all_but(&keep, &named(MAPS));
        let mut all: Vec<(u64, u64)> = ranges.iter().map(|range| (range.start, range.end)).chain(keep).collect();
        all.sort_unstable();
        assert_eq!(all.first().map(|range| range.0), Some(0));
        assert_eq!(all.last().map(|range| range.1), Some(0x7fff_ffff_f000));
        assert!(all.windows(2).all(|pair| pair[0].1 == pair[1].0), "{all:x?}");
        assert_eq!(ranges.iter().filter(|range| range.may_stay).count(), 3);
    }
}
