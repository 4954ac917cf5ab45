"""Which of several faults of a command line is told, and how: the stock tool's choice."""

import os
import unittest

from tests.base import InstarTestBase

NEWER = InstarTestBase.qemu_version.split(".")[0] >= "10" and len(InstarTestBase.qemu_version.split(".")[0]) > 1


class TestArguments(InstarTestBase):
    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        self.make("qemu-img", "snapshot", "-c", "s1", "a.qcow2")
        self.make("qemu-img", "create", "-q", "-f", "raw", "r.raw", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "over.qcow2")

    def same(self, *commands):
        for words in commands:
            with self.subTest(words):
                theirs = self.run_qemu_img(*words.split(), cwd=self.tmp)
                self.assertEqual(self.run_as_qemu_img(*words.split(), cwd=self.tmp), theirs)

    def test_sizes_with_a_point(self):
        for size in ("1024.0", "1024.", "1024.00b", ".0", "1.5k", "0.5", "1.5b", ".", ".b", "0x10.0", "1024.0.0"):
            self.same(f"create -f qcow2 n {size}", f"measure -O raw --size {size}")
        self.same("map -l 1024.0 a.qcow2", "dd bs=512.0 if=a.qcow2 of=n", "resize a.qcow2 +2.0")

    def test_a_digit_is_no_option(self):
        """Only where a number with a sign may come last is it one."""
        self.same(
            "create -f qcow2 n -1",
            "create -f raw n -1M",
            "create -f raw n -- -1",
            "info a.qcow2 -1",
            "check -1",
            "convert a.qcow2 -2",
            "measure -1",
            "resize -1 a.qcow2",
            "resize a.qcow2 -1",
            "resize a.qcow2 -512",
            "resize a.qcow2 -- -512",
        )

    def test_cache_modes_that_there_are_not(self):
        """Told as they were typed, and only by commands that have any."""
        self.same(
            "info -t nosuch a.qcow2",
            "info --cache nosuch a.qcow2",
            "info --cache=nosuch a.qcow2",
            "info --limits a.qcow2",
            "check -T nosuch a.qcow2",
            "convert -t nosuch a.qcow2 n",
            "convert -T nosuch a.qcow2 n",
            "compare -T nosuch a.qcow2 a.qcow2",
            "rebase -t nosuch -b r.raw -F raw a.qcow2",
            "rebase -T nosuch -b r.raw -F raw a.qcow2",
            "commit -t nosuch a.qcow2",
            "bench -t nosuch a.qcow2",
            "map -t nosuch a.qcow2",
            "resize -t nosuch a.qcow2 2M",
        )

    @unittest.skipUnless(NEWER, "rebase -c came with 10.0")
    def test_compression_that_a_format_has_not_is_told_first(self):
        self.same(
            "rebase -c -u -b a.qcow2 -F qcow2 r.raw",
            "rebase -c -b a.qcow2 -F qcow2 -f raw r.raw",
            "rebase -c -b nowhere -F qcow2 -f raw r.raw",
            "rebase -c -u -b nowhere -F qcow2 -f raw r.raw",
            "rebase -c -f raw -F nosuch -b a.qcow2 r.raw",
            "rebase -c -b nowhere -F qcow2 over.qcow2",
            "rebase -c -f vdi -b a.qcow2 r.raw",
            "rebase -b nowhere -F qcow2 -f raw r.raw",
            "rebase -b nowhere -F qcow2 over.qcow2",
            "rebase -b nowhere over.qcow2",
            "rebase -b nowhere -F nosuch over.qcow2",
            "rebase -b nowhere -F qcow2 nothing",
            "rebase -b nowhere -F qcow2 -f vdi over.qcow2",
        )

    def test_lists_of_options_and_snapshots(self):
        """In the order in which they were given, and before everything else."""
        self.same(
            "measure -o , a.qcow2",
            "measure -o , nowhere",
            "measure -o , -O nosuch --size 1M",
            "measure -o ,",
            "measure -o , a b",
            "measure -o x, --size 1M",
            "measure -o ,x --size 1M",
            "measure -o ,, --size 1M",
            "measure -o a -o , --size 1M",
            "measure -o help, -O qcow2 --size 1M",
            "measure -o , --size x",
            "measure --size x -o ,",
            "measure -o , --output nosuch",
            "measure --output nosuch -o ,",
            "measure -o , -l snapshot.x=1 a.qcow2",
            "measure -l snapshot.x=1 -o , a.qcow2",
            "measure -l snapshot.x=1 nowhere",
            "measure -l snapshot.x=1",
            "measure -l snapshot.x=1 --size x",
            "measure -l snapshot.id=1,x=2 a.qcow2",
            "measure -l snapshot.id=9 a.qcow2",
            "measure -l nosuch -O nosuch a.qcow2",
            "measure -l s1 -O nosuch a.qcow2",
            "measure -l s1 a.qcow2",
            "convert -o , -S 3 a.qcow2 n",
            "convert -S 3 -o , a.qcow2 n",
            "convert -m 99 -o , a.qcow2 n",
            "convert -o , -O nosuch nowhere n",
            "convert -l snapshot.x=1 -o , a.qcow2 n",
            "convert -o , -l snapshot.x=1 a.qcow2 n",
            "convert -l snapshot.x=1 -c -C a.qcow2 n",
        )

    def test_what_is_no_text_is_not_taken_for_another(self):
        """An argument that is not UTF-8 is refused where it would be changed, or left out; names of files may be anything."""
        name, secret = b"caf\xe9.raw", ["--object", "secret,id=s,data=pw"]
        encrypted = b"encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,backing_fmt=raw,backing_file=" + name
        for command in (
            ["create", "-f", "qcow2", *secret, "-u", "-o", encrypted, "new", "1M"],
            ["create", "-f", "qcow2", "-u", "-b", name, "-F", "raw", "new", "1M"],
            ["convert", "-O", "qcow2", "-o", b"data_file=\xff", "plain.raw", "new"],
            ["measure", "--size", "1M", "-O", "qcow2", "-o", b"cluster_size=4096,backing_file=\xe9"],
        ):
            with self.subTest(command):
                self.make("qemu-img", "create", "-q", "-f", "raw", "plain.raw", "1M")
                before = sorted(os.listdir(self.tmp))
                words = [os.fsdecode(word) for word in command]
                out, err, status = self.run_instar(*words, cwd=self.tmp)
                self.assertEqual((out, status), ("", 1))
                self.assertIn("is not UTF-8", err)
                self.assertEqual(sorted(os.listdir(self.tmp)), before)
        os.rename(self.path("plain.raw"), os.fsencode(self.tmp) + b"/" + name)
        self.assertEqual(self.run_instar("info", "-f", "raw", os.fsdecode(name), cwd=self.tmp)[2], 0)

    def test_options_that_a_release_does_not_have(self):
        """Of a format, whichever command is given them."""
        for option in ("keep_data_file=off", "compression_type=zlib", "nosuch=1"):
            self.same(
                f"create -f qcow2 -o {option} n 1M",
                f"convert -O qcow2 -o {option} a.qcow2 n",
                f"measure -O qcow2 -o {option} a.qcow2",
                f"measure -O qcow2 -o {option} --size 1M",
            )


