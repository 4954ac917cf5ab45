"""What is written through one driver into another (`driver=qcow2,file.driver=luks,..`): what the tools say, what the disk
shows afterwards, and that each image of the nest is sound."""

import os
import re
import shutil
import tempfile
import unittest

from tests.base import InstarTestBase
from tests.helpers.variants import MIB, Maker
from tests.helpers.variants.luks import ROUNDS, cryptsetup, secret

KEY = "a key"
OBJECT = ("--object", secret(KEY))
SIZE = 3 * MIB
QCOW2 = "driver=qcow2,file.driver"
# Each image of a nest as `check` is asked about it, the outermost last; with the arguments that it needs.
NESTS = {
    "qcow2 in luks": (f"{QCOW2}=luks,file.key-secret=s0,file.file.filename=in.luks",),
    "qcow2 in raw": (f"{QCOW2}=raw,file.file.filename=in.qcow2",),
    "qcow2 in a part": (f"{QCOW2}=raw,file.offset=64k,file.size=9M,file.file.filename=part.raw",),
    "qcow2 at the end of a file": (f"{QCOW2}=raw,file.offset=1M,file.file.filename=end.raw",),
    "qcow2 in qcow2": (f"{QCOW2}=qcow2,file.file.filename=in-qcow2.qcow2", "driver=qcow2,file.filename=in-qcow2.qcow2"),
    "qcow2 in an overlay": (f"{QCOW2}=qcow2,file.file.filename=over.qcow2", "driver=qcow2,file.filename=over.qcow2"),
    "qcow2 in vdi": (f"{QCOW2}=vdi,file.file.filename=in.vdi", "driver=vdi,file.filename=in.vdi"),
    "qcow2 in vmdk": (f"{QCOW2}=vmdk,file.file.filename=in.vmdk", "driver=vmdk,file.filename=in.vmdk"),
    "qcow2 in vhdx": (f"{QCOW2}=vhdx,file.file.filename=in.vhdx", "driver=vhdx,file.filename=in.vhdx"),
    "qcow2 in vpc": (f"{QCOW2}=vpc,file.force_size_calc=current_size,file.file.filename=in.vpc",),
    "qcow2 in parallels": (
        f"{QCOW2}=parallels,file.file.filename=in.parallels",
        "driver=parallels,file.filename=in.parallels",
    ),
    "qcow2 in qed": (f"{QCOW2}=qed,file.file.filename=in.qed", "driver=qed,file.filename=in.qed"),
    "qcow2 in luks in qcow2": (
        f"{QCOW2}=luks,file.key-secret=s0,file.file.driver=qcow2,file.file.file.filename=luks-in.qcow2",
        "driver=qcow2,file.filename=luks-in.qcow2",
    ),
    "qcow2 in a part of qcow2": (
        f"{QCOW2}=raw,file.offset=0,file.file.driver=qcow2,file.file.file.filename=in-qcow2.qcow2",
        "driver=qcow2,file.filename=in-qcow2.qcow2",
    ),
}
# `bench` of this release knows no secrets.
PLAIN = {what: nest for what, nest in NESTS.items() if "luks" not in what}
# Where the stock tool shows what an image held before as what a preallocated disk holds.
STALE = ("qcow2 in an overlay",)
# What the stock tool says besides.
UNTOLD = (
    r"^(qemu-img: warning: Failed to truncate the tail of the image: .*|Repairing image was not closed correctly)\n"
)
# Disks that are not qcow2 themselves.
OTHERS = {
    "luks as raw": "driver=raw,file.driver=luks,file.key-secret=s0,file.file.filename=in.luks",
    "luks in qcow2": "driver=luks,key-secret=s0,file.driver=qcow2,file.file.filename=luks-in.qcow2",
    "qcow2 as raw": "driver=raw,file.driver=qcow2,file.file.filename=in-qcow2.qcow2",
    "part of qcow2": "driver=raw,offset=4M,size=4M,file.driver=qcow2,file.file.filename=in-qcow2.qcow2",
    "raw in raw": "driver=raw,offset=512,file.driver=raw,file.offset=512,file.file.filename=end.raw",
    "vdi in raw": "driver=vdi,file.driver=raw,file.file.filename=in.vdi",
}
_made = {}


