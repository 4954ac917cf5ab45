"""VDI images: QEMU's own, and as VirtualBox would write them."""

from tests.helpers import vdi
from tests.helpers.variants import GIB, MIB, REFUSED, Variant

DISK = "disk.vdi"


def _of(options="", size=5 * MIB, pieces=12):
    words = ["-o", options] if options else []
    return lambda case, folder: case.convert("vdi", DISK, size, *words, pieces=pieces)


def _new(options="", size="5M"):
    return lambda case, folder: case.create("vdi", DISK, size, *(["-o", options] if options else []))


def _built(size=6 * MIB, numbers=(4, 0, 1), discarded=(), **parts):
    def make(case, folder):
        placed = {number: case.random.randbytes(300_000) for number in numbers}
        return case.write(DISK, vdi.image(size, placed | dict.fromkeys(discarded), **parts))

    return make


VARIANTS = [
    Variant("default", "vdi", _of()),
    Variant("static", "vdi", _of("static=on")),
    Variant("new", "vdi", _new()),
    Variant("new-static", "vdi", _new("static=on")),
    Variant("empty", "vdi", _new(size="0")),
    Variant("odd-size", "vdi", _of(size=3 * MIB + 1536)),
    Variant("large", "vdi", _of(size=40 * GIB, pieces=6)),
    Variant("virtualbox", "vdi", _built()),
    Variant("virtualbox-static", "vdi", _built(numbers=range(6), kind=vdi.STATIC)),
    Variant("virtualbox-far", "vdi", _built(map_at=4096, data_at=2 * MIB)),
    Variant("discarded-blocks", "vdi", _built(discarded=(2, 5))),
    Variant("differencing", "vdi", _built(kind=vdi.DIFF, parent=b"\1" * 16), except_for=REFUSED),
    Variant("linked", "vdi", _built(kind=vdi.UNDO, link=b"\2" * 16), except_for=REFUSED),
    Variant("version-0.1", "vdi", _built(version=(0, 1)), except_for=REFUSED),
    Variant("version-1.0", "vdi", _built(version=(1, 0)), except_for=REFUSED),
]
