"""What the tests of the packages share: the packages, a later version of the Debian ones, and a stock tool's stand-in."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*argv, status=0, **kwargs):
    """Standard output; anything but the expected exit status fails."""
    done = subprocess.run(
        [str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, **kwargs
    )
    if done.returncode != status:
        raise AssertionError(f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@functools.cache
def made():
    """The folder of packages of the program that was built."""
    folder = Path(tempfile.mkdtemp(prefix="instar-packages-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run(ROOT / "packaging/build", folder / "packages")
    return folder / "packages"


class PackageTest(unittest.TestCase):
    """The packages are in `packages`; `deb` and `newer` map a Debian package's name to its file."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tmp = Path(tempfile.mkdtemp(prefix="instar-packages-"))
        cls.addClassCleanup(shutil.rmtree, cls.tmp, ignore_errors=True)
        cls.packages = made()
        cls.deb = {p.name.split("_")[0]: p for p in cls.packages.glob("*.deb")}
        cls.newer = {name: cls.repacked(path) for name, path in cls.deb.items()}
        cls.version = run("dpkg-deb", "--field", cls.deb["instar"], "Version").strip()

    @classmethod
    def repacked(cls, path):
        """The same package as a later version."""
        tree = cls.tmp / "newer" / path.stem
        tree.parent.mkdir(exist_ok=True)
        run("dpkg-deb", "--raw-extract", path, tree)
        control = tree / "DEBIAN/control"
        version = run("dpkg-deb", "--field", path, "Version").strip()
        control.write_text(control.read_text().replace(version, "99-1"))
        return cls.built(tree, tree.with_suffix(".deb"))

    @staticmethod
    def built(tree, path):
        run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, path)
        return path


def environment(**more):
    """Nothing of the caller's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("INSTAR_")}
    return {**kept, "LC_ALL": "C", **more}
