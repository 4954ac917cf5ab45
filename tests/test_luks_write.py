"""Encrypted images that are made and changed: luks, qcow2 (luks, aes) and qcow.

The stock tool measures for two seconds how fast it can derive keys whenever it makes a LUKS header, so that few such
images are made by it.
"""

import itertools
import json
import os
import struct
import unittest

from tests.test_create import CreateTestBase

SECRET = ("--object", "secret,id=s,data=swordfish")
LUKS = "key-secret=s,iter-time=10"
INSIDE = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
AES = "encrypt.format=aes,encrypt.key-secret=s"
CRYPTO_HEADER = 0x0537BE77
# What is random or timed in a LUKS header: first byte and length.
DRAWN = ((112, 20), (132, 32), (164, 4), (168, 40), (212, 4), (216, 32))


def _blank_header(file, start):
    """Blanks what is random or timed in the LUKS header at byte `start`, and the first slot's key material."""
    file.seek(start + 108)
    (key_bytes,) = struct.unpack(">I", file.read(4))
    for at, length in (*DRAWN, (4096, 4000 * key_bytes)):
        file.seek(start + at)
        file.write(bytes(length))


def blank(path):
    """The same of a whole image, or of the header inside a qcow2 image."""
    with open(path, "r+b") as file:
        head = file.read(256)
        if head[:6] == b"LUKS\xba\xbe":
            _blank_header(file, 0)
            return
        at = struct.unpack(">I", head[100:104])[0] if head[4:8] == bytes((0, 0, 0, 3)) else 72
        kind, _, offset = struct.unpack(">IIQ", head[at : at + 16])
        if kind == CRYPTO_HEADER:
            _blank_header(file, offset)


class EncryptedTestBase(CreateTestBase):
    def options(self, fmt, name):
        """The image as `--image-opts` has it."""
        prefix = "" if fmt == "luks" else "encrypt."
        return f"driver={fmt},{prefix}key-secret=s,file.filename={name}"

    def source(self, name="source.raw"):
        """A raw disk: text, holes, zeroes, and an end in the middle of a cluster."""
        with open(self.path(name), "wb") as file:
            file.write(b"plain text for everybody to read" * 20_000)
            file.seek(2 << 20)
            file.write(bytes(range(256)) * 700)
            file.truncate((3 << 20) + 1536)
        return name

    def assert_holds(self, fmt, name, raw):
        """Both tools read the raw disk in it, and nobody does without the password."""
        opts = ["--image-opts", self.options(fmt, name), f"driver=raw,file.filename={raw}"]
        for run in (self.run_qemu_img, self.run_instar):
            self.assertEqual(run("compare", *SECRET, *opts, cwd=self.tmp), ("Images are identical.\n", "", 0))
        with open(self.path(name), "rb") as file:
            self.assertNotIn(b"plain text", file.read())

    def ours(self, *argv):
        out, err, status = self.run_instar(*argv, cwd=self.tmp, timeout=120)
        self.assertEqual((err, status), ("", 0), f"{argv}: {out}")
        return out


