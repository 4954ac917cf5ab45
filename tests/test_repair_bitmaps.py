"""`check -r` of a qcow2 whose bitmap directory is damaged: words and status are the stock tool's, bitmaps are not written to."""

import os
import re
import shutil
import struct

from tests.base import InstarTestBase
from tests.helpers import damage

FAR = 1 << 40


class BitmapDirectoryTest(InstarTestBase):
    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "sound", "8M")
        for name in ("one", "two"):
            self.make("qemu-img", "bitmap", "--add", "-g", "64k", "sound", name)
        self.make("qemu-io", "-c", "write -P 5 0 1M", "-c", "write -P 6 3M 64k", "sound")
        image = damage.Image(self.path("sound"))
        self.directory, self.field = image.bitmap_directory()
        self.tables = [image.number(self.directory + 32 * index) for index in range(2)]
        self.bits, self.l1 = image.number(self.tables[0]), image.l1

    def outcomes(self, at, form, value, words):
        """Of both tools, on copies of one damaged image, which are `ours` and `theirs` then."""
        told = []
        for name, run in (("ours", self.run_as_qemu_img), ("theirs", self.run_qemu_img)):
            shutil.copy(self.path("sound"), self.path("copy"))
            damage.Image(self.path("copy")).write(at, struct.pack(form, value))
            shutil.copy(self.path("copy"), self.path("damaged"))
            out, err, status = run("check", *words, "copy", cwd=self.tmp)
            # A warning of the stock tool does not end its line, and what it does when it closes the image is no repair.
            err = re.sub(r"qcow2_free_clusters failed: .*\n", "", err.replace("file to fix.\n", "file to fix."))
            told.append((out, err, status))
            os.rename(self.path("copy"), self.path(name))
        return told

    def test_each_field(self):
        first, second = self.directory, self.directory + 32
        for what, at, form, value in (
            ("in use", first + 12, ">I", 3),
            ("a table that is another's", second, ">Q", self.tables[0]),
            ("a table that is the L1 table", first, ">Q", self.l1),
            ("bits that are the L1 table", self.tables[0], ">Q", self.l1),
            ("bits that are another's", self.tables[1], ">Q", self.bits),
            ("a table behind the file", first, ">Q", FAR),
            ("a table at no cluster", first, ">Q", self.tables[0] + 512),
            ("no table", first, ">Q", 0),
            ("an empty table", first + 8, ">I", 0),
            ("type", first + 16, "B", 7),
            ("granularity", first + 17, "B", 40),
            ("flags", first + 12, ">I", 0x12),
            ("length of the name", first + 18, ">H", 2000),
            ("extra data", first + 20, ">I", 8),
            ("the same name", second + 24, "3s", b"one"),
            ("bits at no cluster", self.tables[0], ">Q", 0x200),
            ("bits behind the file", self.tables[0], ">Q", FAR),
            ("reserved bits", self.tables[0], ">Q", 2),
            ("more than there are", self.field - 16, ">I", 3),
            ("fewer than there are", self.field - 16, ">I", 1),
            ("a directory behind the file", self.field, ">Q", FAR),
            ("a directory that is the L1 table", self.field, ">Q", self.l1),
            ("a directory at no cluster", self.field, ">Q", self.directory + 512),
            ("a directory that is too long", self.field - 8, ">Q", 1 << 20),
            ("stale", 88, ">Q", 0),
        ):
            for words in ((), ("-r", "leaks"), ("-r", "all")):
                with self.subTest(what=what, words=words):
                    ours, theirs = self.outcomes(at, form, value, words)
                    ends = lambda outcome: (re.sub(r"Image end offset: \d+", "", outcome[0]), *outcome[1:])  # noqa: E731
                    self.assertEqual(ends(ours), ends(theirs))
                    image, damaged = (damage.Image(self.path(name)) for name in ("ours", "damaged"))
                    for place in (self.directory, *self.tables):
                        self.assertEqual(image.read(place, 512), damaged.read(place, 512))

    def test_what_leads_behind_the_file_can_be_removed(self):
        for at in (self.directory, self.tables[0]):
            with self.subTest(at=at):
                self.outcomes(at, ">Q", FAR, ("-r", "all"))
                out = self.run_as_qemu_img("bitmap", "--remove", "ours", "one", cwd=self.tmp)
                self.assertEqual(out, ("", "", 0))
                self.assertEqual(self.run_qemu_img("check", "ours", cwd=self.tmp)[2], 0)
