"""`create`: the same words, exit status and files as the stock tool's."""

import itertools
import os
import resource
import shutil
import subprocess

from tests.base import QEMU_IO, ROOT, InstarTestBase
from tests.helpers import cells

SIZES = ("0", "1", "513", "1M", "1025k", "10M", "7G")


def _differences(ours, theirs, mask=None):
    """How two folders differ: names, lengths, contents."""
    found = []
    names = sorted(set(os.listdir(ours)) | set(os.listdir(theirs)))
    for name in names:
        pair = [os.path.join(folder, name) for folder in (ours, theirs)]
        missing = [path for path in pair if not os.path.exists(path)]
        if missing:
            found.append(f"{name}: only in {'theirs' if missing == pair[:1] else 'ours'}")
            continue
        for path in pair if mask else ():
            mask(path)
        if not os.path.isdir(pair[0]) and (at := cells.difference(*pair)) is not None:
            found.append(f"{name}: {at}")
    return found


class CreateTestBase(InstarTestBase):
    """Each tool works in a folder of its own, with the same relative names."""

    def setUp(self):
        super().setUp()
        self.number = 0

    def folders(self, fixtures=()):
        self.number += 1
        made = []
        for who in ("ours", "theirs"):
            folder = self.path(f"{self.number}-{who}")
            os.mkdir(folder)
            for name in fixtures:
                shutil.copy(self.path(name), folder)
            made.append(folder)
        return made

    def create(self, *argv, fixtures=(), mask=None, version=None, leaves=False):
        """Runs both; `leaves`: the stock tool leaves half a file where it fails, and it is not looked at."""
        ours, theirs = self.folders(fixtures)
        stock = self.run_qemu_img("create", *argv, cwd=theirs)
        mine = self.run_as_qemu_img("create", *argv, cwd=ours)
        self.assertEqual(mine, stock, " ".join(argv))
        if leaves and stock[2]:
            self.assertEqual(sorted(os.listdir(ours)), sorted(fixtures))
        else:
            self.assertEqual(_differences(ours, theirs, mask), [], " ".join(argv))
        shutil.rmtree(ours)
        shutil.rmtree(theirs)
        return stock

    def each(self, fmt, options, sizes=SIZES, **kwargs):
        for option, size in itertools.product(options, sizes):
            with self.subTest(option=option, size=size):
                self.create("-f", fmt, *(["-o", option] if option else []), "x", size, **kwargs)


class TestRaw(CreateTestBase):
    def test_files(self):
        self.each("raw", ["", "preallocation=off", "preallocation=falloc", "preallocation=full"], SIZES[:-1])
        self.each("raw", ["", "nocow=off"], ["7G", "1.5T"])

    def test_disk_size(self):
        """What `info` says of the file is the same, too: its first block exists."""
        for size in ("0", "512", "4096", "1M"):
            ours, theirs = self.folders()
            self.run_instar("create", "-q", "x", size, cwd=ours)
            self.run_qemu_img("create", "-q", "x", size, cwd=theirs)
            self.assertEqual(os.stat(f"{ours}/x").st_blocks, os.stat(f"{theirs}/x").st_blocks, size)


