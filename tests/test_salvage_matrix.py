"""`convert --salvage` of every format with every kind of damage into many targets: never fewer bytes than the stock tool.

docs/salvage.md has the figures; `python -m tests.test_salvage_matrix` writes it.
"""

import os
import re
import subprocess
import unittest

from tests.base import ROOT, InstarTestBase
from tests.helpers.faulty import SECTOR, Faulty
from tests.helpers.losing import FORMATS

#: What is put where. The last word names the target: a file that is made, one that is there, a block device.
FEW = (("-O", "raw", "new"), ("-O", "qcow2", "new"))
ALL = (
    *FEW,
    ("-O", "raw", "-S", "0", "new"),
    ("-T", "none", "-O", "raw", "new"),
    ("-W", "-O", "raw", "new"),
    ("-n", "-O", "raw", "there"),
    ("-n", "-O", "qcow2", "there"),
    ("-n", "-O", "raw", "device"),
)
MANY = ("raw", "qcow2", "vmdk")
WARNING = re.compile(r"qemu-img: warning: error while reading (?:block status at )?offset (\d+)(.*)")
DOCUMENT = ROOT / "docs" / "salvage.md"
HEAD = """# What `convert --salvage` saves

Bytes of data of images that are damaged in one way, by instar and by qemu-img {version} (-: it gives up). "data": single
sectors of data cannot be read; "a sector": one of a table; a number: a table's entry is that. Written and compared by
`tests/test_salvage_matrix.py`.

What cannot be read, or contradicts itself, is lost and told. What an image refers to behind the end of its file reads as
zeroes and is not told, as by qemu-img; a header that cannot be read is not replaced by guesses.

| format | damage | target | data | instar | qemu-img |
| --- | --- | --- | --- | --- | --- |
"""


def row(cells):
    """A line of the document's table."""
    return "| " + " | ".join(map(str, cells)) + " |"


