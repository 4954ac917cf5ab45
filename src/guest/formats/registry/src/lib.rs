//! The list of formats: the only place that knows them all.
#![no_std]
#![forbid(unsafe_code)]

use instar_image::{Format, Probe};

pub use instar_format_raw::content;

/// All formats. On a tie of scores the first wins; the order is that in which `qemu-img` decides ties (a file can
/// have one magic at its start and that of vdi further in).
static FORMATS: &[&dyn Format] = &[
    &instar_format_raw::Raw,
    &instar_format_vmdk::Vmdk,
    &instar_format_vpc::Vpc,
    &instar_format_vhdx::Vhdx,
    &instar_format_qed::Qed,
    &instar_format_parallels::Parallels,
    &instar_format_vdi::Vdi,
    &instar_format_qcow2::Qcow2,
    &instar_format_qcow::Qcow,
    &instar_format_luks::Luks,
    &instar_format_bochs::Bochs,
    &instar_format_dmg::Dmg,
    &instar_format_cloop::Cloop,
];

/// Drivers of files, each an image as it is. No file is found out to be of one: they are named or not there.
static PROTOCOLS: &[&dyn Format] =
    &[&instar_format_raw::FILE, &instar_format_raw::HOST_DEVICE, &instar_format_raw::HOST_CDROM];

/// All formats.
#[must_use]
pub fn formats() -> &'static [&'static dyn Format] {
    FORMATS
}

/// The format, or driver of files, called `name`.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static dyn Format> {
    formats().iter().chain(PROTOCOLS).copied().find(|f| f.name() == name)
}

/// The format with the highest score, the first of them on a tie. An empty file is raw, whatever its name.
#[must_use]
pub fn probe(probe: &Probe<'_>) -> &'static dyn Format {
    let mut best: (u32, &'static dyn Format) = (0, &instar_format_raw::Raw);
    for format in formats().iter().filter(|_| probe.len > 0) {
        let score = format.probe(probe);
        if score > best.0 {
            best = (score, *format);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(head: &[u8], name: &[u8]) -> &'static str {
        super::probe(&Probe { head, len: head.len() as u64, name }).name()
    }

    #[test]
    fn names_are_unique_and_found() {
        for format in formats() {
            assert_eq!(formats().iter().filter(|f| f.name() == format.name()).count(), 1);
            assert!(by_name(format.name()).is_some());
            assert!(!format.safety().is_empty(), "{} leaves its safety checks open", format.name());
        }
        assert!(by_name("nosuch").is_none());
        for name in ["file", "host_device", "host_cdrom"] {
            assert!(by_name(name).is_some_and(|f| f.name() == name));
        }
    }

    #[test]
    fn the_host_knows_the_same_names() {
        use instar_abi::drivers;
        assert_eq!(drivers::FORMATS.len(), FORMATS.len());
        FORMATS.iter().for_each(|format| assert!(drivers::is_format(format.name()), "{}", format.name()));
        assert_eq!(drivers::PROTOCOLS.len(), PROTOCOLS.len());
        PROTOCOLS.iter().for_each(|driver| assert!(drivers::is_protocol(driver.name()), "{}", driver.name()));
    }

    #[test]
    fn the_host_knows_which_are_written() {
        use instar_abi::drivers::{FORMATS, Reach};
        for known in FORMATS {
            let creator = by_name(known.name).and_then(Format::creator);
            assert_eq!(creator.is_some(), known.written != Reach::None, "{}", known.name);
            assert!(known.also.iter().all(|other| by_name(other).is_none()), "{}", known.name);
        }
    }

    #[test]
    fn what_matches_nothing_is_raw() {
        assert_eq!(probed(b"", b"x.dmg"), "raw");
        assert_eq!(probed(b"hello", b"x"), "raw");
        assert_eq!(probed(b"hello", b"x.dmg"), "dmg");
        assert_eq!(probed(b"QFI\xfb\0\0\0\x03", b"x.dmg"), "qcow2");
        assert_eq!(probed(b"QFI\xfb\0\0\0\x01", b"x"), "qcow");
    }

    #[test]
    fn ties_are_decided_as_qemu_does() {
        let mut head = [0; 512];
        head[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        for (magic, name) in [
            (&b"KDMV"[..], "vmdk"),
            (b"conectix", "vpc"),
            (b"vhdxfile", "vhdx"),
            (b"QED\0", "qed"),
            (b"WithoutFreeSpace\x02\0\0\0", "parallels"),
            (b"QFI\xfb\0\0\0\x03", "vdi"),
            (b"QFI\xfb\0\0\0\x01", "vdi"),
            (b"LUKS\xba\xbe\0\x01", "vdi"),
        ] {
            head[..32].fill(0);
            head[..magic.len()].copy_from_slice(magic);
            assert_eq!(probed(&head, b"x"), name);
        }
    }
}
