"""The images that are measured: made once each, when the first case needs them, all seeded."""

import itertools
import random
import struct
import subprocess
import zlib
from pathlib import Path

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
PIECE = 4 * MIB
CLUSTER = 64 << 10
MAKERS = {}


def makes(*names):
    """The function below makes these files in a folder; it is given the size of the plain image."""

    def remember(maker):
        MAKERS.update(dict.fromkeys(names, maker))
        return maker

    return remember


def tool(folder, *argv, said=None):
    subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL, input=said, text=True)


def need(folder, size, names):
    """Makes those that are not there."""
    for name in names:
        if not (folder / name).exists():
            MAKERS[name](folder, size)


def binaries():
    """Bytes of real programs and libraries, one file after the other."""
    files = itertools.chain(Path("/usr/lib/x86_64-linux-gnu").glob("*.so*"), Path("/usr/bin").iterdir())
    for path in sorted(f for f in files if f.is_file() and not f.is_symlink()):
        try:
            yield path.read_bytes()
        except OSError:
            continue


def pieces(count):
    """`count` pieces of binaries; they repeat when the machine has fewer."""
    made, buffer = 0, bytearray()
    while made < count:
        before = made
        for data in binaries():
            buffer += data
            while len(buffer) >= PIECE and made < count:
                yield bytes(buffer[:PIECE])
                del buffer[:PIECE]
                made += 1
            if made == count:
                return
        if made == before and not buffer:
            raise SystemExit("no programs in /usr to fill the image with")


