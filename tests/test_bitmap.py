"""bitmap, next to the stock tool: words, exit status, what the bitmaps hold, odd images, random histories."""

import os
import random
import re
import shutil
import struct
from pathlib import Path

from tests.base import InstarTestBase
from tests.helpers.bitmaps import bitmap_bits, directory

KIB, MIB = 1 << 10, 1 << 20
# Random histories; INSTAR_BITMAP_SEEDS runs more of them.
SEEDS = int(os.environ.get("INSTAR_BITMAP_SEEDS", "4"))
FIRST_SEED = int(os.environ.get("INSTAR_BITMAP_FIRST_SEED", "0"))
OBJECT = ("--object", "secret,id=s,data=swordfish")


def plain(outcome):
    """Nodes that nobody has named are numbered at random by the stock tool."""
    out, err, status = outcome
    # What it warns of ends without an end of line.
    return out, re.sub(r"#block\d+", "#block", err).replace("to fix.\n", "to fix."), status


class BitmapTest(InstarTestBase):
    def create(self, name="image", size=10 * MIB, options="", fmt="qcow2"):
        self.make("qemu-img", "create", "-q", "-f", fmt, *(["-o", options] if options else []), name, str(size))

    def add(self, name, image="image", granularity=None, writes=()):
        self.make("qemu-img", "bitmap", "--add", *(["-g", granularity] if granularity else []), image, name)
        if writes:
            self.make("qemu-io", *[part for at, size in writes for part in ("-c", f"write {at} {size}")], image)

    def bitmaps(self, path):
        """Names, flags, granularities and bits."""
        data = Path(path).read_bytes()
        if not data[95] & 1:
            return []
        names = [entry[0] for entry in directory(data)]
        return [(name, *bitmap_bits(path, name)) for name in names]

    def both(self, *argv, image="image", version=None):
        """Both tools by the stock tool's name, each in a folder of its own; returns the outcome. Ours stays."""
        theirs = self.path("theirs")
        self.addCleanup(shutil.rmtree, theirs, ignore_errors=True)
        shutil.rmtree(theirs, ignore_errors=True)
        shutil.copytree(self.tmp, theirs, ignore=shutil.ignore_patterns("theirs", "bin"))
        expected = plain(self.run_qemu_img("bitmap", *argv, cwd=theirs))
        actual = plain(self.run_as_qemu_img("bitmap", *argv, cwd=self.tmp, version=version))
        self.assertEqual(actual, expected, argv)
        ours, theirs_image = self.path(image), os.path.join(theirs, image)
        if os.path.exists(ours):
            self.assertEqual(self.shown(ours), self.shown(theirs_image), argv)
            with open(ours, "rb") as file:
                version_3 = file.read(8) == b"QFI\xfb\0\0\0\3"
            if version_3:
                self.assertEqual(self.bitmaps(ours), self.bitmaps(theirs_image), argv)
        shutil.rmtree(theirs)
        return actual

    def shown(self, path):
        """`info` and `measure`, but for what depends on the layout."""
        said = self.run_qemu_img("info", "--output=json", "-U", os.path.basename(path), cwd=os.path.dirname(path))
        layout = r'"(actual-size|virtual-size)": \d+|"c?id": \d+'
        if '"format": "qcow2"' not in said[0]:
            return re.sub(layout, "", said[0])
        measured = self.run_qemu_img("measure", "-O", "qcow2", os.path.basename(path), cwd=os.path.dirname(path))
        # How much of the disk is data goes by the holes of the file below, which a copy need not have.
        size_of_bitmaps = [line for line in measured[0].splitlines() if line.startswith("bitmaps")]
        return re.sub(layout, "", said[0]), size_of_bitmaps, measured[2]

    def mark(self, image, name, flag=1, entry=None):
        """Makes a bitmap inconsistent; `entry`: what its table's first entry says then."""
        data = bytearray(Path(self.path(image)).read_bytes())
        for found, table, _, flags, granularity in list(directory(data)):
            if found == name:
                wanted = struct.pack(">IBB", flags, 1, granularity)
                at = data.find(name.encode(), data.find(wanted)) if wanted in data else -1
                while data[at - 12 : at - 6] != wanted:
                    at = data.find(name.encode(), at + 1)
                struct.pack_into(">I", data, at - 12, flags | flag)
                if entry is not None:
                    struct.pack_into(">Q", data, table, entry)
        Path(self.path(image)).write_bytes(data)


