"""rebase, next to the stock tool: errors, what must work, random chains."""

import os
import shutil

from tests.base import InstarTestBase
from tests.helpers import chains, images
from tests.helpers.baseline_matrix import baseline_matrix

MIB = 1 << 20


class RebaseTest(InstarTestBase):
    """Twin folders: ours and theirs start equal."""

    def overlay(self, size="1M"):
        """base, next and top (on base), each with data of its own."""
        for name, pattern in (("base.qcow2", 1), ("next.qcow2", 2)):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", name, size)
            images.write(name, (pattern, 0, 200000), (9, 512 * 1024, 70000), cwd=self.tmp)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", size)
        images.write("top.qcow2", (3, 65536, 4096), cwd=self.tmp)

    def twin(self):
        """A copy of the folder for the stock tool."""
        other = self.path("theirs")
        shutil.copytree(self.tmp, other, ignore=shutil.ignore_patterns("theirs", "bin"))
        return other

    def assert_same_rebase(self, *argv):
        """Both tools, by the stock tool's name; returns the outcome."""
        other = self.twin()
        expected = self.run_qemu_img("rebase", *argv, cwd=other)
        actual = self.run_as_qemu_img("rebase", *argv, cwd=self.tmp)
        self.assertEqual(actual, expected, argv)
        shutil.rmtree(other)
        return actual


class TestRebaseErrorPaths(RebaseTest):
    def setUp(self):
        super().setUp()
        self.overlay()
        self.before = self.sha256(self.path("top.qcow2"))

    def tearDown(self):
        self.assertEqual(self.sha256(self.path("top.qcow2")), self.before, "an error left the image changed")

    def refused(self, *argv, says, overlay="top.qcow2"):
        _, err, status = self.run_instar_rebase(self.path(overlay), *argv)
        self.assertEqual(status, 1, err)
        self.assertIn(says, err)
        self.assertNotIn("panicked", err)

    def test_texts_equal_the_stock_tools(self):
        long = "a" * 1024
        for argv in (
            ("top.qcow2",),
            ("-b", "next.qcow2", "top.qcow2"),
            ("-b", "next.qcow2", "-F", "qcow2"),
            ("-b", "next.qcow2", "-F", "qcow2", "absent.qcow2"),
            ("-b", "absent.qcow2", "-F", "qcow2", "top.qcow2"),
            ("-b", "next.qcow2", "-F", "nonsense", "top.qcow2"),
            ("-t", "nonsense", "-b", "next.qcow2", "-F", "qcow2", "top.qcow2"),
            ("-T", "nonsense", "-b", "next.qcow2", "-F", "qcow2", "top.qcow2"),
            ("-b", "next.qcow2", "-F", "qcow2", "top.qcow2", "top.qcow2"),
            ("-u", "-b", long, "-F", "qcow2", "top.qcow2"),
            ("-b", long, "-F", "qcow2", "top.qcow2"),
            ("-f", "nonsense", "-b", "next.qcow2", "-F", "qcow2", "top.qcow2"),
        ):
            with self.subTest(argv=[a[:20] for a in argv]):
                self.assertEqual(self.assert_same_rebase(*argv)[2], 1)

    def test_overlay_missing(self):
        self.refused("-b", "next.qcow2", "-F", "qcow2", overlay="absent.qcow2", says="No such file or directory")

    def test_new_backing_missing_names_the_way_out(self):
        self.refused("-b", "absent.qcow2", "-F", "qcow2", says="-u")

    def test_no_backing_given(self):
        self.refused(says="(-b)")

    def test_backing_name_too_long(self):
        self.refused("-u", "-b", "a" * 1024, "-F", "qcow2", says="1024")

    def test_raw_is_not_supported(self):
        self.make("qemu-img", "create", "-q", "-f", "raw", "disk.raw", "1M")
        self.refused("-f", "raw", "-b", "next.qcow2", "-F", "qcow2", overlay="disk.raw", says="not supported")
        self.refused("-b", "next.qcow2", "-F", "qcow2", overlay="disk.raw", says="does not support rebase")

    def test_a_backing_file_outside_the_policy_is_refused(self):
        elsewhere = self.path("elsewhere")
        os.mkdir(elsewhere)
        shutil.copy(self.path("base.qcow2"), elsewhere)
        sub = self.path("sub")
        os.mkdir(sub)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../elsewhere/base.qcow2", "-F", "qcow2", "sub/in")
        _, err, status = self.run_instar_rebase(os.path.join(sub, "in"), "-b", "")
        self.assertEqual(status, 1)
        self.assertIn("--allow-backing", err)
        argv = ("--allow-backing", elsewhere, "-b", "")
        self.assertEqual(self.run_instar_rebase(os.path.join(sub, "in"), *argv), ("", "", 0))

    def test_an_image_in_use_is_left_alone(self):
        with self.held("top.qcow2"):
            _, err, status = self.run_instar_rebase(self.path("top.qcow2"), "-b", "next.qcow2", "-F", "qcow2")
        self.assertEqual(status, 1)
        self.assertIn("lock", err)


