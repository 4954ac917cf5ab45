"""Every option that the stock tool's help names is taken, or is on a list with the reason why it is not."""

import re

from tests.base import InstarTestBase

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


def options_of(text):
    """The options that a command's help names: each name, with its value if it has one."""
    found = []
    for line in text.splitlines():
        # `-f, --format FMT`, `--enable, --disable`; what else is indented explains, or is usage.
        # (That of measure leaves a value out.)
        line = re.sub(r"^  -f, --format$", "  -f, --format FMT", line)
        match = re.match(r" {2,3}(-\w|--[a-z-]+)((?:, --[a-z-]+)*)(?: (\S+))?", line.replace("[KMGTPE]", ""))
        if match:
            names = [match.group(1), *re.findall(r"--[a-z-]+", match.group(2))]
            found += [(name, match.group(3)) for name in names]
    return found


class TestOptionsComplete(InstarTestBase):
    def stock_commands(self):
        """Command and options, by the stock tool's own help."""
        listed = self.run_qemu_img("--help")[0]
        commands = re.findall(r"^  ([a-z]+) - ", listed, re.MULTILINE)
        self.assertGreater(len(commands), 12)
        return {command: options_of(self.run_qemu_img(command, "--help")[0]) for command in commands}

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

    def test_what_is_refused_says_so(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "image", "1M")
        for (command, option), text in REFUSED.items():
            with self.subTest(f"{command} {option}"):
                before = self.sha256(self.path("image"))
                out, err, status = self.run_instar(command, option, "all", "image", cwd=self.tmp)
                self.assertEqual((out, status), ("", 1))
                self.assertIn(text, err)
                self.assertEqual(self.sha256(self.path("image")), before)
