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
        for option in ("cluster_size=0", "cluster_size=8G", "cluster_size=x", "preallocation=metadata", "static=on", "help"):
            self.create("-f", "parallels", "-o", option, "x", "5M", leaves=True)
        self.create("-f", "parallels", "x", "7E", leaves=True)
        self.create("-f", "parallels", "-o", "cluster_size=512", "x", "3T", leaves=True)


if __name__ == "__main__":
    unittest.main()
