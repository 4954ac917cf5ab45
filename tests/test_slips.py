"""Slips are answered: under the own name by a line below the stock tool's text; under the other one nothing is added."""

import os
import re
import shutil

from tests.base import InstarTestBase
from tests.helpers import filesystems, processes

UNITS = "sizes end in K M G T P E, powers of 1024: "
FORMATS = "formats: raw qcow2 qcow vmdk vpc vhdx vdi parallels qed dmg bochs cloop luks"
ELSEWHERE = "is not there yet (docs/differences.md): only local files and block devices are read; {} brings it here"
DASH = "'-' is no standard input here: pipes are not read, images are files (one of that name is ./-)"
SAME = "'a.qcow2' and '{}' are the same file: give the target another name"
COLON = "what stands before a colon is a protocol; a file of such a name is written file:NAME or ./NAME"
RAW = "{} is called raw here: the bytes of the disk and nothing else"

# In a folder with a.qcow2 (10 MiB), r.raw and the folder dir: what is typed, and the hint; None where there is none to be had.
SLIPS = [
    ("convrt a.qcow2 x", "did you mean 'convert'?"),
    ("ifno a.qcow2", "did you mean 'info'?"),
    ("snapshots -l a.qcow2", "did you mean 'snapshot'?"),
    ("Check a.qcow2", "did you mean 'check'?"),
    ("frobnicate a.qcow2", None),
    ("--verion", "did you mean '--version'?"),
    ("info --outpt=json a.qcow2", "did you mean '--output'?"),
    ("info --backing-chian a.qcow2", "did you mean '--backing-chain'?"),
    ("convert --target-fromat raw a.qcow2 x", "did you mean '--target-format'?"),
    ("commit --bogus a.qcow2", None),
    ("info -Z a.qcow2", None),
    ("convert -O vhd a.qcow2 x", "vhd is called vpc here"),
    ("convert -O VHD a.qcow2 x", "vhd is called vpc here"),
    ("measure -O vhd a.qcow2", "vhd is called vpc here"),
    ("create -f vhd x 1M", "vhd is called vpc here"),
    ("info -f vhd a.qcow2", "vhd is called vpc here"),
    ("convert -O vdmk a.qcow2 x", "did you mean 'vmdk'?"),
    ("convert -O qcow22 a.qcow2 x", "did you mean 'qcow2'?"),
    ("convert -O QCOW2 a.qcow2 x", "names of formats are written small: qcow2"),
    ("create -f Raw x 1M", "names of formats are written small: raw"),
    ("convert -O img a.qcow2 x", RAW.format("img")),
    ("info -f iso r.raw", RAW.format("iso")),
    ("convert -O ova a.qcow2 x", "an ova is an archive: unpack it with tar; the images in it are vmdk"),
    ("convert -O help a.qcow2 x", FORMATS),
    ("create -f qcow2 -b a.qcow2 -F qcw2 x", "did you mean 'qcow2'?"),
    ("create -f qcow2 -o clustersize=64k x 1M", "did you mean 'cluster_size'? -o help lists them"),
    ("create -f qcow2 -o cluster-size=64k x 1M", "did you mean 'cluster_size'? -o help lists them"),
    ("convert -O vmdk -o subfromat=flat a.qcow2 x", "did you mean 'subformat'? -o help lists them"),
    ("create -f raw -o whatever=1 x 1M", "the options here: extent_size_hint, nocow, preallocation, size"),
    ("amend -o compt=1.1 a.qcow2", "did you mean 'compat'? -o help lists them"),
    ("create x 10GB", UNITS + "10G"),
    ("create -f qcow2 x 10GiB", UNITS + "10G"),
    ("create x 1.5tb", UNITS + "1.5T"),
    ("create x ten", None),
    ("create 10M x", "the file's name comes first, and its size behind it"),
    ("create -f qcow2 x", "the size comes behind the name: create -f qcow2 disk.qcow2 10G"),
    ("create -f qcow2 -o cluster_size=64KB x 1M", UNITS + "64K"),
    ("resize r.raw +1GB", UNITS + "+1G"),
    ("convert -S 4KB a.qcow2 x", UNITS + "4K"),
    ("convert -r 10MB a.qcow2 x", UNITS + "10M"),
    ("convert a.qcow2 a.qcow2", SAME.format("a.qcow2")),
    ("convert -O qcow2 a.qcow2 dir/../a.qcow2", SAME.format("dir/../a.qcow2")),
    ("info dir", "'dir' is a folder: name the image that is in it"),
    ("convert dir x", "'dir' is a folder: name the image that is in it"),
    ("convert a.qcow2 dir", "'dir' is a folder: name the image that is in it"),
    ("info -", DASH),
    ("convert - x", DASH),
    ("info a.qcow2 r.raw", 'one image at a time: for file in A B; do instar info "$file"; done'),
    ("info", None),
    ("info nosuch:x", COLON),
    ("info nodir/x", "there is no folder 'nodir'"),
    ("convert a.qcow2 nodir/sub/x", "there is no folder 'nodir/sub'"),
    ("create nodir/x 1M", "there is no folder 'nodir'"),
    ("rebase -b nodir/x -F qcow2 a.qcow2", "there is no folder 'nodir'"),
    ("info a.qcow2/x", "'a.qcow2' is a file, and no folder"),
    ("info nope.qcow2", None),
    ("dd iff=a.qcow2 of=x", "did you mean 'if='?"),
    ("dd a.qcow2 x", "dd takes if=FILE of=FILE, and bs= count= skip="),
]

