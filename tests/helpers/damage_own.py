"""Damage to vdi, vpc and vhdx images, from seeds: what a repair can put right, and sometimes what it cannot."""

import random
import struct

from tests.helpers import vhd, vhdx

MIB = 1 << 20


def vdi(data, seed):
    """Counts, blocks that are used twice, numbers that there are not."""
    rng = random.Random(seed)
    table, blocks = struct.unpack_from("<I", data, 340)[0], struct.unpack_from("<I", data, 384)[0]
    done = []
    for _ in range(rng.randrange(1, 4)):
        one, other = (table + 4 * rng.randrange(blocks) for _ in range(2))
        kind = (seed + len(done)) % 4
        if kind == 0:
            struct.pack_into("<I", data, 388, rng.choice((0, 1, 2, blocks, blocks + 1, 0xFFFFFFFF)))
        elif kind == 1:
            data[one : one + 4] = data[other : other + 4]
        elif kind == 2:
            struct.pack_into("<I", data, one, rng.choice((blocks, blocks + 1, 0x7FFFFFFF, 0xFFFFFFFD)))
        else:
            struct.pack_into("<I", data, one, 0xFFFFFFFF)
        done.append(("count", "twice", "far", "lost")[kind])
    return " ".join(done)


def vpc(data, seed):
    """Either footer, the checksum of the dynamic disk header, entries of blocks that are not in the file."""
    rng = random.Random(seed)
    tail, done = len(data) - vhd.SECTOR, []
    # One of the footers has to be whole.
    footer = rng.choice((0, tail))
    for _ in range(rng.randrange(1, 4)):
        kind = (seed + len(done)) % 4
        if kind == 0:
            data[footer : footer + vhd.SECTOR] = rng.choice((bytes(512), rng.randbytes(512), b"\xff" * 512))
        elif kind == 1:
            at = footer + rng.randrange(84)
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            struct.pack_into(">I", data, vhd.HEADER_AT + 36, rng.randrange(1 << 32))
        else:
            count = struct.unpack_from(">I", data, vhd.HEADER_AT + 28)[0]
            places = [vhd.TABLE_AT + 4 * n for n in range(count)]
            unused = [at for at in places if struct.unpack_from(">I", data, at)[0] == vhd.UNUSED]
            if unused:
                struct.pack_into(">I", data, rng.choice(unused), rng.choice((len(data) // 512, 0xFF000000, 0xFFFFFFFE)))
        done.append(("footer", "bit", "header", "entry")[kind])
    return " ".join(done)


def _table_of_blocks(data):
    for at in range(vhdx.REGION_TABLES[0] + 16, vhdx.REGION_TABLES[0] + 16 + 32 * 4, 32):
        if data[at : at + 16] == vhdx.BAT_REGION:
            return struct.unpack_from("<Q", data, at + 16)[0]
    raise AssertionError("it has a table")


def _entries(data, rng, table):
    """Entries of a log whose last one says what the table says now."""
    right = bytes(data[table : table + 4096])
    torn = right[: 8 * rng.randrange(4)].ljust(4096, b"\0")
    first, count = rng.randrange(1, 1 << 33), rng.randrange(1, 5)
    last = len(data) + rng.choice((0, 0, MIB))
    log = b""
    for number in range(count):
        writes = [(table, right if number == count - 1 else torn)]
        if rng.random() < 0.4:
            writes.append((table + 8192, 4096 * rng.randrange(1, 9)))
        log += vhdx.log_entry(first + number, writes, flushed=len(data), last=last)
    return log, torn


def vhdx_image(data, seed):
    """A log that was not replayed, a header that is torn, entries of blocks that cannot be."""
    rng = random.Random(seed)
    table, done = _table_of_blocks(data), []
    kind = seed % 4
    if kind != 3:
        log, torn = _entries(data, rng, table)
        newer = max(vhdx.HEADERS, key=lambda at: struct.unpack_from("<Q", data, at + 8)[0])
        at = struct.unpack_from("<Q", data, newer + 72)[0]
        data[at : at + len(log)] = log
        for header in vhdx.HEADERS:
            head = bytearray(data[header : header + 4096])
            head[48:64] = vhdx.LOG_ID
            data[header : header + 4096] = vhdx.summed(head)
        cut = 512 * rng.randrange(9)
        data[table : table + cut] = torn[:cut]
        done.append("log")
    if kind == 1:
        header = min(vhdx.HEADERS, key=lambda at: struct.unpack_from("<Q", data, at + 8)[0])
        data[header + rng.randrange(80)] ^= 1 << rng.randrange(8)
        done.append("header")
    if kind == 2:
        data += bytes(rng.choice((512, 4096, MIB)))
        done.append("longer")
    if kind == 3:
        at = table + 8 * rng.randrange(8)
        value = rng.choice((6 | 1 << 40, 6 | 1 << 20, 6, 7, struct.unpack_from("<Q", data, table)[0]))
        struct.pack_into("<Q", data, at, value)
        done.append("entry")
    return " ".join(done)
