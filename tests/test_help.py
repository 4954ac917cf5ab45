"""The help: read in a narrow terminal, in a wide one and in none; its examples are run as they stand."""

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
from pathlib import Path

from tests.base import ROOT, InstarTestBase

OWN = ("policy", "config", "doctor", "formats", "generate", "help", "version")
TITLES = ("Look at images:", "Make images:", "Change images:", "About instar:")
# What the examples make or change, which is made anew for each.
IMAGES = (
    ("create", "-q", "-f", "raw", "disk.raw", "8M"),
    ("create", "-q", "-f", "qcow2", "disk.qcow2", "8M"),
    ("snapshot", "-c", "before", "disk.qcow2"),
    ("create", "-q", "-f", "qcow2", "upload.qcow2", "8M"),
    ("create", "-q", "-f", "qcow2", "base.qcow2", "8M"),
    ("create", "-q", "-f", "qcow2", "newbase.qcow2", "8M"),
    ("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"),
)


class HelpTest(InstarTestBase):
    def said(self, *argv, run=None, columns="", **env):
        out, err, status = (run or self.run_instar)(*argv, env={"COLUMNS": columns, **env})
        self.assertEqual((err, status), ("", 0), argv)
        return out

    @staticmethod
    def examples(text):
        """The command lines of a help, without what is said of them."""
        lines = re.search(r"(?ms)^Examples:\n(.*?)\n\n", text).group(1).splitlines()
        return [line.strip().split("  ")[0] for line in lines if line.startswith("  instar ")]

    def commands(self):
        """The commands that the help lists, each with its line."""
        out = self.said("--help")
        found = re.findall(r"(?m)^  ([a-z]+) +(\S.*)$", out[: out.index("Examples:")])
        self.assertEqual(len(dict(found)), len(found))
        return dict(found)


class TestHelp(HelpTest):
    def test_every_command_has_a_line(self):
        commands = self.commands()
        stock = re.findall(r"(?m)^  ([a-z]+) - ", self.run_qemu_img("--help")[0])
        self.assertGreater(len(stock), 12)
        self.assertEqual(set(commands), {*stock, *OWN})
        folder = ROOT / "src/host/cli/src/commands"
        self.assertEqual({path.stem for path in folder.glob("*.rs")} - {"mod", "option_list", "options"}, set(commands))

    def test_commands_stand_below_what_they_are_for(self):
        out = self.said("--help")
        places = [out.index(title) for title in TITLES]
        self.assertEqual(places, sorted(places))
        for command, title in (("info", 0), ("convert", 1), ("rebase", 2), ("formats", 3)):
            until = places[title + 1] if title < 3 else out.index("Examples:")
            self.assertIn(f"\n  {command} ", out[places[title] : until])

    def test_what_belongs_into_it(self):
        out = self.said("--help")
        for text in ("Usage: instar ", "\n  read ", "\n  written ", "config.toml", "INSTAR_", "--version", "--isolation"):
            self.assertIn(text, out)
        read = re.search(r"(?m)^  read +(.+)$", out).group(1).split()
        self.assertLessEqual({"raw", "qcow2", "vpc", "dmg"}, set(read))
        self.assertNotIn("dmg", re.search(r"(?m)^  written +(.+)$", out).group(1).split())
        self.assertEqual(len(self.examples(out)), 3)

    def test_no_line_is_longer_than_what_it_is_read_in(self):
        argvs = [["--help"], [], *([command, "--help"] for command in self.commands())]
        for columns, longest in (("", 80), ("80", 80), ("60", 60), ("100", 100), ("300", 100), ("nonsense", 80), ("0", 80)):
            for argv in argvs:
                lines = self.said(*argv, columns=columns).splitlines()
                # An example is one line, to be copied.
                lines = [line for line in lines if not line.startswith("  instar ")]
                self.assertLessEqual(max(map(len, lines)), longest, (argv, columns))
        for command in self.commands():
            for line in self.said(command, "--help").splitlines():
                self.assertLessEqual(len(line), 80, line)

    def test_called_as_qemu_img_it_is_wrapped_too(self):
        commands = [command for command in self.commands() if command not in OWN]
        for version in ("7.2.22", "10.0.2", "11.1.3"):
            for argv in (["--help"], *([command, "--help"] for command in commands)):
                out = self.run_as_qemu_img(*argv, version=version, env={"COLUMNS": ""})[0]
                lines = [line for line in out.splitlines() if not line.startswith("Supported formats:")]
                self.assertLessEqual(max(map(len, lines)), 80, argv)

    def test_a_terminals_width_is_its_own(self):
        for columns in (60, 90):
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            env = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
            subprocess.run([self.get_instar_binary(), "info", "--help"], stdout=theirs, env=env, check=True)
            os.close(theirs)
            text = b""
            with open(ours, "rb", buffering=0) as reader:
                # The last reader of a terminal that nobody writes to any more gets an error.
                try:
                    while piece := reader.read(4096):
                        text += piece
                except OSError:
                    pass
            longest = max(len(line) for line in text.decode().splitlines() if not line.startswith("  instar "))
            self.assertTrue(columns - 15 < longest <= columns, longest)

    def test_asked_for_in_any_way(self):
        for one, other in ((("help",), ("--help",)), (("help", "convert"), ("convert", "--help")), (("-h",), ("--help",))):
            self.assertEqual(self.said(*one), self.said(*other))
        self.assertEqual(self.said("version"), self.said("-V"))
        self.assertEqual(self.said("-V"), self.said("--version"))
        out, err, status = self.run_instar("help", "nosuch")
        self.assertEqual((out, status), ("", 1))
        self.assertIn("Command not found: nosuch", err)

    def test_called_bare_it_shows_the_commands(self):
        out = self.said()
        for command, line in self.commands().items():
            self.assertRegex(out, rf"(?m)^  {command} +{re.escape(line)}$")
        self.assertLess(out.count("\n"), 40)
        # Options are no request.
        self.assertEqual(self.run_instar("--isolation", "process")[2], 1)
        self.assertEqual(self.run_as_qemu_img(), self.run_qemu_img())

    def test_own_commands_are_not_qemu_imgs(self):
        for command in OWN:
            self.assertEqual(self.run_as_qemu_img(command), self.run_qemu_img(command))

    def test_help_needs_no_sound_configuration(self):
        broken = Path(self.path("broken.toml"))
        broken.write_text("isolation = \n")
        for argv in ((), ("help",), ("help", "info"), ("version",), ("formats",), ("generate", "man")):
            self.assertTrue(self.said(*argv, INSTAR_CONFIG=str(broken)))


