"""Mutated images: what a seed does to an image of `tests/helpers/variants`, and what both tools then say of it.

The same seed gives the same image again. Only what describes an image is damaged for the most part: its headers and tables.
"""

import os
import random
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from tests.base import QEMU_IMG, qemu_img_version
from tests.helpers import cells, fixtures
from tests.helpers.variants import variants

KIB, MIB = 1 << 10, 1 << 20
# Larger disks are made no further images of, and larger files are not mutated.
DISK_MAX, FILE_MAX = 64 * MIB, 24 * MIB
COMMANDS = ("info", "check", "map", "convert")
TIMEOUT = 20
# Exit status of `check` for a format that has none.
CANNOT_CHECK = 63


class Bytes:
    """A file that numbers are read from and put into; what lies behind its end is zero."""

    def __init__(self, path, order):
        self.path, self.order = path, order
        self.size = os.path.getsize(path)

    def read(self, at, length):
        if at > self.size:
            return bytes(length)
        with open(self.path, "rb") as file:
            file.seek(at)
            return file.read(length).ljust(length, b"\0")

    def number(self, at, width):
        return int.from_bytes(self.read(at, width), self.order)

    def put(self, at, number, width):
        self.write(at, (number & (1 << 8 * width) - 1).to_bytes(width, self.order))

    def write(self, at, data):
        with open(self.path, "r+b") as file:
            file.seek(at)
            file.write(data)


# Where a format's headers and tables lie: (offset, length, width of a number) each.


def _qcow2(file):
    cluster = 1 << min(file.number(20, 4), 21)
    entries, table = file.number(36, 4), file.number(40, 8)
    counts, snapshots = file.number(48, 8), file.number(64, 8)
    found = [(0, 112, 4), (104, 400, 4), (table, 8 * entries, 8), (counts, 64, 8)]
    found += [(file.number(counts, 8), min(cluster, 256), 2)]
    found += [(snapshots, 200, 4)] if snapshots else []
    tables = [file.number(table + 8 * i, 8) & 0xFFFFFFFFFFFE00 for i in range(min(entries, 8))]
    return found + [(at, min(cluster, 1024), 8) for at in tables if at]


def _two_levels(first, entries):
    def regions(file):
        table = file.number(first, 8)
        tables = [file.number(table + 8 * i, 8) for i in range(entries)]
        return [(0, 72, 4), (table, 8 * entries, 8)] + [(at, 1024, 8) for at in tables if 0 < at < file.size]

    return regions


def _vmdk(file):
    if file.read(0, 4) == b"COWD":
        return [(0, 64, 4), (2048, 64, 4), (2560, 256, 4)]
    if file.read(0, 4) != b"KDMV":
        return [(0, min(file.size, 1024), 1)]
    at = 0 if file.number(56, 8) < 1 << 62 else file.size - 1024
    found = [(0, 80, 4), (512 * file.number(28, 8), 600, 1), (max(file.size - 1536, 0), 1536, 4)]
    for field in (48, 56):
        directory = 512 * file.number(at + field, 8)
        tables = [512 * file.number(directory + 4 * i, 4) for i in range(4)]
        found += [(directory, 16, 4)] + [(table, 256, 4) for table in tables if table]
    return found


def _vpc(file):
    found = [(0, 86, 4), (512, 64, 4), (max(file.size - 512, 0), 86, 4)]
    return [*found, (file.number(528, 8), 64, 4)] if file.read(0, 8) == b"conectix" else found


def _vhdx(file):
    log = file.number(64 * KIB + 72, 8)
    found = [(64 * KIB, 80, 4), (128 * KIB, 80, 4), (192 * KIB, 96, 4), (256 * KIB, 96, 4), (log, 256, 4)]
    for i in range(2):
        place = file.number(192 * KIB + 16 + 32 * i + 16, 8)
        found += [(place, 256, 4), (place + 64 * KIB, 128, 4)]
    return found


