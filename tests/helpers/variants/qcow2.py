"""qcow2 images: every header feature, every kind of cluster, chains."""

import functools
import os
import shutil
import tempfile

from tests.helpers.variants import GIB, MIB, UNREADABLE, Maker, Variant

DISK = "disk.qcow2"


def _of(options="", size=3 * MIB, pieces=12, argv=()):
    words = ["-o", options] if options else []
    return lambda case, folder: case.convert("qcow2", DISK, size, *words, *argv, pieces=pieces)


def _new(options="", size="16M"):
    words = ["-o", options] if options else []
    return lambda case, folder: case.create("qcow2", DISK, size, *words)


def _written(options, *commands, size="4M"):
    def make(case, folder):
        case.create("qcow2", DISK, size, *(["-o", options] if options else []))
        return case.io("qcow2", DISK, *commands)

    return make


def _over(fmt, size=None, options="", base_size=2 * MIB, writes=("write -P 7 100k 200k", "write -z 600k 128k")):
    """On a backing file of that format."""

    def make(case, folder):
        base = f"base.{fmt}"
        case.raw(base, base_size) if fmt == "raw" else case.convert(fmt, base, base_size)
        case.create("qcow2", DISK, size, "-b", base, "-F", fmt, *(["-o", options] if options else []))
        return case.io("qcow2", DISK, *writes)

    return make


def _deep(case, folder):
    """Five layers of different lengths and cluster sizes."""
    below, fmt = case.raw("layer0", 2 * MIB), "raw"
    for i, (size, cluster) in enumerate((("2M", "64k"), ("3M", "4k"), ("1M", "512"), ("4M", "2M")), 1):
        name = f"layer{i}" if i < 4 else DISK
        case.create("qcow2", name, size, "-b", below, "-F", fmt, "-o", f"cluster_size={cluster}")
        for _ in range(3):
            at = case.random.randrange(0, 900) * 1024
            case.io("qcow2", name, f"write -P {i} {at} {case.random.randrange(1, 100) * 512}")
        case.io("qcow2", name, f"write -z {case.random.randrange(0, 14) * 65536} 64k")
        below, fmt = name, "qcow2"
    return DISK


def _snapshots(case, folder):
    _of()(case, folder)
    for i, name in enumerate(("first", "second with spaces", "3")):
        case.img("snapshot", "-c", name, DISK)
        case.io("qcow2", DISK, f"write -P {i + 1} {i * 300}k 128k")
    return DISK


def _resized_snapshot(case, folder):
    _of()(case, folder)
    case.img("snapshot", "-c", "before", DISK)
    case.img("resize", "-q", DISK, "6M")
    return case.io("qcow2", DISK, "write -P 9 5M 64k")


def _bitmaps(case, folder):
    _of()(case, folder)
    case.img("bitmap", "--add", DISK, "one")
    case.img("bitmap", "--add", "--disable", "-g", "4k", DISK, "two")
    return case.io("qcow2", DISK, "write -P 3 1M 200k")


def _dirty(case, folder):
    """As a crash leaves an image with lazy refcounts: the dirty bit is set, the counts are right."""
    _of("lazy_refcounts=on")(case, folder)
    return case.write(DISK, b"\x01", 79)


def _corrupt_bit(case, folder):
    _of()(case, folder)
    return case.write(DISK, b"\x02", 79)


