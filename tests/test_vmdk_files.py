"""vmdk images of several files: the same files as the stock tool's, all of them or none, and no others."""

import os
import re
import resource
import shutil
import signal
import subprocess
import time
import unittest

from tests.base import InstarTestBase
from tests.test_create import CreateTestBase

MIB = 1 << 20
GIB = 1 << 30
SECTOR = 512
# The descriptor's place where it is in the file of the grains.
EMBEDDED = (SECTOR, 20 * SECTOR)
FLAT, SPLIT, SPLIT_FLAT = "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"
SEVERAL = (FLAT, SPLIT, SPLIT_FLAT)
ALL = (*SEVERAL, "monolithicSparse", "streamOptimized")
SIZES = ("0", "1", "513", "1M", "1025k", "2G", "2147483649", "5G")
OPTIONS = (
    "adapter_type=lsilogic",
    "adapter_type=buslogic,hwversion=7",
    "adapter_type=legacyESX,toolsversion=10304",
    "compat6=on",
    "compat6=off,hwversion=9,toolsversion=0",
    "preallocation=falloc,nocow=off,extent_size_hint=0",
    "zeroed_grain=off",
)


def without_cid(path):
    """The identity, which is drawn at random, becomes 0."""
    with open(path, "r+b") as file:
        at, length = EMBEDDED if file.read(4) == b"KDMV" else (0, 1 << 16)
        file.seek(at)
        text = file.read(length)
        changed = re.sub(rb"\nCID=[0-9a-f]+\n", b"\nCID=0\n", text, count=1)
        if changed == text:
            return
        file.seek(at)
        file.write(changed.ljust(length, b"\0") if at else changed)
        if not at:
            file.truncate()


class TestCreate(CreateTestBase):
    def one(self, subformat, option, *argv, **kwargs):
        words = f"subformat={subformat}" + (f",{option}" if option else "")
        self.create("-f", "vmdk", "-o", words, *argv, mask=without_cid, **kwargs)

    def test_sizes(self):
        for subformat in ALL:
            for size in SIZES:
                with self.subTest(subformat=subformat, size=size):
                    self.one(subformat, "", "disk.vmdk", size)

    def test_options(self):
        for subformat in ALL:
            for option in OPTIONS:
                with self.subTest(subformat=subformat, option=option):
                    self.one(subformat, option, "disk.vmdk", "3G")
        for subformat in (SPLIT, "monolithicSparse"):
            self.one(subformat, "zeroed_grain=on", "disk.vmdk", "3G")

    def test_names(self):
        for subformat in SEVERAL:
            for name in ("noext", "a.b.vmdk", ".vmdk", "./x.vmdk", "./c:d.vmdk", "file:d.vmdk", "x y.vmdk", "x" * 240):
                with self.subTest(subformat=subformat, name=name):
                    self.one(subformat, "", name, "3M")
            self.one(subformat, "", "x" * 250 + ".vmdk", "3M", leaves=True)

    def test_folders(self):
        for where in ("ours", "theirs"):
            os.makedirs(self.path(f"{where}/dir.x/sub"))
        for name in ("dir.x/noext", "dir.x/./disk.vmdk", "dir.x/sub/../disk.vmdk"):
            for where, run in (("ours", self.run_as_qemu_img), ("theirs", self.run_qemu_img)):
                out, err, status = run("create", "-f", "vmdk", "-o", f"subformat={FLAT}", name, "3M", cwd=self.path(where))
                self.assertEqual((err, status), ("", 0), out)
        names = [sorted(os.listdir(self.path(f"{where}/dir.x"))) for where in ("ours", "theirs")]
        self.assertEqual(*names)
        self.assertIn("noext-flat", names[0])

    def test_backing(self):
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "base.vmdk", "3G")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "3G")
        fixtures = ("base.vmdk", "base.qcow2")
        self.one(SPLIT, "", "-b", "base.vmdk", "-F", "vmdk", "disk.vmdk", fixtures=fixtures)
        self.one(SPLIT, "zeroed_grain=on", "-b", "base.vmdk", "-F", "vmdk", "disk.vmdk", "5G", fixtures=fixtures)
        for subformat in SEVERAL:
            self.one(subformat, "", "-b", "base.qcow2", "-F", "qcow2", "disk.vmdk", fixtures=fixtures, leaves=True)
        for subformat in (FLAT, SPLIT_FLAT):
            self.one(subformat, "", "-b", "base.vmdk", "-F", "vmdk", "disk.vmdk", fixtures=fixtures, leaves=True)
            self.one(
                subformat, "zeroed_grain=on", "-b", "base.vmdk", "-F", "vmdk", "disk.vmdk", fixtures=fixtures, leaves=True
            )

    def test_texts(self):
        for subformat in SEVERAL:
            for option in (
                "adapter_type=scsi",
                "compat6=on,hwversion=5",
                "preallocation=metadata",
                "compat6=on,hwversion=5,preallocation=metadata",
                "zeroed_grain=maybe",
                "foo=1",
            ):
                self.one(subformat, option, "disk.vmdk", "3M", leaves=True)
        for subformat in (FLAT, SPLIT_FLAT):
            self.one(subformat, "zeroed_grain=on", "disk.vmdk", "3M", leaves=True)
        self.one("monolithicflat", "", "disk.vmdk", "3M", leaves=True)
        self.one(FLAT, "", "disk.vmdk", "7E", leaves=True)

    def test_too_many_files(self):
        """An image of which no more than a part could be opened is not made."""
        out, err, status = self.run_instar("create", "-f", "vmdk", "-o", f"subformat={SPLIT}", "x", "64T", cwd=self.tmp)
        says = "instar: x: The image size is too large for file format 'vmdk'\ninstar: hint: a disk is split into 10000 files of 2 GiB"
        self.assertTrue(err.startswith(says), err)
        self.assertEqual(status, 1, out)
        self.assertEqual(os.listdir(self.tmp), [])

    def test_names_that_no_descriptor_can_hold(self):
        for name in ('q"q.vmdk', "n\nn.vmdk"):
            out, _err, status = self.run_instar("create", "-f", "vmdk", "-o", f"subformat={FLAT}", name, "1M", cwd=self.tmp)
            self.assertEqual(status, 1, out)
            self.assertEqual(os.listdir(self.tmp), [])

    def test_disk_size(self):
        """Blocks that are there: of a plain file only the first."""
        for subformat in SEVERAL:
            ours, theirs = self.folders()
            words = ("create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", "x", "5G")
            self.run_instar(*words, cwd=ours)
            self.run_qemu_img(*words, cwd=theirs)
            for name in os.listdir(theirs):
                self.assertEqual(os.stat(f"{ours}/{name}").st_blocks, os.stat(f"{theirs}/{name}").st_blocks, name)


