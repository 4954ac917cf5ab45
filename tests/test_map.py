"""`map` in depth: every range, chain and kind of place, human and JSON, byte for byte what the stock tool prints."""

import json
import os
import shutil
import subprocess

from tests.base import InstarTestBase

MIB = 1 << 20
OUTPUTS = ("--output=human", "--output=json")
# Which part of a disk of 4 MiB; `map` takes sizes with suffixes and rounds nothing.
RANGES = (
    (),
    ("--start-offset=0",),
    ("--start-offset=1",),
    ("--start-offset=512",),
    ("--start-offset", "65535"),
    ("--start-offset=64k", "--max-length=64k"),
    ("--start-offset=1M", "--max-length=1"),
    ("--start-offset=100K", "--max-length=3.5k"),
    ("--max-length=0",),
    ("--max-length=1",),
    ("--max-length=1.5M",),
    ("--max-length=1T",),
    ("--start-offset=4194303",),
    ("--start-offset=4M",),
    ("--start-offset=4194305",),
    ("--start-offset=1G", "--max-length=1G"),
    ("--start-offset=9223372036854775807",),
    ("--start-offset=0x10000", "--max-length=0x20000"),
    ("--start-offset=2M", "--start-offset=1M"),
    ("-s", "1M", "-l", "1M"),
    ("--start-offset= 1M", "--max-length=+1M"),
)
WRONG = (
    (),
    ("top", "base"),
    ("nowhere",),
    ("--start-offset=-1", "top"),
    ("--start-offset=-1M", "top"),
    ("--start-offset=+-1", "top"),
    ("--start-offset=- 1", "top"),
    ("--start-offset=-99999999999999999999", "top"),
    ("--max-length=-1", "top"),
    ("--start-offset=9223372036854775808", "top"),
    ("--max-length=8E", "top"),
    ("--max-length=16E", "top"),
    ("--start-offset=1X", "top"),
    ("--start-offset=", "top"),
    ("--start-offset=1.2.3", "top"),
    ("--start-offset=many", "top"),
    ("--max-length=1kk", "top"),
    ("--start-offset", "top"),
    ("--output=xml", "top"),
    ("--output", "top"),
    ("-f", "odd", "top"),
    ("-f", "qcow2", "raw"),
    ("-f", "vmdk", "top"),
    ("-p", "top"),
    ("-q", "top"),
    ("-T", "none", "top"),
    ("--image-opts", "-f", "qcow2", "driver=qcow2,file.filename=top"),
    ("--image-opts", "top"),
    ("--image-opts", "driver=qcow2,file.filename=nowhere"),
    ("--image-opts", "driver=odd,file.filename=top"),
    ("--object", "odd", "top"),
    ("--object", "secret,id=one", "top"),
    ("orphan",),
)


