"""compare next to the stock tool: words, exit status, offsets."""

import os
import random
import re
import shutil

from tests.base import InstarTestBase

KIB, MIB = 1 << 10, 1 << 20


class CompareTest(InstarTestBase):
    def both(self, *argv):
        """Runs both tools; returns the exit status."""
        ours = self.run_instar("compare", *argv, cwd=self.tmp)
        theirs = self.run_qemu_img("compare", *argv, cwd=self.tmp)
        # How often the progress is shown depends on the time.
        ours, theirs = ((re.sub(r" +\([0-9.]+/100%\)\r", "", out), err, status) for out, err, status in (ours, theirs))
        self.assert_same_outcome(ours, theirs, " ".join(argv))
        return theirs[2]

    def write(self, name, at, data):
        with open(self.path(name), "r+b" if os.path.exists(self.path(name)) else "wb") as file:
            file.seek(at)
            file.write(data)

    def disk(self, name="disk.raw", size=3 * MIB, pieces=8, seed=0):
        """A raw image of holes, zeroes and data."""
        chance = random.Random(f"compare {seed}")
        with open(self.path(name), "wb") as file:
            file.truncate(size)
        for _ in range(pieces):
            length = chance.choice([512, 4 * KIB, 64 * KIB, 200 * KIB])
            at = chance.randrange(0, size - length, 512)
            self.write(name, at, chance.choice([chance.randbytes(length), bytes(length)]))


class TestCompare(CompareTest):
    def setUp(self):
        super().setUp()
        self.disk()
        for fmt, name, *options in (
            ("qcow2", "plain.qcow2"),
            ("qcow2", "zlib.qcow2", "-c"),
            ("qcow2", "small.qcow2", "-o", "cluster_size=4k"),
            ("qcow2", "extended.qcow2", "-o", "extended_l2=on"),
            ("qcow2", "metadata.qcow2", "-o", "preallocation=metadata"),
            ("vpc", "disk.vpc", "-o", "force_size=on"),
            ("vhdx", "disk.vhdx"),
            ("vdi", "disk.vdi"),
        ):
            self.make("qemu-img", "convert", "-f", "raw", "-O", fmt, *options, "disk.raw", name)
        self.images = sorted(name for name in os.listdir(self.tmp) if name.startswith(("disk.", "plain", "zlib", "sm", "ex", "me")))

    def test_every_format_with_every_other(self):
        for one in self.images:
            for other in self.images:
                with self.subTest(one=one, other=other):
                    self.assertEqual(self.both(one, other), 0)

    def test_strict(self):
        # Where small tables end is compared too, and is not the same there.
        images = [name for name in self.images if name not in ("small.qcow2", "extended.qcow2")]
        statuses = {self.both("-s", one, other) for one in images for other in images}
        self.assertEqual(statuses, {0, 1})

    def test_one_byte_anywhere(self):
        chance = random.Random("one byte")
        for at in (0, 511, 512, 3 * MIB - 1, *(chance.randrange(3 * MIB) for _ in range(6))):
            with open(self.path("disk.raw"), "rb") as file:
                data = bytearray(file.read())
            data[at] ^= 0x40
            self.write("other.raw", 0, data)
            for image in ("disk.raw", "plain.qcow2", "zlib.qcow2"):
                with self.subTest(at=at, image=image):
                    self.assertEqual(self.both(image, "other.raw"), 1)
                    self.assertEqual(self.both("-q", "other.raw", image), 1)
            os.unlink(self.path("other.raw"))

    def test_sizes(self):
        for size in (2 * MIB, 3 * MIB + 512, 5 * MIB):
            self.make("qemu-img", "convert", "-f", "raw", "-O", "raw", "disk.raw", "sized.raw")
            os.truncate(self.path("sized.raw"), size)
            for argv in ([], ["-s"], ["-q"], ["-p"]):
                with self.subTest(size=size, argv=argv):
                    self.both(*argv, "disk.raw", "sized.raw")
                    self.both(*argv, "sized.raw", "plain.qcow2")
            self.write("sized.raw", size - 100, b"x")
            with self.subTest(size=size, what="data in the rest"):
                self.assertEqual(self.both("disk.raw", "sized.raw"), 1)

    def test_chains(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", "one.qcow2")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", "two.qcow2", "4M")
        self.assertEqual(self.both("one.qcow2", "plain.qcow2"), 0)
        self.assertEqual(self.both("-s", "one.qcow2", "plain.qcow2"), 0)
        self.assertEqual(self.both("one.qcow2", "two.qcow2"), 0)
        self.make("qemu-io", "-c", "write -P 3 1M 64k", "-c", "write -z 2M 64k", "one.qcow2")
        self.assertEqual(self.both("one.qcow2", "two.qcow2"), 1)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "three.qcow2")
        self.make("qemu-io", "-c", "write -P 3 1M 64k", "-c", "write -z 2M 64k", "three.qcow2")
        self.assertEqual(self.both("one.qcow2", "three.qcow2"), 0)
        self.both("-s", "one.qcow2", "three.qcow2")

    def test_arguments(self):
        for line in (
            "nope disk.raw",
            "disk.raw nope",
            "-f qcow2 disk.raw plain.qcow2",
            "-F raw disk.raw plain.qcow2",
            "-F qcow2 disk.raw plain.qcow2",
            "-f nosuch disk.raw plain.qcow2",
            "-T nosuch disk.raw plain.qcow2",
            "-T none disk.raw plain.qcow2",
            "-U disk.raw plain.qcow2",
            "-p disk.raw plain.qcow2",
            "--image-opts -f raw disk.raw plain.qcow2",
            "--image-opts driver=raw,file.filename=disk.raw driver=qcow2,file.filename=plain.qcow2",
        ):
            with self.subTest(line=line):
                self.both(*line.split())

    def test_damage(self):
        with open(self.path("plain.qcow2"), "rb") as file:
            data = bytearray(file.read())
        l1 = int.from_bytes(data[40:48], "big")
        data[l1 : l1 + 8] = (0x8000000000010200).to_bytes(8, "big")
        self.write("l1.qcow2", 0, data)
        self.assertEqual(self.both("disk.raw", "l1.qcow2"), 3)
        with open(self.path("zlib.qcow2"), "rb") as file:
            data = bytearray(file.read())
        data[5 * 65536 : 5 * 65536 + 2000] = b"\xff" * 2000
        self.write("packed.qcow2", 0, data)
        self.assertEqual(self.both("disk.raw", "packed.qcow2"), 4)


class TestCompareRandom(CompareTest):
    def test_random_pairs(self):
        """Two images of two formats that differ in a few places, or in none."""
        for seed in range(12):
            chance = random.Random(seed)
            self.disk("one.raw", chance.choice([MIB, 3 * MIB, 9 * MIB]), 10, seed)
            shutil.copy(self.path("one.raw"), self.path("two.raw"))
            size = os.path.getsize(self.path("one.raw"))
            for _ in range(chance.randrange(3)):
                self.write("two.raw", chance.randrange(size - 700), chance.randbytes(chance.choice([1, 700])))
            for name in ("one", "two"):
                fmt, *options = chance.choice(["raw", "qcow2", "qcow2 -c", "qcow2 -o cluster_size=512", "qed", "vhdx"]).split()
                self.make("qemu-img", "convert", "-f", "raw", "-O", fmt, *options, f"{name}.raw", f"{name}.img")
            with self.subTest(seed=seed):
                self.both("one.img", "two.img")
