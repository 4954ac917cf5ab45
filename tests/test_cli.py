"""Arguments, names, configuration: read and answered as the stock tool does."""

import json
import os
from pathlib import Path

from tests.base import InstarTestBase

# Each is run by both tools in a folder with a.qcow2 (10 MiB) and r.raw, and must end the same: output, errors, status.
SAME = """
|
nosuch
info
info a.qcow2 r.raw
info --output=xml a.qcow2
info -f
info --output
info --nosuch
info -Z
info --outp=json
info --outp=json a.qcow2
info a.qcow2 --output json
info -fqcow2 a.qcow2
info -f qcow2 -f raw a.qcow2
info -U -- a.qcow2
info --ba=x a.qcow2
info --image-opts a.qcow2
info --image-opts driver=qcow2,file.filename=nope
info --image-opts driver=qcow2,file.filename=a.qcow2
info -f nosuch a.qcow2
convert
convert a.qcow2
convert -O nosuch a.qcow2 x
convert -f nosuch a.qcow2 x
convert -O raw nope x
convert -c -O raw a.qcow2 x
convert -m 99 a.qcow2 x
convert -m 0 a.qcow2 x
convert -S 1x a.qcow2 x
convert -S 100 a.qcow2 x
convert -r 1x a.qcow2 x
convert -t foo a.qcow2 x
convert -T foo a.qcow2 x
convert -n a.qcow2 nope
convert --target-is-zero a.qcow2 x
convert -B a.qcow2 a.qcow2 x
convert -B a.qcow2 -O qcow2 a.qcow2 x
convert -l snap a.qcow2 x
convert -l snap -f raw r.raw x
measure -l snap -O raw a.qcow2
measure -l snap -O raw -f raw r.raw
convert -O qcow2 -o nosuch=1 a.qcow2 x
convert -O qcow2 -o cluster_size=7 a.qcow2 x
convert -O qcow2 -o cluster_size=abc a.qcow2 x
convert -O qcow2 -o refcount_bits=3 a.qcow2 x
convert -O qcow2 -o refcount_bits=abc a.qcow2 x
convert -O qcow2 -o refcount_bits=1,compat=0.10 a.qcow2 x
convert -O qcow2 -o compat=2.0 a.qcow2 x
convert -O qcow2 -o compat=0.10,lazy_refcounts=on a.qcow2 x
convert -O qcow2 -o compat=0.10,compression_type=zstd a.qcow2 x
convert -O qcow2 -o compression_type=foo a.qcow2 x
convert -O qcow2 -o extended_l2=on,cluster_size=4k a.qcow2 x
convert -O qcow2 -o preallocation=xx a.qcow2 x
convert -O qcow2 -o data_file_raw=on a.qcow2 x
convert -O qcow2 -o lazy_refcounts=maybe a.qcow2 x
convert -O raw -o preallocation=xx a.qcow2 x
convert --image-opts -f raw a.qcow2 x
convert --target-image-opts a.qcow2 x
convert -s x a.qcow2 x
convert a.qcow2 nodir/x
convert a.qcow2 .
convert --skip-broken-bitmaps a.qcow2 x
convert -c -C a.qcow2 x
convert -c -O qcow2 -o preallocation=metadata a.qcow2 x
convert -fqcow2 -Oraw -Wpq a.qcow2 x
convert a.qcow2 -O qcow2 -o compat=1.1 -o cluster_size=4k x
"""


