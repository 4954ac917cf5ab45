"""Damage to qcow2 images, from seeds: counts, entries, flags, places, headers that lie."""

import os
import random
import struct

COPIED = 1 << 63
COMPRESSED = 1 << 62
OFFSET = 0x00FFFFFFFFFFFE00


class Image:
    """The few places of a qcow2 file that damage is done to."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            head = file.read(112)
        self.cluster = 1 << struct.unpack_from(">I", head, 20)[0]
        self.version = struct.unpack_from(">I", head, 4)[0]
        self.l1_size, self.l1 = struct.unpack_from(">IQ", head, 36)
        self.table, self.table_clusters = struct.unpack_from(">QI", head, 48)
        self.snapshots, self.snapshot_table = struct.unpack_from(">IQ", head, 60)
        features = struct.unpack_from(">Q", head, 72)[0] if self.version > 2 else 0
        self.entry = 16 if features & 16 else 8
        self.size = os.path.getsize(path)

    def read(self, at, length=8):
        with open(self.path, "rb") as file:
            file.seek(at)
            return file.read(length).ljust(length, b"\0")

    def write(self, at, data):
        with open(self.path, "r+b") as file:
            file.seek(at)
            file.write(data)

    def number(self, at):
        return struct.unpack(">Q", self.read(at))[0]

    def put(self, at, number):
        self.write(at, struct.pack(">Q", number & (1 << 64) - 1))

    def tables(self):
        """Offsets of the L2 tables."""
        entries = [self.number(self.l1 + 8 * i) & OFFSET for i in range(min(self.l1_size, 512))]
        return [e for e in entries if e and e % self.cluster == 0]

    def block(self):
        """Offset of the first refcount block."""
        return self.number(self.table) & ~0x1FF

    def bitmap_directory(self):
        """Offset of the bitmap directory, and of the field that says so; or None."""
        head = self.read(0, min(self.cluster, 4096))
        at = head.find(bytes.fromhex("2385287500000018"))
        return None if at < 0 else (struct.unpack_from(">Q", head, at + 24)[0], at + 24)

    def some_entry(self, rng, used=True):
        """Place of an L2 entry; one that says something, where there is one."""
        tables = self.tables()
        if not tables:
            return None
        table = rng.choice(tables)
        places = [table + i for i in range(0, min(self.cluster, 65536), self.entry)]
        full = [p for p in places if self.number(p)]
        return rng.choice(full if used and full else places)


def entry_bits(image, rng):
    at = image.some_entry(rng)
    if at:
        bit = rng.choice((63, 62, 61, 57, 56, 9, 8, 3, 1, 0, 12, 16, 20, 30))
        image.put(at, image.number(at) ^ 1 << bit)


def entry_copied(image, rng):
    for _ in range(rng.randrange(1, 4)):
        at = image.some_entry(rng)
        if at:
            image.put(at, image.number(at) ^ COPIED)


def entry_overlap(image, rng):
    one, other = image.some_entry(rng), image.some_entry(rng, used=False)
    if one:
        image.put(other, image.number(one))


def entry_metadata(image, rng):
    at = image.some_entry(rng, used=False)
    if at:
        target = rng.choice((image.l1, image.table, image.block(), 0x200, image.snapshot_table, image.tables()[0]))
        image.put(at, target | rng.choice((0, COPIED)))


def entry_far(image, rng):
    at = image.some_entry(rng, used=False)
    if at:
        target = rng.choice((image.size, image.size + image.cluster, image.size * 2, 1 << 40, OFFSET))
        image.put(at, (target & -image.cluster) + rng.choice((0, 0, 512)) | rng.choice((0, 1, COPIED)))


def entry_packed(image, rng):
    at = image.some_entry(rng, used=False)
    if at:
        image.put(at, COMPRESSED | rng.randrange(1 << 60) & rng.choice((-1, 0x3FFFF, 0x30000000003FFFF)))


def entry_bitmap(image, rng):
    at = image.some_entry(rng, used=rng.random() < 0.7)
    if at and image.entry == 16:
        image.put(at + 8, rng.choice((1, 1 << 32, 0xFFFFFFFF, (1 << 64) - 1, rng.randrange(1 << 64))))


def l1_entry(image, rng):
    at = image.l1 + 8 * rng.randrange(min(max(image.l1_size, 1), 8))
    old = image.number(at)
    image.put(
        at,
        rng.choice((0, old ^ COPIED, old | 1, old | 1 << 56, old + 512, old + image.cluster, image.size + (1 << 30), COPIED | 1)),
    )


def l1_twice(image, rng):
    tables = image.tables()
    if tables:
        image.put(image.l1 + 8 * rng.randrange(min(image.l1_size, 8)), rng.choice(tables) | rng.choice((0, COPIED)))


def counts(image, rng):
    block = image.block() % image.size
    for _ in range(rng.randrange(1, 6)):
        at = block + rng.randrange(min(64, image.cluster))
        image.write(at, bytes([rng.choice((0, 1, 2, 3, 255, rng.randrange(256)))]))


def counts_all(image, rng):
    image.write(image.block() % image.size, rng.choice((b"\0", b"\xff", rng.randbytes(1))) * min(image.cluster, 256))


def block_place(image, rng):
    at = image.table + 8 * rng.choice((0, 0, 1, image.table_clusters * image.cluster // 8 - 1))
    old = image.number(at)
    image.put(
        at,
        rng.choice((0, old | 1, old + 512, old + image.cluster, image.l1, image.block(), 1 << 40, 1 << 63, 1 << 56, image.size)),
    )


def snapshot(image, rng):
    if image.snapshots:
        where = rng.choice((0, 2, 4, 6, 7, 8, 9, 11, 36, 38, 39, 13, 15))
        image.write(image.snapshot_table + where, rng.randbytes(1))


def snapshot_count(image, rng):
    image.write(60, struct.pack(">I", rng.choice((0, 1, 2, 3, 70, 65536, 65537, 1 << 31))))


def snapshot_place(image, rng):
    image.put(64, rng.choice((0, image.snapshot_table + 512, image.size, 1 << 40, 1 << 63, image.l1)))


def bitmap(image, rng):
    found = image.bitmap_directory()
    if not found:
        return
    directory, field = found
    kind = rng.randrange(6)
    if kind == 0:
        image.write(directory + rng.randrange(24), rng.randbytes(1))
    elif kind == 1:
        table = image.number(directory)
        image.put(table, rng.choice((1, 2, 1 << 56, 0x200, image.l1, image.size, image.size + (1 << 30), image.cluster + 1)))
    elif kind == 2:
        image.put(directory, rng.choice((0, image.l1, image.size, image.size + image.cluster * 9)))
    elif kind == 3:
        image.put(88, 0)
    elif kind == 4:
        image.write(directory + 15, bytes([rng.choice((1, 2, 3, 4))]))
        if rng.random() < 0.5:
            image.put(image.number(directory), rng.choice((2, image.l1, image.size + (1 << 30))))
    else:
        image.put(field, rng.choice((0, image.l1, image.size, directory + 512)))


def cut(image, rng):
    length = rng.choice((image.cluster, 1, 512, image.size // 2, image.size - image.cluster * 3))
    os.truncate(image.path, max(image.size - length, 512))


def longer(image, rng):
    os.truncate(image.path, image.size + rng.choice((1, 512, image.cluster * 3, 1 << 28)))


def header(image, rng):
    field, values = rng.choice(
        (
            (36, (b"\0\0\0\0", b"\0\0\0\xff", b"\x7f\0\0\0")),
            (40, (struct.pack(">Q", image.l1 + 512), struct.pack(">Q", image.table), struct.pack(">Q", image.size))),
            (48, (struct.pack(">Q", image.table + 1), struct.pack(">Q", image.l1), struct.pack(">Q", image.size))),
            (56, (b"\0\0\0\0", b"\0\0\0\2", b"\0\0\1\0", b"\x7f\0\0\0")),
            (76, (b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\x10", b"\0\0\0\4", b"\0\0\0\x20")),
            (92, (b"\0\0\0\0", b"\0\0\0\1", b"\0\0\0\x80")),
            (96, (b"\0\0\0\0", b"\0\0\0\2", b"\0\0\0\5", b"\0\0\0\6", b"\0\0\0\7")),
            (24, (struct.pack(">Q", 1 << 62), struct.pack(">Q", 512), struct.pack(">Q", 1 << 30))),
        )
    )
    if field < 72 or image.version > 2:
        image.write(field, rng.choice(values))


KINDS = (
    entry_bits,
    entry_copied,
    entry_overlap,
    entry_metadata,
    entry_far,
    entry_packed,
    entry_bitmap,
    l1_entry,
    l1_twice,
    counts,
    counts_all,
    block_place,
    snapshot,
    snapshot_count,
    snapshot_place,
    bitmap,
    cut,
    longer,
    header,
)


def damage(path, seed):
    """Does one kind of damage, sometimes two; says which."""
    rng = random.Random(seed)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        kind = KINDS[seed % len(KINDS)] if not done else rng.choice(KINDS)
        kind(Image(path), rng)
        done.append(kind.__name__)
    return " ".join(done)