class TestQcow2(CreateTestBase):
    OPTIONS = (
        "",
        "compat=0.10",
        "compat=v2",
        "compat=1.1",
        "compat=v3,cluster_size=512",
        "cluster_size=4k",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=2,cluster_size=512",
        "refcount_bits=8",
        "refcount_bits=64,cluster_size=512",
        "lazy_refcounts=on",
        "lazy_refcounts",
        "extended_l2=on",
        "extended_l2=on,cluster_size=16k",
        "compression_type=zstd",
        "compression_type=zlib",
        "data_file=d",
        "data_file=d,data_file_raw=on",
        "data_file=d,cluster_size=4k",
        "encryption=off",
    )

    def test_empty(self):
        self.each("qcow2", self.OPTIONS)

    def test_many_clusters(self):
        """The L1 table alone needs more refcount blocks than the first table has room for."""
        self.each("qcow2", ["cluster_size=512"], ["1G", "4G", "20G", "64G"])
        self.each("qcow2", ["cluster_size=512,refcount_bits=64", "cluster_size=1k,refcount_bits=32"], ["1G", "20G"])
        self.each("qcow2", ["cluster_size=512,compat=0.10"], ["64G"])

    def test_preallocated(self):
        modes = ("metadata", "falloc", "full")
        others = (
            "",
            "cluster_size=512",
            "cluster_size=4k,refcount_bits=64",
            "cluster_size=2M",
            "compat=0.10,cluster_size=1k",
            "extended_l2=on",
            "extended_l2=on,cluster_size=16k",
            "data_file=d",
            "data_file=d,data_file_raw=on,cluster_size=4k",
            "data_file=d,extended_l2=on",
            "refcount_bits=1,cluster_size=512",
        )
        options = [f"preallocation={mode}{',' if other else ''}{other}" for mode in modes for other in others]
        self.each("qcow2", options, ["0", "1", "1M", "1025k", "10M", "20M"])

    def test_preallocated_long(self):
        """More than is reserved at once, more than one slice of an L2 table, tables that move."""
        self.each("qcow2", ["preallocation=metadata"], ["3G", "40G"])
        self.each("qcow2", ["preallocation=metadata,cluster_size=2M"], ["40G"])
        self.each("qcow2", ["preallocation=metadata,cluster_size=512", "preallocation=metadata,cluster_size=4k"], ["300M"])
        self.each("qcow2", ["preallocation=metadata,refcount_bits=64,cluster_size=512"], ["100M"])
        self.each("qcow2", ["preallocation=metadata,extended_l2=on", "preallocation=metadata,compat=0.10"], ["3G"])

    def test_backing(self):
        self.make("qemu-img", "create", "-q", "-f", "raw", "base.raw", "2049k")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "3M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "over.qcow2", "5M")
        fixtures = ("base.raw", "base.qcow2", "over.qcow2")
        for argv in (
            ["-b", "base.raw", "-F", "raw", "x"],
            ["-b", "base.qcow2", "-F", "qcow2", "x"],
            ["-b", "over.qcow2", "-F", "qcow2", "x"],
            ["-b", "./base.raw", "-F", "raw", "x"],
            ["-b", "base.qcow2", "-F", "raw", "x"],
            ["-b", "base.raw", "-F", "raw", "x", "1M"],
            ["-b", "base.raw", "-F", "raw", "x", "1G"],
            ["-o", "backing_file=base.raw,backing_fmt=raw", "x"],
            ["-b", "base.raw", "-F", "raw", "-o", "backing_file=base.qcow2,backing_fmt=qcow2", "x"],
            ["-b", "base.raw", "-F", "raw", "-o", "compat=0.10", "x"],
            ["-b", "base.raw", "-F", "raw", "-o", "cluster_size=512", "x"],
            ["-b", "base.raw", "-F", "raw", "-o", "extended_l2=on,preallocation=metadata", "x"],
            ["-b", "base.raw", "-F", "raw", "-o", "extended_l2=on,preallocation=falloc", "x"],
            ["-b", "base.raw", "-F", "raw", "-o", "data_file=d", "x"],
            ["-u", "-b", "nope", "-F", "raw", "x", "1M"],
            ["-u", "-b", "a,b", "-F", "qcow2", "x", "1M"],
            ["-u", "-b", "nope", "-F", "luks", "x", "1M"],
            ["-u", "x", "1M"],
        ):
            with self.subTest(argv=argv):
                self.assertEqual(self.create("-f", "qcow2", *argv, fixtures=fixtures)[2], 0)

    def test_checked_by_the_stock_tool(self):
        for option in ("", "cluster_size=512,preallocation=metadata", "extended_l2=on,preallocation=full"):
            self.run_instar("create", "-q", "-f", "qcow2", "-o", option or "compat=1.1", "x", "30M", cwd=self.tmp)
            self.assert_check_clean("x")


