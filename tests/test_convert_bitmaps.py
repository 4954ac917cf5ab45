"""convert --bitmaps: names, flags, granularity and bits next to the stock tool's."""

import os
import random
import shutil
from pathlib import Path

from tests.base import InstarTestBase
from tests.helpers.bitmaps import bitmap_bits, directory

KIB, MIB = 1 << 10, 1 << 20


class TestConvertBitmaps(InstarTestBase):
    def source(self, seed=0, size=10 * MIB, cluster=64 * KIB):
        """An image with up to four bitmaps, written to between them."""
        chance = random.Random(f"bitmaps {seed}")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "source.qcow2", str(size))
        for number in range(chance.randint(2, 4)):
            granularity = chance.choice([512, 4 * KIB, 64 * KIB, MIB])
            still = ["--disable"] if chance.random() < 0.3 else []
            self.make("qemu-img", "bitmap", "--add", "-g", str(granularity), *still, "source.qcow2", f"b{number}")
            writes = []
            for _ in range(chance.randint(1, 5)):
                at = chance.randrange(0, size, 512)
                writes += ["-c", f"write {at} {min(chance.choice([512, 64 * KIB, MIB]), size - at)}"]
            self.make("qemu-io", *writes, "source.qcow2")

    def names(self, image):
        return [entry[0] for entry in directory(Path(self.path(image)).read_bytes())]

    def both(self, *args, target="target.qcow2", before=None):
        """Runs both tools, each into a target of its own; returns whether it went well."""
        outcomes = []
        for tool, kept in ((self.run_qemu_img, "theirs"), (self.run_instar, "ours")):
            if before:
                shutil.copy(self.path(before), self.path(target))
            outcomes.append(tool("convert", "--bitmaps", *args, target, cwd=self.tmp))
            if os.path.exists(self.path(target)):
                os.rename(self.path(target), self.path(kept))
        self.assert_same_outcome(outcomes[1], outcomes[0])
        if outcomes[0][2] != 0:
            return False
        self.assert_check_clean(self.path("ours"))
        self.assertEqual(self.names("ours"), self.names("theirs"))
        for name in self.names("theirs"):
            self.assertEqual(bitmap_bits(self.path("ours"), name), bitmap_bits(self.path("theirs"), name), name)
        return True

    def test_new_targets(self):
        targets = ("cluster_size=64k", "cluster_size=512", "cluster_size=2M", "extended_l2=on", "refcount_bits=1")
        for seed, options in enumerate(targets):
            size = (10 * MIB, 10 * MIB + 512, 100 * MIB)[seed % 3]
            with self.subTest(options=options, size=size):
                self.source(seed, size, (64 * KIB, 512, 4 * KIB)[seed % 3])
                self.assertTrue(self.both("-O", "qcow2", "-o", options, "source.qcow2"))

    def test_compressed_and_with_a_data_file(self):
        self.source(7)
        self.assertTrue(self.both("-c", "-O", "qcow2", "source.qcow2"))
        self.assertTrue(self.both("-O", "qcow2", "-o", "data_file=data.raw", "source.qcow2"))

    def test_existing_targets(self):
        self.source(8)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "empty.qcow2", "10M")
        shutil.copy(self.path("empty.qcow2"), self.path("other.qcow2"))
        self.make("qemu-img", "bitmap", "--add", "--disable", "other.qcow2", "other")
        for before in ("empty.qcow2", "other.qcow2"):
            with self.subTest(before=before):
                self.assertTrue(self.both("-n", "-O", "qcow2", "source.qcow2", before=before))
        self.assertEqual(self.names("ours")[0], "other")

    def test_refusals(self):
        self.source(9)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "large.qcow2", "20M")
        shutil.copy(self.path("source.qcow2"), self.path("full.qcow2"))
        refusals = [
            (["-O", "raw", "source.qcow2"], None),
            (["-O", "qcow2", "-o", "compat=0.10", "source.qcow2"], None),
            (["-f", "raw", "-O", "qcow2", "source.qcow2"], None),
            (["-O", "qcow2", "source.qcow2", "source.qcow2"], None),
            (["-n", "-O", "qcow2", "source.qcow2"], "full.qcow2"),
            (["-n", "-O", "qcow2", "source.qcow2"], "large.qcow2"),
        ]
        for args, before in refusals:
            with self.subTest(args=args, before=before):
                self.assertFalse(self.both(*args, before=before))

    def test_broken_ones(self):
        self.source(10)
        data = bytearray(Path(self.path("source.qcow2")).read_bytes())
        last, *_ = list(directory(data))[-1]
        at = data.find(last.encode() + b"\0\0")
        while at >= 0:
            data[at - 24 + 15] |= 1
            at = data.find(last.encode() + b"\0\0", at + 1)
        Path(self.path("source.qcow2")).write_bytes(data)
        self.assertFalse(self.both("-O", "qcow2", "source.qcow2"))
        self.assertFalse(os.path.exists(self.path("ours")))
        self.assertTrue(self.both("--skip-broken-bitmaps", "-O", "qcow2", "source.qcow2"))
        self.assertNotIn(last, self.names("ours"))
