"""`bench`: the words are the stock tool's, but for the time it took."""

import re

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
    ("--count=50", "--depth=4", "--buffer-size=4k", "--step-size=8k", "--offset=4k"),
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

    def test_writing_is_refused(self):
        """Not there yet: nothing is changed."""
        before = self.sha256(self.path("raw"))
        out, err, status = self.run_instar("bench", "-w", "-c", "5", "-f", "raw", "raw", cwd=self.tmp)
        self.assertEqual((out, status), ("", 1))
        self.assertIn("not supported yet", err)
        self.assertEqual(self.sha256(self.path("raw")), before)
