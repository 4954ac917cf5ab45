"""dd next to the stock tool."""

import os
import random
from pathlib import Path

from tests.base import InstarTestBase

KIB, MIB = 1 << 10, 1 << 20

# Each is run in a folder with disk.raw, disk.qcow2 and top.qcow2 over it; %s is the output.
WRONG = """
of=%s
if=disk.raw
if=disk.raw of=
if= of=%s
if=nope of=%s
if=disk.raw of=%s bs=0
if=disk.raw of=%s bs=x
if=disk.raw of=%s bs=3G
if=disk.raw of=%s count=-1
if=disk.raw of=%s count=x
if=disk.raw of=%s count=99999999999999999999
if=disk.raw of=%s skip=x
if=disk.raw of=%s foo=1
if=disk.raw of=%s bar
if=disk.raw of=%s isize=1
if=disk.raw of=/nonexistent/x
-O nosuch if=disk.raw of=%s
-O bochs if=disk.raw of=%s
-f nosuch if=disk.raw of=%s
-f qcow2 if=disk.raw of=%s
--image-opts -f raw if=disk.raw of=%s
-Z if=disk.raw of=%s
""".strip().splitlines()

RIGHT = """
if=disk.raw of=%s
bs=1M if=disk.raw of=%s
if=disk.qcow2 of=%s bs=7
if=top.qcow2 of=%s bs=64k count=9
-U -f qcow2 if=disk.qcow2 of=%s bs=1M count=1 skip=0
if=disk.raw of=%s bs=1M skip=10
if=disk.raw of=%s count=0
if=disk.raw of=%s bs=512 count=2 skip=1
if=disk.raw of=%s bs=1 count=513 skip=1
if=disk.raw of=%s bs=1k count=1 skip=5
if=disk.raw of=%s bs=1M count=9223372036854775807
if=disk.raw of=%s skip=9223372036854775807
bs=1k if=nope if=disk.raw of=%s bs=1M count=1
-O qcow2 if=disk.raw of=%s
-O qcow2 if=top.qcow2 of=%s bs=333 count=3000 skip=17
-O vpc if=disk.raw of=%s bs=4096 skip=100
--image-opts if=driver=qcow2,file.filename=top.qcow2 of=%s bs=1000 skip=700
""".strip().splitlines()


class TestDd(InstarTestBase):
    def setUp(self):
        super().setUp()
        chance = random.Random("dd")
        with open(self.path("disk.raw"), "wb") as file:
            file.truncate(3 * MIB + 512)
            for place in (0, 700, 1500, 3071):
                file.seek(place * KIB)
                file.write(chance.randbytes(min(90 * KIB, 3 * MIB + 512 - place * KIB)))
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", "top.qcow2")
        self.make("qemu-io", "-c", "write -P 7 100k 300k", "-c", "write -z 1500k 64k", "top.qcow2")

    def both(self, line):
        """Runs both tools; returns the exit status."""
        outcomes = []
        for tool, name in ((self.run_qemu_img, "theirs"), (self.run_instar, "ours")):
            out, err, status = tool("dd", *(line.replace("%s", name)).split(), cwd=self.tmp)
            outcomes.append((out, err.replace(name, "%s"), status))
        self.assert_same_outcome(outcomes[1], outcomes[0], line)
        return outcomes[0][2]

    def test_right(self):
        for line in RIGHT:
            with self.subTest(line=line):
                self.assertEqual(self.both(line), 0)
                if "-O" in line:
                    self.assert_same_disk(self.path("ours"), self.path("theirs"))
                else:
                    self.assert_bytes_identical(self.path("ours"), self.path("theirs"))
                for name in ("ours", "theirs"):
                    os.unlink(self.path(name))

    def test_wrong(self):
        for line in WRONG:
            with self.subTest(line=line):
                self.assertEqual(self.both(line), 1)
                self.assertFalse(os.path.exists(self.path("ours")))

    def test_the_file_itself(self):
        """The stock tool empties its input; here that is refused."""
        before = Path(self.path("disk.raw")).read_bytes()
        _, err, status = self.run_instar("dd", "if=disk.raw", "of=disk.raw", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("lock", err)
        self.assert_same_bytes(Path(self.path("disk.raw")).read_bytes(), before)