class TestWords(BitmapTest):
    """Arguments and what is refused: texts and exit status."""

    def test_arguments(self):
        self.create()
        self.create("other")
        self.add("there")
        for argv in (
            (),
            ("image", "there"),
            ("--add",),
            ("--add", "image"),
            ("--add", "image", "a", "b"),
            ("--add", "-g", "x", "image", "a"),
            ("--add", "-g", "", "image", "a"),
            ("--add", "-g", "1e3", "image", "a"),
            ("--add", "-g", "-1", "image", "a"),
            ("--add", "-g", "9E", "image", "a"),
            ("--add", "-g", "511", "image", "a"),
            ("--add", "-g", "768", "image", "a"),
            ("--add", "-g", "4G", "image", "a"),
            ("--add", "-g", "1", "image", "there"),
            ("--add", "-g", "1", "image", ""),
            ("--add", "image", ""),
            ("--add", "image", "there"),
            ("--add", "image", "n" * 1024),
            ("--clear", "-g", "4k", "image", "there"),
            ("--clear", "-b", "image", "image", "there"),
            ("--clear", "-F", "raw", "image", "there"),
            ("--merge", "there", "-F", "raw", "image", "there"),
            ("--add", "--image-opts", "-f", "qcow2", "image", "a"),
            ("--add", "--image-opts", "-f", "qcow2", "image"),
            ("--add", "-f", "nosuch", "image", "a"),
            ("--add", "absent", "a"),
            ("--add", ".", "a"),
            ("--add", "--nosuch", "image", "a"),
            ("--add", "-q", "image", "a"),
            ("--add", "-U", "image", "a"),
            ("--add=x", "image", "a"),
            ("--add", "-g"),
            ("--merge",),
            ("--merge", "image", "there"),
            ("--remove-all", "image"),
            ("--add", "--object", "nosuch,id=x", "image", "a"),
            ("--object", "nosuch,id=x"),
            ("--merge", "nosuch", "image", "there"),
            ("--merge", "there", "image", "nosuch"),
            ("--remove", "image", "nosuch"),
            ("--clear", "image", "nosuch"),
            ("--enable", "image", "nosuch"),
            ("--disable", "image", "nosuch"),
            ("--merge", "there", "-b", "absent", "image", "there"),
            ("--merge", "there", "-b", "absent", "absent", "there"),
            ("--merge", "there", "-b", "image", "image", "there"),
            ("--merge", "there", "-b", "other", "-F", "nosuch", "image", "there"),
        ):
            with self.subTest(argv=argv):
                self.assertEqual(self.both(*argv)[2], 1)

    def test_what_was_done_before_an_action_that_fails_stays_done(self):
        self.create()
        self.add("there")
        for argv in (
            ("--add", "--merge", "nosuch", "image", "new"),
            ("--disable", "--merge", "nosuch", "image", "new"),
            ("--remove", "--clear", "image", "new"),
            ("--add", "--add", "image", "other"),
        ):
            with self.subTest(argv=argv):
                self.assertEqual(self.both(*argv)[2], 1)

    def test_images_that_cannot_have_any(self):
        for fmt in ("raw", "vmdk", "vdi", "vpc", "vhdx", "qed", "qcow", "parallels"):
            self.create(f"i.{fmt}", fmt=fmt)
            for argv in (("--add",), ("--remove",), ("--merge", "x"), ("--add", "-f", fmt)):
                with self.subTest(fmt=fmt, argv=argv):
                    self.assertEqual(self.both(*argv, f"i.{fmt}", "x", image=f"i.{fmt}")[2], 1)
        self.create("old", options="compat=0.10")
        self.create("new")
        self.add("a", "new")
        for argv in (("--add",), ("--add", "-g", "512"), ("--remove",), ("--merge", "a", "-b", "new")):
            with self.subTest(argv=argv):
                self.assertEqual(self.both(*argv, "old", "x", image="old")[2], 1)
        for source in ("old", "i.raw", "i.vdi"):
            with self.subTest(source=source):
                self.assertEqual(self.both("--merge", "a", "-b", source, "new", "a", image="new")[2], 1)

    def test_bitmaps_that_are_too_large(self):
        self.create("large", 1 << 50)
        self.create("fits", 16 << 40)
        for argv in (("-g", "512", "large"), ("-g", "64k", "large"), ("-g", "512", "fits"), ("-g", "4k", "fits")):
            with self.subTest(argv=argv):
                ours = plain(self.run_as_qemu_img("bitmap", "--add", *argv, "a", cwd=self.tmp))
                if ours[2] == 0:
                    self.make("qemu-img", "bitmap", "--remove", argv[-1], "a")
                self.assertEqual(ours, plain(self.run_qemu_img("bitmap", "--add", *argv, "a", cwd=self.tmp)))

    def test_disks_of_different_sizes(self):
        self.create()
        self.create("other", 20 * MIB)
        self.add("a")
        self.add("b", "other")
        self.assertEqual(self.both("--merge", "b", "-b", "other", "image", "a")[2], 1)

    def test_an_image_in_use_is_left_alone(self):
        self.create()
        with self.held("image"):
            _, err, status = self.run_instar("bitmap", "--add", self.path("image"), "a")
        self.assertEqual(status, 1)
        self.assertIn("lock", err)

    def test_remove_all_is_of_release_11(self):
        self.create()
        self.add("a", writes=[(0, MIB)])
        self.add("b")
        run = lambda *argv: self.run_as_qemu_img("bitmap", *argv, cwd=self.tmp, version="11.1.3")  # noqa: E731
        self.assertEqual(run("--remove-all", "image", "a"), ("", "qemu-img: Expecting filename\n", 1))
        self.assertEqual(run("--remove-all", "--clear", "image")[2], 1)
        self.assertIn("--remove-all", run("image", "a")[1])
        self.assertIn("ambiguous", run("--r", "image", "a")[1])
        self.assertEqual(run("--remove-all", "--add", "image", "c"), ("", "", 0))
        self.assertEqual([entry[0] for entry in self.bitmaps(self.path("image"))], ["c"])
        self.assertEqual(run("--remove-all", "image"), ("", "", 0))
        self.assertEqual(self.bitmaps(self.path("image")), [])
        self.assert_check_clean(self.path("image"))


