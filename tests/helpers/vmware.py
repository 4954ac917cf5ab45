"""VMDK files as VMware's products write them, by "Virtual Disk Format 5.0": little-endian, offsets in sectors."""

import struct
import zlib

SECTOR = 512
GRAIN = 128
ENTRIES = 512
ZLIB, HAS_ZERO_GRAIN, NEWLINE, REDUNDANT, COMPRESSED, MARKERS = 1, 4, 1, 2, 1 << 16, 1 << 17
END, TABLE, DIRECTORY, FOOTER = 0, 1, 2, 3
AT_END = (1 << 64) - 1
TEXT = """# Disk DescriptorFile
version=1
encoding="{encoding}"
CID=7d3cd5aa
parentCID=ffffffff
isNativeSnapshot="no"
createType="{kind}"

# Extent description
{extents}

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.longContentID = "9b3dd8b6c22d7e3c6f0f4f4f7d3cd5aa"
ddb.toolsVersion = "2147483647"
ddb.uuid = "60 00 C2 9e 3e 35 0e 57-d9 20 4b 6c 71 ee 12 5b"
ddb.virtualHWVersion = "11"
"""


def text(kind, sectors, extents, encoding="windows-1252"):
    """A descriptor."""
    return TEXT.format(kind=kind, extents=extents, encoding=encoding, cylinders=sectors // 1008).encode()


def header(sectors, version, flags, directory, second, overhead, packed, descriptor=1, length=20, unclean=0):
    """A sparse extent's header: offsets in sectors."""
    return struct.pack(
        "<4sIIQQQQIQQQB4sH", b"KDMV", version, flags, sectors, GRAIN, descriptor, length, ENTRIES, second, directory,
        overhead, unclean, b"\n \r\n", packed,
    ).ljust(SECTOR, b"\0")


def grains_of(disk):
    """Number and content of each grain that is not of zeroes alone."""
    size = GRAIN * SECTOR
    for number in range(-(-len(disk) // size)):
        content = disk[number * size : (number + 1) * size].ljust(size, b"\0")
        if any(content):
            yield number, content


def hosted(disk, name, unclean=0):
    """monolithicSparse as Workstation writes it: two directories, their tables, grains in the order of writing: from the
    disk's end here."""
    sectors = len(disk) // SECTOR
    tables = -(-sectors // (GRAIN * ENTRIES))
    room = -(-tables * 4 // SECTOR)
    per_table = ENTRIES * 4 // SECTOR
    second, first = 21, 21 + room + tables * per_table
    overhead = -(-(first + room + tables * per_table) // GRAIN) * GRAIN
    entries, body = [0] * (tables * ENTRIES), []
    for number, content in reversed(list(grains_of(disk))):
        entries[number] = overhead + len(body) * GRAIN
        body.append(content)
    words = struct.pack(f"<{len(entries)}I", *entries)
    parts = [header(sectors, 1, NEWLINE | REDUNDANT, first, second, overhead, 0, unclean=unclean)]
    parts.append(text("monolithicSparse", sectors, f'RW {sectors} SPARSE "{name}"').ljust(20 * SECTOR, b"\0"))
    for at in (second, first):
        places = [at + room + n * per_table for n in range(tables)]
        parts += [struct.pack(f"<{tables}I", *places).ljust(room * SECTOR, b"\0"), words]
    return b"".join(parts).ljust(overhead * SECTOR, b"\0") + b"".join(body)


def marker(kind, length):
    """A metadata marker; `length`: sectors of what follows."""
    return struct.pack("<QII", length, 0, kind).ljust(SECTOR, b"\0")


def stream(disk, name, level=6):
    """streamOptimized as an OVF export writes it: version 3, markers, the directory and the right header at the end."""
    sectors = len(disk) // SECTOR
    flags = NEWLINE | COMPRESSED | MARKERS
    out = bytearray(header(sectors, 3, flags, AT_END, 0, GRAIN, ZLIB))
    out += text("streamOptimized", sectors, f'RW {sectors} SPARSE "{name}"').ljust(20 * SECTOR, b"\0")
    out = bytearray(out.ljust(GRAIN * SECTOR, b"\0"))
    tables = [[0] * ENTRIES for _ in range(-(-sectors // (GRAIN * ENTRIES)))]
    used = {}
    for number, content in grains_of(disk):
        packed = zlib.compress(content, level)
        used.setdefault(number // ENTRIES, {})[number % ENTRIES] = len(out) // SECTOR
        lump = struct.pack("<QI", number * GRAIN, len(packed)) + packed
        out += lump.ljust(-(-len(lump) // SECTOR) * SECTOR, b"\0")
    places = [0] * len(tables)
    for index, entries in used.items():
        for slot, at in entries.items():
            tables[index][slot] = at
        out += marker(TABLE, ENTRIES * 4 // SECTOR)
        places[index] = len(out) // SECTOR
        out += struct.pack(f"<{ENTRIES}I", *tables[index])
    room = -(-len(places) * 4 // SECTOR)
    out += marker(DIRECTORY, room)
    directory = len(out) // SECTOR
    out += struct.pack(f"<{len(places)}I", *places).ljust(room * SECTOR, b"\0")
    out += marker(FOOTER, 1) + header(sectors, 3, flags, directory, 0, GRAIN, ZLIB) + bytes(SECTOR)
    return bytes(out)
