"""qcow images of version 1: plain and compressed clusters, tables of any size, backing files."""

from tests.helpers import qcow1
from tests.helpers.variants import GIB, MIB, UNREADABLE, Variant as _Variant

DISK = "disk.qcow"


def Variant(*args, **fields):
    """One of this format."""
    return _Variant(*args, **fields)


def _of(size=3 * MIB, pieces=12):
    return lambda case, folder: case.convert("qcow", DISK, size, pieces=pieces)


def _over(fmt, size=None, base_size=2 * MIB):
    def make(case, folder):
        base = f"base.{fmt}"
        case.raw(base, base_size) if fmt == "raw" else case.convert(fmt, base, base_size)
        case.create("qcow", DISK, size, "-b", base, "-F", fmt)
        return case.io("qcow", DISK, "write -P 7 100k 200k", "write -P 0 640k 128k")

    return make


def _built(size=2 * MIB, numbers=(0, 3, 2, 40, 41), packed=(), **parts):
    def make(case, folder):
        clusters = {number: bytes([number]) * 100 + case.random.randbytes(200) for number in numbers}
        return case.write(DISK, qcow1.image(size, clusters, packed=packed, **parts))

    return make


KEY = "the key of the disk"
SECRET = ("--object", f"secret,id=s0,data={KEY}")
OPENED = "driver=qcow,encrypt.key-secret=s0,file.filename={file}"


def _aes(over=False):
    def make(case, folder):
        if over:
            case.raw("base.raw", MIB)
        backing = ("-b", "base.raw", "-F", "raw") if over else ()
        case.create("qcow", DISK, "2M", *SECRET, *backing, "-o", "encrypt.format=aes,encrypt.key-secret=s0")
        commands = ("write -P 1 0 5k", "write -P 2 100k 64k", "write -P 3 700k 1536", "write -P 4 1M 130k")
        return case.io(None, OPENED.format(file=DISK), *commands, argv=(*SECRET, "--image-opts")) and DISK

    return make


def _opened(name, make, key=KEY, image_opts=OPENED, **fields):
    """An encrypted image as `--image-opts` names it."""
    return Variant(name, "qcow", make, objects=(f"secret,id=s0,data={key}",), image_opts=image_opts, **fields)


VARIANTS = [
    Variant("default", "qcow", _of()),
    Variant("new", "qcow", lambda case, folder: case.create("qcow", DISK, "16M")),
    Variant("odd-size", "qcow", _of(size=MIB + 1536)),
    Variant("large", "qcow", _of(size=20 * GIB, pieces=8)),
    Variant("compressed", "qcow", _built(packed=(0, 2, 40))),
    Variant("all-compressed", "qcow", _built(packed=range(100))),
    Variant("cluster-512", "qcow", _built(cluster_bits=9, l2_bits=6, packed=(3, 41))),
    Variant("cluster-64k", "qcow", _built(cluster_bits=16, l2_bits=13, numbers=(0, 3, 31, 30), packed=(0, 30))),
    Variant("size-not-in-sectors", "qcow", _built(size=MIB + 700)),
    Variant("over-raw", "qcow", _over("raw")),
    Variant("over-qcow", "qcow", _over("qcow")),
    Variant("over-qcow2", "qcow", _over("qcow2")),
    Variant("over-shorter", "qcow", _over("raw", "5M")),
    Variant("over-longer", "qcow", _over("qcow2", "1M")),
    _opened("aes", _aes()),
    _opened("aes-format-said", _aes(), image_opts=f"{OPENED},encrypt.format=aes"),
    _opened("aes-other-format-said", _aes(), image_opts=f"{OPENED},encrypt.format=luks", **UNREADABLE),
    _opened("aes-wrong-key", _aes(), key="no key of it"),
    _opened("aes-over-raw", _aes(over=True)),
    _opened(
        "aes-other-secret", _aes(), image_opts="driver=qcow,encrypt.key-secret=s1,file.filename={file}", **UNREADABLE
    ),
    Variant("aes-plain-name", "qcow", _aes(), **UNREADABLE),
    _opened("encryption-of-nothing", _of(), **UNREADABLE),
]
