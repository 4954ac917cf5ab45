"""File systems of several kinds, mounted for a test. All of it needs root."""

import contextlib
import subprocess
from pathlib import Path

# Bytes: less the makers of the file systems do not take.
SIZES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20}
MAKERS = {"ext4": ("mke2fs", "-q", "-F", "-t", "ext4"), "xfs": ("mkfs.xfs", "-q", "-f"), "btrfs": ("mkfs.btrfs", "-q", "-f")}
KINDS = ("tmpfs", *SIZES, "overlay")


def run(*argv):
    """Runs a tool that must work; returns what it prints."""
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def mounted(kind, folder, size=None):
    """A new file system of that kind in a new folder below `folder`."""
    place = Path(folder, f"on-{kind}")
    place.mkdir()
    argv = [place]
    if kind == "tmpfs":
        argv = ["-t", "tmpfs", "-o", f"size={size or 64 << 20}", "tmpfs", place]
    elif kind == "overlay":
        parts = {name: Path(folder, name) for name in ("lower", "upper", "work")}
        for part in parts.values():
            part.mkdir()
        options = ",".join(f"{name}dir={part}" for name, part in parts.items())
        argv = ["-t", "overlay", "-o", options, "overlay", place]
    else:
        image = Path(folder, f"image-{kind}")
        with open(image, "wb") as file:
            file.truncate(size or SIZES[kind])
        run(*MAKERS[kind], image)
        argv = ["-o", "loop", image, place]
    run("mount", *argv)
    try:
        yield place
    finally:
        run("umount", "-l", place)


@contextlib.contextmanager
def loop_device(path, *options):
    """The name of a loop device on the file."""
    name = run("losetup", "-f", "--show", *options, path)
    try:
        yield name
    finally:
        run("losetup", "-d", name)
