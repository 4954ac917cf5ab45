"""VHD (vpc) and VHDX images that get another size, which the stock tool does not do itself: it shows afterwards what it showed
before, and zeroes where the disk grew."""

import os
import random
import struct
import subprocess
import unittest

from tests.base import InstarTestBase
from tests.helpers import vhd

MIB = 1 << 20
SEEDS = 12
OPTIONS = {
    "vpc": ("force_size=on", "subformat=fixed,force_size=on", "subformat=dynamic"),
    "vhdx": ("block_size=1M", "block_size=8M", "subformat=fixed,block_size=1M", "block_state_zero=off,block_size=2M"),
}


class TestResize(InstarTestBase):
    def io(self, fmt, name, *commands):
        self.make("qemu-io", "-f", fmt, *(word for c in commands for word in ("-c", c)), name)

    def sound(self, fmt, name):
        run = self.run_instar if fmt == "vpc" else self.run_qemu_img
        out, err, status = run("check", "-f", fmt, name, cwd=self.tmp)
        self.assertEqual(status, 0, out + err)

    def resize(self, fmt, name, *words):
        done = self.run_instar("resize", "-f", fmt, *words[:-1], name, "--", words[-1], cwd=self.tmp)
        self.assertEqual(done, ("Image resized.\n", "", 0), words)

    def size_of(self, fmt, name):
        info = self.make("qemu-img", "info", "-f", fmt, "--output=json", name)
        return int(info.rsplit('"virtual-size": ', 1)[1].split(",")[0])

    def assert_shows(self, fmt, name, wanted):
        self.sound(fmt, name)
        self.assertEqual(self.size_of(fmt, name), os.path.getsize(self.path(wanted)))
        self.assert_same_disk(wanted, name, "-f", "raw", "-F", fmt)

    def resized(self, fmt, seed):
        """Growing and shrinking again and again, with writes by the stock tool between: the disk is as a raw one."""
        rng = random.Random(seed)
        size = rng.choice((MIB, 3 * MIB + 512, 20 * MIB, 33 * MIB - 512))
        self.make("qemu-img", "create", "-q", "-f", fmt, "-o", rng.choice(OPTIONS[fmt]), "disk", str(size))
        size = self.size_of(fmt, "disk")
        with open(self.path("wanted"), "wb") as wanted:
            wanted.truncate(size)
        for _ in range(rng.randint(2, 4)):
            writes = []
            for _ in range(rng.randint(1, 6)):
                at = rng.randrange(size // 512) * 512
                length = min(rng.choice((512, 4096, 65536, 3 * MIB)), size - at)
                writes.append(f"write -q -P {rng.randint(1, 255)} {at} {length}")
            self.io(fmt, "disk", *writes)
            self.io("raw", "wanted", *writes)
            new = rng.choice((512, 5 * MIB, size + 512, size * 2, 70 * MIB, max(size // 2 // 512 * 512, 512), size))
            argument = str(new)
            if new != size and rng.random() < 0.5:
                argument = f"{new - size:+}"
            self.resize(fmt, "disk", "--shrink", argument)
            os.truncate(self.path("wanted"), new)
            size = new
            self.assert_shows(fmt, "disk", "wanted")

    def test_a_table_that_does_not_fit(self):
        """It goes behind everything else; when it is the last thing in the file it grows there."""
        for fmt, sizes in (("vpc", ("1T", "2000G", "100M", "2040G")), ("vhdx", ("1T", "2T", "100M", "4T"))):
            with self.subTest(fmt):
                options = "force_size=on" if fmt == "vpc" else "block_size=1M"
                self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "disk", "20M")
                writes = ["write -q -P 1 5M 3M", "write -q -P 2 19M 1M"]
                self.io(fmt, "disk", *writes)
                for size in sizes:
                    self.resize(fmt, "disk", "--shrink", size)
                    self.io(fmt, "disk", "read -q -P 1 5M 3M", "read -q -P 2 19M 1M", "read -q -P 0 20M 60M")
                    self.sound(fmt, "disk")
                    last = self.size_of(fmt, "disk") - 512
                    self.io(fmt, "disk", f"read -q -P 0 {last} 512", f"write -q -P 3 {last} 512")
                    self.io(fmt, "disk", f"read -q -P 3 {last} 512", f"write -q -z {last} 512")
                    self.sound(fmt, "disk")
                self.assertLess(os.stat(self.path("disk")).st_blocks * 512, 700 * MIB)
                os.unlink(self.path("disk"))

    def test_a_file_gets_shorter(self):
        """The last blocks move to where others were."""
        for fmt in OPTIONS:
            with self.subTest(fmt):
                options = "force_size=on" if fmt == "vpc" else "block_size=1M"
                self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "disk", "20M")
                self.io(fmt, "disk", *(f"write -q -P {at} {at}M 1M" for at in range(19, -1, -1)))
                before = os.path.getsize(self.path("disk"))
                self.resize(fmt, "disk", "--shrink", "6M")
                self.assertLessEqual(os.path.getsize(self.path("disk")), before - 14 * MIB)
                self.io(fmt, "disk", *(f"read -q -P {at} {at}M 1M" for at in range(6)))
                self.sound(fmt, "disk")
                os.unlink(self.path("disk"))

    def test_geometry(self):
        """Whoever made a VHD, and whether readers go by its geometry or its size: they find the new one."""
        for creator in (b"vpc ", b"qemu", b"win ", b"qem2", b"vbox", b"d2v ", b"tap\0", b"CTXS"):
            for size in (12 * MIB, 820 * 5 * 17 * 512, 12 * MIB + 512):
                with self.subTest(creator=creator, size=size):
                    content = vhd.dynamic(5 * MIB, {1: b"x" * 512}, creator=creator, geometry=(150, 4, 17))
                    with open(self.path("disk"), "wb") as file:
                        file.write(content)
                    self.resize("vpc", "disk", str(size))
                    self.assertEqual(self.size_of("vpc", "disk"), size)
                    self.sound("vpc", "disk")
                    with open(self.path("disk"), "rb") as file:
                        foot = file.read(512)
                        file.seek(-512, os.SEEK_END)
                        self.assertEqual(file.read(), foot)
                    self.assertEqual(foot[28:32], creator)
                    cylinders, heads, track = struct.unpack(">HBB", foot[56:60])
                    sectors = cylinders * heads * track
                    self.assertTrue(sectors <= size // 512 or sectors == 65535 * 16 * 255)
                    for release in ("5.2.0", "7.2.22", "11.1.3"):
                        words = ("info", "-f", "vpc", "disk")
                        out = self.run_as_qemu_img(*words, version=release, cwd=self.tmp)[0]
                        self.assertIn(f"({size} bytes)", out, release)

    def test_preallocation(self):
        for fmt, options, modes in (
            ("vpc", "subformat=fixed,force_size=on", ("off", "falloc", "full")),
            ("vhdx", "block_size=1M", ("off", "metadata", "falloc", "full")),
            ("vhdx", "subformat=fixed,block_size=1M", ("off", "metadata", "falloc", "full")),
        ):
            for mode in modes:
                with self.subTest(fmt=fmt, options=options, mode=mode):
                    self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "disk", "2M")
                    self.io(fmt, "disk", "write -q -P 7 1M 1M")
                    before = os.stat(self.path("disk"))
                    self.resize(fmt, "disk", f"--preallocation={mode}", "10M")
                    after = os.stat(self.path("disk"))
                    if mode in ("falloc", "full"):
                        self.assertGreaterEqual(after.st_blocks - before.st_blocks, 8 * 2048)
                    if mode == "metadata" or "fixed" in options:
                        self.assertGreaterEqual(after.st_size, before.st_size + 8 * MIB)
                    self.sound(fmt, "disk")
                    self.io(fmt, "disk", "read -q -P 7 1M 1M", "read -q -P 0 2M 8M", "write -q -P 8 9M 1M")
                    self.sound(fmt, "disk")

    def test_what_is_refused(self):
        """And then nothing has changed."""
        fixed = "subformat=fixed,force_size=on"
        for fmt, options, words, text in (
            ("vpc", "force_size=on", ["2041G"], "too large"),
            ("vpc", "force_size=on", ["--preallocation=metadata", "8M"], "Unsupported preallocation mode"),
            ("vpc", fixed, ["--preallocation=metadata", "8M"], "Unsupported preallocation mode"),
            ("vpc", fixed, ["2041G"], "too large"),
            ("vpc", "force_size=on", ["1M"], "--shrink"),
            ("vhdx", "block_size=1M", ["65T"], "max of 64TB"),
            ("vhdx", "block_size=1M", ["1M"], "--shrink"),
        ):
            with self.subTest(fmt=fmt, options=options, words=words):
                self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "disk", "5M")
                before = self.sha256(self.path("disk"))
                out, err, status = self.run_instar("resize", "-f", fmt, *words[:-1], "disk", words[-1], cwd=self.tmp)
                self.assertEqual((out, status), ("", 1))
                self.assertIn(text, err)
                self.assertEqual(self.sha256(self.path("disk")), before)

    @unittest.skipUnless(os.geteuid() == 0, "mounting needs root")
    def test_no_room(self):
        """The disk is what it was."""
        os.mkdir(self.path("small"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20M", "tmpfs", self.path("small")], check=True)
        self.addCleanup(subprocess.run, ["umount", self.path("small")], check=True)
        for fmt, options in (("vpc", "subformat=fixed,force_size=on"), ("vhdx", "block_size=1M")):
            for mode in ("falloc", "full"):
                with self.subTest(fmt=fmt, mode=mode):
                    self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "small/disk", "2M")
                    self.io(fmt, "small/disk", "write -q -P 7 1M 1M")
                    before = self.sha256(self.path("small/disk"))
                    words = ("resize", "-f", fmt, f"--preallocation={mode}", "small/disk", "60M")
                    out, err, status = self.run_instar(*words, cwd=self.tmp)
                    self.assertEqual((out, status), ("", 1))
                    self.assertIn("No space left on device", err)
                    self.assertEqual(self.sha256(self.path("small/disk")), before)
                    self.resize(fmt, "small/disk", f"--preallocation={mode}", "4M")
                    self.io(fmt, "small/disk", "read -q -P 7 1M 1M", "read -q -P 0 2M 2M")
                    self.sound(fmt, "small/disk")
                    os.unlink(self.path("small/disk"))

    def test_damaged_images(self):
        """Two blocks in one place, a footer that is not what it was."""
        good = vhd.dynamic(5 * MIB, {0: b"x", 1: b"y"})
        place = struct.unpack(">I", good[1536:1540])[0]
        for name, content in (
            ("shared", vhd.dynamic(5 * MIB, {0: b"x", 1: b"y"}, table=[place, place, vhd.UNUSED])),
            ("head", b"conectiX" + good[8:]),
        ):
            with self.subTest(name):
                with open(self.path(name), "wb") as file:
                    file.write(content)
                out, err, status = self.run_instar("resize", "-f", "vpc", name, "20M", cwd=self.tmp)
                self.assertEqual((out, status), ("", 1))
                self.assertIn("damaged", err)
                with open(self.path(name), "rb") as file:
                    self.assertEqual(file.read(), content)

    def test_differencing_disks(self):
        """A child of a VHD grows where its parent does not show in what is added."""
        for parent, child, works in ((5 * MIB, 5 * MIB, True), (9 * MIB, 5 * MIB, False)):
            with self.subTest(parent=parent):
                self.make("qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", "base", str(parent))
                self.io("vpc", "base", f"write -q -P 5 0 {parent}")
                words = ("create", "-q", "-f", "vpc", "-b", "base", "-F", "vpc", "child", str(child))
                self.assertEqual(self.run_instar(*words, cwd=self.tmp), ("", "", 0))
                out, err, status = self.run_instar("resize", "-f", "vpc", "child", "20M", cwd=self.tmp)
                self.assertEqual(status, 0 if works else 1, out + err)
                if works:
                    self.run_instar("convert", "-f", "vpc", "-O", "raw", "child", "shown", cwd=self.tmp)
                    with open(self.path("shown"), "rb") as file:
                        self.assert_same_bytes(file.read(), b"\5" * parent + bytes(20 * MIB - parent))
                else:
                    self.assertIn("the parent is longer", err)


for _seed in range(SEEDS):
    for _fmt in OPTIONS:
        setattr(TestResize, f"test_{_fmt}_{_seed}", lambda self, fmt=_fmt, seed=_seed: self.resized(fmt, seed))


if __name__ == "__main__":
    unittest.main()
