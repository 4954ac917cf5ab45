"""`bench`: the words are the stock tool's, but for the time it took."""

import os
import random
import re
import shutil
from pathlib import Path

from tests.base import InstarTestBase

REQUESTS = (
    (),
    ("-c", "1000"),
    ("-c", "10", "-d", "1"),
    ("-c", "100", "-d", "1000", "-s", "64k"),
    ("-c", "100", "-s", "512", "-S", "4096"),
    ("-c", "100", "-s", "1000", "-S", "333", "-o", "77"),
    ("-c", "100", "-o", "512k", "-S", "1"),
    ("-c", "5", "-s", "1M"),
    ("-c", "5", "-s", "2M"),
    ("-c", "5", "-o", "2M"),
    ("-c", "5", "-o", "1020k", "-s", "8k"),
    ("-c", "50", "-q"),
    ("-c", "50", "-t", "none"),
    ("-c", "50", "-i", "threads", "-U"),
    ("-c", "50", "-S", "0"),
    ("-c", "50", "-t", "none", "-n"),
    ("-c", "50", "-t", "directsync", "-i", "native", "-d", "500"),
    ("-c", "50", "--no-drain", "--pattern", "7", "--flush-interval", "0"),
    ("--count=50", "--depth=4", "--buffer-size=4k", "--step-size=8k", "--offset=4k"),
)
# Formats that both tools write to in place, and those that `qemu-img check` looks at.
WRITTEN = ("raw", "qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx", "vdi", "parallels")
CHECKED = ("qcow2", "qed", "vmdk", "vhdx", "vdi", "parallels")
# What an image stands on or keeps its bytes in.
BESIDE = {"over": ("base",), "outside": ("bytes",)}
WRITES = (
    ("-c", "200", "--pattern", "77"),
    ("-c", "90", "--pattern", "77", "-s", "1000", "-S", "3333", "-o", "77"),
    ("-c", "9", "-d", "3", "--pattern", "1", "--flush-interval", "4", "-s", "64k"),
    ("-c", "9", "-d", "3", "--pattern", "255", "--flush-interval", "3", "--no-drain", "-s", "70k", "-S", "8k"),
    ("-c", "5", "-s", "1M", "-S", "1M", "--pattern", "6"),
    ("-c", "300", "-d", "1", "-S", "132k"),
    ("-c", "40", "-t", "none", "-n", "--pattern", "90"),
    ("-c", "40", "-t", "directsync", "-i", "native", "--pattern", "90", "-s", "512"),
    ("-c", "40", "-t", "unsafe", "--flush-interval", "0", "-q"),
)
WRONG = (
    (),
    ("image", "image"),
    ("nowhere",),
    ("-c",),
    ("-c", "0", "image"),
    ("-c", "2147483648", "image"),
    ("-c", "many", "image"),
    ("-d", "0", "image"),
    ("-d", "99999999999999999999", "image"),
    ("-s", "0", "image"),
    ("-s", "-1", "image"),
    ("-S", "-1", "image"),
    ("-S", "2G", "image"),
    ("-o", "-1", "image"),
    ("-o", "9E", "image"),
    ("-t", "odd", "image"),
    ("-i", "odd", "image"),
    ("--flush-interval", "5", "image"),
    ("--pattern", "256", "image"),
    ("-f", "odd", "image"),
    ("-f", "qcow2", "raw"),
    ("--image-opts", "driver=qcow2,file.filename=nowhere"),
    ("-x", "image"),
    ("-n", "image"),
    ("-n", "-t", "writethrough", "image"),
    ("-i", "native", "-f", "qcow2", "over"),
    ("-n", "nowhere"),
    ("-w", "-U", "-f", "qcow2", "over"),
    ("-w", "-U", "--image-opts", "driver=qcow2,file.filename=over"),
    ("-w", "nowhere"),
    ("-w", "-n", "-f", "qcow2", "over"),
    ("-w", "--flush-interval", "3", "-d", "4", "over"),
    ("-w", "--flush-interval", "63", "over"),
    ("-w", "--no-drain", "--flush-interval", "1", "-d", "2", "over"),
    ("-w", "--flush-interval", "-1", "over"),
    ("-w", "-f", "bochs", "over"),
    ("-w", "-f", "vmdk", "raw"),
)


