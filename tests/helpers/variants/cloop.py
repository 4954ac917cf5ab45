"""Compressed loop images, of the block sizes that are found and of odd ones."""

from tests.helpers import cloop
from tests.helpers.variants import MIB, Variant as _Variant

DISK = "disk.cloop"


def Variant(name, make, **fields):
    """One of this format."""
    return _Variant(name, "cloop", make, **fields)


def _built(size=MIB, **fields):
    def make(case, folder):
        text = case.random.randbytes(37) * (size // 37 + 1)
        data = case.random.randbytes(70_000) + bytes(100_000) + text
        return case.write(DISK, cloop.image(data[:size], **fields))

    return make


VARIANTS = [
    Variant("default", _built()),
    Variant("empty", _built(size=0)),
    Variant("one-block", _built(size=65536)),
    Variant("block-512", _built(size=100 * 512, block=512)),
    Variant("block-1536", _built(size=300_000, block=1536)),
    Variant("block-128k", _built(size=3 * MIB, block=131072)),
    Variant("block-1m", _built(size=3 * MIB, block=MIB)),
    Variant("block-4m", _built(size=8 * MIB, block=4 * MIB)),
    Variant("stored-plainly", _built(level=0)),
]
