"""Images with one table of blocks or two levels of tables changed in place: convert -n, commit, rebase and resize, next to
the stock tool; both results are read and checked by it."""

import os
import random
import shutil
import unittest

from tests.base import QEMU_IO, InstarTestBase

SIZE = 5 << 20
# Not clusters of an odd number of sectors: the stock tool makes duplicates of them.
FORMATS = {
    "vdi": ("", "static=on"),
    "parallels": ("", "cluster_size=64k", "cluster_size=192k"),
    "qed": ("", "cluster_size=4k,table_size=2"),
    "qcow": ("",),
    "vpc": ("force_size=on", "subformat=fixed,force_size=on"),
    "vhdx": ("block_size=1M", "subformat=fixed,block_state_zero=off"),
}


# Names that do not fit into the header's sector.
LONG = "./" * 250 + "new"
LONGER = "./" * 400 + "old"


class InPlaceTestBase(InstarTestBase):
    def io(self, fmt, name, *commands):
        self.make(QEMU_IO, "-f", fmt, *(word for c in commands for word in ("-c", c)), name, cwd=self.tmp)

    def disk(self, fmt, name):
        """What the image shows, as the stock tool reads it."""
        self.make("qemu-img", "convert", "-f", fmt, "-O", "raw", name, "disk.out", cwd=self.tmp)
        with open(self.path("disk.out"), "rb") as file:
            return file.read()

    def sound(self, fmt, name):
        out, err, status = self.run_qemu_img("check", "-f", fmt, name, cwd=self.tmp)
        self.assertIn(status, (0, 63), out + err)

    def source(self, size=SIZE):
        content = random.Random(size)
        with open(self.path("source"), "wb") as file:
            file.truncate(size)
            for at, length in ((0, 5000), (300_000, 70_000), (1_500_000, 1_300_000), (size - 700, 700)):
                file.seek(at)
                file.write(content.randbytes(length))

    def image(self, fmt, options, name="target", size=SIZE):
        words = ["-o", options] if options else []
        self.make("qemu-img", "create", "-q", "-f", fmt, *words, name, str(size), cwd=self.tmp)
        self.io(fmt, name, "write -P 9 100k 300k", "write -P 8 3000k 100k")

    def both(self, name, *argv):
        """Runs ours on NAME and the stock tool on a copy that is called NAME.theirs afterwards."""
        keep = self.path(f"{name}.before")
        shutil.copy(self.path(name), keep)
        theirs = self.run_qemu_img(*argv, cwd=self.tmp)
        os.rename(self.path(name), self.path(f"{name}.theirs"))
        os.rename(keep, self.path(name))
        ours = self.run_as_qemu_img(*argv, cwd=self.tmp)
        self.assertEqual(ours, theirs, " ".join(argv))
        return ours[2]


