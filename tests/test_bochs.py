"""Bochs images that are odd or damaged, against the stock tool. The sound ones are in the matrix."""

import struct

from tests.base import InstarTestBase
from tests.helpers import bochs
from tests.helpers.read_only import ReadOnlyFormat

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


class TestBochs(ReadOnlyFormat, InstarTestBase):
    format = "bochs"
    odd = ODD
    sound = _built()