FORMATS = {
    "qcow2": ("big", _qcow2),
    "qcow": ("big", _two_levels(40, 8)),
    "qed": ("little", _two_levels(40, 4)),
    "vdi": ("little", lambda file: [(0, 512, 4), (file.number(340, 4), 64, 4)]),
    "vmdk": ("little", _vmdk),
    "vpc": ("big", _vpc),
    "vhdx": ("little", _vhdx),
    "parallels": ("little", lambda file: [(0, 64, 4), (64, 64, 4)]),
    "luks": ("big", lambda file: [(0, 592, 4)]),
    "dmg": ("big", lambda file: [(max(file.size - 512, 0), 512, 4), (max(file.size - 5000, 0), 4488, 1)]),
    "bochs": ("little", lambda file: [(0, 96, 4), (512, 128, 4)]),
    "cloop": ("big", lambda file: [(128, 8, 4), (136, 256, 8)]),
}


def _number(file, rng, old, width):
    """What a number is made to be."""
    bits = 8 * width
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((0, 1, 2, (1 << bits) - 1, 1 << bits - 1, (1 << bits - 1) - 1))
    if kind == 1:
        return old ^ 1 << rng.randrange(bits)
    if kind == 2:
        return old + rng.choice((1, -1, 512, -512, 4096, 65536, 1 << 20, -65536))
    if kind == 3:
        return rng.choice((file.size, file.size - 512, file.size + 512, file.size * 2, file.size // 2, 1 << 40))
    if kind == 4:
        return rng.choice((file.size // 512, file.size // 512 - 1, file.size // 512 + 8, file.size // MIB + 1))
    if kind == 5:
        return old * 2 if rng.random() < 0.5 else old // 2
    if kind == 6:
        return old ^ rng.randrange(256) << 8 * rng.randrange(width)
    return rng.randrange(1 << rng.randrange(1, bits + 1))


def _place(rng, region, width):
    at, length, _ = region
    return at + rng.randrange(max(length // width, 1)) * width


def _word(file, rng, regions):
    region = rng.choice(regions)
    width = rng.choice((region[2], region[2], region[2], 1, 2, 4, 8))
    at = _place(rng, region, width)
    old, new = file.number(at, width), 0
    new = _number(file, rng, old, width)
    file.put(at, new, width)
    return f"{width} bytes at {at}: {old:#x} to {new & (1 << 8 * width) - 1:#x}"


def _full(file, rng, region):
    """An entry that says something, where a few tries find one."""
    places = [_place(rng, region, region[2]) for _ in range(12)]
    return next((at for at in places if file.read(at, region[2]).strip(b"\0\xff")), places[0])


def _entries(file, rng, regions):
    """An entry is moved or copied over another of its table."""
    region = rng.choice([r for r in regions if r[1] >= 2 * r[2]])
    width = region[2]
    one, other = _full(file, rng, region), _place(rng, region, width)
    a, b = file.read(one, width), file.read(other, width)
    file.write(other, a)
    swap = rng.random() < 0.5
    if swap:
        file.write(one, b)
    return f"{width} bytes at {one} {'exchanged with' if swap else 'copied to'} those at {other}"


def _entry(file, rng, regions):
    region = rng.choice(regions)
    at = _full(file, rng, region)
    old = file.number(at, region[2])
    new = _number(file, rng, old, region[2])
    file.put(at, new, region[2])
    return f"{region[2]} bytes at {at}: {old:#x} to {new & (1 << 8 * region[2]) - 1:#x}"


def _bytes(file, rng, _regions):
    """Anywhere: data, compressed or not."""
    at, data = rng.randrange(max(file.size, 1)), rng.randbytes(rng.randrange(1, 9))
    file.write(at, data[: max(file.size - at, 1)])
    return f"{len(data)} bytes at {at}"


def _cut(file, rng, regions):
    at = rng.choice(regions)[0] + rng.choice((0, 1, 8, 511, 512, 4096))
    length = rng.choice((at, rng.randrange(file.size + 1), file.size - rng.choice((1, 511, 512, 513, 4096, 65536))))
    length = min(max(length, 0), file.size)
    os.truncate(file.path, length)
    return f"cut to {length}"


def _longer(file, rng, _regions):
    length = file.size + rng.choice((1, 511, 512, 65536, MIB))
    os.truncate(file.path, length)
    return f"made longer, to {length}"


KINDS = (_word, _word, _word, _entry, _entry, _entry, _entries, _entries, _bytes, _cut, _cut, _longer)


def mutate(path, fmt, rng):
    """Does it; says what."""
    order, regions = FORMATS.get(fmt, ("big", lambda file: [(0, 512, 4)]))
    done = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        file = Bytes(path, order)
        if file.size:
            found = [r for r in regions(file) if 0 <= r[0] < file.size] or [(0, 64, 4)]
            done.append(rng.choice(KINDS)(file, rng, found))
    return "; ".join(done)


def bases(formats):
    """The variants that are small enough, in a fixed order."""
    return [v for name in formats for v in variants(name) if v.stock and _is_small(v)]


def _is_small(variant):
    folder, _ = fixtures.fixture(variant)
    return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)) <= FILE_MAX


def _run(argv, cwd, env):
    try:
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        return None, "", f"no end in {TIMEOUT} s"
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@dataclass
class Difference:
    """One image that the two tools see differently."""

    seed: int
    variant: str
    what: str
    command: str
    ours: tuple
    theirs: tuple
    content: bool = False

    @property
    def reason(self):
        """Why it is no fault of ours, if it is known to be none."""
        ours, theirs = self.ours, self.theirs
        if self.content or self.command == "check finds nothing":
            return None
        if theirs[0] is None or theirs[0] < 0:
            return "the stock tool dies of it, or does not end"
        return next((why for why, command, mine, its in KEPT if command in ("", self.command)
                     and re.search(mine, ours[1] + ours[2]) and re.search(its, theirs[1] + theirs[2])), None)  # fmt: skip

    @property
    def kind(self):
        """What is the same in differences of one kind."""
        return (self.variant.split("/")[0], self.command, *map(_brief, (self.ours, self.theirs)), self.content)


# Reason, command, and what is found in what we say and in what the stock tool says.
KEPT = (
    ("the first unit that cannot be read is told, not the piece that it is in", "convert",
     "error while reading at byte", "error while reading at byte"),
    ("check looks at what cannot be unpacked", "check", "grain of sector .* cannot be decompressed", "No errors"),
    ("check looks at the places in a data file", "check", "the cluster cannot be read", "No errors"),
    ("the counts, which nothing here depends on, are not looked at", "", "", "Refblock offset .* unaligned"),
    ("what formats a line does not reach the terminal", "", r"\\x[0-9a-f]{2}|\\u", ""),
    ("a table behind the end is no table of zeroes", "", "Could not read l1 table", ""),
    ("a map that is larger than its file is refused", "", "the file ends before most of a table", ""),
    ("a disk is not shorter than its extents", "", "Invalid extent line|invalid VMDK image descriptor", ""),
    ("a cluster at no sector has no place", "map", '"compressed": true', '"compressed": false, "offset"'),
)  # fmt: skip


def _brief(outcome):
    status, out, err = outcome
    text = (err.strip() or out.strip()).splitlines()
    line = re.sub(r"0x[0-9a-fA-F]+|-?\d+", "N", text[0] if text else "")
    return status, re.sub(r"'[^']*'", "'..'", line)[:110]


def _disk_size(text):
    found = re.search(r"virtual size: .*\((\d+) bytes\)", text)
    return int(found.group(1)) if found else None


class Comparison:
    """Both tools on mutated images."""

    def __init__(self, binary, isolation, formats=None):
        self.bases = bases(FORMATS if formats is None else formats)
        self.isolation = isolation
        self.top = tempfile.TemporaryDirectory(prefix="instar-mutated-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.link = os.path.join(self.top.name, "qemu-img")
        os.symlink(binary, self.link)
        self.env = {
            **os.environ,
            "LC_ALL": "C",
            "TZ": "UTC",
            "INSTAR_ISOLATION": isolation,
            "INSTAR_QEMU_VERSION": qemu_img_version(),
            "INSTAR_MAX_MESSAGES": "1G",
        }

    def make(self, seed, folder):
        """The image of a seed: its variant, its name and what was done to it."""
        rng = random.Random(seed)
        variant = rng.choice(self.bases)
        source, name = fixtures.fixture(variant)
        shutil.copytree(source, folder)
        # Mostly the image itself; of a disk of several files any.
        files = sorted(os.listdir(folder))
        chosen = rng.choice(files) if variant.format == "vmdk" or rng.random() < 0.1 else name
        fmt = variant.format
        if chosen != name and fmt != "vmdk":
            fmt = chosen.rsplit(".", 1)[-1]
        return variant, name, f"{chosen}: {mutate(os.path.join(folder, chosen), fmt, rng)}"

    def one(self, seed):
        """The differences of a seed's image."""
        with tempfile.TemporaryDirectory(dir=self.top.name) as folder:
            place = os.path.join(folder, "image")
            variant, name, what = self.make(seed, place)
            return self.compare(seed, variant, name, place, what)

    def changed(self, identity, what, change, file=None):
        """The same of one variant's image (or another of its files) that `change(path)` was done to."""
        variant = next(v for v in variants(identity.split("/")[0]) if cells.key(v) == identity)
        with tempfile.TemporaryDirectory(dir=self.top.name) as folder:
            place = os.path.join(folder, "image")
            source, name = fixtures.fixture(variant)
            shutil.copytree(source, place)
            change(os.path.join(place, file or name))
            return self.compare(0, variant, name, place, what)

    def compare(self, seed, variant, name, place, what):
        """What the tools say of the image called `name` in `place`."""
        found, statuses, size, outcomes = [], {}, None, []
        for command in COMMANDS:
            if command in ("map", "convert") and size is not None and size > DISK_MAX:
                continue
            outcomes = [self.run(tool, command, variant, name, place) for tool in (self.link, QEMU_IMG)]
            statuses[command] = outcomes[0][0]
            if command == "info":
                size = max((_disk_size(out) or 0 for _, out, _ in outcomes), default=0)
            content = self.converted(place) if command == "convert" else True
            if outcomes[0] != outcomes[1] or not content:
                found.append(Difference(seed, cells.key(variant), what, command, *outcomes, content=not content))
        if statuses.get("convert") and statuses["check"] == 0:
            found.append(Difference(seed, cells.key(variant), what, "check finds nothing", outcomes[0], (0, "", "")))
        return found

    def run(self, tool, command, variant, name, folder):
        """Exit status, output, errors; what convert makes is beside the image."""
        given = ["-f", variant.format] if not variant.image_opts else []
        target = f"../{'ours' if tool == self.link else 'theirs'}.raw"
        more = {"convert": ["-O", "raw"], "map": ["--output=json"]}.get(command, [])
        argv = [tool, command, *variant.argv, *given, *more, variant.operand(name)]
        outcome = _run([*argv, target] if command == "convert" else argv, folder, self.env)
        return (outcome[0], outcome[1], outcome[2].replace("../ours.raw", "../theirs.raw"))

    @staticmethod
    def converted(folder):
        """Whether both have made the same; where one has made nothing, the outcome tells it."""
        texts = []
        for name in ("ours.raw", "theirs.raw"):
            path = os.path.join(folder, "..", name)
            texts.append(None)
            if os.path.exists(path):
                with open(path, "rb") as file:
                    texts[-1] = file.read()
                os.unlink(path)
        return None in texts or texts[0] == texts[1]
