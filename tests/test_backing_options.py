"""`backing.KEY` in `--image-opts` and `json:{}`: options of the backing file that the image names, as the stock tool takes
them."""

import os
import shutil
import unittest

from tests.base import InstarTestBase
from tests.helpers import images
from tests.helpers.variants.luks import secret

KEYS = ("--object", secret("a key"), "--object", "secret,id=s1,data=another key")
ENCRYPTED = "encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret="
TOP, MIDDLE, PLAIN = (f"driver=qcow2,file.filename={name}.qcow2" for name in ("top", "middle", "plain"))
NAMES = {
    "key": f"{MIDDLE},backing.encrypt.key-secret=s0",
    "keys of two": f"{TOP},backing.encrypt.key-secret=s1,backing.backing.encrypt.key-secret=s0",
    "driver": "driver=qcow2,file.filename=over.qcow2,backing.driver=raw",
    "idle": "driver=qcow2,file.filename=over.qcow2,backing.driver=qcow2,backing.read-only=on",
    "json": 'json:{"driver":"qcow2","file":{"filename":"middle.qcow2"},"backing":{"encrypt":{"key-secret":"s0"}}}',
    "key of another": f"{MIDDLE},backing.encrypt.key-secret=s1",
    "no key": MIDDLE,
    "key of one of two": f"{TOP},backing.encrypt.key-secret=s1",
    "no backing file": f"{PLAIN},backing.encrypt.key-secret=s0",
    "no backing file, but its driver": f"{PLAIN},backing.driver=raw",
    "no backing file below": "driver=qcow2,file.filename=over.qcow2,backing.backing.driver=raw",
    "a format without": "driver=raw,file.filename=plain.qcow2,backing.driver=raw",
    "a format without below": "driver=qcow2,file.filename=over.qcow2,backing.driver=raw,backing.backing.driver=raw",
    "unknown": "driver=qcow2,file.filename=over.qcow2,backing.nosuch=1",
    "unknown driver": "driver=qcow2,file.filename=over.qcow2,backing.driver=nosuch",
}
OVER, ON_OVER = "driver=qcow2,file.filename=over.qcow2", "driver=qcow2,file.filename=third.qcow2"
OTHERS = {
    "other": f"{OVER},backing.driver=raw,backing.file.filename=disk.raw",
    "other, its driver said": f"{OVER},backing.driver=raw,backing.file.driver=file,backing.file.filename=disk.raw",
    "another format than said": f"{OVER},backing.driver=raw,backing.file.filename=plain.qcow2",
    "of the format that the image says": f"{OVER},backing.file.filename=third.qcow2",
    "where there was none": "driver=qcow2,file.filename=plain.qcow2,backing.file.filename=disk.raw",
    "below": f"{ON_OVER},backing.backing.driver=raw,backing.backing.file.filename=disk.raw",
    "both": f"{ON_OVER},backing.file.filename=over.qcow2,backing.backing.driver=raw,backing.backing.file.filename=disk.raw",
    "encrypted": "driver=qcow2,file.filename=plain.qcow2,backing.file.filename=low.qcow2,backing.encrypt.key-secret=s0",
    "itself": f"{OVER},backing.file.filename=over.qcow2",
    "json": 'json:{"driver":"qcow2","backing":{"driver":"raw","file":{"driver":"file","filename":"disk.raw"}},"file.filename":"over.qcow2"}',
    "none": 'json:{"driver":"qcow2","file":{"driver":"file","filename":"third.qcow2"},"backing":null}',
    "none below": 'json:{"driver":"qcow2","file.filename":"third.qcow2","backing":{"backing":null}}',
    "none, as it was said": f"{ON_OVER},backing=",
    "none, as it was said in JSON": 'json:{"driver":"qcow2","file.filename":"third.qcow2","backing":""}',
    "none below, as it was said": f"{ON_OVER},backing.backing=",
    "none of a format without": "driver=raw,file.filename=disk.raw,backing=",
    "nowhere": f"{OVER},backing.file.filename=nowhere",
    "nowhere below": f"{ON_OVER},backing.backing.file.filename=nowhere",
    "a folder": f"{OVER},backing.file.filename=.",
    "not of that format": f"{OVER},backing.driver=qcow2,backing.file.filename=disk.raw",
    "a node": f"{OVER},backing=node",
    "none, and its driver": f"{OVER},backing=,backing.driver=raw",
    "a protocol's": f"{OVER},backing.filename=disk.raw",
    "of a format without": "driver=raw,file.filename=disk.raw,backing.file.filename=plain.qcow2",
}  # fmt: skip


