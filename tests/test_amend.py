"""amend, next to the stock tool: words, what the image is afterwards, odd images, random histories."""

import json
import os
import random
import re
import shutil
import struct
import unittest

from tests.helpers.twins import TwinTest

# Random histories; INSTAR_AMEND_SEEDS runs more of them.
SEEDS = int(os.environ.get("INSTAR_AMEND_SEEDS", "12"))
FIRST_SEED = int(os.environ.get("INSTAR_AMEND_FIRST_SEED", "0"))
KIB, MIB = 1 << 10, 1 << 20
# What an image is made with.
OPTIONS = (
    # (The stock tool takes seconds for narrow refcounts in large clusters.)
    "cluster_size=16k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=8",
    "cluster_size=16k,refcount_bits=64,lazy_refcounts=on",
    "cluster_size=8k,refcount_bits=1",
    "cluster_size=16k,extended_l2=on",
    "compat=0.10,cluster_size=4k",
    "cluster_size=8k,compression_type=zstd",
    "cluster_size=16k,preallocation=metadata",
)


class AmendTest(TwinTest):
    COMMAND = "amend"

    @staticmethod
    def blank(text):
        """Which cluster has too many references for narrow counts depends on the layout."""
        return re.sub(r"(Cluster at offset) 0x[0-9a-f]+", r"\1 *", text)

    def told(self, who, name="a.q"):
        """What `info` says, but for what depends on the layout."""
        text = self.make("qemu-img", "info", "--output=json", name, cwd=self.path(who))
        return re.sub(r'"(actual-size|virtual-size)": \d+(?=,\n {16,}"filename")|"(actual-size|date-n?sec)": \d+', "", text)

    def assert_same_amended(self):
        """Disk, snapshots and what is told of the image are the stock tool's."""
        self.assertEqual(self.told("ours"), self.told("theirs"))
        self.assert_same_image()


class TestAmendArguments(AmendTest):
    def test_texts_equal_the_stock_tools(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "1M", cwd=self.path("ours"))
        for fmt in ("raw", "vmdk", "vdi", "vpc", "vhdx", "qed", "qcow", "parallels"):
            self.make("qemu-img", "create", "-q", "-f", fmt, f"x.{fmt}", "1M", cwd=self.path("ours"))
        self.copy()
        lines = (
            "", "a.q", "-o", "-o compat=0.10", "-o compat=1.1 a.q a.q", "-o x=1 a.q", "-o x=1", "-o help", "-o help a.q",
            "-f qcow2 -o help", "-f luks -o help", "-f raw -o help", "-f nosuch -o help", "-f qcow2 -o help nosuch",
            "-o help nosuch", "-o compat=1.1,help a.q", "-o ? -f qcow2", "-o cluster_size=4k a.q", "-o preallocation=full a.q",
            "-o encryption=on a.q", "-o encrypt.format=luks a.q", "-o encrypt.state=active a.q", "-o compat=2 a.q",
            "-o compat= a.q", "-o compat a.q", "-o refcount_bits=3 a.q", "-o refcount_bits=0 a.q", "-o refcount_bits=-1 a.q",
            "-o refcount_bits=128 a.q", "-o refcount_bits=x a.q", "-o compat=0.10,refcount_bits=8 a.q",
            "-o compat=0.10,lazy_refcounts=on a.q", "-o backing_file=b a.q", "-o backing_file= a.q", "-o backing_fmt=raw a.q",
            "-o nobacking_file a.q", "-o data_file=d a.q", "-o data_file= a.q", "-o data_file_raw=on a.q",
            "-o data_file_raw=off a.q", "-o data_file_raw=x a.q", "-o size=100 a.q", "-o size=x a.q", "-o size=-1 a.q", "-o size=+1M a.q", "-o size=+-1M a.q", "-o refcount_bits=+16 a.q",
            "-o size=8E a.q", "-o size=7E a.q", "-o size=99P a.q", "-o compression_type=zstd a.q", "-o extended_l2=on a.q",
            "-o keep_data_file=on a.q", "-o lazy_refcounts=x a.q", "-q -o compat=1.1 a.q", "-o , a.q", "-o compat=1.1,,x a.q",
            "-o compat=1.1 nosuch", "-o compat=1.1 .", "-t none -o compat=1.1 a.q", "-t x -o compat=1.1 a.q",
            "-t x -o x=1 nosuch", "--force -o compat=1.1 a.q", "--image-opts -o compat=1.1 driver=qcow2,file.filename=a.q",
            "--image-opts -f qcow2 -o compat=1.1 a.q", "--image-opts -f qcow2 -o help a.q", "-p -o size=2M a.q",
            "-p -o cluster_size=4k a.q", "-p -o size=777 a.q", "-p -o help a.q", "-p -o help -f qcow2", "-p -q -o size=3M a.q",
            "-p -o compat=1.1 nosuch", "-p", "-p -o size=3M -t x a.q", "-o size=1M -o lazy_refcounts=on a.q", "-z",
            "--object nosuch -o compat=1.1 a.q", "--object nosuch", "-o compat=0.10,compat=1.1 a.q", "-f raw -o size=1M a.q",
            "-f luks -o state=active a.q", "-o size=0 a.q",
            *(f"-o size=2M x.{fmt}" for fmt in ("raw", "vmdk", "vdi", "vpc", "vhdx", "qed", "qcow", "parallels")),
            *(f"-f {fmt} -o help" for fmt in ("vmdk", "vdi", "vpc", "vhdx", "qed", "qcow", "parallels")),
            "-f raw -o x=1 x.raw", "-o cluster_size=1 x.vdi",
        )  # fmt: skip
        for line in lines:
            with self.subTest(line):
                self.same(*line.split())
                self.assertEqual(self.told("ours"), self.told("theirs"))

    def test_an_empty_list(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "1M")
        for words in (("-o", ""), ("-o", "", "a.q"), ("-o", "compat=1.1", "-o", "", "a.q")):
            with self.subTest(words):
                self.same(*words)


