//! How a fuzz target's input says what the image is. Images are megabytes of zeroes with a few structures in them, and an
//! engine changes inputs of some kilobytes best; so an input holds only the pages that are not zero:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of the image, little-endian, modulo 8 MiB |
//! | 1 | n, how many page numbers follow |
//! | 2 n | numbers of 4 KiB pages, little-endian |
//! | rest | the pages' content, in that order; what is left follows the last one |

use instar_image::FileOffset;
use instar_sim::Disk;

const PAGE: usize = 4096;
const LENGTH_MAX: u32 = 8 << 20;
/// Most pages that an input made of an image holds: the first and the last ones of it.
const PAGES_MAX: usize = 48;

/// The image that an input says; `None`: it says none.
#[must_use]
pub fn image(data: &[u8]) -> Option<Disk> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first()?;
    let (numbers, content) = rest.split_at_checked(2 * usize::from(*count))?;
    let mut disk = Disk::default();
    let mut next = 0;
    let mut numbers = numbers.as_chunks::<2>().0.iter();
    for page in content.chunks(PAGE) {
        let number = numbers.next().map_or(next, |bytes| u64::from(u16::from_le_bytes(*bytes)));
        disk.write(FileOffset::new(number * PAGE as u64), page);
        next = number + 1;
    }
    disk.set_len(u64::from(u32::from_le_bytes(*length) % LENGTH_MAX));
    Some(disk)
}

/// The input that says this image, or its beginning and end if more of it is not zero.
#[must_use]
pub fn of_image(image: &[u8]) -> Vec<u8> {
    let mut pages: Vec<_> = image.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0)).collect();
    if pages.len() > PAGES_MAX {
        pages.drain(PAGES_MAX * 3 / 4..pages.len() - PAGES_MAX / 4);
    }
    pages.retain(|(number, _)| *number <= usize::from(u16::MAX));
    let mut data = (image.len() as u32 % LENGTH_MAX).to_le_bytes().to_vec();
    data.push(pages.len() as u8);
    data.extend(pages.iter().flat_map(|(number, _)| (*number as u16).to_le_bytes()));
    data.extend(pages.iter().flat_map(|(_, page)| *page));
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_what_its_input_says() {
        let mut bytes = vec![0; 3 << 20];
        bytes[..4].copy_from_slice(b"head");
        bytes[(1 << 20) + 5] = 7;
        bytes.extend([9; 100]);
        let input = of_image(&bytes);
        assert!(input.len() < 3 * PAGE);
        assert_eq!(image(&input).expect("it says one").to_bytes(), bytes);
    }

    #[test]
    fn what_says_no_image_is_none() {
        assert!(image(b"").is_none() && image(&[0, 0, 0, 0, 9, 1]).is_none());
        assert_eq!(image(&[3, 0, 0, 0, 0, b'a', b'b', b'c', b'd']).expect("it says one").to_bytes(), b"abc");
    }
}
