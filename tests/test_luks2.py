"""LUKS version 2, which the stock tool does not have: images that cryptsetup made and ones built from the specification
show the disk that was encrypted, and what is wrong with an image is said."""

import hashlib
import json
import os
import random
import subprocess
import unittest

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.base import InstarTestBase
from tests.helpers import luks2

KIB, MIB = 1 << 10, 1 << 20
KEY = "the key of the disk"
DISK = random.Random(3).randbytes(300 * KIB) + bytes(100 * KIB) + random.Random(4).randbytes(112 * KIB)
ARGON2 = ("--pbkdf-force-iterations", "4", "--pbkdf-memory", "64", "--pbkdf-parallel", "1")
PBKDF2 = ("--pbkdf-force-iterations", "1000")


def essiv(key, data):
    """`data` encrypted by aes-cbc-essiv:sha256."""
    out = []
    for number in range(len(data) // 512):
        salted = Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB()).encryptor()
        vector = salted.update(number.to_bytes(16, "little"))
        sector = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
        out.append(sector.update(data[number * 512 : (number + 1) * 512]))
    return b"".join(out)


class Base(InstarTestBase):
    def opened(self, key=KEY, name="disk.luks", secret="s0"):
        """The arguments that stand for the image."""
        return ["--object", f"secret,id=s0,data={key}", "--image-opts",
                f"driver=luks,key-secret={secret},file.filename={self.path(name)}"]  # fmt: skip

    def write(self, data, name="disk.luks"):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def convert(self, key=KEY, *argv, name="disk.luks"):
        *words, image = self.opened(key, name)
        return self.run_instar("convert", *argv, "-O", "raw", *words, image, self.path("out.raw"))

    def assert_shows(self, disk, key=KEY, *argv):
        out, err, status = self.convert(key, *argv)
        self.assertEqual((out, err, status), ("", "", 0))
        with open(self.path("out.raw"), "rb") as file:
            self.assertEqual(hashlib.sha256(file.read()).digest(), hashlib.sha256(disk).digest())
        os.unlink(self.path("out.raw"))

    def assert_refused(self, *words, key=luks2.PASSWORD, argv=()):
        out, err, status = self.convert(key, *argv)
        self.assertEqual((out, status), ("", 1), err)
        self.assertFalse(os.path.exists(self.path("out.raw")))
        for word in words:
            self.assertIn(word, err)


