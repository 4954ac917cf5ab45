"""LUKS whose header is a file by itself (`header.filename=..`): read, written, resized, and its key slots changed."""

import json
import os
import shutil
import tempfile
import unittest

from tests.base import InstarTestBase
from tests.helpers.variants import MIB, Maker
from tests.helpers.variants.luks import ROUNDS, cryptsetup, secret

KEY = "a key"
OTHER = "another"
OBJECTS = ("--object", secret(KEY), "--object", secret(OTHER).replace("id=s0", "id=s1"))
PLAIN = "driver=luks,key-secret=s0,file.filename=data.luks"
NAMES = {
    "header": f"{PLAIN},header.filename=header",
    "header, driver said": f"{PLAIN},header.driver=file,header.filename=header",
    "header as raw": f"{PLAIN},header.driver=raw,header.file.filename=header",
    "header in qcow2": f"{PLAIN},header.driver=qcow2,header.file.filename=header.qcow2",
    "no key": "driver=luks,file.filename=data.luks,header.filename=header",
    "other key": f"{PLAIN.replace('s0', 's1')},header.filename=header",
    "no header": PLAIN,
    "header that is not there": f"{PLAIN},header.filename=nowhere",
    "no name": f"{PLAIN},header.driver=file",
    "a node": f"{PLAIN},header=0",
    "no LUKS header": f"{PLAIN},header.filename=data.luks",
    "of another driver": "driver=raw,file.filename=data.luks,header.filename=header",
    "qcow2 in it": "driver=qcow2,file.driver=luks,file.key-secret=s0,file.header.filename=header,file.file.filename=data.luks",
    "as raw": "driver=raw,file.driver=luks,file.key-secret=s0,file.header.filename=header,file.file.filename=data.luks",
}
_made = {}


def fixtures():
    """A folder with the images; made once."""
    if _made:
        return _made["folder"]
    _made["object"] = tempfile.TemporaryDirectory(prefix="instar-header-")
    _made["folder"] = folder = _made["object"].name
    case = Maker(folder, "detached header")
    case.raw("source.raw", MIB)
    case.write("data.luks", bytes(MIB))
    argv = ("luksFormat", *ROUNDS, "--type", "luks1", "--header", case.path("header"), "data.luks")
    cryptsetup(case, *argv, keys=(KEY,))
    case.img("convert", "-f", "raw", "-O", "qcow2", "header", "header.qcow2")
    target = NAMES["header"]
    case.img("convert", "-n", *OBJECTS, "-f", "raw", "--target-image-opts", "source.raw", target)
    return folder


class TestDetachedHeader(InstarTestBase):
    """Both tools on their own copy of the images."""

    def both(self, *commands):
        """Runs them; the folders of both."""
        places, shown = [], []
        for tool, folder in ((self.run_as_qemu_img, "ours"), (self.run_qemu_img, "theirs")):
            place = self.path(folder)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(fixtures(), place)
            places.append(place)
            shown.append([tool(*argv, cwd=place) for argv in commands])
        self.assertEqual(*shown)
        return places

    def content(self, place, name, *argv):
        with open(os.path.join(place, name), "rb") as file:
            return file.read()

    def test_read(self):
        for what, name in NAMES.items():
            for command in ("info", "info --output=json", "map", "check", "measure -O qcow2", "convert -O raw"):
                with self.subTest(what=what, command=command):
                    out = ["out"] if command.startswith("convert") else []
                    places = self.both((*command.split(), *OBJECTS, "--image-opts", name, *out))
                    if out and os.path.exists(os.path.join(places[1], "out")):
                        self.assert_same_bytes(*(self.content(place, "out") for place in places))

    def test_json_name(self):
        tree = {
            "driver": "luks",
            "key-secret": "s0",
            "file": {"filename": "data.luks"},
            "header": {"filename": "header"},
        }
        for command in ("info", "map", "check"):
            self.both((command, *OBJECTS, "json:" + json.dumps(tree)))

    def test_written(self):
        name = NAMES["header"]
        for command in (
            ("convert", "-n", *OBJECTS, "-f", "raw", "--target-image-opts", "header.qcow2", name),
            ("resize", *OBJECTS, "--image-opts", name, "2M"),
            ("resize", "--shrink", *OBJECTS, "--image-opts", name, "512k"),
        ):
            with self.subTest(command=command):
                places = self.both(command)
                for file in ("data.luks", "header"):
                    self.assert_same_bytes(*(self.content(place, file) for place in places), file)

    def test_key_slots(self):
        name = NAMES["header"]
        read = ("convert", *OBJECTS, "-O", "raw", "--image-opts", name.replace("s0", "s1"), "out")
        added = ("amend", *OBJECTS, "--image-opts", name, "-o", "state=active,new-secret=s1,iter-time=10")
        gone = ("amend", *OBJECTS, "--image-opts", name, "-o", "state=inactive,old-secret=s0")
        ours, theirs = self.both(added, read, gone, ("convert", *OBJECTS, "-O", "raw", "--image-opts", name, "none"))
        self.assert_same_bytes(self.content(ours, "out"), self.content(theirs, "out"))
        out, err, status = self.run_qemu_img(*read, cwd=ours)
        self.assertEqual((out, err, status), ("", "", 0))
        self.assert_same_bytes(self.content(ours, "data.luks"), self.content(theirs, "data.luks"))


if __name__ == "__main__":
    unittest.main()