class TestAmendImages(AmendTest):
    """One image, one change after the other."""

    CASES = (
        ("compat=1.1", ["compat=0.10", "compat=1.1", "compat=v2", "compat=v3,lazy_refcounts=on", "compat=0.10"]),
        ("compat=1.1", [f"refcount_bits={bits}" for bits in (1, 64, 2, 32, 4, 16, 8)]),
        ("lazy_refcounts=on", ["lazy_refcounts=off", "lazy_refcounts=on,compat=0.10", "compat=0.10"]),
        ("compat=1.1", ["size=9M", "size=2M", "size=0", "size=5M"]),
        ("compat=0.10", ["refcount_bits=8", "compat=1.1,refcount_bits=8", "compat=0.10", "compat=0.10,refcount_bits=16"]),
        ("compression_type=zstd", ["compat=0.10", "refcount_bits=1"]),
        ("extended_l2=on", ["compat=0.10", "refcount_bits=1"]),
        ("preallocation=metadata", ["compat=0.10", "compat=1.1,refcount_bits=2"]),
    )

    def test_one_after_the_other(self):
        for options, steps in self.CASES:
            self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size=16k,{options}", "a.q", "6M")
            self.each("qemu-io", "-c", "write -P 7 1M 2M", "-c", "write -z 2M 1M", "-c", "write -z -u 3M 1M", "a.q")
            for step in steps:
                with self.subTest(options=options, step=step):
                    self.same("-o", step, "a.q")
                    self.assert_same_amended()

    def test_zeroes_over_a_backing_file_stay(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "8M")
        self.each("qemu-io", "-c", "write -P 200 0 8M", "base.q")
        self.each("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.q", "-F", "qcow2", "a.q")
        self.each("qemu-io", "-c", "write -z 1M 1M", "-c", "write -z -u 3M 1M", "-c", "write -P 3 5M 100k", "a.q")
        for step in ("compat=0.10", "size=12M", "compat=1.1,size=6M", "size=7M", "size=10M,compat=0.10",
                     "backing_file=base.q,backing_fmt=qcow2", "backing_file=base.q"):  # fmt: skip
            with self.subTest(step):
                self.same("-o", step, "a.q")
                self.assert_same_amended()

    def test_zeroes_that_snapshots_share(self):
        """What one disk shows as zeroes by its entry another one may hold data in."""
        for below in ((), ("-b", "base.q", "-F", "qcow2")):
            self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "4M")
            self.each("qemu-io", "-c", "write -P 200 0 4M", "base.q")
            self.each("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", *below, "a.q", "4M")
            self.each("qemu-io", "-c", "write -P 1 0 1M", "-c", "write -z 2M 1M", "a.q")
            self.same("-c", "one", "a.q", command="snapshot")
            self.each("qemu-io", "-c", "write -z 0 512k", "-c", "write -P 2 2M 64k", "a.q")
            self.same("-c", "two", "a.q", command="snapshot")
            before = [self.raw("ours", *words, "a.q") for words in ((), ("-l", "one"), ("-l", "two"))]
            for step in ("compat=0.10", "compat=1.1", "refcount_bits=2", "refcount_bits=1", "refcount_bits=16,compat=0.10"):
                with self.subTest(below=below, step=step):
                    self.same("-o", step, "a.q")
                    self.assertEqual(self.run_qemu_img("check", "a.q", cwd=self.path("ours"))[2], 0)
                    after = [self.raw("ours", *words, "a.q") for words in ((), ("-l", "one"), ("-l", "two"))]
                    for old, new in zip(before, after, strict=True):
                        self.assert_same_bytes(new, old, "a disk")
            for action in (("-a", "one"), ("-d", "one"), ("-a", "two"), ("-d", "two")):
                self.same(*action, "a.q", command="snapshot")
                self.assertEqual(self.run_qemu_img("check", "a.q", cwd=self.path("ours"))[2], 0, action)

    def test_zeroes_of_an_encrypted_disk(self):
        """In version 2 they have to be written: encrypted. The stock tool writes plain ones."""
        secret = ("--object", "secret,id=s,data=swordfish")
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "1M")
        self.make("qemu-io", "-c", "write -P 9 0 1M", "base.q", cwd=self.path("ours"))
        for method in ("encrypt.format=aes", "encrypt.format=luks,encrypt.iter-time=1"):
            with self.subTest(method):
                options = f"{method},encrypt.key-secret=s,cluster_size=16k"
                self.make("qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", options, "-b", "base.q", "-F", "qcow2", "a.q",
                          cwd=self.path("ours"))  # fmt: skip
                image = ("--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename=a.q")
                self.make("qemu-io", *secret, "-c", "write -z 0 64k", "-c", "write -P 3 128k 64k", *image, cwd=self.path("ours"))
                before = self.raw("ours", *secret, *image)
                amend = ("amend", *secret, "-o", "compat=0.10", *image)
                self.assertEqual(self.run_as_qemu_img(*amend, cwd=self.path("ours")), ("", "", 0))
                self.assertIn("compat: 0.10", self.make("qemu-img", "info", "a.q", cwd=self.path("ours")))
                self.assert_same_bytes(self.raw("ours", *secret, *image), before, "the disk")
                check = self.run_qemu_img("check", *secret, *image, cwd=self.path("ours"))
                self.assertEqual(check[2], 0, check)

    def test_snapshots_in_the_way(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "4M")
        self.each("qemu-io", "-c", "write -P 1 0 1M", "a.q")
        for number in range(3):
            self.same("-c", f"s{number}", "a.q", command="snapshot")
        for step in ("refcount_bits=1", "refcount_bits=2", "refcount_bits=16,size=8M", "compat=0.10", "size=4M", "compat=0.10",
                     "size=5M", "compat=0.10,size=5M", "compat=1.1,size=5M"):  # fmt: skip
            with self.subTest(step):
                self.same("-o", step, "a.q")
                self.assert_same_amended()

    def test_snapshots_with_the_state_of_a_machine(self):
        """Version 2 has 32 bits for its size. What else is in the way is told after it."""
        for options in ("cluster_size=16k", "cluster_size=16k,extended_l2=on"):
            for size in (4096, (1 << 32) - 1, 1 << 32):
                with self.subTest(options=options, size=size):
                    self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "a.q", "1M")
                    self.make("qemu-img", "snapshot", "-c", "a", "a.q", cwd=self.path("ours"))
                    with open(self.path("ours/a.q"), "r+b") as file:
                        table = struct.unpack(">Q", file.read(72)[64:])[0]
                        for at, kind, value in ((32, ">I", size & 0xFFFFFFFF), (40, ">Q", size)):
                            file.seek(table + at)
                            file.write(struct.pack(kind, value))
                    self.copy()
                    self.same("-o", "compat=0.10", "a.q")
                    self.assert_same_amended()

    def test_snapshots_without_extra_data(self):
        """Version 3 asks for it of each snapshot; old programs wrote none of it, or only the size of the machine's state."""
        for extra in (0, 8):
            self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=4k", "a.q", "4M")
            self.each("qemu-io", "-c", "write -P 1 0 1M", "a.q")
            self.each("qemu-img", "snapshot", "-c", "one", "a.q")
            self.each("qemu-io", "-c", "write -P 2 64k 64k", "a.q")
            self.each("qemu-img", "snapshot", "-c", "two", "a.q")
            self.shorten(self.path("ours/a.q"), extra)
            self.copy()
            for step in ("compat=1.1", "refcount_bits=64", "compat=1.1,lazy_refcounts=on"):
                with self.subTest(extra=extra, step=step):
                    self.same("-o", step, "a.q")
                    self.assert_same_amended()

    @staticmethod
    def shorten(path, keep):
        """Of the extra data of each snapshot only the first bytes stay."""
        with open(path, "r+b") as file:
            count, at = struct.unpack(">IQ", os.pread(file.fileno(), 12, 60))
            file.seek(at)
            table, old = file.read(1 << 12), 0
            new = b""
            for _ in range(count):
                id_len, name_len, extra = *struct.unpack_from(">HH", table, old + 12), struct.unpack_from(">I", table, old + 36)[0]
                words = old + 40 + extra
                entry = table[old : old + 36] + struct.pack(">I", keep) + table[old + 40 : old + 40 + keep]
                entry += table[words : words + id_len + name_len]
                new += entry + bytes(-len(entry) % 8)
                old = words + id_len + name_len + -(40 + extra + id_len + name_len) % 8
            file.seek(at)
            file.write(new)

    def test_bitmaps_go_with_version_3(self):
        """The stock tool leaves them behind as leaks; here their place is given up."""
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "4M")
        self.each("qemu-img", "bitmap", "--add", "a.q", "b")
        self.each("qemu-io", "-c", "write -P 1 0 1M", "a.q")
        for step in ("refcount_bits=64", "size=8M", "refcount_bits=16", "compat=0.10", "compat=1.1"):
            with self.subTest(step):
                ours = self.run_as_qemu_img("amend", "-o", step, "a.q", cwd=self.path("ours"))
                theirs = self.run_qemu_img("amend", "-o", step, "a.q", cwd=self.path("theirs"))
                self.assertEqual(ours[2], theirs[2])
                self.assertEqual(self.told("ours"), self.told("theirs"))
                self.assertEqual(self.run_qemu_img("check", "a.q", cwd=self.path("ours"))[2], 0)
                self.assert_same_bytes(self.raw("ours", "a.q"), self.raw("theirs", "a.q"), "the disk")

    def test_data_files(self):
        for options in ("data_file=d", "data_file=d,data_file_raw=on"):
            self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "a.q", "4M")
            self.each("qemu-io", "-c", "write -P 1 0 1M", "a.q")
            for who in ("ours", "theirs"):
                shutil.copy(os.path.join(self.path(who), "d"), os.path.join(self.path(who), "e"))
            for step in ("compat=0.10", "data_file_raw=on", "refcount_bits=1", "data_file=e", "data_file_raw=off", "size=5M",
                         "data_file=d,lazy_refcounts=on"):  # fmt: skip
                with self.subTest(options=options, step=step):
                    self.same("-o", step, "a.q")
                    self.assert_same_amended()

    def test_what_version_2_cannot_decompress_stays_version_3(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "a.q", "1M")
        self.each("qemu-io", "-c", "write -c -P 3 0 64k", "a.q")
        self.same("-c", "one", "a.q", command="snapshot")
        for step in ("compat=0.10", "refcount_bits=64", "compat=0.10,refcount_bits=16"):
            self.same("-o", step, "a.q")
            self.assert_same_amended()
        # Only the snapshot has them.
        self.each("qemu-io", "-c", "discard 0 64k", "a.q")
        self.assertEqual(self.run_as_qemu_img("amend", "-o", "compat=0.10", "a.q", cwd=self.path("ours"))[2], 1)

    def test_an_old_release_names_another_backing_file(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "b.q", "1M", cwd=self.path("ours"))
        amend = ("amend", "-o", "backing_file=b.q,backing_fmt=qcow2", "a.q")
        out, err, status = self.run_as_qemu_img(*amend, cwd=self.path("ours"), version="5.2.0")
        text = "qemu-img: warning: Deprecated use of amend to alter the backing file; use qemu-img rebase instead\n"
        self.assertEqual((out, err, status), ("", text, 0))
        told = self.make("qemu-img", "info", "a.q", cwd=self.path("ours"))
        self.assertIn("backing file: b.q", told)
        self.assertIn("backing file format: qcow2", told)