class TestCryptsetup(Base):
    """Images of cryptsetup."""

    def format(self, *argv, cipher="aes-xts-plain64", bits=512, encrypt=luks2.crypt):
        """Makes an image around DISK."""
        with open(self.path("disk.luks"), "wb") as file:
            file.truncate(2 * MIB)
        key = random.Random(bits).randbytes(bits // 8)
        self.write(key, "volume.key")
        self.cryptsetup("luksFormat", "--type", "luks2", "--cipher", cipher, "--key-size", str(bits), "--volume-key-file",
                        self.path("volume.key"), "--offset", "2048", "--luks2-keyslots-size", "512k", "--luks2-metadata-size", "16k", *argv, self.path("disk.luks"))  # fmt: skip
        with open(self.path("disk.luks"), "r+b") as file:
            file.seek(MIB)
            file.write(encrypt(key, DISK))
            file.truncate()

    def cryptsetup(self, *argv, keys=(KEY,)):
        words = ["cryptsetup", "--batch-mode", *argv]
        done = subprocess.run(words, input="\n".join(keys), text=True, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_key_derivations(self):
        for kdf, argv in (("pbkdf2", PBKDF2), ("argon2i", ARGON2), ("argon2id", ARGON2)):
            with self.subTest(kdf=kdf):
                self.format("--pbkdf", kdf, *argv, "--sector-size", "512")
                self.assert_shows(DISK)
                out, err, status = self.run_instar("info", "-f", "luks", "--output=json", self.path("disk.luks"))
                self.assertEqual(status, 0, err)
                info = json.loads(out)
                data = info["format-specific"]["data"]
                self.assertEqual((info["format"], info["virtual-size"], info["encrypted"]), ("luks", len(DISK), True))
                self.assertEqual((data["version"], data["encryption"]), (2, "aes-xts-plain64"))
                self.assertEqual([slot["kdf"] for slot in data["slots"]], [kdf])

    def test_more_lanes(self):
        self.format(
            "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "200", "--pbkdf-parallel", "2"
        )
        self.assert_shows(DISK)

    def test_long_sectors(self):
        for unit in (1024, 2048, 4096):
            with self.subTest(unit=unit):
                encrypt = lambda key, disk, unit=unit: luks2.crypt(key, disk, unit)  # noqa: E731
                self.format("--pbkdf", "pbkdf2", *PBKDF2, "--sector-size", str(unit), encrypt=encrypt)
                self.assert_shows(DISK)
                *words, image = self.opened()
                target = self.path("part.raw")
                argv = ["dd", *words, "-O", "raw", f"if={image}", f"of={target}", "bs=1000", "skip=3", "count=100"]
                out, err, status = self.run_instar(*argv)
                self.assertEqual(status, 0, out + err)
                with open(target, "rb") as file:
                    self.assertEqual(file.read()[:97_000], DISK[3000:100_000])

    def test_ciphers_and_hashes(self):
        self.format("--pbkdf", "pbkdf2", *PBKDF2, "--hash", "sha512", bits=256)
        self.assert_shows(DISK)
        self.format(
            "--pbkdf", "pbkdf2", *PBKDF2, "--hash", "sha1", cipher="aes-cbc-essiv:sha256", bits=256, encrypt=essiv
        )
        self.assert_shows(DISK)

    def test_several_slots(self):
        self.format("--pbkdf", "pbkdf2", *PBKDF2)
        self.cryptsetup("luksAddKey", "--pbkdf", "argon2id", *ARGON2, "--key-slot", "7", self.path("disk.luks"), keys=(KEY, "second"))  # fmt: skip
        self.assert_shows(DISK, "second")
        self.cryptsetup("luksKillSlot", self.path("disk.luks"), "0", keys=("second",))
        self.assert_shows(DISK, "second")
        self.assert_refused("Invalid password, cannot unlock any keyslot", key=KEY)

    def test_memory_is_asked_for_by_its_flag(self):
        self.format(
            "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "98304", "--pbkdf-parallel", "1"
        )
        self.assert_refused("96 MiB", "--max-guest-memory", key=KEY, argv=("--max-guest-memory", "64M"))
        self.assert_shows(DISK, KEY, "--max-guest-memory", "160M")


class TestBuilt(Base):
    """Images built from the specification."""

    def test_as_built(self):
        self.write(luks2.image(DISK))
        self.assert_shows(DISK, luks2.PASSWORD)
        self.write(luks2.image(DISK, tweak=5000, sector_size=4096))
        self.assert_shows(DISK, luks2.PASSWORD)

    def test_a_segment_of_a_length(self):
        self.write(luks2.image(DISK, lambda tree: tree["segments"]["0"].update(size=str(64 * KIB))))
        self.assert_shows(DISK[: 64 * KIB], luks2.PASSWORD)

    def test_one_header_is_enough(self):
        whole = luks2.image(DISK)
        for at in (0, 5, 20, 450, 4100, luks2.HEADER, luks2.HEADER + 450, luks2.HEADER + 5000):
            with self.subTest(at=at):
                self.write(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
                self.assert_shows(DISK, luks2.PASSWORD)
        self.write(bytes(luks2.HEADER) + whole[luks2.HEADER :])
        self.assert_shows(DISK, luks2.PASSWORD)

    def test_the_newer_header_counts(self):
        whole, other = luks2.image(DISK), luks2.image(DISK, lambda tree: tree["segments"]["0"].update(size="4096"))
        newer = luks2.image(DISK, second={"sequence": 2})
        self.write(other[: luks2.HEADER] + newer[luks2.HEADER :])
        self.assert_shows(DISK, luks2.PASSWORD)
        self.write(other[: luks2.HEADER] + whole[luks2.HEADER :])
        self.assert_shows(DISK[:4096], luks2.PASSWORD)

    def test_keys(self):
        self.write(luks2.image(DISK))
        self.assert_refused("Invalid password, cannot unlock any keyslot", key="wrong")
        argv = ["convert", "-f", "luks", "-O", "raw", self.path("disk.luks"), self.path("out.raw")]
        out, err, status = self.run_instar(*argv)
        self.assertEqual((out, status), ("", 1))
        self.assertIn("Parameter 'key-secret' is required for cipher", err)

    def test_below_another_format(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", self.path("disk.qcow2"), "1M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 7 100k 50k", self.path("disk.qcow2"))
        with open(self.path("disk.qcow2"), "rb") as file:
            content = file.read()
        self.write(luks2.image(content.ljust(-(-len(content) // 4096) * 4096, b"\0"), sector_size=4096))
        name = f"driver=qcow2,file.driver=luks,file.key-secret=s0,file.file.filename={self.path('disk.luks')}"
        argv = ["convert", "--object", f"secret,id=s0,data={luks2.PASSWORD}", "--image-opts", "-O", "raw", name]
        self.assertEqual(self.run_instar(*argv, self.path("out.raw")), ("", "", 0))
        self.assert_same_disk(self.path("out.raw"), self.path("disk.qcow2"))

    def test_by_the_stock_name_nothing_is_there(self):
        """And without a format, it is raw by either name."""
        self.write(luks2.image(DISK))
        for argv in (["info", "-f", "luks"], ["info"], ["check"], ["map"], ["convert", "-f", "luks", "-O", "raw"]):
            argv = [*argv, self.path("disk.luks"), *([self.path("out.raw")] if "convert" in argv else [])]
            with self.subTest(argv=argv):
                ours, theirs = self.run_as_qemu_img(*argv), self.run_qemu_img(*argv)
                self.assertEqual(ours, theirs)
        self.assert_same_outcome(
            self.run_instar("info", self.path("disk.luks")), self.run_qemu_img("info", self.path("disk.luks"))
        )

    def test_refusals(self):
        def slot(**changes):
            return lambda tree: tree["keyslots"]["0"].update(changes)

        def kdf(**changes):
            return lambda tree: tree["keyslots"]["0"]["kdf"].update(changes)

        def segment(**changes):
            return lambda tree: tree["segments"]["0"].update(changes)

        argon2 = {"type": "argon2id", "time": 4, "memory": 1024, "cpus": 1}
        cases = {
            "more key derivation than instar does": kdf(**{**argon2, "time": 1 << 31}),
            "16384 MiB of memory; --max-guest-memory": kdf(**{**argon2, "time": 1, "memory": 16 << 20}),
            "rounds of key derivation are more": kdf(iterations=(1 << 32) - 1),
            "a key derivation of no rounds": kdf(iterations=0),
            "does not fit into its area": slot(key_size=1 << 20),
            "lies outside its place": lambda tree: tree["keyslots"]["0"]["area"].update(offset="0"),
            "overlap": lambda tree: tree["keyslots"].update({"1": tree["keyslots"]["0"]}),
            "is not supported": segment(encryption="rot13-xts-plain64"),
            "begins behind the file's end": segment(offset=str(1 << 60)),
            "ends behind the file's end": segment(size=str(1 << 60)),
            "lies over the header": segment(offset="0"),
            "sectors of 513 bytes": segment(sector_size=513),
            "integrity checksums are not supported": segment(integrity={"type": "hmac(sha256)"}),
            "segments (one that is being encrypted anew)": lambda tree: tree["segments"].update({"1": tree["segments"]["0"]}),
            "needs 'online-reencrypt'": lambda tree: tree["config"].update(requirements={"mandatory": ["online-reencrypt"]}),
            "too many entries": lambda tree: tree["keyslots"].update({str(n): {"type": "x"} for n in range(40)}),
            "cannot unlock any keyslot": lambda tree: tree["digests"]["0"].update(digest=""),
        }  # fmt: skip
        for text, edit in cases.items():
            with self.subTest(text=text):
                self.write(luks2.image(DISK, edit))
                self.assert_refused(text)

    def test_both_headers_are_bad(self):
        whole = bytearray(luks2.image(DISK))
        whole[450] ^= 1
        whole[luks2.HEADER + 450] ^= 1
        self.write(whole)
        self.assert_refused("both headers of the LUKS volume are damaged", "a wrong checksum")

    def test_text_that_is_no_metadata(self):
        for text in (
            b"",
            b"{",
            b"[]",
            b"{}",
            b'{"keyslots":' + b"[" * 5000,
            b"\xff" * 100,
            b'{"keyslots":' + b'{"0":' * 2000,
        ):
            with self.subTest(text=text[:20]):
                self.write(luks2.image(DISK, text=text))
                self.assert_refused("JSON area cannot be read")


if __name__ == "__main__":
    unittest.main()