class TestCreate(EncryptedTestBase):
    def test_luks(self):
        """The stock tool's file, but for what is drawn."""
        for options, size in (("", "1000"), (",cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha1", "3M")):
            self.create("-f", "luks", *SECRET, "-o", LUKS + options, "x", size, mask=blank)

    def test_too_large(self):
        """What the stock tool says, too, after it has made a key."""
        argv = ("create", "-f", "luks", *SECRET, "-o", LUKS, "x", str((1 << 63) - 1))
        _, err, status = self.run_as_qemu_img(*argv, cwd=self.tmp)
        self.assertEqual((err, status), ("qemu-img: x: The requested file size is too large\n", 1))

    def test_luks_in_qcow2(self):
        options = ",preallocation=metadata,cluster_size=4k,encrypt.cipher-alg=serpent-256"
        self.create("-f", "qcow2", *SECRET, "-o", INSIDE + options, "x", "3M", mask=blank)

    def test_aes(self):
        more = ("", ",compat=0.10", ",cluster_size=512", ",preallocation=metadata", ",extended_l2=on")
        for options in (*(AES + m for m in more), "encryption=on,encrypt.key-secret=s", "encryption=off"):
            self.create("-f", "qcow2", *SECRET, "-o", options, "x", "3M")
        for options in (AES, "encryption=on,encrypt.key-secret=s"):
            self.create("-f", "qcow", *SECRET, "-o", options, "x", "3M")

    def test_what_is_refused_in_luks(self):
        for option in (
            *(f"{name}=foo" for name in ("cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg")),
            *("iter-time=foo", "detached-header=foo", "preallocation=foo", "foo=1", "help"),
            *("detached-header=on", "detached-header=off", "key-secret=nosuch", "cipher-alg=foo,preallocation=foo"),
            *("cipher-alg=cast5-128", "cipher-alg=3des", "cipher-alg=sm4,cipher-mode=cbc", "cipher-alg=des"),
            "cipher-alg=aes-192,ivgen-alg=essiv,ivgen-hash-alg=sha1",
        ):
            self.create("-f", "luks", *SECRET, "-o", f"{LUKS},{option}", "x", "1M", leaves=True)
        for option in ("cipher-alg=aes-128", "cipher-alg=3des", "preallocation=foo"):
            self.create("-f", "luks", "-o", option, "x", "1M", leaves=True)
        self.create("-f", "luks", "x", "1M", leaves=True)
        self.create("-f", "luks", *SECRET, "-o", LUKS, "-b", "y", "-F", "raw", "x", "1M", leaves=True)

    def test_what_is_refused_in_qcow2_and_qcow(self):
        for fmt, option in itertools.product(
            ("qcow2", "qcow"),
            (
                *(f"encrypt.format={name}" for name in ("aes", "luks", "foo", "")),
                *("encryption=on", "encryption=on,encrypt.format=aes", "encrypt.key-secret=s"),
                *("encrypt.format=aes,encrypt.key-secret=nosuch", f"{AES},encrypt.cipher-alg=aes-128"),
                f"{INSIDE},encrypt.cipher-alg=foo",
            ),
        ):
            self.create("-f", fmt, *SECRET, "-o", option, "x", "1M", leaves=True)

    def test_the_time_asked_for_decides_how_often_keys_are_derived(self):
        found = []
        for milliseconds in (20, 400):
            self.ours("create", "-q", "-f", "luks", *SECRET, "-o", f"key-secret=s,iter-time={milliseconds}", "x", "1M")
            data = self.info_json(self.path("x"))["format-specific"]["data"]
            found.append((data["slots"][0]["iters"], data["master-key-iters"]))
        self.assertGreater(found[1][0], 4 * found[0][0])
        self.assertGreater(found[1][0], 2 * found[1][1])
        out, err, status = self.run_instar(
            *("create", "-f", "luks", *SECRET, "-o", "key-secret=s,iter-time=-1", "x", "1M"), cwd=self.tmp
        )
        self.assertRegex(err, r"^instar: x: PBKDF iterations \d+ too large to scale: Numerical result out of range\n$", out)
        self.assertEqual(status, 1)


