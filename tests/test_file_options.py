"""How the file system is to hold what is made: `nocow` on btrfs, `extent_size_hint` on XFS."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess

from tests.base import InstarTestBase

FS_IOC_GETFLAGS = 0x8008_6601
FS_NOCOW_FL = 0x0080_0000
FORMATS = ("raw", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels", "luks", "file")


class OfTheFile(InstarTestBase):
    @contextlib.contextmanager
    def mounted(self, make, size):
        """A file system of that kind, in a file."""
        if shutil.which(make) is None or os.geteuid() != 0:
            self.skipTest(f"no {make}, or not root")
        with open(self.path("img"), "wb") as file:
            file.truncate(size)
        self.run_tool([make, "-q", self.path("img")])
        os.mkdir(self.path("m"))
        if subprocess.run(["mount", "-o", "loop", self.path("img"), self.path("m")], check=False).returncode:
            self.skipTest("nothing can be mounted here")
        try:
            yield self.path("m")
        finally:
            subprocess.run(["umount", self.path("m")], check=True)

    def is_nocow(self, path):
        with open(path, "rb") as file:
            flags = struct.unpack("l", fcntl.ioctl(file, FS_IOC_GETFLAGS, struct.pack("l", 0)))[0]
        return bool(flags & FS_NOCOW_FL)

    def options_of(self, fmt, option):
        """luks wants a key besides."""
        secret = ["--object", "secret,id=s,data=abc"] if fmt == "luks" else []
        return [*secret, "-f", fmt, "-o", option + (",key-secret=s,iter-time=10" if fmt == "luks" else "")]


class TestNocow(OfTheFile):
    def test_every_format(self):
        with self.mounted("mkfs.btrfs", 200 << 20) as folder:
            for fmt in FORMATS:
                for value, wanted in (("on", True), ("off", False)):
                    name = f"{folder}/{fmt}-{value}"
                    done = self.run_instar("create", "-q", *self.options_of(fmt, f"nocow={value}"), name, "2M")
                    self.assertEqual(done, ("", "", 0))
                    self.assertEqual(self.is_nocow(name), wanted, name)

    def test_convert_and_files_beside(self):
        with self.mounted("mkfs.btrfs", 200 << 20) as folder:
            self.make("qemu-img", "create", "-q", "-f", "raw", "s.raw", "3M")
            self.make("qemu-io", "-f", "raw", "-c", "write -P 7 0 2M", "s.raw")
            for fmt, option, other in (
                ("qcow2", "nocow=on", None),
                ("qcow2", f"nocow=on,data_file={folder}/data", "data"),
                ("vmdk", "nocow=on,subformat=monolithicFlat", "t-flat"),
                ("vmdk", "nocow=on,subformat=twoGbMaxExtentSparse", "t-s001"),
            ):
                target = f"{folder}/t"
                done = self.run_instar("convert", "-O", fmt, "-o", option, self.path("s.raw"), target)
                self.assertEqual(done, ("", "", 0))
                self.assertTrue(self.is_nocow(target), option)
                if other:
                    self.assertTrue(self.is_nocow(f"{folder}/{other}"), option)
                self.assert_same_disk(self.path("s.raw"), target, "-f", "raw", "-F", fmt)

    def test_where_there_is_no_such_thing(self):
        done = self.run_instar("create", "-q", "-f", "qcow2", "-o", "nocow=on", self.path("x"), "1M")
        self.assertEqual(done, ("", "", 0))


class TestExtentSizeHint(OfTheFile):
    def test_every_format(self):
        """What each program makes, each program shows alike; without the option there is a hint, too."""
        with self.mounted("mkfs.xfs", 400 << 20) as folder:
            for fmt in FORMATS:
                for option in ("nocow=off", "extent_size_hint=2M", "extent_size_hint=0"):
                    shown = []
                    for make in (self.run_instar, self.run_qemu_img):
                        name = f"{folder}/x"
                        done = make("create", "-q", *self.options_of(fmt, option), name, "4M")
                        self.assertEqual(done, ("", "", 0))
                        for read in (self.run_instar, self.run_qemu_img):
                            text = read("info", "--output=json", name)[0]
                            shown.append([line.strip() for line in text.splitlines() if "extent-size-hint" in line])
                        os.unlink(name)
                    self.assertTrue(all(each == shown[-1] for each in shown), (fmt, option, shown))
                    self.assertEqual(len(shown[-1]), 0 if option == "extent_size_hint=0" else 1)

    def test_as_info_shows_it(self):
        with self.mounted("mkfs.xfs", 400 << 20) as folder:
            for name, argv in (
                ("a", ["-f", "raw", f"{folder}/a", "1M"]),
                ("v", ["-f", "vmdk", "-o", "subformat=monolithicFlat", f"{folder}/v", "1M"]),
                ("o", ["-f", "qcow2", "-b", f"{folder}/a", "-F", "raw", f"{folder}/o"]),
            ):
                self.make("qemu-img", "create", "-q", *argv)
                for more in ([], ["--output=json"], ["--backing-chain"], ["-f", "file"]):
                    argv = ["info", *more, f"{folder}/{name}"]
                    self.assert_same_outcome(self.run_instar(*argv), self.run_qemu_img(*argv), argv)

    def test_hints_that_cannot_be(self):
        with self.mounted("mkfs.xfs", 400 << 20) as folder:
            for value in ("1000", "8G", "x", "-1"):
                argv = ["create", "-f", "raw", "-o", f"extent_size_hint={value}", f"{folder}/{value}", "1M"]
                self.assert_same_outcome(self.run_instar(*argv), self.run_qemu_img(*argv), argv)
