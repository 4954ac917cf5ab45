"""`convert`: the stock tool finds the same disk in what we write, and nothing to complain about."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time

from tests.base import InstarTestBase
from tests.helpers import images
from tests.helpers.bitmaps import bitmap_bits
from tests.helpers.comparators import get_disk_size
from tests.helpers.info_json import assert_info_equivalent

CASES = 200
MIB = 1 << 20


def random_case(seed):
    """Options of one conversion: source, how it is made, target and its options."""
    rng = random.Random(seed)
    size = rng.choice((0, 512, 1 * MIB, 3 * MIB + 512, 8 * MIB, 17 * MIB + 1536))
    source = rng.choice(("raw", "qcow2", "qcow2", "chain", "packed", "snapshot"))
    source_options = []
    if source != "raw":
        if rng.random() < 0.3:
            source_options.append("compat=0.10")
        else:
            source_options += rng.sample(["lazy_refcounts=on", f"refcount_bits={rng.choice((1, 8, 32, 64))}"], 1)
            if rng.random() < 0.3:
                source_options += ["extended_l2=on", "cluster_size=16k"]
            if source == "packed" and rng.random() < 0.5:
                source_options.append("compression_type=zstd")
        if not any("cluster_size" in o for o in source_options):
            source_options.append(f"cluster_size={rng.choice(('512', '4k', '64k', '1M'))}")
    target = rng.choice(("raw", "qcow2", "qcow2"))
    options, flags = [], []
    if target == "qcow2":
        cluster = rng.choice((None, 512, 4096, 65536, 2 * MIB))
        if rng.random() < 0.25:
            options.append("compat=0.10")
        else:
            if rng.random() < 0.4:
                options.append(f"refcount_bits={rng.choice((1, 2, 4, 8, 16, 32, 64))}")
            if rng.random() < 0.25:
                options.append("extended_l2=on")
                cluster = rng.choice((16384, 65536, 2 * MIB))
            if rng.random() < 0.3:
                options.append("compression_type=zstd")
            if rng.random() < 0.2:
                options.append("lazy_refcounts=on")
        if cluster:
            options.append(f"cluster_size={cluster}")
        if rng.random() < 0.35:
            flags.append("-c")
        elif rng.random() < 0.3:
            options.append(f"preallocation={rng.choice(('metadata', 'falloc', 'full'))}")
    elif rng.random() < 0.2:
        options.append(f"preallocation={rng.choice(('falloc', 'full'))}")
    if rng.random() < 0.3:
        flags += ["-S", rng.choice(("0", "512", "4k", "64k", "1M"))]
    if rng.random() < 0.2:
        flags += ["-W"]
    if rng.random() < 0.2:
        flags += ["-m", str(rng.randrange(1, 17))]
    if source == "snapshot":
        flags += ["-l", "one"]
    return size, source, source_options, target, options, flags


class TestConvertRandom(InstarTestBase):
    """Seeded cases; a seed that fails is its own reproduction."""

    def source(self, seed, size, kind, options):
        images.random_disk(self.path("disk.raw"), size, seed)
        if kind == "raw":
            return "disk.raw"
        opts = ["-o", ",".join(options)] if options else []
        compress = ["-c"] if kind == "packed" else []
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *compress, *opts, "disk.raw", "source.qcow2")
        if kind == "chain" and size:
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "source.qcow2", "-F", "qcow2", "top.qcow2")
            images.write("top.qcow2", (3, 0, 512), (4, size // 2 // 512 * 512, 512), cwd=self.tmp)
            return "top.qcow2"
        if kind == "snapshot":
            self.make("qemu-img", "snapshot", "-c", "one", "source.qcow2")
            if size and not any("refcount_bits=1" == o for o in options):
                images.write("source.qcow2", (5, 0, 512), cwd=self.tmp)
        return "source.qcow2"

    def one(self, seed):
        size, kind, source_options, target, options, flags = random_case(seed)
        if kind == "snapshot" and "refcount_bits=1" in source_options:
            source_options = [o for o in source_options if o != "refcount_bits=1"]
        source = self.source(seed, size, kind, source_options)
        opts = ["-o", ",".join(options)] if options else []
        expected = self.run_qemu_img("convert", "-O", target, *opts, *flags, source, "theirs", cwd=self.tmp)
        actual = self.run_instar("convert", "-O", target, *opts, *flags, source, "ours", cwd=self.tmp)
        self.assert_same_outcome(actual, expected)
        if expected[2] != 0:
            self.assertFalse(os.path.exists(self.path("ours")))
            return
        self.assert_same_disk(self.path("ours"), self.path("theirs"), "-f", target, "-F", target)
        if target == "raw":
            self.assert_bytes_identical(self.path("ours"), self.path("theirs"))
        else:
            self.assert_check_clean(self.path("ours"))
            texts = [self.run_qemu_img("info", "--output=json", self.path(n))[0] for n in ("ours", "theirs")]
            texts = [t.replace(self.path("ours"), "X").replace(self.path("theirs"), "X") for t in texts]
            assert_info_equivalent(self, *texts, target)


def _case(seed):
    def test(self):
        self.one(seed)

    return test


for _seed in range(CASES):
    setattr(TestConvertRandom, f"test_seed_{_seed:03}", _case(_seed))


class TestConvert(InstarTestBase):
    """What the random cases do not reach."""

    def disk(self, size=8 * MIB, seed=1):
        images.random_disk(self.path("disk.raw"), size, seed)
        return self.path("disk.raw")

    def ok(self, *argv, **kwargs):
        out, err, status = self.run_instar("convert", *argv, cwd=self.tmp, **kwargs)
        self.assertEqual((err, status), ("", 0), argv)
        return out

    def test_several_inputs_are_put_behind_one_another(self):
        for name, size in (("a.raw", MIB), ("b.raw", 2 * MIB), ("empty.raw", 0), ("c.raw", 512)):
            images.random_disk(self.path(name), size, size)
        names = ["a.raw", "b.raw", "empty.raw", "c.raw"]
        for target in ("raw", "qcow2"):
            self.make("qemu-img", "convert", "-f", "raw", "-O", target, *names, "theirs")
            self.ok("-f", "raw", "-O", target, *names, "ours")
            self.assert_same_disk(self.path("ours"), self.path("theirs"))

    def test_data_file(self):
        self.disk()
        for extra in ("", ",data_file_raw=on"):
            self.ok("-O", "qcow2", "-o", f"data_file=data.raw{extra}", "disk.raw", "ours.qcow2")
            self.assert_same_disk(self.path("disk.raw"), self.path("ours.qcow2"), "-f", "raw")
            self.assert_check_clean(self.path("ours.qcow2"))
            self.ok("-O", "raw", "ours.qcow2", "back.raw")
            self.assert_bytes_identical(self.path("back.raw"), self.path("disk.raw"))
        self.assert_bytes_identical(self.path("data.raw"), self.path("disk.raw"))

    def test_over_a_backing_file(self):
        self.disk()
        self.make("qemu-img", "convert", "-O", "qcow2", "disk.raw", "base.qcow2")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        images.write("top.qcow2", (7, 4096, 1000), (0, MIB, 65536), (9, 3 * MIB, "200k"), cwd=self.tmp)
        for argv in (["-B", "base.qcow2", "-F", "qcow2"], ["-o", "backing_file=base.qcow2,backing_fmt=qcow2"]):
            self.ok("-O", "qcow2", *argv, "top.qcow2", "ours.qcow2")
            self.assert_same_disk(self.path("top.qcow2"), self.path("ours.qcow2"))
            self.assert_check_clean(self.path("ours.qcow2"))
            self.assertLess(os.path.getsize(self.path("ours.qcow2")), 2 * MIB)

    def test_into_an_existing_file(self):
        self.disk()
        images.random_disk(self.path("old.raw"), 9 * MIB, 5)
        inode = os.stat(self.path("old.raw")).st_ino
        tail = open(self.path("old.raw"), "rb").read()[8 * MIB :]
        self.ok("-n", "-O", "raw", "disk.raw", "old.raw")
        self.assertEqual(os.stat(self.path("old.raw")).st_ino, inode)
        content = open(self.path("old.raw"), "rb").read()
        self.assertEqual(content, open(self.path("disk.raw"), "rb").read() + tail)
        with open(self.path("zero.raw"), "wb") as file:
            file.truncate(8 * MIB)
        self.ok("-n", "--target-is-zero", "-O", "raw", "disk.raw", "zero.raw")
        self.assert_bytes_identical(self.path("zero.raw"), self.path("disk.raw"))

    def test_into_an_existing_qcow2(self):
        for seed, options in enumerate(
            ("", "preallocation=metadata", "cluster_size=4k,refcount_bits=1", "extended_l2=on", "compat=0.10")
        ):
            for size in (8 * MIB, 3 * MIB + 1536):
                with self.subTest(options=options, size=size):
                    images.random_disk(self.path("disk.raw"), size, seed)
                    opts = ["-o", options] if options else []
                    self.make("qemu-img", "create", "-q", "-f", "qcow2", *opts, "ours.qcow2", "8M")
                    images.write("ours.qcow2", (9, MIB, MIB), (8, 5 * MIB + 512, 69632), cwd=self.tmp)
                    # In the cluster that the shorter input ends in: what lies behind stays.
                    images.write("ours.qcow2", (7, 3 * MIB + 8192, 512), cwd=self.tmp)
                    shutil.copy(self.path("ours.qcow2"), self.path("theirs.qcow2"))
                    self.make("qemu-img", "convert", "-n", "-O", "qcow2", "disk.raw", "theirs.qcow2")
                    self.ok("-n", "-O", "qcow2", "disk.raw", "ours.qcow2")
                    self.assert_same_disk(self.path("ours.qcow2"), self.path("theirs.qcow2"))
                    self.assert_check_clean(self.path("ours.qcow2"))

    def test_an_overlay_keeps_what_lies_behind_the_input(self):
        images.random_disk(self.path("base.raw"), 8 * MIB, 3)
        for size in (2 * MIB, 2 * MIB + 512):
            images.random_disk(self.path("disk.raw"), size, 4)
            for name in ("ours.qcow2", "theirs.qcow2"):
                self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", name)
            self.make("qemu-img", "convert", "-n", "-O", "qcow2", "disk.raw", "theirs.qcow2")
            self.ok("-n", "-O", "qcow2", "disk.raw", "ours.qcow2")
            self.assert_same_disk(self.path("ours.qcow2"), self.path("theirs.qcow2"))
            self.assert_check_clean(self.path("ours.qcow2"))

    def test_into_an_existing_qcow2_its_snapshots_stay(self):
        images.random_disk(self.path("old.raw"), 8 * MIB, 6)
        images.random_disk(self.path("disk.raw"), 6 * MIB + 512, 7)
        for options in ("cluster_size=512", "refcount_bits=64,extended_l2=on", "compat=0.10,cluster_size=4k"):
            for compressed in ([], ["-c"]):
                with self.subTest(options=options, compressed=compressed):
                    self.make("qemu-img", "convert", *compressed, "-O", "qcow2", "-o", options, "old.raw", "ours.qcow2")
                    self.make("qemu-img", "snapshot", "-c", "before", "ours.qcow2")
                    images.write("ours.qcow2", (1, 0, MIB), cwd=self.tmp)
                    shutil.copy(self.path("ours.qcow2"), self.path("theirs.qcow2"))
                    self.make("qemu-img", "convert", "-n", "-O", "qcow2", "disk.raw", "theirs.qcow2")
                    self.ok("-n", *compressed, "-O", "qcow2", "disk.raw", "ours.qcow2")
                    self.assert_same_disk(self.path("ours.qcow2"), self.path("theirs.qcow2"))
                    self.assert_check_clean(self.path("ours.qcow2"))
                    self.make("qemu-img", "convert", "-l", "before", "-O", "raw", "ours.qcow2", "snapshot.raw")
                    self.assert_bytes_identical(self.path("snapshot.raw"), self.path("old.raw"))

    def test_persistent_bitmaps_of_an_existing_image_follow(self):
        """The bits that the stock tool's own writes set."""
        self.disk()
        for options in ("cluster_size=64k", "cluster_size=512"):
            with self.subTest(options=options):
                self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "ours.qcow2", "8M")
                self.make("qemu-img", "bitmap", "--add", "-g", "512", "ours.qcow2", "fine")
                self.make("qemu-img", "bitmap", "--add", "--disable", "ours.qcow2", "still")
                shutil.copy(self.path("ours.qcow2"), self.path("theirs.qcow2"))
                self.make("qemu-img", "convert", "-n", "-S", "0", "-O", "qcow2", "disk.raw", "theirs.qcow2")
                self.ok("-n", "-S", "0", "-O", "qcow2", "disk.raw", "ours.qcow2")
                self.assert_check_clean(self.path("ours.qcow2"))
                for name in ("fine", "still"):
                    self.assertEqual(bitmap_bits(self.path("ours.qcow2"), name), bitmap_bits(self.path("theirs.qcow2"), name), name)

    def test_a_target_too_small_is_refused(self):
        self.disk()
        for name in ("small.raw", "other.raw"):
            with open(self.path(name), "wb") as file:
                file.truncate(MIB)
        expected = self.run_qemu_img("convert", "-n", "-O", "raw", "disk.raw", "other.raw", cwd=self.tmp)
        actual = self.run_instar("convert", "-n", "-O", "raw", "disk.raw", "small.raw", cwd=self.tmp)
        self.assert_same_outcome(actual, expected)
        self.assertEqual(get_disk_size(self.path("small.raw")), 0)

    def test_a_replaced_target_keeps_its_rights(self):
        self.disk()
        with open(self.path("old"), "wb") as file:
            file.write(b"x" * 100)
        os.chmod(self.path("old"), 0o600)
        os.symlink("old", self.path("link"))
        self.ok("-O", "raw", "disk.raw", "link")
        self.assertTrue(os.path.islink(self.path("link")))
        self.assertEqual(os.stat(self.path("old")).st_mode & 0o777, 0o600)
        self.assert_bytes_identical(self.path("old"), self.path("disk.raw"))

    def test_holes_stay_holes_unless_told_otherwise(self):
        with open(self.path("disk.raw"), "wb") as file:
            file.write(b"x" * 65536)
            file.write(bytes(4 * MIB))
            file.truncate(64 * MIB)
        self.make("qemu-img", "convert", "-O", "qcow2", "disk.raw", "disk.qcow2")
        for source in ("disk.raw", "disk.qcow2"):
            self.ok("-O", "raw", source, "sparse.raw")
            self.assertLess(get_disk_size(self.path("sparse.raw")), MIB)
            self.ok("-S", "0", "-O", "raw", source, "full.raw")
            self.assertGreaterEqual(get_disk_size(self.path("full.raw")), 64 * MIB)
            self.assert_same_disk(self.path("sparse.raw"), self.path("full.raw"))

    def test_a_sparse_tebibyte_takes_no_time(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "huge.qcow2", "1T")
        images.write("huge.qcow2", (1, 0, "64k"), (2, "1023G", "64k"), cwd=self.tmp)
        for target in ("raw", "qcow2"):
            started = time.monotonic()
            self.ok("-O", target, "huge.qcow2", f"ours.{target}")
            self.assertLess(time.monotonic() - started, 5)
            self.assert_same_disk(self.path("huge.qcow2"), self.path(f"ours.{target}"))

    def test_memory_stays_small(self):
        with open(self.path("big.raw"), "wb") as file:
            block = os.urandom(MIB)
            for i in range(48):
                file.seek(i * 64 * MIB)
                file.write(block * 8)
            file.truncate(3 << 30)
        for argv in (["-O", "raw"], ["-O", "qcow2"], ["-c", "-O", "qcow2", "-o", "compression_type=zstd"]):
            text = self.run_tool(
                ["/usr/bin/env", "python3", "-c", MEASURE, self.get_instar_binary(), "convert", *argv, "big.raw", "out"],
                cwd=self.tmp,
                timeout=300,
            )[0]
            status, kilobytes = (int(n) for n in text.split())
            self.assertEqual(status, 0)
            self.assertLess(kilobytes, 100 * 1024, argv)

    def test_under_the_limits_of_clients(self):
        self.disk()
        limits = {resource.RLIMIT_AS: 1 << 30, resource.RLIMIT_CPU: 2}
        for argv in (["info", "disk.raw"], ["convert", "-O", "qcow2", "disk.raw", "x.qcow2"]):
            _, err, status = self.run_instar(*argv, cwd=self.tmp, limits=limits)
            self.assertEqual((err, status), ("", 0))

    def test_progress(self):
        self.disk(32 * MIB)
        out = self.ok("-p", "-O", "qcow2", "disk.raw", "x.qcow2")
        self.assertRegex(out, r"\A    \(0\.00/100%\)\r(    \(\d+\.\d\d/100%\)\r)*    \(100\.00/100%\)\r\n\Z")
        percents = [float(p) for p in re.findall(r"\((\d+\.\d\d)/100%\)", out)]
        self.assertEqual(percents, sorted(percents))
        self.assertEqual(self.ok("-q", "-p", "-O", "raw", "disk.raw", "x.raw"), "")

    def test_option_help(self):
        for fmt in ("qcow2", "raw"):
            expected = self.run_qemu_img("convert", "-O", fmt, "-o", "help", "a", "b")
            self.assert_same_outcome(self.run_instar("convert", "-O", fmt, "-o", "help", "a", "b"), expected)

    def test_same_file_twice(self):
        self.disk()
        before = self.sha256(self.path("disk.raw"))
        expected = self.run_qemu_img("convert", "-O", "raw", "disk.raw", "disk.raw", cwd=self.tmp)
        self.assert_same_outcome(
            self.run_instar("convert", "-O", "raw", "disk.raw", "disk.raw", cwd=self.tmp), expected
        )
        self.assertEqual(self.sha256(self.path("disk.raw")), before)

    def test_salvage_goes_on(self):
        self.disk()
        self.make("qemu-img", "convert", "-c", "-O", "qcow2", "disk.raw", "broken.qcow2")
        with open(self.path("broken.qcow2"), "r+b") as file:
            file.seek(6 * 65536)
            file.write(b"\xff" * 65536)
        out, err, status = self.run_instar("convert", "-O", "raw", "broken.qcow2", "x.raw", cwd=self.tmp)
        self.assertEqual((out, status), ("", 1))
        self.assertRegex(err, r"error while reading at byte \d+: Input/output error")
        self.assertFalse(os.path.exists(self.path("x.raw")))
        _, _, status = self.run_instar("convert", "--salvage", "-O", "raw", "broken.qcow2", "x.raw", cwd=self.tmp)
        self.assertEqual(status, 0)
        self.assertEqual(os.path.getsize(self.path("x.raw")), 8 * MIB)


