"""Cloop images that are odd or damaged, against the stock tool. The sound ones are in the matrix."""

import random
import zlib

from tests.base import InstarTestBase
from tests.helpers import cloop
from tests.helpers.read_only import ReadOnlyFormat

MIB = 1 << 20
DATA = random.Random(5).randbytes(3000) + bytes(200_000) + b"hi" * 62_340
BLOCK = 65536


def _claims(block=BLOCK, count=5):
    return cloop.image(DATA, claimed=(block, count))


def _offset(index, value):
    return cloop.image(DATA, offsets={index: value})


def _block(content):
    return cloop.image(DATA, blocks={1: content})


_sum = zlib.compress(bytes(BLOCK))
ODD = {
    "empty": b"",
    "text": b"x" * 300,
    **{
        f"block-{n}": _claims(block=n)
        for n in (0, 1, 511, 512, 513, 1000, 1024, (64 << 20) + 512, 1 << 31, (1 << 32) - 512)
    },
    **{f"count-{n}": _claims(count=n) for n in (0, 1, 4, 6, 100, 1 << 26, 0x3FFFFFF, 0x4000000, 0x1FFFFFFE)},
    **{f"count-{n}": _claims(count=n) for n in (0x1FFFFFFF, 0x20000000, 1 << 31, (1 << 32) - 1)},
    **{f"first-at-{n}": _offset(0, n) for n in (0, 1, 184, 185, 1 << 31, 1 << 63, (1 << 64) - 1)},
    **{f"second-at-{n}": _offset(1, n) for n in (0, 184, 185, 300 << 20, 1 << 32, 1 << 63, (1 << 64) - 1)},
    **{f"end-at-{n}": _offset(5, n) for n in (0, 1 << 20, 100 << 20, 1 << 40, 1 << 63)},
    **{f"cut-at-{n}": cloop.image(DATA)[:n] for n in (85, 128, 132, 136, 150, 180, 184, 190, 3500, 4000)},
    "block-shorter": _block(zlib.compress(bytes(BLOCK - 1))),
    "block-longer": _block(zlib.compress(bytes(BLOCK + 1))),
    "block-of-gigabytes": _block(zlib.compress(bytes(64 * MIB))),
    "block-raw-deflate": _block(_sum[2:-4]),
    "block-checksum": _block(_sum[:-1] + b"\0"),
    "block-without-checksum": _block(_sum[:-4]),
    "block-with-dictionary": _block(b"\x78\xbb\0\0\0\1" + _sum[2:]),
    "block-and-junk": _block(_sum + b"junk" * 100),
    "block-of-nothing": _block(b""),
    "block-of-junk": _block(b"\xff" * 500),
}


class TestCloop(ReadOnlyFormat, InstarTestBase):
    format = "cloop"
    odd = ODD
    sound = cloop.image(DATA)