class TestKeptDataFile(CreateTestBase):
    """`keep_data_file`, which qemu-img has from 11.1 on: next to that release, if it was fetched."""

    def test_what_it_holds_stays(self):
        binaries = sorted((ROOT / "instar-testdata/qemu-img-binaries").glob("*/11.1*/qemu-img"))
        with open(self.path("d"), "wb") as file:
            file.write(os.urandom(1 << 19))
        for options, size, status in (
            ("data_file=d,data_file_raw=on,keep_data_file=on", "1M", 0),
            ("data_file=d,data_file_raw=on,keep_data_file=on", "256k", 0),
            ("data_file=d,preallocation=metadata,keep_data_file=on", "1M", 0),
            ("data_file=d,keep_data_file=on", "1M", 1),
            ("data_file=nope,data_file_raw=on,keep_data_file=on", "1M", 1),
            ("data_file=d,data_file_raw=on,keep_data_file=on,preallocation=full", "1M", 1),
            ("keep_data_file=on", "1M", 1),
        ):
            with self.subTest(options=options, size=size):
                ours, theirs = self.folders(["d"])
                argv = ("create", "-f", "qcow2", "-o", options, "x", size)
                mine = self.run_as_qemu_img(*argv, version="11.1.3", cwd=ours)
                self.assertEqual(mine[2], status, mine[1])
                with open(f"{ours}/d", "rb") as kept, open(self.path("d"), "rb") as before:
                    self.assertEqual(kept.read(1 << 19), before.read())
                for binary in binaries[-1:]:
                    self.assertEqual(mine, self.run_tool([binary, *argv], cwd=theirs))
                    self.assertEqual(_differences(ours, theirs), [])

    def test_convert_writes_over_it(self):
        """Where the source has zeroes, too: the stock tool leaves there what the file held before."""
        source = os.urandom(100_000) + bytes(300_000) + os.urandom(65_536) + bytes(58_752)
        for options in ("data_file_raw=on", "preallocation=metadata"):
            for length in (len(source), 1000, 2 * len(source)):
                with self.subTest(options=options, length=length):
                    folder = self.folders()[0]
                    for name, content in (("source", source), ("d", os.urandom(length))):
                        with open(f"{folder}/{name}", "wb") as file:
                            file.write(content)
                    words = ("-o", f"data_file=d,{options},keep_data_file=on", "source", "x")
                    argv = ("convert", "-f", "raw", "-O", "qcow2", *words)
                    self.assertEqual(self.run_as_qemu_img(*argv, version="11.1.3", cwd=folder), ("", "", 0))
                    self.assertEqual(os.path.getsize(f"{folder}/d"), max(length, len(source)))
                    out, err, status = self.run_qemu_img("compare", "-f", "raw", "source", "x", cwd=folder)
                    self.assertEqual((out, status), ("Images are identical.\n", 0), err)
                    self.assertEqual(self.run_qemu_img("check", "x", cwd=folder)[2], 0)

    def test_convert_that_cannot_write_over_it(self):
        for name in ("d", "source"):
            with open(self.path(name), "wb") as file:
                file.write(os.urandom(1 << 19))
        before = self.sha256(self.path("d"))
        binaries = sorted((ROOT / "instar-testdata/qemu-img-binaries").glob("*/11.1*/qemu-img"))
        for options in ("data_file=d,keep_data_file=on", "data_file=nope,data_file_raw=on,keep_data_file=on"):
            argv = ("convert", "-f", "raw", "-O", "qcow2", "-o", options, "source", "x")
            mine = self.run_as_qemu_img(*argv, version="11.1.3", cwd=self.tmp)
            self.assertEqual((mine[0], mine[2]), ("", 1))
            self.assertIn("qemu-img: x: error while converting qcow2: ", mine[1])
            self.assertEqual((self.sha256(self.path("d")), os.path.exists(self.path("x"))), (before, False))
            for binary in binaries[-1:]:
                self.assertEqual(mine, self.run_tool([binary, *argv], cwd=self.tmp))
                for left in ("x", "nope"):
                    if os.path.exists(self.path(left)):
                        os.remove(self.path(left))


