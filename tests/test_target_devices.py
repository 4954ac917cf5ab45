"""Targets that are block devices, and the further files of an image that has several."""

import contextlib
import os
import random
import tempfile
import unittest
from pathlib import Path

from tests.helpers import filesystems
from tests.helpers.targets import MIB, NEW, OLD, ROOT_ONLY, TargetTest


@ROOT_ONLY
class TestDevices(TargetTest):
    """Block devices: written where they are."""

    def device(self, size=5 * MIB, *options):
        """A loop device with an old image on it, and its file."""
        back = Path(tempfile.mkdtemp(dir=self.tmp), "back")
        back.write_bytes(bytes(size))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", back, "1M")
        with open(back, "r+b") as file:
            file.truncate(size)
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        return stack.enter_context(filesystems.loop_device(back, *options)), back

    def content(self, device):
        filesystems.run("blockdev", "--flushbufs", device)
        return Path(device).read_bytes()

    def test_no_old_header_over_new_bytes(self):
        """What does not fit: afterwards the device says neither what it was nor what it was to be."""
        Path(self.path("big.raw")).write_bytes(random.Random(5).randbytes(8 * MIB))
        for fmt in ("raw", "qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx", "vdi", "parallels", "luks"):
            for cache in ((), ("-t", "none")):
                with self.subTest(fmt, cache=cache):
                    device, _ = self.device()
                    before = self.content(device)
                    more = ["--object", "secret,id=k,data=k", "-o", "key-secret=k"] if fmt == "luks" else []
                    words = ["convert", *cache, *more, "-f", "raw", "-O", fmt, self.path("big.raw"), device]
                    self.assertEqual(self.run_instar(*words)[2], 1)
                    after = self.content(device)
                    if after != before:
                        self.assertEqual(after[:4096], bytes(4096))

    def test_untouched_by_what_fails_before(self):
        device, _ = self.device()
        before = self.content(device)
        self.assertEqual(self.convert(self.run_instar, device, "garbage.qcow2", "qcow2")[2], 1)
        self.assertEqual(self.content(device), before)

    def test_whole(self):
        """The image is there, its header too, and behind it is what was there before."""
        for fmt in ("raw", "qcow2", "vmdk", "vdi"):
            for cache in ((), ("-t", "none"), ("-t", "writeback")):
                with self.subTest(fmt, cache=cache):
                    device, back = self.device(64 * MIB)
                    with open(back, "r+b") as file:
                        file.seek(60 * MIB)
                        file.write(OLD)
                    filesystems.run("blockdev", "--flushbufs", device)
                    words = ["convert", *cache, "-f", "raw", "-O", fmt, self.path("source.raw"), device]
                    self.assertEqual(self.run_instar(*words), ("", "", 0))
                    self.assertEqual(self.content(device)[60 * MIB :][: len(OLD)], OLD)
                    if fmt == "raw":
                        self.assertEqual(self.content(device)[:MIB], NEW)
                    else:
                        self.assert_same_disk(device, self.path("source.raw"), "-f", fmt, "-F", "raw")

    def test_short_raw_leaves_the_rest(self):
        """Of the first block, too."""
        Path(self.path("short.raw")).write_bytes(NEW[:512])
        device, _ = self.device()
        before = self.content(device)
        self.assertEqual(self.convert(self.run_instar, device, "short.raw"), ("", "", 0))
        self.assertEqual(self.content(device), NEW[:512] + before[512:])

    def test_too_small(self):
        """In the stock tool's words; of several places that cannot be written, the first on the disk is told."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "large.raw", "4M")
        self.make("qemu-io", "-f", "raw", "-c", "write -P 1 0 4M", "large.raw")
        device, _ = self.device(MIB)
        makes = [("-f", fmt) for fmt in ("raw", "qcow2", "qed", "vhdx", "vdi", "vmdk", "vpc", "parallels", "qcow")]
        makes += [("-f", fmt, "-o", "subformat=fixed") for fmt in ("vpc", "vhdx")]
        makes += [("-f", "qcow2", "-o", "preallocation=metadata"), ("-f", "raw", "-o", "preallocation=full")]
        for words in (
            *(("create", *make, device, "4M") for make in makes),
            *(("convert", "-f", "raw", "-O", *make[1:], "large.raw", device) for make in makes),
            ("convert", "-n", "-f", "raw", "-O", "raw", "large.raw", device),
            ("dd", "bs=1M", "if=large.raw", f"of={device}"),
        ):
            with self.subTest(words):
                theirs = self.run_qemu_img(*words, cwd=self.tmp)
                self.assertEqual(self.run_as_qemu_img(*words, cwd=self.tmp), theirs)

    def test_read_only(self):
        """In the stock tool's words, whatever is to be done to it."""
        device, _ = self.device(5 * MIB, "-r")
        for words in (
            ("convert", "-f", "raw", "-O", "raw", "source.raw", device),
            ("convert", "-f", "raw", "-O", "qcow2", "source.raw", device),
            ("convert", "-n", "-f", "raw", "-O", "raw", "source.raw", device),
            ("create", "-q", "-f", "raw", device, "1M"),
            ("create", "-q", "-f", "qcow2", device, "1M"),
            ("dd", "-f", "raw", "bs=1M", "if=source.raw", f"of={device}"),
            ("resize", "-f", "qcow2", device, "2M"),
            ("rebase", "-f", "qcow2", "-u", "-b", "", device),
            ("commit", "-f", "qcow2", device),
            ("bench", "-w", "-c", "1", "-f", "raw", device),
        ):
            with self.subTest(words):
                theirs = self.run_qemu_img(*words, cwd=self.tmp)
                ours = self.run_as_qemu_img(*words, cwd=self.tmp)
                self.assert_same_outcome(ours, theirs)
                self.assertIn("The device is not writable: Permission denied", ours[1])