@makes("plain.raw")
def plain_raw(folder, size):
    """A third holes, a third binaries, a third random, in turn."""
    rng = random.Random(2)
    real = pieces(size // PIECE // 3 + 1)
    with open(folder / "plain.raw", "wb") as file:
        file.truncate(size)
        for index in range(size // PIECE):
            if index % 3:
                file.seek(index * PIECE)
                file.write(next(real) if index % 3 == 1 else rng.randbytes(PIECE))


@makes("plain.qcow2")
def plain_qcow2(folder, size):
    need(folder, size, ["plain.raw"])
    tool(folder, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "plain.raw", "plain.qcow2")


def other_format(name, *options):
    """plain.raw in another format, made by the stock tool."""

    @makes(f"plain.{name}")
    def maker(folder, size):
        need(folder, size, ["plain.raw"])
        kind = name.split(".")[-1]
        tool(folder, "qemu-img", "convert", "-f", "raw", "-O", kind, *options, "plain.raw", f"plain.{name}")

    return maker


for _name in ("qcow", "vdi", "vpc", "vhdx", "vmdk", "parallels", "qed"):
    other_format(_name)
other_format("stream.vmdk", "-o", "subformat=streamOptimized")
# Little time for the key: what is measured is the disk.
SECRET = ["--object", "secret,id=s,data=swordfish"]
other_format("luks", *SECRET, "-o", "key-secret=s,iter-time=10")


@makes("zlib.qcow2", "zstd.qcow2")
def compressed(folder, size):
    need(folder, size, ["plain.raw"])
    for kind in ("zlib", "zstd"):
        kinds = ["-o", f"compression_type={kind}"]
        tool(folder, "qemu-img", "convert", "-f", "raw", "-c", "-O", "qcow2", *kinds, "plain.raw", f"{kind}.qcow2")


def overlay(folder, below, above, commands):
    """An image over another one, written to by commands of qemu-io."""
    tool(folder, "qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", above)
    tool(folder, "qemu-io", "-f", "qcow2", above, said="\n".join(commands))


@makes("middle.qcow2", "top.qcow2")
def chain(folder, size):
    need(folder, size, ["plain.qcow2"])
    for below, above, pattern in (("plain", "middle", 0x11), ("middle", "top", 0x22)):
        writes = [f"write -q -P {pattern} {offset}M 1M" for offset in range(pattern % 7, size // MIB - 1, 16)]
        overlay(folder, f"{below}.qcow2", f"{above}.qcow2", writes)


def scattered(seed, disk, total):
    """Commands that write clusters here and there, `total` bytes of them."""
    chance = random.Random(seed)
    places = chance.sample(range(disk // CLUSTER), total // CLUSTER)
    return [f"write -q -P {chance.randint(1, 255)} {place * CLUSTER} {CLUSTER}" for place in sorted(places)]


@makes("base.qcow2", "next.qcow2", "share.qcow2", "over.qcow2")
def rebased(folder, size):
    """An overlay of scattered writes as large as the plain image, its base, another base, and one that shares most."""
    disk = 4 * size
    for name, seed in (("base", 3), ("next", 4)):
        tool(folder, "qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", str(disk))
        tool(folder, "qemu-io", "-f", "qcow2", f"{name}.qcow2", said="\n".join(scattered(seed, disk, size // 2)))
    overlay(folder, "base.qcow2", "share.qcow2", scattered(5, disk, size // 32))
    overlay(folder, "base.qcow2", "over.qcow2", scattered(6, disk, size))


def copy_of_scattered(folder, size, name):
    need(folder, size, ["scattered.qcow2"])
    tool(folder, "cp", "--sparse=always", "scattered.qcow2", name)


@makes("again.qcow2")
def again(folder, size):
    """Another file with the same bytes: nothing is shared, all has to be compared."""
    copy_of_scattered(folder, size, "again.qcow2")


@makes("kept.qcow2")
def kept(folder, size):
    """The scattered image with a snapshot."""
    copy_of_scattered(folder, size, "kept.qcow2")
    tool(folder, "qemu-img", "snapshot", "-c", "old", "kept.qcow2")


@makes("uncounted.qcow2")
def uncounted(folder, size):
    """The scattered image without its refcount table."""
    copy_of_scattered(folder, size, "uncounted.qcow2")
    with open(folder / "uncounted.qcow2", "r+b") as file:
        file.seek(CLUSTER)
        file.write(bytes(CLUSTER))


@makes("bits.qcow2")
def bits(folder, _size):
    """1 TiB with a bitmap for 4 KiB and one for 64 KiB, in which bits are set here and there."""
    chance = random.Random(8)
    tool(folder, "qemu-img", "create", "-q", "-f", "qcow2", "bits.qcow2", str(TIB))
    for name, granularity in (("fine", "4k"), ("coarse", "64k")):
        tool(folder, "qemu-img", "bitmap", "--add", "-g", granularity, "bits.qcow2", name)
    places = (chance.randrange(TIB // CLUSTER) * CLUSTER for _ in range(3000))
    lengths = (4096, CLUSTER, MIB)
    writes = [f"write -q -z {place} {min(chance.choice(lengths), TIB - place)}" for place in places]
    tool(folder, "qemu-io", "-f", "qcow2", "bits.qcow2", said="\n".join(writes))


@makes("reserved.qcow2")
def reserved(folder, _size):
    tool(folder, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "reserved.qcow2", str(TIB))


@makes("small.qcow2")
def small(folder, _size):
    tool(folder, "qemu-img", "create", "-q", "-f", "qcow2", "small.qcow2", "1G")
    tool(folder, "qemu-io", "-f", "qcow2", "small.qcow2", said="write -q 0 64M")


@makes("scattered.qcow2")
def tebibyte(folder, _size, extents=400_000):
    """1 TiB with so many extents that hold something: compressed clusters and zero clusters in turn, here and there."""
    chance = random.Random(7)
    entries = CLUSTER // 8
    places = sorted(chance.sample(range(TIB // CLUSTER), extents))
    tables = {}
    packed = []
    for number, place in enumerate(places):
        tables.setdefault(place // entries, []).append((place % entries, number))
        if number % 2 == 0:
            deflate = zlib.compressobj(6, zlib.DEFLATED, -12)
            packed.append(deflate.compress(struct.pack(">I", number) * (CLUSTER // 4)) + deflate.flush())
    # Header, refcount table, L1, L2 tables, compressed data, refcount blocks; compressed clusters do not cross clusters.
    l1_clusters = -(-(TIB // CLUSTER // entries * 8) // CLUSTER)
    l2_at = 2 + l1_clusters
    data_at = l2_at + len(tables)
    offsets, at, counts = [], data_at * CLUSTER, {}
    for data in packed:
        if at // CLUSTER != (at + len(data) - 1) // CLUSTER:
            at = -(-at // CLUSTER) * CLUSTER
        offsets.append(at)
        counts[at // CLUSTER] = counts.get(at // CLUSTER, 0) + 1
        at += len(data)
    blocks_at = -(-at // CLUSTER)
    reach = CLUSTER // 2
    blocks = -(-(blocks_at + 64) // reach)
    refs = bytearray(blocks * CLUSTER)
    for cluster in range(blocks_at + blocks):
        struct.pack_into(">H", refs, cluster * 2, counts.get(cluster, 1))
    with open(folder / "scattered.qcow2", "wb") as file:
        header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, TIB, 0, l1_clusters * CLUSTER // 8,
                             2 * CLUSTER, CLUSTER, 1, 0, 0)
        file.write(header + struct.pack(">QQQII", 0, 0, 0, 4, 104))
        file.seek(CLUSTER)
        file.write(struct.pack(f">{blocks}Q", *((blocks_at + n) * CLUSTER for n in range(blocks))))
        l1 = [0] * (l1_clusters * CLUSTER // 8)
        for where, (index, inside) in enumerate(sorted(tables.items())):
            l1[index] = (l2_at + where) * CLUSTER | 1 << 63
            table = [0] * entries
            for slot, number in inside:
                table[slot] = 1
                if number % 2 == 0:
                    begin, length = offsets[number // 2], len(packed[number // 2])
                    sectors = (begin + length - 1) // 512 - begin // 512
                    table[slot] = 1 << 62 | sectors << 54 | begin
            file.seek((l2_at + where) * CLUSTER)
            file.write(struct.pack(f">{entries}Q", *table))
        file.seek(2 * CLUSTER)
        file.write(struct.pack(f">{len(l1)}Q", *l1))
        for begin, data in zip(offsets, packed, strict=True):
            file.seek(begin)
            file.write(data)
        file.seek(blocks_at * CLUSTER)
        file.write(refs)
