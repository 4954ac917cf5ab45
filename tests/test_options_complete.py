"""Every option that the stock tool's help names is taken, or is on a list with the reason why it is not."""

import os
import re

from tests.base import ROOT, InstarTestBase
from tests.helpers import stock_help

# Options that are known but refused, and what is said then.
REFUSED = {}
# What the stock tool's help names and its parser does not know; instar goes by the help.
DOCUMENTED_ONLY = {
    ("bench", "--quiet"),
    ("bitmap", "--format"),
    ("convert", "--progress"),
    ("convert", "--source-snapshot"),
    ("convert", "--target-format"),
    ("convert", "--target-options"),
    ("convert", "--compress"),
    ("convert", "--target-cache"),
    ("convert", "--no-create"),
    ("measure", "-s"),
}
# Letters that are taken and that not every release's help names, or the other way round.
UNNAMED = {
    "amend": {"-o"},
    "convert": {"-F", "-U"},
    "info": {"-b"},
    "map": {"-l", "-s"},
    "measure": {"-U", "-o", "-s"},
    "snapshot": {"-a", "-c", "-d", "-l"},
}
# Values that options can have: numbers do for all others.
VALUES = {
    "OBJDEF": "secret,id=one,data=two",
    "CACHE": "none",
    "CACHE_MODE": "none",
    "SRC_CACHE": "none",
    "TGT_CACHE": "none",
    "AIO": "threads",
    "human|json": "json",
    "leaks|all": "leaks",
    "FMT": "raw",
    "PREALLOC": "off",
}
# What getopt says of an option that it does not know, or that has a value or not, in another way.
PARSING = re.compile(r"unrecognized option|invalid option|requires an argument|doesn't allow an argument|ambiguous")


class TestOptionsComplete(InstarTestBase):
    def stock_commands(self):
        """Command and options, by the stock tool's own help."""
        found = stock_help.said(lambda *command: self.run_qemu_img(*command, "--help")[0])
        self.assertGreater(len(found), 12)
        return {command: options.items() for command, options in found.items()}

    def test_every_command(self):
        for command in self.stock_commands():
            with self.subTest(command):
                out, err, status = self.run_as_qemu_img(command)
                self.assertEqual((out, err, status), self.run_qemu_img(command))

    def test_every_option(self):
        """Given by itself, both tools find something else to say of the command than that they do not know the option."""
        seen = 0
        for command, options in self.stock_commands().items():
            self.assertGreater(len(options), 4, command)
            for name, value in options:
                seen += 1
                with self.subTest(f"{command} {name}"):
                    words = (command, name, *([VALUES.get(value, "1")] if value else []))
                    stock = self.run_qemu_img(*words)
                    unknown = PARSING.search(stock[1]) is not None
                    self.assertEqual(unknown, (command, name) in DOCUMENTED_ONLY, stock[1])
                    out, err, status = self.run_as_qemu_img(*words)
                    if unknown and (out, err, status) == stock:
                        # Not known to that release by this name, whatever its help says.
                        continue
                    self.assertIsNone(PARSING.search(err), err)
                    # The text of the help is each tool's own.
                    if not unknown and name not in ("-h", "--help"):
                        self.assertEqual((out, err, status), stock)
        self.assertGreater(seen, 150)

    def test_every_release(self):
        """What a release's own help names is taken as that release; and no other letter is offered in ours."""
        seen = 0
        for release, commands in stock_help.known().items():
            self.assertEqual(len(commands), 15, release)
            for command, options in commands.items():
                for name, value in options.items():
                    seen += 1
                    with self.subTest(f"{release} {command} {name}"):
                        words = (command, name, *([VALUES.get(value, "1")] if value else []))
                        err = self.run_as_qemu_img(*words, version=release)[1]
                        if (command, name) not in DOCUMENTED_ONLY:
                            self.assertIsNone(PARSING.search(err), err)
                with self.subTest(f"{release} {command} --help"):
                    offered = self.run_as_qemu_img(command, "--help", version=release)[0]
                    # Usage, as up to 7.2, names no help.
                    aside = {"-h", *UNNAMED.get(command, ())}
                    letters = {name for name, _ in stock_help.options_of(offered) if len(name) == 2}
                    named = {name for name in options if len(name) == 2}
                    self.assertEqual(letters - aside, named - aside)
        self.assertGreater(seen, 1000)

    def test_the_releases_name_what_is_written_down(self):
        for path in sorted((ROOT / "instar-testdata/qemu-img-binaries" / os.uname().machine).glob("*/qemu-img")):
            with self.subTest(path.parent.name):
                said = stock_help.said(lambda *command, path=path: self.run_tool([path, *command, "--help"])[0])
                self.assertEqual(said, stock_help.known()[path.parent.name])

    def test_what_is_refused_says_so(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "image", "1M")
        for (command, option), text in REFUSED.items():
            with self.subTest(f"{command} {option}"):
                before = self.sha256(self.path("image"))
                out, err, status = self.run_instar(command, option, "all", "image", cwd=self.tmp)
                self.assertEqual((out, status), ("", 1))
                self.assertIn(text, err)
                self.assertEqual(self.sha256(self.path("image")), before)