# The stock tool of this machine may well have these: what it says of them is no measure.
PROTOCOLS = [
    ("nbd://host/x", "nbd " + ELSEWHERE.format("nbdcopy")),
    ("rbd:pool/x", "rbd " + ELSEWHERE.format("rbd export")),
    ("http://host/x", "http " + ELSEWHERE.format("curl")),
    ("ssh://host/x", "ssh " + ELSEWHERE.format("scp")),
    ("nfs://host/x", "nfs " + ELSEWHERE.format("a mount")),
]


def with_hint(outcome, hint):
    """What the stock tool says, and the hint."""
    out, err, status = outcome
    return out, err + (f"instar: hint: {hint}\n" if hint else ""), status


class TestSlips(InstarTestBase):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path("made"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "made/a.qcow2", "10M")
        self.make("qemu-img", "create", "-q", "-f", "raw", "made/r.raw", "1M")
        os.mkdir(self.path("made/dir"))

    def fresh(self, run, *argv, **kwargs):
        """In a copy of the folder, which is the same for each run."""
        shutil.rmtree(self.path("copy"), ignore_errors=True)
        shutil.copytree(self.path("made"), self.path("copy"))
        return run(*argv, cwd=self.path("copy"), **kwargs)

    def own(self, outcome):
        """The stock tool's words by the own name."""
        out, err, status = outcome
        return out, re.sub(r"^(Try ')?qemu-img", r"\1instar", err, flags=re.MULTILINE), status

    def test_the_table(self):
        self.assertGreaterEqual(len(SLIPS), 45)
        for line, hint in SLIPS:
            argv = line.split()
            with self.subTest(line):
                stock = self.fresh(self.run_qemu_img, *argv)
                self.assertNotEqual(stock[2], 0)
                self.assertEqual(self.fresh(self.run_as_qemu_img, *argv), stock)
                self.assertEqual(self.fresh(self.run_instar, *argv), with_hint(self.own(stock), hint))

    def test_protocols(self):
        for name, hint in PROTOCOLS:
            with self.subTest(name):
                out, err, status = self.fresh(self.run_as_qemu_img, "info", name)
                protocol = name.split(":", maxsplit=1)[0]
                said = f"qemu-img: Could not open '{name}': Unknown protocol '{protocol}'\n"
                self.assertEqual((out, err, status), ("", said, 1))
                self.assertEqual(self.fresh(self.run_instar, "info", name), with_hint(self.own((out, err, status)), hint))

    def test_what_is_no_file(self):
        """The stock tool takes them for empty disks, or waits."""
        os.mkfifo(self.path("pipe"))
        images = "images are files and block devices"
        for name, what in (
            ("/dev/null", f"a device of characters: {images}"),
            (self.path("pipe"), f"a pipe, and pipes are not read: {images}"),
        ):
            with self.subTest(name):
                stock = self.run_as_qemu_img("info", name)
                self.assertIn("to be a regular file", stock[1])
                self.assertEqual(self.run_instar("info", name), with_hint(self.own(stock), f"'{name}' is {what}"))

    def test_an_image_that_is_written_to(self):
        hint = (
            "another program writes to it; -U (--force-share) reads it all the same, as it is at that moment, perhaps half "
            "changed"
        )
        shutil.copytree(self.path("made"), self.path("copy"))
        with self.held("copy/a.qcow2"):
            # Only what can be asked to read it all the same is told so.
            for argv, told in (
                (["info", "a.qcow2"], hint),
                (["snapshot", "-d", "x", "a.qcow2"], hint),
                (["resize", "a.qcow2", "20M"], None),
            ):
                with self.subTest(argv[0]):
                    stock = self.run_qemu_img(*argv, cwd=self.path("copy"))
                    self.assertIn("Is another process using the image", stock[1])
                    self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.path("copy")), stock)
                    self.assertEqual(self.run_instar(*argv, cwd=self.path("copy")), with_hint(self.own(stock), told))

    def test_releases_that_are_not_known(self):
        for given, known in (("9.9", "9.2"), ("50.1", "11.1"), ("4.2.1", "5.2")):
            with self.subTest(given):
                out, err, status = self.fresh(self.run_instar, "--qemu-version", given, "info", "r.raw")
                major_minor = ".".join(given.split(".")[:2])
                self.assertEqual((err, status), (f"instar: hint: qemu-img {major_minor} is not known; as {known}\n", 0))
                same = self.fresh(self.run_instar, "--qemu-version", known, "info", "r.raw")
                self.assertEqual((out, "", 0), same)
                as_stock = self.fresh(self.run_as_qemu_img, "info", "r.raw", version=given)
                self.assertEqual(as_stock, same)

    def test_releases_with_other_words(self):
        """What older and newer ones say is other text, and means the same."""
        for line, hint in (
            ("create x 10GB", UNITS + "10G"),
            ("convert -S 4KB a.qcow2 x", UNITS + "4K"),
            ("resize r.raw +1GB", UNITS + "+1G"),
            ("info --outpt=json a.qcow2", "did you mean '--output'?"),
            ("create -f qcow2 -b a.qcow2 -F qcw2 x", "did you mean 'qcow2'?"),
            ("info dir", "'dir' is a folder: name the image that is in it"),
        ):
            for version in ("5.2.0", "7.2.18", "11.1.3"):
                with self.subTest(line, version=version):
                    argv = line.split()
                    stock = self.fresh(self.run_as_qemu_img, *argv, version=version)
                    self.assertEqual(stock[2], 1)
                    ours = self.fresh(self.run_instar, "--qemu-version", version, *argv)
                    self.assertEqual(ours[1].splitlines()[-1], f"instar: hint: {hint}")
                    self.assertEqual(len(ours[1].splitlines()), len(stock[1].splitlines()) + 1)

    def test_no_permission_names_who_has_not(self):
        if not (processes.is_root() and shutil.which("setpriv")):
            self.skipTest("becoming another user takes root and setpriv")
        binary = shutil.copy(self.get_instar_binary(), self.path("instar"))
        os.chmod(self.tmp, 0o755)
        os.chmod(self.path("made/a.qcow2"), 0o640)
        os.mkdir(self.path("made/closed"), 0o700)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary]
        for argv, said in (
            (["info", "a.qcow2"], "this runs as user 65534; 'a.qcow2' belongs to user 0, with mode 0640"),
            (["create", "new", "1M"], "this runs as user 65534; '.' belongs to user 0, with mode 0755"),
            (["info", "closed/x"], "this runs as user 65534; 'closed' belongs to user 0, with mode 0700"),
        ):
            with self.subTest(argv):
                env = {"INSTAR_ISOLATION": "process"}
                _, err, status = self.run_tool([*nobody, *argv], cwd=self.path("made"), env=env)
                self.assertEqual((err.splitlines()[-1], status), (f"instar: hint: {said}", 1), err)

    def test_a_full_file_system(self):
        """What is free and what is needed, as the kernel and `du` have it."""
        if not processes.is_root():
            self.skipTest("mounting takes root")
        with open(self.path("made/full.raw"), "wb") as file:
            file.write(os.urandom(12 << 20))
        with filesystems.mounted("tmpfs", self.tmp, size=4 << 20) as place:
            target = place / "x.qcow2"
            argv = ["convert", "-O", "qcow2", self.path("made/full.raw"), target]
            _, err, status = self.run_instar(*argv)
            self.assertEqual(status, 1)
            said = f"instar: hint: the file system of '{target}' has 4.0 MiB free; about 12.0 MiB are needed (the sources"
            said += " occupy as much)"
            self.assertEqual(err.splitlines()[-1], said)
            self.assertIn("No space left on device", err)
            _, err, status = self.run_as_qemu_img(*argv)
            self.assertEqual(status, 1)
            self.assertNotIn("hint", err)
            _, err, status = self.run_instar("create", "-o", "preallocation=full", place / "new", "12M")
            self.assertEqual(status, 1)
            said = f"instar: hint: the file system of '{place}/new' has 4.0 MiB free; 12M was asked for"
            self.assertEqual(err.splitlines()[-1], said)

    def test_an_image_s_words_are_not_taken_for_the_user_s(self):
        """A name in an image: whether its folder is there is not told, and nothing of it is repeated unescaped."""
        for name, base in (("made/top.qcow2", f"{self.tmp}/nodir/x"), ("made/odd.qcow2", "/etc/nodir\x1b[2J/x")):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", "raw", name, "1M")
        for argv in (["check", "top.qcow2", "--allow-backing", self.tmp], ["check", "odd.qcow2"], ["map", "odd.qcow2"]):
            _, err, status = self.fresh(self.run_instar, *argv)
            self.assertEqual(status, 1)
            self.assertNotIn("there is no folder", err)
            self.assertNotIn("\x1b", err)
