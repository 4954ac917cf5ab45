"""Damaged images, each of which was once seen differently by the two tools (`scripts/differential-fuzz.py --mutated` finds
such), and some that ours sees better. Status, text and content of info, check, map and convert are the stock tool's."""

import os
import struct
import unittest

from tests.base import ISOLATION, InstarTestBase
from tests.helpers import mutations


def put(at, number, width="<I"):
    """Another number at that byte."""

    def change(path):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(struct.pack(width, number))

    return change


def cut(length):
    """The file ends there."""
    return lambda path: os.truncate(path, length)


SE = "disk-sesparse.vmdk"
SAME = [
    ("qcow2/refcount-64", put(196608, 0x80000000217B9A16, ">Q")),
    ("qcow2/mixed-compression", put(262144 + 8 * 45, 0x8000, ">Q")),
    ("qcow/cluster-512", put(48, (1 << 64) - 1, ">Q")),
    ("qed/built", cut(36353)),
    ("qed/built", put(12768, 0x9200, "<Q")),
    ("vmdk/compat6", put(13952, 0xFFFFFFFF)),
    ("vmdk/sparse", put(13832, 0xFFFFFF)),
    *(("vmdk/se-sparse", put(at, value, "<Q"), SE) for at, value in (
        (0, 5), (8, 3), (24, 16), (32, 128), (40, 1), (64, 7), (80, 3), (208, 1), (504, 1), (512, 1), (536, 1), (1016, 1),
        (128, 1))),
    ("vmdk/se-sparse", cut(0), SE),
    ("vmdk/se-sparse", cut(511), SE),
    ("dmg/zeroes", cut(687)),
    ("luks/aes-128-cbc", put(296, 0x87, ">I")),
    ("luks/default", put(300, 0x82EADA56, ">I")),
    ("luks/slot-overlaps", put(208, 0x2871F3, ">I")),
    ("vpc/damaged-footer-at-end", cut(134240)),
    ("vpc/force-chs", put(790959, 1, ">B")),
]  # fmt: skip


class TestMutated(InstarTestBase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.comparison = mutations.Comparison(str(cls.get_instar_binary().resolve()), ISOLATION, ())

    def test_seen_alike(self):
        for identity, change, *file in SAME:
            with self.subTest(identity, number=SAME.index((identity, change, *file))):
                self.assertEqual(self.comparison.changed(identity, "", change, *file), [])

    def test_a_grain_that_cannot_be_decompressed_is_found(self):
        """Both refuse to read it, in the same words; the stock tool's check does not look."""
        found = self.comparison.changed("vmdk/stream", "", put(13880, 0x108))
        self.assertEqual([(each.command, each.ours[0], each.theirs[0]) for each in found], [("check", 2, 0)])
        self.assertIn("ERROR: the compressed grain of sector 1792 cannot be decompressed", found[0].ours[2])

    def test_a_cluster_elsewhere_in_a_data_file_is_found(self):
        """It cannot be read, and the stock tool's check says that all is well."""
        found = self.comparison.changed("qcow2/data-file-raw", "", put(262320, 0x8000000000170000, ">Q"))
        self.assertEqual([(each.command, each.ours[0], each.theirs[0]) for each in found], [("check", 2, 0)])
        self.assertIn("ERROR offset=160000: the cluster cannot be read", found[0].ours[2])

    def test_the_same_seed_is_the_same_image(self):
        made = []
        comparison = mutations.Comparison(str(self.get_instar_binary().resolve()), ISOLATION, ("bochs", "cloop"))
        for number in range(2):
            place = self.path(f"image{number}")
            _, name, what = comparison.make(7, place)
            made.append((what, self.sha256(os.path.join(place, name))))
        self.assertEqual(*made)


if __name__ == "__main__":
    unittest.main()