def fixtures():
    """A folder with the images; made once."""
    if _made:
        return _made["folder"]
    _made["object"] = tempfile.TemporaryDirectory(prefix="instar-nested-write-")
    _made["folder"] = folder = _made["object"].name
    case = Maker(folder, "nested write")
    case.convert("qcow2", "inner.qcow2", SIZE)
    shutil.copy(case.path("inner.qcow2"), case.path("in.qcow2"))
    case.raw("source.raw", SIZE)
    case.io("raw", "source.raw", "write -z 1M 200k")
    case.create("raw", "part.raw", "10M")
    case.create("raw", "end.raw", "1M")
    with open(case.path("inner.qcow2"), "rb") as file, open(case.path("end.raw"), "ab") as end:
        end.write(file.read())
    case.write("in.luks", bytes(12 * MIB))
    cryptsetup(case, "luksFormat", *ROUNDS, "--type", "luks1", "in.luks", keys=(KEY,))
    case.img("convert", "-f", "raw", "-O", "qcow2", "in.luks", "luks-in.qcow2")
    case.create("qcow2", "base.qcow2", "9M")
    case.io("qcow2", "base.qcow2", "write -P 11 0 9M")
    case.create("qcow2", "over.qcow2", None, "-b", "base.qcow2", "-F", "qcow2")
    case.create("qcow2", "top.qcow2", None, "-b", "base.qcow2", "-F", "qcow2")
    case.io("qcow2", "top.qcow2", "write -P 9 128k 256k")
    case.img("bitmap", "--add", "top.qcow2", "old")
    case.create("qcow2", "top-in.qcow2", "12M")
    case.img(
        "convert", "-n", "-f", "raw", "--target-image-opts", "top.qcow2", "driver=qcow2,file.filename=top-in.qcow2"
    )
    case.create("qcow2", "in-qcow2.qcow2", "9M", "-o", "cluster_size=4k")
    for fmt in ("vdi", "vmdk", "vhdx", "vpc", "parallels", "qed"):
        case.create(fmt, f"in.{fmt}", "9M")
    for nest in NESTS.values():
        below = nest[0].replace("driver=qcow2,", "", 1)
        below = ",".join(option.replace("file.", "", 1) for option in below.split(","))
        case.img("convert", "-n", *OBJECT, "-f", "raw", "--target-image-opts", "inner.qcow2", below)
    return folder


