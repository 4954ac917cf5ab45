"""Random chains, random operations on them with both tools, and what must be equal afterwards. A seed says it all."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.base import QEMU_IMG, QEMU_IO, qemu_img_version
from tests.helpers.cells import MISSING

MIB = 1 << 20
CLUSTERS = ("512", "1k", "4k", "64k", "64k", "64k", "256k", "2M")
CHANGES = ("rebase", "commit", "resize")
OPERATIONS = ("rebase", "commit", "resize", "convert", "info", "check", "map", "compare", "measure")
QCOW2 = ("qcow2", "qcow2", "raw")
# What else the stock tool puts below an overlay, and the formats that its overlays can have.
BELOW = ("qcow2", "raw", "qed", "qcow", "vmdk", "vpc", "vhdx", "vdi", "parallels")
OVERLAYS = ("qcow2", "qcow2", "qed")
OPTIONS = {
    "qed": ("", "cluster_size=4k,table_size=2", "cluster_size=256k"),
    "vmdk": ("", "", "zeroed_grain=on", "adapter_type=lsilogic", "subformat=monolithicFlat"),
    "vpc": ("force_size=on", "force_size=on,subformat=fixed"),
    "vhdx": ("block_size=1M,log_size=1M", "block_size=2M", "subformat=fixed"),
    "vdi": ("", "static=on"),
    "parallels": ("", "cluster_size=64k", "cluster_size=512k"),
    "raw": ("",),
    "qcow": ("",),
}


def run(argv, cwd, env=None, timeout=120):
    """(exit status, output, errors)"""
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C", **(env or {})}
    done = subprocess.run(
        [str(a) for a in argv], cwd=cwd, capture_output=True, timeout=timeout, env=environment, check=False
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class StockFailure(Exception):
    """The stock tools cannot read what they have written (QED, at times)."""


@dataclass
class Chain:
    """Images made so far: name -> format; `top` stands on the others."""

    rng: random.Random
    cwd: str
    formats: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)
    below: dict = field(default_factory=dict)
    # The formats that may lie below; overlays are of every format that has them then.
    mixed: tuple = ()

    def stock(self, *argv):
        """A stock tool that must work."""
        status, out, err = run(argv, self.cwd)
        if status:
            raise StockFailure(f"{argv}: {out}{err}")

    def size(self):
        """Of a disk: at times odd."""
        odd = 3 * MIB + 512 * self.rng.randrange(300)
        return self.rng.choice((MIB, 2 * MIB, 4 * MIB, odd, 8 * MIB, 512 * self.rng.randint(1, 5000)))

    def options(self):
        """`-o` of a qcow2."""
        rng, chosen = self.rng, []
        if rng.random() < 0.15:
            return f"compat=0.10,cluster_size={rng.choice(CLUSTERS)}"
        if rng.random() < 0.3:
            chosen += ["extended_l2=on", "cluster_size=" + rng.choice(("16k", "64k", "128k", "2M"))]
        else:
            chosen.append("cluster_size=" + rng.choice(CLUSTERS))
        if rng.random() < 0.4:
            chosen.append(f"refcount_bits={rng.choice((1, 2, 4, 8, 16, 32, 64))}")
        for option in ("compression_type=zstd", "lazy_refcounts=on"):
            if rng.random() < 0.2:
                chosen.append(option)
        return ",".join(chosen)

    def write(self, name):
        """Data, zeroes, discarded and compressed clusters here and there."""
        rng, size, commands = self.rng, self.sizes[name], []
        for _ in range(rng.randrange(7)):
            at = rng.randrange(max(size // 512, 1)) * 512
            at = at // 65536 * 65536 if rng.random() < 0.5 else at
            length = min(rng.choice((512, 4096, 65536, 200 * 1024, MIB)), size - at)
            kind, pattern = rng.random(), rng.randint(1, 255)
            if kind < 0.6:
                commands.append(f"write -P {pattern} {at} {length}")
            elif kind < 0.85:
                commands.append(f"write -z {'-u ' if kind > 0.75 else ''}{at} {length}")
            elif self.formats[name] == "qcow2":
                at = at // 65536 * 65536
                commands.append(f"write -c -P {pattern} {at} {min(65536, size - at)}")
        if commands:
            self.io(name, commands)

    def io(self, name, commands):
        """Carries them out. Writes that the image cannot take (compressed, over a data file) simply fail."""
        run([QEMU_IO, "-f", self.formats[name], *(a for c in commands for a in ("-c", c)), name], self.cwd)

    def snapshot(self, name):
        """At times, and data after it."""
        if self.formats[name] == "qcow2" and self.rng.random() < 0.3:
            run([QEMU_IMG, "snapshot", "-c", f"s{self.rng.randrange(10)}", name], self.cwd)
            self.write(name)

    def make(self, name, below=None, formats=("qcow2",)):
        """One image with content."""
        fmt = self.rng.choice(formats)
        self.formats[name], self.sizes[name], self.below[name] = fmt, self.size(), below
        argv = [QEMU_IMG, "create", "-q", "-f", fmt]
        if fmt == "qcow2":
            argv += ["-o", self.options()]
        elif fmt not in OVERLAYS:
            self.below[name] = below = None
        if self.mixed and (options := self.rng.choice(OPTIONS.get(fmt, ("",)))):
            argv += ["-o", options]
        if below:
            argv += ["-b", below, "-F", self.formats[below]]
        self.stock(*argv, name, self.sizes[name])
        self.write(name)
        self.snapshot(name)

    def build(self):
        """base, perhaps mid, top, and new (perhaps on base too)."""
        bases, overlays = (self.mixed, OVERLAYS) if self.mixed else (QCOW2, ("qcow2",))
        self.make("base", formats=bases)
        below = "base"
        if self.rng.random() < 0.5:
            self.make("mid", below, overlays)
            below = "mid"
        self.make("top", below if self.rng.random() < 0.92 else None, overlays)
        self.make("new", self.rng.choice((None, "base")), bases)

    def target(self):
        """What is converted into."""
        return self.rng.choice(self.mixed if self.mixed else ("raw", "qcow2"))

    def operation(self, kind):
        """Arguments of a random operation of that kind."""
        rng = self.rng
        if kind == "rebase":
            new = rng.choice(("new", "new", "base", ""))
            argv = ["rebase", *(["-c"] if rng.random() < 0.2 else []), *(["-u"] if rng.random() < 0.05 else [])]
            return [*argv, "-b", new, *(["-F", self.formats[new]] if new else []), "top"]
        if kind == "commit":
            return ["commit", *rng.choice(([], [], ["-d"], ["-b", "base"])), "top"]
        if kind == "resize":
            mode = rng.choice([None] * 5 + ["off", "metadata", "falloc", "full"])
            name = rng.choice(("top", "top", "base")) if self.mixed else "top"
            argv = ["resize", "-f", self.formats[name], *([f"--preallocation={mode}"] if mode else [])]
            size = str(self.size() if rng.random() < 0.9 else 64 * MIB)
            return [*argv, *(["--shrink"] if rng.random() < 0.8 else []), name, rng.choice(("", "", "+", "-")) + size]
        name = rng.choice(("top", "new", "base"))
        simple = {
            "info": ["info", *rng.choice(([], ["--output=json"], ["--backing-chain"])), name],
            "check": ["check", *rng.choice(([], ["--output=json"])), name if self.mixed else "top"],
            "map": ["map", *rng.choice(([], ["--output=json"])), "-f", self.formats[name], name],
            "compare": ["compare", "-f", self.formats["top"], "-F", self.formats[name], "top", name],
            "measure": ["measure", "-O", rng.choice(("raw", "qcow2")), "-f", self.formats[name], name],
            "convert": ["convert", "-f", self.formats["top"], "-O", self.target(), "top", "converted"],
        }
        return simple[kind]


UNTOLD = re.compile(r"disk size|file length|\bcid: ")


class Differing(AssertionError):
    """The tools disagree; the text says where."""


def shown(name, fmt, cwd, *argv):
    """Exit status and guest-visible bytes (or the error)."""
    status, _, err = run([QEMU_IMG, "convert", "-f", fmt, *argv, "-O", "raw", name, "content.out"], cwd)
    path = Path(cwd, "content.out")
    found = path.read_bytes() if status == 0 else err.encode()
    path.unlink(missing_ok=True)
    return status, found


def content(name, fmt, cwd, *argv):
    """The same as exit status, length and digest: what a report can print."""
    status, found = shown(name, fmt, cwd, *argv)
    return status, len(found), hashlib.sha256(found).hexdigest()


def described(name, fmt, cwd):
    """`info` without what depends on where in the file things were put, and what is drawn at random."""
    lines = run([QEMU_IMG, "info", "-f", fmt, name], cwd)[1].splitlines()
    return [line for line in lines if not UNTOLD.search(line)]


def shows_stale_bytes(expected, actual, end):
    """What a resize brings into sight is zeroes in ours; stock 10.0.2 shows what the last cluster's tail held."""
    (status, theirs), (other, ours) = expected, actual
    return status == other == 0 and ours[:end] == theirs[:end] and len(ours) == len(theirs) and not any(ours[end:])


