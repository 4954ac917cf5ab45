"""What ARCHITECTURE.md says of the crates: what they depend on, and what it takes to add a format."""

import json
import os
import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a tree that builds consists of.
TREE = ("Cargo.toml", "Cargo.lock", "src", "fuzz")
# A new format is an old one by another name: whatever the traits are, this one implements them.
OLD, NEW = "cloop", "tiny"

LISTED = """//! A format that was added.

use instar_image::Probe;
use instar_registry::{by_name, formats, probe};

#[test]
fn it_is_listed_and_found() {
    assert!(formats().iter().any(|format| format.name() == "tiny"));
    assert!(by_name("tiny").is_some() && by_name("cloop").is_some());
    for name in ["tiny", "cloop"] {
        let head = format!("#!/bin/sh\\n#V2.0 Format\\nmodprobe {name} file=$0 && mount -r -t iso9660 /dev/{name} $1\\n");
        let found = probe(&Probe { head: head.as_bytes(), len: 1 << 20, name: b"disk" });
        assert_eq!(found.name(), name);
    }
}
"""


class TestDependencies(unittest.TestCase):
    """The table of ARCHITECTURE.md."""

    def row(self, manifest):
        """The row of a crate, by its folder in the tree."""
        folder = str(Path(manifest).parent.relative_to(ROOT))
        is_format = folder.startswith("src/guest/formats/") and not folder.endswith("/registry")
        return "src/guest/formats/<name>" if is_format else folder

    def short(self, row):
        return "formats" if row.endswith("/<name>") else row.split("/")[-1]

    def test_the_table_is_what_cargo_says(self):
        argv = ["cargo", "metadata", "--format-version=1", "--locked", "--no-deps"]
        packages = json.loads(subprocess.run(argv, cwd=ROOT, capture_output=True, check=True).stdout)["packages"]
        rows = {package["name"]: self.row(package["manifest_path"]) for package in packages}
        found = {row: set() for row in rows.values()}
        for package in packages:
            needs = [d["name"] for d in package["dependencies"] if d["kind"] is None and d["name"] in rows]
            found[rows[package["name"]]] |= {self.short(rows[name]) for name in needs}
        line = re.compile(r"^\| `([^`]+)` \| .* \| (nothing|(?:`[a-z]+`(?:, )?)+) \|$", re.MULTILINE)
        told = line.findall((ROOT / "ARCHITECTURE.md").read_text())
        self.assertEqual({row: set(re.findall("`([a-z]+)`", needs)) for row, needs in told}, found)


class TestAddedFormat(unittest.TestCase):
    """A format is added in a copy of the tree, in the places that "To add" names and in no other."""

    def setUp(self):
        self.target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        paths = [path for name in TREE for path in (ROOT / name, *(ROOT / name).rglob("*")) if path.is_file()]
        left_out = {"target", "corpus", "artifacts"}
        names = [path.relative_to(ROOT) for path in paths]
        self.files = {str(name): (ROOT / name).read_bytes() for name in names if not left_out & set(name.parts)}

    def replace(self, path, old, new):
        content = self.files[path].decode()
        self.assertEqual(content.count(old), 1, f"{path}: {old}")
        self.files[path] = content.replace(old, new).encode()

    def written(self):
        """The copy. It stays there, and what is the same keeps its time: what has not changed is not built again."""
        tree = self.target / "added-format"
        for path in [path for path in tree.rglob("*") if path.is_file()]:
            name = path.relative_to(tree)
            if str(name) not in self.files and name.parts[0] != "target":
                path.unlink()
        for name, content in self.files.items():
            path = tree / name
            if not path.exists() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return tree

    def renamed(self, text):
        return text.replace(OLD, NEW).replace(OLD.title(), NEW.title())

    def test_a_folder_and_its_lines_are_all(self):
        formats = "src/guest/formats"
        folder = [name for name in self.files if name.startswith(f"{formats}/{OLD}/")]
        for name in folder:
            self.files[self.renamed(name)] = self.renamed(self.files[name].decode()).encode()
        listed = f"    &instar_format_{OLD}::{OLD.title()},\n"
        self.replace(f"{formats}/registry/src/lib.rs", listed, listed + self.renamed(listed))
        needed = f'instar-format-{OLD} = {{ path = "../{OLD}" }}\n'
        self.replace(f"{formats}/registry/Cargo.toml", needed, needed + self.renamed(needed))
        known = f'    Format::read("{OLD}"),\n'
        self.replace("src/abi/src/drivers.rs", known, known + self.renamed(known))
        self.files[f"{formats}/registry/tests/added.rs"] = LISTED.encode()
        # Built once and hardly run: nothing is optimised. To share the folder of the tree itself would not do: cargo tells
        # crates of two trees apart by where they lie in them.
        manifest = self.files["Cargo.toml"].decode()
        self.files["Cargo.toml"] = re.sub(r"\[profile\.dev[^]]*\]\n(?:[^\[\n].*\n)+", "", manifest).encode()
        tree = self.written()
        done = subprocess.run(
            # Its own tests open images of it.
            ["cargo", "test", "--offline", "-p", "instar-registry", "-p", f"instar-format-{NEW}"],
            cwd=tree,
            env={**os.environ, "CARGO_TARGET_DIR": str(tree / "target"), "CARGO_PROFILE_DEV_DEBUG": "false"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        for name in ("it_is_listed_and_found", "blocks_are_found_and_inflated", "the_host_knows_the_same_names"):
            self.assertIn(f"test {name} ... ok", done.stdout.replace("tests::", ""))


if __name__ == "__main__":
    unittest.main()
