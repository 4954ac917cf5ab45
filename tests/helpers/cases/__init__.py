"""The case tables of the baselines: what is done with every release of qemu-img, and what is looked at.

`instar-testdata/scripts/generate-baselines.py` runs each case with each release that
`instar-testdata/scripts/fetch-qemu-img` brought; the tests run it with instar imitating that release. One file a command,
found by its name, with its table CASES.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.helpers.variants import Maker


@dataclass(frozen=True)
class Case:
    """A command and what is looked at behind it. All names are relative to a folder of the case's own."""

    # Unique among the target's cases of one command; letters, digits and dashes.
    name: str
    # The format that it is about.
    target: str
    # setup(maker) makes the fixtures with the installed stock tools; the same for every release. Where it returns a
    # name, `{image}` in the arguments stands for it.
    setup: Callable
    # What is compared: output type to arguments. They run in this order; words, errors and exit status count.
    runs: dict = field(default_factory=dict)
    # Releases (as prefixes of their numbers) that lack something for it which instar has, and why.
    without: dict = field(default_factory=dict)
    # What is written may lie elsewhere in the file than the stock tool puts it.
    own_layout: bool = False

    def has(self, version):
        """The case says something of that release."""
        return not any(version.startswith(prefix) for prefix in self.without)


def prepare(case, folder):
    """Makes the case's fixtures; returns its runs: output type to arguments."""
    image = case.setup(Maker(folder, f"{case.target}/{case.name}"))
    named = image if isinstance(image, str) else "{image}"
    return {kind: [word.replace("{image}", named) for word in argv] for kind, argv in case.runs.items()}


def commands():
    """The commands that have a table."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def cases(command):
    """A command's cases."""
    return importlib.import_module(f"{__name__}.{command}").CASES


def by_target(command):
    """A command's cases by what they are about: target to list."""
    found = {}
    for case in cases(command):
        found.setdefault(case.target, []).append(case)
    return found


def shown(name, *argv):
    """Arguments that show an image."""
    return ["info", "--output=json", *argv, name]


# Debian's build of 5.2 has neither.
NO_ZSTD = {"5.2": "built without zstd"}
NO_PARALLELS = {"5.2": "built without the parallels driver"}
