"""How files are named: colons, `file:`, JSON in either kind of quotes, drivers of files where a format is asked for."""

import contextlib
import os
import re
import shutil
import subprocess

from tests.base import InstarTestBase

DATED = "2024-01-02T10:11:12.q"


class TwoFolders(InstarTestBase):
    """Each program works in a folder of its own; what they say and make is compared."""

    def setUp(self):
        super().setUp()
        self.folders = [self.path("ours"), self.path("theirs")]
        for folder in self.folders:
            os.mkdir(folder)

    def both(self, *argv):
        ours = self.run_as_qemu_img(*argv, cwd=self.folders[0])
        theirs = self.run_qemu_img(*argv, cwd=self.folders[1])
        # How much of a new file is allocated depends on the order of writing.
        masked = [re.sub(r'(disk size: |"actual-size": ).*', r"\1", text) for text in (ours[0], theirs[0])]
        self.assertEqual((masked[0], *ours[1:]), (masked[1], *theirs[1:]), argv)
        self.assertEqual(*(sorted(os.listdir(folder)) for folder in self.folders), argv)
        return theirs

    def on_both(self, *argv):
        """A fixture."""
        for folder in self.folders:
            self.make(*argv, cwd=folder)


class TestColons(TwoFolders):
    def test_what_follows_file_is_a_name(self):
        for name in (f"file:{DATED}", "file:a:b:c", "file:plain", f"./{DATED}x", DATED, "nosuch:x", "file:"):
            with self.subTest(name=name):
                self.both("create", "-q", "-f", "qcow2", name, "1M")
                for command in (["info"], ["info", "--output=json"], ["check"], ["map"], ["measure", "-O", "raw"]):
                    self.both(*command, name)

    def test_commands_that_write(self):
        self.on_both("qemu-img", "create", "-q", "-f", "qcow2", f"./{DATED}", "1M")
        self.on_both("qemu-io", "-c", "write -P 3 0 64k", f"./{DATED}")
        self.both("resize", f"file:{DATED}", "2M")
        for fmt in ("raw", "qcow2", "vmdk"):
            self.both("convert", "-O", fmt, f"file:{DATED}", f"file:c:{fmt}")
            self.both("compare", f"file:{DATED}", f"file:c:{fmt}")
        self.both("dd", f"if=file:{DATED}", "of=file:d:1")
        self.both("convert", "-n", "-O", "qcow2", f"file:{DATED}", "file:c:qcow2")

    def test_backing_files(self):
        self.on_both("qemu-img", "create", "-q", "-f", "qcow2", "./b:1.q", "1M")
        self.on_both("qemu-io", "-c", "write -P 3 0 64k", "./b:1.q")
        self.both("create", "-q", "-f", "qcow2", "-b", "file:b:1.q", "-F", "qcow2", "o.q")
        for command in (["info", "--backing-chain"], ["info", "--backing-chain", "--output=json"], ["map"], ["check"]):
            self.both(*command, "o.q")
        self.both("convert", "-O", "raw", "o.q", "o.raw")
        self.both("convert", "-O", "qcow2", "-B", "file:b:1.q", "-F", "qcow2", "o.q", "p.q")
        self.both("create", "-q", "-f", "qcow2", "-b", "b:1.q", "-F", "qcow2", "r.q")
        self.both("rebase", "-b", "file:b:1.q", "-F", "qcow2", "p.q")
        self.both("rebase", "-u", "-b", "./b:1.q", "-F", "qcow2", "p.q")
        self.both("commit", "-b", "file:b:1.q", "o.q")
        self.both("info", "o.q")
        self.both("convert", "-O", "qcow2", "-B", "b:1.q", "-F", "qcow2", "o.q", "p.q")

    def test_data_files(self):
        self.both("create", "-q", "-f", "qcow2", "-o", "data_file=file:e:1.raw", "e.q", "1M")
        self.both("info", "e.q")
        self.both("map", "e.q")
        self.both("create", "-q", "-f", "qcow2", "-o", "data_file=e:1.raw", "f.q", "1M")

    def test_images_of_several_files(self):
        for number, name in enumerate(("file:v:1.vmdk", "./w:1.vmdk", "file:x.vmdk")):
            for subformat in ("monolithicFlat", "twoGbMaxExtentSparse"):
                self.both("create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", f"{name}{number}", "3M")
                out, err, status = self.run_instar("info", f"{name}{number}", cwd=self.folders[0])
                self.assertEqual((err, status), ("", 0), out)


