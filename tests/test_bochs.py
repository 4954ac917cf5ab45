"""Bochs images that are odd or damaged, against the stock tool. The sound ones are in the matrix."""

import struct

from tests.base import InstarTestBase
from tests.helpers import bochs

MIB = 1 << 20
SECTORS = {0: b"a" * 512, 9: b"b" * 512, 17: b"", 100: b"x" * 512, 2047: b"end"}


def _built(**fields):
    return bochs.image(MIB, SECTORS, **fields)


def _patched(offset, number, width="<I"):
    whole = bytearray(_built())
    struct.pack_into(width, whole, offset, number)
    return bytes(whole)


BIG = (0, 1, 511, 1 << 31, (1 << 32) - 1)
ODD = {
    "empty": b"",
    "zeroes": bytes(4096),
    "magic-alone": _built()[:32],
    "kind": _built(kind=b"Redolo"),
    "subkind": _built(subkind=b"Undoable"),
    "subkind-longer": _built(subkind=b"Growing!"),
    **{f"version-{n:x}": _built(version=n) for n in (0, 0x10001, 0x30000)},
    **{f"header-{n}": _built(header_len=n) for n in (0, 100, 513, (1 << 32) - 1)},
    **{f"catalog-{n}": _patched(72, n) for n in (*BIG, 255, 257, 1 << 20, (1 << 20) + 1)},
    **{f"bitmap-{n}": _patched(76, n) for n in (*BIG, 512, 513)},
    **{f"extent-{n}": _patched(80, n) for n in (*BIG, 512, 513, 3072, 1 << 23, 1 << 24)},
    **{f"size-{n}": _patched(88, n, "<Q") for n in (0, 1, 511, 512, MIB + 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1)},
    **{f"entry-{n}": _patched(512, n) for n in (1, 5, 6, 1 << 20, 1 << 31, (1 << 32) - 2)},
    **{f"cut-at-{n}": _built()[:n] for n in (511, 512, 513, 600, 1535, 1536, 1540, 2048, 2100, 5000)},
}


class TestBochs(InstarTestBase):
    def both(self, *argv):
        stock = self.run_qemu_img(*argv, cwd=self.tmp)
        self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
        return stock[2]

    def test_odd_ones_as_the_stock_tool(self):
        for name, content in ODD.items():
            with self.subTest(name):
                with open(self.path("disk.img"), "wb") as file:
                    file.write(content)
                if self.both("info", "-f", "bochs", "disk.img"):
                    continue
                self.both("info", "disk.img")
                self.both("map", "--output=json", "-f", "bochs", "disk.img")
                stock = self.run_qemu_img("convert", "-f", "bochs", "-O", "raw", "disk.img", "theirs", cwd=self.tmp)
                ours = self.run_instar("convert", "-f", "bochs", "-O", "raw", "disk.img", "ours", cwd=self.tmp)
                self.assertEqual(ours[2], stock[2], ours[1] + stock[1])
                if stock[2]:
                    self.assertIn("Input/output error", ours[1])
                else:
                    self.assert_bytes_identical(self.path("ours"), self.path("theirs"))

    def test_no_writing(self):
        with open(self.path("disk.img"), "wb") as file:
            file.write(_built())
        self.make("qemu-img", "create", "-f", "raw", "raw.img", "1M")
        for argv in (
            ("create", "-f", "bochs", "new.img", "1M"),
            ("convert", "-O", "bochs", "raw.img", "new.img"),
            ("check", "-f", "bochs", "disk.img"),
            ("resize", "-f", "bochs", "disk.img", "2M"),
            ("info", "--image-opts", "driver=bochs,file.filename=disk.img,x=y"),
        ):
            with self.subTest(argv):
                self.assertNotEqual(self.both(*argv), 0)
