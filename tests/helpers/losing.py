"""Images of every format with data far apart, and where their tables are: what `--salvage` is tried on."""

import os
import random
import struct
import subprocess
from dataclasses import dataclass, field

from tests.base import QEMU_IMG, QEMU_IO
from tests.helpers import bochs, cloop, dmg
from tests.helpers.faulty import SECTOR

KIB, MIB = 1 << 10, 1 << 20
OFFSET = (1 << 56) - 512
SECRET = ("--object", "secret,id=s,data=abc")


@dataclass
class Table:
    """An array of numbers in a file of the image; `index`: the entry that is damaged."""

    file: str
    offset: int
    code: str
    index: int = 0
    #: What it is set to where it is to be invalid.
    wrong: tuple = ()

    @property
    def entry(self):
        return self.offset + self.index * struct.calcsize(self.code)

    @property
    def sector(self):
        start = self.entry // SECTOR * SECTOR
        return start, start + SECTOR

    def replace(self, folder, number):
        """Puts a number there; returns the one before."""
        code = self.code.rstrip("x")
        with open(os.path.join(folder, self.file), "r+b") as file:
            file.seek(self.entry)
            before = struct.unpack(code, file.read(struct.calcsize(code)))[0]
            file.seek(self.entry)
            file.write(struct.pack(code, number))
        return before


@dataclass
class Disk:
    """An image, how it is named to convert, and what it shows: bytes by their place, else zeroes."""

    size: int
    chunks: dict
    folder: str
    name: str = "disk"
    argv: tuple = ("{}",)
    tables: dict = field(default_factory=dict)
    #: File and ranges of data that cannot be read.
    data: tuple = ()

    def read(self, code, offset, file=None):
        with open(os.path.join(self.folder, file or self.name), "rb") as opened:
            opened.seek(offset)
            return struct.unpack(code, opened.read(struct.calcsize(code)))[0]

    def find(self, at, file=None):
        """Where the disk's sector at `at` is in the file, plain."""
        start = max(place for place in self.chunks if place <= at)
        sector = self.chunks[start][at - start : at - start + SECTOR]
        with open(os.path.join(self.folder, file or self.name), "rb") as opened:
            return opened.read().index(sector)

    def lose_plain(self, *places, file=None):
        """Sectors of the disk that cannot be read."""
        found = [self.find(at, file) for at in places]
        self.data = (file or self.name, [(at, at + SECTOR) for at in found])
        return self

    def lose(self, *offsets, file=None):
        """Sectors of the file that cannot be read."""
        self.data = (file or self.name, [(at, at + SECTOR) for at in offsets])
        return self