class TestBeside(TargetTest):
    """The further files of an image that has several: nothing in them changes unless the command succeeds."""

    def image(self, folder, name="disk"):
        """A vmdk of two files, whose second has another name as well."""
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", f"{name}.vmdk", "64k", cwd=folder)
        (folder / f"{name}-flat.vmdk").write_bytes(OLD)
        os.link(folder / f"{name}-flat.vmdk", folder / "other")

    def onto(self, folder, source, **more):
        words = ["convert", "-f", "qcow2", "-O", "vmdk", "-o", "subformat=monolithicFlat", self.path(source), "disk.vmdk"]
        return self.run_instar(*words, cwd=folder, **more)

    def test_hard_linked(self):
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "source.raw", "whole.qcow2")
        # Compressed clusters, of which the later ones do not unpack: writing has begun when that is found out.
        Path(self.path("digits.raw")).write_bytes(b"".join(b"%d" % number for number in range(200_000)))
        self.make("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "digits.raw", "damaged.qcow2")
        image = Path(self.path("damaged.qcow2"))
        content = image.read_bytes()
        image.write_bytes(content[: len(content) * 3 // 4] + b"\xff" * (len(content) // 4))
        folder = Path(self.tmp, "work")
        folder.mkdir()
        self.image(folder)
        descriptor = (folder / "disk.vmdk").read_bytes()
        for source in ("garbage.qcow2", "damaged.qcow2"):
            self.assertEqual(self.onto(folder, source)[2], 1)
            self.assertEqual((folder / "other").read_bytes(), OLD)
            self.assertEqual((folder / "disk.vmdk").read_bytes(), descriptor)
        self.assertEqual(sorted(os.listdir(folder)), ["disk-flat.vmdk", "disk.vmdk", "other"])
        self.assertEqual(self.onto(folder, "whole.qcow2"), ("", "", 0))
        self.assertEqual((folder / "other").read_bytes(), NEW)
        self.assert_same_disk(folder / "disk.vmdk", self.path("source.raw"), "-f", "vmdk", "-F", "raw")
        self.assertEqual(sorted(os.listdir(folder)), ["disk-flat.vmdk", "disk.vmdk", "other"])

    @ROOT_ONLY
    def test_no_room_for_the_copy(self):
        """What could not be copied is not begun."""
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "source.raw", "whole.qcow2")
        Path(self.path("big.raw")).write_bytes(random.Random(6).randbytes(8 * MIB))
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "big.raw", "big.qcow2")
        with filesystems.mounted("tmpfs", self.tmp, 12 * MIB) as folder:
            self.image(folder)
            self.assertEqual(self.onto(folder, "big.qcow2")[2], 1)
            self.assertEqual((folder / "other").read_bytes(), OLD)
            self.assertEqual(self.onto(folder, "whole.qcow2"), ("", "", 0))
            self.assertEqual((folder / "other").read_bytes(), NEW)


if __name__ == "__main__":
    unittest.main()
