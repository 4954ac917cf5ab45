"""Each variant of each format with each command: the same words, exit status and bytes as the stock tool's.

One generated test a cell. A cell that tests/expected_cells.json lists must be equal. Another one may say that the
program cannot do it yet; it must not be wrong. `scripts/cells` turns the outcomes into that list and README's table.
"""

import json
import os
import re
import shutil
import subprocess
import unittest

from tests.base import ISOLATION, InstarTestBase
from tests.helpers import cells
from tests.helpers.fixtures import fixture

CASES = 400
# Exit statuses of what was not begun.
REFUSED = (1, 63)
WHOLE_MAX = 256 << 20


class Missing(Exception):
    """The program says that it cannot do it yet."""


class Cell:
    """One variant and one command, run by both tools in the fixture's folder."""

    def __init__(self, test, variant):
        self.test, self.variant = test, variant
        self.folder, self.name = fixture(variant)
        self.image = variant.operand(self.name)
        self.format = ["-f", variant.format] if variant.explicit else []

    def run(self, ours, theirs=None):
        """Runs both; output, errors and exit status must be the same. Returns the status."""
        mine = self.test.run_instar(*ours, cwd=self.folder)
        if cells.MISSING.search(mine[1]):
            raise Missing(mine[1])
        stock = self.test.run_qemu_img(*(theirs or ours), cwd=self.folder)
        self.test.assertGreaterEqual(stock[2], 0, f"the stock tool dies: list it in except_for: {stock[1]}")
        self.test.assert_same_outcome(mine, stock, " ".join(map(str, ours)))
        return stock[2]

    def one(self, command, *argv):
        """A command on the image alone."""
        return self.run([*self._words(command), *argv, self.image])

    def _words(self, command):
        return [command, *self.variant.argv, *self.format]

    def into(self, make):
        """A command that writes a file, `make(target)`; returns both files, or None where both tools refused."""
        files = [self.test.path(name) for name in ("ours", "theirs")]
        status = self.run(make(files[0]), make(files[1]))
        if status:
            self.test.assertFalse(os.path.exists(files[0]), "a target is left of what failed")
            return None
        return files

    def info(self):
        self.one("info")

    def info_json(self):
        self.one("info", "--output=json")

    def info_chain(self):
        self.one("info", "--backing-chain")
        self.one("info", "--backing-chain", "--output=json")

    def check(self):
        self.one("check")

    def check_json(self):
        self.one("check", "--output=json")

    def map(self):
        self.one("map")

    def map_json(self):
        self.one("map", "--output=json")

    def measure_raw(self):
        self.one("measure", "-O", "raw")

    def measure_raw_json(self):
        self.one("measure", "-O", "raw", "--output=json")

    def measure_qcow2(self):
        self.one("measure", "-O", "qcow2")

    def measure_qcow2_json(self):
        self.one("measure", "-O", "qcow2", "--output=json", "-o", "cluster_size=4k")

    def _copy(self):
        """The disk as the stock tool reads it, in the fixture's folder."""
        name = "instar-copy.raw"
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            argv = ["convert", *self.variant.argv, *self.format, "-O", "raw", self.image, name]
            out, err, status = self.test.run_qemu_img(*argv, cwd=self.folder)
            self.test.assertEqual(status, 0, out + err)
        return name

    def _compare(self, other):
        if self.variant.image_opts:
            other, formats = f"driver=raw,file.driver=file,file.filename={other}", []
        else:
            formats = [*self.format, "-F", "raw"]
        both = ["compare", *self.variant.argv, *formats]
        self.run([*both, self.image, other])
        self.run([*both, "-s", self.image, other])

    def compare_equal(self):
        self._compare(self._copy())

    def compare_different(self):
        other = os.path.join(self.folder, "instar-other.raw")
        if not os.path.exists(other):
            cells.flipped(os.path.join(self.folder, self._copy()), other)
        self._compare("instar-other.raw")

    def _convert(self, *argv):
        words = ["convert", *self.variant.argv, *self.format, *argv, self.image]
        return self.into(lambda target: [*words, target])

    def convert_raw(self):
        if files := self._convert("-O", "raw"):
            self.test.assertIsNone(cells.difference(*files))

    def convert_qcow2(self):
        if files := self._convert("-O", "qcow2"):
            self.test.assert_same_disk(*files)
            self.test.assert_check_clean(files[0])

    def convert_qcow2_compressed(self):
        if files := self._convert("-c", "-O", "qcow2", "-o", "cluster_size=32k"):
            self.test.assert_same_disk(*files)
            self.test.assert_check_clean(files[0])

    def _dd(self, *operands):
        words = ["dd", *self.variant.argv, *self.format, "-O", "raw", f"if={self.image}", *operands]
        if files := self.into(lambda target: [*words, f"of={target}"]):
            self.test.assertIsNone(cells.difference(*files))

    def dd_part(self):
        self._dd("bs=1000", "skip=3", "count=600")

    def dd_whole(self):
        out, _, status = self.test.run_qemu_img(*self._words("info"), "--output=json", self.image, cwd=self.folder)
        size = 0 if status else json.loads(out)["virtual-size"]
        # The stock tool writes every byte of what it copies.
        self._dd("bs=1M", *(["count=64"] if size > WHOLE_MAX else []))

    def dd_behind_end(self):
        self._dd("bs=4k", f"skip={1 << 40}")

    def _in_place(self, command, *calls):
        """Both tools run the command with these words, one after the other, on a copy of their own. Then the disks must be
        the same, and what the stock tool finds in either file; what was refused was not touched."""
        pair = {name: self.test.path(name) for name in ("ours", "theirs")}
        for folder in pair.values():
            shutil.copytree(self.folder, folder, copy_function=_copy_sparse, ignore=shutil.ignore_patterns("instar-*"))
        files = os.listdir(pair["ours"])
        for words in calls:
            argv = [*self._words(command), *words]
            # By the own name it does more to some.
            mine = self.test.run_as_qemu_img(*argv, cwd=pair["ours"])
            if cells.MISSING.search(mine[1]):
                raise Missing(mine[1])
            stock = self.test.run_qemu_img(*argv, cwd=pair["theirs"])
            self.test.assertGreaterEqual(stock[2], 0, f"the stock tool dies: list it in except_for: {stock[1]}")
            mine, theirs = ((out, _NODE.sub("#block", err), status) for out, err, status in (mine, stock))
            self.test.assert_same_outcome(mine, theirs, " ".join(map(str, argv)))
            if stock[2]:
                break
        if stock[2] in REFUSED and words is calls[0]:
            for name in files:
                two = [os.path.join(folder, name) for folder in (pair["ours"], self.folder)]
                self.test.assertIsNone(cells.difference(*two), f"{name} was touched")
            return
        formats = ["-f", self.variant.format, "-F", self.variant.format] if self.variant.explicit else []
        if len(files) == 1:
            both = [self.variant.operand(f"{name}/{self.name}") for name in pair]
            compared = self.test.run_qemu_img("compare", *self.variant.argv, *formats, *both, cwd=self.test.tmp)
            self.test.assertEqual(compared[2], 0, compared)
        else:
            # The stock tool looks for a data file in the current folder.
            words = [*self._words("convert"), "-O", "raw", self.image, "copy.raw"]
            disks = [self.test.run_qemu_img(*words, cwd=folder) for folder in pair.values()]
            self.test.assertEqual(*disks, "what the stock tool reads of either")
            self.test.assertIsNone(cells.difference(*(os.path.join(folder, "copy.raw") for folder in pair.values())))
        checks = [self.test.run_qemu_img(*self._words("check"), self.image, cwd=folder)[2] for folder in pair.values()]
        self.test.assertEqual(*checks, "what the stock tool's check says of either")

    def snapshot_list(self):
        self.one("snapshot", "-l")

    def snapshot_taken(self):
        self._in_place("snapshot", *([action, "cell", self.image] for action in ("-c", "-a", "-d")))

    def bitmap_added(self):
        self._in_place("bitmap", *([action, self.image, "cell"] for action in ("--add", "--disable", "--clear")))

    def amend_options(self):
        values = ("on", "perhaps")
        self._in_place("amend", *(["-o", f"compat=1.1,lazy_refcounts={value}", self.image] for value in values))

    def check_repair(self):
        self._in_place("check", ["-r", "all", self.image])


