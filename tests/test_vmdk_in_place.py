"""vmdk images changed in place: what the stock tool shows of them before is what it shows afterwards. It cannot rebase or
resize them itself."""

import os
import random
import unittest

from tests.base import InstarTestBase

MIB = 1 << 20
SEEDS = 40
OPTIONS = ("", "zeroed_grain=on", "adapter_type=lsilogic", "compat6=on")
REFUSED = ("subformat=monolithicFlat", "subformat=streamOptimized", "subformat=twoGbMaxExtentSparse")


class TestVmdkInPlace(InstarTestBase):
    def io(self, name, *commands):
        self.make("qemu-io", "-f", "vmdk", *(word for c in commands for word in ("-c", c)), name)

    def image(self, name, size, rng, options="", backing=None):
        words = ["-o", options] if options else []
        words += ["-b", backing, "-F", "vmdk"] if backing else []
        self.make("qemu-img", "create", "-q", "-f", "vmdk", *words, name, str(size))
        if name == "empty.vmdk":
            return
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(size // 512) * 512
            length = min(rng.choice((512, 4096, 65536, 700 * 1024)), size - at)
            self.io(name, f"write -q -P {rng.randint(1, 255)} {at} {length}")

    def raw(self, name, out):
        self.make("qemu-img", "convert", "-f", "vmdk", "-O", "raw", name, out)
        return self.path(out)

    def sound(self, name):
        out, err, status = self.run_qemu_img("check", "-f", "vmdk", name, cwd=self.tmp)
        self.assertEqual(status, 0, out + err)

    def works(self, *argv):
        out, err, status = self.run_instar(*argv, cwd=self.tmp)
        self.assertEqual(status, 0, out + err)

    def rebased(self, seed):
        """A random overlay on a random base stands on another one afterwards, or on none."""
        rng = random.Random(seed)
        size = rng.choice((MIB, 3 * MIB + 512, 5 * MIB))
        below = [rng.choice((size, size + 2 * MIB)) for _ in "ab"]
        self.image("a.vmdk", below[0], rng, rng.choice(OPTIONS))
        self.image("b.vmdk", below[1], rng, rng.choice(OPTIONS))
        self.image("top.vmdk", size, rng, rng.choice(OPTIONS), rng.choice(("a.vmdk", None)))
        before = self.raw("top.vmdk", "before")
        target = rng.choice(("b.vmdk", "b.vmdk", ""))
        self.works("rebase", "-b", target, *(["-F", "vmdk"] if target else []), "top.vmdk")
        self.assert_bytes_identical(self.raw("top.vmdk", "after"), before)
        self.sound("top.vmdk")
        shown = self.info_json("top.vmdk")
        self.assertEqual(shown.get("backing-filename", ""), target)
        self.io("top.vmdk", "write -q -P 1 0 64k")

    def test_only_the_name(self):
        """-u changes the name and the identity of the parent, nothing else."""
        rng = random.Random(1)
        self.image("a.vmdk", MIB, rng)
        os.mkdir(self.path("d" * 200))
        other = "d" * 200 + "/" + "e" * 200 + ".vmdk"
        self.make("qemu-img", "create", "-q", "-f", "vmdk", other, "1M")
        self.image("top.vmdk", MIB, rng, backing="a.vmdk")
        kept = self.raw("top.vmdk", "kept")
        for name in (other, "a.vmdk", other, "./a.vmdk"):
            self.works("rebase", "-u", "-b", name, "-F", "vmdk", "top.vmdk")
            parent, child = self.info_json(name), self.info_json("top.vmdk")
            self.assertEqual(child["backing-filename"], name)
            self.assertEqual(child["format-specific"]["data"]["parent-cid"], parent["format-specific"]["data"]["cid"])
            self.sound("top.vmdk")
            self.raw("top.vmdk", "shown")
        self.assert_bytes_identical(self.path("shown"), kept)
        self.works("rebase", "-u", "-b", "", "top.vmdk")
        self.assertNotIn("backing-filename", self.info_json("top.vmdk"))

    def test_names_that_do_not_fit(self):
        """Nothing is changed by a rebase that cannot be."""
        rng = random.Random(2)
        self.image("a.vmdk", MIB, rng)
        self.image("top.vmdk", MIB, rng, backing="a.vmdk")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "q.qcow2", "1M")
        before = self.sha256(self.path("top.vmdk"))
        for name, fmt, text in (
            ("q.qcow2", "qcow2", "backing_file must be a vmdk image"),
            ("none.vmdk", "vmdk", "has to be there"),
            ("x" * 1024, "vmdk", "1024"),
            ('a".vmdk', "vmdk", "has to be there"),
        ):
            with self.subTest(name[:20]):
                out, err, status = self.run_instar("rebase", "-u", "-b", name, "-F", fmt, "top.vmdk", cwd=self.tmp)
                self.assertEqual(status, 1, out)
                self.assertIn(text, err)
                self.assertEqual(self.sha256(self.path("top.vmdk")), before)

    def test_as_the_stock_tool_it_is_refused(self):
        rng = random.Random(3)
        self.image("a.vmdk", MIB, rng)
        self.image("top.vmdk", MIB, rng, backing="a.vmdk")
        for argv in (
            ("rebase", "-u", "-b", "a.vmdk", "-F", "vmdk", "top.vmdk"),
            ("rebase", "-b", "", "top.vmdk"),
            ("resize", "top.vmdk", "2M"),
        ):
            with self.subTest(argv):
                stock = self.run_qemu_img(*argv, cwd=self.tmp)
                self.assertEqual(stock[2], 1)
                self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)

    def test_commit(self):
        """Into a base of the same format: the overlay still shows the same, which the stock tool does not manage."""
        for options in OPTIONS:
            with self.subTest(options):
                rng = random.Random(4)
                for name in ("a.vmdk", "top.vmdk"):
                    if os.path.exists(self.path(name)):
                        os.unlink(self.path(name))
                self.image("a.vmdk", 3 * MIB, rng, options)
                self.image("top.vmdk", 3 * MIB, rng, options, "a.vmdk")
                before = self.raw("top.vmdk", "before")
                self.works("commit", "top.vmdk")
                self.assert_bytes_identical(self.raw("a.vmdk", "base"), before)
                self.assert_bytes_identical(self.raw("top.vmdk", "after"), before)
                self.sound("a.vmdk")
                self.sound("top.vmdk")

    def test_into_flat_and_split_images(self):
        """Existing images of several files, which keep their disk's length."""
        rng = random.Random(5)
        with open(self.path("source"), "wb") as file:
            file.write(rng.randbytes(300_000) + bytes(MIB) + rng.randbytes(MIB - 300_000 + 512))
        for subformat in ("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"):
            with self.subTest(subformat):
                name = f"{subformat}.vmdk"
                options = f"subformat={subformat}"
                self.make("qemu-img", "create", "-q", "-f", "vmdk", "-o", options, name, str(2 * MIB + 512))
                cid = self.info_json(name)["format-specific"]["data"]["cid"]
                self.works("convert", "-n", "-f", "raw", "-O", "vmdk", "source", name)
                self.assert_same_disk("source", name, "-f", "raw", "-F", "vmdk")
                self.assertNotEqual(self.info_json(name)["format-specific"]["data"]["cid"], cid)
                self.sound(name)

    def test_what_cannot_be_resized(self):
        for options in REFUSED:
            with self.subTest(options):
                self.make("qemu-img", "create", "-q", "-f", "vmdk", "-o", options, "x.vmdk", "1M")
                before = self.sha256(self.path("x.vmdk"))
                out, err, status = self.run_instar("resize", "x.vmdk", "2M", cwd=self.tmp)
                self.assertEqual(status, 1, out)
                self.assertIn("only images in one", err)
                self.assertEqual(self.sha256(self.path("x.vmdk")), before)

    def resized(self, seed):
        """Data kept, zeroes behind it, room to write into."""
        rng = random.Random(seed)
        old = rng.choice((MIB, 3 * MIB + 512, 40 * MIB, 33 * MIB - 512))
        self.image("top.vmdk", old, rng, rng.choice(OPTIONS))
        with open(self.raw("top.vmdk", "wanted"), "r+b") as wanted:
            for _ in range(rng.randint(1, 3)):
                size = rng.choice((512, 5 * MIB, old + 512, 2 * old, 70 * MIB, 1024 * MIB))
                self.works("resize", "--shrink", "top.vmdk", str(size))
                wanted.truncate(size)
                self.sound("top.vmdk")
                self.assertEqual(self.info_json("top.vmdk")["virtual-size"], size)
                self.assert_same_disk("wanted", "top.vmdk", "-f", "raw", "-F", "vmdk")
        at = rng.randrange(size // 512) * 512
        self.io("top.vmdk", f"write -q -P 9 {at} 512")
        self.make("qemu-io", "-f", "raw", "-c", f"write -q -P 9 {at} 512", "wanted")
        self.assert_same_disk("wanted", "top.vmdk", "-f", "raw", "-F", "vmdk")
        self.sound("top.vmdk")


for _seed in range(SEEDS):
    setattr(TestVmdkInPlace, f"test_rebase_{_seed}", lambda self, seed=_seed: self.rebased(seed))
    setattr(TestVmdkInPlace, f"test_resize_{_seed}", lambda self, seed=_seed: self.resized(1000 + seed))


if __name__ == "__main__":
    unittest.main()