class TestConvert(InPlaceTestBase):
    def test_into_existing_images(self):
        for fmt, every in FORMATS.items():
            for options in every:
                with self.subTest(fmt=fmt, options=options):
                    self.source()
                    self.image(fmt, options)
                    self.assertEqual(self.both("target", "convert", "-n", "-O", fmt, "source", "target"), 0)
                    self.sound(fmt, "target")
                    with open(self.path("source"), "rb") as file:
                        self.assert_same_bytes(self.disk(fmt, "target"), file.read())
                    self.assert_same_bytes(self.disk(fmt, "target.theirs"), self.disk(fmt, "target"))

    def test_a_longer_image_keeps_its_end(self):
        for fmt in FORMATS:
            with self.subTest(fmt=fmt):
                self.source(2 << 20)
                self.image(fmt, "")
                self.assertEqual(self.both("target", "convert", "-n", "-O", fmt, "source", "target"), 0)
                self.sound(fmt, "target")
                self.assert_same_bytes(self.disk(fmt, "target"), self.disk(fmt, "target.theirs"))

    def test_into_overlays(self):
        """Zeroes hide what is below."""
        for fmt in ("qed", "qcow"):
            with self.subTest(fmt=fmt):
                self.source()
                self.make("qemu-img", "create", "-q", "base", str(SIZE), cwd=self.tmp)
                self.io("raw", "base", "write -P 3 0 5M")
                self.make("qemu-img", "create", "-q", "-f", fmt, "-b", "base", "-F", "raw", "target", cwd=self.tmp)
                self.io(fmt, "target", "write -P 9 100k 300k")
                self.assertEqual(self.both("target", "convert", "-n", "-O", fmt, "source", "target"), 0)
                self.sound(fmt, "target")
                self.assert_same_bytes(self.disk(fmt, "target"), self.disk("raw", "source"))

    def test_refusals(self):
        for fmt in FORMATS:
            with self.subTest(fmt=fmt):
                self.source()
                self.image(fmt, "", size=4 << 20)
                self.assertEqual(self.both("target", "convert", "-n", "-O", fmt, "source", "target"), 1)
                if fmt != "qcow":
                    self.assertEqual(self.both("target", "convert", "-n", "-c", "-O", fmt, "source", "target"), 1)

    def test_compressed_clusters(self):
        """Written over, and written anew (which the stock tool does, and then ends with 1 without a word)."""
        self.source()
        self.image("qcow", "", "plain")
        for words in ([], ["-c"]):
            self.run_qemu_img("convert", "-c", "-f", "qcow", "-O", "qcow", "plain", "target", cwd=self.tmp)
            out = self.run_as_qemu_img("convert", "-n", *words, "-O", "qcow", "source", "target", cwd=self.tmp)
            self.assertEqual(out, ("", "", 0))
            self.assert_same_bytes(self.disk("qcow", "target"), self.disk("raw", "source"))

    def test_backed_targets(self):
        for fmt in ("qed", "qcow"):
            with self.subTest(fmt=fmt):
                self.source()
                self.make("qemu-img", "create", "-q", "-f", "qcow2", "below", str(SIZE), cwd=self.tmp)
                self.io("qcow2", "below", "write -P 3 0 5M")
                self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "below", "-F", "qcow2", "top", cwd=self.tmp)
                self.io("qcow2", "top", "write -P 9 100k 300k", "write -z 1M 1M", "write -P 1 5000k 100k")
                words = ["-O", fmt, "-B", "below", "-F", "qcow2", "top"]
                outcomes = [
                    run("convert", *words, name, cwd=self.tmp)
                    for run, name in ((self.run_as_qemu_img, "ours"), (self.run_qemu_img, "theirs"))
                ]
                self.assertEqual(outcomes, [("", "", 0)] * 2)
                self.sound(fmt, "ours")
                self.assert_same_bytes(self.disk(fmt, "ours"), self.disk("qcow2", "top"))
                self.assert_same_bytes(self.disk(fmt, "theirs"), self.disk("qcow2", "top"))

    def test_more_than_waits_in_memory(self):
        """So many clusters that their entries are written while data still comes: into new images, and existing ones."""
        size = 160 << 20
        block = random.Random(5).randbytes(1 << 20)
        with open(self.path("source"), "wb") as file:
            for number in range(size >> 20):
                file.write(bytes([number]) + block[1:])
        for fmt, options in (("qed", "cluster_size=4k"), ("qcow", "encryption=off"), ("parallels", "cluster_size=1k")):
            with self.subTest(fmt=fmt):
                # The check of QED counts leaks where there are none, of so many tables.
                self.run_qemu_img("convert", "-o", options, "-O", fmt, "source", "theirs", cwd=self.tmp)
                sound = self.run_qemu_img("check", "-f", fmt, "theirs", cwd=self.tmp)
                os.unlink(self.path("theirs"))
                for words in (["-o", options], ["-n"]):
                    done = self.run_instar("convert", *words, "-O", fmt, "source", "large", cwd=self.tmp)
                    self.assertEqual(done, ("", "", 0))
                    checked = self.run_qemu_img("check", "-f", fmt, "large", cwd=self.tmp)
                    self.assertEqual(checked[2], sound[2], checked)
                    self.make("qemu-img", "compare", "-f", "raw", "-F", fmt, "source", "large", cwd=self.tmp)
                    # An empty one for the second time.
                    self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, "large", str(size), cwd=self.tmp)
                os.unlink(self.path("large"))


