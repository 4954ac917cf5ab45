"""A vmdk whose parent is not the one that it was made for: the text that names the parent holds the CID that it had. The
stock tool refuses to read what the parent would show, and so does instar."""

import os
import shutil

from tests.base import InstarTestBase

COMMANDS = (
    ("convert", "-O", "raw", "over", "out"),
    ("convert", "-O", "qcow2", "over", "out"),
    ("convert", "-O", "raw", "top", "out"),
    ("convert", "-f", "vmdk", "-n", "-O", "raw", "over", "flat"),
    ("convert", "-B", "base", "-F", "vmdk", "-O", "qcow2", "over", "out"),
    ("compare", "over", "flat"),
    ("compare", "flat", "over"),
    ("compare", "over", "copy"),
    ("dd", "if=over", "of=out", "bs=64k"),
    ("dd", "if=over", "of=out", "bs=64k", "count=2", "skip=1"),
    ("bench", "-c", "5", "-f", "vmdk", "over"),
    ("bench", "-c", "5", "-f", "vmdk", "-s", "64k", "-o", "512k", "-S", "1", "over"),
    ("bench", "-w", "-c", "5", "-f", "vmdk", "over"),
    ("check", "over"),
    ("map", "over"),
    ("map", "--output=json", "top"),
    ("measure", "-O", "qcow2", "over"),
    ("info", "--backing-chain", "top"),
)


class TestVmdkParent(InstarTestBase):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("made"))
        folder = self.path("made")
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "base", "1M", cwd=folder)
        self.make("qemu-io", "-f", "vmdk", "-c", "write -q -P 5 0 256k", "base", cwd=folder)
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "-b", "base", "-F", "vmdk", "over", cwd=folder)
        self.make("qemu-io", "-f", "vmdk", "-c", "write -q -P 6 64k 64k", "over", cwd=folder)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "over", "-F", "vmdk", "top", cwd=folder)
        self.make("qemu-img", "convert", "-f", "vmdk", "-O", "raw", "over", "flat", cwd=folder)
        shutil.copy(os.path.join(folder, "over"), os.path.join(folder, "copy"))

    def change_the_parent(self):
        with open(self.path("made/base"), "r+b") as file:
            at = file.read().index(b"CID=") + len(b"CID=")
            file.seek(at)
            file.write(b"0badcafe")

    def outcome(self, run, words):
        shutil.rmtree(self.path("here"), ignore_errors=True)
        shutil.copytree(self.path("made"), self.path("here"))
        out, err, status = run(*words, cwd=self.path("here"))
        time = "in TIME seconds"
        out = "\n".join(line.split(" in ")[0] + time if "completed" in line else line for line in out.splitlines())
        return out, err, status

    def test_as_the_stock_tool(self):
        for changed in (False, True):
            if changed:
                self.change_the_parent()
            refused = 0
            for words in COMMANDS:
                with self.subTest(changed=changed, words=words):
                    theirs = self.outcome(self.run_qemu_img, words)
                    self.assertEqual(self.outcome(self.run_as_qemu_img, words), theirs)
                    self.assert_same_outcome(self.outcome(self.run_instar, words), theirs)
                    refused += "Invalid argument" in theirs[1]
            self.assertEqual(refused, 11 if changed else 0)

    def test_salvage_leaves_zeroes(self):
        """The stock tool tells of each sector besides."""
        self.change_the_parent()
        for run in (self.run_as_qemu_img, self.run_qemu_img):
            out, err, status = run("convert", "--salvage", "-O", "raw", "made/over", f"out-{run.__name__}", cwd=self.tmp)
            self.assertEqual((out, status), ("", 0), err[-200:])
        self.assert_bytes_identical(self.path("out-run_as_qemu_img"), self.path("out-run_qemu_img"))
        with open(self.path("out-run_qemu_img"), "rb") as file:
            self.assertEqual(file.read(), bytes(65536) + b"\6" * 65536 + bytes(1048576 - 131072))

    def test_other_parents(self):
        """Rebased onto the changed one, without a look at its content, it is readable again."""
        self.change_the_parent()
        self.assertEqual(self.outcome(self.run_instar, ("rebase", "-u", "-b", "base", "-F", "vmdk", "over"))[2], 0)
        out, err, status = self.run_qemu_img("compare", "over", "flat", cwd=self.path("here"))
        self.assertEqual((status, err), (0, ""))