class TestJson(InstarTestBase):
    def test_either_kind_of_quotes(self):
        for name in ("plain.q", 'double"quote.q', "single'quote.q", "back\\slash.q", "d:1.q", "A.q"):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", f"./{name}", "1M")
        for text in (
            "{'driver':'qcow2','file':{'driver':'file','filename':'plain.q'}}",
            "{'driver':\"qcow2\",'file.filename':'double\"quote.q'}",
            "{'driver':'qcow2','file.filename':'single\\'quote.q'}",
            "{'driver':'qcow2','file.filename':\"single'quote.q\"}",
            "{\"driver\":\"qcow2\",\"file.filename\":\"single\\'quote.q\"}",
            "{'driver':'qcow2','file.filename':'back\\\\slash.q'}",
            "{'driver':'qcow2','file.filename':'d:1.q'}",
            "{'driver':'qcow2','file.filename':'\\u0041.q'}",
            "{'driver':'qcow2','file.filename':'nosuch'}",
            "{'driver':'file','filename':'plain.q'}",
        ):
            for output in ("human", "json"):
                argv = ["info", f"--output={output}", f"json:{text}"]
                self.assert_same_outcome(
                    self.run_instar(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp), text
                )


class TestDriversOfFiles(TwoFolders):
    """`-f file` and its like: the bytes as they are."""

    @contextlib.contextmanager
    def device(self, size):
        """A loop device over a file of that size."""
        if shutil.which("losetup") is None or os.geteuid() != 0:
            self.skipTest("no loop devices")
        back = self.path("back")
        with open(back, "wb") as file:
            file.write(os.urandom(size))
        done = subprocess.run(["losetup", "-f", "--show", back], capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest("no loop device to be had")
        try:
            yield done.stdout.strip()
        finally:
            subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)

    def test_files(self):
        self.on_both("qemu-img", "create", "-q", "-f", "qcow2", "i.q", "1M")
        for folder in self.folders:
            with open(f"{folder}/y", "wb") as file:
                file.write(b"text" * 300)
        for image in ("y", "i.q"):
            for command in (
                ["info"], ["info", "--output=json"], ["map"], ["map", "--output=json"], ["check"],
                ["measure", "-O", "raw"], ["commit"],
            ):
                self.both(*command, "-f", "file", image)
        for argv in (
            ["convert", "-f", "file", "-O", "raw", "y", "o1"],
            ["convert", "-O", "file", "i.q", "o2"],
            ["convert", "-n", "-O", "file", "i.q", "o2"],
            ["convert", "-c", "-O", "file", "i.q", "o3"],
            ["compare", "-f", "file", "-F", "raw", "i.q", "o2"],
            ["create", "-f", "file", "z", "1M"],
            ["create", "-f", "file", "-o", "preallocation=full,nocow=on", "z", "1M"],
            ["create", "-f", "file", "-b", "y", "-F", "raw", "z9", "1M"],
            ["create", "-f", "file", "-o", "help"],
            ["convert", "-O", "file", "-o", "help"],
            ["create", "-f", "host_device", "-o", "help"],
            ["resize", "-f", "file", "z", "2M"],
            ["measure", "-O", "file", "--size", "1M"],
            ["dd", "-f", "file", "-O", "file", "if=y", "of=d"],
            ["create", "-f", "qcow2", "-b", "y", "-F", "file", "ov.q"],
            ["info", "--backing-chain", "ov.q"],
            ["convert", "-O", "raw", "ov.q", "o4"],
            ["rebase", "-u", "-b", "y", "-F", "file", "ov.q"],
            ["create", "-f", "host_device", "nosuch", "1M"],
            ["convert", "-O", "host_device", "y", "nosuch"],
            ["info", "-f", "host_device", "y"],
            ["info", "-f", "nosuch", "y"],
        ):
            self.both(*argv)
        for name in ("o1", "o2", "o4", "z", "d"):
            self.assert_bytes_identical(*(f"{folder}/{name}" for folder in self.folders))

    def test_devices(self):
        with self.device(1 << 20) as device:
            with open(self.path("back"), "rb") as file:
                content = file.read()
            for argv in (
                ["info", "-f", "host_device", device],
                ["info", "-f", "host_cdrom", device],
                ["info", "-f", "host_device", "--output=json", device],
                ["info", "-f", "file", device],
                ["convert", "-f", "host_device", "-O", "raw", device, "o1"],
                ["create", "-f", "host_device", device, "1M"],
                ["create", "-f", "host_device", device, "2M"],
            ):
                self.both(*argv)
            for folder in self.folders:
                with open(f"{folder}/o1", "rb") as file:
                    self.assertEqual(file.read(), content)
            with open(self.path("new"), "wb") as file:
                file.write(os.urandom(1 << 20))
            for argv in ([], ["-n"]):
                done = self.run_instar("convert", *argv, "-f", "raw", "-O", "host_device", self.path("new"), device)
                self.assertEqual(done, ("", "", 0))
                self.assert_bytes_identical(self.path("new"), self.path("back"))
