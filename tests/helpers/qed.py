"""QED files by the published layout (QEMU, docs/interop/qed_spec.rst)."""

import struct

BACKING, NEED_CHECK, RAW = 1, 2, 4


def image(size, clusters, cluster=4096, table=2, features=0, backing=b"", compat=0, autoclear=0):
    """A file; `clusters` maps a cluster's number to its bytes, or to None for one of zeroes."""
    entries = cluster * table // 8
    out = bytearray(cluster * (1 + table))
    tables = {}
    for number, data in clusters.items():
        index, inside = divmod(number, entries)
        if index not in tables:
            tables[index] = len(out)
            struct.pack_into("<Q", out, cluster + 8 * index, len(out))
            out += bytes(cluster * table)
        entry = 1 if data is None else len(out)
        out += b"" if data is None else data.ljust(cluster, b"\0")
        struct.pack_into("<Q", out, tables[index] + 8 * inside, entry)
    features |= BACKING if backing else 0
    struct.pack_into(
        "<4sIIIQQQQQII", out, 0, b"QED\0", cluster, table, 1, features, compat, autoclear, cluster, size,
        64 if backing else 0, len(backing),
    )
    out[64 : 64 + len(backing)] = backing
    return bytes(out)
