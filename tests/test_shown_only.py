"""What `info` shows though whatever reads data refuses it: long chains, and tables that a file only claims to have."""

import json
import struct

from tests.base import InstarTestBase


class TestLongChains(InstarTestBase):
    def chain(self, count):
        """All but the first are copies of one, each with another name in it."""
        small = ["-f", "qcow2", "-o", "cluster_size=512"]
        self.make("qemu-img", "create", "-q", *small, "0000.q", "1M")
        self.make("qemu-img", "create", "-q", *small, "-u", "-b", "xxxx.q", "-F", "qcow2", "one", "1M")
        with open(self.path("one"), "rb") as file:
            one = file.read()
        for number in range(1, count):
            with open(self.path(f"{number:04}.q"), "wb") as file:
                file.write(one.replace(b"xxxx.q", f"{number - 1:04}.q".encode()))
        return f"{count - 1:04}.q"

    def test_info_shows_them(self):
        for count in (200, 201, 700):
            top = self.chain(count)
            for output in ("human", "json"):
                argv = ["info", "--backing-chain", f"--output={output}", top]
                ours = self.run_instar(*argv, cwd=self.tmp, timeout=120)
                self.assertEqual(ours[1:], ("", 0), count)
                stock = self.run_qemu_img(*argv, cwd=self.tmp, timeout=120)
                self.assertEqual(ours[0], stock[0], count)

    def test_others_refuse_them(self):
        top = self.chain(201)
        says = f"instar: Could not open '{top}': the backing chain has more than 200 images\n"
        for argv in (["convert", "-O", "raw", top, "o"], ["map", top], ["compare", top, top]):
            self.assertEqual(self.run_instar(*argv, cwd=self.tmp)[1:], (says, 1 if argv[0] != "compare" else 2), argv)
        argv = ["convert", "-O", "raw", f"{199:04}.q", "o"]
        self.assertEqual(self.run_instar(*argv, cwd=self.tmp, timeout=120), ("", "", 0))


class TestClaims(InstarTestBase):
    def test_a_vdi_of_more_blocks_than_its_file_has_bytes(self):
        self.make("qemu-img", "create", "-q", "-f", "vdi", "a.vdi", "1M")
        blocks = 0x1000_0000
        with open(self.path("a.vdi"), "r+b") as file:
            file.seek(368)
            file.write(struct.pack("<Q", blocks << 20))
            file.seek(384)
            file.write(struct.pack("<I", blocks))
        for output in ("human", "json"):
            argv = ["info", f"--output={output}", "a.vdi"]
            ours = self.run_instar(*argv, cwd=self.tmp)
            self.assertEqual(ours, self.run_qemu_img(*argv, cwd=self.tmp, timeout=120))
        self.assertEqual(json.loads(ours[0])["virtual-size"], blocks << 20)
        for argv in (["convert", "-O", "qcow2", "a.vdi", "o"], ["check", "a.vdi"], ["map", "a.vdi"], ["resize", "a.vdi", "+1M"]):
            out, err, status = self.run_instar(*argv, cwd=self.tmp)
            self.assertIn(f"a table of {blocks} entries", err, argv)
            self.assertEqual((out, status), ("", 1), argv)
