"""VHD images built from Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0; all big-endian."""

import struct

SECTOR = 512
BLOCK = 2 << 20
UNUSED = 0xFFFFFFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
ID = bytes(range(16))
HEADER_AT, TABLE_AT = 512, 1536


def checksum(data):
    """The complement of the sum of the bytes; the sum's own field is zero."""
    return ~sum(data) & 0xFFFFFFFF


def footer(size, creator=b"win ", kind=DYNAMIC, geometry=(10, 4, 17), unique=ID, sound=True, **fields):
    """A hard disk footer. `fields`: data_offset, original, features, version, saved."""
    data = bytearray(SECTOR)
    offset = fields.get("data_offset", 2**64 - 1 if kind == FIXED else HEADER_AT)
    head = (b"conectix", fields.get("features", 2), fields.get("version", 0x10000), offset, 0x2C000000)
    struct.pack_into(">8sIIQI", data, 0, *head)
    struct.pack_into(">4sI4s", data, 28, creator, 0x60001, b"Wi2k")
    struct.pack_into(">QQHBBI", data, 40, fields.get("original", size), size, *geometry, kind)
    data[68:84] = unique
    data[84] = fields.get("saved", 0)
    struct.pack_into(">I", data, 64, checksum(data) if sound else 1)
    return bytes(data)


def dynamic_header(
    entries, block=BLOCK, table=TABLE_AT, magic=b"cxsparse", sound=True, parent=b"", name="", locators=()
):
    """A dynamic disk header; `locators`: (code, text, byte offset of the text)."""
    data = bytearray(1024)
    struct.pack_into(">8sQQIII", data, 0, magic, 2**64 - 1, table, 0x10000, entries, block)
    data[40 : 40 + len(parent)] = parent
    wide = name.encode("utf-16-be")
    data[64 : 64 + len(wide)] = wide
    for i, (code, text, at) in enumerate(locators):
        length = len(text.encode("utf-16-le"))
        struct.pack_into(">4sIIIQ", data, 576 + i * 24, code, SECTOR, length, 0, at)
    struct.pack_into(">I", data, 36, checksum(data) if sound else 1)
    return bytes(data)


def bitmap_length(block=BLOCK):
    """Bytes of the bitmap before a block."""
    return -(-block // (SECTOR * 8) // SECTOR) * SECTOR


def dynamic(size, blocks=None, block=BLOCK, entries=None, table=None, bitmaps=None, locators=(), **parts):
    """A dynamic or differencing disk. `blocks`: number to content; `table`: the table instead of the right one; `bitmaps`:
    number to bitmap instead of all ones; `locators`: (code, text); `head`, `tail`: instead of the footers; `creator`,
    `kind`, `geometry`, `header` (of dynamic_header) and the like go on."""
    blocks, bitmaps = blocks or {}, bitmaps or {}
    count = -(-size // block)
    head, tail, header = parts.pop("head", None), parts.pop("tail", None), parts.pop("header", {})
    foot = footer(size, **parts)
    places = list(table) if table else [UNUSED] * count
    at = TABLE_AT + -(-len(places) * 4 // SECTOR) * SECTOR
    named, body = [], b""
    for code, text in locators:
        named.append((code, text, at + len(body)))
        body += text.encode("utf-16-le").ljust(SECTOR, b"\0")
    for number, content in sorted(blocks.items()):
        if not table:
            places[number] = (at + len(body)) // SECTOR
        body += bitmaps.get(number, b"\xff" * bitmap_length(block)).ljust(bitmap_length(block), b"\0")
        body += content.ljust(block, b"\0")
    words = b"".join(struct.pack(">I", place) for place in places)
    words = words.ljust(-(-len(words) // SECTOR) * SECTOR, b"\xff")
    header = dynamic_header(count if entries is None else entries, block, locators=named, **header)
    return (foot if head is None else head) + header + words + body + (foot if tail is None else tail)


def fixed(content, size=None, **fields):
    """A fixed disk."""
    return content + footer(len(content) if size is None else size, **{"kind": FIXED, **fields})


def shown(data, below=b""):
    """What a dynamic or differencing disk shows over `below`, read by the specification."""
    header_at, size = struct.unpack_from(">Q", data, 16)[0], struct.unpack_from(">Q", data, 48)[0]
    table, _, count, block = struct.unpack_from(">QIII", data, header_at + 16)
    disk = bytearray(below[:size].ljust(size, b"\0"))
    for number, place in enumerate(struct.unpack_from(f">{count}I", data, table)):
        if place == UNUSED:
            continue
        body = place * SECTOR + bitmap_length(block)
        for sector in range(min(block, size - number * block) // SECTOR):
            if data[place * SECTOR + sector // 8] & 0x80 >> sector % 8:
                at, stored = number * block + sector * SECTOR, body + sector * SECTOR
                disk[at : at + SECTOR] = data[stored : stored + SECTOR]
    return bytes(disk)