class TestTexts(CreateTestBase):
    """What is said of arguments that make no sense, and in which order they are looked at."""

    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "raw", "base.raw", "2M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "3M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "nope", "-F", "raw", "dangling", "1M")

    def all(self, *commands, **kwargs):
        for argv in commands:
            with self.subTest(argv=argv):
                self.create(*argv, fixtures=("base.raw", "base.qcow2", "dangling"), leaves=True, **kwargs)

    def test_option_help(self):
        for fmt in ("raw", "qcow2", "bochs", "dmg", "nosuch"):
            self.all(["-f", fmt, "-o", "help"], ["-f", fmt, "-o", "help", "x"], ["-f", fmt, "-o", "?", "x", "1M"])
            # As clients ask: a device offers less than a file.
            self.all(["-f", fmt, "-o", "?", "/dev/null"])
            for words in (("/dev/null",), ("x", "/dev/null"), ("x", "y")):
                argv = ("convert", "-o", "help", "-O", fmt, *words)
                self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp), argv)
        self.all(["-f", "qcow2", "-o", "help,cluster_size=4k", "x"], ["-f", "qcow2", "-o", "help", "-b", "n", "x", "y", "z"])

    def test_operands(self):
        self.all(
            [],
            ["-f", "qcow2"],
            ["-f", "qcow2", "x", "1M", "y"],
            ["-f", "qcow2", "x"],
            ["x"],
            ["-q", "x"],
            ["--nosuch", "x", "1M"],
            ["-f"],
            ["-f", "nosuch", "x", "1M"],
            ["-f", "bochs", "x", "1M"],
            ["-f", "nosuch", "nosuch:x", "1M"],
            ["-f", "qcow2", "nosuch:x", "1M"],
            ["-f", "bochs", "nosuch:x", "1M"],
            ["-f", "qcow2", "file:x", "1M"],
            ["-f", "raw", "", "1M"],
            ["-f", "qcow2", "", "1M"],
            ["-f", "qcow2", "nodir/x", "1M"],
            ["-f", "raw", "nodir/x", "1M"],
            ["-f", "qcow2", "--object", "nosuch,id=a", "x", "1M"],
        )

    def test_sizes(self):
        for size in ("1x", "", "1.5", "-1", "8E", "9223372036854775808", "99999999999999999999", "1e3", "0x10", "1.5M", "1b"):
            self.all(["x", "--", size] if size == "-1" else ["x", size])
        self.all(
            ["-f", "qcow2", "x", "9223372036854775807"],
            ["-f", "qcow2", "x", "1E"],
            ["-f", "qcow2", "-o", "cluster_size=512", "x", "1T"],
            ["-f", "qcow2", "-o", "size=5M", "x", "1M"],
            ["-f", "raw", "-o", "size=5M", "x"],
        )
        for size in ("foo", "-1", "16E", "8E", "15E", "0x10", "1.5M", "1.5", ""):
            self.all(["-f", "qcow2", "-o", f"size={size}", "x"])
        self.all(["x", "9223372036854775807"])

    def test_options(self):
        for option in (
            "nosuch=1",
            "cluster_size=3k",
            "cluster_size=4M",
            "cluster_size=0",
            "cluster_size=foo",
            "refcount_bits=foo",
            "refcount_bits=3",
            "refcount_bits=128",
            "refcount_bits=-1",
            "refcount_bits=0x10",
            "refcount_bits=99999999999999999999",
            "lazy_refcounts=foo",
            "lazy_refcounts=yes",
            "nolazy_refcounts",
            "preallocation=foo",
            "compression_type=foo",
            "compat=2",
            "compat=0.10,refcount_bits=8",
            "compat=0.10,lazy_refcounts=on",
            "compat=0.10,extended_l2=on",
            "compat=0.10,compression_type=zstd",
            "compat=0.10,data_file=d",
            "extended_l2=on,cluster_size=4k",
            "data_file_raw=on",
            "data_file=nodir/d",
            "backing_fmt=raw",
            "backing_file=",
            ",,",
            "",
            ",",
            "lazy_refcounts=on,",
            "cluster_size=4k,,",
        ):
            self.all(["-f", "qcow2", "-o", option, "x", "1M"])
        self.all(
            ["-f", "qcow2", "-o", "lazy_refcounts=on", "-o", "cluster_size=4k", "x", "1M"],
            ["-f", "qcow2", "-o", "cluster_size=4k", "-o", "cluster_size=8k", "x", "1M"],
            ["-f", "raw", "-o", "cluster_size=4k", "x", "1M"],
            ["-f", "raw", "-o", "preallocation=foo", "x", "1M"],
            ["-f", "raw", "-o", "preallocation=metadata", "x", "1M"],
        )

    def test_backing(self):
        self.all(
            ["-f", "raw", "-b", "base.raw", "-F", "raw", "x", "1M"],
            ["-f", "raw", "-F", "raw", "x", "1M"],
            ["-f", "qcow2", "-b", "base.raw", "x"],
            ["-f", "qcow2", "-b", "base.qcow2", "x"],
            ["-f", "qcow2", "-b", "base.raw", "-u", "x"],
            ["-f", "qcow2", "-b", "base.raw", "-u", "-F", "raw", "x"],
            ["-f", "qcow2", "-b", "nope", "-F", "raw", "x"],
            ["-f", "qcow2", "-b", "nope", "-F", "raw", "x", "1M"],
            ["-f", "qcow2", "-b", "nope", "-F", "nosuch", "x", "1M"],
            ["-f", "qcow2", "-b", "nope", "x", "1M"],
            ["-f", "qcow2", "-b", "base.raw", "-F", "qcow2", "x", "1M"],
            ["-f", "qcow2", "-b", "base.raw", "-F", "nosuch", "x", "1M"],
            ["-f", "qcow2", "-b", "base.raw", "-F", "nosuch", "-u", "x", "1M"],
            ["-f", "qcow2", "-b", "base.raw", "-F", "", "-u", "x", "1M"],
            ["-f", "qcow2", "-b", "x", "-F", "raw", "x", "1M"],
            ["-f", "qcow2", "-F", "raw", "x", "1M"],
            ["-f", "qcow2", "-b", "", "x", "1M"],
            ["-f", "qcow2", "-b", "dangling", "-F", "qcow2", "x"],
            ["-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", "preallocation=metadata", "x"],
            ["-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", "data_file=d,data_file_raw=on", "x"],
            ["-q", "-f", "qcow2", "-b", "nope", "-F", "raw", "x"],
            ["-q", "-f", "qcow2", "x", "1M"],
            ["-f", "qcow2", "-u", "-b", "n" * 1024, "-F", "raw", "x", "1M"],
            ["-f", "qcow2", "-u", "-b", "n" * 1023, "-F", "raw", "x", "1M"],
            ["-f", "qcow2", "-u", "-b", "n" * 500, "-F", "raw", "-o", "cluster_size=512", "x", "1M"],
        )

    def test_folders_and_links(self):
        for folder in self.folders():
            os.mkdir(f"{folder}/folder")
            os.symlink("nowhere/there", f"{folder}/dangling")
            os.symlink("made", f"{folder}/link")
        ours, theirs = (self.path(f"1-{who}") for who in ("ours", "theirs"))
        for name in ("folder", "dangling", "link", "/dev/null/x"):
            for fmt in ("raw", "qcow2"):
                argv = ("create", "-f", fmt, name, "1M")
                self.assert_same_outcome(self.run_instar(*argv, cwd=ours), self.run_qemu_img(*argv, cwd=theirs), name)
        self.assertTrue(os.path.islink(f"{ours}/link"))
        self.assertIsNone(cells.difference(f"{ours}/made", f"{theirs}/made"))


