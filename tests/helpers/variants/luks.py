"""LUKS images of version 1: ciphers, modes, initialisation vectors and hashes; with the key, without it and with another.

The stock tool measures for seconds how many rounds a key shall cost, so what cryptsetup can make is made by that; each
image of the stock tool is made once.
"""

import functools
import os
import shutil
import subprocess
import tempfile

from tests.helpers.variants import MIB, STOCK_TIMEOUT, UNREADABLE, Maker, Variant as _Variant

DISK = "disk.luks"
KEY, OTHER, WRONG = "the key of the disk", "another key", "no key of it"
ROUNDS = ("--pbkdf-force-iterations", "1000")
PIECES = ("write -P 1 0 5k", "write -P 2 100k 64k", "write -P 3 700k 1536", "write -P 4 1040896 512")


def secret(text):
    """The argument of `--object` for a password."""
    return f"secret,id=s0,data={text}"


def Variant(name, make, key=KEY, **fields):
    """One of this format, opened with a key; `key=None`: without one."""
    options = "driver=luks,file.filename={file}" + (",key-secret=s0" if key else "")
    return _Variant(name, "luks", make, objects=(secret(key),) if key else (), image_opts=options, **fields)


def _fill(case):
    options = f"driver=luks,key-secret=s0,file.filename={DISK}"
    return case.io(None, options, *PIECES, argv=("--object", secret(KEY), "--image-opts")) and DISK


def cryptsetup(case, *argv, keys=(KEY,)):
    """Runs cryptsetup; the keys are one line each."""
    words, text = ["cryptsetup", "--batch-mode", *argv], "\n".join(keys)
    done = subprocess.run(
        words, cwd=case.folder, input=text, text=True, capture_output=True, timeout=STOCK_TIMEOUT, check=False
    )
    if done.returncode:
        raise AssertionError(f"{words}: {done.stdout!r} {done.stderr!r}")


def _formatted(cipher="aes-xts-plain64", bits=512, hash_name="sha256", size=MIB):
    """By cryptsetup. Disk and header are as long as `size` and the key ask for."""

    def make(case, folder):
        with open(case.path(DISK), "wb") as file:
            file.truncate(4 * MIB)
        cryptsetup(case, "luksFormat", *ROUNDS, "--type", "luks1", "--cipher", cipher, "--key-size", str(bits), "--hash", hash_name,
                   "--align-payload", "1", DISK)  # fmt: skip
        with open(case.path(DISK), "r+b") as file:
            sectors = int.from_bytes(file.read(108)[104:], "big")
            file.truncate(sectors * 512 + size)
        return _fill(case)

    return make


def _slots(case, folder):
    """The first slot is free again, the key is in the third."""
    _formatted("aes-xts-plain64", 256, "sha256")(case, folder)
    cryptsetup(case, "luksAddKey", *ROUNDS, "--key-slot", "5", DISK, keys=(KEY, OTHER))
    cryptsetup(case, "luksAddKey", *ROUNDS, "--key-slot", "2", DISK, keys=(KEY, KEY))
    cryptsetup(case, "luksKillSlot", DISK, "0", keys=(OTHER,))
    return DISK


@functools.cache
def _template(options):
    """A folder with the image that the stock tool makes with those options."""
    folder = tempfile.TemporaryDirectory(prefix="instar-luks-")
    case = Maker(folder.name, options)
    case.create("luks", DISK, MIB, "--object", secret(KEY), "-o", f"key-secret=s0,iter-time=10,{options}")
    return folder


def _stock(options):
    def make(case, folder):
        shutil.copy(os.path.join(_template(options).name, DISK), case.path(DISK))
        return _fill(case)

    return make


def _patched(offset, data):
    """A damaged header: the stock tool says what is wrong."""

    def make(case, folder):
        _formatted()(case, folder)
        return case.write(DISK, data, offset)

    return make


def _odd_length(case, folder):
    _formatted()(case, folder)
    with open(case.path(DISK), "r+b") as file:
        file.truncate(os.path.getsize(case.path(DISK)) - 700)
    return DISK


def _cut(case, folder):
    """Not even all of the key material."""
    _formatted()(case, folder)
    with open(case.path(DISK), "r+b") as file:
        file.truncate(100_000)
    return DISK


VARIANTS = [
    Variant("default", _formatted()),
    Variant("no-key", _formatted(), key=None, **UNREADABLE),
    Variant("wrong-key", _formatted(), key=WRONG, **UNREADABLE),
    _Variant("plain-name", "luks", _formatted(), **UNREADABLE),
    Variant("serpent", _stock("cipher-alg=serpent-256,cipher-mode=ecb,hash-alg=sha512")),
    Variant("twofish", _stock("cipher-alg=twofish-256,cipher-mode=ctr,hash-alg=sm3")),
    Variant("cast5", _stock("cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=plain,hash-alg=md5")),
    Variant("aes-128-xts", _formatted("aes-xts-plain64", 256, "sha1")),
    Variant("aes-256-xts-plain", _formatted("aes-xts-plain", 512, "sha384")),
    Variant("aes-128-cbc", _formatted("aes-cbc-plain64", 128, "ripemd160")),
    Variant("aes-256-essiv", _formatted("aes-cbc-essiv:sha256", 256, "sha512")),
    Variant("slots", _slots),
    Variant("other-slot", _slots, key=OTHER),
    Variant("odd-length", _odd_length),
    Variant("cut", _cut, **UNREADABLE),
    Variant("unknown-cipher", _patched(8, b"des3\0"), **UNREADABLE),
    Variant("unknown-mode", _patched(40, b"lrw-plain64\0"), **UNREADABLE),
    Variant("unknown-hash", _patched(72, b"whirlpool\0"), **UNREADABLE),
    Variant("slot-overlaps", _patched(208 + 40, b"\0\0\0\1"), **UNREADABLE),
]
