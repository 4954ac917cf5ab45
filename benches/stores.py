"""Where the images lie that are measured: memory, storage that answers late, a disk past the page cache, file systems that
share blocks. Each is a folder for the images, one for the commands, and what is done before each run."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
HERE = Path(__file__).resolve().parent


@dataclass
class Store:
    """A place. `images`: the folder in which they are made; `folder`: in which the commands run."""

    images: Path
    folder: Path
    #: What was read is forgotten before each run.
    cold: bool = False

    def before_run(self):
        for path in self.images.iterdir() if self.cold else ():
            file = os.open(self.folder / path.name, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


@contextlib.contextmanager
def memory(size):
    """Files in memory, as far as there is room."""
    room = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 5 * size else None
    with tempfile.TemporaryDirectory(prefix="instar-bench.", dir=room) as name:
        yield Store(Path(name), Path(name))


@contextlib.contextmanager
def disk(_size):
    """The disk that the system lies on, for files opened with O_DIRECT."""
    with tempfile.TemporaryDirectory(prefix="instar-bench.", dir="/var/tmp") as name:
        yield Store(Path(name), Path(name))


@contextlib.contextmanager
def late(milliseconds, size):
    """Each read and write takes so long (latency.py), and nothing is in the page cache."""
    with memory(size) as below, tempfile.TemporaryDirectory(prefix="instar-bench.") as mount:
        argv = [sys.executable, HERE / "latency.py", below.folder, mount, str(milliseconds)]
        server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        try:
            if server.stdout.readline() != "ready\n":
                raise OSError("no FUSE")
            yield Store(below.folder, Path(mount), cold=True)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


@contextlib.contextmanager
def formatted(kind, options, size):
    """A new file system in a file in memory."""
    with memory(size) as below, tempfile.TemporaryDirectory(prefix="instar-bench.") as mount:
        image = below.folder / "disk"
        with open(image, "wb") as file:
            file.truncate(6 * size + 512 * MIB)
        subprocess.run([f"mkfs.{kind}", "-q", *options, image], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            yield Store(Path(mount), Path(mount))
        finally:
            subprocess.run(["umount", mount], check=True)


#: By name, with the part of the usual size that their image has: what is slow takes long.
STORES = {
    "memory": (memory, 1),
    "3 ms": (lambda size: late(3, size), 4),
    "20 ms": (lambda size: late(20, size), 8),
    "direct": (disk, 2),
    "xfs": (lambda size: formatted("xfs", ["-m", "reflink=1"], size), 2),
    "btrfs": (lambda size: formatted("btrfs", [], size), 2),
}


def usable():
    """Those that the machine allows; for the others, why not."""
    root = os.geteuid() == 0
    for name in STORES:
        why = None
        if name.endswith("ms") and not (root and os.path.exists("/dev/fuse")):
            why = "needs root and /dev/fuse"
        if name in ("xfs", "btrfs") and not (root and shutil.which(f"mkfs.{name}")):
            why = f"needs root and mkfs.{name}"
        yield name, why