class TestBench(InstarTestBase):
    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "raw", "raw", "1M")
        self.make("qemu-io", "-f", "raw", "-c", "write -q -P 5 0 400k", "raw")
        for fmt in ("qcow2", "vmdk", "vhdx"):
            self.make("qemu-img", "convert", "-f", "raw", "-O", fmt, "raw", fmt)
        self.make("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "raw", "image")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "image", "-F", "qcow2", "over")

    def alike(self, *argv):
        outcomes = []
        for run in (self.run_as_qemu_img, self.run_qemu_img):
            out, err, status = run("bench", *argv, cwd=self.tmp)
            outcomes.append((re.sub(r"in \d+\.\d{3} seconds", "in TIME", out), err, status))
        self.assertEqual(outcomes[0], outcomes[1])
        return outcomes[1]

    def test_requests(self):
        for words in REQUESTS:
            for name in ("image", "over"):
                with self.subTest(f"{words} {name}"):
                    self.alike(*words, "-f", "qcow2", name)

    def test_formats(self):
        for name in ("raw", "qcow2", "vmdk", "vhdx"):
            with self.subTest(name):
                out, err, status = self.alike("-c", "300", "-f", name, name)
                self.assertEqual((err, status), ("", 0))
                self.assertIn("Run completed in TIME", out)

    def test_what_is_wrong(self):
        for words in WRONG:
            with self.subTest(words):
                self.assertEqual(self.alike(*words)[2], 1)

    def written(self, words, fmt, name):
        """Both tools write to a copy: they say the same, the images show the same, and are sound."""
        outcomes, shown = [], []
        for run in (self.run_as_qemu_img, self.run_qemu_img):
            shutil.rmtree(self.path("here"), ignore_errors=True)
            os.mkdir(self.path("here"))
            for file in {name, *BESIDE.get(name, ())}:
                shutil.copy(self.path(f"made/{file}"), self.path(f"here/{file}"))
            out, err, status = run("bench", "-w", *words, "-f", fmt, name, cwd=self.path("here"))
            outcomes.append((re.sub(r"in \d+\.\d{3} seconds", "in TIME", out), err, status))
            if run == self.run_as_qemu_img and fmt in CHECKED:
                for image in {name, *BESIDE.get(name, ())} - {"bytes"}:
                    self.assertEqual(self.run_qemu_img("check", "-f", fmt, image, cwd=self.path("here"))[2], 0, image)
            self.make("qemu-img", "convert", "-f", fmt, "-O", "raw", name, "../shown", cwd=self.path("here"))
            shown.append(self.sha256(self.path("shown")))
        self.assertEqual(outcomes[0], outcomes[1])
        if not outcomes[1][2]:
            self.assertEqual(shown[0], shown[1])
        return outcomes[0]

    def make_targets(self):
        """Images of each kind, with data in some of the places that are written to."""
        os.mkdir(self.path("made"))
        for fmt in WRITTEN:
            self.make("qemu-img", "convert", "-f", "raw", "-O", fmt, "raw", f"made/{fmt}")
        options = {
            "wide": ("cluster_size=2M",),
            "narrow": ("cluster_size=512,refcount_bits=1",),
            "sub": ("extended_l2=on",),
            "outside": ("data_file=bytes",),
            "v2": ("compat=0.10",),
            "reserved": ("preallocation=metadata",),
        }
        for name, words in options.items():
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join(words), name, "1M", cwd=self.path("made"))
        for name, data in (("packed", ("-c",)), ("base", ()), ("saved", ())):
            self.make("qemu-img", "convert", *data, "-f", "raw", "-O", "qcow2", "raw", f"made/{name}")
        self.make("qemu-img", "snapshot", "-c", "one", "saved", cwd=self.path("made"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "over", cwd=self.path("made"))
        self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 8 10k 3k", "over", cwd=self.path("made"))
        return (*options, "packed", "saved", "over")

    def test_writes(self):
        kinds = self.make_targets()
        for fmt, name in (*((fmt, fmt) for fmt in WRITTEN), *(("qcow2", name) for name in kinds)):
            for words in WRITES if name in ("raw", "qcow2") else WRITES[:4] if fmt == "qcow2" else WRITES[1:3]:
                with self.subTest(f"{words} {name}"):
                    out, err, status = self.written(words, fmt, name)
                    self.assertEqual((err, status), ("", 0))
                    self.assertIn(" write requests", out)

    def test_writes_that_fail(self):
        """A request behind the disk's end: what was written before is kept, and the image is sound."""
        self.make_targets()
        for fmt, name in (("raw", "raw"), ("qcow2", "qcow2"), ("qcow2", "narrow"), ("qcow2", "over")):
            for words in (("-c", "5", "-s", "2M"), ("-c", "5", "-o", "1020k", "-s", "8k"), ("-c", "9", "-s", "300k")):
                with self.subTest(f"{words} {name}"):
                    self.assertEqual(self.written(words, fmt, name)[2], 1)

    def test_a_guessed_raw_image_is_told_of(self):
        self.make_targets()
        for run in (self.run_as_qemu_img, self.run_qemu_img):
            out, err, status = run("bench", "-w", "-c", "3", "made/raw", cwd=self.tmp)
            self.assertEqual(status, 0)
            self.assertIn("WARNING: Image format was not specified for 'made/raw'", err)


class TestEncrypted(InstarTestBase):
    """What is written into an encrypted image is encrypted: its disk is as that of a raw one after the same requests."""

    SECRET = ("--object", "secret,id=s,data=abc")
    IMAGES = (
        ("luks", ("-o", "key-secret=s,iter-time=10"), "driver=luks,key-secret=s,file.filename={}"),
        (
            "qcow2",
            ("-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
            "driver=qcow2,encrypt.key-secret=s,file.filename={}",
        ),
        ("qcow2", ("-o", "encrypt.format=aes,encrypt.key-secret=s"), "driver=qcow2,encrypt.key-secret=s,file.filename={}"),
        ("qcow", ("-o", "encrypt.format=aes,encrypt.key-secret=s"), "driver=qcow,encrypt.key-secret=s,file.filename={}"),
    )
    REQUESTS = (
        "-c 100 -d 4 -s 4096 -S 8192",
        "-c 50 -d 8 -s 1000 -S 3001 -o 77",
        "-c 2 -s 2M -S 1M -d 2",
        "-c 20 -s 512 -S 65536 --flush-interval=4 -d 2",
        "-c 40 -s 100 -S 100 -d 8",
    )

    def test_written_encrypted(self):
        disk = random.Random(5).randbytes(3 << 20)
        for number, (name, options, opts) in enumerate(self.IMAGES):
            for index, requests in enumerate(self.REQUESTS):
                empty = (number + index) % 2 == 0
                # Each kind of image, and each kind of request, not each with each.
                if (number + index) % 5 > 1:
                    continue
                with self.subTest(name, options=options, empty=empty, requests=requests):
                    Path(self.path("disk.raw")).write_bytes(bytes(len(disk)) if empty else disk)
                    made = ["-f", "raw", "-O", name, *options, "disk.raw", "image"]
                    self.make("qemu-img", "convert", *self.SECRET, *made)
                    words = ["-w", "--pattern=66", *requests.split()]
                    self.make("qemu-img", "bench", "-f", "raw", *words, "disk.raw")
                    image = ["--image-opts", opts.format("image")]
                    _, err, status = self.run_instar("bench", *self.SECRET, *words, *image, cwd=self.tmp)
                    self.assertEqual((err, status), ("", 0))
                    self.make("qemu-img", "convert", *self.SECRET, *image, "-O", "raw", "back.raw")
                    back, expected = (Path(self.path(file)).read_bytes() for file in ("back.raw", "disk.raw"))
                    self.assert_same_bytes(back, expected, "the disk is another one")
                    self.assertNotIn(b"B" * 100, Path(self.path("image")).read_bytes())
                    if name == "qcow2":
                        self.make("qemu-img", "check", "-q", *self.SECRET, *image)