class TestBackingOptions(InstarTestBase):
    def setUp(self):
        super().setUp()
        create = lambda *words: self.run_qemu_img("create", "-q", *KEYS, "-f", "qcow2", *words, cwd=self.tmp)  # noqa: E731
        create("-o", f"{ENCRYPTED}s0", "low.qcow2", "1M")
        write = ("-c", "write -P 7 64k 100k", "--image-opts", "driver=qcow2,encrypt.key-secret=s0,file.filename=low.qcow2")
        self.run_tool(["qemu-io", *KEYS, *write], cwd=self.tmp)
        create("-u", "-b", "low.qcow2", "-F", "qcow2", "-o", f"{ENCRYPTED}s1", "crypt.qcow2", "1M")
        create("-u", "-b", "low.qcow2", "-F", "qcow2", "middle.qcow2", "1M")
        create("-u", "-b", "crypt.qcow2", "-F", "qcow2", "top.qcow2", "1M")
        create("plain.qcow2", "1M")
        create("-b", "plain.qcow2", "-F", "qcow2", "over.qcow2")
        create("-b", "over.qcow2", "-F", "qcow2", "third.qcow2")
        images.write("plain.qcow2", (5, 0, 200000), cwd=self.tmp)

    def both(self, *words):
        """What both say of it must be the same."""
        ours = self.run_as_qemu_img(*words, cwd=self.tmp)
        self.assertEqual(ours, self.run_qemu_img(*words, cwd=self.tmp))
        return ours

    def test_as_the_stock_tool(self):
        told = 0
        for what, name in NAMES.items():
            opts = () if name.startswith("json:") else ("--image-opts",)
            with self.subTest(what):
                # Of several options that it does not know, as here, the stock tool names any.
                if name.count("backing.") < 2:
                    self.both("info", *KEYS, *opts, name)
                _, _, status = self.both("map", "--output=json", *KEYS, *opts, name)
                told += status == 0
                second = PLAIN if opts else "plain.qcow2"
                self.both("compare", *KEYS, *opts, name, second)
                self.both("check", *KEYS, *opts, name)
        self.assertEqual(told, 5)

    def test_content(self):
        for what in ("key", "keys of two"):
            with self.subTest(what):
                words = ("convert", *KEYS, "--image-opts", NAMES[what], "-O", "raw")
                self.assertEqual(self.run_instar(*words, "ours.raw", cwd=self.tmp), ("", "", 0))
                self.run_qemu_img(*words, "theirs.raw", cwd=self.tmp)
                self.assertEqual(self.sha256(self.path("ours.raw")), self.sha256(self.path("theirs.raw")))
                with open(self.path("ours.raw"), "rb") as file:
                    self.assertEqual(file.read()[65536 : 65536 + 102400], b"\7" * 102400)

    def test_another_file(self):
        """Or none, or one where the image has none: what all commands but `info` read then."""
        self.run_qemu_img("create", "-q", "-f", "raw", "disk.raw", "1M", cwd=self.tmp)
        images.write("disk.raw", (3, 4096, 100000), cwd=self.tmp, fmt="raw")
        told = 0
        for what, name in OTHERS.items():
            opts = () if name.startswith("json:") else ("--image-opts",)
            with self.subTest(what):
                # Of several options that it does not know, as here, the stock tool names any.
                if name.count("backing") < 2:
                    self.both("info", *KEYS, *opts, name)
                _, _, status = self.both("map", "--output=json", *KEYS, *opts, name)
                told += status == 0
                self.both("map", *KEYS, *opts, name)
                self.both("check", *KEYS, *opts, name)
                self.both("measure", "-O", "qcow2", *KEYS, *opts, name)
                self.both("compare", *KEYS, *opts, name, "driver=raw,file.filename=disk.raw" if opts else "disk.raw")
                words = ("convert", *KEYS, *opts, name, "-O", "raw")
                ours = self.run_as_qemu_img(*words, "ours.raw", cwd=self.tmp)
                self.assertEqual(ours, self.run_qemu_img(*words, "theirs.raw", cwd=self.tmp))
                if status == 0:
                    self.assertEqual(self.sha256(self.path("ours.raw")), self.sha256(self.path("theirs.raw")))
        self.assertEqual(told, len(OTHERS) - 8)

    def test_no_policy_is_asked_for_what_the_user_names(self):
        os.mkdir(self.path("far"))
        self.run_qemu_img("create", "-q", "-f", "raw", "far/disk.raw", "1M", cwd=self.tmp)
        name = "driver=qcow2,file.filename=plain.qcow2,backing.file.filename=far/disk.raw"
        outcome = self.run_instar("map", "--no-backing", "--image-opts", name, cwd=self.tmp)
        self.assertEqual((outcome[1], outcome[2]), ("", 0))

    def committed(self, run, folder):
        """What the base shows after Cinder's way of merging an encrypted snapshot."""
        os.mkdir(self.path(folder))
        for name in ("low.qcow2", "crypt.qcow2"):
            shutil.copy(self.path(name), self.path(folder))
        cwd = self.path(folder)
        top = "driver=qcow2,encrypt.key-secret=s1,file.filename=crypt.qcow2"
        write = ("-c", "write -P 9 512k 70k", "--image-opts", f"{top},backing.encrypt.key-secret=s0")
        self.assertEqual(self.run_tool(["qemu-io", *KEYS, *write], cwd=cwd)[2], 0)
        named = "file.filename=crypt.qcow2,encrypt.format=luks,encrypt.key-secret=s1,backing.file.filename=low.qcow2"
        outcome = run("commit", *KEYS, "--image-opts", "-d", f"{named},backing.encrypt.key-secret=s0", cwd=cwd)
        low = "driver=qcow2,encrypt.key-secret=s0,file.filename=low.qcow2"
        self.run_qemu_img("convert", *KEYS, "--image-opts", low, "-O", "raw", "low.raw", cwd=cwd)
        self.assertEqual(self.run_qemu_img("check", *KEYS, "--image-opts", low, cwd=cwd)[2], 0)
        return outcome, self.sha256(os.path.join(cwd, "low.raw"))

    def test_commit_into_an_encrypted_image(self):
        theirs = self.committed(self.run_qemu_img, "theirs")
        self.assertEqual(theirs[0], ("Image committed.\n", "", 0))
        self.assertEqual(self.committed(self.run_as_qemu_img, "ours"), theirs)

    def test_overlays_of_an_encrypted_image(self):
        """`create` needs no key of it; `rebase` takes it in the name."""
        os.mkdir(self.path("sub"))
        shutil.copy(self.path("low.qcow2"), self.path("sub"))
        images.write("plain.qcow2", (6, 65536, 4096), cwd=self.tmp)
        for name in (
            "low.qcow2",
            'json:{"encrypt.key-secret":"s0","driver":"qcow2","file.filename":"low.qcow2"}',
            'json:{"driver":"raw","file":{"driver":"file","filename":"low.qcow2"},"encrypt":{"key-secret":"s0"}}',
            'json:{"driver":"qcow2","file.filename":"nowhere"}',
            'json:{"driver":"qcow2"}',
        ):
            with self.subTest(name):
                said = []
                for run in (self.run_as_qemu_img, self.run_qemu_img):
                    new = ("create", "-f", "qcow2", "-F", "qcow2", "-b", name, "sub/new.qcow2")
                    said.append([run(*new, cwd=self.tmp)])
                    if said[-1][0][2] == 0:
                        said[-1].append(self.info_json("sub/new.qcow2").get("backing-filename"))
                        os.unlink(self.path("sub/new.qcow2"))
                    shutil.copy(self.path("plain.qcow2"), self.path("sub/top.qcow2"))
                    said[-1].append(run("rebase", *KEYS, "-b", name, "-F", "qcow2", "sub/top.qcow2", cwd=self.tmp))
                    said[-1].append(self.info_json("sub/top.qcow2").get("backing-filename"))
                    words = ("convert", "--image-opts", "driver=qcow2,file.filename=sub/top.qcow2,backing=", "-O", "raw", "top.raw")
                    self.assertEqual(self.run_qemu_img(*words, cwd=self.tmp)[2], 0)
                    said[-1].append(self.sha256(self.path("top.raw")))
                self.assertEqual(*said)

    def test_commit_needs_the_key(self):
        words = ("commit", *KEYS, "--image-opts", MIDDLE)
        before = self.sha256(self.path("low.qcow2"))
        ours = self.run_as_qemu_img(*words, cwd=self.tmp)
        self.assertEqual(ours, self.run_qemu_img(*words, cwd=self.tmp))
        self.assertEqual(ours[2], 1)
        self.assertEqual(self.sha256(self.path("low.qcow2")), before)

    def test_commit_into_another_file(self):
        self.run_qemu_img("create", "-q", "-f", "raw", "disk.raw", "1M", cwd=self.tmp)
        images.write("over.qcow2", (8, 0, 131072), cwd=self.tmp)
        base = self.sha256(self.path("plain.qcow2"))
        name = "driver=qcow2,file.filename=over.qcow2,backing.driver=raw,backing.file.filename=disk.raw"
        outcome = self.run_as_qemu_img("commit", "--image-opts", name, cwd=self.tmp)
        self.assertEqual(outcome, ("Image committed.\n", "", 0))
        with open(self.path("disk.raw"), "rb") as file:
            self.assertEqual(file.read(), b"\x08" * 131072 + bytes((1 << 20) - 131072))
        self.assertEqual(self.sha256(self.path("plain.qcow2")), base)


if __name__ == "__main__":
    unittest.main()
