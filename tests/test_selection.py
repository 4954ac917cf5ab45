"""Which part of the sources goes into the target: above a shared backing file, of a snapshot, without what is zero."""

import itertools
import json
import os

from tests.base import InstarTestBase

MIB = 1 << 20
BASES = ("base.q", "base.raw", "short.q")


class TestSharedBacking(InstarTestBase):
    """`convert -n -B`: the target stands on what the source stands on, and takes only what is above it."""

    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "10M")
        self.make("qemu-io", "-c", "write -P 1 0 1M", "base.q")
        self.make("qemu-img", "convert", "-O", "raw", "base.q", "base.raw")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "short.q", "1M")
        self.make("qemu-io", "-c", "write -P 1 0 1M", "short.q")
        for name, options in (("ov.q", []), ("small.q", ["-o", "cluster_size=4k"])):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", *options, "-b", "base.q", "-F", "qcow2", name)
        for command in ("write -P 2 2M 64k", "write -z 0 128k", "write -z 5M 64k"):
            self.make("qemu-io", "-c", command, "ov.q")
        for command in ("write -P 2 2M 4k", "write -P 3 3076k 8k"):
            self.make("qemu-io", "-c", command, "small.q")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "ov.q", "-F", "qcow2", "ov2.q")
        self.make("qemu-io", "-c", "write -P 4 4M 64k", "ov2.q")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "grown.q", "10M")
        self.make("qemu-img", "rebase", "-u", "-b", "short.q", "-F", "qcow2", "grown.q")

    def targets(self, base, own):
        """Two alike: for instar and the stock tool."""
        for name in ("t1.q", "t2.q"):
            argv = ["-b", base, "-F", "raw" if base.endswith("raw") else "qcow2"] if base else []
            self.make("qemu-img", "create", "-q", "-f", "qcow2", *argv, name, "10M")
            for command in own:
                self.make("qemu-io", "-c", command, name)
        return "t1.q", "t2.q"

    def held(self, name):
        entries = json.loads(self.make("qemu-img", "map", "--output=json", name))
        return [(e["start"], e["length"], e["zero"]) for e in entries if e["depth"] == 0 and e["present"]]

    def test_as_the_stock_tool(self):
        # Each option with each base, with each source, and with both kinds of target.
        every = itertools.cycle(([], ["-S", "0"], ["-S", "64k"], ["-W"], []))
        for base in (*BASES, None):
            for own in ((), ("write -P 9 2M 64k", "write -P 9 3M 128k", "write -P 9 7M 64k")):
                for source in ("ov.q", "small.q", "ov2.q", "grown.q", "base.q", "base.raw"):
                    options = next(every)
                    with self.subTest(base=base, own=own, source=source, options=options):
                        ours, theirs = self.targets(base, own)
                        argv = ["convert", "-n", "-O", "qcow2", "-B", base or "base.q", "-F", "qcow2", *options, source]
                        stock = self.run_qemu_img(*argv, theirs, cwd=self.tmp)
                        self.assert_same_outcome(self.run_instar(*argv, ours, cwd=self.tmp), stock)
                        self.assert_same_disk(ours, theirs)
                        self.assert_check_clean(ours)

    def test_nothing_else_is_written(self):
        for base in ("base.q", "base.raw"):
            for source in ("ov.q", "ov2.q"):
                ours, theirs = self.targets(base, ())
                argv = ["convert", "-n", "-O", "qcow2", "-B", base, "-F", "qcow2", source]
                self.assertEqual(self.run_instar(*argv, ours, cwd=self.tmp), ("", "", 0))
                self.make("qemu-img", *argv, theirs)
                self.assertEqual(self.held(ours), self.held(theirs), (base, source))

    def test_the_name_is_not_looked_at(self):
        """The target says by itself what it stands on."""
        for name in ("nosuch.q", "", "other:x"):
            ours, theirs = self.targets("base.q", ())
            argv = ["convert", "-n", "-O", "qcow2", "-B", name, "-F", "qcow2", "ov.q"]
            self.assert_same_outcome(
                self.run_instar(*argv, ours, cwd=self.tmp), self.run_qemu_img(*argv, theirs, cwd=self.tmp), name
            )
            self.assertEqual(self.held(ours), self.held(theirs), name)

    def test_into_a_raw_file(self):
        for name in ("t1.raw", "t2.raw"):
            self.make("qemu-img", "create", "-q", "-f", "raw", name, "10M")
            self.make("qemu-io", "-f", "raw", "-c", "write -P 9 0 10M", name)
        argv = ["convert", "-n", "-O", "raw", "-B", "base.q", "-F", "qcow2", "small.q"]
        self.assertEqual(self.run_instar(*argv, "t1.raw", cwd=self.tmp), ("", "", 0))
        self.make("qemu-img", *argv, "t2.raw")
        self.assert_bytes_identical(self.path("t1.raw"), self.path("t2.raw"))

    def test_what_is_refused(self):
        ours, theirs = self.targets("base.q", ())
        for argv in (
            ["-B", "base.q", "-F", "qcow2", "ov.q", "ov2.q"],
            ["-o", "backing_file=base.q", "ov.q"],
        ):
            argv = ["convert", "-n", "-O", "qcow2", *argv]
            self.assert_same_outcome(
                self.run_instar(*argv, ours, cwd=self.tmp), self.run_qemu_img(*argv, theirs, cwd=self.tmp), argv
            )
        # The stock tool says this and exits with 0, having done nothing.
        argv = ["convert", "-n", "--target-is-zero", "-O", "qcow2", "-B", "base.q", "-F", "qcow2", "ov.q", ours]
        text = "instar: Cannot use --target-is-zero when the destination image has a backing file\n"
        self.assertEqual(self.run_instar(*argv, cwd=self.tmp), ("", text, 1))
        self.assertEqual(self.held(ours), [])

    def test_new_targets(self):
        """Of a source that stands on nothing, what is empty is zero."""
        for base in BASES:
            for source in ("ov.q", "ov2.q", "small.q", "grown.q", "base.q", "base.raw"):
                for how in (["-B", base, "-F"], ["-o"]):
                    fmt = "raw" if base.endswith("raw") else "qcow2"
                    how = [*how, fmt] if how[0] == "-B" else ["-o", f"backing_file={base},backing_fmt={fmt}"]
                    with self.subTest(source=source, how=how):
                        for name, run in (("n1.q", self.run_instar), ("n2.q", self.run_qemu_img)):
                            done = run("convert", "-O", "qcow2", *how, source, name, cwd=self.tmp)
                            self.assertEqual(done, ("", "", 0))
                        self.assert_same_disk("n1.q", "n2.q")
                        self.assert_check_clean("n1.q")


