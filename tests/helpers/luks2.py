"""LUKS images of version 2, built from the LUKS2 On-Disk Format Specification 1.1: two binary headers, each with its JSON
area, one key slot with PBKDF2, and AES in XTS mode.

What a header says can be changed before its checksum is made, so that hostile ones are believed as far as they can be.
"""

import base64
import copy
import hashlib
import json
import random
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KIB, SECTOR = 1 << 10, 512
HEADER = 16 * KIB
BINARY = 4096
STRIPES = 4000
KEY = 64
AREA_AT, AREA = 2 * HEADER, 256 * KIB
DATA_AT = AREA_AT + AREA
PASSWORD = "password"
ROUNDS = 1000


def crypt(key, data, unit=SECTOR, first=0):
    """`data` encrypted by aes-xts-plain64; `first` is the number of its first sector of 512 bytes."""
    out = []
    for at in range(0, len(data), unit):
        tweak = struct.pack("<QQ", first + at // SECTOR, 0)
        cipher = Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor()
        out.append(cipher.update(data[at : at + unit]) + cipher.finalize())
    return b"".join(out)


def _mixed(one, other):
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")


def split(key, chance, count=STRIPES):
    """The key in so many stripes (LUKS1 specification, section 2.4), hashed by SHA-256."""
    stripes, last = [], bytes(len(key))
    for _ in range(count - 1):
        stripe = chance.randbytes(len(key))
        mixed = _mixed(last, stripe)
        parts = [mixed[i : i + 32] for i in range(0, len(key), 32)]
        last = b"".join(hashlib.sha256(struct.pack(">I", i) + p).digest()[: len(p)] for i, p in enumerate(parts))
        stripes.append(stripe)
    return b"".join([*stripes, _mixed(last, key)])


def _text(data):
    return base64.b64encode(data).decode()


def metadata(key, salt, sector_size, stripes):
    """What the JSON area says."""
    digest = hashlib.pbkdf2_hmac("sha256", key, salt, ROUNDS, 32)
    area = {"type": "raw", "encryption": "aes-xts-plain64", "key_size": KEY, "offset": str(AREA_AT), "size": str(AREA)}
    kdf = {"type": "pbkdf2", "hash": "sha256", "iterations": ROUNDS, "salt": _text(salt)}
    af = {"type": "luks1", "stripes": stripes, "hash": "sha256"}
    segment = {"type": "crypt", "offset": str(DATA_AT), "size": "dynamic", "iv_tweak": "0", "encryption": "aes-xts-plain64",
               "sector_size": sector_size}  # fmt: skip
    return {
        "keyslots": {"0": {"type": "luks2", "key_size": KEY, "kdf": kdf, "af": af, "area": area}},
        "tokens": {},
        "segments": {"0": segment},
        "digests": {"0": {"type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256", "iterations": ROUNDS,
                          "salt": _text(salt), "digest": _text(digest)}},
        "config": {"json_size": str(HEADER - BINARY), "keyslots_size": str(AREA)},
    }  # fmt: skip


def header(text, copy_at=0, sequence=1, size=HEADER, algorithm=b"sha256", uuid=b"11111111-2222-3333-4444-555555555555"):
    """One of both headers, with its text and checksum; `copy_at` is where the second one lies."""
    magic = b"SKUL\xba\xbe" if copy_at else b"LUKS\xba\xbe"
    binary = struct.pack(">6sHQQ48s32s64s40s48sQ184s", magic, 2, size, sequence, b"a label", algorithm, b"salt" * 16, uuid,
                         b"", copy_at, b"")  # fmt: skip
    text = text[: HEADER - BINARY].ljust(HEADER - BINARY, b"\0")
    whole = binary.ljust(BINARY, b"\0") + text
    return whole[:448] + hashlib.sha256(whole).digest().ljust(64, b"\0") + whole[512:]


def image(disk=b"", edit=None, text=None, sector_size=SECTOR, tweak=0, first=None, second=None, stripes=STRIPES):
    """An image that shows `disk`. `edit(tree)` changes what the JSON area says, `text` takes its place; `first` and
    `second` are parameters of each header."""
    chance = random.Random(7)
    key, salt = chance.randbytes(KEY), chance.randbytes(32)
    tree = metadata(key, salt, sector_size, stripes)
    tree["segments"]["0"]["iv_tweak"] = str(tweak)
    material = split(key, chance, stripes)
    slot_key = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, ROUNDS, KEY)
    if edit:
        tree = copy.deepcopy(tree)
        edit(tree)
    text = json.dumps(tree).encode() if text is None else text
    headers = header(text, **(first or {})) + header(text, HEADER, **(second or {}))
    area = crypt(slot_key, material.ljust(-len(material) % SECTOR + len(material), b"\0")).ljust(AREA, b"\0")
    return headers + area + crypt(key, disk, sector_size, tweak)
