"""Apple disk images that are odd or damaged, against the stock tool, and codecs that it has only as modules, against
the generator's own data. The sound ones are in the matrix."""

import base64
import os
import struct

from tests.base import InstarTestBase
from tests.helpers import dmg
from tests.helpers.dmg import ADC, BZIP2, COMMENT, IGNORE, LZFSE, LZMA, RAW, ZERO, ZLIB

CHUNKS = dmg.sample(1, (RAW, ZERO, ZLIB, IGNORE, ZLIB))
FIELDS = ("kind", "sector", "count", "offset", "length")
KIB = 1024
TABLE = dmg.mish([dmg.chunk(RAW, 0, 64, 0, 32768)])


def _edit(index, **new):
    def edit(entries):
        entries = list(entries)
        entries[index] = tuple({**dict(zip(FIELDS, entries[index], strict=True)), **new}.values())
        return entries

    return dmg.build(CHUNKS, edit=edit)


def _patched(offset, value, **fields):
    whole = bytearray(dmg.build(CHUNKS, **fields))
    at = len(whole) - 512 + offset
    struct.pack_into(">Q", whole, at, value)
    return bytes(whole)


def _around(table, fork="xml"):
    """Those bytes as property list or resource fork."""
    data = CHUNKS[0][2]
    return data + table + dmg.koly(**{fork: (len(data), len(table))}, sectors=64)


def _list(text):
    return _around(f"<plist><data>{text}</data></plist>".encode())


def _fork(start=256, length=None, tables=(TABLE,), sizes=None):
    data = b"".join(struct.pack(">I", n) + t for n, t in zip(sizes or [len(t) for t in tables], tables, strict=True))
    head = struct.pack(">IIII", start, 0, len(data) if length is None else length, 50)
    return _around(head + bytes(240) + data, "rsrc")


