"""Backing files that the user names and that lie in another image (`backing.file.driver=luks`), those of images below others
(`file.backing.file.filename=..`), and backing files that are named by `json:`."""

import json
import os
import shutil
import tempfile
import unittest

from tests.base import InstarTestBase
from tests.helpers.variants import MIB, Maker
from tests.helpers.variants.luks import ROUNDS, cryptsetup, secret

KEY = "a key"
OBJECT = ("--object", secret(KEY))
IN_LUKS = "backing.driver=qcow2,backing.file.driver=luks,backing.file.key-secret=s0,backing.file.file.filename=in.luks"
TOP = "driver=qcow2,file.filename=alone.qcow2"
NAMES = {
    "qcow2 in luks": f"{TOP},{IN_LUKS}",
    "qcow2 in luks, probed": f"{TOP},{IN_LUKS.replace('backing.driver=qcow2,', '')}",
    "luks as raw": f"{TOP},{IN_LUKS.replace('=qcow2', '=raw')}",
    "raw in raw": f"{TOP},backing.driver=raw,backing.file.driver=raw,backing.file.file.filename=base.raw",
    "part": f"{TOP},backing.driver=raw,backing.file.driver=raw,backing.file.offset=1M,backing.file.file.filename=base.raw",
    "qcow2 in qcow2": f"{TOP},backing.driver=qcow2,backing.file.driver=qcow2,backing.file.file.filename=in.qcow2",
    "chain": f"{TOP},backing.driver=qcow2,backing.file.driver=raw,backing.file.file.filename=alone-2.qcow2,backing.backing.driver=raw,"
    "backing.backing.file.driver=qcow2,backing.backing.file.file.filename=base.qcow2",
    "named by the image, too": f"{TOP.replace('alone', 'over')},{IN_LUKS}",
    "named by the image, a file": f"{TOP.replace('alone', 'over')},backing.driver=raw,backing.file.filename=base.raw",
    "no key": f"{TOP},{IN_LUKS.replace('backing.file.key-secret=s0,', '')}",
    "unknown driver": f"{TOP},{IN_LUKS.replace('luks,', 'nope,', 1)}",
    "not there": f"{TOP},backing.driver=qcow2,backing.file.driver=raw,backing.file.file.filename=nowhere",
    "no file": f"{TOP},backing.driver=qcow2,backing.file.driver=raw,backing.file.offset=0",
    "unknown option": f"{TOP},backing.driver=qcow2,backing.file.driver=raw,backing.file.foo=1,backing.file.file.filename=base.raw",
    "not qcow2": f"{TOP},backing.driver=qcow2,backing.file.driver=raw,backing.file.file.filename=base.raw",
}
LOWER = {
    "of a lower one": "driver=raw,file.driver=qcow2,file.file.filename=alone.qcow2,file.backing.driver=raw,file.backing.file.filename=base.raw",
    "of a lower one, in luks": f"driver=raw,file.driver=qcow2,file.file.filename=alone.qcow2,{IN_LUKS.replace('backing', 'file.backing', 1).replace(',backing', ',file.backing')}",
    "other than the lower one names": "driver=raw,file.driver=qcow2,file.file.filename=over.qcow2,file.backing.driver=raw,file.backing.file.filename=base.raw",
    "of a lower one, a part": "driver=raw,file.driver=qcow2,file.file.filename=alone.qcow2,file.backing.driver=raw,file.backing.offset=1M,file.backing.file.filename=base.raw",
    "two": "driver=raw,file.driver=qcow2,file.file.filename=alone.qcow2,file.backing.driver=qcow2,file.backing.file.filename=alone-2.qcow2,"
    "file.backing.backing.driver=raw,file.backing.backing.file.filename=base.raw",
    "that is not there": "driver=raw,file.driver=qcow2,file.file.filename=alone.qcow2,file.backing.driver=raw,file.backing.file.filename=nowhere",
}
READING = ("map", "map --output=json", "check", "measure -O qcow2", "convert -O raw")
_made = {}


def fixtures():
    """A folder with the images; made once."""
    if _made:
        return _made["folder"]
    _made["object"] = tempfile.TemporaryDirectory(prefix="instar-below-")
    _made["folder"] = folder = _made["object"].name
    case = Maker(folder, "backing files below")
    case.raw("base.raw", 3 * MIB)
    case.img("convert", "-f", "raw", "-O", "qcow2", "base.raw", "base.qcow2")
    case.img("convert", "-f", "raw", "-O", "qcow2", "base.qcow2", "in.qcow2")
    case.write("in.luks", bytes(8 * MIB))
    cryptsetup(case, "luksFormat", *ROUNDS, "--type", "luks1", "in.luks", keys=(KEY,))
    opened = "driver=luks,key-secret=s0,file.filename=in.luks"
    case.img("convert", "-n", *OBJECT, "-f", "raw", "--target-image-opts", "base.qcow2", opened)
    for name, at in (("alone.qcow2", "1M"), ("alone-2.qcow2", "2M")):
        case.create("qcow2", name, "4M")
        case.io("qcow2", name, f"write -P 9 {at} 100k")
    case.create("qcow2", "over.qcow2", None, "-b", "base.qcow2", "-F", "qcow2")
    case.create("raw", "in.raw", "4M")
    case.create("qcow2", "data.qcow2", "4M", "-o", "data_file=elsewhere,data_file_raw=on")
    return folder


