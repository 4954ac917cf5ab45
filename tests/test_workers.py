"""How many workers move data changes nothing but the time: not the bytes, and not whether the memory is enough."""

import filecmp
import random

from tests.base import InstarTestBase

MIB = 1 << 20
SIZE = 24 * MIB
COUNTS = (1, 2, 3, 8, 16, 64)
LARGE = "cluster_size=2M,compression_type=zstd"
# Source, and what it is converted to: what each worker holds at a time is largest with large compressed clusters.
CONVERSIONS = (
    ("zstd.qcow2", "raw", ()),
    ("stream.vmdk", "qcow2", ()),
    ("disk.raw", "qcow2", ("-c",)),
    ("zstd.qcow2", "qcow2", ("-c", "-o", LARGE)),
    ("disk.raw", "vmdk", ("-o", "subformat=streamOptimized")),
    ("zlib.qcow2", "vhdx", ()),
)


class WorkersTest(InstarTestBase):
    """One disk in several formats; every count of workers makes the same of it."""

    def setUp(self):
        super().setUp()
        rng = random.Random(41)
        with open(self.path("disk.raw"), "wb") as disk:
            for _ in range(SIZE // MIB):
                block = rng.randbytes(4096)
                disk.write((block * 2 + bytes(4096)) * (MIB // 12288) + bytes(MIB % 12288))
        for name, options in (
            ("zstd.qcow2", ("-c", "-O", "qcow2", "-o", LARGE)),
            ("zlib.qcow2", ("-c", "-O", "qcow2")),
            ("stream.vmdk", ("-O", "vmdk", "-o", "subformat=streamOptimized")),
        ):
            self.make("qemu-img", "convert", *options, "disk.raw", name)

    def convert(self, source, target, *argv):
        out, err, status = self.run_instar("convert", *argv, source, target, cwd=self.tmp, timeout=120)
        self.assertEqual((out, err, status), ("", "", 0), argv)

    def test_any_number_makes_the_same(self):
        for source, form, options in CONVERSIONS:
            for count in COUNTS:
                with self.subTest(source=source, form=form, options=options, workers=count):
                    target = f"out-{count}.{form}"
                    self.convert(source, target, "--workers", str(count), "-O", form, *options)
                    self.make("qemu-img", "compare", "disk.raw", target)
                    if form == "qcow2":
                        first = self.path(f"out-{COUNTS[0]}.{form}")
                        self.assertTrue(filecmp.cmp(first, self.path(target), shallow=False), "other bytes")

    def test_as_many_work_as_the_memory_is_enough_for(self):
        for memory in ("48M", "64M", "96M"):
            for count in COUNTS[-3:]:
                with self.subTest(memory=memory, workers=count):
                    argv = ("--workers", str(count), "--max-guest-memory", memory, "-c", "-O", "qcow2", "-o", LARGE)
                    self.convert("zstd.qcow2", "out.qcow2", *argv)
                    self.make("qemu-img", "compare", "disk.raw", "out.qcow2")

    def test_other_commands(self):
        for argv in (
            ("compare", "zstd.qcow2", "zlib.qcow2"),
            ("check", "zstd.qcow2"),
            ("map", "--output=json", "zlib.qcow2"),
            ("bench", "-c", "100", "-d", "64", "zlib.qcow2"),
            ("dd", "-O", "qcow2", "bs=1M", "if=zstd.qcow2", "of=out.qcow2"),
        ):
            for count in (1, 64):
                with self.subTest(argv=argv, workers=count):
                    out, err, status = self.run_instar(*argv, "--workers", str(count), cwd=self.tmp)
                    self.assertEqual((err, status), ("", 0), out)

    def test_what_is_no_number_of_workers(self):
        for value, says in (
            ("0", "instar: workers (from --workers): with 0 nothing can run; the least is 1\n"),
            ("two", "instar: workers (from --workers): 'two' is no number\n"),
            ("-1", "instar: workers (from --workers): '-1' is no number\n"),
        ):
            out, err, status = self.run_instar("info", f"--workers={value}", "disk.raw", cwd=self.tmp)
            self.assertEqual((out, err, status), ("", says, 1))

    def test_more_than_there_can_be_are_as_many_as_there_can_be(self):
        self.convert("zlib.qcow2", "out.raw", "--workers", "100000", "-O", "raw")
        self.make("qemu-img", "compare", "disk.raw", "out.raw")
