"""VHDX images: QEMU's own, and after [MS-VHDX] as other products would write them."""

from tests.helpers import vhdx
from tests.helpers.variants import MIB, Variant

DISK = "disk.vhdx"


def _of(options="", size=3 * MIB):
    return lambda case, folder: case.convert("vhdx", DISK, size, *(["-o", options] if options else []))


def _new(options="", size="5M"):
    return lambda case, folder: case.create("vhdx", DISK, size, *(["-o", options] if options else []))


def _written(options, *commands):
    def make(case, folder):
        case.create("vhdx", DISK, "20M", *(["-o", options] if options else []))
        return case.io("vhdx", DISK, *commands)

    return make


def _built(size=5 * MIB + 512 * 5, numbers=(1, 3), cut=0, **parts):
    def make(case, folder):
        states = {number: (vhdx.FULL, case.random.randbytes(300_000)) for number in numbers}
        states.update(parts.pop("states", {}))
        disk = vhdx.build(size, states, **parts)
        return case.write(DISK, disk[: len(disk) - cut])

    return make


def _log_of_another(case, folder):
    """A log whose entries are another file's: nothing to do."""
    entry = vhdx.log_entry(1, [(vhdx.BAT_AT, bytes(4096))], log_id=bytes(range(16)))
    return case.write(DISK, vhdx.build(5 * MIB, {1: (vhdx.FULL, b"data")}, log=entry))


HEADER = vhdx.header
# The optional region and item of a product that knows more.
OTHER = [
    (vhdx.BAT_REGION, vhdx.BAT_AT, MIB, 1),
    (vhdx.METADATA_REGION, vhdx.METADATA_AT, MIB, 1),
    (bytes(16), 64 * MIB, MIB, 0),
]
STATES = {
    0: (vhdx.UNDEFINED, b"x"),
    2: (vhdx.ZERO, b"y"),
    3: (vhdx.UNMAPPED, b"z"),
    4: (vhdx.NOT_PRESENT, b"a"),
    1: (5, b"b"),
}

VARIANTS = [
    Variant("default", "vhdx", _of()),
    Variant("block-1M", "vhdx", _of("block_size=1M")),
    Variant("block-256M", "vhdx", _of("block_size=256M")),
    Variant("log-4M", "vhdx", _of("log_size=4M")),
    Variant("state-not-present", "vhdx", _of("block_state_zero=off,block_size=1M")),
    Variant("fixed", "vhdx", _of("subformat=fixed")),
    Variant("new", "vhdx", _new()),
    Variant("new-large", "vhdx", _new(size="40G")),
    Variant("new-fixed", "vhdx", _new("subformat=fixed")),
    Variant("odd-size", "vhdx", _of(size=MIB + 512 * 3)),
    Variant("written", "vhdx", _written("block_size=1M", "write -P 1 0 1k", "write -P 2 5M 3M", "write -P 3 19M 1M")),
    Variant("written-zeroes", "vhdx", _written("", "write -P 1 0 1M", "write -z 128k 64k", "write -P 4 8M 512")),
    Variant("built", "vhdx", _built()),
    Variant("built-block-2M", "vhdx", _built(block=2 * MIB, numbers=(0, 2))),
    Variant("chunks", "vhdx", _built(size=9 << 30, block=256 * MIB, numbers=(), bat={16: 0})),
    Variant("all-blocks", "vhdx", _built(numbers=(0, 1, 2, 3, 4, 5))),
    Variant("contiguous", "vhdx", _built(size=5 * MIB, numbers=(1, 2, 3))),
    Variant("states", "vhdx", _built(numbers=(5,), states=STATES)),
    Variant(
        "shared-block",
        "vhdx",
        _built(numbers=(1,), bat={0: 4 * MIB | vhdx.FULL}),
        except_for={
            command: "two blocks in one place: not found by the stock tool; tests/test_vhdx.py"
            for command in ("check", "check-json")
        },
    ),
    Variant("last-block-short", "vhdx", _built(numbers=(5,), cut=MIB - 512 * 5)),
    Variant("second-header-newer", "vhdx", _built(headers=[HEADER(1), HEADER(2)])),
    Variant("first-header-newer", "vhdx", _built(headers=[HEADER(8), HEADER(7)])),
    Variant("header-damaged", "vhdx", _built(headers=[HEADER(8, sound=False), HEADER(7)])),
    Variant("header-of-version-2", "vhdx", _built(headers=[HEADER(8, version=2), HEADER(7)])),
    Variant("twin-headers", "vhdx", _built(headers=[HEADER(8), HEADER(8)])),
    Variant("second-regions-damaged", "vhdx", _built(tables=[vhdx.regions(OTHER[:2]), bytes(65536)])),
    Variant("unknown-region", "vhdx", _built(tables=[vhdx.regions(OTHER)] * 2)),
    Variant(
        "unknown-item",
        "vhdx",
        _built(meta=vhdx.metadata([*vhdx.items(5 * MIB, MIB), (bytes(16), b"mine", 3)]), size=5 * MIB),
    ),
    Variant("keep-blocks", "vhdx", _built(flags=1)),
    Variant("physical-512", "vhdx", _built(physical=512)),
    Variant("empty-log", "vhdx", _built(headers=[HEADER(1), HEADER(2, vhdx.LOG_ID)])),
    Variant("log-of-another", "vhdx", _log_of_another),
]
