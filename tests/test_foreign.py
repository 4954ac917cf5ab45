"""Images that qemu-img did not write: by other programs of Debian, or built from the formats' specifications with what
other products put into their headers. What they show is known; everything else is as the stock tool has it."""

import random
import struct

from tests.base import InstarTestBase
from tests.helpers import bochs, dmg, parallels, vdi, vhd, vhdx, vmware

MIB = 1 << 20
SECTOR = 512
# Cylinders, heads, sectors of a VHD whose length is theirs.
GEOMETRY = (152, 4, 17)
VHD_SIZE = 152 * 4 * 17 * SECTOR


def content(size, seed=11):
    """Runs of bytes here and there, zeroes between them."""
    chance, disk = random.Random(seed), bytearray(size)
    for _ in range(12):
        at = chance.randrange(size // 4096 - 32) * 4096
        run = chance.randbytes(chance.choice((4096, 20480, 70000)))
        disk[at : at + len(run)] = run
    return bytes(disk[:size])


def blocks_of(disk, size):
    """Number to content of the blocks that are not of zeroes alone."""
    parts = {at // size: disk[at : at + size] for at in range(0, len(disk), size)}
    return {number: part for number, part in parts.items() if any(part)}


def shuffled(parts):
    """The same in another order, for formats whose blocks lie as they were written."""
    return dict(random.Random(5).sample(list(parts.items()), len(parts)))


def virtualbox(disk, **parts):
    return vdi.image(len(disk), shuffled(blocks_of(disk, MIB)), uuid=bytes(range(16)), **parts)


def dynamic_vhd(disk, creator):
    return vhd.dynamic(len(disk), blocks_of(disk, vhd.BLOCK), creator=creator, geometry=GEOMETRY)


def hyper_v(disk, sector=SECTOR, block=2 * MIB):
    states = {number: (vhdx.FULL, part) for number, part in blocks_of(disk, block).items()}
    return vhdx.build(len(disk), states, block=block, sector=sector)


def udif(disk):
    kinds = [dmg.ZLIB, dmg.RAW]
    chunks = []
    for number, at in enumerate(range(0, len(disk), 256 * SECTOR)):
        part = disk[at : at + 256 * SECTOR]
        kind = kinds[number % len(kinds)] if any(part) else dmg.ZERO
        chunks.append((kind, len(part) // SECTOR, part if any(part) else b""))
    return dmg.build(chunks)


DISK = content(6 * MIB)
VHD_DISK = content(VHD_SIZE)
# Name: format, file, what it shows.
BUILT = {
    "VirtualBox, of today": ("vdi", virtualbox(DISK), DISK),
    "VirtualBox, 1 MiB aligned map": ("vdi", virtualbox(DISK, map_at=MIB, data_at=2 * MIB), DISK),
    **{
        f"VHD of {who}": ("vpc", dynamic_vhd(VHD_DISK, creator), VHD_DISK)
        for who, creator in (
            ("Virtual PC", b"vpc "), ("Hyper-V", b"win "), ("disk2vhd", b"d2v "), ("XenServer", b"tap\0"),
            ("XenConverter", b"CTXS"), ("VirtualBox", b"vbox"), ("QEMU", b"qemu"), ("QEMU, sized", b"qem2"),
        )
    },
    "fixed VHD of Azure": ("vpc", vhd.fixed(VHD_DISK, creator=b"wa\0\0", geometry=GEOMETRY), VHD_DISK),
    "VHDX of Hyper-V": ("vhdx", hyper_v(DISK), DISK),
    "VHDX of Hyper-V, large blocks": ("vhdx", hyper_v(DISK, block=32 * MIB), DISK),
    "Workstation": ("vmdk", vmware.hosted(DISK, "disk.img"), DISK),
    "Workstation, not closed": ("vmdk", vmware.hosted(DISK, "disk.img", unclean=1), DISK),
    "OVF export": ("vmdk", vmware.stream(DISK, "disk.img"), DISK),
    "OVF export, little compressed": ("vmdk", vmware.stream(DISK, "disk.img", level=0), DISK),
    "Parallels Desktop": (
        "parallels",
        parallels.image(len(DISK) // SECTOR, shuffled(blocks_of(DISK, 1 << 20)), 2048, b"WithouFreSpacExt"),
        DISK,
    ),
    "Parallels, early": (
        "parallels",
        parallels.image(len(DISK) // SECTOR, shuffled(blocks_of(DISK, 64 * SECTOR)), 64),
        DISK,
    ),
    "hdiutil": ("dmg", udif(DISK), DISK),
}
# What the stock tool has no word for but "Operation not supported" and the like.
REFUSED = {
    "vdi": virtualbox(DISK, version=(0, 1)),
    "vhdx": hyper_v(DISK, sector=4096),
}
CHECKED = {"vdi", "vhdx", "vmdk", "parallels"}


class TestForeign(InstarTestBase):
    """One generated test an image."""

    def alike(self, *argv):
        stock = self.run_qemu_img(*argv, cwd=self.tmp)
        self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
        return stock[2]

    def judge(self, fmt, name, disk):
        """Words as the stock tool's; the disk is the one that was put in."""
        with open(self.path("plain"), "wb") as file:
            file.write(disk)
        commands = [("info",), ("info", "--output=json"), ("map",), ("map", "--output=json"), ("measure", "-O", "raw")]
        commands += [("check",), ("check", "--output=json")] if fmt in CHECKED else []
        for words in commands:
            with self.subTest(words):
                self.alike(*words, "-f", fmt, name)
        out, err, status = self.run_instar("compare", "-f", fmt, "-F", "raw", name, "plain", cwd=self.tmp)
        self.assertEqual((out, status), ("Images are identical.\n", 0), err)
        out, err, status = self.run_instar("convert", "-f", fmt, "-O", "raw", name, "ours", cwd=self.tmp)
        self.assertEqual(status, 0, err)
        self.assert_bytes_identical(self.path("ours"), self.path("plain"))

    def foreign(self, *argv):
        """Runs a program that must be there: scripts/bootstrap installs it."""
        out, err, status = self.run_tool(list(argv), cwd=self.tmp)
        self.assertEqual(status, 0, out + err)

    def test_bximage(self):
        """Images as the program that comes with Bochs converts them; it writes in heads of 16 x 63 sectors."""
        disk = content(10 * 16 * 63 * SECTOR, seed=3)
        with open(self.path("flat.img"), "wb") as file:
            file.write(disk)
        for kind, fmt in (("growing", "bochs"), ("vpc", "vpc"), ("vmware4", "vmdk")):
            with self.subTest(kind):
                self.foreign("bximage", "-q", "-func=convert", f"-imgmode={kind}", "flat.img", f"disk.{kind}")
                shown = self.info_json(f"disk.{kind}")
                self.assertEqual(shown["format"], fmt)
                size = shown["virtual-size"]
                self.assertGreaterEqual(size, len(disk))
                self.judge(fmt, f"disk.{kind}", disk.ljust(size, b"\0"))

    def test_create_compressed_fs(self):
        """Images of cloop-utils."""
        with open(self.path("flat.img"), "wb") as file:
            file.write(DISK)
        for size in (64 << 10, 256 << 10):
            with self.subTest(size):
                self.foreign("create_compressed_fs", "-B", str(size), "flat.img", "disk.cloop")
                self.judge("cloop", "disk.cloop", DISK)

    def test_esx(self):
        """A descriptor of ESX beside its extent, with the text that an ESX host writes."""
        with open(self.path("disk-flat.vmdk"), "wb") as file:
            file.write(DISK)
        words = vmware.text("vmfs", len(DISK) // SECTOR, f'RW {len(DISK) // SECTOR} VMFS "disk-flat.vmdk"', "UTF-8")
        with open(self.path("disk.vmdk"), "wb") as file:
            file.write(words)
        self.judge("vmdk", "disk.vmdk", DISK)

    def test_bochs_growing_with_an_earlier_version(self):
        """Version 1 of the redolog header, as Bochs 2.2 wrote it, has no time stamp."""
        sectors = {at // SECTOR: DISK[at : at + SECTOR] for at in range(0, MIB, SECTOR) if any(DISK[at : at + SECTOR])}
        with open(self.path("disk.img"), "wb") as file:
            file.write(bochs.image(MIB, sectors, version=0x10000))
        self.judge("bochs", "disk.img", DISK[:MIB])

    def test_refused_ones(self):
        """VirtualBox's first header and disks of 4 KiB sectors."""
        for fmt, image in REFUSED.items():
            with self.subTest(fmt), open(self.path("disk.img"), "wb") as file:
                file.write(image)
                file.flush()
                self.assertEqual(self.alike("info", "-f", fmt, "disk.img"), 1)

    def test_headers_are_the_specifications(self):
        """The builders put fields where the specifications have them."""
        stream = BUILT["OVF export"][1]
        self.assertEqual(struct.unpack_from("<Q", stream, 56)[0], vmware.AT_END)
        self.assertEqual(struct.unpack_from("<4s", stream, len(stream) - 1024)[0], b"KDMV")
        self.assertEqual(BUILT["VHD of Hyper-V"][1][-512:-504], b"conectix")


def _test(fmt, image, disk):
    def test(self):
        with open(self.path("disk.img"), "wb") as file:
            file.write(image)
        self.judge(fmt, "disk.img", disk)

    return test


for _name, _parts in BUILT.items():
    _word = "".join(c if c.isalnum() else "_" for c in _name).lower()
    setattr(TestForeign, f"test_{_word}", _test(*_parts))