class TestRebaseSuccessPaths(RebaseTest):
    def rebased(self, *argv, overlay="top.qcow2"):
        outcome = self.run_instar_rebase(self.path(overlay), *argv)
        self.assertEqual(outcome, ("", "", 0), argv)

    def backing(self, name="top.qcow2"):
        return self.info_json(name).get("backing-filename")

    def test_unsafe_changes_the_name_only(self):
        self.overlay()
        length = os.path.getsize(self.path("top.qcow2"))
        self.rebased("-u", "-b", "absent.qcow2", "-F", "qcow2")
        self.assertEqual(self.backing(), "absent.qcow2")
        self.assertEqual(os.path.getsize(self.path("top.qcow2")), length)

    def test_detaching(self):
        self.overlay()
        before = chains.content("top.qcow2", "qcow2", self.tmp)
        self.rebased("-b", "")
        self.assertIsNone(self.backing())
        os.unlink(self.path("base.qcow2"))
        self.assertEqual(chains.content("top.qcow2", "qcow2", self.tmp), before)
        self.assert_check_clean(self.path("top.qcow2"))

    def test_a_name_that_is_longer_than_its_place(self):
        for cluster in (512, 4096, 65536):
            with self.subTest(cluster=cluster):
                self.make("qemu-img", "create", "-q", "-f", "qcow2", "b", "1M")
                images.write("b", (1, 0, MIB), cwd=self.tmp)
                argv = ("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "-b", "b", "-F", "qcow2", "top.qcow2")
                self.make("qemu-img", *argv)
                long = "a" * 200 + "/../" + "b"
                os.makedirs(self.path("a" * 200), exist_ok=True)
                before = chains.content("top.qcow2", "qcow2", self.tmp)
                self.rebased("-b", long, "-F", "qcow2")
                self.assertEqual(self.backing(), long)
                self.assertEqual(chains.content("top.qcow2", "qcow2", self.tmp), before)
                self.assert_check_clean(self.path("top.qcow2"))

    def test_an_image_without_a_backing_file_gains_one(self):
        self.overlay()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "alone.qcow2", "2M")
        images.write("alone.qcow2", (5, MIB, 4096), cwd=self.tmp)
        before = chains.content("alone.qcow2", "qcow2", self.tmp)
        self.rebased("-b", "next.qcow2", "-F", "qcow2", overlay="alone.qcow2")
        self.assertEqual(self.backing("alone.qcow2"), "next.qcow2")
        self.assertEqual(chains.content("alone.qcow2", "qcow2", self.tmp), before)

    def test_what_both_chains_share_is_not_copied(self):
        self.make("qemu-img", "create", "-q", "-f", "raw", "disk.raw", "8M")
        images.write("disk.raw", (1, 0, 8 * MIB), cwd=self.tmp, fmt="raw")
        for name in ("mid1", "mid2"):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", name)
        images.write("mid2", (2, MIB, 65536), cwd=self.tmp)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "mid1", "-F", "qcow2", "top.qcow2")
        out, err, status = self.run_instar_rebase(self.path("top.qcow2"), "--dry-run", "-b", "mid2", "-F", "qcow2")
        self.assertEqual((err, status), ("", 0))
        self.assertIn("65536 bytes would be copied", out)
        self.assertEqual(self.backing(), "mid1")
        self.rebased("-b", "mid2", "-F", "qcow2")
        self.assertLess(os.path.getsize(self.path("top.qcow2")), MIB)

    def test_compressing(self):
        self.overlay()
        before = chains.content("top.qcow2", "qcow2", self.tmp)
        self.rebased("-c", "-b", "next.qcow2", "-F", "qcow2")
        self.assertEqual(chains.content("top.qcow2", "qcow2", self.tmp), before)
        self.assertIn("compressed clusters", self.make("qemu-img", "check", "top.qcow2"))

    def test_where_the_stock_tool_loses_data_or_dies(self):
        """A version 2 overlay without a backing file gains one: qemu-img 10.0.2 lets the new one show through."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "new.raw", "1M")
        images.write("new.raw", (7, 0, MIB), cwd=self.tmp, fmt="raw")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "top.qcow2", "1M")
        images.write("top.qcow2", (1, 0, 65536), cwd=self.tmp)
        before = chains.content("top.qcow2", "qcow2", self.tmp)
        self.rebased("-b", "new.raw", "-F", "raw")
        self.assertEqual(chains.content("top.qcow2", "qcow2", self.tmp), before)
        self.assert_check_clean(self.path("top.qcow2"))

    def test_an_image_that_cannot_say_what_it_stands_on(self):
        """QED has no name for a fixed VHD: it is read as raw later, and the stock tool lets its footer show through."""
        for longer in (False, True):
            with self.subTest(longer=longer):
                argv = ("create", "-q", "-f", "vpc", "-o", "force_size=on,subformat=fixed", "new.vpc")
                self.make("qemu-img", *argv, "4M" if longer else "1M")
                images.write("new.vpc", (7, 65536, 65536), cwd=self.tmp, fmt="vpc")
                self.make("qemu-img", "create", "-q", "-f", "qed", "top.qed", "3M")
                images.write("top.qed", (1, 0, 4096), cwd=self.tmp, fmt="qed")
                before = chains.content("top.qed", "qed", self.tmp)
                self.rebased("-f", "qed", "-b", "new.vpc", "-F", "vpc", overlay="top.qed")
                self.assertEqual(self.backing("top.qed"), "new.vpc")
                self.assertEqual(chains.content("top.qed", "qed", self.tmp), before)
                self.make("qemu-img", "check", "-f", "qed", "top.qed")


class TestRebaseRoundTrip(RebaseTest):
    def test_there_and_back(self):
        self.overlay()
        before = chains.content("top.qcow2", "qcow2", self.tmp)
        for new in ("next.qcow2", "base.qcow2", "", "next.qcow2"):
            argv = ["-b", new, *(["-F", "qcow2"] if new else [])]
            self.assertEqual(self.run_instar_rebase(self.path("top.qcow2"), *argv), ("", "", 0))
            self.assertEqual(chains.content("top.qcow2", "qcow2", self.tmp), before, new)
            self.assert_check_clean(self.path("top.qcow2"))


TestRebaseBaselineMatrix = baseline_matrix("rebase")
