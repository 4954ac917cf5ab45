"""The manual: every page is sound roff, says what the command line says, and is where `make install` puts it."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.base import ROOT, InstarTestBase

SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO")
# What each of these ends with, said by its page.
STATUSES = {"check": {"0", "1", "2", "3", "63"}, "compare": {"0", "1", "2", "3", "4"}, "policy": {"0", "1", "2"}}


class TestManual(InstarTestBase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.path("man"))
        said = self.run_instar("generate", "man", "--all", self.folder)
        self.assertEqual(said, ("", "", 0))

    def commands(self):
        out = self.run_instar()[0]
        return re.findall(r"(?m)^  ([a-z]+) ", out)

    def read(self, name, section=1):
        """A page as people see it."""
        path = self.folder / f"man{section}/{name}.{section}"
        done = subprocess.run(["mandoc", "-T", "ascii", path], capture_output=True, text=True, check=True)
        return re.sub(r".\x08", "", done.stdout)

    def test_every_page_is_there_and_sound(self):
        commands = self.commands()
        self.assertGreater(len(commands), 20)
        pages = {f"man1/instar-{command}.1" for command in commands} | {"man1/instar.1", "man5/instar.toml.5"}
        found = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*.*") if path.is_file()}
        self.assertEqual(found, pages)
        for page in sorted(pages):
            done = subprocess.run(["mandoc", "-T", "lint", self.folder / page], capture_output=True, text=True)
            self.assertEqual((done.stdout, done.stderr, done.returncode), ("", "", 0), page)

    def test_every_page_says_what_it_has_to(self):
        for command in self.commands():
            text = self.read(f"instar-{command}")
            self.assertEqual([s for s in SECTIONS if not re.search(rf"(?m)^{s}$", text)], [], command)
            names = re.findall(r"(?m)^ +(?:-\w, )?(--[a-z-]+)", self.run_instar(command, "--help")[0].split("Options of every")[0])
            options = text.split("OPTIONS\n")[1].split("EXIT STATUS\n")[0]
            self.assertEqual([name for name in names if name not in options], [], command)
            self.assertIn(f"instar {command}", text.split("EXAMPLES\n")[1])
            statuses = re.findall(r"(?m)^ {7}(\d+) ", text.split("EXIT STATUS\n")[1].split("EXAMPLES\n")[0])
            self.assertEqual(set(statuses), STATUSES.get(command, {"0", "1"}), command)
        text = self.read("instar")
        for section in (*SECTIONS, "COMMANDS", "FORMATS", "ENVIRONMENT", "SIGNALS", "FILES", "SECURITY"):
            self.assertRegex(text, rf"(?m)^{section}$")
        for word in ("INSTAR_CONFIG", "INSTAR_ISOLATION", "SIGUSR1", "SIGINT", "130", "/etc/instar/config.toml"):
            self.assertIn(word, text)

    def test_the_page_of_the_settings_has_all(self):
        text = self.read("instar.toml", 5)
        keys = re.findall(r"(?m)^(\S+): ", self.run_instar("config", "explain", env={"INSTAR_CONFIG": ""})[0])
        keys = [key for key in keys if not key.startswith("/")]
        self.assertGreater(len(keys), 12)
        for key in keys:
            self.assertRegex(text, rf"(?m)^ +{re.escape(key)}$")

    def test_one_page_by_its_name_or_its_commands(self):
        whole = (self.folder / "man1/instar-info.1").read_text()
        for name in ("info", "instar-info"):
            self.assertEqual(self.run_instar("generate", "man", name), (whole, "", 0))
        self.assertEqual(self.run_instar("generate", "man")[0], (self.folder / "man1/instar.1").read_text())
        for argv in (("man", "nosuch"), ("man", "info", "map"), ("config", "--all", "x"), ("--all", "x"), ()):
            out, err, status = self.run_instar("generate", *argv)
            self.assertEqual((out, status), ("", 1), argv)
            self.assertTrue(err)
        out, err, status = self.run_instar("generate", "man", "--all", "/dev/null/x")
        self.assertEqual((out, status), ("", 1))
        self.assertIn("cannot write '/dev/null/x/man1/instar.1': Not a directory", err)

    def test_what_the_pages_say_of_statuses_is_so(self):
        """Those that images bring about."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "a.raw", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/hosts", "-F", "raw", "out.qcow2", "1M")
        Path(self.path("b.raw")).write_bytes(b"b" * (1 << 20))
        for argv, status in (
            (("check", "a.qcow2"), 0),
            (("check", "a.raw"), 63),
            (("check", "nowhere"), 1),
            (("compare", "a.raw", "a.qcow2"), 0),
            (("compare", "a.raw", "b.raw"), 1),
            (("compare", "a.raw", "nowhere"), 2),
            (("policy", "a.qcow2"), 0),
            (("policy", "out.qcow2"), 2),
            (("policy", "nowhere"), 1),
        ):
            self.assertEqual(self.run_instar(*argv, cwd=self.tmp)[2], status, argv)


class TestInstall(InstarTestBase):
    """`make install` and back."""

    def run_make(self, *argv):
        done = subprocess.run(
            ["make", "-s", *argv, f"DESTDIR={self.path('root')}", "PREFIX=/usr", f"BINARY={self.get_instar_binary()}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr, done.returncode

    def installed(self):
        root = Path(self.path("root"))
        return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}

    def test_all_is_there_and_all_goes(self):
        self.assertIsNotNone(shutil.which("make"))
        for link in ((), ("QEMU_IMG_LINK=1",)):
            self.assertEqual(self.run_make("install", *link), ("", 0))
            found = self.installed()
            for path in ("bin/instar", "share/man/man1/instar.1", "share/man/man1/instar-dd.1", "share/man/man5/instar.toml.5"):
                self.assertIn(f"usr/{path}", found)
            for name in ("instar", *(["qemu-img"] if link else [])):
                for path in (f"bash-completion/completions/{name}", f"zsh/site-functions/_{name}", f"fish/vendor_completions.d/{name}.fish"):
                    self.assertIn(f"usr/share/{path}", found)
            self.assertEqual("usr/bin/qemu-img" in found, bool(link))
            if link:
                out = self.run_tool([self.path("root/usr/bin/qemu-img"), "--version"])[0]
                self.assertRegex(out, r"\Aqemu-img version \d")
            self.assertEqual(self.run_make("uninstall"), ("", 0))
            self.assertEqual(self.installed(), set())

    def test_a_qemu_img_that_is_there_stays(self):
        Path(self.path("root/usr/bin")).mkdir(parents=True)
        stock = Path(self.path("root/usr/bin/qemu-img"))
        stock.write_text("stock")
        out, status = self.run_make("install", "QEMU_IMG_LINK=1")
        self.assertEqual(status, 2)
        self.assertIn("is no link", out)
        self.assertEqual(self.run_make("install"), ("", 0))
        self.assertEqual(self.run_make("uninstall"), ("", 0))
        self.assertEqual((stock.read_text(), self.installed()), ("stock", {"usr/bin/qemu-img"}))
