"""Rules of the repository that no compiler checks."""

import json
import re
import subprocess
import unittest
from pathlib import Path

from tests.helpers import cells

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 600
UNSAFE_FOLDERS = ("src/guest/entry/", "src/guest/hostile/", "src/host/vmm/", "src/host/trial/")
# Where a tree (`record::Value`) may be looked into or made by its keys: it is shown as it comes, or goes through whole.
# Everything else that the halves tell each other has its struct in `src/abi/src/ops`.
TREES = {
    "src/guest/crypto/src/luks.rs": "what only such images have",
    "src/guest/entry/src/machine.rs": "goes through",
    "src/guest/entry/src/main.rs": "goes through",
    "src/guest/formats/": "what only such images have",
    "src/guest/hostile/src/": "what no struct would say",
    "src/guest/image/src/": "goes through",
    "src/guest/ops/src/info.rs": "what only files have",
    "src/guest/ops/src/lib.rs": "goes through",
    "src/guest/ops/src/nested/device.rs": "goes through",
    "src/host/cli/src/commands/config.rs": "the host's own JSON",
    "src/host/cli/src/commands/doctor.rs": "the host's own JSON",
    "src/host/cli/src/commands/policy.rs": "the host's own JSON",
    "src/host/cli/src/node_name.rs": "the host's own JSON",
    "src/host/cli/src/secrets.rs": "wiped",
    "src/host/render/src/human.rs": "shown",
    "src/host/render/src/json.rs": "shown",
    "src/host/render/src/order.rs": "shown",
    "src/host/trial/src/main.rs": "names an attack",
}
TREE = re.compile(r"\buse instar_(?:abi::(?:ops::\w+, )?record|abi|image)::[^;]*\bValue\b|\brecord::Value\b")
KEY = re.compile(r'pub \w+: [^=;]+ = "([^"]+)"')
UNSAFE_CODE = re.compile(r"\bunsafe\s*(\{|extern\b|fn\b|impl\b|trait\b)|\bunsafe\(")


def sources(*endings):
    """Files of the project, relative to its root."""
    roots = [ROOT / name for name in ("src", "tests", "benches", "scripts", "packaging")]
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in endings and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT).as_posix()


def code_lines(path):
    """(number, line) without comment lines."""
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        if not line.lstrip().startswith("//"):
            yield number, line


