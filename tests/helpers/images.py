"""Fixtures: raw and qcow2 images with every header feature, made by the stock tools or byte by byte, from seeds."""

import os
import random
import struct
import subprocess

from tests.base import QEMU_IMG, QEMU_IO

MIB = 1 << 20


def stock(*argv, cwd):
    """Runs a stock tool; it must work."""
    tool = QEMU_IO if argv[0] == "io" else QEMU_IMG
    subprocess.run([tool, *argv[1:]] if argv[0] == "io" else [tool, *argv], cwd=cwd, check=True, capture_output=True)


def write(name, *writes, cwd, fmt="qcow2"):
    """qemu-io writes: (pattern, offset, length)."""
    commands = [part for p, o, n in writes for part in ("-c", f"write -P {p} {o} {n}")]
    stock("io", "-f", fmt, *commands, name, cwd=cwd)


def patch(name, offset, data, cwd):
    """Overwrites bytes."""
    with open(os.path.join(cwd, name), "r+b") as file:
        file.seek(offset)
        file.write(data)


def random_disk(path, size, seed, chunk=65536):
    """A raw file with holes, zeroes, repeated text and random bytes."""
    rng = random.Random(seed)
    with open(path, "wb") as file:
        at = 0
        while at < size:
            length = min(size - at, rng.choice((512, 4096, chunk, chunk * 3, 1000)))
            kind = rng.randrange(5)
            file.seek(at)
            if kind == 1:
                file.write(bytes(length))
            elif kind == 2:
                file.write(rng.randbytes(length))
            elif kind >= 3:
                word = rng.randbytes(rng.randrange(1, 40))
                file.write((word * (length // len(word) + 1))[:length])
            at += length
        file.truncate(size)


def create_cases(cwd):
    """Makes the images of the `info` tests in `cwd`; returns their names. Names are relative: `info` shows them."""
    names = []

    def made(name):
        names.append(name)
        return name

    def create(name, *argv, fmt="qcow2"):
        stock("create", "-q", "-f", fmt, *argv[:-1], name, *([argv[-1]] if argv[-1] else []), cwd=cwd)
        return made(name)

    for size in ("1M", "0", "512", "1049088", "1G", "1T", "8E"):
        create(f"size-{size}.raw", size, fmt="raw") if size != "8E" else None
        if size != "8E":
            create(f"size-{size}.qcow2", size)
    for size in ("512", "4k", "64k", "2M"):
        create(f"cluster-{size}.qcow2", "-o", f"cluster_size={size}", "64M")
        create(f"cluster-{size}-v2.qcow2", "-o", f"compat=0.10,cluster_size={size}", "64M")
    for bits in (1, 2, 4, 8, 32, 64):
        create(f"refcount-{bits}.qcow2", "-o", f"refcount_bits={bits}", "16M")
    for name, options in {
        "lazy": "lazy_refcounts=on",
        "zstd": "compression_type=zstd",
        "extl2": "extended_l2=on",
        "extl2-16k": "extended_l2=on,cluster_size=16k",
        "metadata": "preallocation=metadata",
        "falloc": "preallocation=falloc",
        "full": "preallocation=full",
        "data": "data_file=data.raw",
        "dataraw": "data_file=dataraw.raw,data_file_raw=on",
    }.items():
        create(f"{name}.qcow2", "-o", options, "16M")
    create("base.raw", "16M", fmt="raw")
    create("base.qcow2", "16M")
    create("over-raw.qcow2", "-b", "base.raw", "-F", "raw", "")
    create("over-qcow2.qcow2", "-b", "base.qcow2", "-F", "qcow2", "32M")
    create("over-over.qcow2", "-b", "over-qcow2.qcow2", "-F", "qcow2", "")
    create("over-relative.qcow2", "-b", "./base.raw", "-F", "raw", "")
    create("noformat.qcow2", "16M")
    stock("rebase", "-u", "-b", "base.raw", "-F", "raw", "noformat.qcow2", cwd=cwd)
    # The extension's length set to zero: a backing file without a format.
    with open(os.path.join(cwd, "noformat.qcow2"), "rb") as file:
        at = file.read(4096).find(b"\xe2\x79\x2a\xca")
    patch("noformat.qcow2", at, b"\x01\x01\x01\x01", cwd)
    long_name = "d" * 200 + "/" + "e" * 200 + "/base.raw"
    create("longname.qcow2", "-u", "-b", long_name, "-F", "raw", "1M")
    create("json-backing.qcow2", "-u", "-b", 'json:{"driver":"null-co"}', "-F", "raw", "1M")
    create("umlaut-ä€.qcow2", "1M")
    create("with space.qcow2", "1M")
    for count in (1, 3):
        create(f"snapshots-{count}.qcow2", "16M")
        for i in range(count):
            stock("snapshot", "-c", f"snap {i} " + "x" * (i * 20), f"snapshots-{count}.qcow2", cwd=cwd)
    create("bitmaps.qcow2", "16M")
    stock("bitmap", "--add", "bitmaps.qcow2", "first", cwd=cwd)
    stock("bitmap", "--add", "--disable", "-g", "512k", "bitmaps.qcow2", "second", cwd=cwd)
    create("dirty.qcow2", "-o", "lazy_refcounts=on", "1M")
    patch("dirty.qcow2", 79, b"\x01", cwd)
    create("corrupt.qcow2", "1M")
    patch("corrupt.qcow2", 79, b"\x02", cwd)
    create("compat-bit.qcow2", "1M")
    patch("compat-bit.qcow2", 80, b"\x40", cwd)
    create("autoclear-bit.qcow2", "1M")
    patch("autoclear-bit.qcow2", 88, b"\x40", cwd)
    secret = ["--object", "secret,id=s,data=secret"]
    for name, fmt in (("luks-inside", "luks"), ("aes-inside", "aes")):
        options = f"encrypt.format={fmt},encrypt.key-secret=s" + (",encrypt.iter-time=10" if fmt == "luks" else "")
        create(f"{name}.qcow2", *secret, "-o", options, "1M")
    create("filled.qcow2", "16M")
    write("filled.qcow2", (1, 0, "1M"), (2, "4M", "64k"), cwd=cwd)
    stock("convert", "-c", "-O", "qcow2", "filled.qcow2", made("packed.qcow2"), cwd=cwd)
    for name, content in {
        "one-byte.raw": b"x",
        "thousand.raw": b"y" * 1000,
        "mbr.raw": bytes(510) + b"\x55\xaa" + bytes(MIB),
        "iso.raw": bytes(32769) + b"CD001" + bytes(MIB),
        "elf.raw": b"\x7fELF" + bytes(4096),
    }.items():
        with open(os.path.join(cwd, made(name)), "wb") as file:
            file.write(content)
    return names


def broken_cases(cwd):
    """Makes images that are refused; returns their names."""
    base = os.path.join(cwd, "good.qcow2")
    stock("create", "-q", "-f", "qcow2", "good.qcow2", "64M", cwd=cwd)
    with open(base, "rb") as file:
        good = file.read()
    fields = {
        "version-1": (4, ">I", 1),
        "version-4": (4, ">I", 4),
        "cluster-bits-8": (20, ">I", 8),
        "cluster-bits-22": (20, ">I", 22),
        "crypt-3": (32, ">I", 3),
        "l1-small": (36, ">I", 0),
        "l1-huge": (36, ">I", 0x10000000),
        "l1-unaligned": (40, ">Q", 0x30001),
        "l1-past-end": (40, ">Q", 1 << 62),
        "refcount-unaligned": (48, ">Q", 0x10001),
        "refcount-none": (56, ">I", 0),
        "refcount-huge": (56, ">I", 0x7FFFFFFF),
        "snapshots-many": (60, ">I", 70000),
        "snapshots-unaligned": (64, ">Q", 1),
        "incompatible-bit": (72, ">Q", 1 << 40),
        "refcount-order-7": (96, ">I", 7),
        "header-length-short": (100, ">I", 72),
        "header-length-long": (100, ">I", 1 << 20),
        "compression-type": (104, "B", 7),
        "backing-past": (8, ">Q", 1 << 30),
        "backing-long": (16, ">I", 2000),
        "size-huge": (24, ">Q", 1 << 63),
    }
    names = []
    for name, (at, kind, value) in fields.items():
        data = bytearray(good)
        struct.pack_into(kind, data, at, value)
        if name.startswith("backing-long"):
            struct.pack_into(">Q", data, 8, 600)
        if name == "snapshots-unaligned":
            struct.pack_into(">I", data, 60, 1)
        names.append(f"bad-{name}.qcow2")
        with open(os.path.join(cwd, names[-1]), "wb") as file:
            file.write(data)
    for length in (4, 32, 71, 72, 103, 104, 512):
        names.append(f"bad-cut-{length}.qcow2")
        with open(os.path.join(cwd, names[-1]), "wb") as file:
            file.write(good[:length])
    return names