class TestCommit(InPlaceTestBase):
    def test_into(self):
        for fmt, every in FORMATS.items():
            for options in every:
                with self.subTest(fmt=fmt, options=options):
                    self.image(fmt, options, "lower")
                    self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "lower", "-F", fmt, "top", cwd=self.tmp)
                    self.io("qcow2", "top", "write -P 7 64k 130k", "write -z 2M 70k", "write -P 8 5000k 100k")
                    before = self.disk("qcow2", "top")
                    # The stock tool cannot open a lower Parallels image anew; for the rest see the disk.
                    out, err, status = self.run_instar("commit", "top", cwd=self.tmp)
                    self.assertEqual((out, err, status), ("Image committed.\n", "", 0))
                    self.sound(fmt, "lower")
                    self.assert_same_bytes(self.disk(fmt, "lower"), before)
                    self.assert_same_bytes(self.disk("qcow2", "top"), before)

    def test_of(self):
        for fmt in ("qed", "qcow"):
            with self.subTest(fmt=fmt):
                self.make("qemu-img", "create", "-q", "lower", str(SIZE), cwd=self.tmp)
                self.io("raw", "lower", "write -P 3 0 5M")
                shutil.copy(self.path("lower"), self.path("lower.before"))
                self.make("qemu-img", "create", "-q", "-f", fmt, "-b", "lower", "-F", "raw", "top", cwd=self.tmp)
                self.io(fmt, "top", "write -P 7 64k 130k", "write -P 8 5000k 100k")
                shutil.copy(self.path("top"), self.path("top.before"))
                theirs = self.run_qemu_img("commit", "-f", fmt, "top", cwd=self.tmp)
                made = {}
                for name in ("lower", "top"):
                    with open(self.path(name), "rb") as file:
                        made[name] = file.read()
                    os.rename(self.path(f"{name}.before"), self.path(name))
                self.assertEqual(self.run_as_qemu_img("commit", "-f", fmt, "top", cwd=self.tmp), theirs)
                for name, content in made.items():
                    with open(self.path(name), "rb") as file:
                        self.assert_same_bytes(file.read(), content, name)

    def test_larger_overlays(self):
        for fmt in ("vdi", "qed", "qcow"):
            with self.subTest(fmt=fmt):
                self.image(fmt, "", "lower")
                words = ["-f", "qcow2", "-b", "lower", "-F", fmt, "top", "6M"]
                self.make("qemu-img", "create", "-q", *words, cwd=self.tmp)
                self.io("qcow2", "top", "write -P 7 5500k 130k")
                shutil.copy(self.path("top"), self.path("top.again"))
                status = self.both("lower", "commit", "-d", "top")
                self.assertEqual(status, 0 if fmt == "qed" else 1)
                self.sound(fmt, "lower")
                self.assert_same_bytes(self.disk(fmt, "lower"), self.disk(fmt, "lower.theirs"))


class TestRebase(InPlaceTestBase):
    def setUp(self):
        super().setUp()
        for number, name in enumerate(("old", "new"), 1):
            self.make("qemu-img", "create", "-q", name, str(SIZE), cwd=self.tmp)
            self.io("raw", name, f"write -P {number} 0 2M", "write -P 77 2M 1M", f"write -P {number} 4M 1M")

    def overlay(self, fmt, *argv):
        self.make("qemu-img", "create", "-q", "-f", fmt, *argv, "top", str(SIZE), cwd=self.tmp)
        self.io(fmt, "top", "write -P 9 100k 300k", "write -z 1M 64k")

    def test_qed(self):
        names = ("new", "old", LONG, LONGER)
        for first, then in (
            (("-b", "old", "-F", "raw"), names),
            (("-b", LONGER, "-F", "raw"), (LONG, LONGER)),
            ((), names[:1]),
        ):
            for name in (*then, ""):
                with self.subTest(first=first, name=name):
                    self.overlay("qed", *first)
                    before = self.disk("qed", "top")
                    self.assertEqual(self.both("top", "rebase", "-f", "qed", "-b", name, "-F", "raw", "top"), 0)
                    self.sound("qed", "top")
                    self.assert_same_bytes(self.disk("qed", "top"), before)
                    ours, theirs = self.info_json("top"), self.info_json("top.theirs")
                    for key in ("backing-filename", "backing-filename-format"):
                        self.assertEqual(ours.get(key), theirs.get(key))

    def test_name_only(self):
        self.overlay("qed", "-b", "old", "-F", "raw")
        for name, fmt in (("nosuch", "raw"), ("x", "qcow2"), ("", "raw")):
            self.assertEqual(self.both("top", "rebase", "-u", "-f", "qed", "-b", name, "-F", fmt, "top"), 0)
            with open(self.path("top"), "rb") as ours, open(self.path("top.theirs"), "rb") as theirs:
                self.assert_same_bytes(ours.read(), theirs.read(), name)

    def test_refused(self):
        for fmt, first in (("qcow", ["-b", "old", "-F", "raw"]), ("vdi", []), ("parallels", [])):
            for words in ([], ["-u"]):
                self.overlay(fmt, *first)
                self.assertEqual(self.both("top", "rebase", *words, "-f", fmt, "-b", "new", "-F", "raw", "top"), 1)


