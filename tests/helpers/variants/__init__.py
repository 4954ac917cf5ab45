"""The images that every command is tried on: one file a format, each with its list VARIANTS, found by their names.

`tests/test_matrix.py` makes a test of each variant with each command; `scripts/cells` counts them for the table in
README.md. To add a format, add `<format>.py` here; nothing else has to be edited.
"""

import importlib
import os
import pkgutil
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.base import QEMU_IMG, QEMU_IO

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
STOCK_TIMEOUT = 60
# Commands of the matrix that change the image.
IN_PLACE = {"snapshot-taken", "bitmap-added", "amend-options", "check-repair"}
# `except_for` of an image that the stock tool refuses.
REFUSED = dict.fromkeys(
    ("compare-equal", "compare-different"), "the stock tool cannot read it, to make what to compare with"
)
UNREADABLE = {"except_for": REFUSED}
# `except_for` of an image that was not closed.
MENDED_FIRST = dict.fromkeys(
    ("snapshot-taken", "bitmap-added", "amend-options"), "the stock tool tells of what it repairs before it refuses the command"
)


@dataclass(frozen=True)
class Variant:
    """One image. Small: a few MiB of data at most; a sparse disk may be some GiB long."""

    # Unique in its format; letters, digits and dashes.
    name: str
    # As qemu-img names it.
    format: str
    # make(case, folder) builds the files in the folder (empty, the variant's own) and returns the image's name in it.
    # `case` is a Maker.
    make: Callable
    # `--object` arguments that the image needs (secrets), each as given behind `--object`.
    objects: tuple = ()
    # The image as `--image-opts` names it; `{file}` is its name. Empty: the plain name.
    image_opts: str = ""
    # The format must be given with -f: it cannot be found out.
    explicit: bool = False
    # False where the stock tool cannot read it (`reason` says why): compared with `raw` below, or by the format's own tests.
    stock: bool = True
    reason: str = ""
    # Commands of the matrix that the stock tool itself fails at (crash, wrong data): command to reason.
    except_for: dict = field(default_factory=dict)
    # Releases whose stock tool can read it (empty: all).
    versions: tuple = ()

    @property
    def unreadable(self):
        """Commands of the matrix that only read it, and that the stock tool fails at."""
        return self.except_for.keys() - IN_PLACE

    @property
    def argv(self):
        """The arguments that stand for the image, but for the name itself; see `operand`."""
        objects = [word for text in self.objects for word in ("--object", text)]
        return [*objects, *(["--image-opts"] if self.image_opts else [])]

    def operand(self, name):
        """How the image is named on the command line."""
        return self.image_opts.format(file=name) if self.image_opts else name


class Maker:
    """Builds fixtures in a folder. All that is random comes from the variant's own seed."""

    def __init__(self, folder, seed):
        self.folder = folder
        self.random = random.Random(seed)

    def path(self, name):
        """The file's full path."""
        return os.path.join(self.folder, name)

    def run(self, *argv):
        """Runs a program in the folder; it must work."""
        done = subprocess.run(
            argv, cwd=self.folder, capture_output=True, timeout=STOCK_TIMEOUT, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise AssertionError(f"{argv}: {done.stdout!r} {done.stderr!r}")
        return done.stdout.decode()

    def img(self, *argv):
        """Runs qemu-img."""
        return self.run(QEMU_IMG, *argv)

    def create(self, fmt, name, size=None, *argv):
        """`qemu-img create -f FMT`, with further arguments; returns the name."""
        self.img("create", "-q", "-f", fmt, *argv, name, *([] if size is None else [str(size)]))
        return name

    def io(self, fmt, name, *commands, argv=()):
        """Runs qemu-io with those commands; returns the name."""
        words = [word for command in commands for word in ("-c", command)]
        self.run(QEMU_IO, *(["-f", fmt] if fmt else []), *argv, *words, name)
        return name

    def write(self, name, data, offset=0):
        """Writes bytes into a file, made if it is not there."""
        with open(self.path(name), "r+b" if os.path.exists(self.path(name)) else "wb") as file:
            file.seek(offset)
            file.write(data)
        return name

    def raw(self, name, size, pieces=12, tail=0):
        """A raw file of holes, zeroes, repeated text and random bytes, at most some hundred KiB of them."""
        with open(self.path(name), "wb") as file:
            for i in range(pieces):
                length = self.random.choice((512, 1000, 4096, 30000, 65536, 65536, 100000))
                file.seek(self.random.randrange(max(1, size - length)) if i else 0)
                word = self.random.randbytes(self.random.randrange(1, 40))
                text = (word * (length // len(word) + 1))[:length]
                file.write(self.random.choice((bytes(length), self.random.randbytes(length), text))[:size])
            file.truncate(size + tail)
        return name

    def convert(self, fmt, name, size, *argv, pieces=12):
        """An image of that format with the content that `raw` makes; the raw file is taken away again."""
        source = self.raw(f"{name}.source", size, pieces)
        self.img("convert", "-f", "raw", "-O", fmt, *argv, source, name)
        os.unlink(self.path(source))
        return name


def formats():
    """The formats that have a list, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def variants(fmt=None):
    """All variants, or those of one format's list, in the order of the lists."""
    found = []
    for name in [fmt] if fmt else formats():
        found += importlib.import_module(f"{__name__}.{name}").VARIANTS
    return found
