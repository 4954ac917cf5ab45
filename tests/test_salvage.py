"""`convert --salvage`: all that can be read is saved, and each place that is lost is told, against the stock tool."""

import os
import random
import re
import struct
import subprocess
import unittest

from tests.base import InstarTestBase

MIB = 1 << 20
#: What is put into a target, in many ways.
WAYS = (
    ("-O", "raw"),
    ("-O", "raw", "-S", "0"),
    ("-O", "raw", "-W", "-m", "3"),
    ("-O", "qcow2"),
    ("-O", "qcow2", "-S", "64k"),
    ("-O", "vdi"),
    ("-O", "vmdk"),
    ("-O", "vhdx", "-o", "subformat=fixed"),
    ("-O", "parallels"),
)
WARNING = re.compile(r"qemu-img: warning: error while reading (block status at )?offset (\d+): (.*)")


def content(seed, size):
    """Bytes none of which is a run of zeroes."""
    return random.Random(seed).randbytes(size)


class Salvage(InstarTestBase):
    """What both kinds of damage need."""

    def saved(self, data, name):
        """How many bytes of `data` an image shows in their place."""
        self.make("qemu-img", "convert", "-O", "raw", name, "shown.raw")
        with open(self.path("shown.raw"), "rb") as file:
            shown = file.read()
        os.remove(self.path("shown.raw"))
        self.assertEqual(len(shown), len(data))
        blocks = range(0, len(data), 512)
        for at in blocks:
            self.assertIn(shown[at : at + 512], (data[at : at + 512], bytes(512)), at)
        return sum(512 for at in blocks if shown[at : at + 512] == data[at : at + 512])

    def compare(self, data, *argv, existing=None):
        """Ours and the stock tool's: what is saved, and what is told."""
        outcomes = []
        for run, name in ((self.run_qemu_img, "stock"), (self.run_as_qemu_img, "ours")):
            if existing:
                self.make("qemu-img", "create", "-q", "-f", existing, name, str(len(data)))
            _, err, status = run("convert", "--salvage", *argv, name, cwd=self.tmp)
            self.assertEqual(status, 0, err)
            # The stock tool looks at each place twice, and tells of what has none as often.
            told = "\n".join(sorted(set(err.splitlines())))
            outcomes.append((self.saved(data, name), told))
            os.remove(self.path(name))
        (stock, stock_told), (ours, ours_told) = outcomes
        self.assertGreaterEqual(ours, stock)
        self.assert_told(len(data) - ours, ours_told.splitlines())
        return ours, stock, ours_told, stock_told

    def assert_told(self, lost, lines):
        """Exactly the sectors that are not there are named."""
        found = [WARNING.fullmatch(line) for line in lines]
        sectors = {int(match[2]) for match in found if match and not match[1]}
        self.assertEqual(len(sectors) * 512, lost)