class TestConvert(EncryptedTestBase):
    def test_what_goes_in_comes_out(self):
        self.source()
        more = ("", ",compat=0.10", ",cluster_size=2M", ",extended_l2=on", ",preallocation=falloc")
        for fmt, options in (
            ("luks", LUKS),
            ("luks", LUKS + ",cipher-alg=serpent-192,hash-alg=sha512,ivgen-alg=plain"),
            *(("qcow2", INSIDE + m) for m in more),
            *(("qcow2", AES + m) for m in more),
            ("qcow", AES),
        ):
            with self.subTest(fmt, options=options):
                self.ours("convert", *SECRET, "-O", fmt, "-o", options, "source.raw", "target")
                self.assert_holds(fmt, "target", "source.raw")
                if fmt == "qcow2":
                    out, err, status = self.run_qemu_img(
                        *("check", *SECRET, "--image-opts", self.options(fmt, "target")), cwd=self.tmp
                    )
                    self.assertEqual(status, 0, out + err)

    def test_over_a_backing_file(self):
        self.source()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "source.raw", "-F", "raw", "over.qcow2")
        self.make("qemu-io", "-c", "write -P 9 100k 70k", "-c", "write -z 0 20k", "over.qcow2")
        self.make("qemu-img", "convert", "-O", "raw", "over.qcow2", "whole.raw")
        for options in (INSIDE, AES + ",compat=0.10"):
            self.ours(
                *("convert", *SECRET, "-O", "qcow2", "-B", "source.raw", "-F", "raw", "-o", options),
                *("over.qcow2", "target"),
            )
            self.assert_holds("qcow2", "target", "whole.raw")

    def test_refusals(self):
        self.source()
        for argv in (
            *(["-c", "-O", fmt, "-o", AES] for fmt in ("qcow2", "qcow")),
            ["-c", "-O", "qcow2", "-o", INSIDE],
            ["-c", "-O", "luks", "-o", LUKS],
            ["-O", "luks"],
            ["-O", "luks", "-o", "key-secret=nosuch"],
            ["-O", "luks", "-o", LUKS + ",cipher-mode=foo"],
            ["-O", "qcow2", "-o", "encrypt.format=luks"],
        ):
            with self.subTest(argv):
                said = [run("convert", *SECRET, *argv, "source.raw", "x", cwd=self.tmp) for run in (self.run_instar, self.run_qemu_img)]
                self.assert_same_outcome(*said)
                self.assertEqual(said[0][2], 1)
        said = [run("dd", "-O", "luks", "if=source.raw", "of=x", cwd=self.tmp) for run in (self.run_instar, self.run_qemu_img)]
        self.assert_same_outcome(*said)

    def test_measure(self):
        self.source()
        for argv in (
            *(["-O", "luks", "-o", options] for options in (LUKS, "cipher-alg=aes-128", "cipher-alg=foo")),
            *(["-O", "luks", *SECRET, "-o", options] for options in (f"{LUKS},cipher-alg=aes-128", "cipher-alg=aes-128")),
            *(["-O", "qcow2", "-o", options] for options in (INSIDE, AES, "encrypt.format=luks")),
            ["-O", "qcow2", *SECRET, "-o", AES],
            ["-O", "qcow2", *SECRET, "-o", INSIDE + ",cluster_size=512"],
            ["-O", "qcow2", "-o", "encrypt.format=foo"],
            ["-O", "qcow2", "-o", "encryption=on"],
        ):
            with self.subTest(argv):
                self.assert_same_outcome(
                    self.run_instar("measure", *argv, "source.raw", cwd=self.tmp),
                    self.run_qemu_img("measure", *argv, "source.raw", cwd=self.tmp),
                )


