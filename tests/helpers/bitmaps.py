"""Reading the persistent bitmaps of a qcow2 image byte by byte (specification, "Bitmaps extension")."""

import struct
from pathlib import Path

EXTENSION = 0x23852875


def directory(data):
    """(name, table offset, table entries, flags, granularity bits) of each bitmap."""
    length = struct.unpack_from(">I", data, 100)[0]
    at, found = length, None
    while found is None:
        kind, size = struct.unpack_from(">II", data, at)
        if kind == EXTENSION:
            found = struct.unpack_from(">IIQQ", data, at + 8)
        elif kind == 0:
            return
        at += 8 + (size + 7) // 8 * 8
    count, _, _, at = found
    for _ in range(count):
        table, entries, flags, _, granularity, name_len, extra = struct.unpack_from(">QIIBBHI", data, at)
        start = at + 24 + extra
        yield data[start : start + name_len].decode(), table, entries, flags, granularity
        at += (24 + extra + name_len + 7) // 8 * 8


def bitmap_bits(path, wanted):
    """(flags, granularity, the bits as bytes) of the bitmap of that name."""
    data = Path(path).read_bytes()
    cluster = 1 << struct.unpack_from(">I", data, 20)[0]
    size = struct.unpack_from(">Q", data, 24)[0]
    for name, table, entries, flags, granularity in directory(data):
        if name != wanted:
            continue
        bits = b""
        for (entry,) in struct.iter_unpack(">Q", data[table : table + 8 * entries]):
            offset = entry & 0x00FFFFFFFFFFFE00
            content = (
                data[offset : offset + cluster].ljust(cluster, b"\0")
                if offset
                else b"\xff\0"[1 - (entry & 1) :][:1] * cluster
            )
            bits += content
        count = -(-size // (1 << granularity))
        return flags, granularity, bits[: -(-count // 8)].hex()
    return None
