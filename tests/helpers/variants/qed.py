"""QED images: sizes of clusters and tables, zero clusters, backing files."""

from tests.helpers import qed
from tests.helpers.variants import GIB, MENDED_FIRST, MIB, REFUSED, Variant

DISK = "disk.qed"


def _of(options="", size=3 * MIB, pieces=12):
    words = ["-o", options] if options else []
    return lambda case, folder: case.convert("qed", DISK, size, *words, pieces=pieces)


def _new(options="", size="16M"):
    return lambda case, folder: case.create("qed", DISK, size, *(["-o", options] if options else []))


def _over(fmt, size=None, base_size=2 * MIB, named=True):
    def make(case, folder):
        base = f"base.{fmt}"
        case.raw(base, base_size) if fmt == "raw" else case.convert(fmt, base, base_size)
        case.create("qed", DISK, size, "-b", base, "-F", fmt)
        case.io("qed", DISK, "write -P 7 100k 200k", "write -z 640k 128k")
        return DISK if named else case.write(DISK, b"\1", 16)

    return make


def _built(size=4 * MIB, numbers=(0, 3, 2, 600), zeroes=(5, 6), **parts):
    def make(case, folder):
        clusters = {number: case.random.randbytes(3000) for number in numbers}
        return case.write(DISK, qed.image(size, clusters | dict.fromkeys(zeroes), **parts))

    return make


def _leak(case, folder):
    return case.write(_built()(case, folder), bytes(3 * 4096), 40 * 4096)


VARIANTS = [
    Variant("default", "qed", _of()),
    Variant("cluster-4k", "qed", _of("cluster_size=4k")),
    Variant("cluster-1M", "qed", _of("cluster_size=1M", 9 * MIB)),
    Variant("table-2", "qed", _of("table_size=2")),
    Variant("table-16", "qed", _of("table_size=16,cluster_size=4k")),
    Variant("new", "qed", _new()),
    Variant("odd-size", "qed", _of(size=MIB + 1536)),
    Variant("large", "qed", _of(size=20 * GIB, pieces=8)),
    Variant("built", "qed", _built()),
    Variant("need-check", "qed", _built(features=qed.NEED_CHECK), except_for=MENDED_FIRST),
    Variant("unknown-compat", "qed", _built(compat=5, autoclear=9)),
    Variant("unknown-feature", "qed", _built(features=0x50), except_for=REFUSED),
    Variant("leaks", "qed", _leak),
    Variant("over-raw", "qed", _over("raw")),
    Variant("over-qed", "qed", _over("qed")),
    Variant("over-qcow2", "qed", _over("qcow2")),
    Variant("over-shorter", "qed", _over("raw", "5M")),
    Variant("over-longer", "qed", _over("qcow2", "1M")),
    Variant("over-unnamed-format", "qed", _over("qed", named=False)),
]
