"""Apple disk images: both places of the block tables, the codecs that every build of the stock tool has."""

from tests.helpers import dmg
from tests.helpers.dmg import IGNORE, RAW, ZERO, ZLIB
from tests.helpers.variants import MIB, Variant as _Variant

DISK = "disk.dmg"


def Variant(name, make, **fields):
    """One of this format."""
    return _Variant(name, "dmg", make, **fields)


def _built(kinds=(RAW, ZERO, ZLIB, IGNORE, ZLIB), sectors=64, more=(), **fields):
    def make(case, folder):
        return case.write(DISK, dmg.build([*dmg.sample(case.random.random(), kinds, sectors), *more], **fields))

    return make


VARIANTS = [
    Variant("plist", _built()),
    Variant("resource-fork", _built(fork="rsrc")),
    Variant("plain", _built((RAW, RAW, RAW))),
    Variant("zlib", _built((ZLIB,) * 20)),
    Variant("large-chunks", _built((ZLIB, RAW, ZLIB), sectors=2 * MIB // 512)),
    Variant("chunks-of-one-sector", _built((ZLIB, RAW) * 20, sectors=1)),
    Variant("many-tables", _built((ZLIB, ZERO) * 6, split=2)),
    Variant("many-tables-in-resources", _built((ZLIB, RAW) * 6, split=5, fork="rsrc")),
    Variant("data-fork-behind-something", _built(prefix=b"x" * 1000, data_fork=1000)),
    Variant("trailer-not-in-sectors", _built(prefix=b"x" * 77)),
    Variant("large", _built((ZLIB, ZLIB), more=((ZERO, 6 << 21, b""), (RAW, 8, b"end")))),
    Variant("zeroes", _built((ZERO, IGNORE))),
]
