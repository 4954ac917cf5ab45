"""Parallels files by the published layout (QEMU, docs/interop/parallels.rst), with its format extension."""

import hashlib
import struct

SECTOR = 512
BITMAP = 0x20385FAE252CB34A
EXTENSION = 0xAB234CEF23DCEA87


def bitmap(sectors, name, granularity, table):
    """The feature of a dirty bitmap: granularity in sectors, the table's entries as stored."""
    data = struct.pack("<Q16sII", sectors, name, granularity, len(table)) + struct.pack(f"<{len(table)}Q", *table)
    return struct.pack("<QQII", BITMAP, 0, len(data), 0) + data.ljust(-(-len(data) // 8) * 8, b"\0")


def extension(cluster, features):
    """A cluster of features, with its checksum."""
    body = b"".join(features).ljust(cluster - 24, b"\0")
    return struct.pack("<Q", EXTENSION) + hashlib.md5(body).digest() + body


def image(sectors, placed, tracks=64, magic=b"WithoutFreeSpace", features=None, in_use=0, data_off=None):
    """A file; `placed` maps a cluster's number to its bytes, in the order in which they lie in the file."""
    cluster = tracks * SECTOR
    entries = -(-sectors // tracks)
    aligned = -(-(64 + 4 * entries) // cluster) * cluster
    table, data = [0] * entries, []
    for number, content in placed.items():
        at = aligned + len(data) * cluster
        table[number] = at // SECTOR if magic == b"WithoutFreeSpace" else at // cluster
        data.append(content.ljust(cluster, b"\0"))
    at = (aligned + len(data) * cluster) // SECTOR if features is not None else 0
    if features is not None:
        data.append(extension(cluster, features))
    head = struct.pack(
        "<16s5IQIIIQ", magic, 2, 16, max(1, sectors // 512), tracks, entries, sectors, in_use,
        aligned // SECTOR if data_off is None else data_off, 0, at,
    )
    head += struct.pack(f"<{entries}I", *table)
    return head.ljust(aligned, b"\0") + b"".join(data)