# Numbers of nodes follow from what the stock tool tried before.
_NODE = re.compile(r"#block\d+")


def _copy_sparse(source, target):
    subprocess.run(["cp", "--sparse=always", "-p", source, target], check=True)
    return target


def _record(variant, command, outcome):
    cells.RESULTS.mkdir(exist_ok=True)
    line = json.dumps([cells.key(variant), command, outcome]) + "\n"
    with open(cells.RESULTS / f"cells-{ISOLATION}.jsonl", "a") as file:
        file.write(line)


def _test(variant, command, must):
    def test(self):
        outcome = "different"
        try:
            getattr(Cell(self, variant), command.replace("-", "_"))()
            outcome = "equal"
        except Missing as missing:
            outcome = "missing"
            self.assertFalse(must, f"this was there before: {missing}")
        finally:
            _record(variant, command, outcome)

    return test


class TestMatrix(InstarTestBase):
    """`test_<format>_<variant>_<command>`."""


class TestTable(unittest.TestCase):
    """The table is about the cells that there are."""

    def test_there_are_many(self):
        self.assertGreaterEqual(sum(1 for _ in cells.cells()), CASES)

    def test_expected_cells_exist(self):
        there = {(cells.key(variant), command) for variant, command in cells.cells()}
        listed = {(key, command) for key, commands in cells.expected().items() for command in commands}
        self.assertEqual(listed - there, set())

    def test_variants_have_names_of_their_own(self):
        names = [cells.key(variant) for variant in cells.variants()]
        self.assertEqual(sorted(set(names)), sorted(names))

    def test_what_the_stock_tool_cannot_read_has_a_reason(self):
        lacking = [cells.key(v) for v in cells.variants() if not v.stock and not v.reason]
        self.assertEqual(lacking, [])


_expected = cells.expected()
for _variant, _command in cells.cells():
    _name = f"test_{_variant.format}_{_variant.name}_{_command}".replace("-", "_")
    setattr(TestMatrix, _name, _test(_variant, _command, _command in _expected.get(cells.key(_variant), ())))


if __name__ == "__main__":
    unittest.main()