class TestNestedWrite(InstarTestBase):
    """Each command on both tools' own copy of the images."""

    def run_both(self, what, name, *commands):
        """The folders of both tools."""
        shown, places = [], []
        for tool, folder in ((self.run_as_qemu_img, "ours"), (self.run_qemu_img, "theirs")):
            place = self.path(folder)
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(fixtures(), place)
            places.append(place)
            shown.append([tool(*(name if word == "NAME" else word for word in argv), cwd=place) for argv in commands])
        for argv, ours, theirs in zip(commands, *shown):
            # An image that keeps its size is as a device to what lies in it, and the tool does not close a parallels image.
            theirs = (theirs[0], re.sub(UNTOLD, "", theirs[1], flags=re.MULTILINE), theirs[2])
            if argv[0] == "bench":
                ours, theirs = ours[1:], theirs[1:]
            self.assertEqual(ours, theirs, f"{what}: {argv}")
        return places

    def same_content(self, what, places, name):
        """The stock tool reads the same out of both."""
        seen = []
        for place in places:
            argv = ("convert", *OBJECT, "--image-opts", "-O", "raw", name, "out")
            out, err, status = self.run_qemu_img(*argv, cwd=place)
            self.assertEqual((out, err, status), ("", "", 0), what)
            with open(os.path.join(place, "out"), "rb") as file:
                seen.append(file.read())
        self.assert_same_bytes(*seen, what)

    def sound(self, what, place, nest):
        for name in nest:
            out, err, status = self.run_qemu_img("check", *OBJECT, "--image-opts", name, cwd=place)
            self.assertEqual(status, 0, f"{what}: {name}: {out}{err}")

    def each(self, *commands, nests=NESTS):
        for what, nest in nests.items():
            with self.subTest(what=what):
                places = self.run_both(what, nest[0], *commands)
                self.sound(what, places[0], nest)
                self.same_content(what, places, nest[0])

    def test_converted_into(self):
        self.each(("convert", "-n", *OBJECT, "-f", "raw", "--target-image-opts", "source.raw", "NAME"))

    def test_resized(self):
        image = (*OBJECT, "--image-opts", "NAME")
        self.each(("resize", *image, "+1M"), ("resize", "--shrink", *image, "1M"), ("resize", *image, "100"))
        # In an encrypted image, the stock tool shows noise in what was never written.
        self.each(
            ("resize", "--preallocation=metadata", *image, "4M"),
            nests={what: PLAIN[what] for what in PLAIN if what not in STALE},
        )

    def test_snapshots(self):
        image = (*OBJECT, "--image-opts", "NAME")
        fill = ("convert", "-n", *OBJECT, "-f", "raw", "--target-image-opts", "source.raw", "NAME")
        self.each(
            ("snapshot", "-c", "a", *image), fill, ("snapshot", "-c", "b", *image), ("snapshot", "-a", "a", *image)
        )
        self.each(
            ("snapshot", "-c", "a", *image), fill, ("snapshot", "-d", "a", *image), ("snapshot", "-d", "a", *image)
        )

    def test_bitmaps(self):
        image = (*OBJECT, "--image-opts", "NAME", "b")
        fill = ("convert", "-n", *OBJECT, "-f", "raw", "--target-image-opts", "source.raw", "NAME")
        self.each(("bitmap", "--add", *image), fill, ("bitmap", "--clear", *image), ("bitmap", "--remove", *image))

    def test_amended(self):
        image = (*OBJECT, "--image-opts", "NAME")
        self.each(("amend", *image, "-o", "compat=0.10"), ("amend", *image, "-o", "compat=1.1,lazy_refcounts=on"))

    def test_repaired_and_rebased(self):
        image = (*OBJECT, "--image-opts", "NAME")
        self.each(("check", "-r", "all", *image), ("rebase", "-u", "-F", "raw", "-b", "source.raw", *image))

    def test_written_at_random(self):
        for what, nest in PLAIN.items():
            for step in ("64k", "5k"):
                with self.subTest(what=what, step=step):
                    argv = (
                        "bench",
                        "-w",
                        "-c",
                        "30",
                        "-S",
                        step,
                        "-s",
                        "3k",
                        "--pattern=5",
                        "--flush-interval=10",
                        "-d",
                        "4",
                    )
                    places = self.run_both(what, nest[0], (*argv, "--image-opts", "NAME"))
                    self.sound(what, places[0], nest)
                    self.same_content(what, places, nest[0])

    def test_overlays(self):
        """An overlay that lies in another image, on a backing file that does not."""
        plain = "driver=qcow2,file.filename=base.qcow2"
        for below in ("raw,file.file.filename=top.qcow2", "qcow2,file.file.filename=top-in.qcow2"):
            name = f"{QCOW2}={below}"
            for command in (
                ("commit", "--image-opts", "NAME"),
                ("commit", "-d", "--image-opts", "NAME"),
                ("rebase", "-b", "", "--image-opts", "NAME"),
                ("rebase", "-u", "-b", "source.raw", "-F", "raw", "--image-opts", "NAME"),
                ("amend", "-o", "refcount_bits=64", "--image-opts", "NAME"),
                ("bitmap", "--add", "--merge", "old", "--image-opts", "NAME", "new"),
                ("bitmap", "--add", "--merge", "old", "-b", "top.qcow2", "-F", "qcow2", "--image-opts", "NAME", "new"),
                (
                    "convert",
                    "-n",
                    "-c",
                    "--image-opts",
                    "--target-image-opts",
                    "driver=raw,file.filename=source.raw",
                    "NAME",
                ),
                ("check", "-r", "leaks", "--image-opts", "NAME"),
            ):
                with self.subTest(below=below, command=command):
                    places = self.run_both(below, name, command)
                    self.sound(below, places[0], (name, plain))
                    self.same_content(below, places, name)
                    self.same_content(below, places, plain)

    def test_images_that_are_too_short(self):
        """They are made longer, or there is no room; the stock tool goes on, and loses what is behind the end."""
        for fmt, size, name in (
            ("qcow2", "512k", f"{QCOW2}=qcow2,file.file.filename=short"),
            ("qed", "512k", f"{QCOW2}=qed,file.file.filename=short"),
            ("raw", None, f"{QCOW2}=raw,file.size=512k,file.file.filename=short"),
            ("vdi", "1M", f"{QCOW2}=vdi,file.file.filename=short"),
        ):
            with self.subTest(fmt=fmt):
                place = self.path("short")
                shutil.rmtree(place, ignore_errors=True)
                os.mkdir(place)
                case = Maker(place, "short")
                case.raw("source.raw", SIZE)
                case.create("qcow2", "inner.qcow2", SIZE)
                if size:
                    case.create(fmt, "short", size)
                    below = f"driver={fmt},file.filename=short"
                    case.img("convert", "-n", "-f", "raw", "--target-image-opts", "inner.qcow2", below)
                else:
                    case.raw("short", MIB)
                    case.img("convert", "-n", "-f", "raw", "-O", "raw", "inner.qcow2", "short")
                argv = ("convert", "-n", "-f", "raw", "--target-image-opts", "source.raw", name)
                out, err, status = self.run_as_qemu_img(*argv, cwd=place)
                out, err, checked = self.run_qemu_img("check", "--image-opts", name, cwd=place)
                # There may be leaks in one that was not finished.
                self.assertIn(checked, (0, 3), out + err)
                if fmt in ("raw", "vdi"):
                    self.assertEqual(status, 1)
                    continue
                self.assertEqual((status, checked), (0, 0), out + err)
                source = "driver=raw,file.filename=source.raw"
                out, err, status = self.run_qemu_img("compare", "--image-opts", name, source, cwd=place)
                self.assertEqual(status, 0, out + err)
                out, err, status = self.run_qemu_img("check", "-f", fmt, "short", cwd=place)
                self.assertEqual(status, 0, out + err)

    def test_other_disks(self):
        for what, name in OTHERS.items():
            for command in (
                ("convert", "-n", *OBJECT, "-f", "raw", "--target-image-opts", "source.raw", "NAME"),
                ("resize", *OBJECT, "--image-opts", "NAME", "+1M"),
                ("resize", *OBJECT, "--shrink", "--image-opts", "NAME", "6M"),
            ):
                with self.subTest(what=what, command=command[0]):
                    places = self.run_both(what, name, command)
                    if "luks" in what and command[0] == "resize":
                        continue
                    self.same_content(what, places, name)


if __name__ == "__main__":
    unittest.main()
