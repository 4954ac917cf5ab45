"""What the stock tool's own help says that its commands take, by release.

`instar-testdata/expected-outputs/options.json` holds it of those releases that were fetched: command to a map from an
option to whether it takes a value. `instar-testdata/scripts/list-options.py` writes it.
"""

import json
import re

from tests.helpers.baselines import OUTPUTS

OPTIONS = OUTPUTS / "options.json"


def commands(text):
    """Each command that the general help names, to its line of usage if there is one."""
    usage = re.findall(r"^  ([a-z]+)((?: [-(\[].*)?)$", text.partition("Command syntax:")[2], re.MULTILINE)
    return dict(usage) or dict.fromkeys(re.findall(r"^  ([a-z]+) - ", text, re.MULTILINE), "")


def options_of_line(line):
    """From a line of usage, as up to 7.2: `[-f fmt] [--output=ofmt] [-q]`; `[-l | -a snapshot]`."""
    return [(name, value or None) for name, value in re.findall(r"(?<!\S)[(\[]*(-\w|--[a-z-]+)[ =]?([\w+]*)", line)]


def options_of(text):
    """The options that a command's help names: each name, with its value if it has one."""
    found = []
    for line in text.splitlines():
        # `-f, --format FMT`, `--enable, --disable`; what else is indented explains, or is usage.
        # (That of measure leaves a value out.)
        line = re.sub(r"^  -f, --format$", "  -f, --format FMT", line)
        match = re.match(r" {2,3}(-\w|--[a-z-]+)((?:, --[a-z-]+)*)(?: (\S+))?", re.sub(r"\[\w*KMGTPE\]", "", line))
        if match:
            names = [match.group(1), *re.findall(r"--[a-z-]+", match.group(2))]
            found += [(name, match.group(3)) for name in names]
    return found


def said(help_of):
    """Of one release, whose help is `help_of(*command)`: command to options."""
    found = {}
    for command, line in commands(help_of()).items():
        found[command] = dict(options_of_line(line) if line else options_of(help_of(command)))
    return found


def known():
    """Release to command to options."""
    return json.loads(OPTIONS.read_text())