class TestMap(InstarTestBase):
    """Each test in a folder of images that the stock tools made."""

    def alike(self, *argv, status=0):
        ours = self.run_as_qemu_img("map", *argv, cwd=self.tmp)
        self.assertEqual(ours, self.run_qemu_img("map", *argv, cwd=self.tmp), argv)
        if status is not None:
            self.assertEqual(ours[2], status, f"{argv}: {ours[1]}")
        return ours[0]

    def entries(self, name, *argv):
        return json.loads(self.alike("--output=json", *argv, name))

    def write(self, name, *commands, fmt="qcow2"):
        for command in commands:
            self.make("qemu-io", "-f", fmt, "-c", command, name)

    def chain(self):
        """raw (with holes) <- base <- middle (longer) <- top (longer still), each of another cluster size."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "raw", "1M")
        self.write("raw", "write -q -P 1 128k 64k", "write -q -P 1 900k 100k", fmt="raw")
        for name, below, fmt, size, options in (
            ("base", "raw", "raw", "2M", "cluster_size=4k"),
            ("middle", "base", "qcow2", "3M", "cluster_size=64k,compat=1.1"),
            ("top", "middle", "qcow2", "4M", "cluster_size=32k,extended_l2=on"),
        ):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", below, "-F", fmt, name, size)
        self.write("base", "write -q -P 2 256k 12k", "write -q -z 300k 64k", "write -q -P 2 1500k 8k")
        self.write("middle", "write -q -P 3 1M 200k", "write -q -z 512k 128k", "write -q -z -u 2M 64k")
        self.write("top", "write -q -P 4 3M 5k", "write -q -z 1100k 8k", "write -q -P 4 2000k 128k")

    def test_ranges(self):
        """Of a chain of four images, whose depths all show."""
        self.chain()
        for output in OUTPUTS:
            for words in RANGES:
                for name in ("top", "middle", "raw"):
                    with self.subTest(f"{output} {words} {name}"):
                        self.alike(output, *words, *(("-f", "raw") if name == "raw" else ()), name)
        self.assertEqual({entry["depth"] for entry in self.entries("top")}, {0, 1, 2, 3})

    def test_a_length_that_overflows_the_stock_tool(self):
        """It finds nothing where start and length together pass 2^63; here the length is as good as none."""
        self.chain()
        for output in OUTPUTS:
            words = ("map", output, "--start-offset=3M")
            ours = self.run_as_qemu_img(*words, "--max-length=9223372036854775807", "top", cwd=self.tmp)
            self.assertEqual(ours, self.run_qemu_img(*words, "top", cwd=self.tmp))

    def test_what_is_wrong(self):
        self.chain()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "gone", "-F", "raw", "orphan", "1M")
        for words in WRONG:
            with self.subTest(words):
                self.alike(*words, status=1)

    def test_kinds_of_places(self):
        """Compressed, zero with and without a place, preallocated, behind a snapshot, in another file, of odd sizes."""
        for name, options in (
            ("plain", "cluster_size=512"),
            ("wide", "cluster_size=2M"),
            ("old", "compat=0.10"),
            ("sub", "extended_l2=on,cluster_size=16k"),
            ("reserved", "preallocation=metadata"),
            ("full", "preallocation=full"),
            ("outside", "data_file=bytes"),
            ("outside-raw", "data_file=bytes-raw,data_file_raw=on"),
        ):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, name, "5000000")
            self.write(name, "write -q -P 1 0 100k", "write -q -P 1 1M 3k", "write -q -z 40k 8k", "write -q -z -u 2M 512k")
        with open(self.path("content"), "wb") as file:
            file.write(b"".join(bytes([number]) * 40_000 + bytes(90_000) for number in range(1, 30)))
        for kind in ("zlib", "zstd"):
            words = ("-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind},cluster_size=16k")
            self.make("qemu-img", "convert", *words, "content", kind)
            self.write(kind, "write -q -P 5 100k 1k")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "zlib", "-F", "qcow2", "over-zlib")
        self.make("qemu-img", "snapshot", "-c", "one", "plain")
        self.write("plain", "write -q -P 7 0 2k")
        names = ("plain", "wide", "old", "sub", "reserved", "full", "outside", "outside-raw", "zlib", "zstd", "over-zlib")
        for name in names:
            for output in OUTPUTS:
                with self.subTest(f"{name} {output}"):
                    # What is compressed has no place for human eyes.
                    self.alike(output, name, status=None)
                    self.alike(output, "--start-offset=48k", "--max-length=2M", name, status=None)
        seen = {key for name in names for entry in self.entries(name) for key, value in entry.items() if value is True}
        self.assertEqual(seen, {"present", "zero", "data", "compressed"})

    def test_holes_of_a_data_file(self):
        """Of an image that looks preallocated, and whose clusters are in another file: the holes are that one's."""
        options = "cluster_size=2M,data_file=bytes,data_file_raw=on"
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "dense", "64M")
        self.write("dense", "write -q -P 1 20M 2M", "write -q -P 1 40M 1M")
        subprocess.run(["cp", "--sparse=always", "dense", "sparse"], cwd=self.tmp, check=True)
        for output in OUTPUTS:
            self.alike(output, "sparse")
        shown = [entry["start"] >> 20 for entry in self.entries("sparse") if not entry["zero"]]
        self.assertEqual(shown, [0, 20, 40])

    def test_raw_with_holes(self):
        """By SEEK_DATA and SEEK_HOLE: at the beginning, at the end, none, nothing else, and of odd lengths."""
        for name, length, pieces in (
            ("empty", 0, ()),
            ("hole", MIB, ()),
            ("all", 70_000, ((0, 70_000),)),
            ("first", MIB, ((0, 4096),)),
            ("last", MIB, ((MIB - 4096, 4096),)),
            ("odd", 1_000_003, ((4096, 1), (300_000, 5000), (1_000_000, 3))),
            ("many", 8 * MIB, tuple((at, 4096) for at in range(0, 8 * MIB, 32768))),
            ("byte", 1, ((0, 1),)),
        ):
            with open(self.path(name), "wb") as file:
                for at, size in pieces:
                    file.seek(at)
                    file.write(b"x" * size)
                file.truncate(length)
            for output in OUTPUTS:
                for words in ((), ("--start-offset=4000", "--max-length=5000"), ("--start-offset=65536",)):
                    with self.subTest(f"{name} {output} {words}"):
                        self.alike(output, "-f", "raw", *words, name, status=None)
        self.assertEqual([entry["data"] for entry in self.entries("last", "-f", "raw")], [False, True])
        self.assertGreater(len(self.entries("many", "-f", "raw")), 500)

    def test_several_formats_in_a_chain(self):
        """Each format below a qcow2, and below a vmdk and a qed where these can stand on it."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "content", "4M")
        self.write("content", "write -q -P 1 0 100k", "write -q -P 1 1M 1M", "write -q -P 1 4000k 64k", fmt="raw")
        formats = ("raw", "qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx", "vdi", "parallels")
        for fmt in formats:
            self.make("qemu-img", "convert", "-f", "raw", "-O", fmt, "content", f"below-{fmt}")
            tops = [("qcow2", "qcow2"), ("qed", "qed")] + ([("vmdk", "vmdk")] if fmt == "vmdk" else [])
            for top, top_format in tops:
                words = ("-b", f"below-{fmt}", "-F", fmt, f"{top}-{fmt}", "4M")
                self.make("qemu-img", "create", "-q", "-f", top_format, *words)
                self.write(f"{top}-{fmt}", "write -q -P 2 64k 64k", "write -q -P 2 2M 64k", fmt=top_format)
                for output in OUTPUTS:
                    with self.subTest(f"{top} over {fmt} {output}"):
                        self.alike(output, "-f", top_format, f"{top}-{fmt}", status=None)
                        self.alike(output, "--image-opts", f"driver={top_format},file.filename={top}-{fmt}", status=None)
            for output in OUTPUTS:
                with self.subTest(f"{fmt} {output}"):
                    # The stock tool has no place for the blocks of a vhdx that human eyes could see.
                    self.alike(output, "-f", fmt, f"below-{fmt}", status=None)
                    self.alike(output, "-f", fmt, "--start-offset=70k", "--max-length=1M", f"below-{fmt}", status=None)

    def test_names(self):
        """Of files in other folders, and with characters that JSON has to write in another way."""
        os.mkdir(self.path("inner"))
        self.make("qemu-img", "create", "-q", "-f", "raw", 'inner/a "raw" \\ one', "1M")
        self.write('inner/a "raw" \\ one', "write -q -P 1 0 64k", fmt="raw")
        below = ("-b", 'a "raw" \\ one', "-F", "raw")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", *below, "inner/töp")
        shutil.copy(self.path("inner/töp"), self.path("inner/plain"))
        for name in ("inner/töp", "./inner/../inner/plain", self.path("inner/plain")):
            for output in OUTPUTS:
                with self.subTest(f"{name} {output}"):
                    self.alike(output, name)

    def test_an_image_that_is_in_use(self):
        self.chain()
        for name in ("top", "middle", "base"):
            with self.held(name):
                for words in ((), ("-U",), ("--force-share",), ("-U", "--start-offset=1M")):
                    for output in OUTPUTS:
                        with self.subTest(f"{name} held {words} {output}"):
                            self.alike(output, *words, "top", status=0 if words else 1)

    def test_image_opts(self):
        self.chain()
        for words in (
            "driver=qcow2,file.filename=top",
            "file.filename=top",
            "driver=qcow2,file.driver=file,file.filename=middle",
            "driver=raw,file.filename=top",
            "driver=raw,file.filename=raw,offset=64k,size=128k",
            "driver=raw,file.filename=raw,size=128k",
        ):
            for output in OUTPUTS:
                with self.subTest(f"{words} {output}"):
                    self.alike(output, "--image-opts", words)
