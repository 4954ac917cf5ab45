"""Storage that is not memory: files that answer late, past the page cache, and on file systems that share blocks. What comes of
a command is the same everywhere, byte for byte."""

import filecmp
import os
import signal
import subprocess
import sys
import unittest
from pathlib import Path

from tests.base import ROOT, InstarTestBase
from tests.helpers import filesystems, images

MIB = 1 << 20
TARGETS = (
    ("-O", "raw"),
    ("-O", "raw", "-S", "0"),
    ("-O", "qcow2"),
    ("-O", "qcow2", "-o", "cluster_size=4k"),
    ("-O", "qcow2", "-o", "extended_l2=on,cluster_size=2M"),
    ("-c", "-O", "qcow2"),
    ("-O", "vdi"),
    ("-O", "vhdx"),
    ("-O", "vpc"),
    ("-O", "vmdk"),
    ("-O", "parallels"),
    ("-O", "qed"),
)
#: Identifiers and dates are new each time; the tables of qed lie behind each run that is placed, and what is shared is one.
VARYING = ("vdi", "vhdx", "vpc", "vmdk", "qed")


class Storage(InstarTestBase):
    """The same sources in memory and in the other place."""

    def make_sources(self, folder):
        """A disk of 20 MiB and a bit, as raw, qcow2 and compressed."""
        images.random_disk(self.path("all.raw"), 20 * MIB + 512, 5, chunk=1 << 18)
        # The same holes everywhere: jobs go by them, and where tables lie by jobs.
        filesystems.run("cp", "--sparse=always", self.path("all.raw"), self.path("disk.raw"))
        sources = {"disk.raw": None, "disk.qcow2": (), "zlib.qcow2": ("-c",)}
        for name, options in sources.items():
            if options is not None:
                self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, "disk.raw", name)
            filesystems.run("cp", "--sparse=always", self.path(name), folder)
        return list(sources)

    def assert_same(self, folder, source, way, *options):
        """What is made there is what is made in memory, and is sound."""
        fmt = way[way.index("-O") + 1]
        for where in (Path(self.tmp), folder):
            words = ("convert", *options, *way, where / source, where / "out")
            self.assertEqual(self.run_instar(*words, cwd=self.tmp), ("", "", 0))
        if fmt not in VARYING:
            self.assertTrue(filecmp.cmp(self.path("out"), folder / "out", shallow=False), (source, way))
        words = ("compare", "-f", "raw", "-F", fmt, self.path("disk.raw"), folder / "out")
        self.assertIn("Images are identical.\n", self.run_qemu_img(*words)[0], (source, way))
        if fmt in ("qcow2", "qed", "vdi", "parallels", "vhdx"):
            out, err, status = self.run_qemu_img("check", "-f", fmt, folder / "out")
            self.assertEqual((err, status), ("", 0), out)
        self.assertEqual(os.stat(self.path("out")).st_size, os.stat(folder / "out").st_size)


@unittest.skipUnless(os.geteuid() == 0, "only root can mount")
class TestShared(Storage):
    """Blocks of the source are shared: nothing is written."""

    def shared(self, path):
        """Bytes of the file that are another's, too."""
        os.sync()
        lines = filesystems.run("filefrag", "-v", path).splitlines()
        return sum(int(line.split(":")[3]) * 4096 for line in lines if "shared" in line)

    def test_to_every_format(self):
        for kind in ("xfs", "btrfs"):
            with filesystems.mounted(kind, self.tmp, 400 * MIB) as place:
                for source in self.make_sources(place):
                    for way in TARGETS:
                        with self.subTest(kind=kind, source=source, way=way):
                            self.assert_same(place, source, way)
                            if source != "zlib.qcow2" and "-c" not in way and way[1] in ("raw", "qcow2", "vhdx"):
                                least = 0 if "cluster_size=2M" in way[-1] else 4 * MIB
                                self.assertGreaterEqual(self.shared(place / "out"), least)

    def test_no_place_for_it(self):
        """The target lies elsewhere, or the source is no whole blocks."""
        with filesystems.mounted("btrfs", self.tmp, 400 * MIB) as place:
            self.make_sources(place)
            for source, offset in (("disk.raw", 0), ("disk.raw", 512)):
                opts = f"driver=raw,offset={offset},file.filename={place}/{source}"
                for out in (place / "out", Path(self.tmp, "out")):
                    words = ("convert", "--image-opts", "-O", "qcow2", opts, out)
                    self.assertEqual(self.run_instar(*words), ("", "", 0))
                    stock = self.run_qemu_img("compare", "--image-opts", opts, f"driver=qcow2,file.filename={out}")
                    self.assertEqual(stock[0], "Images are identical.\n")


@unittest.skipUnless(os.geteuid() == 0 and os.path.exists("/dev/fuse"), "needs root and FUSE")
class TestLate(Storage):
    """Each read and write takes two milliseconds: many are under way."""

    def setUp(self):
        super().setUp()
        self.back, self.place = Path(self.tmp, "back"), Path(self.tmp, "late")
        self.back.mkdir()
        self.place.mkdir()
        argv = [sys.executable, Path(ROOT, "benches/latency.py"), self.back, self.place, "2"]
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.wait)
        self.addCleanup(server.send_signal, signal.SIGTERM)
        self.addCleanup(server.stdout.close)
        self.assertEqual(server.stdout.readline(), "ready\n")
        self.sources = self.make_sources(self.back)

    def test_conversions(self):
        for source in self.sources:
            for way in TARGETS:
                with self.subTest(source=source, way=way):
                    self.assert_same(self.place, source, way)

    def test_past_the_page_cache(self):
        for source in self.sources:
            for way in (("-O", "raw"), ("-O", "qcow2"), ("-c", "-O", "qcow2"), ("-O", "vmdk")):
                with self.subTest(source=source, way=way):
                    self.assert_same(self.place, source, way, "-t", "none", "-T", "none")

    def test_others(self):
        """What only reads says the same."""
        for words in (
            ("info", "disk.qcow2"),
            ("check", "disk.qcow2"),
            ("map", "--output=json", "zlib.qcow2"),
            ("measure", "-O", "qcow2", "disk.raw"),
            ("compare", "disk.raw", "zlib.qcow2"),
            ("compare", "-f", "raw", "-F", "raw", "disk.raw", "disk.qcow2"),
        ):
            with self.subTest(words):
                expected = self.run_qemu_img(*words, cwd=self.place)
                self.assertEqual(self.run_as_qemu_img(*words, cwd=self.place), expected)
