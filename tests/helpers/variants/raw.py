"""Raw images: lengths, holes, parts of a file."""

import os

from tests.helpers.variants import GIB, KIB, MIB, Variant


def _disk(size, pieces=12, tail=0):
    return lambda case, folder: case.raw("disk.raw", size, pieces, tail)


def _empty(size):
    return lambda case, folder: case.create("raw", "disk.raw", size)


def _full(case, folder):
    return case.write("disk.raw", case.random.randbytes(MIB + 512))


def _zeroes(case, folder):
    return case.write("disk.raw", bytes(MIB))


def _holes(case, folder):
    for at in range(0, 4 * MIB, 128 * KIB):
        case.write("disk.raw", case.random.randbytes(4 * KIB), at)
    os.truncate(case.path("disk.raw"), 4 * MIB)
    return "disk.raw"


def _boot_sector(case, folder):
    case.raw("disk.raw", 2 * MIB)
    return case.write("disk.raw", b"\x55\xaa", 510)


PART = "driver=raw,file.driver=file,file.filename={file}"

VARIANTS = [
    Variant("mixed", "raw", _disk(3 * MIB)),
    Variant("odd-length", "raw", _disk(MIB, tail=1000)),
    Variant("one-sector", "raw", _disk(512, pieces=1)),
    Variant("empty", "raw", _empty(0)),
    Variant("sparse", "raw", _empty(GIB)),
    Variant("far-end", "raw", _disk(5 * GIB, pieces=6)),
    Variant("full", "raw", _full),
    Variant("zeroes", "raw", _zeroes),
    Variant("holes", "raw", _holes),
    Variant("boot-sector", "raw", _boot_sector),
    Variant("preallocated", "raw", lambda case, folder: case.create("raw", "disk.raw", "2M", "-o", "preallocation=full")),
    Variant("part", "raw", _disk(3 * MIB), image_opts=PART + ",offset=1M,size=1M"),
    Variant("behind-offset", "raw", _disk(3 * MIB), image_opts=PART + ",offset=512"),
    Variant("format-given", "raw", _disk(2 * MIB), explicit=True),
]
