"""Hostile LUKS images of version 2: their headers have right checksums, so that what they claim is believed as far as it
can be. `add_all` adds them to those of `images.py`."""

import json

from tests.helpers import luks2

CONTROL = "x\x1b[2J\x1b]0;owned\x07\r\n\u009b31my"
ARGON2 = {"type": "argon2id", "time": 4, "memory": 32, "cpus": 1}
YEARS = (1 << 32) - 1
HUGE = {"2-31": 1 << 31, "2-63-less-512": (1 << 63) - 512, "2-64-less-1": (1 << 64) - 1, "2-64": 1 << 64, "minus-1": -1}
DISK = b"data" * 1024


def _changes():
    """Name to what is changed of a valid image's metadata."""

    def at(*path, **fields):
        def edit(tree):
            for key in path:
                tree = tree[key]
            tree.update(fields)

        return edit

    slot, area, kdf, segment, digest = (
        ("keyslots", "0"),
        ("keyslots", "0", "area"),
        ("keyslots", "0", "kdf"),
        ("segments", "0"),
        ("digests", "0"),
    )
    changes = {
        "valid": at(),
        "years-of-argon2": at(*kdf, **{**ARGON2, "time": YEARS}),
        "terabytes-of-argon2": at(*kdf, **{**ARGON2, "time": 1, "memory": YEARS}),
        "gigabytes-of-argon2": at(*kdf, **{**ARGON2, "time": 1, "memory": 8 << 20}),
        "as-much-argon2-as-there-is-memory": at(*kdf, **{**ARGON2, "time": 1, "memory": 63 << 10}),
        "no-argon2-memory": at(*kdf, **{**ARGON2, "memory": 0}),
        "no-argon2-pass": at(*kdf, **{**ARGON2, "time": 0}),
        "no-argon2-lane": at(*kdf, **{**ARGON2, "cpus": 0}),
        "millions-of-argon2-lanes": at(*kdf, **{**ARGON2, "memory": 1 << 20, "cpus": 1 << 23}),
        "years-of-pbkdf2": at(*kdf, iterations=YEARS),
        "years-of-digest": at(*digest, iterations=YEARS),
        "no-salt": at(*kdf, salt=""),
        "salt-that-is-no-base64": at(*kdf, salt="=" * 9),
        "key-of-a-gigabyte": at(*slot, key_size=1 << 30),
        "key-of-nothing": at(*slot, key_size=0),
        "area-key-of-a-gigabyte": at(*area, key_size=1 << 30),
        "area-over-header": at(*area, offset="0"),
        "area-in-another": lambda tree: tree["keyslots"].update({"1": tree["keyslots"]["0"]}),
        "stripes-2-32-less-1": at(*slot, "af", stripes=YEARS),
        "no-stripes": at(*slot, "af", stripes=0),
        "sectors-of-nothing": at(*segment, sector_size=0),
        "sectors-of-a-gigabyte": at(*segment, sector_size=1 << 30),
        "segment-over-header": at(*segment, offset="0"),
        "integrity": at(*segment, integrity={"type": "hmac(sha256)", "journal_encryption": "none"}),
        "no-segment": lambda tree: tree["segments"].clear(),
        "no-digest": lambda tree: tree["digests"].clear(),
        "empty-digest": at(*digest, digest=""),
        "thousands-of-slots": lambda tree: tree["keyslots"].update({str(i): {"type": ""} for i in range(500)}),
        "slots-without-numbers": lambda tree: tree["keyslots"].update({"-1": {"type": "luks2"}}),
        "encryption-with-control-characters": at(*segment, encryption=CONTROL),
        "hash-with-control-characters": at(*kdf, hash=CONTROL),
        "kdf-with-control-characters": at(*kdf, type=CONTROL),
        "slot-with-control-characters": at(*slot, type=CONTROL),
        "requirement-with-control-characters": at("config", requirements={"mandatory": [CONTROL]}),
        "numbers-that-are-texts": at(*kdf, iterations="1000"),
        "texts-that-are-numbers": at(*segment, offset=4096),
    }  # fmt: skip
    for name, n in HUGE.items():
        for what, path in {"area": area, "segment": segment}.items():
            for field in ("offset", "size"):
                changes[f"{what}-{field}-{name}"] = at(*path, **{field: str(n)})
        changes[f"tweak-{name}"] = at(*segment, iv_tweak=str(n))
        changes[f"slots-size-{name}"] = at("config", keyslots_size=str(n))
        changes[f"iterations-{name}"] = at(*kdf, iterations=n)
    return changes


def _deep(opening):
    """Objects or arrays in each other, where a slot should be, and where nobody looks."""
    room = luks2.HEADER - luks2.BINARY
    yield b'{"keyslots":' + opening * (room // len(opening))
    yield b'{"x":' + opening * (room // len(opening))


def add_all(into):
    """All of them."""
    for name, edit in _changes().items():
        into.add("luks2", name, "luks", lambda edit=edit: luks2.image(DISK, edit))
    texts = {
        "no-text": b"",
        "array": b"[]",
        "ten-thousand-numbers": json.dumps({"keyslots": list(range(2000))}).encode(),
        "same-key-again-and-again": b'{"keyslots":{' + b'"0":{"type":"x"},' * 700,
        "name-that-does-not-end": b'{"' + b"x" * luks2.HEADER,
        "text-that-is-no-unicode": b'{"keyslots":{"0":{"type":"\xff\xfe"}}}',
    }
    for opening in (b"[", b'{"0":', b"[[],"):
        for i, text in enumerate(_deep(opening)):
            texts[f"depth-{len(opening)}-{i}"] = text
    for name, text in texts.items():
        into.add("luks2", name, "luks", lambda text=text: luks2.image(DISK, text=text))
    for name, fields in {
        "header-of-nothing": {"size": 0},
        "header-of-2-63": {"size": 1 << 63},
        "header-of-4-mib": {"size": 4 << 20},
        "header-of-no-power-of-two": {"size": 20480},
        "unknown-checksum": {"algorithm": b"whirlpool"},
        "checksum-with-control-characters": {"algorithm": CONTROL.encode()[:32]},
        "uuid-with-control-characters": {"uuid": CONTROL.encode()},
        "sequence-2-64-less-1": {"sequence": (1 << 64) - 1},
    }.items():
        into.add("luks2", name, "luks", lambda fields=fields: luks2.image(DISK, first=fields, second=fields))
    whole = luks2.image(DISK, stripes=40)
    into.add("luks2", "few-stripes", "luks", whole)
    bad = bytearray(whole)
    bad[450] ^= 1
    into.add("luks2", "bad-checksum", "luks", bytes(bad))
    bad[luks2.HEADER + 450] ^= 1
    into.add("luks2", "both-headers-bad", "luks", bytes(bad))
    for place in (
        8,
        448,
        4096,
        5000,
        luks2.HEADER,
        luks2.HEADER + 4096,
        luks2.AREA_AT,
        luks2.AREA_AT + 100,
        luks2.DATA_AT,
        luks2.DATA_AT + 511,
    ):
        into.add("cut", f"luks2-at-{place}", "luks", whole[:place])