def letters(rng, length):
    """Bytes without a zero that can be packed to half of them."""
    return rng.randbytes(length // 2).hex().encode()


def source(folder, size, places, length=64 * KIB, packable=False):
    """A sparse raw file of that size with data in places."""
    rng = random.Random(size)
    make = letters if packable else lambda rng, length: rng.randbytes(length)
    chunks = {at: make(rng, min(length, size - at)) for at in places}
    with open(os.path.join(folder, "plain"), "wb") as file:
        file.truncate(size)
        for at, content in chunks.items():
            file.seek(at)
            file.write(content)
    return Disk(size, chunks, folder)


def stock(folder, *argv):
    subprocess.run([QEMU_IMG, *argv], cwd=folder, check=True, capture_output=True)


def converted(disk, fmt, *argv):
    """Makes the image."""
    stock(disk.folder, "convert", "-f", "raw", "-O", fmt, *argv, "plain", disk.name)
    return disk


def qcow2_tables(disk, per, at, entry=">Q"):
    """Both tables; `per`: bytes of the disk that an L2 table is for."""
    l1 = disk.read(">Q", 40)
    l2 = disk.read(">Q", l1 + 8 * (at // per)) & OFFSET
    cluster = 1 << disk.read(">I", 20)
    disk.tables["L1 table"] = Table(disk.name, l1, ">Q", at // per, (1 << 63 | 0x1234200, 1 << 63 | 1 << 40))
    disk.tables["L2 table"] = Table(disk.name, l2, entry, at % per // cluster, (1 << 63 | 0x1234267, 1 << 63 | 1 << 40))
    return disk


def raw(folder):
    disk = source(folder, 320 * KIB, (0, 128 * KIB + 512, 256 * KIB))
    os.rename(os.path.join(folder, "plain"), os.path.join(folder, "disk"))
    disk.argv = ("-f", "raw", "{}")
    return disk.lose_plain(1024, 128 * KIB + 512, 320 * KIB - 512)


#: With clusters of 512 bytes, an L2 table is for 32 KiB and fills a sector, a sector of the L1 table is for 2 MiB.
FAR = (0, 320 * KIB, MIB, 2 * MIB + 128 * KIB)
SIZE = 2 * MIB + 256 * KIB
SMALL = "cluster_size=512"
#: Clusters that are compressed, with a table for 128 KiB.
PACKED = "cluster_size=1k"


def qcow2(folder):
    disk = converted(source(folder, SIZE, FAR), "qcow2", "-o", SMALL)
    return qcow2_tables(disk, 32 * KIB, MIB).lose_plain(512, MIB + 4096)


def lose_packed(disk, *clusters):
    """Of compressed clusters of 1 KiB, the sectors in which they begin."""
    entries = [disk.read(">Q", disk.tables["L2 table"].entry + 8 * number) for number in clusters]
    return disk.lose(*((entry & (1 << 60) - 1) // SECTOR * SECTOR for entry in entries))


def compressed(folder):
    disk = converted(source(folder, SIZE, FAR, packable=True), "qcow2", "-c", "-o", PACKED)
    qcow2_tables(disk, 128 * KIB, MIB)
    return lose_packed(disk, 1, 3)


def zstd(folder):
    disk = source(folder, SIZE, FAR, packable=True)
    converted(disk, "qcow2", "-c", "-o", f"{PACKED},compression_type=zstd")
    qcow2_tables(disk, 128 * KIB, MIB)
    return lose_packed(disk, 1)


def extended(folder):
    disk = converted(source(folder, 640 * KIB, (0, 320 * KIB, 576 * KIB)), "qcow2", "-o", "cluster_size=16k,extended_l2=on")
    return qcow2_tables(disk, 16 * MIB, 576 * KIB, ">Qxxxxxxxx").lose_plain(512, 576 * KIB + 4096)


def backed(folder):
    """What is lost of the overlay is not shown as the base has it."""
    disk = source(folder, SIZE, FAR)
    stock(folder, "convert", "-O", "qcow2", "-o", SMALL, "plain", "base")
    base = Disk(disk.size, disk.chunks, folder, "base")
    file, ranges = base.lose_plain(512, 2 * MIB + 129 * KIB).data
    above = random.Random(5).randbytes(64 * KIB)
    with open(os.path.join(folder, "above"), "wb") as opened:
        opened.write(above)
    stock(folder, "create", "-f", "qcow2", "-o", SMALL, "-b", "base", "-F", "qcow2", "disk")
    write = f"write -s above {MIB} {len(above)}"
    subprocess.run([QEMU_IO, "-c", write, "disk"], cwd=folder, check=True, capture_output=True)
    disk.chunks[MIB] = above
    qcow2_tables(disk, 32 * KIB, MIB)
    disk.data = (file, ranges)
    return disk


def data_file(folder):
    disk = converted(source(folder, SIZE, FAR), "qcow2", "-o", f"{SMALL},data_file=outside")
    return qcow2_tables(disk, 32 * KIB, MIB).lose_plain(512, MIB + 4096, file="outside")


def locked(folder):
    """Encrypted qcow2."""
    disk = source(folder, SIZE, FAR)
    how = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    converted(disk, "qcow2", *SECRET, "-o", f"{SMALL},{how}")
    qcow2_tables(disk, 32 * KIB, MIB)
    disk.argv = (*SECRET, "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename={}")
    place = disk.read(">Q", disk.tables["L2 table"].entry) & OFFSET
    return disk.lose(place, place + 1024)


def luks(folder):
    disk = converted(source(folder, 256 * KIB, (0, 128 * KIB)), "luks", *SECRET, "-o", "key-secret=s,iter-time=10")
    disk.argv = (*SECRET, "--image-opts", "driver=luks,key-secret=s,file.filename={}")
    payload = disk.read(">I", 104) * SECTOR
    return disk.lose(payload + 512, payload + 128 * KIB + 4096)


def qcow(folder):
    disk = converted(source(folder, 384 * KIB, (0, 256 * KIB)), "qcow")
    l1 = disk.read(">Q", 40)
    l2 = disk.read(">Q", l1)
    disk.tables["L1 table"] = Table("disk", l1, ">Q", 0, (0x1234200, 1 << 40))
    disk.tables["L2 table"] = Table("disk", l2, ">Q", 256 * KIB // 4096, (0x1234201, 1 << 40))
    return disk.lose_plain(512, 256 * KIB + 4096)


def qed(folder):
    disk = converted(source(folder, 384 * KIB, (0, 256 * KIB)), "qed", "-o", "cluster_size=4k,table_size=2")
    l1 = disk.read("<Q", 40)
    l2 = disk.read("<Q", l1)
    disk.tables["L1 table"] = Table("disk", l1, "<Q", 0, (0x1234200, 1 << 40))
    disk.tables["L2 table"] = Table("disk", l2, "<Q", 256 * KIB // 4096, (0x1234267, 1 << 40))
    return disk.lose_plain(512, 256 * KIB + 4096)


def vdi(folder):
    disk = converted(source(folder, 140 * MIB, (*FAR, 130 * MIB)), "vdi")
    disk.tables["block map"] = Table("disk", disk.read("<I", 0x154), "<I", 1, (0x123456,))
    return disk.lose_plain(512, MIB + 4096)


#: A sector of a grain table is for 8 MiB, a table for 32 MiB.
GRAINS = (0, MIB, 9 * MIB, 40 * MIB)


def grain_tables(disk, file=None, at=MIB):
    file = file or disk.name
    directory = disk.read("<Q", 56, file) * SECTOR
    table = disk.read("<I", directory, file) * SECTOR
    disk.tables["grain directory"] = Table(file, directory, "<I", 0, (0x7F345678,))
    disk.tables["grain table"] = Table(file, table, "<I", at // (64 * KIB), (0x7F345678,))
    return disk


def vmdk(folder):
    return grain_tables(converted(source(folder, 41 * MIB, GRAINS), "vmdk")).lose_plain(512, MIB + 4096)


def stream(folder):
    disk = source(folder, 41 * MIB, GRAINS, packable=True)
    converted(disk, "vmdk", "-o", "subformat=streamOptimized")
    grain_tables(disk)
    grain = disk.read("<I", disk.tables["grain table"].entry) * SECTOR
    return disk.lose(grain + 1024)


def flat(folder):
    disk = source(folder, 256 * KIB, (0, 128 * KIB))
    disk.name = "disk.vmdk"
    converted(disk, "vmdk", "-o", "subformat=monolithicFlat")
    return disk.lose_plain(512, 128 * KIB + 4096, file="disk-flat.vmdk")


def split(folder):
    disk = source(folder, 41 * MIB, GRAINS)
    disk.name = "disk.vmdk"
    converted(disk, "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
    return grain_tables(disk, file="disk-s001.vmdk").lose_plain(512, MIB + 4096, file="disk-s001.vmdk")


def vpc(folder):
    disk = converted(source(folder, 300 * MIB, (0, MIB, 5 * MIB, 290 * MIB)), "vpc", "-o", "force_size=on")
    disk.tables["BAT"] = Table("disk", disk.read(">Q", 512 + 16), ">I", 2, (0x7F345678,))
    # A copy of it is at the beginning.
    disk.tables["footer"] = Table("disk", os.path.getsize(os.path.join(folder, "disk")) - SECTOR, ">Q")
    return disk.lose_plain(512, MIB + 4096)


def vpc_fixed(folder):
    disk = converted(source(folder, 256 * KIB, (0, 128 * KIB)), "vpc", "-o", "subformat=fixed,force_size=on")
    disk.argv = ("-f", "vpc", "{}")
    return disk.lose_plain(512, 128 * KIB + 4096)


def vhdx(folder):
    disk = converted(source(folder, 80 * MIB, (0, MIB, 5 * MIB, 70 * MIB)), "vhdx", "-o", "block_size=1M")
    bat = next(
        disk.read("<Q", at + 16)
        for at in range(192 * KIB + 16, 193 * KIB, 32)
        if disk.read("<I", at) == 0x2DC27766
    )
    disk.tables["BAT"] = Table("disk", bat, "<Q", 5, (1 << 40 | 6,))
    return disk.lose_plain(512, MIB + 4096)


def parallels(folder):
    disk = converted(source(folder, 20 * MIB, (0, MIB, 9 * MIB)), "parallels", "-o", "cluster_size=64k")
    disk.tables["BAT"] = Table("disk", 64, "<I", 9 * MIB // (64 * KIB), (0x7F345678,))
    return disk.lose_plain(512, MIB + 4096)


def handmade(folder, content, size, chunks, name="disk"):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)
    return Disk(size, chunks, folder, name)


def dmg_image(folder):
    data = letters(random.Random(1), 256 * KIB)
    kinds = (dmg.RAW, dmg.ZLIB, dmg.RAW, dmg.ZLIB)
    parts = [(kind, 128, data[n * 65536 : (n + 1) * 65536]) for n, kind in enumerate(kinds)]
    disk = handmade(folder, dmg.build(parts), len(data), {0: data}, "disk.dmg")
    return disk.lose(512, 65536 + 1024)


def cloop_image(folder):
    data = letters(random.Random(2), 300 * 4096)
    disk = handmade(folder, cloop.image(data, block=4096), len(data), {0: data})
    disk.tables["offset table"] = Table("disk", 136, ">Q", 70, (1 << 40,))
    return disk.lose(disk.read(">Q", disk.tables["offset table"].entry) // SECTOR * SECTOR + 512)


def bochs_image(folder):
    rng = random.Random(3)
    chunks = {at: rng.randbytes(8 * KIB) for at in (0, MIB, 2 * MIB - 8 * KIB)}
    sectors = {
        (at + n) // SECTOR: content[n : n + SECTOR] for at, content in chunks.items() for n in range(0, 8 * KIB, SECTOR)
    }
    disk = handmade(folder, bochs.image(2 * MIB, sectors), 2 * MIB, chunks)
    disk.tables["catalog"] = Table("disk", 512, "<I", 1, (0x7F345678,))
    return disk.lose_plain(512, MIB + 4096)


#: Name to maker.
FORMATS = {
    "raw": raw,
    "qcow2": qcow2,
    "qcow2 compressed": compressed,
    "qcow2 zstd": zstd,
    "qcow2 extended L2": extended,
    "qcow2 with base": backed,
    "qcow2 data file": data_file,
    "qcow2 LUKS": locked,
    "luks": luks,
    "qcow": qcow,
    "qed": qed,
    "vdi": vdi,
    "vmdk": vmdk,
    "vmdk streamOptimized": stream,
    "vmdk flat": flat,
    "vmdk split": split,
    "vpc": vpc,
    "vpc fixed": vpc_fixed,
    "vhdx": vhdx,
    "parallels": parallels,
    "dmg": dmg_image,
    "cloop": cloop_image,
    "bochs": bochs_image,
}