class TestArguments(InstarTestBase):
    """As the stock tool."""

    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "10M")
        self.make("qemu-img", "create", "-q", "-f", "raw", "r.raw", "1M")

    def test_the_table(self):
        for line in SAME.strip().splitlines():
            argv = [] if line == "|" else line.split()
            with self.subTest(argv=line):
                outcomes = []
                for run in (self.run_qemu_img, self.run_as_qemu_img):
                    if os.path.exists(self.path("x")):
                        os.unlink(self.path("x"))
                    outcome = run(*argv, cwd=self.tmp)
                    # A failed conversion leaves nothing here; the stock tool sometimes leaves an empty file.
                    left = os.path.exists(self.path("x")) if outcome[2] == 0 or run != self.run_qemu_img else False
                    outcomes.append((*outcome, left))
                self.assertEqual(outcomes[1], outcomes[0], line)

    def test_sizes_with_b_are_bytes(self):
        for text, status in (("4096b", 0), ("8k", 0), ("0x1000", 0), ("1GiB", 1), ("", 1)):
            got = self.run_instar("convert", "-S", text, "-O", "raw", "a.qcow2", "x", cwd=self.tmp)[2]
            self.assertEqual(got, status, text)

    def test_version_begins_as_clients_expect(self):
        for version in ("7.2.22", "10.0.2", "11.1.3"):
            out, err, status = self.run_as_qemu_img("--version", version=version)
            self.assertRegex(out, rf"\Aqemu-img version {version}\b")
            self.assertEqual((err, status), ("", 0))
        self.assertRegex(self.run_instar("--version")[0], r"\Ainstar \d")

    def test_help(self):
        for argv in (["--help"], ["info", "--help"], ["convert", "-h"]):
            out, err, status = self.run_instar(*argv)
            self.assertEqual((err, status), ("", 0))
            self.assertIn("Usage: instar ", out)

    def test_help_offers_what_that_release_takes(self):
        cases = (
            ("bitmap", "--remove-all", "11.1.0"),
            ("info", "--limits", "11.0.0"),
            ("measure", "-s, --size", "10.1.0"),
            ("convert", "-b, --backing", "10.1.0"),
        )
        for command, option, since in cases:
            offers = [option in self.run_as_qemu_img(command, "--help", version=version)[0] for version in ("10.0.2", since)]
            self.assertEqual(offers, [False, True], command)
        for command, own in (("rebase", "--dry-run"), ("info", "--extra-detail")):
            offers = [own in run(command, "--help")[0] for run in (self.run_as_qemu_img, self.run_instar)]
            self.assertEqual(offers, [False, True], own)
            self.assertNotIn(own, self.run_as_qemu_img("--help")[0])

    def test_help_ends_with_the_formats(self):
        """Programs look for them there: on one line, or from 10.0 on in several."""
        for version, words in (("7.2.22", "Supported formats:"), ("10.0.2", "Supported image formats:")):
            out = self.run_as_qemu_img("--help", version=version)[0]
            named = out.split(words)[1].split()
            self.assertEqual(named, sorted(named))
            self.assertLessEqual({"qcow2", "raw", "vmdk", "vpc", "file", "host_device"}, set(named))
            self.assertLess(max(map(len, out.split(words)[1].splitlines())), 200)

    def test_letters_of_the_new_style(self):
        """`-B` of create and rebase, `-b` of convert: from 10.1 on, as the stock tool's help says."""
        for command, letter in (("create", "B"), ("rebase", "B"), ("convert", "b")):
            old = self.run_as_qemu_img(command, f"-{letter}", "x", version="10.0.2")
            self.assertEqual(old, self.run_qemu_img(command, f"-{letter}", "x"))
            for version in ("10.1.0", "11.1.3"):
                err = self.run_as_qemu_img(command, f"-{letter}", "x", version=version)[1]
                self.assertNotIn("invalid option", err)
                self.assertRegex(err, r"\Aqemu-img: (Expecting|Must specify)")
                err = self.run_as_qemu_img(command, "--nosuch", version=version)[1]
                self.assertTrue(err.endswith(f"Try 'qemu-img {command} --help' for more information\n"), err)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base", "1M")
        for words in (
            ("create", "-q", "-f", "qcow2", "-b", "base", "-B", "qcow2", "top"),
            ("rebase", "-u", "-b", "base", "-B", "raw", "top"),
        ):
            self.assertEqual(self.run_as_qemu_img(*words, cwd=self.tmp, version="11.1.3"), ("", "", 0))
        out = self.run_qemu_img("info", "--output=json", "-U", "top", cwd=self.tmp)[0]
        self.assertEqual(json.loads(out)["backing-filename-format"], "raw")

    def test_rate_limit(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
        for words in (("--rate-limit", "1M"), ("--rate=1M",), ("-r", "1M")):
            said = self.run_as_qemu_img("commit", *words, "top", cwd=self.tmp, version="11.1.3")
            self.assertEqual(said, ("Image committed.\n", "", 0), words)


class TestConfiguration(InstarTestBase):
    """Flags win over the environment, that over the user's file, that over the system's."""

    def setting(self, key, *argv, env=None):
        out, err, status = self.run_tool(
            [self.get_instar_binary(), "config", "--output=json", *argv], env={"HOME": self.tmp, **(env or {})}
        )
        self.assertEqual(status, 0, err)
        return json.loads(out)["settings"][key]

    def file(self, text):
        path = Path(self.tmp, "config.toml")
        path.write_text(text)
        return {"INSTAR_CONFIG": str(path), "INSTAR_ISOLATION": "", "INSTAR_QEMU_VERSION": ""}

    def test_precedence(self):
        env = self.file('isolation = "process"\n[backing]\nallow = ["/etc", "/usr"]\n')
        self.assertEqual(self.setting("isolation", env=env)["value"], "process")
        self.assertIn("config.toml", self.setting("isolation", env=env)["from"])
        self.assertEqual(self.setting("backing.allow", env=env)["value"], ["/etc", "/usr"])
        env["INSTAR_ISOLATION"] = "auto"
        self.assertEqual(self.setting("isolation", env=env)["from"], "INSTAR_ISOLATION")
        self.assertEqual(self.setting("isolation", "--isolation", "process", env=env)["from"], "--isolation")

    def test_nonsense_is_told_with_the_file(self):
        for text in ("isolation = ", "nosuch = 1", 'isolation = "moon"', "[limits]\nseconds = true"):
            env = self.file(text)
            out, err, status = self.run_tool([self.get_instar_binary(), "config"], env=env)
            self.assertEqual(status, 1, text)
            self.assertRegex(out, r"config\.toml +there, and wrong\n")
            self.assertIn("config.toml", err)
