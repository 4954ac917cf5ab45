"""What the tests of existing targets share: each kind is made twice, once for each tool, and seen by every way that leads to it."""

import contextlib
import os
import random
import shutil
import struct
import unittest
from pathlib import Path

from tests.base import InstarTestBase
from tests.helpers import filesystems

KIB, MIB = 1 << 10, 1 << 20
OLD = random.Random(1).randbytes(200 * KIB)
NEW = random.Random(2).randbytes(MIB)
NOBODY = 65534
ROOT_ONLY = unittest.skipUnless(os.geteuid() == 0, "mounts, owners and other users need root")


def access_list(user):
    """A POSIX ACL that lets that user read and write: version, then tag, rights and number of each entry."""
    no_id = 0xFFFFFFFF
    entries = ((1, 6, no_id), (2, 6, user), (4, 4, no_id), (0x10, 6, no_id), (0x20, 0, no_id))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def flags(path):
    """What `chattr` has set."""
    return {letter for letter in filesystems.run("lsattr", "-d", path).split()[0] if letter in "acdijACDS"}


def state(path):
    """All that a file has besides its content and its time of change."""
    seen = os.stat(path)
    extended = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return {"mode": seen.st_mode, "owner": (seen.st_uid, seen.st_gid), "links": seen.st_nlink, "extended": extended}


class TargetTest(InstarTestBase):
    """Each kind of target is made twice, once for each tool: a function that makes it gives its name and what shows its
    content by other ways."""

    def setUp(self):
        super().setUp()
        os.chmod(self.tmp, 0o755)
        for name, content in (("source.raw", NEW), ("garbage.qcow2", b"garbage" * 1000)):
            Path(self.tmp, name).write_bytes(content)

    def tools(self):
        """The folder that each tool works in, and how it is called."""
        for name, run in (("stock", self.run_qemu_img), ("ours", self.run_instar)):
            folder = Path(self.tmp, name)
            folder.mkdir(exist_ok=True)
            yield folder, run

    def convert(self, run, target, source="source.raw", fmt="raw", **more):
        return run("convert", "-f", fmt, "-O", "raw", self.path(source), target, **more)

    def same(self, make, more=lambda path: None):
        """Makes the target, converts onto it with both tools, and compares what is there afterwards by every way."""
        results = []
        for folder, run in self.tools():
            with contextlib.ExitStack() as stack:
                target, ways = make(folder, stack)
                outcome = self.convert(run, target)
                self.assertEqual(outcome, ("", "", 0))
                seen = [way() for way in ways]
                for content in seen:
                    self.assert_same_bytes(content, NEW)
                results.append((state(target), more(target)) if not str(target).startswith("/proc") else None)
        self.assertEqual(results[0], results[1])

    def kept(self, make, content=OLD):
        """A conversion that fails before it writes: by every way, all is as it was."""
        folder, run = list(self.tools())[1]
        with contextlib.ExitStack() as stack:
            target, ways = make(folder, stack)
            before = state(target)
            for source, fmt in (("garbage.qcow2", "qcow2"), ("none.raw", "raw")):
                _, err, status = self.convert(run, target, source, fmt)
                self.assertEqual((status, bool(err)), (1, True))
                self.assertEqual([way() for way in ways], [content] * len(ways))
                self.assertEqual(state(target), before)
            self.assertEqual([name for name in os.listdir(folder) if "instar" in name], [])

    def both(self, make, content=OLD, more=lambda path: None):
        """What every kind must show; `make` is done for each run anew."""
        self.same(make, more)
        for folder, _ in self.tools():
            shutil.rmtree(folder)
        self.kept(make, content)


def plain(folder, stack, content=OLD):
    """An ordinary file."""
    del stack
    path = folder / "target.raw"
    path.write_bytes(content)
    return path, [path.read_bytes]