class TestKeySlots(AmendTest):
    """Passwords given and taken, of LUKS images and of qcow2 images encrypted so."""

    PASSWORDS = {"a": "aaa", "b": "bbb", "c": "ccc", "e": ""}
    SECRETS = [word for name, data in PASSWORDS.items() for word in ("--object", f"secret,id={name},data={data}")]
    # What opens it, the options, and whether it is forced.
    LINES = (
        ("a", "state=active"), ("a", "state=x"), ("a", "keyslot=1"), ("a", "iter-time=10"), ("a", "x=1"), ("a", "size=1M"),
        ("a", "state=active,new-secret=nosuch"), ("a", "state=active,new-secret=b,old-secret=a"),
        ("a", "state=active,new-secret=b,keyslot=8"), ("a", "state=active,new-secret=b,keyslot=-1"),
        ("a", "state=active,new-secret=b,keyslot=0"), ("b", "state=active,new-secret=b"), ("", "state=active,new-secret=b"),
        ("a", "state=active,new-secret=b,iter-time=1"), ("b", "state=active,new-secret=c,iter-time=1,keyslot=6"),
        ("a", "state=active,new-secret=e,iter-time=1"), ("c", "state=inactive"), ("c", "state=inactive,new-secret=b"),
        ("c", "state=inactive,iter-time=3"), ("c", "state=inactive,keyslot=5"), ("c", "state=inactive,keyslot=8"),
        ("c", "state=inactive,old-secret=nosuch"), ("c", "state=inactive,old-secret=b,keyslot=0"),
        ("c", "state=inactive,old-secret=b,keyslot=1"), ("c", "state=inactive,old-secret=b"), ("e", "state=inactive,keyslot=0"),
        ("a", "state=active,new-secret=b,iter-time=1"), ("c", "state=active,new-secret=b,iter-time=1"),
        ("c", "state=active,new-secret=a,iter-time=1"), ("c", "state=active,new-secret=a,iter-time=1"),
        ("c", "state=active,new-secret=a,iter-time=1"), ("c", "state=active,new-secret=a,iter-time=1"),
        ("c", "state=active,new-secret=a,iter-time=1"), ("a", "state=inactive,old-secret=a"),
        ("c", "state=inactive,old-secret=e"), ("c", "state=inactive,old-secret=a"), ("c", "state=inactive,keyslot=6"),
        ("c", "state=inactive,keyslot=7"), ("c", "state=inactive,keyslot=6"), ("c", "state=inactive,old-secret=c"),
        ("c", "state=inactive,keyslot=5", True), ("c", "state=active,new-secret=a,iter-time=1,keyslot=6", True),
        ("a", "state=inactive,keyslot=6", True), ("a", "state=active,new-secret=a"),
    )  # fmt: skip

    def opened(self, driver, prefix, secret):
        key = f",{prefix}key-secret={secret}" if secret else ""
        return f"driver={driver}{key},file.filename=a.q"

    def slots(self, who):
        """Which are in use."""
        told = json.loads(self.make("qemu-img", "info", "--output=json", "a.q", cwd=self.path(who)))
        data = told["format-specific"]["data"]
        return [slot["active"] for slot in data.get("encrypt", data)["slots"]]

    def opening(self, who, driver, prefix):
        """Which passwords open it: what they show."""
        found = {}
        for name in self.PASSWORDS:
            words = ("--image-opts", "-O", "raw", self.opened(driver, prefix, name), "out")
            if self.run_qemu_img("convert", *self.SECRETS, *words, cwd=self.path(who))[2] == 0:
                with open(os.path.join(self.path(who), "out"), "rb") as file:
                    found[name] = file.read()
        return found

    def history(self, driver, prefix, *create):
        self.prepare("qemu-img", "create", "-q", *self.SECRETS, "-f", driver, "-o",
                     ",".join((f"{prefix}key-secret=a", f"{prefix}iter-time=1", *create)), "a.q", "64k")  # fmt: skip
        self.make("qemu-io", *self.SECRETS, "--image-opts", "-c", "write -P 7 0 64k", self.opened(driver, prefix, "a"),
                  cwd=self.path("ours"))  # fmt: skip
        self.copy()
        for secret, line, *force in self.LINES:
            options = ",".join(prefix + option if "size" not in option and option != "x=1" else option
                               for option in line.split(","))  # fmt: skip
            with self.subTest(secret=secret, options=options):
                image = ("--image-opts", self.opened(driver, prefix, secret))
                status = self.same(*self.SECRETS, *(["--force"] if force else []), "-o", options, *image)
                self.assertEqual(self.slots("ours"), self.slots("theirs"))
                if status == 0:
                    ours, theirs = (self.opening(who, driver, prefix) for who in ("ours", "theirs"))
                    self.assertEqual(sorted(ours), sorted(theirs))
                    for name, content in ours.items():
                        self.assert_same_bytes(content, theirs[name], f"the disk, opened by {name}")

    def test_luks(self):
        self.history("luks", "")

    def test_inside_of_qcow2(self):
        self.history("qcow2", "encrypt.", "encrypt.format=luks", "cluster_size=16k")

    def test_slots_where_none_can_be(self):
        """Old releases open such a header; nothing is written over the header itself, or over what is no slot's."""
        self.make("qemu-img", "create", "-q", *self.SECRETS, "-f", "luks", "-o", "key-secret=a,iter-time=1", "a.q", "64k",
                  cwd=self.path("ours"))  # fmt: skip
        path = os.path.join(self.path("ours"), "a.q")
        # The second slot's place, in sectors: the header's, and that of the data.
        for sector in (0, 1, 4040):
            with open(path, "r+b") as file:
                file.seek(208 + 48 + 40)
                file.write(struct.pack(">I", sector))
            with open(path, "rb") as file:
                before = file.read()
            image = ("--image-opts", self.opened("luks", "", "a"))
            for options in ("state=active,new-secret=b,iter-time=1", "state=inactive,keyslot=1"):
                for version in ("5.2.0", "10.0.2"):
                    with self.subTest(sector=sector, options=options, version=version):
                        words = ("amend", *self.SECRETS, "--force", "-o", options, *image)
                        out, err, status = self.run_as_qemu_img(*words, cwd=self.path("ours"), version=version)
                        self.assertEqual((out, status), ("", 1))
                        self.assertRegex(err, "overlapping")
                        with open(path, "rb") as file:
                            self.assert_same_bytes(file.read(), before, "the image")

    def test_slots_outside_of_the_header_in_qcow2(self):
        """What the image says is the header's place ends before its slots: other clusters lie there."""
        options = "encrypt.format=luks,encrypt.key-secret=a,encrypt.iter-time=1"
        self.make("qemu-img", "create", "-q", *self.SECRETS, "-f", "qcow2", "-o", options, "a.q", "64k", cwd=self.path("ours"))
        path = os.path.join(self.path("ours"), "a.q")
        with open(path, "rb") as file:
            before = bytearray(file.read())
        struct.pack_into(">Q", before, before.index(b"\x05\x37\xbe\x77\0\0\0\x10") + 16, 592)
        with open(path, "wb") as file:
            file.write(before)
        amend = ("-o", "encrypt.state=active,encrypt.new-secret=b,encrypt.iter-time=1")
        image = ("--image-opts", self.opened("qcow2", "encrypt.", "a"))
        out, err, status = self.run_as_qemu_img("amend", *self.SECRETS, *amend, *image, cwd=self.path("ours"))
        self.assertEqual((out, status), ("", 1))
        self.assertIn("corrupt", err)
        with open(path, "rb") as file:
            self.assert_same_bytes(file.read(), before, "the image")

    def test_aes_has_no_slots(self):
        self.make("qemu-img", "create", "-q", *self.SECRETS, "-f", "qcow2", "-o", "encrypt.format=aes,encrypt.key-secret=a",
                  "a.q", "1M", cwd=self.path("ours"))  # fmt: skip
        self.copy()
        for options in ("encrypt.state=active,encrypt.new-secret=b", "encrypt.keyslot=1", "compat=0.10", "refcount_bits=32"):
            with self.subTest(options):
                self.same(*self.SECRETS, "-o", options, "--image-opts", self.opened("qcow2", "encrypt.", "a"))

    def test_version_2_of_luks(self):
        """The stock tool takes it for raw."""
        with open(os.path.join(self.path("ours"), "disk"), "wb") as file:
            file.truncate(20 * MIB)
        with open(self.path("key"), "w", encoding="ascii") as file:
            file.write("aaa")
        self.run_tool(["cryptsetup", "-q", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations",
                       "1000", "ours/disk", self.path("key")], cwd=self.tmp)  # fmt: skip
        words = ("--image-opts", "driver=luks,key-secret=a,file.filename=disk")
        out, err, status = self.run_instar("amend", *self.SECRETS, "-o", "state=inactive,keyslot=0", *words, cwd=self.path("ours"))
        self.assertEqual((out, status), ("", 1))
        self.assertIn("cannot be changed", err)


