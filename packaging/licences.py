#!/usr/bin/env python3
"""What the program is linked from: THIRD-PARTY.txt with every licence, and a list of parts (CycloneDX 1.5).

Usage: licences.py VERSION FOLDER. The time in the list is SOURCE_DATE_EPOCH.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"
# The two halves: the guest is built on its own, and lies in the host as data.
HALVES = (["-p", "instar"], ["-p", "instar-entry", "--features", "elf"])
TEXT = re.compile(r"(un)?licen[cs]e|copying|copyright|notice", re.IGNORECASE)
# Sources of others inside a crate, whose licence lies with them.
INSIDE = {"zstd-sys": ["zstd/LICENSE"]}


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def linked():
    """(name, version) of each crate whose code is in the program; what only runs in the compiler is not."""
    found = set()
    for half in HALVES:
        tree = run(
            "cargo", "tree", "--locked", "--offline", *half, "--edges=normal,no-proc-macro", f"--target={TARGET}",
            "--prefix=none", "--format={p}",
        )  # fmt: skip
        found |= {(name, version) for name, version in re.findall(r"^(\S+) v(\S+)", tree, re.MULTILINE)}
    return found


def texts(package):
    """The licences that lie in the source of a crate."""
    folder = Path(package["manifest_path"]).parent
    top = [path for path in sorted(folder.iterdir()) if TEXT.match(path.name)]
    files = [file for path in top for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files += [folder / name for name in INSIDE.get(package["name"], [])]
    if not files:
        sys.exit(f"licences: no licence lies in {folder}")
    return [(str(file.relative_to(folder)), file.read_text()) for file in files]


def toolchain():
    """What the linker adds: not a crate, and not in Cargo.lock."""
    sysroot = Path(run("rustc", "--print", "sysroot")) / "share/doc/rust"
    gcc = run("cc", "-dumpversion").split(".")[0]
    rows = [
        ("rust-std", run("rustc", "--version").split()[1], "MIT OR Apache-2.0", sysroot / "COPYRIGHT-library.html"),
        ("glibc", run("getconf", "GNU_LIBC_VERSION").split()[1], "LGPL-2.1-or-later", "/usr/share/doc/libc6-dev/copyright"),
        ("libgcc", gcc, "GPL-3.0-or-later WITH GCC-exception-3.1", f"/usr/share/doc/libgcc-{gcc}-dev/copyright"),
    ]
    for name, version, licence, text in rows:
        if not Path(text).exists():
            sys.exit(f"licences: the licence of {name} is not at {text}")
        yield {"name": name, "version": version, "licence": licence, "texts": [(Path(text).name, Path(text).read_text())]}


def crates():
    data = json.loads(run("cargo", "metadata", "--format-version=1", "--locked", "--offline", f"--filter-platform={TARGET}"))
    sums = {
        (package["name"], package["version"]): package["checksum"]
        for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
        if "checksum" in package
    }
    wanted = linked()
    for package in sorted(data["packages"], key=lambda package: (package["name"], package["version"])):
        key = (package["name"], package["version"])
        if package["source"] and key in wanted:
            licence = package["license"].replace("/", " OR ")
            row = {"name": key[0], "version": key[1], "licence": licence, "texts": texts(package)}
            yield row | {"purl": f"pkg:cargo/{key[0]}@{key[1].replace('+', '%2B')}", "sum": sums[key]}


def notices(parts):
    """Each text once, below the names of all that lie under it."""
    lines = ["instar is linked from the following. Each licence is at the end, by its number.", ""]
    numbers = {}
    for part in parts:
        own = [numbers.setdefault(text.strip(), len(numbers) + 1) for _, text in part["texts"]]
        of = ", ".join(str(number) for number in sorted(set(own)))
        lines.append(f"{part['name']} {part['version']}: {part['licence']} (texts {of})")
    for text, number in numbers.items():
        lines += ["", "=" * 100, f"Text {number}", "=" * 100, "", text]
    return "\n".join(lines) + "\n"


def component(part):
    row = {"type": "library", "name": part["name"], "version": part["version"]}
    row["bom-ref"] = part.get("purl", f"{part['name']}@{part['version']}")
    row["licenses"] = [{"expression": part["licence"]}]
    if "purl" in part:
        row |= {"purl": part["purl"], "hashes": [{"alg": "SHA-256", "content": part["sum"]}]}
    return row


def bill(version, parts):
    time = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.UTC)
    program = {"type": "application", "bom-ref": "instar", "name": "instar", "version": version}
    program["licenses"] = [{"license": {"id": "Apache-2.0"}}]
    components = [component(part) for part in parts]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": program},
        "components": components,
        "dependencies": [{"ref": "instar", "dependsOn": [row["bom-ref"] for row in components]}],
    }


def main():
    version, folder = sys.argv[1], Path(sys.argv[2])
    parts = [*crates(), *toolchain()]
    (folder / "THIRD-PARTY.txt").write_text(notices(parts))
    (folder / "instar.cdx.json").write_text(json.dumps(bill(version, parts), indent=1) + "\n")


if __name__ == "__main__":
    main()
