"""What goes wrong while something is written: no room, a limit, no right, a signal. The error says what, a new file is not
there, and an image that is changed in place is sound and shows what it showed."""

import os
import resource
import signal
import subprocess
import time
import unittest

from tests.base import InstarTestBase

MIB = 1 << 20
# New targets: words of convert, and whether dd writes the format too.
FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx", "vdi", "parallels")
NEW = {
    **{f"convert to {fmt}": ("convert", "-f", "raw", "-O", fmt, "../source", "target") for fmt in FORMATS},
    "convert compressed": ("convert", "-c", "-f", "raw", "-O", "qcow2", "../source", "target"),
    "convert to a stream": ("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "../source", "target"),
    "convert to a file beside": ("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", "../source", "target"),
    "convert to files beside": ("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "../source", "target"),
    "dd": ("dd", "-f", "raw", "-O", "qcow2", "bs=1M", "if=../source", "of=target"),
    "create": ("create", "-f", "qcow2", "-o", "preallocation=full", "target", "12M"),
    "create raw": ("create", "-f", "raw", "-o", "preallocation=falloc", "target", "12M"),
}
# In place: the image that is changed, words.
IN_PLACE = {
    "resize": ("top", "resize", "--preallocation=full", "top", "40M"),
    "rebase": ("top", "rebase", "-b", "", "top"),
    "commit": ("base", "commit", "top"),
    "convert -n": ("target", "convert", "-n", "-f", "raw", "-O", "qcow2", "../source", "target"),
}
ROOM = 8 * MIB
NO_ROOM = "No space left on device"
TOO_LARGE = "File too large"


class FailureTest(InstarTestBase):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("work"))
        with open(self.path("source"), "wb") as file:
            for number in range(12):
                file.write(os.urandom(MIB) if number != 5 else bytes(MIB))

    def folder(self):
        return self.path("work")

    def listing(self):
        return sorted(os.listdir(self.folder()))

    def fails(self, words, text, **limits):
        out, err, status = self.run_instar(*words, cwd=self.folder(), env={"INSTAR_ALLOW_BACKING": self.tmp}, **limits)
        self.assertEqual(status, 1, f"{words}: {out}{err}")
        self.assertIn(text, err)

    def prepare(self, what):
        """The images for an operation in place; returns what `top` or `target` shows."""
        if what == "convert -n":
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "target", "12M", cwd=self.folder())
            return None
        if what == "rebase":
            self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "source", "big")
            words = ["-b", self.path("big"), "-F", "qcow2"]
        else:
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "base", "12M", cwd=self.folder())
            words = ["-b", "base", "-F", "qcow2"] if what == "commit" else []
        self.make("qemu-img", "create", "-q", "-f", "qcow2", *words, "top", "12M", cwd=self.folder())
        self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 3 1M 5M", "top", cwd=self.folder())
        return self.shown()

    def shown(self):
        self.make("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "work/top", "shown")
        return self.sha256(self.path("shown"))

    def judge(self, what, before):
        """Leaks at worst; what the overlay shows is what it showed."""
        for name in self.listing():
            out, err, status = self.run_qemu_img("check", "-f", "qcow2", name, cwd=self.folder())
            self.assertIn(status, (0, 3), f"{name}: {out}{err}")
        if before is not None:
            self.assertEqual(self.shown(), before)


@unittest.skipUnless(os.geteuid() == 0, "mounting needs root")
class TestDiskFull(FailureTest):
    """One generated test an operation, in a file system of 8 MiB."""

    def setUp(self):
        super().setUp()
        size = f"size={ROOM}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.folder()], check=True)
        self.addCleanup(subprocess.run, ["umount", self.folder()], check=True)

    def new(self, words):
        self.fails(words, NO_ROOM)
        self.assertEqual(self.listing(), [])
        # A file that is there stays what it is.
        with open(os.path.join(self.folder(), "target"), "wb") as file:
            file.write(b"old")
        self.fails(words, NO_ROOM)
        self.assertEqual(self.listing(), ["target"])
        with open(os.path.join(self.folder(), "target"), "rb") as file:
            self.assertEqual(file.read(), b"old")

    def in_place(self, what, words):
        before = self.prepare(what)
        names = self.listing()
        self.fails(words, NO_ROOM)
        self.assertEqual(self.listing(), names)
        self.judge(what, before)


class TestQuota(FailureTest):
    """The same with a limit on the length of files, which is how a quota looks to a program. (The memory of a sandbox in a
    process is a file, too.)"""

    LIMITS = {"limits": {resource.RLIMIT_FSIZE: ROOM // 2}}

    def new(self, words):
        self.fails(words, TOO_LARGE, **self.LIMITS)
        self.assertEqual(self.listing(), [])

    def in_place(self, what, words):
        before = self.prepare(what)
        names = self.listing()
        self.fails(words, TOO_LARGE, **self.LIMITS)
        self.assertEqual(self.listing(), names)
        self.judge(what, before)


class TestNoRight(FailureTest):
    """A folder, and a file, that may not be written to."""

    def demote(self):
        os.setgid(65534)
        os.setuid(65534)

    def run_as_nobody(self, words):
        env = {**os.environ, "HOME": "/nonexistent"}
        argv = [self.get_instar_binary(), *words]
        done = subprocess.run(
            argv, cwd=self.folder(), env=env, capture_output=True, text=True, preexec_fn=self.demote, check=False
        )
        return done.stdout, done.stderr, done.returncode

    @unittest.skipUnless(os.geteuid() == 0, "another user is needed")
    def test_folder_and_file(self):
        for folder in (self.tmp, self.folder()):
            os.chmod(folder, 0o755)
        os.chmod(self.path("source"), 0o644)
        for what, words in NEW.items():
            with self.subTest(what):
                out, err, status = self.run_as_nobody(words)
                self.assertEqual(status, 1, out)
                self.assertIn("Permission denied", err)
                self.assertEqual(self.listing(), [])
        for what, (_, *words) in IN_PLACE.items():
            with self.subTest(what):
                for name in self.listing():
                    os.unlink(os.path.join(self.folder(), name))
                self.prepare(what)
                kept = {name: self.sha256(os.path.join(self.folder(), name)) for name in self.listing()}
                out, err, status = self.run_as_nobody(words)
                self.assertEqual(status, 1, out)
                self.assertIn("Permission denied", err)
                self.assertEqual(kept, {name: self.sha256(os.path.join(self.folder(), name)) for name in self.listing()})


class TestSignals(FailureTest):
    """Killed in the middle: a rate makes the middle long."""

    def interrupted(self, words, number, names):
        slow = [words[0], "-r", "2M", *words[1:]]
        with subprocess.Popen(
            [self.get_instar_binary(), *slow], cwd=self.folder(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as worker:
            time.sleep(0.6)
            self.assertIsNone(worker.poll(), "it was over too soon to show anything")
            worker.send_signal(number)
            self.assertEqual(worker.wait(timeout=10), -number)
        # Helpers of a killed program end by themselves.
        deadline = time.monotonic() + 5
        while self.listing() != names and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(self.listing(), names)

    def new(self, words):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                self.interrupted(words, number, [])

    def in_place(self, what, words):
        before = self.prepare(what)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                self.interrupted(words, number, self.listing())
                self.judge(what, before)


def _add(kind, name, function):
    setattr(kind, "test_" + name.replace(" ", "_").replace("-", ""), function)


for _kind in (TestDiskFull, TestQuota, TestSignals):
    for _what, _words in NEW.items():
        if _kind is not TestSignals or _words[0] == "convert":
            _add(_kind, _what, lambda self, words=_words: self.new(words))
    for _what, (_, *_words) in IN_PLACE.items():
        if _kind is not TestSignals or _words[0] in ("convert", "commit"):
            _add(_kind, _what, lambda self, what=_what, words=_words: self.in_place(what, words))


if __name__ == "__main__":
    unittest.main()