class TestSnapshots(InstarTestBase):
    """`-l`: a snapshot has the size that the disk had then; the stock tool cuts it, or fills it up."""

    def one(self, before, after, *shrink):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.q", str(before))
        for at in (0, before - 65536):
            self.make("qemu-io", "-c", f"write -P 1 {at} 64k", "a.q")
        self.make("qemu-img", "convert", "-O", "raw", "a.q", "then.raw")
        self.make("qemu-img", "snapshot", "-c", "s1", "a.q")
        self.make("qemu-img", "resize", "-q", *shrink, "a.q", str(after))
        self.make("qemu-io", "-c", "write -P 2 0 128k", "a.q")

    def test_its_own_size(self):
        for before, after, *shrink in (
            (10 * MIB, 5 * MIB, "--shrink"), (10 * MIB, 20 * MIB), (MIB, 5 << 30), (5 << 30, MIB, "--shrink"),
        ):
            self.one(before, after, *shrink)
            for fmt in ("raw", "qcow2"):
                for wanted in ("s1", "snapshot.name=s1"):
                    argv = ["convert", "-l", wanted, "-O", fmt, "a.q", "o"]
                    self.assertEqual(self.run_instar(*argv, cwd=self.tmp), ("", "", 0))
                    out = json.loads(self.make("qemu-img", "info", "--output=json", "-f", fmt, "o"))
                    self.assertEqual(out["virtual-size"], before)
                    self.assert_same_disk("then.raw", "o", "-f", "raw", "-F", fmt)
            out, err, status = self.run_instar("measure", "-l", "s1", "-O", "raw", "a.q", cwd=self.tmp)
            self.assertEqual((out.splitlines()[0], err, status), (f"required size: {before}", "", 0))

    def test_a_size_that_its_table_does_not_reach(self):
        self.one(10 * MIB, 20 * MIB)
        with open(self.path("a.q"), "r+b") as file:
            file.seek(64)
            table = int.from_bytes(file.read(8), "big")
            # Behind the 40 bytes of the head, and the size of the machine's state.
            file.seek(table + 48)
            self.assertEqual(int.from_bytes(file.read(8), "big"), 10 * MIB)
            file.seek(table + 48)
            file.write((1 << 50).to_bytes(8, "big"))
        _out, err, status = self.run_instar("convert", "-l", "s1", "-O", "raw", "a.q", "o", cwd=self.tmp)
        self.assertEqual((err, status), ("instar: Failed to load snapshot: L1 table is too small\n", 1))
        self.assertFalse(os.path.exists(self.path("o")))


class TestCompressedZeroes(InstarTestBase):
    def test_no_cluster_of_zeroes_is_stored(self):
        """Whatever `-S` says, but 0."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "s.raw", "1M")
        for at in (0, 3, 9, 100, 101, 512):
            self.make("qemu-io", "-f", "raw", "-c", f"write -P 7 {at}k 1k", "s.raw")
        for cluster in ("512", "1k", "4k", "64k"):
            for sparse in ("0", "512", "4k", "8k", "64k"):
                argv = ["convert", "-c", "-S", sparse, "-O", "qcow2", "-o", f"cluster_size={cluster}", "-f", "raw", "s.raw"]
                self.assertEqual(self.run_instar(*argv, "o1.q", cwd=self.tmp), ("", "", 0))
                self.make("qemu-img", *argv, "o2.q")
                maps = [self.make("qemu-img", "map", "--output=json", name) for name in ("o1.q", "o2.q")]
                held = [sum(e["length"] for e in json.loads(text) if e["data"]) for text in maps]
                self.assertEqual(*held, (cluster, sparse))
                self.assert_same_disk("o1.q", "o2.q")
