"""VHDX images built from [MS-VHDX]; all little-endian."""

import struct
import uuid

KIB, MIB = 1 << 10, 1 << 20
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, FULL, PARTIAL = 0, 1, 2, 3, 6, 7
HEADERS = (64 * KIB, 128 * KIB)
REGION_TABLES = (192 * KIB, 256 * KIB)
LOG_AT, LOG_LENGTH = MIB, MIB
METADATA_AT, BAT_AT = 2 * MIB, 3 * MIB
LOG_ID = uuid.UUID(int=0x1234567890ABCDEF1122334455667788).bytes_le


def _guid(text):
    return uuid.UUID(text).bytes_le


BAT_REGION = _guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
METADATA_REGION = _guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
FILE_PARAMETERS = _guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
DISK_SIZE = _guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
DISK_ID = _guid("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR = _guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR = _guid("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR = _guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
LOCATOR_VHDX = _guid("B04AEFB7-D19E-4A81-B789-25B8E9445913")

_TABLE = []
for _n in range(256):
    for _ in range(8):
        _n = _n >> 1 ^ (0x82F63B78 if _n & 1 else 0)
    _TABLE.append(_n)


def crc32c(data):
    """CRC-32C (Castagnoli)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def summed(data, sound=True):
    """With the checksum at byte 4."""
    data = bytearray(data)
    data[4:8] = bytes(4)
    struct.pack_into("<I", data, 4, crc32c(data) ^ (not sound))
    return bytes(data)


def header(
    sequence, log_id=bytes(16), log_length=LOG_LENGTH, log_at=LOG_AT, sound=True, version=1, log_version=0, **fields
):
    """One header."""
    data = bytearray(4096)
    data[:4] = fields.get("signature", b"head")
    struct.pack_into("<Q", data, 8, sequence)
    data[16:32] = uuid.UUID(int=1).bytes_le
    data[32:48] = uuid.UUID(int=2).bytes_le
    data[48:64] = log_id
    struct.pack_into("<HHIQ", data, 64, log_version, version, log_length, log_at)
    return summed(data, sound)


def regions(entries, sound=True, count=None, signature=b"regi"):
    """A region table: (guid, offset, length, required)."""
    data = bytearray(64 * KIB)
    struct.pack_into("<4sIII", data, 0, signature, 0, len(entries) if count is None else count, 0)
    for i, (guid, offset, length, required) in enumerate(entries):
        struct.pack_into("<16sQII", data, 16 + i * 32, guid, offset, length, required)
    return summed(data, sound)


def metadata(items, count=None, signature=b"metadata", offsets=None):
    """A metadata region of 1 MiB: (guid, content, flags)."""
    data = bytearray(MIB)
    struct.pack_into("<8sHH", data, 0, signature, 0, len(items) if count is None else count)
    at = 64 * KIB
    for i, (guid, content, flags) in enumerate(items):
        place = (offsets or {}).get(i, at)
        struct.pack_into("<16sIIII", data, 32 + i * 32, guid, place, len(content), flags, 0)
        data[at : at + len(content)] = content
        at += -(-len(content) // 8) * 8
    return bytes(data)


def locator(pairs, kind=LOCATOR_VHDX):
    """A parent locator of (key, value)."""
    head = struct.pack("<16sHH", kind, 0, len(pairs))
    at, entries, text = len(head) + 12 * len(pairs), b"", b""
    for key, value in pairs:
        key, value = key.encode("utf-16-le"), value.encode("utf-16-le")
        entries += struct.pack("<IIHH", at, at + len(key), len(key), len(value))
        at += len(key) + len(value)
        text += key + value
    return head + entries + text


def items(size, block, sector=512, physical=4096, flags=0, parent=None):
    """The metadata items that every disk has, and the parent locator of a differencing one."""
    found = [
        (FILE_PARAMETERS, struct.pack("<II", block, flags | (2 if parent else 0)), 4),
        (DISK_SIZE, struct.pack("<Q", size), 6),
        (DISK_ID, bytes(range(16)), 6),
        (LOGICAL_SECTOR, struct.pack("<I", sector), 6),
        (PHYSICAL_SECTOR, struct.pack("<I", physical), 6),
    ]
    if parent:
        found.append((PARENT_LOCATOR, locator(parent), 4))
    return found


def chunk_ratio(block, sector=512):
    """Payload entries between two sector bitmap entries."""
    return (sector << 23) // block


def data_sector(content, sequence):
    """A data sector of the log: all of the 4096 bytes but the first 8 and the last 4."""
    return struct.pack("<4sI", b"data", sequence >> 32) + content[8:4092] + struct.pack("<I", sequence & 0xFFFFFFFF)


def log_entry(sequence, writes, tail=0, log_id=LOG_ID, sound=True, flushed=0, last=0):
    """A log entry. `writes`: (file offset, 4096 bytes), or (file offset, length) for zeroes."""
    room = -(-(64 + 32 * len(writes)) // 4096) * 4096
    head, sectors = bytearray(room), b""
    for i, (offset, content) in enumerate(writes):
        if isinstance(content, int):
            struct.pack_into("<4sIQQQ", head, 64 + i * 32, b"zero", 0, content, offset, sequence)
        else:
            words = (content[4092:], content[:8], offset, sequence)
            struct.pack_into("<4s4s8sQQ", head, 64 + i * 32, b"desc", *words)
            sectors += data_sector(content, sequence)
    length = room + len(sectors)
    words = (b"loge", 0, length, tail, sequence, len(writes), 0, log_id, flushed, last)
    struct.pack_into("<4sIIIQII16sQQ", head, 0, *words)
    return summed(bytes(head) + sectors, sound)


def build(size, states=None, block=MIB, sector=512, bitmaps=None, log=b"", headers=None, tables=None, **parts):
    """A disk. `states`: payload block number to (state, content); `bitmaps`: chunk number to 1 MiB of bits; `log`: what the
    log region begins with; `headers`, `tables`: instead of the two of each; `meta`: the metadata region; `bat`: changes of
    the table, entry number to its 64 bits; `parent`: pairs of the locator; `physical`, `flags`: see `items`."""
    ratio = chunk_ratio(block, sector)
    count = -(-size // block)
    total = (count if not parts.get("parent") else -(-count // ratio) * ratio) or 1
    total += (total - 1) // ratio if not parts.get("parent") else total // ratio
    bat = [parts.get("state", NOT_PRESENT)] * total
    bat_length = max(MIB, -(-total * 8 // MIB) * MIB)
    at, body = BAT_AT + bat_length, []
    for number, bits in sorted((bitmaps or {}).items()):
        bat[number * (ratio + 1) + ratio] = at | FULL
        body.append(bits.ljust(MIB, b"\0"))
        at += MIB
    for number, (state, content) in sorted((states or {}).items()):
        entry = state
        if content is not None:
            entry |= at
            body.append(content.ljust(block, b"\0"))
            at += block
        bat[number + number // ratio] = entry
    for number, entry in parts.get("bat", {}).items():
        bat[number] = entry
    known = [(BAT_REGION, BAT_AT, bat_length, 1), (METADATA_REGION, METADATA_AT, MIB, 1)]
    tables = tables or [regions(known)] * 2
    headers = headers or [header(1, LOG_ID if log else bytes(16)), header(2, LOG_ID if log else bytes(16))]
    data = bytearray(BAT_AT)
    data[:8] = b"vhdxfile"
    for place, content in [
        *zip(HEADERS, headers, strict=True),
        *zip(REGION_TABLES, tables, strict=True),
        (LOG_AT, log),
    ]:
        data[place : place + len(content)] = content
    described = {key: parts[key] for key in ("physical", "flags", "parent") if key in parts}
    data[METADATA_AT:] = parts.get("meta") or metadata(items(size, block, sector, **described))
    words = struct.pack(f"<{total}Q", *bat)
    return b"".join([bytes(data), words.ljust(bat_length, b"\0"), *body])


def shown(data, below=b""):
    """What a disk without a log shows over `below`, read by the specification."""
    places = {}
    for number in range(struct.unpack_from("<I", data, REGION_TABLES[0] + 8)[0]):
        guid, at, _, _ = struct.unpack_from("<16sQII", data, REGION_TABLES[0] + 16 + number * 32)
        places[guid] = at
    table, bat = places[METADATA_REGION], places[BAT_REGION]
    found = {}
    for number in range(struct.unpack_from("<H", data, table + 10)[0]):
        guid, at, length = struct.unpack_from("<16sII", data, table + 32 + number * 32)
        found[guid] = data[table + at : table + at + length]
    block, sector = (int.from_bytes(found[item][:4], "little") for item in (FILE_PARAMETERS, LOGICAL_SECTOR))
    size = int.from_bytes(found[DISK_SIZE], "little")
    ratio = chunk_ratio(block, sector)
    disk = bytearray(below[:size].ljust(size, b"\0"))

    def entry(number):
        return struct.unpack_from("<Q", data, bat + number * 8)[0]

    for number in range(-(-size // block)):
        word = entry(number + number // ratio)
        state, offset, start = word & 7, word >> 20 << 20, number * block
        length = min(block, size - start)
        if state == FULL:
            disk[start : start + length] = data[offset : offset + length]
        elif state == PARTIAL:
            bitmap = entry(number // ratio * (ratio + 1) + ratio) >> 20 << 20
            first = number % ratio * block // sector
            for bit in range(first, first + length // sector):
                if data[bitmap + bit // 8] & 1 << bit % 8:
                    at = (bit - first) * sector
                    disk[start + at : start + at + sector] = data[offset + at : offset + at + sector]
        elif state in (ZERO, UNMAPPED, UNDEFINED):
            disk[start : start + length] = bytes(length)
    return bytes(disk)