class TestActions(BitmapTest):
    def done(self, *argv, **kwargs):
        self.assertEqual(self.both(*argv, **kwargs), ("", "", 0), argv)
        self.assert_check_clean(self.path(kwargs.get("image", "image")))

    def test_each_action(self):
        for options in (
            "",
            "cluster_size=512",
            "cluster_size=2M",
            "extended_l2=on",
            "refcount_bits=1",
            "lazy_refcounts=on",
        ):
            with self.subTest(options=options):
                self.create(options=options)
                self.done("--add", "image", "a")
                self.done("--add", "-g", "512", "--disable", "image", "b")
                self.make("qemu-io", "-c", "write 1M 70k", "image")
                self.done("--add", "--merge", "a", "image", "c")
                self.done("--enable", "image", "b")
                self.make("qemu-io", "-c", "write 5M 1k", "-c", "write 9M 1M", "image")
                self.done("--merge", "b", "--merge", "c", "--merge", "a", "--disable", "image", "c")
                self.done("--merge", "c", "image", "b")
                self.done("--merge", "a", "image", "a")
                self.done("--clear", "image", "a")
                self.done("--remove", "image", "b")
                self.done("--remove", "image", "c")
                self.done("--remove", "image", "a")

    def test_names_and_ways_to_name_an_image(self):
        self.create()
        self.create("other")
        self.add("b", "other", "4k", [(2 * MIB, 100 * KIB)])
        opts = "driver=qcow2,file.filename="
        for argv in (
            ("--add", "image", "n" * 1023),
            ("--add", "image", "ä€"),
            ("--add", "-g", "0", "image", "nothing"),
            ("--add", "-g", "4294971392", "image", "32 bits"),
            ("--add", "-g", "2G", "image", "large"),
            ("--clear", "-g", "0", "image", "large"),
            ("--add", "--image-opts", f"{opts}image", "a"),
            ("--add", "--merge", "b", "-b", "other", "-F", "qcow2", "-f", "qcow2", "image", "x"),
            ("--add", "--merge", "b", "-b", 'json:{"driver":"qcow2","file.filename":"other"}', "image", "y"),
            ("--ad", "--me", "a", "image", "z"),
        ):
            with self.subTest(argv=argv):
                self.done(*argv)

    def test_merging_of_other_granularities_and_sizes_of_clusters(self):
        chance = random.Random("merging")
        for number in range(8):
            with self.subTest(number=number):
                size = chance.choice([10 * MIB, 10 * MIB + 512, 64 * KIB, 100 * MIB])
                for name in ("image", "other"):
                    self.create(name, size, f"cluster_size={chance.choice(['512', '4k', '64k', '2M'])}")
                    writes = [(chance.randrange(0, size, 512), 512) for _ in range(chance.randint(0, 12))]
                    granularity = chance.choice(["512", "4k", "64k", "1M", "2G"])
                    self.add("a", name, granularity, [*writes, (0, size)] if number == 3 else writes)
                self.done("--merge", "a", "-b", "other", "image", "a")

    def test_inconsistent_ones(self):
        self.create()
        for name in "abc":
            self.add(name, writes=[(0, 100 * KIB)])
        self.mark("image", "b")
        for argv in (("--clear",), ("--enable",), ("--disable",), ("--merge", "a"), ("--merge", "nosuch"), ("--add",)):
            self.assertEqual(self.both(*argv, "image", "b")[2], 1)
        self.assertEqual(self.both("--merge", "b", "image", "a")[2], 1)
        self.assertEqual(self.both("--merge", "b", "image", "b")[2], 1)
        shutil.copy(self.path("image"), self.path("other"))
        self.assertEqual(self.both("--merge", "b", "-b", "other", "image", "a")[2], 1)
        self.done("--disable", "image", "a")
        self.done("--add", "image", "d")
        self.done("--remove", "image", "b")

    def test_one_whose_table_says_nothing_is_given_up(self):
        for entry in (0xFF00000000000003, 0x200):
            with self.subTest(entry=entry):
                self.create()
                self.add("a")
                self.add("b")
                self.mark("image", "b", entry=entry)
                self.done("--remove", "image", "b")

    def test_bits_that_are_something_else_too(self):
        """What a repair has counted twice is not written over: neither another bitmap's bits, nor a table."""
        for other in ("bitmap", "l1"):
            self.create(options="cluster_size=4k")
            for name in "ab":
                self.add(name, writes=[(0, 100 * KIB)])
            self.make("qemu-img", "bitmap", "--disable", "image", "b")
            data = bytearray(Path(self.path("image")).read_bytes())
            (_, a, *_), (_, b, *_) = directory(data)
            struct.pack_into(">Q", data, a, struct.unpack_from(">Q", data, b if other == "bitmap" else 40)[0])
            Path(self.path("image")).write_bytes(data)
            repaired = self.run_as_qemu_img("check", "-r", "all", "image", cwd=self.tmp)
            self.assertEqual(repaired[2], 0, repaired)
            disk, bits = self.path("image"), bitmap_bits(self.path("image"), "b")
            self.make("qemu-img", "convert", "-O", "raw", "image", "before")
            # From the beginning on, so that bits are set that are clear in either.
            words = ("-c", "40", "-s", "64k", "-S", "256k", "-w", "--pattern", "9", "image")
            self.assertEqual(self.run_as_qemu_img("bench", *words, cwd=self.tmp)[2], 0)
            with self.subTest(other=other):
                self.assert_check_clean(disk)
                self.assertEqual(bitmap_bits(disk, "b"), bits)
                self.make("qemu-img", "convert", "-O", "raw", "image", "after")
                before, after = (bytearray(Path(self.path(name)).read_bytes()) for name in ("before", "after"))
                for at in range(0, 40 * 256 * KIB, 256 * KIB):
                    before[at : at + 64 * KIB] = bytes([9]) * (64 * KIB)
                self.assertTrue(before == after)

    def test_stale_ones(self):
        self.create()
        self.add("a")
        data = bytearray(Path(self.path("image")).read_bytes())
        data[95] = 0
        Path(self.path("image")).write_bytes(data)
        shutil.copy(self.path("image"), self.path("other"))
        self.assertEqual(self.both("--remove", "image", "a")[2], 1)
        self.both("--add", "image", "a")
        self.assertEqual(self.both("--merge", "a", "-b", "other", "image", "a")[2], 1)

    def test_what_else_an_image_has(self):
        self.create("base")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "image")
        self.make("qemu-img", "snapshot", "-c", "before", "image")
        self.make("qemu-io", "-c", "write -c 0 64k", "image")
        self.done("--add", "image", "a")
        os.rename(self.path("base"), self.path("gone"))
        self.assertEqual(self.both("--add", "image", "b"), ("", "", 0))
        os.rename(self.path("gone"), self.path("base"))
        self.done("--add", "--merge", "a", "image", "c")
        self.create("other", options="data_file=data")
        self.done("--add", "other", "a", image="other")
        self.done("--merge", "a", "-b", "image", "other", "a", image="other")
        os.unlink(self.path("data"))
        self.assertEqual(self.both("--add", "other", "b", image="other")[2], 1)
        self.assertEqual(self.both("--merge", "a", "-b", "other", "image", "a")[2], 1)

    def test_encrypted_ones(self):
        options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
        self.make("qemu-img", "create", "-q", "-f", "qcow2", *OBJECT, "-o", options, "image", "10M")
        named = "driver=qcow2,encrypt.key-secret=s,file.filename=image"
        self.assertEqual(self.both("--add", "image", "a")[2], 1)
        wrong = ("--object", "secret,id=s,data=wrong")
        self.assertEqual(self.both(*wrong, "--add", "--image-opts", named, "a")[2], 1)
        self.assertEqual(self.both(*OBJECT, "--add", "--image-opts", named, "a"), ("", "", 0))
        self.create("other")
        self.add("b", "other")
        self.assertEqual(self.both("--merge", "a", "-b", "image", "other", "b", image="other")[2], 1)

    def test_images_that_were_not_closed_or_are_corrupt(self):
        self.create(options="lazy_refcounts=on")
        self.add("a")
        data = bytearray(Path(self.path("image")).read_bytes())
        for bits, status in ((1, 0), (2, 1)):
            data[79] = bits
            Path(self.path("image")).write_bytes(data)
            with self.subTest(bits=bits):
                self.assertEqual(self.both("--add", "image", "b")[2], status)

    def test_an_empty_disk_has_none(self):
        self.create(size=0)
        _, err, status = self.run_instar("bitmap", "--add", self.path("image"), "a")
        self.assertEqual(status, 1, err)
        self.assert_check_clean(self.path("image"))