@unittest.skipUnless(os.geteuid() == 0 and os.path.exists("/dev/fuse"), "only root can mount files that fail")
class TestMatrix(InstarTestBase):
    """A cell is an image that is damaged in one way, converted into one target by both tools."""

    def setUp(self):
        super().setUp()
        self.below, self.seen = self.path("below"), self.path("seen")
        os.mkdir(self.below)
        os.mkdir(self.seen)

    def target(self, words, disk):
        """Makes what has to be there; returns what to write to."""
        kind, fmt = words[-1], words[words.index("-O") + 1]
        if kind == "there":
            self.make("qemu-img", "create", "-q", "-f", fmt, "target", str(disk.size))
        if kind == "device":
            return self.device(disk.size)
        return self.path("target")

    def device(self, size):
        """A block device over a file of nothing but zeroes."""
        with open(self.path("device"), "wb") as file:
            file.truncate(size)
        if not hasattr(self, "loop"):
            made = subprocess.run(["losetup", "-f", "--show", self.path("device")], capture_output=True, text=True)
            self.assertEqual(made.returncode, 0, made.stderr)
            self.loop = made.stdout.strip()
            self.addCleanup(subprocess.run, ["losetup", "-d", self.loop], check=True)
        subprocess.run(["losetup", "-c", self.loop], check=True)
        return self.loop

    def shown(self, words):
        """The target as a raw file."""
        if words[-1] == "device":
            subprocess.run(["blockdev", "--flushbufs", self.loop], check=True)
            return self.path("device")
        if "qcow2" in words:
            self.make("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "target", "shown")
            return self.path("shown")
        return self.path("target")

    def run_both(self, words, disk, saved):
        """What each tool saved and said: None for a tool that did nothing."""
        outcomes = []
        argv = [word.format(os.path.join(self.seen, disk.name)) for word in disk.argv]
        for run in (self.run_qemu_img, self.run_as_qemu_img):
            target = self.target(words, disk)
            out, err, status = run("convert", "--salvage", *words[:-1], *argv, target, cwd=self.seen)
            self.assertEqual(out, "")
            outcomes.append((saved(disk, self.shown(words)) if status == 0 else None, err))
            if words[-1] != "device" and os.path.exists(target):
                os.remove(target)
        return outcomes

    @staticmethod
    def lost(disk, shown):
        """Sectors with data that are not as they were: by their offset, whether they are zeroes."""
        lost = {}
        with open(shown, "rb") as file:
            for start, content in disk.chunks.items():
                file.seek(start)
                there = file.read(len(content)).ljust(len(content), b"\0")
                for at in range(0, len(content), SECTOR):
                    if there[at : at + SECTOR] != content[at : at + SECTOR]:
                        lost[start + at] = not any(there[at : at + SECTOR])
        return lost

    def compare(self, disk, words):
        """Bytes that ours and the stock tool saved."""
        (theirs, said), (ours, told) = self.run_both(words, disk, self.lost)
        self.assertIsNotNone(ours, told)
        total = sum(map(len, disk.chunks.values()))
        lines, expected = sorted(set(told.splitlines())), sorted(set(said.splitlines()))
        if theirs is not None:
            self.assertLessEqual(len(ours), len(theirs))
        if theirs is not None and theirs.keys() == ours.keys() and len(lines) == len(expected):
            self.assertEqual((lines, ours), (expected, theirs))
        else:
            # Zeroes are there for what is lost, and nothing is lost that is not told.
            self.assertTrue(all(ours.values()))
            self.assertLessEqual(set(ours), self.told(lines, disk))
        saved = [None if lost is None else total - len(lost) * SECTOR for lost in (ours, theirs)]
        return total, saved[0], "-" if saved[1] is None else saved[1]

    def told(self, lines, disk):
        """The sectors that are told, no more than there are."""
        told = set()
        for line in lines:
            found = WARNING.fullmatch(line)
            if not found:
                self.assertIn("Image is corrupt", line)
                continue
            follows = re.match(r" and what follows, (\d+) bytes: ", found[2])
            told.update(range(int(found[1]), int(found[1]) + (int(follows[1]) if follows else 1), SECTOR))
        self.assertLess(max(told, default=0), disk.size)
        return told

    def damages(self, disk, faulty):
        """Does each kind of damage, one after another; gives its name."""
        faulty.bad = {disk.data[0]: disk.data[1]}
        yield "data"
        for name, table in disk.tables.items():
            # Where the header is there too, nothing is left.
            if table.sector[0] > 0:
                faulty.bad = {table.file: [table.sector]}
                yield f"{name}: a sector"
            faulty.bad = {}
            for number in table.wrong:
                before = table.replace(self.below, number)
                yield f"{name}: {number:#x}"
                table.replace(self.below, before)

    def rows(self, name):
        """The document's rows of a format."""
        disk = FORMATS[name](self.below)
        faulty = Faulty(self.below, self.seen)
        self.addCleanup(faulty.close)
        rows = []
        for damage in self.damages(disk, faulty):
            figures = {}
            for words in ALL if name in MANY else FEW:
                with self.subTest(damage=damage, words=words):
                    figures.setdefault(self.compare(disk, words), []).append(" ".join(words))
            most = max(figures.values(), key=len)
            for figure, targets in figures.items():
                into = ("all" if len(figures) == 1 else "all others") if targets is most else ", ".join(targets)
                rows.append(row((name, damage, into, *figure)))
            if damage == "data":
                self.assert_quiet(disk)
        return rows

    def check(self, name):
        """All cells of a format; the figures are those of one release of the stock tool."""
        rows, text = self.rows(name), DOCUMENT.read_text()
        if f"qemu-img {self.qemu_version} " in text:
            self.assertEqual([line for line in text.splitlines() if line.startswith(f"| {name} |")], rows)

    def assert_quiet(self, disk):
        """Nothing is told with -q."""
        argv = [word.format(os.path.join(self.seen, disk.name)) for word in disk.argv]
        words = ("convert", "-q", "--salvage", "-O", "raw", *argv, self.path("target"))
        self.assertEqual(self.run_as_qemu_img(*words, cwd=self.seen), ("", "", 0))
        os.remove(self.path("target"))


def cell(name):
    """The test of a format."""

    def test(self):
        self.check(name)

    return test


for _name in FORMATS:
    setattr(TestMatrix, "test_" + _name.replace(" ", "_"), cell(_name))


def write():
    """Writes the document."""
    lines = []
    for name in FORMATS:
        matrix = TestMatrix("test_" + name.replace(" ", "_"))
        matrix.setUp()
        lines += matrix.rows(name)
        matrix.doCleanups()
    DOCUMENT.write_text(HEAD.format(version=InstarTestBase.qemu_version) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    write()