_text = base64.b64encode(TABLE).decode()
_numbers = (0, 1, 1 << 31, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1)
ODD = {
    "empty": b"",
    "one-byte": b"x",
    "nothing": b"x" * 5000,
    "magic-alone": b"koly",
    "trailer-alone": dmg.koly(),
    "magic-before": dmg.build(CHUNKS)[:-512] + b"koly" + dmg.build(CHUNKS)[-512:],
    **{f"cut-by-{n}": dmg.build(CHUNKS)[:-n] for n in (1, 5, 20, 100, 300, 484, 511, 512, 513)},
    **{f"and-{n}-bytes": dmg.build(CHUNKS) + b"x" * n for n in (1, 11, 12, 13, 100, 511, 512, 523, 524, 525)},
    **{f"data-at-{n}": _patched(0x18, n) for n in (*_numbers, 5)},
    **{f"resources-at-{n}": _patched(0x28, n) for n in _numbers},
    **{f"resources-long-{n}": _patched(0x30, n) for n in (*_numbers, 10, 300)},
    **{f"resources-fork-long-{n}": _patched(0x30, n, fork="rsrc") for n in (*_numbers, 10, 16, 300, 600)},
    **{f"list-at-{n}": _patched(0xD8, n) for n in _numbers},
    **{f"list-long-{n}": _patched(0xE0, n) for n in (*_numbers, 10, 300)},
    **{f"sectors-{n}": _patched(0x1EC, n) for n in (0, 1, 10, 321, (1 << 54) - (1 << 21), 1 << 54, 1 << 63)},
    **{f"sector-{n}": _edit(2, sector=n) for n in (*_numbers, 129, 127)},
    **{f"count-{n}": _edit(2, count=n) for n in (*_numbers, 63, 65, 131072, 131073)},
    **{f"offset-{n}": _edit(2, offset=n) for n in _numbers},
    **{f"length-{n}": _edit(2, length=n) for n in (*_numbers, 10, 60000, 64 << 20, (64 << 20) + 1)},
    **{f"zero-count-{n}": _edit(1, count=n) for n in _numbers},
    **{f"zero-length-{n}": _edit(1, length=n) for n in _numbers},
    **{f"ignore-count-{n}": _edit(3, count=n) for n in _numbers},
    **{f"last-count-{n}": _edit(4, kind=ZERO, count=n) for n in _numbers},
    **{f"raw-count-{n}": _edit(0, count=n) for n in (*_numbers, 131073)},
    **{f"raw-offset-{n}": _edit(0, offset=n) for n in _numbers},
    **{f"raw-length-{n}": _edit(0, length=n) for n in (*_numbers, 40000)},
    **{f"kind-{n:x}": _edit(2, kind=n) for n in (3, 0x7FFFFFFF, ADC, LZMA, COMMENT, 0xFFFFFFFE, 0xFFFFFFFF)},
    "two-unknown-kinds": _edit(2, kind=7) + b"",
    "starts-late": dmg.build(CHUNKS, start=7),
    "no-list": _around(b"hello"),
    "list-without-end": _around(b"<data>" + _text.encode()),
    "list-with-zero": _around(b"<data>\0" + _text.encode() + b"</data>"),
    "list-with-zero-before": _around(b"\0<data>" + _text.encode() + b"</data>"),
    "list-empty": _list(""),
    "list-plain": _list(_text),
    "list-in-lines": _list("\n\t".join(_text[i : i + 7] for i in range(0, len(_text), 7))),
    "list-with-tags": _list(_text[:100] + "< >" + _text[100:]),
    "list-with-half-an-end": _list(_text[:100] + "<" + _text[100:]),
    "list-short": _list(_text[:200]),
    "list-cut": _list(_text[:-3]),
    "list-padded": _list(base64.b64encode(TABLE + b"x").decode()),
    "list-not-base64": _list("@@@@"),
    "table-magic": _list(base64.b64encode(b"xxxx" + TABLE[4:]).decode()),
    "table-of-nothing": _list(base64.b64encode(dmg.mish([])).decode()),
    "table-says-none": _list(base64.b64encode(dmg.mish([dmg.chunk(RAW, 0, 64, 0, 32768)], number=0)).decode()),
    "table-says-many": _list(base64.b64encode(dmg.mish([dmg.chunk(RAW, 0, 64, 0, 32768)], number=1 << 31)).decode()),
    "table-sector": _list(base64.b64encode(dmg.mish([dmg.chunk(RAW, 1, 64, 0, 32768)], start=(1 << 64) - 1)).decode()),
    "table-data": _list(
        base64.b64encode(dmg.mish([dmg.chunk(RAW, 0, 64, 5, 32768)], data_offset=(1 << 64) - 5)).decode()
    ),
    "fork": _fork(),
    **{f"fork-start-{n}": _fork(start=n) for n in (0, 16, 255, 257, 503, 504, 505, 520, 1 << 31, (1 << 32) - 1)},
    **{f"fork-length-{n}": _fork(length=n) for n in (0, 1, 4, 247, 248, 249, 1 << 31, (1 << 32) - 1)},
    **{f"fork-size-{n}": _fork(sizes=[n]) for n in (0, 1, 203, 243, 244, 245, 248, 249, 1 << 31, (1 << 32) - 1)},
    "fork-two": _fork(tables=(TABLE[:100], TABLE)),
    "fork-second-size": _fork(tables=(TABLE, b"x"), sizes=[244, 5]),
    "zlib-junk": dmg.build([(ZLIB, 8, b"", b"junk")]),
    "zlib-and-junk": dmg.build([(ZLIB, 8, b"x", dmg.stored(ZLIB, bytes(4096)) + b"junk")]),
    "zlib-shorter": dmg.build([(ZLIB, 8, b"x", dmg.stored(ZLIB, bytes(4095)))]),
    "zlib-longer": dmg.build([(ZLIB, 8, b"x", dmg.stored(ZLIB, bytes(4097)))]),
    "zlib-of-gigabytes": dmg.build([(ZLIB, 8, b"x", dmg.stored(ZLIB, bytes(64 << 20)))]),
    "zlib-checksum": dmg.build([(ZLIB, 8, b"x", dmg.stored(ZLIB, bytes(4096))[:-1] + b"x")]),
    "zlib-cut": dmg.build([(ZLIB, 8, b"x", dmg.stored(ZLIB, bytes(4096))[:-4])]),
}
# Bytes that the stock tool leaves in its buffer, of a chunk that is shorter than it says.
STALE = {"raw-length-0", "raw-length-1"}


class DmgTest(InstarTestBase):
    def write(self, content, name="disk.img"):
        with open(self.path(name), "wb") as file:
            file.write(content)

    def both(self, *argv):
        """The stock tool's outcome; ours by its name must be the same."""
        stock = self.run_qemu_img(*argv, cwd=self.tmp)
        self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
        return stock[2]

    def converted(self, *argv):
        out, err, status = self.run_instar("convert", "-f", "dmg", "-O", "raw", "disk.img", "ours", *argv, cwd=self.tmp)
        self.assertEqual(status, 0, out + err)
        with open(self.path("ours"), "rb") as file:
            return file.read()