class TestRandomHistories(BitmapTest):
    """Actions, writes and copies in any order: after each, both tools' images say and hold the same."""

    def step(self, chance, size):
        names = ["a", "b", "c", "d"]
        count = chance.choice([1, 1, 1, 2, 3])
        argv, source = [], None
        for _ in range(count):
            action = chance.choice(
                ["--add", "--add", "--remove", "--clear", "--enable", "--disable", "--merge", "--merge"]
            )
            argv.append(action)
            if action == "--merge":
                argv.append(chance.choice(names))
        if "--add" in argv and chance.random() < 0.7:
            argv += ["-g", chance.choice(["512", "4k", "64k", "1M", "300", "2G"])]
        if "--merge" in argv and chance.random() < 0.4:
            source = chance.choice(["other", "other", "longer"])
            argv += ["-b", source]
        return [*argv, "image", chance.choice(names)]

    def history(self, seed):
        chance = random.Random(f"bitmap {seed}")
        size = chance.choice([MIB, 10 * MIB, 10 * MIB + 512, 64 * MIB])
        options = [f"cluster_size={chance.choice(['512', '4k', '64k', '1M'])}"]
        options += chance.choice([[], ["refcount_bits=1"], ["refcount_bits=64"], ["lazy_refcounts=on"]])
        for name, length in (("image", size), ("other", size), ("longer", size + MIB)):
            self.create(name, length, ",".join(options))
            for bitmap in chance.sample("abcd", chance.randint(0, 3)):
                self.add(bitmap, name, chance.choice(["512", "64k"]), [(chance.randrange(0, size, 512), 512)])
        for _ in range(8):
            if chance.random() < 0.4:
                at = chance.randrange(0, size, 512)
                length = min(chance.choice([512, 100 * KIB, 2 * MIB]), size - at)
                self.make("qemu-io", "-c", f"write -P {chance.randint(1, 9)} {at} {length}", "image")
            self.both(*self.step(chance, size))
            self.assert_check_clean(self.path("image"))
        ours = self.run_instar("convert", "--bitmaps", "-O", "qcow2", "image", "copy", cwd=self.tmp)
        self.assertEqual(ours, ("", "", 0))
        self.assertEqual(self.bitmaps(self.path("copy")), self.bitmaps(self.path("image")))

    def test_histories(self):
        for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
            with self.subTest(seed=seed):
                self.history(seed)
