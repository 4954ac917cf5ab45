"""VHD images (vpc): QEMU's own, and as Virtual PC, Hyper-V, VirtualBox and Disk2vhd would write them."""

from tests.helpers import vhd
from tests.helpers.variants import MIB, Variant as _Variant

DISK = "disk.vhd"


def _of(options="", size=3 * MIB):
    return lambda case, folder: case.convert("vpc", DISK, size, *(["-o", options] if options else []))


def _new(options="", size="5M"):
    return lambda case, folder: case.create("vpc", DISK, size, *(["-o", options] if options else []))


def _written(*commands):
    def make(case, folder):
        case.create("vpc", DISK, "20M", "-o", "force_size=on")
        return case.io("vpc", DISK, *commands)

    return make


def _built(size=5 * MIB, numbers=(0, 2), **parts):
    def make(case, folder):
        blocks = {number: case.random.randbytes(300_000) for number in numbers}
        return case.write(DISK, vhd.dynamic(size, blocks, **parts))

    return make


def _fixed(size=None, **parts):
    return lambda case, folder: case.write(DISK, vhd.fixed(case.random.randbytes(2 * MIB), size, **parts))


def _without_end(case, folder):
    return case.write(DISK, vhd.dynamic(5 * MIB, {1: case.random.randbytes(100_000)}, tail=b""))


def _damaged_end(case, folder):
    return case.write(DISK, vhd.dynamic(5 * MIB, {1: case.random.randbytes(100_000)}, tail=bytes(512)))


OWN = {command: "the stock tool cannot check it; tests/test_vpc.py does" for command in ("check", "check-json")}


def Variant(*args, **fields):
    """One of this format."""
    return _Variant(*args, **{"except_for": OWN, **fields})


OPTS = "driver=vpc,file.driver=file,file.filename={file},force_size_calc="
NAMED = {
    **OWN,
    **dict.fromkeys(("info", "info-json", "info-chain"), "the stock tool makes a json: name of the options; not here"),
}
# A geometry that is less than the disk.
SMALL = (100, 4, 17)

VARIANTS = [
    Variant("default", "vpc", _of()),
    Variant("force-size", "vpc", _of("force_size=on")),
    Variant("force-size-odd", "vpc", _of("force_size=on", MIB + 512 * 3)),
    Variant("new", "vpc", _new()),
    Variant("new-large", "vpc", _new(size="40G")),
    Variant("written", "vpc", _written("write -P 1 0 1k", "write -P 2 5M 3M", "write -P 3 19M 1M", "write -z 6M 64k")),
    Variant("fixed", "vpc", _of("subformat=fixed"), explicit=True),
    Variant("fixed-force-size", "vpc", _of("subformat=fixed,force_size=on"), explicit=True),
    Variant("fixed-new", "vpc", _new("subformat=fixed"), explicit=True),
    Variant("hyper-v", "vpc", _built(creator=b"win ")),
    Variant("virtual-pc", "vpc", _built(creator=b"vpc ", geometry=SMALL)),
    Variant("virtualbox", "vpc", _built(creator=b"vbox", geometry=SMALL)),
    Variant("disk2vhd", "vpc", _built(creator=b"d2v ", geometry=SMALL)),
    Variant("xen-tap", "vpc", _built(creator=b"tap\0", geometry=SMALL)),
    Variant("xenserver", "vpc", _built(creator=b"CTXS", geometry=SMALL)),
    Variant("qemu-chs", "vpc", _built(creator=b"qemu", geometry=SMALL)),
    Variant("virtual-server", "vpc", _built(creator=b"vs  ", geometry=SMALL)),
    Variant("full-geometry", "vpc", _built(creator=b"vpc ", geometry=(65535, 16, 255))),
    Variant("force-chs", "vpc", _built(geometry=SMALL), image_opts=OPTS + "chs", except_for=NAMED),
    Variant(
        "force-current",
        "vpc",
        _built(creator=b"vpc ", geometry=SMALL),
        image_opts=OPTS + "current_size",
        except_for=NAMED,
    ),
    Variant("block-512k", "vpc", _built(block=512 << 10, numbers=(0, 3, 4, 9), size=5 * MIB)),
    Variant("block-4k", "vpc", _built(block=4096, numbers=(0, 1, 5), size=64 << 10)),
    Variant("all-blocks", "vpc", _built(numbers=(0, 1, 2))),
    Variant("size-no-block", "vpc", _built(size=5 * MIB + 512 * 7)),
    Variant(
        "more-entries", "vpc", _built(entries=9, table=[4, vhd.UNUSED, vhd.UNUSED, *[vhd.UNUSED] * 6], numbers=(0,))
    ),
    Variant("shared-block", "vpc", _built(table=[4, 4, 4], numbers=(0,))),
    Variant("bitmap-clear", "vpc", _built(numbers=(1,), bitmaps={1: b""})),
    Variant("kind-unknown", "vpc", _built(kind=7)),
    Variant("kind-fixed-at-start", "vpc", _built(kind=vhd.FIXED, data_offset=512)),
    Variant("no-footer-at-end", "vpc", _without_end),
    Variant("damaged-footer-at-end", "vpc", _damaged_end),
    Variant("bad-header-sum", "vpc", _built(header={"sound": False})),
    Variant("fixed-hyper-v", "vpc", _fixed(), explicit=True),
    Variant("fixed-shorter-file", "vpc", _fixed(3 * MIB), explicit=True),
    Variant("fixed-longer-file", "vpc", _fixed(MIB), explicit=True),
]