class TestOdd(DmgTest):
    def test_as_the_stock_tool(self):
        for name, content in ODD.items():
            with self.subTest(name):
                self.write(content)
                if self.both("info", "-f", "dmg", "disk.img"):
                    continue
                self.both("map", "--output=json", "-f", "dmg", "disk.img")
                if name in STALE or os.path.getsize(self.path("disk.img")) == 0:
                    continue
                size = self.info_json_of("dmg", "disk.img")["virtual-size"]
                if size > 1 << 30:
                    continue
                argv = ("convert", "-f", "dmg", "-O", "raw", "disk.img")
                stock = self.run_qemu_img(*argv, "theirs", cwd=self.tmp)
                ours = self.run_as_qemu_img(*argv, "ours", cwd=self.tmp)
                # Where there is no chunk at all, the stock tool looks for one behind its list and may die.
                self.assertEqual(ours[2], 1 if stock[2] < 0 else stock[2], ours[1] + stock[1])
                if stock[2]:
                    self.assertIn("Input/output error", ours[1])
                else:
                    self.assert_bytes_identical(self.path("ours"), self.path("theirs"))

    def info_json_of(self, fmt, name):
        import json

        return json.loads(self.run_qemu_img("info", "--output=json", "-f", fmt, name, cwd=self.tmp)[0])

    def test_the_name_decides(self):
        self.write(dmg.build(CHUNKS))
        self.write(dmg.build(CHUNKS), "disk.dmg")
        self.both("info", "disk.img")
        self.both("info", "disk.dmg")

    def test_no_writing(self):
        self.write(dmg.build(CHUNKS))
        self.make("qemu-img", "create", "-f", "raw", "raw.img", "1M")
        for argv in (
            ("create", "-f", "dmg", "new.img", "1M"),
            ("convert", "-O", "dmg", "raw.img", "new.img"),
            ("check", "-f", "dmg", "disk.img"),
            ("resize", "-f", "dmg", "disk.img", "2M"),
        ):
            with self.subTest(argv):
                self.assertNotEqual(self.both(*argv), 0)


class TestCodecs(DmgTest):
    """What the stock tool here has no module for, or (ADC) cannot read at all."""

    def test_each(self):
        for kind in (ADC, BZIP2, LZFSE):
            for fork in ("xml", "rsrc"):
                with self.subTest(kind=kind, fork=fork):
                    chunks = dmg.sample(kind, (kind, ZERO, kind, RAW, kind))
                    self.write(dmg.build(chunks, fork=fork))
                    self.assertEqual(self.converted(), dmg.plain(chunks))

    def test_all_together(self):
        chunks = dmg.sample(9, (BZIP2, ADC, LZFSE, ZLIB, RAW) * 4, sectors=512)
        self.write(dmg.build(chunks, split=3))
        self.assertEqual(self.converted(), dmg.plain(chunks))

    def test_in_any_order(self):
        chunks = dmg.sample(9, (BZIP2, ADC, ZLIB, RAW))
        self.write(dmg.build(chunks, order=[3, 1, 0, 2]))
        self.assertEqual(self.converted(), dmg.plain(chunks))

    def test_damaged(self):
        for kind in (ADC, BZIP2, LZFSE):
            whole = dmg.stored(kind, bytes(4096))
            for name, stored in {"cut": whole[:-5], "junk": b"junk", "short": dmg.stored(kind, bytes(4095)),
                                 "long": dmg.stored(kind, bytes(5000)), "none": b""}.items():  # fmt: skip
                with self.subTest(kind=kind, name=name):
                    self.write(dmg.build([(kind, 8, b"", stored)]))
                    argv = ("convert", "-f", "dmg", "-O", "raw", "disk.img", "ours")
                    out, err, status = self.run_instar(*argv, cwd=self.tmp)
                    self.assertEqual((out, status), ("", 1))
                    self.assertIn("Input/output error", err)

    def test_adc_by_the_stock_name_is_unknown(self):
        self.write(dmg.build(dmg.sample(3, (ADC, RAW))))
        self.both("info", "-f", "dmg", "disk.img")
