"""`backing.KEY` in `--image-opts` and `json:{}`: options of the backing file that the image names, as the stock tool takes
them."""

import unittest

from tests.base import InstarTestBase
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

    def test_another_file_is_refused(self):
        name = "driver=qcow2,file.filename=over.qcow2,backing.driver=qcow2,backing.file.filename=plain.qcow2"
        out, err, status = self.run_instar("map", "--image-opts", name, cwd=self.tmp)
        self.assertEqual((out, status), ("", 1))
        self.assertIn("another backing file than the one that the image names", err)


if __name__ == "__main__":
    unittest.main()
