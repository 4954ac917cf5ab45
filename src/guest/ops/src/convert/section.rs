//! `dd`: a part of the source, in blocks.

use instar_abi::ops::convert::SectionParams;
use instar_image::error::Stage;
use instar_image::{Error, Kind};

/// Which part. The counting is the stock tool's: `count` is from the beginning of the source on, and what is skipped is
/// part of it.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Bytes of a block; not 0.
    block: u64,
    /// Blocks from the source's beginning to the part's end.
    count: Option<u64>,
    /// Blocks before the part.
    skip: u64,
}

impl Section {
    /// The part that a parameter names.
    pub fn of_blocks(sent: &SectionParams) -> Self {
        Self { block: sent.block.max(1), count: sent.count, skip: sent.skip }
    }

    /// First byte and length of the part of a source with `size` bytes; `None`: it begins behind the end.
    pub fn of(self, size: u64) -> Option<(u64, u64)> {
        let end = self.count.and_then(|count| count.checked_mul(self.block)).map_or(size, |end| end.min(size));
        let first = self.skip.checked_mul(self.block).filter(|first| *first <= end)?;
        Some((first, end - first))
    }
}

/// What goes wrong while bytes are copied, in the words of `dd`: it does not say where.
pub fn words(error: Error) -> Error {
    let what = match (error.kind, error.stage) {
        (Kind::Io(_), Some(Stage::Status(_) | Stage::Read(_))) => "error while reading from input image file",
        (Kind::Io(_), Some(Stage::Write(_))) => "error while writing to output image file",
        _ => return error,
    };
    error.bare().context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_tell_where() {
        let error = || Error::new(Kind::Io(5), "No");
        let text = |stage| words(error().context("Oh").during(stage)).message;
        assert_eq!(text(Stage::Read(7)), "error while reading from input image file: No");
        assert_eq!(text(Stage::Status(7)), "error while reading from input image file: No");
        assert_eq!(text(Stage::Write(0)), "error while writing to output image file: No");
        assert_eq!(words(error().context("something else")).message, "something else: No");
    }

    #[test]
    fn what_is_skipped_is_counted() {
        let section = |block, count, skip| Section { block, count, skip };
        assert_eq!(section(512, None, 0).of(1000), Some((0, 1000)));
        assert_eq!(section(512, Some(2), 1).of(4096), Some((512, 512)));
        assert_eq!(section(512, Some(99), 1).of(1000), Some((512, 488)));
        assert_eq!(section(1024, Some(1), 5).of(9000), None);
        assert_eq!(section(1 << 20, None, 1 << 50).of(9000), None);
        assert_eq!(section(1 << 20, Some(1 << 50), 0).of(9000), Some((0, 9000)));
        assert_eq!(section(1000, None, 9).of(9000), Some((9000, 0)));
    }
}