class TestFiles(CreateTestBase):
    """What happens to files that are there."""

    def test_an_existing_file_is_replaced(self):
        for fmt, size in (("raw", "1M"), ("qcow2", "1M"), ("raw", "0")):
            for folder in (folders := self.folders()):
                with open(f"{folder}/x", "wb") as file:
                    file.write(b"old" * 1000000)
            self.run_instar("create", "-f", fmt, "x", size, cwd=folders[0])
            self.run_qemu_img("create", "-f", fmt, "x", size, cwd=folders[1])
            self.assertEqual(_differences(*folders), [], fmt)

    def test_what_fails_leaves_all_as_it_was(self):
        with open(self.path("x"), "wb") as file:
            file.write(b"old")
        for argv in (
            ["-f", "qcow2", "-o", "cluster_size=3k", "x", "1M"],
            ["-f", "qcow2", "x", "1E"],
            ["-f", "raw", "-o", "preallocation=metadata", "x", "1M"],
            ["-f", "qcow2", "-b", "nope", "-F", "raw", "x"],
        ):
            with self.subTest(argv=argv):
                self.assertEqual(self.run_instar("create", *argv, cwd=self.tmp)[2], 1)
                with open(self.path("x"), "rb") as file:
                    self.assertEqual(file.read(), b"old")
                self.assertEqual(os.listdir(self.tmp), ["x"])

    def test_an_image_in_use_is_not_replaced(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "used", "1M")
        with subprocess.Popen(
            [QEMU_IO, "-f", "qcow2", "used"], cwd=self.tmp, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            # The prompt comes when the image is open and locked.
            self.assertEqual(holder.stdout.read(1), b"q")
            for argv in (["-f", "raw", "used", "1M"], ["-f", "qcow2", "used", "1M"]):
                mine = self.run_instar("create", *argv, cwd=self.tmp)
                stock = self.run_qemu_img("create", *argv, cwd=self.tmp)
                self.assert_same_outcome(mine, stock, " ".join(argv))
                self.assertEqual(mine[2], 1)
            argv = ("create", "-f", "qcow2", "-b", "used", "-F", "qcow2", "x")
            self.assert_same_outcome(self.run_instar(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))
            holder.stdin.write(b"quit\n")
            holder.communicate(timeout=10)
        self.assert_check_clean("used")

    def test_backing_chains_keep_to_the_policy(self):
        """The user's own word may lead anywhere; what an image names may not."""
        os.mkdir(self.path("a"))
        os.mkdir(self.path("b"))
        self.make("qemu-img", "create", "-q", "-f", "raw", "b/base", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../b/base", "-F", "raw", "a/middle")
        argv = ("create", "-f", "qcow2", "-F", "qcow2", "-b", "a/middle", "x")
        out, err, status = self.run_instar(*argv, cwd=self.tmp)
        self.assertEqual((out, status), ("", 1))
        self.assertIn("Could not open backing image.", err)
        self.assertFalse(os.path.exists(self.path("x")))
        allowed = self.run_instar(*argv, "--allow-backing", self.path("b"), cwd=self.tmp)
        self.assertEqual(allowed[1:], ("", 0))
        direct = self.run_instar("create", "-f", "qcow2", "-F", "raw", "-b", "b/base", "a/y", cwd=self.tmp)
        self.assertEqual(direct[2], 1, "the name is relative to the image")
        direct = self.run_instar("create", "-f", "qcow2", "-F", "raw", "-b", "../b/base", "a/y", cwd=self.tmp)
        self.assertEqual(direct[1:], ("", 0))

    def test_disk_full(self):
        limits = {resource.RLIMIT_FSIZE: 128 << 20}
        for fmt in ("raw", "qcow2"):
            argv = ("create", "-f", fmt, "-o", "preallocation=falloc", "x", "256M")
            out, err, status = self.run_instar(*argv, cwd=self.tmp, limits=limits)
            self.assertEqual(status, 1, out)
            self.assertIn("File too large", err)
            self.assertEqual(os.listdir(self.tmp), [])