class TestResize(InPlaceTestBase):
    def test_as_the_stock_tool(self):
        for fmt in FORMATS:
            for words in (
                ["8M"],
                ["+1"],
                ["+512"],
                ["5M"],
                ["--shrink", "1M"],
                ["--shrink", "100"],
                ["2M"],
                ["--preallocation=metadata", "8M"],
                ["--preallocation=full", "8M"],
                ["1P"],
                ["64T"],
            ):
                with self.subTest(fmt=fmt, words=words):
                    self.image(fmt, "")
                    self.both("target", "resize", "-f", fmt, *words[:-1], "target", words[-1])
                    with open(self.path("target"), "rb") as ours, open(self.path("target.theirs"), "rb") as theirs:
                        self.assert_same_bytes(ours.read(), theirs.read())

    def test_over_a_longer_image(self):
        self.make("qemu-img", "create", "-q", "base", "8M", cwd=self.tmp)
        self.make("qemu-img", "create", "-q", "-f", "qed", "-b", "base", "-F", "raw", "target", "5M", cwd=self.tmp)
        self.assertEqual(self.both("target", "resize", "-f", "qed", "target", "6M"), 1)

    def test_what_the_stock_tool_refuses(self):
        """Growing and shrinking again and again, with writes by the stock tool between: the disk is as a raw one."""
        for fmt, options in (("vdi", ""), ("vdi", "static=on"), ("parallels", ""), ("parallels", "cluster_size=4k")):
            with self.subTest(fmt=fmt, options=options):
                numbers = random.Random(7)
                self.image(fmt, options)
                disk = self.disk(fmt, "target")
                for _ in range(8):
                    size = numbers.choice((1, 3, 6, 9, 30, 150)) * (1 << 20) + 512 * numbers.randrange(3)
                    words = ["--shrink"] if size < len(disk) else []
                    done = self.run_instar("resize", "-f", fmt, *words, "target", str(size), cwd=self.tmp)
                    self.assertEqual(done, ("Image resized.\n", "", 0))
                    disk = disk[:size] + bytes(max(0, size - len(disk)))
                    self.sound(fmt, "target")
                    self.assert_same_bytes(self.disk(fmt, "target"), disk, size)
                    at, byte = numbers.randrange(size // 512) * 512, numbers.randrange(1, 256)
                    length = min(size - at, 512 * numbers.randrange(1, 5000))
                    self.io(fmt, "target", f"write -P {byte} {at} {length}")
                    disk = disk[:at] + bytes([byte]) * length + disk[at + length :]
                    self.assert_same_bytes(self.disk(fmt, "target"), disk, (at, length))

    def test_refused_by_ours_too(self):
        for fmt in ("vdi", "parallels"):
            self.image(fmt, "")
            for words in (["--preallocation=metadata", "8M"], ["1E"]):
                out, err, status = self.run_instar("resize", "-f", fmt, *words[:-1], "target", words[-1], cwd=self.tmp)
                self.assertEqual((out, status), ("", 1))
                self.assertTrue(err.startswith("instar: "), err)


if __name__ == "__main__":
    unittest.main()
