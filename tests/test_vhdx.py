"""VHDX: damage, logs, differencing disks, sectors of 4096 bytes. Images are built by the test from [MS-VHDX]; what the
stock tool can read too is compared with it."""

import json
import random
import struct
import unittest

from tests.base import InstarTestBase
from tests.helpers import vhdx
from tests.helpers.vhdx import BAT_AT, FULL, LOG_ID, METADATA_AT, MIB, NOT_PRESENT, PARTIAL, ZERO

SIZE = 8 * MIB
KNOWN = [(vhdx.BAT_REGION, BAT_AT, MIB, 1), (vhdx.METADATA_REGION, METADATA_AT, MIB, 1)]
ITEMS = vhdx.items(SIZE, MIB)
ONE = {1: (FULL, b"data")}


def _headers(**fields):
    return {"headers": [vhdx.header(1), vhdx.header(2, **fields)]}


def _regions(*entries, **fields):
    return {"tables": [vhdx.regions(list(entries), **fields)] * 2}


def _meta(found=ITEMS, **fields):
    return {"meta": vhdx.metadata(list(found), **fields)}


# Name to the parts that `vhdx.build` makes otherwise.
ODD = {
    "one-header-bad": {"headers": [vhdx.header(1, sound=False), vhdx.header(2)]},
    "both-headers-bad": {"headers": [vhdx.header(1, sound=False), vhdx.header(2, sound=False)]},
    "duelling-headers": {"headers": [vhdx.header(1), vhdx.header(1, log_length=2 * MIB)]},
    "header-signature": {"headers": [vhdx.header(1, signature=b"xxxx")] * 2},
    "version-2": {"headers": [vhdx.header(1, version=2), vhdx.header(2, version=2)]},
    "log-version": _headers(log_version=1),
    "log-length-0": _headers(log_id=LOG_ID, log_length=0),
    "log-length-odd": _headers(log_length=4096),
    "log-length-odd-used": _headers(log_id=LOG_ID, log_length=4096),
    "log-offset-odd": _headers(log_at=4096),
    "log-over-metadata": _headers(log_at=2 * MIB),
    "log-nowhere": _headers(log_at=1 << 40),
    "log-nowhere-used": _headers(log_at=1 << 40, log_id=LOG_ID),
    "regions-sum": _regions(*KNOWN, sound=False),
    "regions-signature": _regions(*KNOWN, signature=b"xxxx"),
    "regions-2048": _regions(*KNOWN, count=2048),
    "regions-none": _regions(),
    "regions-no-bat": _regions(KNOWN[1]),
    "regions-no-metadata": _regions(KNOWN[0]),
    "regions-twice": _regions(*KNOWN, (vhdx.BAT_REGION, 8 * MIB, MIB, 1)),
    "regions-unknown-required": _regions(*KNOWN, (bytes(16), 8 * MIB, MIB, 1)),
    "regions-overlap": _regions(KNOWN[0], (vhdx.METADATA_REGION, BAT_AT, MIB, 1)),
    "regions-unknown-overlap": _regions(*KNOWN, (bytes(16), 3 * MIB, MIB, 1)),
    "regions-twice-unknown": _regions(*KNOWN, *[(bytes(16), 6 * MIB, MIB, 0)] * 2),
    "bat-unaligned": _regions((vhdx.BAT_REGION, BAT_AT + 4096, MIB, 1), KNOWN[1]),
    "bat-of-4096": _regions((vhdx.BAT_REGION, BAT_AT, 4096, 1), KNOWN[1]),
    "bat-nowhere": _regions((vhdx.BAT_REGION, 1 << 40, MIB, 1), KNOWN[1]),
    "bat-at-2-63": _regions((vhdx.BAT_REGION, 1 << 63, MIB, 1), KNOWN[1]),
    "bat-at-0": _regions((vhdx.BAT_REGION, 0, MIB, 1), KNOWN[1]),
    "bat-empty": _regions((vhdx.BAT_REGION, BAT_AT, 0, 1), KNOWN[1]),
    "metadata-empty": _regions(KNOWN[0], (vhdx.METADATA_REGION, METADATA_AT, 0, 1)),
    "metadata-signature": _meta(signature=b"xxxxxxxx"),
    "metadata-2048": _meta(count=2048),
    "metadata-twice": _meta([*ITEMS, ITEMS[0]]),
    "metadata-unknown-required": _meta([*ITEMS, (bytes(16), b"abc", 4)]),
    "metadata-unknown-users": _meta([*ITEMS, (bytes(16), b"abc", 5)]),
    "size-nowhere": _meta(offsets={1: MIB}),
    "size-in-table": _meta(offsets={1: 1000}),
    "size-at-2-32": _meta(offsets={1: 0xFFFFFFFF}),
    "size-unaligned": _meta(vhdx.items(1000, MIB)),
    "flags-unknown": _meta(vhdx.items(SIZE, MIB, flags=4)),
    "flag-of-parent-alone": _meta(vhdx.items(SIZE, MIB, flags=2)),
    "locator-alone": _meta([*ITEMS, (vhdx.PARENT_LOCATOR, b"x" * 40, 4)]),
    "sector-1024": {"sector": 1024},
    "disk-larger-than-bat": _meta(vhdx.items(200 << 30, MIB)),
    "entry-nowhere": {"bat": {0: (1 << 40) | FULL}},
    "entry-behind-end": {"bat": {0: 5 * MIB | FULL}},
    "entry-2-62": {"bat": {0: (1 << 62) | FULL}},
    "entry-2-63": {"bat": {0: (1 << 63) | FULL}},
    "entry-before-2-63": {"bat": {0: ((1 << 63) - MIB) | FULL}},
    "entry-before-2-64": {"bat": {0: ((1 << 64) - MIB) | FULL}},
    "entry-in-bat": {"bat": {0: BAT_AT | FULL}},
    "entry-in-log": {"bat": {0: MIB | FULL}},
    "entry-at-0": {"bat": {0: FULL}},
    "entry-reserved-bits": {"bat": {0: 4 * MIB | FULL | 1 << 5}},
    "two-entries-nowhere": {"bat": {0: (1 << 40) | FULL, 2: (1 << 41) | FULL}},
    "entry-of-zeroes-nowhere": {"bat": {0: (1 << 40) | ZERO}},
    **{f"block-{n}": _meta(vhdx.items(SIZE, n)) for n in (0, MIB // 2, MIB + 4096, 3 * MIB, 512 * MIB, 1 << 31)},
    **{f"size-{n}": _meta(vhdx.items(n, MIB)) for n in (0, 511, 512, 64 << 40, (64 << 40) + 512, 1 << 63, 2**64 - 1)},
    **{f"without-item-{n}": _meta(ITEMS[:n] + ITEMS[n + 1 :]) for n in range(5)},
}


class VhdxTest(InstarTestBase):
    def write(self, content, name="disk.vhdx"):
        with open(self.path(name), "wb") as file:
            file.write(content)

    def both(self, *argv):
        """The stock tool's outcome; ours under both names must be the same."""
        stock = self.run_qemu_img(*argv, cwd=self.tmp)
        self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
        return stock

    def converted(self, name="disk.vhdx"):
        out, err, status = self.run_instar("convert", "-O", "raw", name, "out.raw", cwd=self.tmp)
        self.assertEqual(status, 0, err)
        with open(self.path("out.raw"), "rb") as file:
            return file.read()


class TestOdd(VhdxTest):
    def test_as_the_stock_tool(self):
        for name, parts in ODD.items():
            with self.subTest(name):
                self.write(vhdx.build(SIZE, ONE, **parts))
                self.both("info", "-f", "vhdx", "disk.vhdx")

    def test_check_as_the_stock_tool(self):
        """Under the stock tool's name; under ours, more is found."""
        for name in (n for n in ODD if n.startswith(("entry", "two", "bat"))):
            with self.subTest(name):
                self.write(vhdx.build(SIZE, ONE, **ODD[name]))
                self.both("check", "-f", "vhdx", "disk.vhdx")
                self.both("check", "-f", "vhdx", "--output=json", "disk.vhdx")

    def test_cut_short(self):
        whole = vhdx.build(SIZE - MIB // 2, {7: (FULL, b"x")})
        for cut in (1, 4096, MIB // 2, MIB // 2 + 4096, 2 * MIB):
            with self.subTest(cut):
                self.write(whole[:-cut])
                self.both("info", "-f", "vhdx", "disk.vhdx")
                self.both("check", "-f", "vhdx", "disk.vhdx")

    def test_no_vhdx(self):
        for content in (b"", b"vhdxfile", b"x" * 100_000, b"vhdxfile" + bytes(300_000)):
            self.write(content)
            self.both("info", "-f", "vhdx", "disk.vhdx")

    def test_states(self):
        for state in range(8):
            with self.subTest(state):
                self.write(vhdx.build(SIZE, {1: (state, b"data")}))
                stock = self.run_qemu_img("convert", "-O", "raw", "disk.vhdx", "theirs.raw", cwd=self.tmp)
                ours = self.run_instar("convert", "-O", "raw", "disk.vhdx", "ours.raw", cwd=self.tmp)
                self.assertEqual(ours[2], stock[2], ours[1])
                if stock[2]:
                    self.assertIn("Input/output error", ours[1])
                else:
                    self.assert_bytes_identical(self.path("ours.raw"), self.path("theirs.raw"))

    def test_second_region_table(self):
        """Stands in for a damaged first one, under our own name."""
        tables = [vhdx.regions(KNOWN, sound=False), vhdx.regions(KNOWN)]
        self.write(vhdx.build(SIZE, ONE, tables=tables))
        self.assertEqual(self.both("info", "disk.vhdx")[2], 1)
        self.assert_same_bytes(self.converted(), bytes(MIB) + b"data".ljust(SIZE - MIB, b"\0"))

    def test_two_blocks_in_one_place(self):
        self.write(vhdx.build(SIZE, ONE, bat={0: 4 * MIB | FULL}))
        out, err, status = self.run_instar("check", "disk.vhdx", cwd=self.tmp)
        self.assertEqual(status, 2)
        self.assertIn(f"two blocks share bytes at {4 * MIB}", err)
        self.assertEqual(self.both("check", "disk.vhdx")[2], 0)


class TestLog(VhdxTest):
    """Dirty logs: the stock tool refuses them when it only reads; instar reads the image as it is once replayed."""

    # The table's first sector: block 0 where block 1 was, block 1 gone.
    TABLE = struct.pack("<QQ", 4 * MIB | FULL, NOT_PRESENT).ljust(4096, b"\0")
    DATA = b"data".ljust(MIB, b"\xee")

    def log(self, *entries, gap=0):
        return bytes(gap) + b"".join(entries)

    def entry(self, sequence, writes, **fields):
        return vhdx.log_entry(sequence, writes, **{"flushed": 5 * MIB, "last": 5 * MIB, **fields})

    def dirty(self, log, **parts):
        self.write(vhdx.build(SIZE, {1: (FULL, self.DATA)}, log=log, **parts))

    def assert_refused_by_stock(self):
        for argv in (["info", "disk.vhdx"], ["check", "disk.vhdx"], ["convert", "-O", "raw", "disk.vhdx", "x.raw"]):
            self.assertEqual(self.both(*argv)[2], 1)

    def assert_moved(self):
        self.assert_same_bytes(self.converted(), self.DATA + bytes(SIZE - MIB))

    def assert_unmoved(self):
        self.assert_same_bytes(self.converted(), bytes(MIB) + self.DATA + bytes(SIZE - 2 * MIB))

    def test_one_entry(self):
        self.dirty(self.entry(1, [(BAT_AT, self.TABLE)]))
        self.assert_refused_by_stock()
        self.assert_moved()
        out, err, status = self.run_instar("check", "disk.vhdx", cwd=self.tmp)
        self.assertEqual((err, status), ("", 0))
        info = json.loads(self.run_instar("info", "--output=json", "disk.vhdx", cwd=self.tmp)[0])
        self.assertTrue(info["dirty-flag"])

    def test_the_same_as_the_stock_tools_replay(self):
        """`check -r all` replays; what it shows then is what instar shows before."""
        log = self.log(
            self.entry(5, [(BAT_AT, bytes(4096)), (METADATA_AT + 128 * 1024, b"\xaa" * 4096)]),
            self.entry(6, [(BAT_AT, self.TABLE), (BAT_AT + 8192, 8192)]),
        )
        self.dirty(log)
        ours = self.converted()
        done = self.run_qemu_img("check", "-r", "all", "disk.vhdx", cwd=self.tmp)
        self.assertEqual(done[2], 0, done)
        self.assertEqual(self.run_qemu_img("convert", "-O", "raw", "disk.vhdx", "theirs.raw", cwd=self.tmp)[2], 0)
        with open(self.path("theirs.raw"), "rb") as file:
            self.assert_same_bytes(file.read(), ours)

    def test_the_file_is_unchanged(self):
        self.dirty(self.entry(1, [(BAT_AT, self.TABLE)]))
        before = self.sha256(self.path("disk.vhdx"))
        self.converted()
        self.assertEqual(self.sha256(self.path("disk.vhdx")), before)

    def test_entries_later_in_the_log(self):
        first = self.entry(7, [(BAT_AT, bytes(4096))], tail=8192)
        self.dirty(self.log(first, self.entry(8, [(BAT_AT, self.TABLE)], tail=8192), gap=8192))
        self.assert_moved()

    def test_only_what_the_head_says_is_active(self):
        """An entry before the head's tail has been done: not again."""
        done = self.entry(7, [(BAT_AT, self.TABLE)])
        self.dirty(self.log(done, self.entry(8, [(METADATA_AT + 128 * 1024, bytes(4096))], tail=len(done))))
        self.assert_unmoved()

    def test_an_older_sequence_elsewhere(self):
        newer = self.entry(20, [(METADATA_AT + 128 * 1024, bytes(4096))])
        self.dirty(self.log(newer, bytes(8192), self.entry(3, [(BAT_AT, self.TABLE)], tail=len(newer) + 8192)))
        self.assert_unmoved()

    def test_around_the_end(self):
        """The entry's last sector is at the beginning of the log."""
        entry = self.entry(4, [(BAT_AT, self.TABLE)], tail=MIB - 4096)
        self.dirty(entry[4096:].ljust(MIB - 4096, b"\0") + entry[:4096])
        self.assert_refused_by_stock()
        self.assert_moved()

    def test_nothing_to_replay(self):
        for name, entry in (
            ("sum", self.entry(1, [(BAT_AT, self.TABLE)], sound=False)),
            ("other", self.entry(1, [(BAT_AT, self.TABLE)], log_id=bytes(range(16)))),
            ("number-0", self.entry(0, [(BAT_AT, self.TABLE)])),
        ):
            with self.subTest(name):
                self.dirty(entry)
                self.assertEqual(self.both("info", "disk.vhdx")[2], 0)
                self.assert_unmoved()

    def test_zeroes(self):
        self.dirty(self.entry(1, [(BAT_AT, 4096)]))
        self.assert_same_bytes(self.converted(), bytes(SIZE))

    def test_a_longer_file(self):
        """A block that lies behind the end of the file until the log is replayed."""
        table = struct.pack("<QQ", 4 * MIB | FULL, 8 * MIB | FULL).ljust(4096, b"\0")
        self.dirty(self.entry(1, [(BAT_AT, table)], last=9 * MIB))
        self.assert_same_bytes(self.converted(), self.DATA + bytes(SIZE - MIB))

    def test_broken_entries(self):
        good = self.entry(1, [(BAT_AT, self.TABLE)])
        for name, log, text in (
            ("unaligned", self.entry(1, [(BAT_AT + 1, self.TABLE)]), "Invalid argument"),
            ("short-file", self.entry(1, [(BAT_AT, self.TABLE)], flushed=6 * MIB), "cut short"),
            ("no-sector", vhdx.summed(good[:8] + struct.pack("<I", 4096) + good[12:4096]), "contradicts itself"),
            ("payload", self.entry(1, [(4 * MIB, b"\x11" * 4096)]), "changes the content"),
        ):
            with self.subTest(name):
                self.dirty(log)
                out, err, status = self.run_instar("convert", "-O", "raw", "disk.vhdx", "x.raw", cwd=self.tmp)
                self.assertEqual(status, 1)
                self.assertIn(text, err)

    def test_many_long_false_entries_end(self):
        """Every sector begins an entry as long as the log, with a wrong sum."""
        length = 64 * MIB
        head = struct.pack("<4sIIIQII16sQQ", b"loge", 1, length, 0, 9, 0, 0, LOG_ID, 0, 0).ljust(4096, b"\0")
        headers = [vhdx.header(n, LOG_ID, length, 512 * MIB) for n in (1, 2)]
        self.write(vhdx.build(SIZE, ONE, headers=headers))
        with open(self.path("disk.vhdx"), "r+b") as file:
            file.seek(512 * MIB)
            file.write(head * 4096)
            file.truncate(576 * MIB)
        out, err, status = self.run_adversarial(["info", self.path("disk.vhdx")], timeout=10, max_memory_mb=2048)
        self.assertEqual(status, 1)
        self.assertIn("the log is too long", err)


class TestSectors(VhdxTest):
    """Logical sectors of 4096 bytes: the stock tool cannot read such disks."""

    def test_4096(self):
        content = random.Random(3).randbytes(MIB)
        self.write(vhdx.build(SIZE, {2: (FULL, content)}, sector=4096))
        self.assertEqual(self.both("info", "disk.vhdx")[2], 1)
        self.assert_same_bytes(self.converted(), bytes(2 * MIB) + content + bytes(5 * MIB))

    def test_4096_chunks(self):
        """A chunk is eight times as long."""
        content = random.Random(4).randbytes(MIB)
        block, size = 256 * MIB, 40 << 30
        number = vhdx.chunk_ratio(block, 4096) + 3
        self.write(vhdx.build(size, {}, block, sector=4096, bat={number + 1: 4 * MIB | FULL}))
        with open(self.path("disk.vhdx"), "r+b") as file:
            file.seek(4 * MIB)
            file.write(content)
            file.truncate(260 * MIB)
        out, err, status = self.run_instar("convert", "-O", "raw", "disk.vhdx", "out.raw", cwd=self.tmp)
        self.assertEqual(status, 0, err)
        with open(self.path("out.raw"), "rb") as file:
            file.seek(number * block)
            self.assert_same_bytes(file.read(MIB), content)


class TestDifferencing(VhdxTest):
    """Differencing disks: refused by the stock tool, read with their parents by instar."""

    def setUp(self):
        super().setUp()
        source = random.Random(5)
        self.parent = source.randbytes(SIZE)
        self.child = source.randbytes(MIB)
        blocks = {n: (FULL, self.parent[n * MIB :][:MIB]) for n in range(8)}
        self.write(vhdx.build(SIZE, blocks), "parent.vhdx")

    def make(self, pairs, sector=512):
        """Block 0 the child's; of block 2 some sectors; block 5 zeroes; the rest the parent's."""
        bits = bytearray(MIB)
        per = MIB // sector
        own = [1, 2, 3, 8, 100, per - 1]
        for number in own:
            bit = 2 * per + number
            bits[bit // 8] |= 1 << bit % 8
        states = {0: (FULL, self.child), 2: (PARTIAL, self.child), 5: (ZERO, None)}
        pairs = [("parent_linkage", "{00000000-0000-0000-0000-000000000002}"), *pairs]
        self.write(vhdx.build(SIZE, states, sector=sector, bitmaps={0: bytes(bits)}, parent=pairs), "child.vhdx")
        want = bytearray(self.parent)
        want[:MIB] = self.child
        for number in own:
            at = number * sector
            want[2 * MIB + at : 2 * MIB + at + sector] = self.child[at : at + sector]
        want[5 * MIB : 6 * MIB] = bytes(MIB)
        return bytes(want)

    def test_each_way_to_name_the_parent(self):
        for name, pairs in (
            ("relative", [("relative_path", ".\\parent.vhdx")]),
            ("absolute", [("absolute_win32_path", "C:\\images\\parent.vhdx")]),
            ("volume", [("volume_path", "\\\\?\\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\\parent.vhdx")]),
            ("relative-first", [("absolute_win32_path", "D:\\x.vhdx"), ("relative_path", "parent.vhdx")]),
        ):
            with self.subTest(name):
                want = self.make(pairs)
                self.assert_same_bytes(self.converted("child.vhdx"), want)

    def test_sectors_of_4096(self):
        want = self.make([("relative_path", "parent.vhdx")], sector=4096)
        self.assert_same_bytes(self.converted("child.vhdx"), want)

    def test_refused_as_qemu_img(self):
        self.make([("relative_path", "parent.vhdx")])
        self.assertEqual(self.both("info", "child.vhdx")[2], 1)
        self.assertEqual(self.both("convert", "-O", "raw", "child.vhdx", "x.raw")[2], 1)

    def test_info(self):
        self.make([("relative_path", ".\\parent.vhdx")])
        info = json.loads(self.run_instar("info", "--output=json", "child.vhdx", cwd=self.tmp)[0])
        self.assertEqual((info["backing-filename"], info["backing-filename-format"]), ("parent.vhdx", "vhdx"))

    def test_check(self):
        self.make([("relative_path", "parent.vhdx")])
        self.assertEqual(self.run_instar("check", "child.vhdx", cwd=self.tmp)[2], 0)

    def test_names_outside(self):
        for path in ("..\\..\\..\\etc\\passwd", "/etc/passwd", "\\\\server\\share\\x.vhdx"):
            with self.subTest(path):
                self.make([("relative_path", path)])
                out, err, status = self.run_instar("convert", "-O", "raw", "child.vhdx", "x.raw", cwd=self.tmp)
                self.assertEqual(status, 1)
                self.assertNotIn("root:", out + err)


if __name__ == "__main__":
    unittest.main()