class TestInPlace(EncryptedTestBase):
    def test_written_into(self):
        """`convert -n`, twice: the second time over what is there."""
        self.source()
        self.make("qemu-img", "create", "-q", "other.raw", str((3 << 20) + 1536))
        self.make("qemu-io", "-f", "raw", "-c", "write -P 5 1M 300k", "-c", "write -P 6 3071k 2k", "other.raw")
        for fmt, options in (
            ("luks", LUKS),
            ("qcow2", INSIDE),
            ("qcow2", AES + ",compat=0.10,cluster_size=4k"),
            ("qcow2", INSIDE + ",extended_l2=on"),
            ("qcow", AES),
        ):
            with self.subTest(fmt, options=options):
                self.ours("create", "-q", "-f", fmt, *SECRET, "-o", options, "target", str((3 << 20) + 1536))
                for source in ("source.raw", "other.raw"):
                    target = self.options(fmt, "target")
                    self.ours("convert", "-n", *SECRET, "--target-image-opts", source, target)
                    self.assert_holds(fmt, "target", source)

    def test_without_the_password(self):
        self.source()
        for fmt, options in (("luks", LUKS), ("qcow2", AES), ("qcow", AES)):
            self.ours("create", "-q", "-f", fmt, *SECRET, "-o", options, "target", "4M")
            before = self.sha256(self.path("target"))
            argv = ("convert", "-n", "-O", fmt, "source.raw", "target")
            said = [run(*argv, cwd=self.tmp) for run in (self.run_instar, self.run_qemu_img)]
            self.assert_same_outcome(*said)
            self.assertEqual((said[0][2], self.sha256(self.path("target"))), (1, before))

    def test_resized(self):
        self.source()
        for fmt, options in (("luks", LUKS), ("qcow2", INSIDE), ("qcow2", AES + ",cluster_size=2M")):
            with self.subTest(fmt, options=options):
                self.ours("convert", *SECRET, "-O", fmt, "-o", options, "source.raw", "target")
                argv = ("resize", *SECRET, "--image-opts", self.options(fmt, "target"))
                self.ours(*argv, "5M")
                self.assertEqual(self.info_json(self.path("target"))["virtual-size"], 5 << 20)
                self.ours(*argv, "--shrink", "1M")
                self.make("qemu-img", "create", "-q", "-f", "raw", "part.raw", "1M")
                with open(self.path("source.raw"), "rb") as whole, open(self.path("part.raw"), "wb") as part:
                    part.write(whole.read(1 << 20))
                self.assert_holds(fmt, "target", "part.raw")

    def test_what_is_added_reads_as_zeroes(self):
        """Of qcow2, even where the old end was in the middle of a cluster that had held more."""
        self.source()
        for options in (INSIDE, AES + ",cluster_size=2M"):
            self.ours("convert", *SECRET, "-O", "qcow2", "-o", options, "source.raw", "target")
            argv = ("resize", "-q", *SECRET, "--image-opts", self.options("qcow2", "target"))
            self.ours(*argv, "--shrink", str((1 << 20) + 512))
            self.ours(*argv, "4M")
            with open(self.path("source.raw"), "rb") as whole, open(self.path("part.raw"), "wb") as part:
                part.write(whole.read((1 << 20) + 512))
                part.truncate(4 << 20)
            self.assert_holds("qcow2", "target", "part.raw")

    def test_committed(self):
        """An encrypted overlay into its plain base."""
        self.source()
        self.make("qemu-img", "convert", "-O", "qcow2", "source.raw", "base.qcow2")
        self.make("qemu-img", "create", "-q", *SECRET, "-f", "qcow2", "-o", AES, "-b", "base.qcow2", "-F", "qcow2", "over")
        opts = self.options("qcow2", "over")
        self.make("qemu-io", *SECRET, "--image-opts", "-c", "write -P 3 1M 70k", opts)
        self.make("qemu-img", "convert", *SECRET, "--image-opts", "-O", "raw", opts, "whole.raw")
        self.ours("commit", "-q", *SECRET, "--image-opts", opts)
        self.assert_same_disk("base.qcow2", "whole.raw")


class TestKeys(EncryptedTestBase):
    def test_no_two_are_the_same(self):
        seen = set()
        for _ in range(3):
            self.ours("create", "-q", "-f", "luks", *SECRET, "-o", LUKS, "x", "1M")
            data = json.loads(self.make("qemu-img", "info", "--output=json", "x"))["format-specific"]["data"]
            seen.add(data["uuid"])
            with open(self.path("x"), "rb") as file:
                head = file.read(8192)
            seen |= {head[at : at + 20] for at in (112, 132, 216, 4096, 4128)}
        self.assertEqual(len(seen), 3 * 6)

    def test_nothing_is_left_where_it_is_refused(self):
        self.source()
        self.run_instar("convert", "-O", "luks", "-o", "key-secret=nosuch", "source.raw", "x", cwd=self.tmp)
        self.assertFalse(os.path.exists(self.path("x")))


if __name__ == "__main__":
    unittest.main()