class TestExamples(HelpTest):
    """Each runs, where it is said to, on images of those names."""

    def pages(self):
        """Every example of the manual and of the help."""
        found = set(self.examples(self.said("--help")))
        for command in self.commands():
            found |= set(self.examples(self.said(command, "--help")))
            page = self.said("generate", "man", f"instar-{command}")
            examples = re.findall(r"\n\.nf\n(instar .*)\n\.fi", page)
            self.assertTrue(examples, command)
            plain = (line.replace("\\-", "-").replace("\\(ga", "`").replace("\\(dq", '"') for line in examples)
            found |= set(plain)
        return sorted(found)

    def test_every_one_runs(self):
        pages = self.pages()
        self.assertGreater(len(pages), 35)
        for number, line in enumerate(pages):
            with self.subTest(line):
                folder = Path(self.path(str(number)))
                folder.mkdir()
                for argv in IMAGES:
                    self.assertEqual(self.run_qemu_img(*argv, cwd=folder)[1:], ("", 0))
                argv = shlex.split(line)
                self.assertEqual(argv[0], "instar")
                env = {"HOME": str(folder)}
                _, err, status = self.run_instar(*argv[1:], cwd=folder, env=env)
                self.assertEqual((err, status), ("", 0))


class TestFormats(HelpTest):
    def formats(self):
        return {row["name"]: row for row in json.loads(self.said("formats", "--output", "json"))}

    def test_they_are_the_readmes(self):
        """A cell says yes, no, or of which images it is so."""
        keys = ("read", "written", "in-place", "resized")
        text = (ROOT / "README.md").read_text()
        table = re.search(r"(?m)^\| format \| read .*\n\|.*\n((?:\|.*\n)+)", text).group(1)
        formats, seen = self.formats(), set()
        for line in table.splitlines():
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            names = re.split(r",| and ", re.sub(r"\(.*?\)", "", first))
            if "version 2" in first or "encrypted" in names[-1]:
                continue
            for name in map(str.strip, names):
                seen.add(name)
                row = formats[name]
                for key, cell in zip(keys, cells, strict=True):
                    cell = re.sub(r" ?\(.*?\)|`", "", cell)
                    only = row["only"].get(key)
                    with self.subTest(f"{name}: {key}"):
                        self.assertEqual(row[key], cell != "no", cell)
                        if only:
                            self.assertIn(only, cell)
                        else:
                            self.assertIn(cell.split(",")[0], ("yes", "no"))
        self.assertEqual(seen, set(formats))

    def test_what_is_said_is_done(self):
        """Made, resized and changed is what is said to be, by the stock tool's word; all else is refused."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "in.raw", "64M")
        self.make("qemu-img", "create", "-q", "-f", "raw", "longer.raw", "65M")
        secret = ("--object", "secret,id=key,data=word")
        for name, row in self.formats().items():
            with self.subTest(name):
                keys = (*secret, "-o", "key-secret=key,iter-time=10") if name == "luks" else ()
                _, err, status = self.run_instar("convert", *keys, "-O", name, "in.raw", f"x.{name}", cwd=self.tmp)
                self.assertEqual(status == 0, row["written"], err)
                if not row["written"]:
                    continue
                given = ("--image-opts", f"driver={name},file.filename=x.{name}" + (",key-secret=key" if keys else ""))
                resized = ("resize", "-q", *(secret if keys else ()), *given, "65M")
                _, err, status = self.run_instar(*resized, cwd=self.tmp)
                self.assertEqual(status == 0, row["resized"], err)
                source = "longer.raw" if row["resized"] else "in.raw"
                into = ("--target-image-opts", *(secret if keys else ()), "-n", "-f", "raw", source, given[1])
                _, err, status = self.run_instar("convert", *into, cwd=self.tmp)
                self.assertEqual(status == 0, row["in-place"], err)

    def test_the_table(self):
        out = self.said("formats")
        for name, row in self.formats().items():
            line = re.search(rf"(?m)^{name} .*$", out).group(0)
            self.assertLessEqual(len(line), 80)
            self.assertIn(" yes ", line)
            for other in row["aliases"]:
                self.assertIn(other, line)
            for only in row["only"].values():
                self.assertRegex(out, rf"(?m)^\(\d\) {name}, .*: {re.escape(only)}$")