class TestExtensions(InstarTestBase):
    """What only instar can do is done under the other name, too, if it is asked for."""

    #: What is done, and what says so where it is not allowed.
    ABILITIES = (
        ("resize v.vmdk 2M", "does not support resize"),
        ("resize v.vhdx 64M", "does not support resize"),
        ("resize v.vdi 2M", "does not support resize"),
        ("resize v.vpc 2M", "does not support resize"),
        ("resize v.parallels 2M", "does not support resize"),
        ("check v.vpc", "does not support checks"),
        ("rebase -u -b  v.vmdk", "Operation not supported"),
        ("create -f vpc -b v.vpc -F vpc n.vpc", "Backing file not supported"),
        ("create -f vhdx -b v.vhdx -F vhdx n.vhdx", "Backing file not supported"),
        ("convert -O vpc -B v.vpc -F vpc v.vpc m.vpc", "Backing file not supported"),
    )

    def test_each_ability(self):
        for asked in (("--extensions",), ()):
            for command, refusal in self.ABILITIES:
                with self.subTest(command, asked=asked):
                    for format in ("vmdk", "vhdx", "vdi", "vpc", "parallels"):
                        self.make("qemu-img", "create", "-q", "-f", format, f"v.{format}", "1M")
                    words = command.split(" ")
                    theirs = self.run_qemu_img(*words, cwd=self.tmp)
                    self.assertNotEqual(theirs[2], 0, "the stock tool can do it")
                    _, err, status = self.run_as_qemu_img(*asked, *words, cwd=self.tmp)
                    if asked:
                        self.assertEqual((err, status), ("", 0))
                    else:
                        self.assertIn(refusal, err)
                        self.assertEqual(status, theirs[2])
                        if words[0] != "convert":
                            self.assertIn(refusal, theirs[1])
