"""Drivers below each other in `--image-opts` and `json:{}`: as the stock tool opens, shows, maps and copies them, and what
it says where it cannot."""

import json
import os
import unittest

from tests.base import InstarTestBase
from tests.helpers import cells
from tests.helpers.variants import MIB, Maker
from tests.helpers.variants.luks import ROUNDS, cryptsetup, secret

KEY = "a key"
OBJECT = ("--object", secret(KEY))
IN_LUKS = "file.driver=luks,file.key-secret=s0,file.file.filename=disk.luks"
NAMES = {
    "qcow2 in luks": f"driver=qcow2,{IN_LUKS}",
    "qcow2 in luks, probed": IN_LUKS,
    "qcow2 in luks, all said": f"driver=qcow2,{IN_LUKS.replace('file.file.', 'file.file.driver=file,file.file.')}",
    "luks as raw": f"driver=raw,{IN_LUKS}",
    "part of luks": f"driver=raw,offset=65536,size=1M,{IN_LUKS}",
    "qcow2 in raw": "driver=qcow2,file.driver=raw,file.file.filename=disk.qcow2",
    "qcow2 in part of a file": "driver=qcow2,file.driver=raw,file.offset=512,file.file.filename=behind.qcow2",
    "qcow2 as raw": "driver=raw,file.driver=qcow2,file.file.filename=disk.qcow2",
    "raw in raw in raw": "driver=raw,file.driver=raw,file.offset=1024,file.file.driver=raw,file.file.offset=512,file.file.file.filename=plain.raw",
    "luks in qcow2": "driver=luks,key-secret=s0,file.driver=qcow2,file.file.filename=luks.qcow2",
    "qcow2 in luks in qcow2": "driver=qcow2,file.driver=luks,file.key-secret=s0,file.file.driver=qcow2,file.file.file.filename=luks.qcow2",
    "luks in a part": "driver=luks,key-secret=s0,file.driver=raw,file.offset=4096,file.file.filename=behind.luks",
    "chain as raw": "driver=raw,file.driver=qcow2,file.file.filename=over.qcow2",
    "longer chain as raw": "driver=raw,file.driver=qcow2,file.file.filename=third.qcow2",
    "chain in a chain": "driver=luks,key-secret=s0,file.driver=qcow2,file.file.filename=over-luks.qcow2",
    "chain on a part": "driver=raw,file.driver=raw,file.size=1M,file.file.driver=qcow2,file.file.file.filename=third.qcow2",
    "chain as vmdk": "driver=raw,file.driver=vmdk,file.file.filename=over.vmdk",
    "vdi in luks as qcow2": f"driver=vdi,{IN_LUKS}",
}  # fmt: skip
REFUSED = {
    "no key": "driver=qcow2,file.driver=luks,file.file.filename=disk.luks",
    "other key": "driver=qcow2,file.driver=luks,file.key-secret=s1,file.file.filename=disk.luks",
    "not luks": "driver=luks,key-secret=s0,file.driver=raw,file.offset=512,file.file.filename=disk.luks",
    "not qcow2": "driver=qcow2,file.driver=qcow2,file.file.filename=disk.qcow2",
    "no driver": "driver=luks,key-secret=s0,file.driver=nope,file.filename=disk.luks",
    "no file": f"driver=qcow2,{IN_LUKS.replace('file.file.filename', 'file.filename')}",
    "no file at all": "driver=qcow2,file.driver=luks,file.key-secret=s0",
    "file that is not there": "driver=qcow2,file.driver=raw,file.file.filename=nowhere",
    "unknown option": "driver=raw,file.driver=raw,file.foo=1,file.file.filename=plain.raw",
    "behind the end": "driver=raw,file.driver=raw,file.offset=1T,file.file.filename=plain.raw",
}
_made = {}


