"""Growing images of Bochs: both versions, extents in any order, empty ones, sectors that were never written."""

from tests.helpers import bochs
from tests.helpers.variants import GIB, MIB, Variant as _Variant

DISK = "disk.bochs"


def Variant(name, make, **fields):
    """One of this format."""
    return _Variant(name, "bochs", make, **fields)


def _built(size=MIB, sectors=(0, 1, 2, 9, 17, 100, 101, 2047), **fields):
    def make(case, folder):
        content = {n: case.random.randbytes(512) if n % 3 else bytes([n % 251]) * 512 for n in sectors}
        return case.write(DISK, bochs.image(size, content, **fields))

    return make


VARIANTS = [
    Variant("version-1", _built(version=0x10000)),
    Variant("version-2", _built()),
    Variant("empty", _built(sectors=())),
    Variant("written-with-zeroes", _built(sectors=(0, 251 * 3, 251 * 6))),
    Variant("full", _built(size=MIB // 4, sectors=range(512))),
    Variant("extents-in-any-order", _built(order=(255, 12, 0, 2, 1))),
    Variant("extent-512", _built(extent=512)),
    Variant("extent-32k", _built(extent=32768)),
    Variant("extent-8m", _built(size=20 * MIB, extent=8 * MIB, sectors=(0, 5, 6, 7, 8, 16383, 16384, 40000))),
    Variant("bitmap-of-two-sectors", _built(bitmap=513)),
    Variant("catalog-longer-than-needed", _built(size=3 * MIB, catalog_len=2000)),
    Variant("size-not-in-extents", _built(size=MIB - 1536, sectors=(0, 2040))),
    Variant("size-not-in-sectors", _built(size=MIB - 100)),
    Variant("large", _built(size=8 * GIB, extent=8 * MIB, sectors=(0, 16384 * 700, 16384 * 1024 - 1))),
]
