"""Compressed loop images, version 2.0, by the layout of the cloop driver's `compressed_loop.h`."""

import struct
import zlib

SCRIPT = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"


def image(data, block=65536, level=9, offsets=None, claimed=None, blocks=None):
    """A file of `data` in blocks. `offsets` replaces entries of the table, `blocks` the stored bytes of some;
    `claimed`: the block size and count in the header, where they are to be others."""
    parts = [data[at : at + block] for at in range(0, len(data), block)]
    stored = [zlib.compress(part.ljust(block, b"\0"), level) for part in parts]
    for index, content in (blocks or {}).items():
        stored[index] = content
    at = 136 + 8 * (len(stored) + 1)
    table = [at]
    for content in stored:
        at += len(content)
        table.append(at)
    for index, value in (offsets or {}).items():
        table[index] = value
    return (
        SCRIPT.ljust(128, b"\0")
        + struct.pack(">II", *(claimed or (block, len(stored))))
        + struct.pack(f">{len(table)}Q", *table)
        + b"".join(stored)
    )