def assert_equal_images(names, theirs, ours, what, end):
    """Content of each image and of each of its snapshots, `check`, `info`. `end`: `top` was never shorter."""
    for name, fmt in names.items():
        expected, actual = shown(name, fmt, theirs), shown(name, fmt, ours)
        if actual != expected and not (name == "top" and shows_stale_bytes(expected, actual, end)):
            raise Differing(f"{what}: {name} shows something else")
        checked = run([QEMU_IMG, "check", "-f", fmt, name], ours)
        status, out, err = checked
        # A fixed VHD whose format is not named is taken for raw, by both: a commit that grows it overwrites its footer.
        if status not in (0, CANNOT_CHECK) and checked != run([QEMU_IMG, "check", "-f", fmt, name], theirs):
            raise Differing(f"{what}: check of {name}: {out}{err}")
        if fmt == "qcow2":
            for line in run([QEMU_IMG, "snapshot", "-l", name], ours)[1].splitlines()[2:]:
                tag = line.split()[1]
                if content(name, fmt, theirs, "-l", tag) != content(name, fmt, ours, "-l", tag):
                    raise Differing(f"{what}: snapshot {tag} of {name} shows something else")
        if described(name, fmt, theirs) != described(name, fmt, ours):
            raise Differing(f"{what}: info of {name}: {described(name, fmt, theirs)} {described(name, fmt, ours)}")


