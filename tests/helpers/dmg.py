"""Apple disk images (UDIF) from the published descriptions of the trailer, the block tables ("mish") and the codecs."""

import base64
import bz2
import random
import struct
import zlib

SECTOR = 512
ZERO, RAW, IGNORE, COMMENT, END = 0, 1, 2, 0x7FFFFFFE, 0xFFFFFFFF
ADC, ZLIB, BZIP2, LZFSE, LZMA = 0x80000004, 0x80000005, 0x80000006, 0x80000007, 0x80000008


def chunk(kind, start, count, offset=0, length=0, comment=0):
    """An entry of a block table; `start` and `count` in sectors."""
    numbers = (n & (1 << 64) - 1 for n in (start, count, offset, length))
    return struct.pack(">IIQQQQ", kind, comment, *numbers)


def mish(entries, start=0, count=0, data_offset=0, magic=b"mish", number=None):
    """A block table of entries; `start` is its first sector, `data_offset` is added to the places of its chunks."""
    head = struct.pack(">4sIQQQII", magic, 1, start, count, data_offset, 0, 0)
    head += bytes(24) + struct.pack(">II", 2, 32) + bytes(128)
    number = len(entries) if number is None else number
    return head + struct.pack(">I", number) + b"".join(entries)


def plist(tables, text=None):
    """The property list with those tables."""
    item = "<dict><key>Attributes</key><string>0x0050</string><key>Data</key>\n<data>\n{}\n</data>\n</dict>\n"
    inner = "".join(item.format(base64.encodebytes(t).decode() if text is None else text) for t in tables)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0">\n<dict><key>resource-fork</key><dict>'
    return (head + f"<key>blkx</key>\n<array>{inner}</array></dict></dict></plist>\n").encode()


def resources(tables):
    """A resource fork with those tables."""
    data = b"".join(struct.pack(">I", len(t)) + t for t in tables)
    names = struct.pack(">IIII", 256, 256 + len(data), len(data), 50) + bytes(12) + b"\0\x1c\0\x32\0\0blkx" + bytes(26)
    return struct.pack(">IIII", 256, 256 + len(data), len(data), 50) + bytes(240) + data + names[:50]


def koly(xml=(0, 0), rsrc=(0, 0), data=(0, 0), sectors=0, magic=b"koly"):
    """The trailer; each pair is offset and length."""
    out = struct.pack(">4sIIIQQQQQ", magic, 4, 512, 1, 0, *data, *rsrc)
    out = out.ljust(0xD8, b"\0") + struct.pack(">QQ", *xml)
    return out.ljust(0x1EC, b"\0") + struct.pack(">Q", sectors) + bytes(512 - 0x1F4)


def stored(kind, data):
    """Bytes of a chunk of that kind that stand for `data`."""
    return {RAW: lambda: data, ZLIB: lambda: zlib.compress(data, 9), BZIP2: lambda: bz2.compress(data),
            ADC: lambda: adc(data), LZFSE: lambda: lzfse_plain(data)}[kind]()  # fmt: skip


def adc(data):
    """Apple Data Compression: runs of plain bytes, and matches of all three forms."""
    out, at, seen, plain = bytearray(), 0, {}, bytearray()

    def flush():
        while plain:
            piece = bytes(plain[:128])
            out.append(0x80 | len(piece) - 1)
            out.extend(piece)
            del plain[: len(piece)]

    while at < len(data):
        key = data[at : at + 4]
        before = seen.get(key)
        seen[key] = at
        length = 0
        if before is not None and len(key) == 4 and at - before <= 65536:
            while length < 67 and at + length < len(data) and data[before + length] == data[at + length]:
                length += 1
        distance = at - before - 1 if before is not None else 0
        if length >= 4:
            flush()
            if length <= 18 and distance < 1024:
                out += struct.pack(">H", (length - 3) << 10 | distance)
            else:
                out += struct.pack(">BH", 0x40 | length - 4, distance)
            at += length
        else:
            plain.append(data[at])
            at += 1
    flush()
    return bytes(out)


def lzfse_plain(data):
    """LZFSE of one block that is not compressed."""
    return b"bvx-" + struct.pack("<I", len(data)) + data + b"bvx$"


def build(chunks, fork="xml", split=0, prefix=b"", start=0, data_fork=0, edit=None, tail=b"", order=None, **trailer):
    """An image of chunks (kind, sectors, content[, stored]) one behind another. `split`: chunks a table; `start`: first
    sector; `order`: in which order entries are in their table; `edit(tables)` changes the entries."""
    out, entries, sector = bytearray(prefix), [], start
    for kind, count, content, *given in chunks:
        if kind in (ZERO, IGNORE):
            entries.append((kind, sector, count, 0, 0))
        else:
            data = given[0] if given else stored(kind, content.ljust(count * SECTOR, b"\0")[: count * SECTOR])
            entries.append((kind, sector, count, len(out) - data_fork, len(data)))
            out += data
        sector += count
    if order:
        entries = [entries[i] for i in order]
    if edit:
        entries = edit(entries)
    tables = []
    for first in range(0, len(entries), split or len(entries) or 1):
        part = entries[first : first + (split or len(entries))]
        total = sum(entry[2] for entry in part) & (1 << 64) - 1
        base = part[0][1] if split else 0
        packed = [chunk(k, s - base, n, o, length) for k, s, n, o, length in part]
        packed.append(chunk(END, 0, 0))
        tables.append(mish(packed, start=base, count=total))
    place = len(out)
    table = plist(tables) if fork == "xml" else resources(tables)
    out += table
    trailer.setdefault("xml" if fork == "xml" else "rsrc", (place, len(table)))
    trailer.setdefault("data", (data_fork, place))
    return bytes(out) + koly(sectors=sector, **trailer) + tail


def plain(chunks):
    """What such an image shows."""
    return b"".join((c[2] or b"").ljust(c[1] * SECTOR, b"\0")[: c[1] * SECTOR] for c in chunks)


def sample(seed, kinds, sectors=64):
    """One chunk for each kind, of content that suits it."""
    rng, chunks = random.Random(seed), []
    for kind in kinds:
        word = rng.randbytes(rng.randrange(3, 60))
        text = (word * (sectors * SECTOR // len(word) + 1))[: sectors * SECTOR]
        mixed = bytearray(text)
        for _ in range(40):
            mixed[rng.randrange(len(mixed))] = rng.randrange(256)
        chunks.append((kind, sectors, b"" if kind in (ZERO, IGNORE) else bytes(mixed)))
    return chunks
