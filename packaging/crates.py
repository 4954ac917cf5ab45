#!/usr/bin/env python3
"""Packs the program as crates, FOLDER/*.crate: crates.py FOLDER [ARGUMENT OF cargo package...]

The crate of the vmm builds the guest, whose crates are no dependencies of it as cargo sees them: its package brings them
along, with a workspace and a lock file of their own. What is packed is HEAD. Nothing is published.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a user installs, and what that needs.
CRATES = ("instar-abi", "instar-render", "instar-vmm", "instar")
GUEST = ("src/abi", "src/guest/image", "src/guest/codec", "src/guest/crypto", "src/guest/formats", "src/guest/ops", "src/guest/entry")
# Cargo leaves folders out that have a manifest of their own; build.rs takes the ending away again.
PACKED = ".packed"


def head(place):
    """The commit's tree."""
    archive = subprocess.Popen(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE)
    with tarfile.open(fileobj=archive.stdout, mode="r|") as tree:
        tree.extractall(place, filter="data")
    if archive.wait():
        raise SystemExit("crates: git archive failed")


def guest_workspace(tree, place):
    """The guest's crates without their tests, a manifest over them, and the part of the lock file that they need."""
    for folder in GUEST:
        shutil.copytree(tree / folder, place / folder, ignore=shutil.ignore_patterns("tests", "tests.rs"))
    for manifest in place.rglob("Cargo.toml"):
        text = manifest.read_text()
        manifest.write_text(re.sub(r"\[dev-dependencies\]\n(?:[^\[\n].*\n)*\n?", "", text))
    text = (tree / "Cargo.toml").read_text()
    members = ", ".join(f'"{folder}{"/*" if folder.endswith("formats") else ""}"' for folder in GUEST)
    text = re.sub(r"members = \[.*?\]", f"members = [{members}]", text, count=1, flags=re.DOTALL)
    (place / "Cargo.toml").write_text(text)
    shutil.copy(tree / "Cargo.lock", place)
    subprocess.run(["cargo", "metadata", "--format-version=1", "--offline"], cwd=place, check=True, stdout=subprocess.DEVNULL)
    for manifest in list(place.rglob("Cargo.toml")):
        manifest.rename(manifest.with_name(manifest.name + PACKED))


def main():
    out, arguments = Path(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="instar-crates-") as folder:
        tree = Path(folder) / "tree"
        head(tree)
        # Not below the tree: cargo would take it for a part of that workspace.
        guest_workspace(tree, Path(folder) / "guest")
        shutil.move(Path(folder) / "guest", tree / "src/host/vmm/guest")
        manifest = tree / "Cargo.toml"
        manifest.write_text(manifest.read_text().replace("publish = false\n", "publish = true\n"))
        for folder in ("abi", "host/render", "host/vmm", "host/cli"):
            shutil.copy(tree / "LICENSE", tree / "src" / folder)
        named = [part for crate in CRATES for part in ("-p", crate)]
        subprocess.run(["cargo", "package", "--locked", *named, *arguments], cwd=tree, check=True)
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted((tree / "target/package").glob("*.crate")):
            shutil.copy(path, out)
            print(f"{path.stat().st_size:>9} {path.name}")


if __name__ == "__main__":
    main()