def fixtures():
    """A folder with the images; made once."""
    if _made:
        return _made["folder"]
    import tempfile

    _made["object"] = tempfile.TemporaryDirectory(prefix="instar-nested-")
    _made["folder"] = folder = _made["object"].name
    case = Maker(folder, "nested")
    case.convert("qcow2", "disk.qcow2", 3 * MIB)
    case.raw("plain.raw", MIB)
    case.write("disk.luks", bytes(8 * MIB))
    cryptsetup(case, "luksFormat", *ROUNDS, "--type", "luks1", "disk.luks", keys=(KEY,))
    opened = "driver=luks,key-secret=s0,file.filename=disk.luks"
    case.img("convert", "-n", *OBJECT, "-f", "raw", "--target-image-opts", "disk.qcow2", opened)
    for name, before in (("disk.qcow2", 512), ("disk.luks", 4096)):
        with open(case.path(name), "rb") as file:
            case.write(f"behind.{name.split('.')[1]}", bytes(before) + file.read())
    case.img("convert", "-f", "raw", "-O", "qcow2", "disk.luks", "luks.qcow2")
    case.create("qcow2", "over.qcow2", None, "-b", "disk.qcow2", "-F", "qcow2")
    case.io("qcow2", "over.qcow2", "write -P 9 1M 100k")
    case.create("qcow2", "third.qcow2", None, "-b", "./over.qcow2", "-F", "qcow2", "-o", "compat=0.10")
    case.create("qcow2", "over-luks.qcow2", None, "-b", "luks.qcow2", "-F", "qcow2")
    case.convert("vmdk", "base.vmdk", 3 * MIB)
    case.create("vmdk", "over.vmdk", None, "-b", "base.vmdk", "-F", "vmdk")
    return folder


class TestNested(InstarTestBase):
    """Every name with every command."""

    def both(self, *argv):
        """Runs both tools; returns the exit status, which must be the same, as what they say."""
        folder = fixtures()
        ours, theirs = self.run_instar(*argv, cwd=folder), self.run_qemu_img(*argv, cwd=folder)
        self.assert_same_outcome(ours, theirs, " ".join(argv))
        return theirs[2]

    def each(self, names, *commands):
        for what, name in names.items():
            for command in commands:
                with self.subTest(what=what, command=command):
                    self.both(*command, *OBJECT, "--image-opts", name)

    def test_told(self):
        self.each(NAMES, ("check",), ("map",), ("map", "--output=json"))
        self.each(NAMES, ("info",), ("info", "--output=json"), ("info", "--backing-chain"))

    def test_measured(self):
        self.each(NAMES, ("measure", "-O", "qcow2"), ("measure", "-O", "raw", "--output=json"))

    def test_refused(self):
        self.each(REFUSED, ("info",), ("map",), ("check",))

    def test_copied(self):
        for what, name in NAMES.items():
            for fmt in ("raw", "qcow2"):
                with self.subTest(what=what, fmt=fmt):
                    status = []
                    for run, target in ((self.run_instar, "ours"), (self.run_qemu_img, "theirs")):
                        argv = ["convert", *OBJECT, "--image-opts", "-O", fmt, name, self.path(target)]
                        status.append(run(*argv, cwd=fixtures()))
                    self.assert_same_outcome(*status)
                    if status[1][2] == 0:
                        if fmt == "raw":
                            self.assertIsNone(cells.difference(self.path("ours"), self.path("theirs")))
                        else:
                            self.assert_same_disk(self.path("ours"), self.path("theirs"))
                            self.assert_check_clean(self.path("ours"))
                    for target in ("ours", "theirs"):
                        if os.path.exists(self.path(target)):
                            os.unlink(self.path(target))

    def test_compared(self):
        plain = "driver=qcow2,file.filename=disk.qcow2"
        for name in ("qcow2 in luks", "qcow2 in part of a file", "qcow2 in luks in qcow2", "qcow2 as raw"):
            with self.subTest(name=name):
                self.both("compare", *OBJECT, "--image-opts", NAMES[name], plain)
                self.both("compare", *OBJECT, "--image-opts", plain, NAMES[name])
                self.both("compare", *OBJECT, "--image-opts", NAMES[name], NAMES[name])

    def test_json_names(self):
        lower = {"driver": "luks", "key-secret": "s0", "file": {"driver": "file", "filename": "disk.luks"}}
        for tree in (
            {"driver": "qcow2", "file": lower},
            {"file": lower},
            {"driver": "raw", "offset": "65536", "file": lower},
            {"driver": "raw", "offset": 65536, "size": 512, "file": lower},
            {
                "driver": "raw",
                "file": {"driver": "raw", "offset": 512, "size": "1024", "file": {"filename": "plain.raw"}},
            },
            {"file": {"driver": "raw", "offset": 512, "size": 512, "file": {"filename": "plain.raw"}}},
            {"driver": "raw", "file.driver": "raw", "file.offset": 512, "file.file.filename": "plain.raw"},
        ):
            name = "json:" + json.dumps(tree)
            for command in (("info",), ("map",), ("check",), ("info", "--output=json")):
                with self.subTest(name=name, command=command):
                    self.both(*command, *OBJECT, name)


if __name__ == "__main__":
    unittest.main()
