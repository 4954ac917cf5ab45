"""What reading refuses, `check` finds; what unpacks to less than it should is damage."""

import random
import re
import struct
import unittest
import zlib

from tests.base import InstarTestBase
from tests.helpers import images

SECTOR = 512
GRAIN = 128 * SECTOR


class TestStream(InstarTestBase):
    """streamOptimized vmdk, whose compressed grains have a marker before them."""

    def setUp(self):
        super().setUp()
        images.random_disk(self.path("disk"), 1 << 20, 5)
        with open(self.path("disk"), "r+b") as file:
            file.write(b"the first grain")
            file.seek(1 << 20)
            file.write(random.Random(6).randbytes(4096))
        argv = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "disk", "whole.vmdk"]
        self.make("qemu-img", "convert", *argv)
        with open(self.path("whole.vmdk"), "rb") as file:
            self.whole = file.read()

    def write(self, content):
        with open(self.path("x.vmdk"), "wb") as file:
            file.write(content)

    def read_and_check(self):
        """Exit status of `convert`, and of `check`; what can be read is what the stock tool reads."""
        read = self.run_instar("convert", "-f", "vmdk", "-O", "raw", "x.vmdk", "ours", cwd=self.tmp)[2]
        if read == 0:
            self.assertEqual(self.run_qemu_img("convert", "-O", "raw", "x.vmdk", "theirs", cwd=self.tmp)[2], 0)
            self.assert_bytes_identical(self.path("ours"), self.path("theirs"))
        return read, self.run_instar("check", "-f", "vmdk", "x.vmdk", cwd=self.tmp)[2]

    def grain(self, number):
        """Where the grain's marker lies, and how long the data behind it is."""
        found = re.search(re.escape(struct.pack("<Q", number * 128)) + b"(....)\x78", self.whole, re.DOTALL)
        self.assertIsNotNone(found)
        return found.start(), struct.unpack("<I", found.group(1))[0]

    def test_whole_is_sound(self):
        self.write(self.whole)
        self.assertEqual(self.read_and_check(), (0, 0))

    def test_cut_anywhere(self):
        rng = random.Random(7)
        refused = 0
        for length in sorted(rng.randrange(len(self.whole) // 4, len(self.whole)) for _ in range(12)):
            with self.subTest(length):
                self.write(self.whole[:length])
                read, checked = self.read_and_check()
                refused += read != 0
                self.assertEqual(read != 0, checked != 0, (read, checked))
        self.assertGreater(refused, 6)

    def test_damaged_within_a_grain(self):
        at, length = self.grain(0)
        self.write(self.whole[: at + 12] + bytes(length) + self.whole[at + 12 + length :])
        self.assertEqual(self.read_and_check(), (1, 2))
        err = self.run_instar("check", "x.vmdk", cwd=self.tmp)[1]
        self.assertIn("ERROR: the compressed grain of sector 0 cannot be decompressed", err)

    def test_a_grain_that_unpacks_to_less(self):
        at, length = self.grain(0)
        packed = zlib.compress(b"x" * (GRAIN - SECTOR))
        self.assertLess(len(packed), length)
        marker = self.whole[at : at + 8] + struct.pack("<I", len(packed)) + packed
        self.write(self.whole[:at] + marker + self.whole[at + len(marker) :])
        self.assertEqual(self.read_and_check(), (1, 2))

    def test_the_last_grain_may_end_where_the_disk_does(self):
        at, length = self.grain(16)
        with open(self.path("disk"), "rb") as file:
            packed = zlib.compress(file.read()[1 << 20 :])
        self.assertLessEqual(len(packed), length + 512)
        marker = self.whole[at : at + 8] + struct.pack("<I", len(packed)) + packed
        self.write(self.whole[:at] + marker + self.whole[at + len(marker) :])
        self.assertEqual(self.read_and_check(), (0, 0))


class TestParallels(InstarTestBase):
    """Entries of the BAT that lead far out of the file."""

    FAR = ([0x80000000], [0x80000000, 0x80000000], [0x80000000, 0x7FFFFFFF, 0x80000000])

    def image(self, entries, first, used):
        """An image of 1 MiB blocks; `used` of them have data, and entries from `first` on say something else then."""
        self.make("qemu-img", "create", "-q", "-f", "parallels", "x.hdd", "8M")
        self.make("qemu-io", "-f", "parallels", "-c", f"write -P 1 0 {used}M", "x.hdd")
        with open(self.path("x.hdd"), "r+b") as file:
            file.seek(64 + 4 * first)
            file.write(struct.pack(f"<{len(entries)}I", *entries))

    def check(self, tool):
        return tool("check", "-f", "parallels", "x.hdd", cwd=self.tmp)

    def test_no_block_in_the_file(self):
        for entries in self.FAR:
            with self.subTest(entries=entries):
                self.image(entries, 0, len(entries))
                stock = self.check(self.run_qemu_img)
                self.assertNotEqual(stock[2], 0)
                if stock[2] > 0:
                    self.assertEqual(self.check(self.run_as_qemu_img), stock)
                else:
                    self.assertEqual(self.check(self.run_instar)[2], 2)

    def test_other_blocks_in_the_file(self):
        """The stock tool dies of each of these."""
        for entries in self.FAR:
            with self.subTest(entries=entries):
                self.image(entries, 1, 5)
                self.assertLess(self.check(self.run_qemu_img)[2], 0)
                out, err, status = self.check(self.run_instar)
                self.assertEqual(status, 2)
                outside = [f"ERROR cluster {1 + i} is outside image" for i in range(len(entries))]
                self.assertEqual([line for line in err.splitlines() if "outside" in line], outside)
                self.assertIn(f"{len(entries)} errors were found on the image.", out)


if __name__ == "__main__":
    unittest.main()