class SeveralFiles(InstarTestBase):
    """A folder to work in, and a source beside it."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("work"))

    def source(self, *pieces, size):
        """A sparse raw file with random bytes from some places on."""
        with open(self.path("source"), "wb") as file:
            for at, length in pieces:
                file.seek(at)
                file.write(os.urandom(length))
            file.truncate(size)

    def convert(self, subformat, *argv, run=None, **kwargs):
        words = ["convert", *argv, "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", "../source", "disk.vmdk"]
        return (run or self.run_instar)(*words, cwd=self.path("work"), **kwargs)

    def names(self):
        return sorted(os.listdir(self.path("work")))

    def shows_the_source(self):
        out, err, status = self.run_qemu_img("compare", "-f", "raw", "-F", "vmdk", "source", "work/disk.vmdk", cwd=self.tmp)
        self.assertEqual((out, status), ("Images are identical.\n", 0), err)


class TestConvert(SeveralFiles):
    def test_over_the_bounds_of_files(self):
        """Data on both sides of 2 GiB and at the end of a disk of three files; compressed sources, too."""
        self.source((0, MIB), (2 * GIB - 3 * 65536, 5 * 65536), (4 * GIB - 700, 1400), (5 * GIB - 512, 512), size=5 * GIB)
        self.make("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "source", "packed.qcow2")
        for subformat in SEVERAL:
            for words in (["-f", "raw", "../source"], ["-f", "qcow2", "../packed.qcow2"]):
                with self.subTest(subformat=subformat, words=words):
                    for name in self.names():
                        os.unlink(os.path.join(self.path("work"), name))
                    options = ["-O", "vmdk", "-o", f"subformat={subformat}"]
                    out, err, status = self.run_instar("convert", *words[:2], *options, words[2], "disk.vmdk", cwd=self.path("work"))
                    self.assertEqual((out, err, status), ("", "", 0))
                    self.shows_the_source()
                    self.assertEqual(len(self.names()), 2 if subformat == FLAT else 4)
                    # Holes stay holes.
                    blocks = sum(os.stat(os.path.join(self.path("work"), name)).st_blocks for name in self.names())
                    self.assertLess(blocks * SECTOR, 4 * MIB)

    def test_compressed(self):
        """Plain files have nothing to compress; QEMU's driver does not compress grains that may be changed."""
        self.source((0, MIB), size=3 * MIB)
        for subformat in SEVERAL:
            with self.subTest(subformat):
                stock = self.convert(subformat, "-c", run=self.run_qemu_img)
                shutil.rmtree(self.path("work"))
                os.mkdir(self.path("work"))
                self.assertEqual(self.convert(subformat, "-c", run=self.run_as_qemu_img), stock)
                if stock[2] == 0:
                    self.shows_the_source()
                else:
                    self.assertEqual(self.names(), [])

    def test_without_holes(self):
        self.source((0, 65536), size=3 * MIB)
        for subformat in SEVERAL:
            out, err, status = self.convert(subformat, "-S", "0")
            self.assertEqual((out, err, status), ("", "", 0))
            self.shows_the_source()
        flat = os.path.join(self.path("work"), "disk-flat.vmdk")
        self.assertGreaterEqual(os.stat(flat).st_blocks * SECTOR, 3 * MIB)

    def test_over_a_backing_file(self):
        self.source((0, MIB), size=3 * MIB)
        self.make("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "source", "work/base.vmdk")
        self.source((MIB, MIB), size=3 * MIB)
        for subformat in (SPLIT, FLAT, SPLIT_FLAT):
            words = ["-B", "base.vmdk", "-F", "vmdk"]
            stock = self.convert(subformat, *words, run=self.run_qemu_img)
            for name in self.names():
                if name != "base.vmdk":
                    os.unlink(os.path.join(self.path("work"), name))
            self.assertEqual(self.convert(subformat, *words, run=self.run_as_qemu_img), stock)
            if stock[2] == 0:
                self.shows_the_source()
            else:
                self.assertEqual([name for name in self.names() if name.startswith("disk")], [])
            for name in self.names():
                if name != "base.vmdk":
                    os.unlink(os.path.join(self.path("work"), name))

    def test_by_a_link(self):
        """The other files are where the link is, as the image is opened by it."""
        self.source((0, MIB), size=3 * MIB)
        os.mkdir(self.path("elsewhere"))
        os.symlink("../elsewhere/real.vmdk", os.path.join(self.path("work"), "disk.vmdk"))
        self.assertEqual(self.convert(FLAT), ("", "", 0))
        self.assertEqual(self.names(), ["disk-flat.vmdk", "disk.vmdk"])
        self.assertEqual(os.listdir(self.path("elsewhere")), ["real.vmdk"])
        self.shows_the_source()


class TestReplaced(SeveralFiles):
    """Images that are there already."""

    def setUp(self):
        super().setUp()
        self.source((0, 4 * MIB), size=4 * MIB)

    def old(self, subformat):
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", "work/disk.vmdk", "1M")
        return {name: self.sha256(os.path.join(self.path("work"), name)) for name in self.names()}

    def state(self):
        return {name: self.sha256(os.path.join(self.path("work"), name)) for name in self.names()}

    def test_by_a_whole_one(self):
        for subformat in SEVERAL:
            self.old(subformat)
            names = self.names()
            self.assertEqual(self.convert(subformat), ("", "", 0))
            self.assertEqual(self.names(), names)
            self.shows_the_source()

    def test_not_by_a_half(self):
        """Too long a file, and a folder in the place of one: the old image stays as it is."""
        for subformat in SEVERAL:
            with self.subTest(subformat):
                before = self.old(subformat)
                _out, err, status = self.convert(subformat, limits={resource.RLIMIT_FSIZE: 2 * MIB})
                self.assertEqual(status, 1)
                self.assertIn("File too large", err)
                self.assertEqual(self.state(), before)
                shutil.rmtree(self.path("work"))
                os.mkdir(self.path("work"))
        before = self.old(SPLIT)
        os.mkdir(os.path.join(self.path("work"), "disk-s002.vmdk"))
        for run in (self.run_as_qemu_img, self.run_qemu_img):
            out, err, status = run("create", "-q", "-f", "vmdk", "-o", f"subformat={SPLIT}", "disk.vmdk", "5G", cwd=self.path("work"))
            text = "qemu-img: disk.vmdk: Could not create 'disk-s002.vmdk': Is a directory\n"
            self.assertEqual((out, err, status), ("", text, 1))
            if run == self.run_as_qemu_img:
                os.rmdir(os.path.join(self.path("work"), "disk-s002.vmdk"))
                self.assertEqual(self.state(), before)
                os.mkdir(os.path.join(self.path("work"), "disk-s002.vmdk"))

    def test_killed(self):
        before = self.old(SPLIT)
        for number in (signal.SIGINT, signal.SIGKILL):
            words = ["convert", "-r", "1M", "-f", "raw", "-O", "vmdk", "-o", f"subformat={SPLIT}", "../source", "disk.vmdk"]
            argv = [self.get_instar_binary(), *words]
            options = {"cwd": self.path("work"), "stderr": subprocess.DEVNULL, "start_new_session": True}
            with subprocess.Popen(argv, **options) as worker:
                time.sleep(0.6)
                self.assertIsNone(worker.poll(), "it was over too soon to show anything")
                worker.send_signal(number)
                self.assertEqual(worker.wait(timeout=10), -number)
            self.wait_for_the_end_of(worker.pid)
            self.assertEqual(self.state(), before)

    def wait_for_the_end_of(self, group):
        """Its publisher tidies up, and has the locks of what was to be replaced until then."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.02)
        self.fail("a process is left")

    @unittest.skipUnless(os.geteuid() == 0, "another user is needed")
    def test_in_a_folder_that_may_not_be_written(self):
        """Files that may be written are written where they are, as by the stock tool."""

        def demote():
            os.setgid(65534)
            os.setuid(65534)

        for subformat in SEVERAL:
            with self.subTest(subformat):
                self.old(subformat)
                for folder in (self.tmp, self.path("work")):
                    os.chmod(folder, 0o755)
                for name in self.names():
                    os.chmod(os.path.join(self.path("work"), name), 0o666)
                os.chmod(self.path("source"), 0o644)
                words = ["convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", "../source", "disk.vmdk"]
                # Whoever may write to files of others need not be allowed a virtual machine.
                env = {**os.environ, "HOME": "/nonexistent", "INSTAR_ISOLATION": "process"}
                argv = [self.get_instar_binary(), *words]
                done = subprocess.run(
                    argv, cwd=self.path("work"), env=env, capture_output=True, text=True, preexec_fn=demote, check=False
                )
                self.assertEqual((done.stderr, done.returncode), ("", 0))
                self.shows_the_source()
                for name in self.names():
                    os.unlink(os.path.join(self.path("work"), name))


class TestTwoPrograms(SeveralFiles):
    def test_a_file_that_another_image_holds(self):
        """Another descriptor has the extents, and a qemu-io that one."""
        self.source((0, MIB), size=4 * GIB)
        for subformat, name in ((FLAT, "disk-flat.vmdk"), (SPLIT, "disk-s001.vmdk"), (SPLIT_FLAT, "disk-f001.vmdk")):
            with self.subTest(subformat):
                outcomes = []
                for run in (self.run_as_qemu_img, self.run_qemu_img):
                    words = ["-o", f"subformat={subformat}", "work/disk.vmdk", "5G"]
                    self.make("qemu-img", "create", "-q", "-f", "vmdk", *words)
                    os.rename(os.path.join(self.path("work"), "disk.vmdk"), os.path.join(self.path("work"), "other.vmdk"))
                    before = {name: os.stat(os.path.join(self.path("work"), name)).st_mtime_ns for name in self.names()}
                    with self.held("work/other.vmdk", "vmdk"):
                        outcomes.append(self.convert(subformat, run=run))
                    if run == self.run_as_qemu_img:
                        after = {name: os.stat(os.path.join(self.path("work"), name)).st_mtime_ns for name in self.names()}
                        self.assertEqual(after, before)
                    for left in self.names():
                        os.unlink(os.path.join(self.path("work"), left))
                self.assertEqual(outcomes[0], outcomes[1])
                self.assertIn(f"lock\nIs another process using the image [{name}]", outcomes[0][1])

    def test_a_source_in_the_place_of_a_file(self):
        """The image's data may not be written over what it comes from."""
        self.source((0, MIB), size=MIB)
        os.rename(self.path("source"), os.path.join(self.path("work"), "disk-flat.vmdk"))
        os.symlink("work/disk-flat.vmdk", self.path("source"))
        before = self.sha256(self.path("source"))
        outcome = self.convert(FLAT, run=self.run_as_qemu_img)
        self.assertEqual(self.sha256(self.path("source")), before)
        self.assertEqual(self.names(), ["disk-flat.vmdk"])
        self.assertEqual(outcome, self.convert(FLAT, run=self.run_qemu_img))


class TestOtherFormats(SeveralFiles):
    def test_have_one_file(self):
        """What lies beside the target is none of the business of a format with one file."""
        self.source((0, MIB), size=MIB)
        for name in ("disk-flat.vmdk", "disk-s001.vmdk"):
            with open(os.path.join(self.path("work"), name), "wb") as file:
                file.write(b"old")
        for subformat in ("monolithicSparse", "streamOptimized"):
            self.assertEqual(self.convert(subformat), ("", "", 0))
            self.assertEqual(self.names(), ["disk-flat.vmdk", "disk-s001.vmdk", "disk.vmdk"])
            for name in ("disk-flat.vmdk", "disk-s001.vmdk"):
                with open(os.path.join(self.path("work"), name), "rb") as file:
                    self.assertEqual(file.read(), b"old")


if __name__ == "__main__":
    unittest.main()
