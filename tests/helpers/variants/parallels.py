"""Parallels images: QEMU's own, and of both magics with and without format extension."""

from tests.helpers import parallels
from tests.helpers.variants import GIB, MENDED_FIRST, MIB, REFUSED, Variant

DISK = "disk.hds"
SECTORS = 4096
EXTENDED = {"check-repair": "the stock tool takes what the extension refers to for unused, and cuts it off"}
OLD, NEW = b"WithoutFreeSpace", b"WithouFreSpacExt"


def _of(options="", size=5 * MIB, pieces=12):
    words = ["-o", options] if options else []
    return lambda case, folder: case.convert("parallels", DISK, size, *words, pieces=pieces)


def _new(options="", size="5M"):
    return lambda case, folder: case.create("parallels", DISK, size, *(["-o", options] if options else []))


def _built(numbers=(7, 0, 1, 20), **parts):
    def make(case, folder):
        placed = {number: case.random.randbytes(20_000) for number in numbers}
        return case.write(DISK, parallels.image(SECTORS, placed, **parts))

    return make


def _bitmaps(*tables, sectors=SECTORS, granularity=128):
    return [parallels.bitmap(sectors, bytes([i]) * 16, granularity, table) for i, table in enumerate(tables)]


VARIANTS = [
    Variant("default", "parallels", _of()),
    Variant("cluster-4k", "parallels", _of("cluster_size=4k", 2 * MIB)),
    Variant("cluster-64k", "parallels", _of("cluster_size=64k")),
    Variant("new", "parallels", _new()),
    Variant("empty", "parallels", _new(size="0")),
    Variant("odd-size", "parallels", _of(size=3 * MIB + 1536)),
    Variant("large", "parallels", _of(size=40 * GIB, pieces=6)),
    Variant("sectors", "parallels", _built(magic=OLD)),
    Variant("clusters", "parallels", _built(magic=NEW)),
    Variant("odd-tracks", "parallels", _built(magic=NEW, tracks=63)),
    Variant("bitmaps", "parallels", _built(magic=NEW, features=_bitmaps([0], [1])), except_for=EXTENDED),
    Variant("no-bitmaps", "parallels", _built(magic=NEW, features=[]), except_for=EXTENDED),
    Variant("bitmap-of-other-size", "parallels", _built(magic=NEW, features=_bitmaps([0], sectors=8)), except_for=REFUSED | EXTENDED),
    Variant("bitmap-with-long-table", "parallels", _built(magic=NEW, features=_bitmaps([0, 0])), except_for=REFUSED | EXTENDED),
    Variant("unknown-feature", "parallels", _built(magic=NEW, features=[b"feature!" + bytes(16)]), except_for=REFUSED | EXTENDED),
    Variant("in-use", "parallels", _built(magic=NEW, in_use=0x746F6E59), except_for=MENDED_FIRST),
    Variant("no-data-offset", "parallels", _built(magic=OLD, data_off=0)),
    Variant("wrong-data-offset", "parallels", _built(magic=NEW, data_off=3), except_for=MENDED_FIRST),
]
