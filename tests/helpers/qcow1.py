"""qcow files of version 1 by the published layout ("The QCOW Image Format"), with compressed clusters."""

import struct
import zlib

COMPRESSED = 1 << 63


def deflated(data):
    """Raw deflate with the 4 KiB window of the format."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()


def image(size, clusters, cluster_bits=12, l2_bits=9, backing=b"", packed=(), crypt=0):
    """A file; `clusters` maps a cluster's number to its bytes, those in `packed` are compressed."""
    cluster, reach = 1 << cluster_bits, cluster_bits + l2_bits
    tables = -(-size >> reach) if size % (1 << reach) == 0 else (size >> reach) + 1
    l1 = [0] * tables
    l1_at = -(-(48 + len(backing)) // 8) * 8
    out = bytearray(l1_at + 8 * tables)
    places = {}
    for number, data in clusters.items():
        index, inside = number >> l2_bits, number & ((1 << l2_bits) - 1)
        if index not in places:
            out += bytes(-len(out) % cluster)
            places[index] = len(out)
            l1[index] = len(out)
            out += bytes(8 << l2_bits)
        data = data.ljust(cluster, b"\0")
        if number in packed:
            stored = deflated(data)
            entry = COMPRESSED | len(stored) << (63 - cluster_bits) | len(out)
        else:
            out += bytes(-len(out) % cluster)
            stored, entry = data, len(out)
        out += stored
        struct.pack_into(">Q", out, places[index] + 8 * inside, entry)
    struct.pack_into(f">{tables}Q", out, l1_at, *l1)
    struct.pack_into(
        ">4sIQIIQBBHIQ", out, 0, b"QFI\xfb", 1, 48 if backing else 0, len(backing), 0, size, cluster_bits, l2_bits, 0,
        crypt, l1_at,
    )
    out[48 : 48 + len(backing)] = backing
    return bytes(out)
