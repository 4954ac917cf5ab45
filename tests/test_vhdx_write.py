"""VHDX images written: new ones next to the stock tool's, converted ones read and checked by it, children over parents."""

import json
import os
import random
import struct
import unittest

from tests.base import InstarTestBase
from tests.helpers import vhdx
from tests.test_create import CreateTestBase

MIB = 1 << 20
HEADERS = (64 << 10, 128 << 10)
DISK_ID = 65536 + 16


def _masked(path):
    """Blanks the creator, the headers' numbers and identifiers, and the disk's."""
    with open(path, "r+b") as file:
        head = bytearray(file.read(320 << 10))
        head[8 : 8 + 512] = bytes(512)
        for at in HEADERS:
            # Sum, number, identifiers of the file's and of the data's last change.
            head[at + 4 : at + 48] = bytes(44)
        file.seek(0)
        file.write(head)
        entries = [head[196608 + 16 + i * 32 :][:32] for i in range(2)]
        metadata = struct.unpack_from("<Q", entries[1], 16)[0]
        file.seek(metadata + DISK_ID)
        file.write(bytes(16))


class TestCreate(CreateTestBase):
    def test_new(self):
        options = ["", "block_size=1M", "block_size=1000000", "log_size=3M", "log_size=1"]
        options += ["block_state_zero=off", "subformat=fixed", "subformat=fixed,block_state_zero=off,block_size=2M"]
        self.each("vhdx", options, ["0", "1", "513", "10M", "1025M"], mask=_masked)
        self.each("vhdx", ["block_size=300M"], ["1", "10M"], mask=_masked)
        self.each("vhdx", ["", "log_size=5M"], ["101G", "33T", "64T"], mask=_masked)

    def test_texts(self):
        for option in (
            "log_size=0",
            "log_size=4G",
            "log_size=x",
            "block_size=3M",
            "block_size=3000000",
            "block_size=-1",
            "block_state_zero=maybe",
            "subformat=nosuch",
            "cluster_size=1M",
            "preallocation=metadata",
            "help",
        ):
            self.create("-f", "vhdx", "-o", option, "x", "5M", leaves=True)
        self.create("-f", "vhdx", "x", "65T", leaves=True)
        self.create("-f", "vhdx", "-o", "subformat=nosuch", "x", "65T", leaves=True)
        self.create("-f", "vhdx", "-o", "block_size=256M", "x", "0", leaves=True)
        self.create("-f", "vhdx", "-b", "x.raw", "-F", "raw", "x", "1M", leaves=True)

    def test_identifiers(self):
        """They are random, and of version 4."""
        seen = set()
        for _ in range(4):
            self.run_instar("create", "-q", "-f", "vhdx", "x", "1M", cwd=self.tmp)
            with open(self.path("x"), "rb") as file:
                head = file.read(HEADERS[0] + 48)
            for at in (HEADERS[0] + 16, HEADERS[0] + 32):
                self.assertEqual((head[at + 7] >> 4, head[at + 8] >> 6), (4, 2))
                seen.add(head[at : at + 16])
        self.assertEqual(len(seen), 8)


class TestConvert(InstarTestBase):
    def test_each_option(self):
        source = random.Random(3)
        content = bytearray(21 * MIB + 512 * 3)
        for at, length in ((0, 4000), (MIB - 7, 70_000), (9 * MIB, 3 * MIB), (len(content) - 600, 600)):
            content[at : at + length] = source.randbytes(length)
        with open(self.path("source"), "wb") as file:
            file.write(content)
        for options in (
            "block_size=1M",
            "block_size=8M,log_size=2M",
            "block_state_zero=off,block_size=1M",
            "subformat=fixed",
            "subformat=fixed,block_state_zero=off,block_size=1M",
        ):
            with self.subTest(options):
                argv = ["convert", "-f", "raw", "-O", "vhdx", "-o", options, "source", "disk.vhdx"]
                self.assertEqual(self.run_instar(*argv, cwd=self.tmp), ("", "", 0))
                self.assertEqual(self.run_qemu_img("check", "disk.vhdx", cwd=self.tmp)[2], 0)
                self.make("qemu-img", "convert", "-O", "raw", "disk.vhdx", "out", cwd=self.tmp)
                with open(self.path("out"), "rb") as file:
                    self.assert_same_bytes(file.read(), bytes(content))

    def test_fixed_blocks_are_where_they_belong(self):
        with open(self.path("source"), "wb") as file:
            file.write(b"x" * 100 + bytes(12 * MIB - 100))
        argv = ["convert", "-O", "vhdx", "-o", "subformat=fixed,block_size=4M", "source", "disk.vhdx"]
        self.assertEqual(self.run_instar(*argv, cwd=self.tmp), ("", "", 0))
        with open(self.path("disk.vhdx"), "rb") as file:
            file.seek(2 * MIB)
            entries = struct.unpack("<3Q", file.read(24))
        first = entries[0] & ~0xFFFFF
        self.assertEqual(entries, tuple(first + i * 4 * MIB | vhdx.FULL for i in range(3)))
        self.assertEqual(os.path.getsize(self.path("disk.vhdx")), first + 12 * MIB)


class TestChildren(InstarTestBase):
    """Differencing disks are ours: the stock tool has none."""

    SIZE = 6 * MIB

    def setUp(self):
        super().setUp()
        self.parent = random.Random(1).randbytes(self.SIZE)
        with open(self.path("parent.raw"), "wb") as file:
            file.write(self.parent)
        argv = ["convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", "parent.raw", "parent.vhdx"]
        self.make("qemu-img", *argv, cwd=self.tmp)

    def ours(self, *argv):
        out, err, status = self.run_instar(*argv, cwd=self.tmp)
        self.assertEqual(status, 0, out + err)
        return out

    def test_a_new_child_shows_its_parent(self):
        self.ours("create", "-q", "-f", "vhdx", "-b", "parent.vhdx", "-F", "vhdx", "child.vhdx")
        info = json.loads(self.ours("info", "--output=json", "child.vhdx"))
        self.assertEqual((info["virtual-size"], info["backing-filename"]), (self.SIZE, "parent.vhdx"))
        self.ours("convert", "-O", "raw", "child.vhdx", "out")
        with open(self.path("out"), "rb") as file:
            self.assert_same_bytes(file.read(), self.parent)

    def test_the_stock_name_has_no_children(self):
        argv = ["create", "-q", "-f", "vhdx", "-b", "parent.vhdx", "-F", "vhdx", "child.vhdx"]
        self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))


if __name__ == "__main__":
    unittest.main()