class TestEntries(Salvage):
    """Entries of tables that cannot be: no device that fails is needed."""

    def qcow2(self, *options):
        """A qcow2 image; its L1 table's offset and its first L2 table's."""
        data = content(3, 2 * MIB)
        with open(self.path("data.raw"), "wb") as file:
            file.write(data)
        self.make("qemu-img", "convert", "-O", "qcow2", *options, "data.raw", "disk.qcow2")
        with open(self.path("disk.qcow2"), "rb") as file:
            image = file.read()
        (l1,) = struct.unpack_from(">Q", image, 40)
        (l2,) = struct.unpack_from(">Q", image, l1)
        return data, l1, l2 & ((1 << 56) - 1)

    def put(self, at, *numbers):
        with open(self.path("disk.qcow2"), "r+b") as file:
            file.seek(at)
            file.write(struct.pack(f">{len(numbers)}Q", *numbers))

    def test_one_l2_entry(self):
        data, _, l2 = self.qcow2()
        self.put(l2 + 8 * 3, 1 << 63 | 0x1234267)
        for way in WAYS:
            with self.subTest(way):
                ours, _, told, stock = self.compare(data, *way, "disk.qcow2")
                self.assertEqual(ours, 2 * MIB - 65536)
                self.assertEqual(told, stock)

    def test_quiet(self):
        _, _, l2 = self.qcow2()
        self.put(l2 + 8 * 3, 1 << 63 | 0x1234267)
        words = ("convert", "-q", "--salvage", "-O", "raw", "disk.qcow2")
        expected = self.run_qemu_img(*words, "stock", cwd=self.tmp)
        self.assertIn("Image is corrupt", expected[1])
        self.assertEqual(self.run_as_qemu_img(*words, "ours", cwd=self.tmp), expected)

    def test_one_l1_entry(self):
        data, l1, _ = self.qcow2("-o", "cluster_size=1024")
        self.put(l1 + 8 * 5, 1 << 63 | 0x1234267)
        ours, stock, told, _ = self.compare(data, "-O", "raw", "disk.qcow2")
        self.assertEqual((ours, ours), (stock, 2 * MIB - 131072))
        self.assertEqual(len(told.splitlines()), 1 + 2 * 131072 // 512)

    def test_no_more_is_told_than_can_be_read(self):
        """A disk of which nothing can be found."""
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "64G")
        with open(self.path("disk.qcow2"), "rb") as file:
            (l1,) = struct.unpack_from(">Q", file.read(64), 40)
        self.put(l1, *([1 << 63 | 0x1234267] * 128))
        _, err, status = self.run_as_qemu_img("convert", "--salvage", "-O", "raw", "disk.qcow2", "ours", cwd=self.tmp)
        self.assertEqual(status, 0)
        self.assertLess(len(err), MIB)
        self.assertIn("and what follows, 68717379584 bytes", err.splitlines()[-1])

    def test_words_without_it(self):
        """The damage stands on a line of its own; places are counted in each source."""
        _, _, l2 = self.qcow2()
        self.put(l2 + 8 * 3, 1 << 63 | 0x1234267)
        self.make("qemu-img", "create", "-q", "-f", "raw", "before.raw", "1M")
        for words in (
            ("convert", "-O", "raw", "disk.qcow2", "x"),
            ("convert", "-O", "qcow2", "before.raw", "disk.qcow2", "x"),
            ("dd", "if=disk.qcow2", "of=x", "bs=64k"),
        ):
            with self.subTest(words):
                expected = self.run_qemu_img(*words, cwd=self.tmp)
                self.assertEqual(expected[2], 1)
                self.assertEqual(self.run_as_qemu_img(*words, cwd=self.tmp), expected)

    def test_missing_extent(self):
        """It is named with its folder."""
        os.mkdir(self.path("folder"))
        split = ("-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
        self.make("qemu-img", "create", "-q", *split, "folder/disk.vmdk", "5G")
        os.remove(self.path("folder/disk-s002.vmdk"))
        expected = self.run_qemu_img("info", "folder/disk.vmdk", cwd=self.tmp)
        self.assertIn("'folder/disk-s002.vmdk'", expected[1])
        self.assertEqual(self.run_as_qemu_img("info", "folder/disk.vmdk", cwd=self.tmp), expected)


@unittest.skipUnless(os.geteuid() == 0, "only root can make loop devices")
class TestDevice(Salvage):
    """A device that fails behind a byte: its file ends there."""

    SIZE, END = 4000256, 732 * 4096

    def setUp(self):
        super().setUp()
        self.data = content(1, self.SIZE)
        with open(self.path("back"), "wb") as file:
            file.write(self.data)
            os.fsync(file.fileno())
        made = subprocess.run(
            ["losetup", "-f", "--show", self.path("back")], capture_output=True, text=True, check=False
        )
        if made.returncode:
            self.skipTest(f"no loop device: {made.stderr.strip()}")
        self.device = made.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", self.device], check=True)
        os.truncate(self.path("back"), self.END)

    def test_raw_device(self):
        for way in WAYS:
            with self.subTest(way):
                ours, _, told, stock = self.compare(self.data, *way, "-f", "raw", self.device)
                self.assertEqual(ours, self.END)
                self.assertEqual(told, stock)

    def test_uncached_and_compressed(self):
        for way in (("-T", "none", "-O", "raw"), ("-c", "-O", "qcow2")):
            with self.subTest(way):
                ours, _, _, _ = self.compare(self.data, *way, "-f", "raw", self.device)
                self.assertGreaterEqual(ours, self.END)

    def test_into_what_exists(self):
        for fmt in ("raw", "qcow2"):
            with self.subTest(fmt):
                _, _, told, stock = self.compare(self.data, "-n", "-O", fmt, "-f", "raw", self.device, existing=fmt)
                self.assertEqual(told, stock)

    def test_quiet(self):
        self.assertEqual(
            self.run_as_qemu_img("convert", "-q", "--salvage", "-f", "raw", self.device, "x", cwd=self.tmp), ("", "", 0)
        )

    def test_without_it(self):
        """The run ends where the stock tool's does."""
        for fmt in ("raw", "qcow2"):
            words = ("convert", "-f", "raw", "-O", fmt, self.device)
            expected = self.run_qemu_img(*words, "stock", cwd=self.tmp)
            self.assertEqual(expected[2], 1)
            self.assertEqual(self.run_as_qemu_img(*words, "ours", cwd=self.tmp), expected)
            self.assertFalse(os.path.exists(self.path("ours")))
