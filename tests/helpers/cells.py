"""The cells of the table format x command: each variant with each command, and what is expected of them.

`tests/expected_cells.json` lists the cells that must be equal to the stock tool: format/variant to command names. It
and README's table are written by `scripts/cells`, from what `tests/test_matrix.py` leaves in `.results/`.
"""

import json
import os
import re
import subprocess

from tests.base import ROOT
from tests.helpers.variants import variants

EXPECTED = ROOT / "tests/expected_cells.json"
README = ROOT / "README.md"
RESULTS = ROOT / ".results"
BEGIN, END = "<!-- cells: begin -->", "<!-- cells: end -->"

# How the program says that something is not there yet: the cell is missing, not wrong.
MISSING = re.compile(
    r"does not have this command|Command not found|instar cannot (read|write|decrypt|encrypt|check|create|make)"
)

# The columns of the table; each has one or more commands.
COLUMNS = {
    "info": ("info", "info-json", "info-chain"),
    "check": ("check", "check-json"),
    "map": ("map", "map-json"),
    "compare": ("compare-equal", "compare-different"),
    "measure": ("measure-raw", "measure-raw-json", "measure-qcow2", "measure-qcow2-json"),
    "convert": ("convert-raw", "convert-qcow2", "convert-qcow2-compressed"),
    "dd": ("dd-part", "dd-whole", "dd-behind-end"),
    "snapshot": ("snapshot-list", "snapshot-taken"),
    "bitmap": ("bitmap-added",),
    "amend": ("amend-options",),
    "check -r": ("check-repair",),
}
COMMANDS = tuple(command for commands in COLUMNS.values() for command in commands)


def cells():
    """(variant, command) of every cell; what the stock tool cannot do is none."""
    for variant in variants():
        for command in COMMANDS:
            if variant.stock and command not in variant.except_for:
                yield variant, command


def key(variant):
    """The variant's name in the files."""
    return f"{variant.format}/{variant.name}"


def expected():
    """The cells that must be equal: key to commands."""
    return json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}


def table(equal):
    """README's table, of a mapping as `expected` returns it."""
    done, whole = {}, {}
    for variant, command in cells():
        column = next(name for name, commands in COLUMNS.items() if command in commands)
        at = (variant.format, column)
        whole[at] = whole.get(at, 0) + 1
        done[at] = done.get(at, 0) + (command in equal.get(key(variant), ()))
    lines = ["| format | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for fmt in sorted({fmt for fmt, _ in whole}):
        row = [f"{done[fmt, c]}/{whole[fmt, c]}" if (fmt, c) in whole else "-" for c in COLUMNS]
        lines.append(f"| {fmt} | " + " | ".join(row) + " |")
    lines.append("")
    lines.append(f"{sum(done.values())} of {sum(whole.values())} cells are equal.")
    return "\n".join(lines)


def table_in(text):
    """The table between README's marks; None if there are no marks."""
    found = re.search(f"{re.escape(BEGIN)}\n(.*?)\n{re.escape(END)}", text, re.DOTALL)
    return found and found.group(1)


def _extents(file, end):
    at = 0
    while at < end:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
        except OSError:
            return
        at = min(os.lseek(file, begin, os.SEEK_HOLE), end)
        yield begin, at


def difference(a, b):
    """The first byte at which two files differ; None if none. Holes are not read."""
    lengths = os.path.getsize(a), os.path.getsize(b)
    if lengths[0] != lengths[1]:
        return f"lengths {lengths}"
    with open(a, "rb") as one, open(b, "rb") as other:
        for file in (one, other):
            for begin, end in _extents(file.fileno(), lengths[0]):
                while begin < end:
                    length = min(end - begin, 1 << 20)
                    mine = os.pread(one.fileno(), length, begin)
                    theirs = os.pread(other.fileno(), length, begin)
                    if mine != theirs:
                        return begin + next(i for i in range(length) if mine[i : i + 1] != theirs[i : i + 1])
                    begin += length
    return None


def flipped(source, target):
    """A copy of a raw file of which one byte in the middle is another one."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
    size = os.path.getsize(source)
    with open(target, "r+b") as file:
        at = size // 2
        file.seek(at)
        byte = file.read(1) or b"\0"
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x5A]))
        file.truncate(max(size, 512))
