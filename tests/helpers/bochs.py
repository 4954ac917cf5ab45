"""Growing images of Bochs by the layout in the Bochs documentation (`redolog_t` of its hard disk images)."""

import struct

EMPTY = 0xFFFFFFFF


def header(size, catalog, bitmap, extent, version=0x20000, header_len=512, kind=b"Redolog", subkind=b"Growing"):
    """512 bytes; version 1 has no time stamp before the size."""
    numbers = struct.pack("<5I", version, header_len, catalog, bitmap, extent)
    if version != 0x10000:
        numbers += bytes(4)
    magic = struct.pack("<32s16s16s", b"Bochs Virtual HD Image", kind, subkind)
    return (magic + numbers + struct.pack("<Q", size)).ljust(512, b"\0")


def image(size, sectors, extent=4096, order=(), entries=None, catalog_len=None, **fields):
    """A file; `sectors` maps a sector's number to its bytes, `order` says in which order extents lie in the file."""
    per = extent // 512
    fields.setdefault("bitmap", max(1, -(-per // 8)))
    used = sorted(
        {number // per for number in sectors}, key=lambda n: (order.index(n) if n in order else len(order), n)
    )
    count = -(-size // extent) if catalog_len is None else catalog_len
    catalog = [EMPTY] * count
    body = b""
    for place, number in enumerate(used):
        if number < count:
            catalog[number] = place
        bits = bytearray(-(-fields["bitmap"] // 512) * 512)
        data = bytearray(extent)
        for sector, content in sectors.items():
            if sector // per == number:
                inside = sector % per
                bits[inside // 8] |= 1 << inside % 8
                data[512 * inside : 512 * inside + 512] = content.ljust(512, b"\0")
        body += bytes(bits + data)
    for index, value in (entries or {}).items():
        catalog[index] = value
    claimed = fields.pop("catalog", count)
    return (
        header(size, claimed, extent=fields.pop("claim", extent), **fields) + struct.pack(f"<{count}I", *catalog) + body
    )
