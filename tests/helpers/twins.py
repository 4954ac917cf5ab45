"""Two folders that start equal: the stock tool works in the one, ours in the other."""

import os
import re
import shutil
import struct

from tests.base import InstarTestBase

_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


class TwinTest(InstarTestBase):
    """Twin folders: ours and theirs start equal."""

    COMMAND = ""

    def setUp(self):
        super().setUp()
        for name in ("ours", "theirs"):
            os.mkdir(self.path(name))

    def each(self, *argv):
        """The stock tools in both folders."""
        for name in ("ours", "theirs"):
            self.make(*argv, cwd=self.path(name))

    def prepare(self, *argv):
        """The stock tools in one folder, of which the other becomes a copy."""
        self.make(*argv, cwd=self.path("ours"))
        self.copy()

    def copy(self):
        shutil.rmtree(self.path("theirs"))
        shutil.copytree(self.path("ours"), self.path("theirs"))

    def same(self, *argv, command=None):
        """Both tools say the same, but for the time; returns the exit status."""
        argv, command = [os.fsdecode(word) for word in argv], command or self.COMMAND
        theirs = self.run_qemu_img(command, *argv, cwd=self.path("theirs"))
        ours = self.run_as_qemu_img(command, *argv, cwd=self.path("ours"))
        shown = lambda outcome: (_DATE.sub("*", outcome[0]), self.blank(outcome[1]), outcome[2])  # noqa: E731
        self.assertEqual(shown(ours), shown(theirs), argv)
        return theirs[2]

    @staticmethod
    def blank(text):
        """What is said, but for what may differ."""
        return text

    def header(self, who, name="a.q"):
        """Number and place of the snapshots, as the header has them."""
        with open(os.path.join(self.path(who), name), "rb") as file:
            return struct.unpack_from(">IQ", file.read(104), 60)

    def names(self, who, name="a.q", given=()):
        """The snapshots' identifiers."""
        argv = ["snapshot", "-l", *given] + ([] if given else [name])
        lines = self.make("qemu-img", *argv, cwd=self.path(who)).splitlines()[2:]
        return [line.split()[0] for line in lines]

    def raw(self, who, *argv):
        """What a conversion makes of an image."""
        self.make("qemu-img", "convert", "-O", "raw", *argv, "out.raw", cwd=self.path(who))
        path = os.path.join(self.path(who), "out.raw")
        with open(path, "rb") as file:
            content = file.read()
        os.remove(path)
        return content

    def assert_same_image(self, name="a.q", given=()):
        """List, disk, every snapshot, size and bitmaps are the stock tool's; the stock tool's check finds nothing."""
        image = list(given) or [name]
        if not given:
            self.assertEqual(self.run_qemu_img("check", name, cwd=self.path("ours"))[2], 0, name)
        listed = [self.run_qemu_img("snapshot", "-l", *image, cwd=self.path(who))[0] for who in ("ours", "theirs")]
        self.assertEqual(*(_DATE.sub("*", text) for text in listed))
        self.assert_same_bytes(self.raw("ours", *image), self.raw("theirs", *image), "the disk")
        for identifier in self.names("theirs", name, given):
            select = ("-l", f"snapshot.id={identifier}")
            ours, theirs = (self.raw(who, *select, *image) for who in ("ours", "theirs"))
            self.assert_same_bytes(ours, theirs, f"snapshot {identifier}")
