"""VDI files by the layout that VirtualBox publishes (VDICore.h), of each version of the header."""

import struct

MIB = 1 << 20
SIGNATURE = 0xBEDA107F
FREE, DISCARDED = 0xFFFFFFFF, 0xFFFFFFFE
DYNAMIC, STATIC, UNDO, DIFF = 1, 2, 3, 4
TEXT = b"<<< Oracle VM VirtualBox Disk Image >>>\n"


def header(size, blocks, allocated, version=(1, 1), kind=DYNAMIC, map_at=512, data_at=MIB, block=MIB, **ids):
    """The first 512 bytes. `ids`: uuid, snapshot, link, parent, each 16 bytes."""
    geometry = struct.pack("<4I", min(size // 512 // 16 // 63, 1024), 16, 63, 512)
    names = [ids.get(name, bytes(16)) for name in ("uuid", "snapshot", "link", "parent")]
    word = version[0] << 16 | version[1]
    if version[0] == 0:
        # VDIHEADER0 has no size of itself and no extra bytes of blocks.
        body = struct.pack("<II256s", kind, 0, b"") + geometry
        body += struct.pack("<QIII", size, block, blocks, allocated) + b"".join(names[:3])
    else:
        rest = struct.pack("<II256sII", kind, 0, b"a disk of the test", map_at, data_at) + geometry
        rest += struct.pack("<IQIIII", 0, size, block, 0, blocks, allocated) + b"".join(names)
        # VDIHEADER1PLUS has the geometry that the BIOS shows behind it.
        rest += struct.pack("<4I", 0, 255, 63, 512) if version == (1, 1) else b""
        body = struct.pack("<I", len(rest) + 4) + rest
    return (TEXT.ljust(64, b"\0") + struct.pack("<II", SIGNATURE, word) + body).ljust(512, b"\0")


def image(size, placed, version=(1, 1), kind=DYNAMIC, map_at=512, data_at=MIB, **ids):
    """A file; `placed` maps a block's number to its MiB of bytes, in the order in which they lie in the file. A value
    None is a block that was thrown away."""
    blocks = -(-size // MIB)
    entries, data = [FREE] * blocks, []
    for number, content in placed.items():
        entries[number] = DISCARDED if content is None else len(data)
        data += [] if content is None else [content.ljust(MIB, b"\0")]
    head = header(size, blocks, len(data), version, kind, map_at, data_at, **ids)
    table = struct.pack(f"<{blocks}I", *entries)
    return (head.ljust(map_at, b"\0") + table).ljust(data_at, b"\0") + b"".join(data)