# Peak memory of a command and all its children together is at most the sum of what each had at its peak.
MEASURE = """
import os, resource, subprocess, sys, threading, time
peak, child = 0, subprocess.Popen(sys.argv[1:])
def family(pid):
    yield pid
    try:
        for line in open(f'/proc/{pid}/task/{pid}/children').read().split():
            yield from family(int(line))
    except OSError:
        return
def pss(pid):
    try:
        text = open(f'/proc/{pid}/smaps_rollup').read()
    except OSError:
        return 0
    return next((int(l.split()[1]) for l in text.splitlines() if l.startswith('Pss:')), 0)
while child.poll() is None:
    peak = max(peak, sum(pss(p) for p in family(child.pid)))
    time.sleep(0.02)
print(child.returncode, peak)
"""


class TestConvertFailures(InstarTestBase):
    """Nothing half-written under the final name."""

    def slow(self, *argv):
        images.random_disk(self.path("disk.raw"), 64 * MIB, 3)
        return subprocess.Popen(
            [str(self.get_instar_binary()), "convert", "-r", "1M", "-O", "qcow2", *argv, "disk.raw", "out.qcow2"],
            cwd=self.tmp,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def test_options_that_do_not_go_together(self):
        """A format of no backing file, and compressed clusters in a data file."""
        images.random_disk(self.path("disk.raw"), MIB, 3)
        cases = [("-c", "-O", "qcow2", "-o", "data_file=d"), ("-c", "-O", "qcow2", "-o", "data_file=d,data_file_raw=on")]
        for fmt in ("raw", "vdi", "vmdk", "qcow2", "qcow", "qed", "vpc", "vhdx", "parallels"):
            cases += [("-O", fmt, "-F", backing) for backing in ("qcow2", "vmdk", "nosuch")[: 2 if fmt == "vmdk" else 3]]
        for case in cases:
            with self.subTest(case):
                argv = ("convert", "-f", "raw", *case, "disk.raw", "out")
                stock = self.run_qemu_img(*argv, cwd=self.tmp)
                left = [name for name in ("d", "out") if os.path.exists(self.path(name))]
                for name in left:
                    os.remove(self.path(name))
                self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
                self.assertEqual(os.path.exists(self.path("out")), stock[2] == 0)
                for name in ("d", "out"):
                    if os.path.exists(self.path(name)):
                        os.remove(self.path(name))

    def test_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for existing in (False, True):
                with self.subTest(signal=number, existing=existing):
                    if existing:
                        with open(self.path("out.qcow2"), "wb") as file:
                            file.write(b"old content")
                    child = self.slow()
                    time.sleep(0.7)
                    self.assertIsNone(child.poll())
                    child.send_signal(number)
                    child.wait(timeout=10)
                    time.sleep(0.2)
                    left = sorted(os.listdir(self.tmp))
                    if existing:
                        self.assertEqual(open(self.path("out.qcow2"), "rb").read(), b"old content")
                        os.unlink(self.path("out.qcow2"))
                        left.remove("out.qcow2")
                    self.assertEqual(left, ["disk.raw"])

    def test_disk_full(self):
        if os.geteuid() != 0:
            self.skipTest("making a small file system takes root")
        images.random_disk(self.path("disk.raw"), 16 * MIB, 3)
        os.mkdir(self.path("small"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", self.path("small")], check=True)
        self.addCleanup(subprocess.run, ["umount", self.path("small")], check=True)
        for target in ("raw", "qcow2"):
            out, err, status = self.run_instar("convert", "-O", target, "disk.raw", "small/x", cwd=self.tmp)
            self.assertEqual((out, status), ("", 1))
            self.assertIn("No space left on device", err)
            self.assertEqual(os.listdir(self.path("small")), [])

    def test_folders_that_cannot_be_written(self):
        images.random_disk(self.path("disk.raw"), MIB, 3)
        for target in ("nowhere/x", "."):
            expected = self.run_qemu_img("convert", "-O", "raw", "disk.raw", target, cwd=self.tmp)
            self.assert_same_outcome(self.run_instar("convert", "-O", "raw", "disk.raw", target, cwd=self.tmp), expected)

    def test_an_image_in_use_is_left_alone(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "busy.qcow2", "1M")
        self.make("qemu-img", "create", "-q", "-f", "raw", "disk.raw", "1M")
        holder = subprocess.Popen(
            ["qemu-io", "-f", "qcow2", "-c", "sleep 60000", self.path("busy.qcow2")], stdin=subprocess.DEVNULL
        )
        try:
            time.sleep(0.5)
            before = self.sha256(self.path("busy.qcow2"))
            for argv in (["info", "busy.qcow2"], ["convert", "-O", "raw", "busy.qcow2", "x"]):
                expected = self.run_qemu_img(*argv, cwd=self.tmp)
                self.assertEqual(expected[2], 1)
                self.assert_same_outcome(self.run_instar(*argv, cwd=self.tmp), expected)
            argv = ["convert", "-O", "qcow2", "disk.raw", "busy.qcow2"]
            _, err, status = self.run_instar(*argv, cwd=self.tmp)
            self.assertEqual(status, 1)
            self.assertIn("lock", err)
            self.assertEqual(self.run_instar("info", "-U", "busy.qcow2", cwd=self.tmp)[2], 0)
            self.assertEqual(self.sha256(self.path("busy.qcow2")), before)
        finally:
            holder.kill()
            holder.wait()
