"""`check` of every image, and of damaged ones."""

import struct

from tests.helpers.cases import Case
from tests.helpers.cases._images import image_cases

KINDS = {"human": ["check"], "json": ["check", "--output=json"]}


def _tables(make, name):
    """Byte offsets of the L1 table, the first L2 table and the first refcount block."""
    with open(make.path(name), "rb") as file:
        head = file.read(104)
        l1, table = struct.unpack(">Q", head[40:48])[0], struct.unpack(">Q", head[48:56])[0]
        file.seek(l1)
        l2 = struct.unpack(">Q", file.read(8))[0] & 0x00FFFFFFFFFFFE00
        file.seek(table)
        block = struct.unpack(">Q", file.read(8))[0]
    return l1, l2, block


def _damaged(where, offset, data):
    def setup(make):
        make.create("qcow2", "disk", "4M")
        make.io("qcow2", "disk", "write -P 1 0 512k")
        tables = dict(zip(("l1", "l2", "block"), _tables(make, "disk")))
        make.write("disk", data, tables[where] + offset)
        return "disk"

    return setup


DAMAGED = {
    "leak": _damaged("block", 40, b"\0\1"),
    "many-leaks": _damaged("block", 60, b"\0\1" * 9),
    "count-too-low": _damaged("block", 12, b"\0\0"),
    "count-too-high": _damaged("block", 12, b"\0\2"),
    "not-copied": _damaged("l2", 8, b"\0"),
    "l2-unaligned": _damaged("l2", 14, b"\2\1"),
    "beyond-end": _damaged("l2", 10, b"\x10"),
    "shared": _damaged("l2", 13, b"\x05"),
}

# What is said when it is repaired, and what is found then. Where all refcount blocks are written anew they lie elsewhere than
# the stock tool's.
REPAIRS = [(name, repair) for name in DAMAGED for repair in ("leaks", "all") if (name, repair) != ("count-too-low", "all")]

CASES = [
    *image_cases(KINDS),
    *(
        Case(name, "qcow2", setup, {kind: [*words, "{image}"] for kind, words in KINDS.items()})
        for name, setup in DAMAGED.items()
    ),
    *(
        Case(
            f"{name}-{repair}",
            "qcow2",
            DAMAGED[name],
            {"repair": ["check", "-r", repair, "{image}"], "again": ["check", "--output=json", "{image}"]},
        )
        for name, repair in REPAIRS
    ),
]
