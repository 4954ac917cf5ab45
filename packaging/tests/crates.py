"""The crates: packed, and installed by cargo outside of the tree, without a network, from a folder of crates."""

import hashlib
import json
import os
import shutil
import tempfile
import unittest
from pathlib import Path

from packaging.tests.packages import ROOT, environment, run

REPLACED = """
[source.crates-io]
replace-with = "folder"
[source.folder]
directory = "{}"
"""


class TestCrates(unittest.TestCase):
    """As somebody has it who mirrors crates.io."""

    def setUp(self):
        self.tmp = Path(tempfile.mkdtemp(prefix="instar-crates-"))
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)

    def mirror(self):
        """A folder of all crates: other people's, and ours as they are packed."""
        folder, packed = self.tmp / "mirror", self.tmp / "packed"
        run(ROOT / "packaging/crates.py", packed, "--no-verify")
        run("cargo", "vendor", "--quiet", "--locked", "--versioned-dirs", folder, cwd=ROOT)
        for path in packed.iterdir():
            run("tar", "-C", folder, "-xf", path)
            sums = {"files": {}, "package": hashlib.sha256(path.read_bytes()).hexdigest()}
            (folder / path.stem / ".cargo-checksum.json").write_text(json.dumps(sums))
        return folder

    def test_installed_from_a_folder_without_a_network(self):
        folder = self.mirror()
        (own,) = folder.glob("instar-[0-9]*")
        alone = self.tmp / "alone"
        shutil.copytree(own, alone)
        home = self.tmp / "home"
        home.mkdir()
        (home / "config.toml").write_text(REPLACED.format(folder))
        names = ["--user", "--map-root-user"] if os.getuid() else []
        # rustup looks for its toolchains where the caller's are.
        rustup = os.environ.get("RUSTUP_HOME", str(Path.home() / ".rustup"))
        tools = f"{run('rustc', '--print', 'sysroot', cwd=ROOT).strip()}/bin:{os.environ['PATH']}"
        run(
            *["unshare", "--net", *names, "cargo", "install", "--quiet", "--locked", "--path", alone],
            *["--root", self.tmp / "installed", "--target-dir", self.tmp / "target"],
            cwd=self.tmp,
            env=environment(
                CARGO_HOME=str(home),
                RUSTUP_HOME=rustup,
                PATH=tools,
                **{key: value for key, value in os.environ.items() if key == "INSTAR_QUICK_GUEST"},
            ),
        )
        disk, back = self.tmp / "disk.raw", self.tmp / "back.raw"
        disk.write_bytes(bytes(range(256)) * 4096)
        program = self.tmp / "installed/bin/instar"
        run(program, "convert", "-O", "qcow2", "-c", disk, self.tmp / "disk.qcow2", env=environment())
        run(program, "convert", "-O", "raw", self.tmp / "disk.qcow2", back, env=environment())
        self.assertEqual(back.read_bytes(), disk.read_bytes())
