"""Children of a VHD (vpc) or VHDX: made by convert -B, written to, committed, rebased. The stock tool does not know them; what
they show is read by the helpers, from the specifications, and by ours."""

import json
import os
import random
import unittest

from tests.base import InstarTestBase
from tests.helpers import vhd, vhdx

MIB = 1 << 20
SEEDS = 6
FORMATS = {"vpc": (vhd, "force_size=on", ""), "vhdx": (vhdx, "block_size=1M", "block_size=1M")}


class TestChildren(InstarTestBase):
    """The disks' content is known from what was written into them."""

    def works(self, *argv):
        out, err, status = self.run_instar(*argv, cwd=self.tmp)
        self.assertEqual(status, 0, f"{argv}: {out}{err}")

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def raw(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)

    def changed(self, rng, content):
        """Content with a few other bytes here and there, and zeroes."""
        content = bytearray(content)
        for _ in range(rng.randint(1, 6)):
            length = rng.choice((512, 4096, 70 * 1024, MIB, 2 * MIB))
            at = rng.randrange(len(content) // 512) * 512
            length = min(length, len(content) - at)
            content[at : at + length] = rng.choice((bytes(length), rng.randbytes(length)))
        return bytes(content)

    def parent(self, fmt, name, content):
        self.raw("parent.raw", content)
        options = FORMATS[fmt][1]
        self.make("qemu-img", "convert", "-f", "raw", "-O", fmt, "-o", options, "parent.raw", name)

    def child(self, fmt, rng, below, name, content):
        """A child that shows other things than `below`, which shows `content`: what the stock tool wrote into an overlay."""
        options = FORMATS[fmt][2]
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", fmt, "overlay")
        after = self.changed(rng, content)
        self.raw("after.raw", after)
        for at in range(0, len(after), 65536):
            if after[at : at + 65536] != content[at : at + 65536]:
                length = min(65536, len(after) - at)
                self.raw("piece", after[at : at + length])
                self.make("qemu-io", "-f", "qcow2", "-c", f"write -q -s {self.path('piece')} {at} {length}", "overlay")
        words = ["-o", options] if options else []
        self.works("convert", "-f", "qcow2", "-O", fmt, *words, "-B", below, "-F", fmt, "overlay", name)
        return after

    def assert_shows(self, fmt, name, below, content):
        """Both readers see that, and the check finds nothing."""
        self.works("check", "-f", fmt, name)
        self.assert_same_bytes(FORMATS[fmt][0].shown(self.read(name), below), content)
        self.works("convert", "-f", fmt, "-O", "raw", name, "shown.raw")
        self.assert_same_bytes(self.read("shown.raw"), content)

    def lives(self, fmt, seed):
        """A child is made, written over, committed into, rebased to and fro, and flattened."""
        rng = random.Random(seed)
        size = rng.choice((MIB, 5 * MIB, 9 * MIB + 512))
        old = self.changed(rng, bytes(size))
        new = self.changed(rng, old)
        self.parent(fmt, "old", old)
        self.parent(fmt, "new", new)
        content = self.child(fmt, rng, "old", "child", old)
        self.assert_shows(fmt, "child", old, content)
        info = json.loads(self.run_instar("info", "--output=json", "child", cwd=self.tmp)[0])
        self.assertEqual((info["backing-filename"], info["virtual-size"]), ("old", size))

        content = self.changed(rng, content)
        self.raw("source", content)
        self.works("convert", "-n", "-f", "raw", "-O", fmt, "source", "child")
        self.assert_shows(fmt, "child", old, content)

        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "old", "-F", fmt, "top")
        at = rng.randrange(size // 65536) * 65536
        self.make("qemu-io", "-f", "qcow2", "-c", f"write -q -P 201 {at} 64k", "top")
        self.make("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "child", "-F", fmt, "top")
        self.works("commit", "top")
        content = content[:at] + b"\xc9" * 65536 + content[at + 65536 :]
        self.assert_shows(fmt, "child", old, content)

        before = self.sha256(self.path("old"))
        self.works("rebase", "-f", fmt, "-b", "new", "-F", fmt, "child")
        self.assert_shows(fmt, "child", new, content)
        os.mkdir(self.path("folder"))
        os.link(self.path("new"), self.path("folder/other"))
        self.works("rebase", "-u", "-f", fmt, "-b", "folder/other", "-F", fmt, "child")
        self.assert_shows(fmt, "child", new, content)
        info = json.loads(self.run_instar("info", "--output=json", "child", cwd=self.tmp)[0])
        self.assertEqual(info["backing-filename"], "folder/other")
        if rng.random() < 0.5:
            self.works("commit", "-f", fmt, "-d", "child")
            self.assert_shows(fmt, "new", b"", content)
        else:
            self.works("rebase", "-f", fmt, "-b", "", "child")
            self.assert_shows(fmt, "child", b"", content)
            # Now the stock tool can read it, too, and write to it.
            self.raw("wanted", content)
            self.assert_same_disk("wanted", "child", "-f", "raw", "-F", fmt)
            self.make("qemu-io", "-f", fmt, "-c", "write -q -P 3 0 64k", "child")
            self.works("check", "-f", fmt, "child")
        self.assertEqual(self.sha256(self.path("old")), before)

    def test_only_what_differs_is_written(self):
        content = random.Random(1).randbytes(9 * MIB)
        for fmt, (_, _, options) in FORMATS.items():
            with self.subTest(fmt):
                self.parent(fmt, "base", content)
                self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", fmt, "overlay")
                self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 3M 64k", "overlay")
                words = ["-o", options] if options else []
                self.works("convert", "-O", fmt, *words, "-B", "base", "-F", fmt, "overlay", "child")
                wanted = content[: 3 * MIB] + b"\1" * 65536 + content[3 * MIB + 65536 :]
                self.assert_shows(fmt, "child", content, wanted)
                self.assertLess(os.stat(self.path("child")).st_blocks * 512, 5 * MIB)
                for name in ("base", "overlay", "child"):
                    os.unlink(self.path(name))

    def test_what_is_refused(self):
        """And then nothing has changed, or is there."""
        for fmt, (_, options, _) in FORMATS.items():
            self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "base", "5M")
            self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "lone", "5M")
            self.make("qemu-img", "create", "-q", "-f", "raw", "base.raw", "5M")
            self.works("create", "-q", "-f", fmt, "-b", "base", "-F", fmt, "child")
            for argv, text in (
                (("rebase", "-f", fmt, "-b", "base.raw", "-F", "raw", "child"), "must be a VHD"),
                (("rebase", "-u", "-f", fmt, "-b", "none", "-F", fmt, "child"), "has to be there"),
                (("rebase", "-f", fmt, "-b", "base", "-F", fmt, "lone"), "has no parent"),
                (("convert", "-f", "raw", "-O", fmt, "-B", "base.raw", "-F", "raw", "base.raw", "x"), "must be a VHD"),
                (("convert", "-f", "raw", "-O", fmt, "-B", "base", "-F", "raw", "base.raw", "x"), "must be a VHD"),
            ):
                with self.subTest(argv):
                    before = [self.sha256(self.path(name)) for name in ("child", "lone")]
                    out, err, status = self.run_instar(*argv, cwd=self.tmp)
                    self.assertEqual((out, status), ("", 1), err)
                    self.assertIn(text, err)
                    self.assertEqual([self.sha256(self.path(name)) for name in ("child", "lone")], before)
                    self.assertFalse(os.path.exists(self.path("x")))
            for name in ("base", "lone", "base.raw", "child"):
                os.unlink(self.path(name))

    def test_as_the_stock_tool_it_is_refused(self):
        for fmt, (_, options, _) in FORMATS.items():
            self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "base", "5M")
            self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "image", "5M")
            for argv in (
                ("rebase", "-f", fmt, "-b", "base", "-F", fmt, "image"),
                ("rebase", "-u", "-f", fmt, "-b", "base", "-F", fmt, "image"),
                ("rebase", "-f", fmt, "-b", "", "image"),
                ("convert", "-f", fmt, "-O", fmt, "-B", "base", "-F", fmt, "image", "x"),
            ):
                with self.subTest(argv):
                    stock = self.run_qemu_img(*argv, cwd=self.tmp)
                    self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
                    self.assertEqual(stock[2], 1)
            os.unlink(self.path("base"))
            os.unlink(self.path("image"))

    def test_names_are_changed_again_and_again(self):
        """The metadata have room for it."""
        for fmt, (_, options, _) in FORMATS.items():
            self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "base", "5M")
            self.works("create", "-q", "-f", fmt, "-b", "base", "-F", fmt, "child")
            os.mkdir(self.path("d" * 200))
            long = "d" * 200 + "/" + "e" * 200
            os.link(self.path("base"), self.path(long))
            for name in ("base", long, "./base", long, "base"):
                with self.subTest(fmt=fmt, name=name[:10]):
                    self.works("rebase", "-u", "-f", fmt, "-b", name, "-F", fmt, "child")
                    info = json.loads(self.run_instar("info", "--output=json", "child", cwd=self.tmp)[0])
                    self.assertEqual(info["backing-filename"], name)
                    self.assert_shows(fmt, "child", b"", bytes(5 * MIB))
            for name in ("base", "child", long):
                os.unlink(self.path(name))
            os.rmdir(self.path("d" * 200))


for _seed in range(SEEDS):
    for _fmt in FORMATS:
        setattr(TestChildren, f"test_{_fmt}_{_seed}", lambda self, fmt=_fmt, seed=_seed: self.lives(fmt, seed))


if __name__ == "__main__":
    unittest.main()
