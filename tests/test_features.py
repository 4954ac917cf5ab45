"""What a qcow2 says of itself in its feature bits: features that nobody knows, and that it is corrupt."""

import os
import shutil
import struct

from tests.base import InstarTestBase

FEATURE_NAMES = 0x6803F857
CORRUPT = 1 << 1
ENTRY_SIZE = 48
KB = 1024


def entry(kind, bit, name):
    """Of the feature name table."""
    return bytes((kind, bit)) + name.encode()[: ENTRY_SIZE - 2].ljust(ENTRY_SIZE - 2, b"\0")


class TestFeatures(InstarTestBase):
    def mark(self, name, bits, *entries):
        """Sets incompatible feature bits; `entries` come first in the table of names."""
        with open(self.path(name), "r+b") as file:
            head = bytearray(file.read(4096))
            (features,) = struct.unpack_from(">Q", head, 72)
            struct.pack_into(">Q", head, 72, features | bits)
            (at,) = struct.unpack_from(">I", head, 100)
            kind, length = struct.unpack_from(">II", head, at)
            while kind != FEATURE_NAMES:
                at += 8 + (length + 7) // 8 * 8
                kind, length = struct.unpack_from(">II", head, at)
            table = b"".join(entries)
            head[at + 8 : at + 8 + length] = (table + head[at + 8 : at + 8 + length])[:length]
            file.seek(0)
            file.write(head)

    def unknown(self, name, bits, *entries):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
        self.mark(name, bits, *entries)

    def same(self, *commands):
        for words in commands:
            with self.subTest(words):
                theirs = self.run_qemu_img(*words.split(), cwd=self.tmp)
                self.assertNotEqual(theirs[2], 0)
                self.assertEqual(self.run_as_qemu_img(*words.split(), cwd=self.tmp), theirs)

    def test_unknown_ones_have_the_names_that_the_image_gives_them(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "ok", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "above", "1M")
        self.make("qemu-img", "create", "-q", "-f", "raw", "raw", "1M")
        for number, (bits, entries) in enumerate(
            (
                (1 << 10, ()),
                (1 << 10 | 1 << 20 | 1 << 63, ()),
                (1 << 10, (entry(0, 10, "my feature"),)),
                (1 << 10 | 1 << 11, (entry(0, 10, "x" * 46), entry(0, 10, "another name"), entry(1, 11, "compatible"))),
                (1 << 10 | 1 << 12, (entry(0, 12, "the second"),)),
                (1 << 10, (entry(0, 10, ""),)),
                (1 << 10 | CORRUPT | 1, (entry(0, 10, "and dirty"),)),
            )
        ):
            name = f"image{number}"
            self.unknown(name, bits, *entries)
            self.same(
                f"info {name}",
                f"info --output=json -f qcow2 {name}",
                f"check {name}",
                f"map {name}",
                f"convert -O raw {name} out",
                f"convert -n -f raw -O qcow2 raw {name}",
                f"convert -O qcow2 -B {name} -F qcow2 ok out",
                f"compare {name} ok",
                f"compare ok {name}",
                f"resize {name} 2M",
                f"rebase -b ok -F qcow2 -f qcow2 {name}",
                f"rebase -u -b ok -F qcow2 {name}",
                f"rebase -b {name} -F qcow2 above",
                f"commit {name}",
                f"measure -O raw {name}",
                f"dd if={name} of=out",
                f"create -f qcow2 -b {name} -F qcow2 new",
                f"bench -c 1 {name}",
            )

    def test_a_target_that_could_not_be_read_is_not_made(self):
        """`convert -B`: because of what it is to stand on, or of what that stands on."""
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "ok", "1M")
        self.unknown("bad", 1 << 10)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "bad", "-F", "qcow2", "middle", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "nowhere", "-F", "qcow2", "alone", "1M")
        with open(self.path("junk"), "wb") as file:
            file.write(b"not an image" * 1000)
        for base in ("bad", "middle", "alone", "junk"):
            self.same(
                f"convert -O qcow2 -B {base} -F qcow2 ok out",
                f"convert -O qcow2 -o backing_file={base},backing_fmt=qcow2 ok out",
            )
            os.path.exists(self.path("out")) and os.unlink(self.path("out"))
            self.run_as_qemu_img("convert", "-O", "qcow2", "-B", base, "-F", "qcow2", "ok", "out", cwd=self.tmp)
            self.assertFalse(os.path.exists(self.path("out")))
        # A QED image cannot say that it is a qcow2: it will be read as raw.
        out, err, status = self.run_as_qemu_img(
            "convert", "-O", "qed", "-B", "junk", "-F", "qcow2", "ok", "out", cwd=self.tmp
        )
        self.assertEqual((out, err, status), ("", "", 0))

    def corrupt(self):
        """`base`, which says that it is corrupt and is not, and `top` on it; the same in folders for both tools."""
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base", "1M")
        self.make("qemu-io", "-c", f"write -P 1 0 {64 * KB}", "base")
        self.mark("base", CORRUPT)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
        self.make("qemu-io", "-c", f"write -P 3 {32 * KB} {100 * KB}", "top")

    def test_one_that_says_that_it_is_corrupt_is_not_opened_for_writing(self):
        self.corrupt()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "ok", "1M")
        self.same(
            "resize base 2M",
            "resize base 512k",
            "resize --shrink base 512k",
            "rebase -b ok -F qcow2 base",
            "rebase -u -b ok -F qcow2 base",
            "commit base",
            "convert -n -O qcow2 ok base",
            "bench -w -c 1 base",
        )

    def test_commit_into_one_that_only_says_so(self):
        self.corrupt()
        shown = self.path("shown")
        self.make("qemu-img", "convert", "-O", "raw", "top", shown)
        for words in ("commit top", "commit -d top", "commit -b base top"):
            with self.subTest(words):
                results = []
                for run in (self.run_qemu_img, self.run_as_qemu_img):
                    folder = self.path("copy")
                    os.mkdir(folder)
                    for name in ("base", "top"):
                        shutil.copy(self.path(name), folder)
                    results.append(run(*words.split(), cwd=folder))
                    for name in ("base", "top"):
                        self.make("qemu-img", "check", "-q", name, cwd=folder)
                    self.make("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", "base", shown, cwd=folder)
                    shutil.rmtree(folder)
                self.assertEqual(results[1], results[0])

    def test_commit_into_one_that_is_so_is_refused(self):
        """Where the stock tool writes into it, and makes it worse."""
        self.corrupt()
        with open(self.path("base"), "r+b") as file:
            head = file.read(48)
            (l1,) = struct.unpack_from(">Q", head, 40)
            file.seek(l1)
            table = struct.unpack(">Q", file.read(8))[0] & ((1 << 56) - 1)
            # A cluster of the disk is the table itself.
            file.seek(table + 5 * 8)
            file.write(struct.pack(">Q", 1 << 63 | table))
        with open(self.path("base"), "rb") as file:
            before = file.read()
        out, err, status = self.run_as_qemu_img("commit", "top", cwd=self.tmp)
        reason = "qcow2: Image is corrupt; cannot be opened read/write"
        self.assertEqual(
            (out, err, status), ("", f"qemu-img: Could not open 'top': Could not open backing file: {reason}\n", 1)
        )
        with open(self.path("base"), "rb") as file:
            self.assertEqual(file.read(), before)
