"""VHD (vpc): sizes by creator and release, damage, differencing disks, check. Images are built by the test from
Microsoft's specification; what the stock tool can read too is compared with it."""

import json
import os
import random
import unittest

from tests.base import InstarTestBase
from tests.helpers import vhd
from tests.helpers.variants import Maker

MIB = 1 << 20
SIZE = 5 * MIB
GEOMETRY = (100, 4, 17)
GEOMETRY_SIZE = 100 * 4 * 17 * 512
# Creators whose size is the geometry's: before release 8, and from 10.0 on.
BY_GEOMETRY = {"old": {b"vpc ", b"qemu", b"vbox", b"vs  ", b"abcd"}, "new": {b"vpc ", b"qemu"}}
CREATORS = [b"vpc ", b"qemu", b"vbox", b"vs  ", b"abcd", b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS"]


def _flip(data, at):
    data = bytearray(data)
    data[at] ^= 1
    return bytes(data)


GOOD = vhd.dynamic(SIZE, {1: b"hello"})
# Name to content: what the stock tool refuses, or takes though it is odd.
ODD = {
    "empty": b"",
    "short": b"conectix",
    "short-other": b"x" * 100,
    "nothing": b"x" * 4096,
    "sum-at-start": _flip(GOOD, 100)[:-512],
    "footer-at-end-only-other-kind": vhd.fixed(b"", SIZE, kind=9),
    "kind-0": vhd.dynamic(SIZE, kind=0),
    "header-nowhere": vhd.dynamic(SIZE, data_offset=2**64 - 1),
    "header-far": vhd.dynamic(SIZE, data_offset=2**63 + 512),
    "header-elsewhere": vhd.dynamic(SIZE, data_offset=1000),
    "header-magic": vhd.dynamic(SIZE, header={"magic": b"cxsparsX"}),
    "block-0": vhd.dynamic(SIZE)[:512] + vhd.dynamic_header(3, 0) + b"\xff" * 4096,
    "block-1000": vhd.dynamic(SIZE)[:512] + vhd.dynamic_header(3, 1000) + b"\xff" * 4096,
    "block-512": vhd.dynamic(SIZE)[:512] + vhd.dynamic_header(3, 512) + b"\xff" * 4096,
    "few-entries": vhd.dynamic(SIZE, entries=2),
    "many-entries": vhd.dynamic(SIZE, entries=1 << 20),
    "entries-2-29": vhd.dynamic(SIZE, entries=1 << 29),
    "entries-2-31": vhd.dynamic(SIZE, entries=(1 << 31) - 1),
    "table-far": vhd.dynamic(SIZE, header={"table": 1 << 40}),
    "table-negative": vhd.dynamic(SIZE, header={"table": (1 << 63) + 1}),
    "table-at-the-end-of-numbers": vhd.dynamic(SIZE, header={"table": (1 << 63) - 2}),
    "block-behind-end": vhd.dynamic(SIZE, table=[vhd.UNUSED, 100_000, vhd.UNUSED]),
    "block-at-0": vhd.dynamic(SIZE, table=[vhd.UNUSED, 0, vhd.UNUSED]),
    "2041-gib": vhd.dynamic(SIZE, head=vhd.footer(2041 << 30)),
    "largest-size": vhd.dynamic(SIZE, head=vhd.footer(2**64 - 1)),
    "size-0": vhd.dynamic(0, table=[vhd.UNUSED]),
    "size-odd": vhd.dynamic(SIZE + 700),
    "fixed-sum": vhd.fixed(bytes(MIB), sound=False),
    "fixed-511": vhd.fixed(bytes(MIB))[:-1],
    "fixed-far-larger": vhd.fixed(b"", 1 << 40),
}


class TestVpc(InstarTestBase):
    def file(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)
        return name

    def size_of(self, name, version=None):
        out, err, status = self.run_as_qemu_img(
            "info", "-f", "vpc", "--output=json", name, version=version, cwd=self.tmp
        )
        self.assertEqual(status, 0, err)
        return json.loads(out)["virtual-size"]

    def test_size_by_creator_and_release(self):
        for creator in CREATORS:
            self.file("disk.vhd", vhd.dynamic(SIZE, creator=creator, geometry=GEOMETRY))
            for release, rule in (("5.2.0", "old"), ("7.2.22", "old"), ("10.0.2", "new"), ("11.1.3", "new")):
                with self.subTest(creator=creator, release=release):
                    want = GEOMETRY_SIZE if creator in BY_GEOMETRY[rule] else SIZE
                    self.assertEqual(self.size_of("disk.vhd", release), want)

    def test_the_largest_geometry_is_no_size(self):
        for creator in CREATORS:
            self.file("disk.vhd", vhd.dynamic(130 << 30, creator=creator, geometry=(65535, 16, 255)))
            self.assertEqual(self.size_of("disk.vhd"), 130 << 30)

    def test_odd_images_as_the_stock_tool(self):
        for name, content in ODD.items():
            with self.subTest(name):
                self.file("disk.vhd", content)
                argv = ["info", "-f", "vpc", "disk.vhd"]
                stock = self.run_qemu_img(*argv, cwd=self.tmp)
                self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
                self.assert_same_outcome(self.run_instar(*argv, cwd=self.tmp), stock)

    def test_kind_of_a_footer_at_the_end_before_6(self):
        self.file("disk.vhd", vhd.fixed(b"\xaa" * MIB, kind=9))
        self.assertEqual(self.size_of("disk.vhd", "5.2.0"), MIB)
        out = self.run_as_qemu_img("info", "-f", "vpc", "disk.vhd", version="7.2.22", cwd=self.tmp)
        self.assertEqual(out, ("", "qemu-img: Could not open 'disk.vhd': invalid VPC image\n", 1))

    def test_size_rule_unknown(self):
        self.file("disk.vhd", GOOD)
        argv = ["info", "--image-opts", "driver=vpc,file.filename=disk.vhd,force_size_calc=nosuch"]
        self.assert_same_outcome(self.run_instar(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))

    def test_footer_at_the_end_stands_in(self):
        """For a damaged one at the start: read as instar, refused as qemu-img."""
        content = random.Random(1).randbytes(100_000)
        good = vhd.dynamic(SIZE, {1: content})
        for name, data in (("sum", _flip(good, 100)), ("gone", bytes(512) + good[512:])):
            with self.subTest(name):
                self.file("disk.vhd", data)
                argv = ["convert", "-f", "vpc", "-O", "raw", "disk.vhd", "ours.raw"]
                stock = self.run_qemu_img(*argv, cwd=self.tmp)
                self.assertEqual(stock[2], 1)
                self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
                out, err, status = self.run_instar(*argv, cwd=self.tmp)
                self.assertEqual(status, 0, err)
                with open(self.path("ours.raw"), "rb") as file:
                    want = bytes(vhd.BLOCK) + content + bytes(SIZE - vhd.BLOCK - len(content))
                    self.assert_same_bytes(file.read(), want)


class TestDifferencing(InstarTestBase):
    """Differencing disks: read with their parents as instar, and as the stock tool does (without) as qemu-img."""

    def setUp(self):
        super().setUp()
        source = random.Random(7)
        self.parent = source.randbytes(SIZE)
        self.child = source.randbytes(vhd.BLOCK)
        # Of block 1, sectors 3 to 9 and the last are the child's.
        bits = bytearray(vhd.bitmap_length())
        own = [3, 4, 5, 6, 7, 8, 9, 4095]
        for sector in own:
            bits[sector // 8] |= 0x80 >> sector % 8
        self.bits = bytes(bits)
        merged = bytearray(self.parent)
        for sector in own:
            at = sector * 512
            merged[vhd.BLOCK + at : vhd.BLOCK + at + 512] = self.child[at : at + 512]
        self.merged = bytes(merged)
        self.write("parent.vhd", vhd.dynamic(SIZE, {i: self.parent[i * vhd.BLOCK :][: vhd.BLOCK] for i in range(3)}))

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)

    def make_child(self, locators=(), name="", kind=vhd.DIFFERENCING):
        header = {"parent": vhd.ID, "name": name}
        disk = vhd.dynamic(SIZE, {1: self.child}, bitmaps={1: self.bits}, kind=kind, header=header, locators=locators)
        self.write("child.vhd", disk)

    def converted(self, *argv):
        out, err, status = self.run_instar("convert", *argv, "-O", "raw", "child.vhd", "out.raw", cwd=self.tmp)
        self.assertEqual(status, 0, err)
        with open(self.path("out.raw"), "rb") as file:
            return file.read()

    def test_each_way_to_name_the_parent(self):
        for name, how in (
            ("relative", {"locators": [(b"W2ru", ".\\parent.vhd")]}),
            ("absolute", {"locators": [(b"W2ku", self.path("parent.vhd"))]}),
            ("drive", {"locators": [(b"W2ku", "C:\\images\\parent.vhd")]}),
            ("volume", {"locators": [(b"W2ku", "\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\parent.vhd")]}),
            ("header", {"name": "parent.vhd"}),
            ("relative-first", {"locators": [(b"MacX", "file:x"), (b"W2ku", "C:\\no.vhd"), (b"W2ru", "parent.vhd")]}),
        ):
            with self.subTest(name):
                self.make_child(**how)
                self.assert_same_bytes(self.converted(), self.merged)

    def test_a_fixed_parent(self):
        self.write("parent.vhd", vhd.fixed(self.parent))
        self.make_child([(b"W2ru", "parent.vhd")])
        self.assert_same_bytes(self.converted(), self.merged)

    def test_a_parent_in_a_folder_above(self):
        self.make_child([(b"W2ru", "sub\\parent.vhd")])
        (out, err, status) = self.run_instar("info", "--backing-chain", "child.vhd", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("Could not open 'sub/parent.vhd'", err)

    def test_info_names_the_parent(self):
        self.make_child([(b"W2ru", ".\\parent.vhd")])
        out, err, status = self.run_instar("info", "--output=json", "child.vhd", cwd=self.tmp)
        self.assertEqual(status, 0, err)
        info = json.loads(out)
        self.assertEqual((info["backing-filename"], info["backing-filename-format"]), ("parent.vhd", "vpc"))

    def test_no_parent_named(self):
        self.make_child()
        out, err, status = self.run_instar("info", "child.vhd", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("does not name its parent", err)

    def test_as_qemu_img_there_is_no_parent(self):
        self.make_child([(b"W2ru", ".\\parent.vhd")])
        for argv in (
            ["info", "child.vhd"],
            ["info", "--output=json", "child.vhd"],
            ["info", "--backing-chain", "child.vhd"],
        ):
            self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))
        for run, target in ((self.run_as_qemu_img, "ours.raw"), (self.run_qemu_img, "theirs.raw")):
            self.assertEqual(run("convert", "-O", "raw", "child.vhd", target, cwd=self.tmp)[2], 0)
        self.assert_bytes_identical(self.path("ours.raw"), self.path("theirs.raw"))

    def test_its_own_parent(self):
        self.make_child([(b"W2ru", "child.vhd")])
        out, err, status = self.run_instar("convert", "-O", "raw", "child.vhd", "out.raw", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("creates an infinite loop", err)


class TestCheck(InstarTestBase):
    """The stock tool has no check of this format."""

    def check(self, content, *argv):
        with open(self.path("disk.vhd"), "wb") as file:
            file.write(content)
        return self.run_instar("check", *argv, "disk.vhd", cwd=self.tmp)

    def test_sound(self):
        for content in (GOOD, vhd.dynamic(SIZE), vhd.dynamic(SIZE, {0: b"a", 1: b"b", 2: b"c"})):
            out, err, status = self.check(content)
            self.assertEqual((err, status), ("", 0))
            self.assertIn("No errors were found on the image.", out)
        self.assertEqual(self.check(vhd.fixed(bytes(MIB)), "-f", "vpc")[2], 0)

    def test_each_damage(self):
        block = vhd.BLOCK // 512
        tail = b"\0" * (3 * vhd.BLOCK)
        for name, content, line in (
            ("end", _flip(GOOD, -1), "the footer at the end is damaged"),
            ("start", _flip(GOOD, 100), "the copy of the footer at the start is damaged"),
            ("header", vhd.dynamic(SIZE, header={"sound": False}), "checksum of the dynamic disk header is wrong"),
            ("behind", vhd.dynamic(SIZE, table=[vhd.UNUSED, 100_000, vhd.UNUSED]), "block 1 at 0x30d4000 lies outside"),
            ("shared", vhd.dynamic(SIZE, {0: b"x"}, table=[4, 4, vhd.UNUSED]), "two blocks share bytes at 0x800"),
            ("headers", vhd.dynamic(SIZE, {0: b"x"}, table=[1, vhd.UNUSED, vhd.UNUSED]), "overlaps the headers"),
            ("partly", vhd.dynamic(SIZE, {0: tail}, table=[4, 4 + block // 2, vhd.UNUSED]), "two blocks share bytes"),
        ):
            with self.subTest(name):
                argv = ["-f", "vpc"] if name == "start" else []
                out, err, status = self.check(content, *argv)
                self.assertIn(line, out + err)
                self.assertEqual(status, 2, out + err)

    def test_lost_room(self):
        """A block that no entry names any more."""
        three = vhd.dynamic(SIZE, {0: b"a", 1: b"b", 2: b"c"})
        places = [int.from_bytes(three[vhd.TABLE_AT + i * 4 :][:4], "big") for i in range(3)]
        lost = vhd.dynamic(SIZE, {0: b"a", 1: b"b", 2: b"c"}, table=[places[0], vhd.UNUSED, places[2]])
        out, err, status = self.check(lost)
        self.assertEqual(status, 3, out + err)
        self.assertIn("1 leaked clusters", out)

    def test_fixed_too_short(self):
        out, err, status = self.check(vhd.fixed(bytes(MIB), 2 * MIB), "-f", "vpc")
        self.assertEqual(status, 2, out + err)

    def test_as_qemu_img_there_is_none(self):
        with open(self.path("disk.vhd"), "wb") as file:
            file.write(GOOD)
        for argv in (["check", "disk.vhd"], ["check", "--output=json", "disk.vhd"]):
            self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))


def _masked(path):
    """A file's bytes; of its footers, time, sum and identifier are zeroes."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    for at in {0, len(data) - 512}:
        if data[at : at + 8] == b"conectix":
            data[at + 24 : at + 28] = bytes(4)
            data[at + 64 : at + 84] = bytes(20)
    return bytes(data)


class TestWrite(InstarTestBase):
    """New images against the stock tool's."""

    OPTIONS = (
        "",
        "force_size=on",
        "force_size=off",
        "subformat=dynamic",
        "subformat=fixed",
        "subformat=fixed,force_size",
    )
    SMALL = (
        0,
        1,
        511,
        512,
        513,
        34816,
        34817,
        1 << 20,
        10 << 20,
        (10 << 20) + 700,
        69632 * 512,
        104349 * 512,
        504 << 20,
    )
    # At every turn of the rounding, and up to the largest disk.
    LARGE = (
        *((65535 * 16 * 63 + n) * 512 for n in (-1, 0, 1)),
        *((65535 * 16 * 255 + n) * 512 for n in (-1, 0, 1)),
        127 << 30,
        130 << 30,
        (130 << 30) + 1,
        2040 << 30,
        (2040 << 30) + 1,
        3 << 40,
    )

    def both(self, *argv):
        """Runs both tools for a target each; the outcomes are the same. Returns the status."""
        ours = self.run_as_qemu_img(*argv[:-1], "x.vhd", *argv[-1:], cwd=self.path("ours"))
        theirs = self.run_qemu_img(*argv[:-1], "x.vhd", *argv[-1:], cwd=self.path("theirs"))
        self.assertEqual(ours, theirs, argv)
        return theirs[2]

    def setUp(self):
        super().setUp()
        for name in ("ours", "theirs"):
            os.mkdir(self.path(name))
        self.ours, self.theirs = self.path("ours/x.vhd"), self.path("theirs/x.vhd")

    def create(self, options, size):
        return self.both("create", "-f", "vpc", *(["-o", options] if options else []), str(size))

    def test_create_is_byte_identical(self):
        for options in self.OPTIONS:
            for size in self.SMALL:
                with self.subTest(options=options, size=size):
                    self.assertEqual(self.create(options, size), 0)
                    self.assertEqual(os.stat(self.ours).st_blocks, os.stat(self.theirs).st_blocks)
                    if "fixed" not in options or size < 20 << 20:
                        self.assert_same_bytes(_masked(self.ours), _masked(self.theirs))

    def test_create_large(self):
        for size in self.LARGE:
            with self.subTest(size):
                if self.create("", size) == 0:
                    self.assert_same_bytes(_masked(self.ours), _masked(self.theirs))
                if self.create("subformat=fixed", size) == 0:
                    files = []
                    for path in (self.ours, self.theirs):
                        with open(path, "rb") as file:
                            length = file.seek(-512, 2)
                            end = file.read()
                        files.append((length, end[:24] + end[28:64] + end[84:]))
                    self.assertEqual(*files)

    def test_create_rounds_like_every_release(self):
        """All releases round alike."""
        for version in ("5.2.0", "7.2.22", "11.1.3"):
            argv = ["create", "-q", "-f", "vpc", "x.vhd", str(104349 * 512)]
            self.assertEqual(self.run_as_qemu_img(*argv, version=version, cwd=self.tmp)[2], 0)
            with open(self.path("x.vhd"), "rb") as file:
                self.assertEqual(int.from_bytes(file.read(56)[48:], "big"), 104363 * 512)

    def test_bad_options(self):
        for options in ("subformat=nosuch", "subformat=", "force_size=x", "nosuch=1"):
            self.assertEqual(self.create(options, 1 << 20), 1)
        out = self.run_as_qemu_img(
            "create", "-f", "vpc", "-o", "subformat=x", "x.vhd", "1M", version="5.2.0", cwd=self.tmp
        )
        self.assertIn("Invalid parameter 'x'", out[1])
        self.assertEqual(self.both("create", "-f", "vpc", "-b", "x", "1M"), 1)
        self.assertEqual(
            self.run_as_qemu_img("create", "-f", "vpc", "-o", "help"),
            self.run_qemu_img("create", "-f", "vpc", "-o", "help"),
        )

    def test_convert(self):
        """What both tools make shows the same, and the same of itself."""
        Maker(self.tmp, "vpc-convert").raw("small.raw", 3 << 20)
        Maker(self.tmp, "vpc-convert-odd").raw("odd.raw", 5 << 20, tail=512 * 5)
        Maker(self.tmp, "vpc-convert-large").raw("large.raw", 5 << 30, pieces=30)
        for source in ("small.raw", "odd.raw", "large.raw"):
            for options in self.OPTIONS:
                with self.subTest(source=source, options=options):
                    argv = [
                        "convert",
                        "-f",
                        "raw",
                        "-O",
                        "vpc",
                        *(["-o", options] if options else []),
                        self.path(source),
                        "x.vhd",
                    ]
                    for run, folder in ((self.run_instar, "ours"), (self.run_qemu_img, "theirs")):
                        out, err, status = run(*argv, cwd=self.path(folder), timeout=120)
                        self.assertEqual((out, err, status), ("", "", 0))
                    self.assert_same_disk(self.ours, self.theirs, "-s", "-f", "vpc", "-F", "vpc")
                    self.assert_same_disk(self.ours, self.path(source), "-f", "vpc", "-F", "raw")
                    infos = []
                    for folder in ("ours", "theirs"):
                        out = self.run_qemu_img("info", "-f", "vpc", "--output=json", "x.vhd", cwd=self.path(folder))[0]
                        info = json.loads(out)
                        # Where zeroes are left out in the middle of a block may differ by some file system blocks.
                        for part in (info, info["children"][0]["info"]):
                            self.assertLess(part.pop("actual-size"), 5 << 20)
                        infos.append(info)
                    self.assertEqual(*infos)
                    self.assertEqual(self.run_instar("check", "-f", "vpc", self.ours)[2], 0)

    def test_convert_to_a_device_that_is_not_empty(self):
        """`-S 0` and zeroes: read as they were."""
        Maker(self.tmp, "vpc-full").raw("small.raw", 3 << 20)
        out = self.run_instar("convert", "-S", "0", "-O", "vpc", "small.raw", "x.vhd", cwd=self.tmp)
        self.assertEqual(out, ("", "", 0))
        self.assert_same_disk("x.vhd", "small.raw", "-f", "vpc", "-F", "raw")


class TestChildren(InstarTestBase):
    """Differencing disks are made under our own name only."""

    def make_parent(self, options=""):
        maker = Maker(self.tmp, "vpc-parent")
        maker.raw("parent.raw", 9 << 20)
        argv = ["convert", "-f", "raw", "-O", "vpc", *(["-o", options] if options else []), "parent.raw", "parent.vhd"]
        self.assertEqual(self.run_instar(*argv, cwd=self.tmp)[2], 0)

    def shown(self, name):
        out, err, status = self.run_instar("convert", "-f", "vpc", "-O", "raw", name, "shown.raw", cwd=self.tmp)
        self.assertEqual(status, 0, err)
        with open(self.path("shown.raw"), "rb") as file:
            return file.read()

    def test_create_over(self):
        for options in ("", "subformat=fixed"):
            self.make_parent(options)
            out, err, status = self.run_instar(
                "create", "-f", "vpc", "-b", "parent.vhd", "-F", "vpc", "child.vhd", cwd=self.tmp
            )
            self.assertEqual((err, status), ("", 0))
            self.assert_same_bytes(self.shown("child.vhd"), self.shown("parent.vhd"))
            with open(self.path("child.vhd"), "rb") as file:
                child = file.read()
            with open(self.path("parent.vhd"), "rb") as file:
                parent = file.read()[-512:]
            self.assertEqual(int.from_bytes(child[60:64], "big"), vhd.DIFFERENCING)
            # The child knows its parent by identifier, time, and name.
            self.assertEqual(child[512 + 40 : 512 + 60], parent[68:84] + parent[24:28])
            self.assertIn(".\\parent.vhd".encode("utf-16-le"), child)
            self.assertEqual(child[512 + 576 : 512 + 580], b"W2ru")

    def test_child_of_a_child(self):
        self.make_parent()
        for below, above in (("parent", "one"), ("one", "two")):
            argv = ["create", "-f", "vpc", "-b", f"{below}.vhd", "-F", "vpc", f"{above}.vhd"]
            self.assertEqual(self.run_instar(*argv, cwd=self.tmp)[2], 0)
        self.assert_same_bytes(self.shown("two.vhd"), self.shown("parent.vhd"))
        self.assertEqual(self.run_instar("check", "two.vhd", cwd=self.tmp)[2], 0)

    def test_refused(self):
        self.make_parent()
        for argv, text in (
            (["-u", "-b", "parent.vhd", "-F", "vpc", "c.vhd", "9M"], "must be opened"),
            (["-b", "parent.raw", "-F", "raw", "c.vhd"], "must be a VHD"),
            (["-o", "subformat=fixed", "-b", "parent.vhd", "-F", "vpc", "c.vhd"], "cannot have a parent"),
        ):
            out, err, status = self.run_instar("create", "-f", "vpc", *argv, cwd=self.tmp)
            self.assertEqual(status, 1)
            self.assertIn(text, err)
            self.assertFalse(os.path.exists(self.path("c.vhd")))
        argv = ["create", "-f", "vpc", "-b", "parent.vhd", "-F", "vpc", "c.vhd"]
        self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))


class TestPreallocation(InstarTestBase):
    """The option is one of the file: the driver makes the file as long as it is going to be, whatever was reserved."""

    def made(self, tool, argv, name):
        """What the tool says, and of the file: its length, what it occupies, and what the disk shows."""
        out, err, status = tool(*argv, name, *(["4M"] if argv[0] == "create" else []), cwd=self.tmp)
        said = (out.replace(name, "NAME"), err.replace(name, "NAME"), status)
        if status:
            return said
        stat = os.stat(self.path(name))
        self.make("qemu-img", "convert", "-f", "vpc", "-O", "raw", name, "shown")
        with open(self.path("shown"), "rb") as file:
            return said, stat.st_size, stat.st_blocks, file.read()

    def test_as_the_stock_tool(self):
        Maker(self.tmp, "vpc").raw("source.raw", 3 << 20)
        for subformat in ("dynamic", "fixed"):
            for mode in ("off", "metadata", "falloc", "full", "all"):
                option = f"subformat={subformat},preallocation={mode}"
                for argv in (
                    ["create", "-f", "vpc", "-o", option],
                    ["convert", "-f", "raw", "-O", "vpc", "-o", option, "source.raw"],
                ):
                    with self.subTest(option=option, command=argv[0]):
                        ours = self.made(self.run_as_qemu_img, argv, "ours.vpc")
                        theirs = self.made(self.run_qemu_img, argv, "theirs.vpc")
                        self.assertEqual(ours[:3], theirs[:3])
                        if len(ours) > 3:
                            self.assert_same_bytes(ours[3], theirs[3], option)


if __name__ == "__main__":
    unittest.main()
