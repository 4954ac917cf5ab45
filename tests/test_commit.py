"""commit, next to the stock tool."""

import os
import shutil

from tests.base import InstarTestBase
from tests.helpers import chains, images
from tests.helpers.baseline_matrix import baseline_matrix

MIB = 1 << 20


class CommitTest(InstarTestBase):
    def chain(self, below=("qcow2", "")):
        """base, mid and top, each with data of its own."""
        fmt, options = below
        self.make("qemu-img", "create", "-q", "-f", fmt, *(["-o", options] if options else []), "base", "1M")
        images.write("base", (1, 0, 300000), cwd=self.tmp, fmt=fmt)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", fmt, "mid")
        images.write("mid", (2, 200000, 90000), cwd=self.tmp)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top", "2M")
        images.write("top", (3, 65536, 4096), (4, MIB + 1024, 8192), cwd=self.tmp)

    def content(self, name, fmt="qcow2"):
        return chains.content(name, fmt, self.tmp)


class TestCommitErrorPaths(CommitTest):
    def test_texts_equal_the_stock_tools(self):
        self.chain()
        self.make("qemu-img", "create", "-q", "-f", "raw", "disk.raw", "1M")
        for argv in (
            (),
            ("absent",),
            ("base",),
            ("-f", "raw", "disk.raw"),
            ("disk.raw",),
            ("-b", "absent", "top"),
            ("-b", "top", "top"),
            ("-t", "nonsense", "top"),
            ("-r", "nonsense", "top"),
            ("top", "top"),
            ("-f", "nonsense", "top"),
        ):
            with self.subTest(argv=argv):
                expected = self.run_qemu_img("commit", *argv, cwd=self.tmp)
                self.assertEqual(self.run_as_qemu_img("commit", *argv, cwd=self.tmp), expected)
                self.assertEqual(expected[2], 1)

    def test_a_backing_file_outside_the_policy_is_never_written(self):
        for name in ("outside", "inside"):
            os.mkdir(self.path(name))
        self.make("qemu-img", "create", "-q", "-f", "raw", "outside/victim", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../outside/victim", "-F", "raw", "inside/top")
        images.write("inside/top", (6, 0, 65536), cwd=self.tmp)
        before = self.sha256(self.path("outside/victim"))
        _, err, status = self.run_instar("commit", "inside/top", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("--allow-backing", err)
        self.assertEqual(self.sha256(self.path("outside/victim")), before)
        self.assertEqual(self.run_instar("commit", "--allow-backing", "outside", "inside/top", cwd=self.tmp)[1:], ("", 0))
        self.assertNotEqual(self.sha256(self.path("outside/victim")), before)

    def test_an_image_in_use_is_left_alone(self):
        self.chain()
        for name in ("top", "mid"):
            with self.subTest(held=name), self.held(name):
                before = {n: self.sha256(self.path(n)) for n in ("top", "mid")}
                _, err, status = self.run_instar("commit", "top", cwd=self.tmp)
                self.assertEqual(status, 1)
                self.assertIn("lock", err)
                self.assertEqual({n: self.sha256(self.path(n)) for n in ("top", "mid")}, before)


class TestCommitSuccessPaths(CommitTest):
    def committed(self, *argv):
        self.assertEqual(self.run_instar("commit", *argv, cwd=self.tmp), ("Image committed.\n", "", 0))

    def test_into_the_parent_and_the_overlay_is_emptied(self):
        self.chain()
        before = self.content("top")
        self.committed("top")
        self.assertEqual(self.content("top"), before)
        self.assertEqual(self.content("mid"), before)
        self.assertNotIn("allocated", self.make("qemu-img", "check", "top"))
        for name in ("top", "mid"):
            self.assert_check_clean(self.path(name))

    def test_into_the_base_through_the_image_between(self):
        options = ("cluster_size=4k", "extended_l2=on", "data_file=base.data")
        for below in (*(("qcow2", option) for option in options), ("raw", "")):
            with self.subTest(below=below):
                self.chain(below)
                before, length = self.content("top"), os.path.getsize(self.path("top"))
                self.committed("-b", "base", "top")
                self.assertEqual(self.content("base", below[0]), before)
                self.assertEqual(self.content("top"), before)
                self.assertEqual(os.path.getsize(self.path("top")), length)

    def test_keeping_the_overlay(self):
        self.chain()
        length = os.path.getsize(self.path("top"))
        self.committed("-d", "top")
        self.assertEqual(os.path.getsize(self.path("top")), length)

    def test_quiet_and_progress(self):
        self.chain()
        self.assertEqual(self.run_instar("commit", "-q", "top", cwd=self.tmp), ("", "", 0))
        out, err, status = self.run_instar("commit", "-p", "top", cwd=self.tmp)
        self.assertEqual((err, status), ("", 0))
        self.assertTrue(out.startswith("    (0.00/100%)\r") and out.endswith("(100.00/100%)\r\nImage committed.\n"), out)

    def test_snapshots_below_stay(self):
        self.chain()
        self.make("qemu-img", "snapshot", "-c", "before", "mid")
        shutil.copytree(self.tmp, self.path("theirs"), ignore=shutil.ignore_patterns("theirs"))
        self.make("qemu-img", "commit", "top", cwd=self.path("theirs"))
        self.committed("top")
        expected = chains.content("mid", "qcow2", self.path("theirs"), "-l", "before")
        self.assertEqual(chains.content("mid", "qcow2", self.tmp, "-l", "before"), expected)
        self.assert_check_clean(self.path("mid"))


TestCommitBaselineMatrix = baseline_matrix("commit")