class TestBackingBelow(InstarTestBase):
    """Every name with every command that reads, and some that write."""

    def both(self, *argv, files=()):
        """Runs both tools on their own copy of the images; what they say and these files must be the same."""
        shown, contents = [], []
        for tool, folder in ((self.run_as_qemu_img, "ours"), (self.run_qemu_img, "theirs")):
            place = self.path(folder)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(fixtures(), place)
            shown.append(tool(*argv, cwd=place))
            found = [os.path.join(place, name) for name in files if shown[-1][2] == 0]
            contents.append([open(path, "rb").read() for path in found])
        self.assertEqual(*shown)
        for ours, theirs in zip(*contents):
            self.assert_same_bytes(ours, theirs)

    def each(self, names, commands):
        for what, name in names.items():
            for command in commands:
                with self.subTest(what=what, command=command):
                    out = ("out",) if command.startswith("convert") else ()
                    self.both(*command.split(), *OBJECT, "--image-opts", name, *out, files=out)

    def test_read(self):
        self.each(NAMES, READING)
        # Of two options that are unknown, it tells of the one that its table has first.
        self.each({what: name for what, name in NAMES.items() if what != "chain"}, ("info",))

    def test_below_others(self):
        self.each(LOWER, ("info", "info --output=json", *READING))

    def test_compared(self):
        for name in NAMES.values():
            with self.subTest(name=name):
                self.both("compare", *OBJECT, "--image-opts", name, "driver=raw,file.filename=base.raw")

    def test_committed(self):
        """Into what lies in another image."""
        for what in ("raw in raw", "part", "qcow2 in luks"):
            with self.subTest(what=what):
                read = ("convert", *OBJECT, "-O", "raw", "--image-opts", NAMES[what], "out")
                seen = []
                for tool, folder in ((self.run_as_qemu_img, "ours"), (self.run_qemu_img, "theirs")):
                    place = self.path(folder)
                    shutil.rmtree(place, ignore_errors=True)
                    shutil.copytree(fixtures(), place)
                    done = tool("commit", *OBJECT, "--image-opts", NAMES[what], cwd=place)
                    self.assertEqual(self.run_qemu_img(*read, cwd=place)[2], 0)
                    with open(os.path.join(place, "out"), "rb") as file:
                        seen.append((done, file.read()))
                self.assertEqual(seen[0][0], seen[1][0])
                self.assert_same_bytes(seen[0][1], seen[1][1])

    def test_data_files(self):
        """A data file that lies in another image."""
        top = "driver=qcow2,file.filename=data.qcow2"
        for below in (
            "data-file.driver=raw,data-file.file.filename=in.raw",
            "data-file.driver=raw,data-file.offset=0,data-file.file.filename=in.raw",
            "data-file.driver=qcow2,data-file.file.filename=alone.qcow2",
            "data-file.driver=qcow2,data-file.file.driver=raw,data-file.file.file.filename=alone.qcow2",
            "data-file.driver=nope,data-file.file.filename=in.raw",
            "data-file.driver=qcow2",
            "data-file.driver=qcow2,data-file.file.filename=nowhere",
        ):
            name = f"{top},{below}"
            self.each({below: name}, ("info", *READING))
            with self.subTest(below=below):
                self.both("convert", "-n", "-f", "raw", "--target-image-opts", "base.raw", name, files=("in.raw",))
                self.both("resize", "--image-opts", name, "5M", files=("in.raw",))

    def test_named_by_json(self):
        trees = (
            {"driver": "raw", "file": {"driver": "file", "filename": "base.raw"}},
            {"driver": "qcow2", "file.filename": "base.qcow2"},
            {"driver": "raw", "file": {"driver": "qcow2", "file": {"filename": "base.qcow2"}}},
            {"driver": "raw", "offset": 65536, "file": {"filename": "base.raw"}},
            {"file": {"filename": "base.qcow2"}},
            {"driver": "qcow2", "file.filename": "nowhere"},
            {"driver": "nope", "file.filename": "base.raw"},
        )
        for tree in trees:
            name = "json:" + json.dumps(tree)
            for fmt in ("raw", "qcow2", None):
                given = ("-F", fmt) if fmt else ()
                # The format that is said counts more; of an option that it does not have, the stock tool tells later.
                if "offset" in tree and fmt == "qcow2":
                    continue
                with self.subTest(name=name, fmt=fmt):
                    self.both("convert", "-f", "raw", "-O", "qcow2", "-B", name, *given, "base.raw", "new.qcow2")
                    if fmt or tree.get("driver") != "nope":
                        self.both("create", "-f", "qcow2", "-b", name, *given, "new.qcow2")
                        self.both("rebase", "-b", name, *given, "over.qcow2")
                    self.both("create", "-u", "-f", "qcow2", "-b", name, *given, "new.qcow2", "8M")

    def test_a_format_that_is_said_besides(self):
        for name, fmt in (("base.raw", "qcow2"), ("base.qcow2", "raw")):
            for driver in ("raw", "qcow2", "nope"):
                with self.subTest(name=name, fmt=fmt, driver=driver):
                    self.both("info", "-f", fmt, "json:" + json.dumps({"driver": driver, "file.filename": name}))


if __name__ == "__main__":
    unittest.main()
