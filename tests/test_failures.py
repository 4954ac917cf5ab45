"""What goes wrong while something is written: no room, a limit, no right, a signal. The error says what, a new file is not
there, and an image that is changed in place is sound and shows what it showed."""

import collections
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import unittest

from tests.base import InstarTestBase

MIB = 1 << 20
# A lower image that was written to in part: in units of so many bytes it is the old one or the new one.
# A write that is killed may end after any page.
UNIT = 4 << 10
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
# In place: words.
IN_PLACE = {
    "resize": ("resize", "--preallocation=full", "top", "40M"),
    "rebase": ("rebase", "-b", "", "top"),
    "commit": ("commit", "top"),
    "convert -n": ("convert", "-n", "-f", "raw", "-O", "qcow2", "../source", "target"),
}
# In place, without a need for room on the disk.
SMALL = {
    "resize metadata": ("resize", "--preallocation=metadata", "top", "40M"),
    "resize shrink": ("resize", "--shrink", "top", "3M"),
    "snapshot": ("snapshot", "-c", "one", "top"),
    "amend": ("amend", "-o", "compat=0.10", "top"),
    "amend width": ("amend", "-o", "refcount_bits=8", "top"),
    "rebase elsewhere": ("rebase", "-b", "other", "-F", "qcow2", "top"),
}
ROOM = 8 * MIB
# Of a check: an entry does not say that its cluster is the disk's alone.
MISSING_FLAG = re.compile(r"ERROR OFLAG_COPIED .*_entry=[0-7]?[0-9a-f]{1,15} refcount=1$")


class FailureTest(InstarTestBase):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("work"))
        numbers = random.Random(4)
        with open(self.path("source"), "wb") as file:
            for number in range(12):
                file.write(numbers.randbytes(MIB) if number != 5 else bytes(MIB))

    def folder(self):
        return self.path("work")

    def listing(self):
        return sorted(os.listdir(self.folder()))

    def fails(self, words, text, **limits):
        out, err, status = self.run_instar(*words, cwd=self.folder(), env={"INSTAR_ALLOW_BACKING": self.tmp}, **limits)
        self.assertEqual(status, 1, f"{words}: {out}{err}")
        self.assertIn(text, err)

    def prepare(self, what):
        """The images for an operation in place; returns what each of them shows."""
        if what == "convert -n":
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "target", "12M", cwd=self.folder())
            return self.shown()
        words = []
        if what.startswith("rebase"):
            self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "source", "big")
            words = ["-b", self.path("big"), "-F", "qcow2"]
        if what == "commit":
            words = ["-b", "base", "-F", "qcow2"]
        for name in ("base", "other"):
            if name in (*words, *SMALL.get(what, ())):
                self.make("qemu-img", "create", "-q", "-f", "qcow2", name, "12M", cwd=self.folder())
                self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 3M 1M", name, cwd=self.folder())
        self.make("qemu-img", "create", "-q", "-f", "qcow2", *words, "top", "12M", cwd=self.folder())
        self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 3 1M 5M", "top", cwd=self.folder())
        return self.shown()

    def shown(self, folder="work"):
        """What each image shows, read by the stock tool."""
        content = {}
        for name in sorted(os.listdir(self.path(folder))):
            self.make("qemu-img", "convert", "-f", "qcow2", "-O", "raw", os.path.join(folder, name), "shown")
            with open(self.path("shown"), "rb") as file:
                content[name] = file.read()
        return content

    def shown_after(self, words):
        """What each image shows when the operation is carried out, which is done elsewhere."""
        whole = self.path("whole")
        shutil.copytree(self.folder(), whole)
        out, err, status = self.run_instar(*words, cwd=whole, env={"INSTAR_ALLOW_BACKING": self.tmp})
        self.assertEqual(status, 0, f"{words}: {out}{err}")
        return self.shown("whole")

    def judge(self, before, after):
        """Leaks at worst, and the old content or the new one. An image below another, and one that is filled, may be so
        piece by piece."""
        for name in self.listing():
            out, err, status = self.run_qemu_img("check", "-f", "qcow2", name, cwd=self.folder())
            # Copied flags may be missing: they go before a snapshot's counts come.
            wrong = [line for line in (out + err).splitlines() if "ERROR" in line and not MISSING_FLAG.match(line)]
            self.assertTrue(status in (0, 3) or (status == 2 and not wrong), f"{name}: {out}{err}")
        for name, content in self.shown().items():
            old, new = before[name], after[name]
            if name == "top":
                self.assertTrue(content in (old, new), f"{name} shows neither the old nor the new content")
                continue
            self.assertEqual(len(content), len(old), name)
            for at in range(0, len(content), UNIT):
                piece = slice(at, at + UNIT)
                self.assertTrue(content[piece] in (old[piece], new[piece]), f"{name} at {at}: neither old nor new")


