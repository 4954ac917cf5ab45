"""New images of the formats that need little: the stock tool's bytes, but for what is random."""

import os
import unittest

from tests.test_create import CreateTestBase

SIZES = ("0", "1", "512", "1M", "1025k", "5M", "3147264")


def _without_ids(path):
    """Blanks the identifiers of a VDI and of its snapshot."""
    with open(path, "r+b") as file:
        if len(file.read(512)) == 512:
            file.seek(392)
            file.write(bytes(32))


class TestVdi(CreateTestBase):
    def test_new(self):
        options = ["", "static=on", "static=off,nocow=off", "static", "preallocation=full", "extent_size_hint=0"]
        self.each("vdi", options, SIZES, mask=_without_ids)
        self.each("vdi", [""], ["40G", "1T"], mask=_without_ids)

    def test_identifiers(self):
        """They are random, and of version 4."""
        seen = set()
        for _ in range(4):
            self.run_instar("create", "-q", "-f", "vdi", "x", "1M", cwd=self.tmp)
            with open(self.path("x"), "rb") as file:
                head = file.read(512)
            for at, _ in ((392, 408), (408, 424)):
                self.assertEqual((head[at + 7] >> 4, head[at + 8] >> 6), (4, 2))
                seen.add(head[at : at + 16])
        self.assertEqual(len(seen), 8)

    def test_disk_size(self):
        for fmt, option in (("vdi", "static=on"), ("vdi", "static=off"), ("parallels", "cluster_size=64k")):
            ours, theirs = self.folders()
            self.run_instar("create", "-q", "-f", fmt, "-o", option, "x", "10M", cwd=ours)
            self.run_qemu_img("create", "-q", "-f", fmt, "-o", option, "x", "10M", cwd=theirs)
            self.assertEqual(os.stat(f"{ours}/x").st_blocks, os.stat(f"{theirs}/x").st_blocks, option)

    def test_texts(self):
        for size in ("1P", "600000G", "7E", "562949819203585"):
            self.create("-f", "vdi", "x", size, leaves=True)
        for option in ("static=maybe", "preallocation=metadata", "preallocation=foo", "cluster_size=1M", "help"):
            self.create("-f", "vdi", "-o", option, "x", "1M", leaves=True)
        self.create("-f", "vdi", "-b", "x.raw", "-F", "raw", "x", "1M", leaves=True)


class TestParallels(CreateTestBase):
    def test_new(self):
        options = ["", "cluster_size=64k", "cluster_size=512", "cluster_size=1", "cluster_size=1536", "cluster_size=3M"]
        self.each("parallels", [*options, "preallocation=full,nocow=off"], SIZES)
        self.each("parallels", [""], ["40G", "1T"])

    def test_texts(self):
        for option in (
            "cluster_size=0",
            "cluster_size=8G",
            "cluster_size=x",
            "preallocation=metadata",
            "static=on",
            "help",
        ):
            self.create("-f", "parallels", "-o", option, "x", "5M", leaves=True)
        self.create("-f", "parallels", "x", "7E", leaves=True)
        self.create("-f", "parallels", "-o", "cluster_size=512", "x", "3T", leaves=True)


class TestQed(CreateTestBase):
    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "base.raw", "2M")
        self.make("qemu-img", "create", "-q", "-f", "qed", "base.qed", "3M")

    def test_new(self):
        options = (
            "",
            "cluster_size=4k",
            "cluster_size=256k",
            "table_size=1",
            "table_size=16",
            "cluster_size=4k,table_size=2",
        )
        self.each("qed", [*options, "preallocation=falloc,nocow=off", "backing_fmt=raw"], SIZES)
        self.each("qed", [""], ["40G", "64T"])

    def test_backing(self):
        fixtures = ("base.raw", "base.qed")
        for options in ("", "cluster_size=4k", "table_size=16"):
            words = ["-o", options] if options else []
            for base, fmt in (("base.raw", "raw"), ("base.qed", "qed")):
                self.create("-f", "qed", *words, "-b", base, "-F", fmt, "x", fixtures=fixtures)
                self.create("-f", "qed", *words, "-b", base, "-F", fmt, "x", "5M", fixtures=fixtures)
        for fmt in ("raw", "qcow2", "vdi"):
            self.create("-f", "qed", "-u", "-b", "nosuch", "-F", fmt, "x", "5M")
        self.create("-f", "qed", "-u", "-b", "a" * 4095, "-F", "raw", "x", "5M")

    def test_texts(self):
        for option in (
            *(f"cluster_size={size}" for size in ("0", "2k", "5000", "64M", "128M", "x")),
            *(f"table_size={size}" for size in ("0", "3", "32", "x")),
            "cluster_size=5000,table_size=3",
            "cluster_size=5000,preallocation=metadata",
            "preallocation=foo",
            "static=on",
            "help",
        ):
            self.create("-f", "qed", "-o", option, "x", "5M", leaves=True)
        for size in ("65T", "1P", "7E", "70368744177665"):
            self.create("-f", "qed", "x", size, leaves=True)
        self.create("-f", "qed", "-o", "cluster_size=4k,table_size=1", "x", "2G", leaves=True)
        for argv in (
            ["-b", "base.raw"],
            ["-u", "-b", "nosuch", "-F", "foo"],
            ["-u", "-b", "nosuch"],
            ["-b", "base.raw", "-F", "qed"],
        ):
            self.create("-f", "qed", *argv, "x", "5M", fixtures=("base.raw",), leaves=True)


class TestQcow(CreateTestBase):
    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "base.raw", "2M")
        self.make("qemu-img", "create", "-q", "-f", "qcow", "base.qcow", "3M")

    def test_new(self):
        self.each("qcow", ["", "encryption=off", "preallocation=full,nocow=off", "backing_fmt=raw"], SIZES[1:])
        self.each("qcow", [""], ["40G", "1T"])

    def test_backing(self):
        fixtures = ("base.raw", "base.qcow")
        for base, fmt in (("base.raw", "raw"), ("base.qcow", "qcow")):
            self.create("-f", "qcow", "-b", base, "-F", fmt, "x", fixtures=fixtures)
            self.create("-f", "qcow", "-b", base, "-F", fmt, "x", "5M", fixtures=fixtures)
        for name in ("a", "abcdefgh", "a" * 1023):
            self.create("-f", "qcow", "-u", "-b", name, "-F", "raw", "x", "5M")

    def test_texts(self):
        self.create("-f", "qcow", "x", "0", leaves=True)
        for option in ("encrypt.format=foo", "encryption=maybe", "preallocation=metadata", "cluster_size=4k", "help"):
            self.create("-f", "qcow", "-o", option, "x", "5M", leaves=True)
        for argv in (
            ["-b", "base.raw"],
            ["-u", "-b", "nosuch", "-F", "foo"],
            ["-u", "-b", "nosuch"],
            ["-b", "base.raw", "-F", "qcow"],
        ):
            self.create("-f", "qcow", *argv, "x", "5M", fixtures=("base.raw",), leaves=True)

    def test_too_large(self):
        """The stock tool makes files that it cannot open itself."""
        out, err, status = self.run_instar("create", "-f", "qcow", "x", "7E", cwd=self.tmp)
        self.assertEqual((err, status), ("instar: x: Image too large\n", 1), out)


if __name__ == "__main__":
    unittest.main()
