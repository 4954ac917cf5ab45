"""Every reading command on every hostile image: a clear error or the right answer, soon, in little memory, and without
a look at any file that is not the image's to name. What each run took is left in `.results/adversarial`, of which
`scripts/adversarial-report` makes the table in docs/security.md."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from tests.adversarial.images import hostile
from tests.base import QEMU_IMG, InstarTestBase

MIB = 1 << 20
COMMANDS = ("info", "check", "map", "convert")
# Processor time of one command in seconds, resident memory of the largest of its processes (the guest's memory is in
# it), and the exit statuses that a command may have.
CPU_MAX = 2.0
MEMORY_MAX = 64 * MIB
RESULTS = Path(__file__).resolve().parents[2] / ".results" / "adversarial"
STATUSES = {0, 1, 2, 3, 63}
OUTPUT_MAX = MIB
# Each of its 5,000 extents, which are read, is shown.
LONG_OUTPUT = {"vmdk-thousands-of-extents": 2 * MIB}
KEY = ("--object", "secret,id=s0,data=password")
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
# Where a program may look besides the image's own folder: what it is made of and runs on.
SYSTEM = re.compile(
    r"/(dev/(kvm|null|urandom)|proc/(self|\d+|sys|cpuinfo|meminfo|stat)\b|sys/|lib|usr/|etc/(ld\.so|instar|localtime)|root/\.config|home/)"
)
OPENED = re.compile(r'open(?:at)?\((?:[^,"]+, )?"((?:[^"\\]|\\.)*)"[^)]*\)\s+= \d+')


class Outcome:
    """What one run did."""

    def __init__(self, status, out, err, cpu, memory=0):
        self.status, self.out, self.err, self.cpu, self.memory = status, out, err, cpu, memory


def run(argv, cwd, env, timeout=30):
    """Runs and measures a program with all that it starts. `time` starts it: what a child of this process took at most
    is never less than this process itself, which is larger than what is measured."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.NamedTemporaryFile() as peak:
        argv = ["/usr/bin/time", "--quiet", "-f", "%M", "-o", peak.name, *argv]
        child = subprocess.Popen(argv, cwd=cwd, env=env, stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                                 start_new_session=True)  # fmt: skip
        end = time.monotonic() + timeout
        while True:
            pid, status, used = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                os.killpg(child.pid, signal.SIGKILL)
            time.sleep(0.002)
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
        memory = int((peak.read().split() or [0])[-1]) << 10
        return Outcome(child.returncode, *texts, used.ru_utime + used.ru_stime, memory)


class TestHostile(InstarTestBase):
    """One test for each class of images, made below."""

    def argv(self, command, name, fmt):
        source = ["-f", fmt] if fmt else []
        if fmt == "luks" and command in ("map", "convert"):
            # What a key may cost is only seen with one.
            source, name = [*KEY, "--image-opts"], f"driver=luks,key-secret=s0,file.filename={name}"
        target = ["-O", "raw"] if command == "convert" else []
        return [str(self.get_instar_binary()), command, *source, *target, name,
                *(["../converted.raw"] if command == "convert" else [])]  # fmt: skip

    def env(self):
        return {**os.environ, "INSTAR_QEMU_VERSION": self.qemu_version, "LC_ALL": "C"}

    def folder(self, make):
        # The sandbox's memory is bounded by default, to 64 MiB: more is a failure that is told.
        path = tempfile.mkdtemp(prefix="image-", dir=self.tmp)
        return path, *make(path)

    def examine(self, name, make, took):
        path, image, fmt = self.folder(make)
        for command in COMMANDS:
            with self.subTest(image=name, command=command):
                outcome = run(self.argv(command, image, fmt), path, self.env())
                text = outcome.out + outcome.err
                self.assertIn(outcome.status, STATUSES, text[:500])
                self.assertNotIn(b"panicked", text)
                self.assertLess(len(text), LONG_OUTPUT.get(name, OUTPUT_MAX))
                self.assertIsNone(CONTROL.search(text), text[:500])
                took.append({"image": name, "command": command, "cpu": outcome.cpu, "memory": outcome.memory})
                self.assertLessEqual(outcome.cpu, CPU_MAX)
                self.assertLessEqual(outcome.memory, MEMORY_MAX)
                if outcome.status not in (0, 63):
                    self.assertTrue(text.strip(), "a failure without a word")
                if command == "convert" and outcome.status == 0:
                    self.compare(path, image, fmt)

    def compare(self, path, image, fmt):
        """Where the stock tool copies the image as well, it makes the same of it."""
        ours = os.path.join(self.tmp, "converted.raw")
        if os.path.getsize(ours) <= 16 * MIB:
            argv = [QEMU_IMG, "convert", *(["-f", fmt] if fmt else []), "-O", "raw", image, "../theirs.raw"]
            stock = subprocess.run(argv, cwd=path, capture_output=True, timeout=120, check=False)
            if stock.returncode == 0:
                self.assert_bytes_identical(ours, os.path.join(self.tmp, "theirs.raw"))
        os.unlink(ours)


class TestOpened(TestHostile):
    """What is opened, seen by strace, of every image."""

    def test_nothing_else(self):
        naming = {"backing", "chain", "vmdk", "vpc"}
        for number, (name, (kind, make)) in enumerate(hostile().items()):
            # What names nothing leads to the same calls, whatever else is in it: every third.
            if kind not in naming and number % 3:
                continue
            path, image, fmt = self.folder(make)
            for command in ("info", "convert") if kind in naming else ("convert",):
                with self.subTest(image=name, command=command):
                    log = os.path.join(self.tmp, "strace.log")
                    argv = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=openat,open,openat2", "-o", log]
                    run([*argv, *self.argv(command, image, fmt)], path, self.env())
                    with open(log, encoding="utf-8", errors="replace") as file:
                        opened = OPENED.findall(file.read())
                    self.assertTrue(opened)
                    for file in opened:
                        self.assert_allowed(file, path)

    def assert_allowed(self, file, path):
        inside = os.path.normpath(os.path.join(path, file)).startswith(path)
        fine = (
            inside
            or SYSTEM.match(file)
            # The folder for temporary files: what is beside a target that is written in place may be made there.
            or file in (self.tmp, tempfile.gettempdir(), "..", "../converted.raw", "/", str(self.get_instar_binary()))
        )
        self.assertTrue(fine, f"{file} was opened")
        self.assertNotIn("passwd", file)


def _make(kind):
    def test(self):
        chosen = {name: make for name, (of, make) in hostile().items() if of == kind}
        self.assertTrue(chosen)
        took = []
        for name, make in chosen.items():
            self.examine(name, make, took)
        backend = os.environ.get("INSTAR_ISOLATION", "kvm")
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{backend}-{kind}.json").write_text(json.dumps(took), encoding="utf-8")

    return test


for _kind in sorted({kind for kind, _ in hostile().values()}):
    setattr(TestHostile, f"test_{_kind}", _make(_kind))
# The class for strace has none of them.
for _kind in sorted({kind for kind, _ in hostile().values()}):
    setattr(TestOpened, f"test_{_kind}", None)


class TestNumber(unittest.TestCase):
    def test_there_are_enough(self):
        self.assertGreaterEqual(len(hostile()), 150)