class Tidy(unittest.TestCase):
    maxDiff = None

    def test_files_are_short(self):
        long = {p: n for p in sources(".rs", ".py") if (n := (ROOT / p).read_text().count("\n")) > LINES_MAX}
        self.assertEqual(long, {})

    def test_unsafe_only_where_it_must_be(self):
        found = [
            f"{path}:{number}"
            for path in sources(".rs")
            if not path.startswith(UNSAFE_FOLDERS)
            for number, line in code_lines(path)
            if UNSAFE_CODE.search(line.split("//")[0])
        ]
        self.assertEqual(found, [])

    def test_other_crates_forbid_unsafe(self):
        lax = []
        for manifest in sorted((ROOT / "src").rglob("Cargo.toml")):
            folder = manifest.parent.relative_to(ROOT).as_posix() + "/"
            if folder.startswith(UNSAFE_FOLDERS):
                continue
            roots = [manifest.parent / "src" / name for name in ("lib.rs", "main.rs")]
            for root in roots:
                if root.exists() and "#![forbid(unsafe_code)]" not in root.read_text():
                    lax.append(root.relative_to(ROOT).as_posix())
        self.assertEqual(lax, [])

    def test_unsafe_blocks_say_why(self):
        """A SAFETY comment in the ten lines above, or in the block's own line."""
        missing = []
        for path in sources(".rs"):
            lines = (ROOT / path).read_text().splitlines()
            for number, line in enumerate(lines):
                if re.search(r"\bunsafe\s*\{", line.split("//")[0]) and not line.lstrip().startswith("//"):
                    above = lines[max(0, number - 10) : number + 2]
                    if not any("SAFETY" in text for text in above):
                        missing.append(f"{path}:{number + 1}")
        self.assertEqual(missing, [])

    def test_nothing_is_left_for_later(self):
        word = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|\b(to" r"do|unimplem" r"ented)!\(")
        found = [
            f"{path}:{number}"
            for path in sources(".rs", ".py")
            for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
            if word.search(line)
        ]
        self.assertEqual(found, [])

    def test_every_format_is_registered_and_checks_safety(self):
        formats = ROOT / "src/guest/formats"
        registry = (formats / "registry/src/lib.rs").read_text()
        for crate in sorted(formats.iterdir()):
            if crate.name == "registry" or not (crate / "Cargo.toml").exists():
                continue
            with self.subTest(crate.name):
                self.assertIn(f"&instar_format_{crate.name}::", registry)
                text = "".join(p.read_text() for p in crate.glob("src/**/*.rs"))
                self.assertIn("fn safety(&self)", text)

    def test_no_operation_asks_for_a_format_by_name(self):
        """What sets a format apart is a row of its own table: a quirk, or an ability."""
        asks = re.compile(r"name\(\)\s*[!=]=")
        found = [
            f"{path}:{number}"
            for path in sources(".rs")
            if path.startswith("src/guest/ops/")
            for number, line in code_lines(path)
            if asks.search(line)
        ]
        self.assertEqual(found, [])

    def test_what_the_host_serves_is_asked_for(self):
        """Each operation of the ring is sent by the guest's client, each method of that client's traits has a caller, and
        each step is made by somebody: what is not is attack surface for nothing."""

        def text(*folders):
            own = (p for p in sources(".rs") if p.startswith(folders) and not p.startswith("src/guest/ops/src/nested/"))
            return "\n".join(line for path in own for _, line in code_lines(path))

        operations = re.search(r"Op: u16 \{(.*?)\n    \}", (ROOT / "src/abi/src/ring.rs").read_text(), re.DOTALL).group(
            1
        )
        client = text("src/guest/entry/")
        unsent = [op for op in re.findall(r"^ +(\w+) = \d+,", operations, re.MULTILINE) if f"Op::{op}" not in client]
        machine = (ROOT / "src/guest/image/src/machine.rs").read_text()
        parts = "Source|Sink|Opener|Workers|Report|Environment|Machine"
        traits = re.findall(rf"^pub trait (?:{parts})\b.*?^\}}", machine, re.MULTILINE | re.DOTALL)
        self.assertEqual(len(traits), parts.count("|") + 1)
        methods = re.findall(r"^    fn (\w+)", "\n".join(traits), re.MULTILINE)
        steps = re.findall(
            r"^    (\w+) \{", re.search(r"pub enum Step.*?^\}", machine, re.M | re.S).group(0), re.MULTILINE
        )
        users = text(
            "src/guest/ops/", "src/guest/image/", "src/guest/formats/", "src/guest/crypto/", "src/guest/codec/"
        )
        uncalled = [name for name in methods if not re.search(rf"\.{name}\(", users)]
        unmade = [step for step in steps if not re.search(rf"Step::{step} \{{(?! \.\.)", users)]
        self.assertEqual((unsent, uncalled, unmade), ([], [], []))
        self.assertGreater(min(len(operations), len(methods), len(steps)), 5)

    def test_a_key_of_the_contract_stands_in_one_place(self):
        """No tree is taken apart by keys where there is a struct, nor told by a key of its own."""
        used = {path for path in sources(".rs") if path.startswith(("src/host/", "src/guest/")) and "/src/" in path[9:]}
        trees = {path for path in used if TREE.search((ROOT / path).read_text())}
        self.assertEqual(sorted(path for path in trees if not path.startswith(tuple(TREES))), [])
        self.assertEqual([place for place in TREES if not any(path.startswith(place) for path in trees)], [])
        told = re.compile(r'\.emit\(\s*"')
        mine = {path for path in used if not path.startswith("src/guest/hostile/")}
        self.assertEqual(sorted(path for path in mine if told.search((ROOT / path).read_text())), [])

    def test_keys_of_the_contract_are_not_looked_up(self):
        """Even where a tree may be looked into, it is not by a key that a struct reads: `info` shows them as such."""
        keys = {
            key
            for p in sources(".rs")
            if p.startswith("src/abi/src/ops/")
            for key in KEY.findall((ROOT / p).read_text())
        }
        self.assertGreater(len(keys), 90)
        look = re.compile(r'\b(?:\w+)\.(?:u64|flag|bytes|list|text)\("([^"]+)"\)')
        found = [
            f"{path}: {key}"
            for path in sources(".rs")
            if path.startswith(("src/guest/ops/", "src/guest/entry/", "src/host/render/"))
            for key in look.findall((ROOT / path).read_text())
            if key in keys
        ]
        self.assertEqual(found, [])

    def test_readme_shows_the_cells_that_are_expected(self):
        """`scripts/cells --update` writes both."""
        self.assertEqual(cells.table_in((ROOT / "README.md").read_text()), cells.table(cells.expected()))

    def test_the_table_of_powers_names_tests_that_exist(self):
        """docs/security.md: each cell of what a guest gets that was taken over has its test."""
        text = (ROOT / "docs/security.md").read_text()
        table = text.split("<!-- powers: begin -->")[1].split("<!-- powers: end -->")[0].strip().splitlines()
        named = re.compile(r"`([a-z_]+)::([a-z0-9_]+)`")
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[2:]]
        self.assertEqual({len(row) for row in rows}, {5})
        self.assertEqual([cell for row in rows for cell in row[1:] if not named.search(cell)], [])
        files = {}
        for path in sources(".rs", ".py"):
            files.setdefault(Path(path).stem, []).append((ROOT / path).read_text())
        missing = [
            f"{module}::{name}"
            for module, name in sorted(set(named.findall(text)))
            if not any(re.search(rf"\b(fn|def) {name}\(|^    {name}: \d+,$", t, re.M) for t in files.get(module, []))
        ]
        self.assertEqual(missing, [])

    def test_host_links_nothing_of_the_guest(self):
        out = subprocess.run(
            ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        data = json.loads(out)
        packages = {package["id"]: package for package in data["packages"]}
        nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
        start = next(i for i, p in packages.items() if p["name"] == "instar" and p["source"] is None)
        seen, queue = set(), [start]
        while queue:
            current = queue.pop()
            if current in seen:
                continue
            seen.add(current)
            for dep in nodes[current]["deps"]:
                if any(kind["kind"] is None for kind in dep["dep_kinds"]):
                    queue.append(dep["pkg"])
        names = {packages[i]["name"] for i in seen}
        self.assertIn("instar-vmm", names)
        guest = str(ROOT / "src" / "guest") + "/"
        self.assertEqual([packages[i]["name"] for i in seen if packages[i]["manifest_path"].startswith(guest)], [])
        self.assertFalse(names & {"zstd-sys", "zlib-rs"}, "decoders belong in the guest")


if __name__ == "__main__":
    unittest.main()