class LimitTest(FailureTest):
    """One generated test an operation, where it must fail with a certain text."""

    TEXT = ""
    LIMITS = {}

    def new(self, words):
        self.fails(words, self.TEXT, **self.LIMITS)
        self.assertEqual(self.listing(), [])
        # A file that is there stays what it is.
        with open(os.path.join(self.folder(), "target"), "wb") as file:
            file.write(b"old")
        self.fails(words, self.TEXT, **self.LIMITS)
        self.assertEqual(self.listing(), ["target"])
        with open(os.path.join(self.folder(), "target"), "rb") as file:
            self.assertEqual(file.read(), b"old")

    def in_place(self, what, words):
        before = self.prepare(what)
        after = self.shown_after(words)
        self.fails(words, self.TEXT, **self.LIMITS)
        self.assertEqual(self.listing(), sorted(before))
        self.judge(before, after)


@unittest.skipUnless(os.geteuid() == 0, "mounting needs root")
class TestDiskFull(LimitTest):
    """In a file system of 8 MiB."""

    TEXT = "No space left on device"

    def setUp(self):
        super().setUp()
        size = f"size={ROOM}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.folder()], check=True)
        self.addCleanup(subprocess.run, ["umount", self.folder()], check=True)


class TestQuota(LimitTest):
    """With a limit on the length of files, which is how a quota looks to a program. (The memory of a sandbox in a
    process is a file, too.)"""

    TEXT = "File too large"
    LIMITS = {"limits": {resource.RLIMIT_FSIZE: ROOM // 2}}


@unittest.skipUnless(os.geteuid() == 0, "mounting and another user need root")
class TestNoRight(FailureTest):
    """A folder, and a file, that may not be written to."""

    def demote(self):
        os.setgid(65534)
        os.setuid(65534)

    def run_as_nobody(self, words):
        argv = [self.get_instar_binary(), *words]
        # A virtual machine would be refused, with the same words.
        env = {"HOME": "/nonexistent", "INSTAR_ISOLATION": "process"}
        return self.run_tool(argv, cwd=self.folder(), env=env, before=self.demote)

    def state(self):
        return {name: self.sha256(os.path.join(self.folder(), name)) for name in self.listing()}

    def refused(self, run, text):
        """Every operation says why, and changes nothing."""
        for what, words in {**NEW, **IN_PLACE, **SMALL}.items():
            with self.subTest(what):
                for name in self.listing():
                    os.unlink(os.path.join(self.folder(), name))
                if what not in NEW:
                    self.prepare(what)
                before = self.state()
                out, err, status = run(words)
                self.assertEqual(status, 1, out)
                self.assertIn(text, err)
                self.assertEqual(before, self.state())

    def test_another_user(self):
        for folder in (self.tmp, self.folder()):
            os.chmod(folder, 0o755)
        os.chmod(self.path("source"), 0o644)
        self.refused(self.run_as_nobody, "Permission denied")

    def test_a_file_system_that_is_only_read(self):
        """Mounted over itself, so that this folder alone can be made so."""
        subprocess.run(["mount", "--bind", self.folder(), self.folder()], check=True)
        self.addCleanup(subprocess.run, ["umount", self.folder()], check=True)

        def run(words):
            subprocess.run(["mount", "-o", "remount,bind,ro", self.folder()], check=True)
            try:
                return self.run_instar(*words, cwd=self.folder(), env={"INSTAR_ALLOW_BACKING": self.tmp})
            finally:
                subprocess.run(["mount", "-o", "remount,bind,rw", self.folder()], check=True)

        self.refused(run, "Read-only file system")

    def test_a_file_that_may_be_written_in_a_folder_that_may_not(self):
        """What is changed in place needs no right to the folder."""
        os.chmod(self.tmp, 0o755)
        for what, words in {**IN_PLACE, **SMALL}.items():
            with self.subTest(what):
                os.chmod(self.folder(), 0o755)
                for name in self.listing():
                    os.unlink(os.path.join(self.folder(), name))
                self.prepare(what)
                shutil.rmtree(self.path("whole"), ignore_errors=True)
                after = self.shown_after(words)
                for name in self.listing():
                    os.chmod(os.path.join(self.folder(), name), 0o666)
                out, err, status = self.run_as_nobody(("--allow-backing", self.tmp, *words))
                self.assertEqual(status, 0, f"{out}{err}")
                shown = self.shown()
                self.assertEqual(shown.keys(), after.keys())
                for name, content in after.items():
                    self.assert_same_bytes(shown[name], content, name)


# What a write, a file's length and its being stable are asked of the system by.
CALLS = ("pwrite64", "fallocate", "ftruncate", "copy_file_range", "fdatasync")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class TestSignals(FailureTest):
    """A signal at a certain system call, given by strace: at the first of a kind, at the last, and between."""

    def traced(self, words, *options):
        """Runs it under strace; its status, or the number of the signal that ended it, below zero."""
        argv = ["strace", "-f", "-qq", "-o", self.path("log"), *options, self.get_instar_binary(), *words]
        return self.run_tool(argv, cwd=self.folder(), env={"INSTAR_ALLOW_BACKING": self.tmp})

    def points(self, words):
        """Which call and which one of them, counted by thread."""
        out, err, status = self.traced(words, "-e", "trace=" + ",".join(CALLS))
        self.assertEqual(status, 0, f"{out}{err}")
        counts = collections.Counter()
        with open(self.path("log"), encoding="utf-8", errors="replace") as log:
            for line in log:
                if found := re.match(r"(\d+) +(\w+)\(", line):
                    counts[found.group(2), found.group(1)] += 1
        most = {}
        for (call, _), count in counts.items():
            most[call] = max(count, most.get(call, 0))
        # Workers share the calls as it comes: in another run there may be fewer in one thread, but hardly less than a third.
        return [(call, number) for call, last in most.items() for number in sorted({1, (last + 2) // 3, last})]

    def interrupted(self, index, point, words):
        """Whether the signal came before the end."""
        call, when = point
        number = SIGNALS[index % len(SIGNALS)]
        inject = f"inject={call}:signal={number.name}:when={when}"
        out, err, status = self.traced(words, "-e", f"trace={call}", "-e", inject)
        self.assertIn(status, (0, -number), f"{words} {inject}: {out}{err}")
        return status != 0

    def new(self, words):
        target = os.path.join(self.folder(), "target")
        points = self.points(words)
        whole, ended = self.listing(), 0
        for index, point in enumerate(points):
            with self.subTest(point):
                for name in self.listing():
                    os.unlink(os.path.join(self.folder(), name))
                # Every other time there is a file already.
                names = ["target"] if index % 2 else []
                if names:
                    with open(target, "wb") as file:
                        file.write(b"old")
                if not self.interrupted(index, point, words):
                    self.assertEqual(self.listing(), whole)
                    continue
                ended += 1
                self.assertEqual(self.listing(), names)
                if names:
                    self.assertEqual(os.path.getsize(target), len(b"old"))
        self.assertGreaterEqual(ended, 2)

    def in_place(self, what, words):
        before = self.prepare(what)
        after = self.shown_after(words)
        shutil.copytree(self.folder(), self.path("kept"))
        ended = 0
        for index, point in enumerate(self.points(words)):
            with self.subTest(point):
                shutil.rmtree(self.folder())
                shutil.copytree(self.path("kept"), self.folder())
                ended += self.interrupted(index, point, words)
                self.assertEqual(self.listing(), sorted(before))
                self.judge(before, after)
        self.assertGreaterEqual(ended, 2)

    def test_the_publisher_dies(self):
        """The process that gives a new file its name: the main one says so."""
        for existing in (False, True):
            with self.subTest(existing):
                names = ["target"] if existing else []
                for name in names:
                    with open(os.path.join(self.folder(), name), "wb") as file:
                        file.write(b"old")
                calls = "linkat,renameat,renameat2"
                words = ("-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when=1")
                out, err, status = self.traced(NEW["create"], *words)
                self.assertEqual(status, 1, f"{out}{err}")
                self.assertIn("instar: ", err)
                self.assertEqual(self.listing(), names)


def _generate():
    for kind, cases in (
        (TestDiskFull, IN_PLACE),
        (TestQuota, {**IN_PLACE, "resize metadata": SMALL["resize metadata"]}),
        (TestSignals, {**IN_PLACE, **SMALL}),
    ):
        tests = {what: lambda self, words=words: self.new(words) for what, words in NEW.items()}
        tests |= {what: lambda self, what=what, words=words: self.in_place(what, words) for what, words in cases.items()}
        for what, test in tests.items():
            setattr(kind, "test_" + what.replace(" ", "_").replace("-", ""), test)


_generate()


if __name__ == "__main__":
    unittest.main()