class TestRandomHistories(AmendTest):
    """Writes, snapshots and changes in any order: one generated test a seed."""

    def change(self, rng):
        """A list of options, most of them sensible."""
        kinds = {
            "compat": ("0.10", "1.1", "v2", "v3", "1.1", "2"),
            "lazy_refcounts": ("on", "off"),
            "refcount_bits": ("1", "2", "4", "8", "16", "16", "16", "32", "64", "5"),
            "size": ("1M", "3M", "5M", "700k", "8M", "1000"),
            "data_file_raw": ("on", "off"),
            "data_file": ("x", ""),
            "backing_file": ("base.q", ""),
            "backing_fmt": ("qcow2",),
            "encrypt.state": ("active",),
        }
        weights = (5, 3, 5, 3, 1, 0.3, 0.5, 0.5, 0.3)
        names = rng.choices(list(kinds), weights, k=rng.choice((1, 1, 2, 3)))
        return ",".join(f"{name}={rng.choice(kinds[name])}" for name in names)

    def has_fewer_clusters(self):
        """A count of one bit has room for a snapshot in our image, and in the stock tool's none."""
        if '"refcount-bits": 1,' not in self.told("theirs"):
            return False
        tables = []
        for who in ("ours", "theirs"):
            with open(os.path.join(self.path(who), "a.q"), "rb") as file:
                head = struct.unpack(">IQ", file.read(48)[36:])
                file.seek(head[1])
                tables.append(any(file.read(8 * head[0])))
        return tables == [False, True]

    def history(self, seed):
        rng = random.Random(seed)
        options, size = rng.choice(OPTIONS), rng.choice((1, 3, 8)) * MIB
        below = ["-b", "base.q", "-F", "qcow2"] if rng.random() < 0.3 and "preallocation" not in options else []
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "4M")
        self.each("qemu-io", "-c", "write -P 200 0 3M", "base.q")
        self.each("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), *below, "a.q", str(size))
        said = [f"seed {seed}: {options} {size} {below}"]
        for _ in range(rng.randint(6, 12)):
            kind = rng.random()
            if kind < 0.4:
                at = rng.randrange(size // 512) * 512
                length = min(rng.choice((512, 4096, 70 * KIB, 300 * KIB, MIB)), size - at)
                what = rng.choice((f"write -P {rng.randint(1, 250)}",) * 2 + ("write -z", "write -z -u", "discard"))
                step = f"{what} {at} {length}"
                run = lambda who, step=step: self.run_tool(["qemu-io", "-c", step, "a.q"], cwd=self.path(who))  # noqa: E731
                self.assertEqual(run("ours")[2], run("theirs")[2])
                said.append(step)
                continue
            if kind < 0.5:
                action = (rng.choice(("-c", "-c", "-a", "-d")), rng.choice("ab"))
                said.append(" ".join(action))
                if action[0] == "-c" and self.has_fewer_clusters():
                    # Counts of one bit: the stock tool has clusters that a snapshot cannot share.
                    break
                self.same(*action, "a.q", command="snapshot")
            else:
                step = self.change(rng)
                said.append(step)
                with self.subTest("; ".join(said)):
                    self.same("-o", step, "a.q")
            with self.subTest("; ".join(said)):
                self.assert_same_amended()
            size = int(re.search(r'"virtual-size": (\d+),\n    "filename"', self.told("theirs")).group(1))
            if size == 0:
                break


def _random(seed):
    return lambda self: self.history(seed)


for _seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
    setattr(TestRandomHistories, f"test_history_{_seed}", _random(_seed))


if __name__ == "__main__":
    unittest.main()