def _leaked(case, folder):
    """Clusters behind the last, counted and not used."""
    _of()(case, folder)
    with open(case.path(DISK), "rb") as file:
        head = file.read(104)
        table = int.from_bytes(head[48:56], "big")
        file.seek(table)
        block = int.from_bytes(file.read(8), "big")
        file.seek(block)
        counts = file.read(65536)
    free = next(i for i in range(len(counts) // 2) if counts[i * 2 : i * 2 + 2] == b"\0\0")
    return case.write(DISK, b"\x00\x01" * 3, block + free * 2)


def _data_file(options):
    def make(case, folder):
        case.create("qcow2", DISK, "3M", "-o", f"data_file=data.raw,{options}")
        return case.io("qcow2", DISK, "write -P 5 100k 300k", "write -z 1M 128k", "write -P 6 2M 1k")

    return make


def _no_backing_format(case, folder):
    case.convert("qcow2", "base.qcow2", MIB)
    case.create("qcow2", DISK, None, "-b", "base.qcow2", "-F", "qcow2")
    with open(case.path(DISK), "rb") as file:
        at = file.read(4096).find(b"\xe2\x79\x2a\xca")
    return case.write(DISK, b"\x01\x01\x01\x01", at)


def _compressed_over(case, folder):
    case.raw("base.raw", 2 * MIB)
    case.create("qcow2", DISK, None, "-b", "base.raw", "-F", "raw")
    return case.io("qcow2", DISK, "write -c -P 8 0 64k", "write -c -P 9 1M 128k", "write -P 10 1M 4k")


KEY = "the key of the disk"
SECRET = ("--object", f"secret,id=s0,data={KEY}")
ENCRYPTED = (
    "write -P 1 0 5k",
    "write -P 2 100k 64k",
    "write -z 256k 64k",
    "write -P 3 700k 1536",
    "write -P 4 1M 130k",
)


def _with_key(case, *commands):
    return case.io(
        None, f"driver=qcow2,encrypt.key-secret=s0,file.filename={DISK}", *commands, argv=(*SECRET, "--image-opts")
    )


def _aes(options="", over=False):
    """By the old encryption."""

    def make(case, folder):
        if over:
            case.raw("base.raw", MIB)
        backing = ("-b", "base.raw", "-F", "raw") if over else ()
        words = f"{options}encrypt.format=aes,encrypt.key-secret=s0"
        case.create("qcow2", DISK, "2M", *SECRET, *backing, "-o", words)
        _with_key(case, *ENCRYPTED)
        return DISK

    return make


@functools.cache
def _template():
    """A folder with an encrypted image; the stock tool measures for seconds how many rounds a key shall cost."""
    folder = tempfile.TemporaryDirectory(prefix="instar-qcow2-")
    words = "cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10,encrypt.cipher-alg=aes-192"
    Maker(folder.name, DISK).create("qcow2", DISK, "2M", *SECRET, "-o", words)
    return folder


def _luks(over=None, snapshot=False):
    def make(case, folder):
        shutil.copy(os.path.join(_template().name, DISK), case.path(DISK))
        words = f"driver=qcow2,encrypt.key-secret=s0,file.filename={DISK}"
        if over:
            case.convert("qcow2", "base.qcow2", over)
            case.img("rebase", "-q", "-u", *SECRET, "--image-opts", "-b", "base.qcow2", "-F", "qcow2", words)
        _with_key(case, *ENCRYPTED)
        if snapshot:
            case.img("snapshot", "-q", *SECRET, "--image-opts", "-c", "before", words)
            _with_key(case, "write -P 8 64k 128k")
        return DISK

    return make


def _opened(name, make, key=KEY, more="", **fields):
    """An encrypted image as `--image-opts` names it, with a key; `key=None`: without one."""
    options = "driver=qcow2,file.filename={file}" + (",encrypt.key-secret=s0" if key else "") + more
    return Variant(
        name, "qcow2", make, objects=(f"secret,id=s0,data={key}",) if key else (), image_opts=options, **fields
    )


SUBCLUSTERS = (
    "write -P 1 0 2k",
    "write -P 2 66k 6k",
    "write -z 130k 2k",
    "write -P 3 200k 64k",
    "discard 202k 8k",
    "write -z 1M 64k",
)

VARIANTS = [
    Variant("default", "qcow2", _of()),
    Variant("v2", "qcow2", _of("compat=0.10")),
    Variant("cluster-512", "qcow2", _of("cluster_size=512", 2 * MIB)),
    Variant("cluster-4k", "qcow2", _of("cluster_size=4k")),
    Variant("cluster-2M", "qcow2", _of("cluster_size=2M", 9 * MIB)),
    Variant("refcount-1", "qcow2", _of("refcount_bits=1")),
    Variant("refcount-8", "qcow2", _of("refcount_bits=8")),
    Variant("refcount-64", "qcow2", _of("refcount_bits=64")),
    Variant("lazy-refcounts", "qcow2", _of("lazy_refcounts=on")),
    Variant("extended-l2", "qcow2", _written("extended_l2=on", *SUBCLUSTERS)),
    Variant("extended-l2-16k", "qcow2", _of("extended_l2=on,cluster_size=16k")),
    Variant("compressed", "qcow2", _of(argv=("-c",))),
    Variant("compressed-4k", "qcow2", _of("cluster_size=4k", argv=("-c",))),
    Variant("compressed-v2", "qcow2", _of("compat=0.10", argv=("-c",))),
    Variant("zstd", "qcow2", _of("compression_type=zstd", argv=("-c",))),
    Variant("zstd-2M", "qcow2", _of("compression_type=zstd,cluster_size=2M", 9 * MIB, argv=("-c",))),
    Variant(
        "mixed-compression", "qcow2", _written("", "write -c -P 1 0 256k", "write -P 2 64k 64k", "write -z 1M 64k")
    ),
    Variant("empty", "qcow2", _new(size="0"), except_for={"bitmap-added": "the stock tool loses the bitmap again"}),
    Variant("new", "qcow2", _new()),
    Variant("odd-size", "qcow2", _of(size=MIB + 512 * 3)),
    Variant("large", "qcow2", _of(size=20 * GIB, pieces=8)),
    Variant("preallocated-metadata", "qcow2", _new("preallocation=metadata", "3M")),
    Variant("preallocated-falloc", "qcow2", _new("preallocation=falloc", "3M")),
    Variant("preallocated-full", "qcow2", _new("preallocation=full", "3M")),
    Variant(
        "zero-clusters",
        "qcow2",
        _written("", "write -z 0 1M", "write -P 1 1M 128k", "write -z 1M 64k", "discard 2M 64k"),
    ),
    Variant(
        "zero-clusters-unmapped", "qcow2", _written("", "write -P 1 0 1M", "write -z -u 128k 256k", "discard 512k 128k")
    ),
    Variant("snapshots", "qcow2", _snapshots),
    Variant("snapshot-resized", "qcow2", _resized_snapshot),
    Variant("bitmaps", "qcow2", _bitmaps),
    Variant("dirty", "qcow2", _dirty),
    Variant("corrupt-bit", "qcow2", _corrupt_bit),
    Variant("leaks", "qcow2", _leaked),
    Variant("over-raw", "qcow2", _over("raw")),
    Variant("over-qcow2", "qcow2", _over("qcow2")),
    Variant("over-shorter", "qcow2", _over("qcow2", "5M")),
    Variant("over-longer", "qcow2", _over("raw", "1M")),
    Variant("over-v2", "qcow2", _over("qcow2", options="compat=0.10", writes=("write -P 7 100k 200k",))),
    Variant("over-extended-l2", "qcow2", _over("raw", options="extended_l2=on", writes=SUBCLUSTERS)),
    Variant("over-compressed", "qcow2", _compressed_over),
    Variant("over-unnamed-format", "qcow2", _no_backing_format),
    Variant("five-layers", "qcow2", _deep),
    Variant("data-file", "qcow2", _data_file("data_file_raw=off")),
    Variant("data-file-raw", "qcow2", _data_file("data_file_raw=on")),
    Variant("image-opts", "qcow2", _of(), image_opts="driver=qcow2,file.driver=file,file.filename={file}"),
    _opened("aes", _aes()),
    _opened("aes-v2", _aes("compat=0.10,cluster_size=4k,")),
    _opened("aes-format-said", _aes(), more=",encrypt.format=aes"),
    _opened("aes-other-format-said", _aes(), more=",encrypt.format=luks", **UNREADABLE),
    _opened("aes-wrong-key", _aes(), key="no key of it"),
    _opened("aes-long-key", _aes(), key=f"{KEY} and more than it takes"),
    _opened("aes-no-key", _aes(), key=None, **UNREADABLE),
    _opened("aes-over-raw", _aes(over=True)),
    _opened("luks", _luks()),
    _opened("luks-format-said", _luks(), more=",encrypt.format=luks"),
    _opened("luks-over-qcow2", _luks(over=MIB)),
    _opened("luks-snapshot", _luks(snapshot=True)),
    _opened("luks-wrong-key", _luks(), key="no key of it", **UNREADABLE),
    _opened("luks-no-key", _luks(), key=None, **UNREADABLE),
    Variant("luks-plain-name", "qcow2", _luks(), **UNREADABLE),
    _opened("key-for-nothing", _of(), **UNREADABLE),
    _opened("encryption-of-nothing", _of(), more=",encrypt.format=luks", **UNREADABLE),
]