# Formats that the stock tool does not commit into.
CANNOT_COMMIT = re.compile(r"Block job failed: Operation not supported|does not support reopening files")
# Exit status of `check` for a format without one.
CANNOT_CHECK = 63


class Missing(Exception):
    """The program says that it cannot do that yet."""


def one(seed, binary, isolation, kinds=OPERATIONS, most=1, mixed=()):
    """Makes a chain, lets both tools do 1 to `most` operations on copies of it, and compares.

    Returns 1 where the stock tool died or lost data (then only ours is judged: it must work and keep the content), else 0.
    """
    rng = random.Random(seed)
    env = {"INSTAR_ISOLATION": isolation, "INSTAR_QEMU_VERSION": qemu_img_version()}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="instar-chain-", dir=memory) as top:
        fixture, theirs, ours = (os.path.join(top, n) for n in ("fixture", "theirs", "ours"))
        os.mkdir(fixture)
        # By the stock tool's name every text is the stock tool's.
        as_stock = os.path.join(top, "qemu-img")
        os.symlink(binary, as_stock)
        chain = Chain(rng, fixture, mixed=mixed)
        try:
            chain.build()
        except StockFailure:
            return 1
        checks = (run([QEMU_IMG, "check", "-f", fmt, name], fixture) for name, fmt in chain.formats.items())
        if any(status not in (0, CANNOT_CHECK) for status, _, _ in checks):
            # With 1-bit refcounts and snapshots the stock tools leave leaks and call images of their own corrupt.
            return 1
        shutil.copytree(fixture, theirs)
        shutil.copytree(fixture, ours)
        done, end = [], chain.sizes["top"]
        for _ in range(rng.randint(1, most)):
            argv = chain.operation(rng.choice(kinds))
            done.append(" ".join(argv))
            before = content("top", chain.formats["top"], ours)
            expected = run([QEMU_IMG, *argv], theirs)
            actual = run([as_stock, *argv], ours, env)
            if MISSING.search(actual[2]):
                raise Missing(f"{done[-1]}: {actual[2]}")
            safe = argv[0] == "commit" or (argv[0] == "rebase" and "-u" not in argv)
            if safe and content("top", chain.formats["top"], ours) != before:
                raise Differing(f"{done}: top shows something else than before: {actual}")
            if expected[0] < 0 or (safe and content("top", chain.formats["top"], theirs) != before):
                # The stock tool died, or lost data (10.0.2 does, with a version 2 overlay that had no backing file).
                if actual[0]:
                    raise Differing(f"{done}: the stock tool failed; ours: {actual}")
                return 1
            if argv[0] in ("info", "check", "map", "measure") and any(d.startswith(CHANGES) for d in done):
                # Where in the file things were put is each tool's own.
                actual, expected = (actual[0], actual[2]), (expected[0], expected[2])
            if argv[0] == "commit" and expected[0] and CANNOT_COMMIT.search(expected[2]):
                # Ours commits into every format that it writes.
                return 1
            if actual != expected:
                raise Differing(f"{done}: {expected} but {actual}")
            end = min(end, content("top", chain.formats["top"], ours)[1])
        assert_equal_images(chain.formats, theirs, ours, "; ".join(done), end)
    return 0
