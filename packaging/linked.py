#!/usr/bin/env python3
"""What is linked into the program: a bill of materials, the licences, and a list for `cargo audit bin`.

Usage: linked.py FOLDER VERSION EPOCH: writes instar.cdx.json, THIRD-PARTY-LICENSES, dep-v0 and built-using there.

Both halves count: the guest's programs are a part of the binary, which tools that look at the host's crates alone miss.
"""

import datetime
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = "x86_64-unknown-linux-gnu"
# As scripts/build and the vmm's build script choose them.
HALVES = {"host": ["-p", "instar"], "guest": ["-p", "instar-entry", "--features", "elf"]}
LICENCE_FILE = re.compile(r"(licen[sc]e|copying|notice|unlicense|copyright)", re.IGNORECASE)
# What a crate brings for others to choose: zstd is taken under BSD-3-Clause, its other licence is not.
NOT_CHOSEN = {"zstd-sys": {"zstd/COPYING"}}
# Folders of a crate, besides its own, whose code is compiled into it.
INNER = {"zstd-sys": ["zstd"]}
# Crates of which no licence text is shipped offer this one, whose text is the project's own.
FALLBACK = "Apache-2.0"
# What the linker adds of the machine that it runs on: Debian's package, what it is, under which licence.
SYSTEM = (
    ("libc6-dev", "the C library, linked into the program", "LGPL-2.1-or-later"),
    ("libgcc-12-dev", "support for unwinding", "GPL-3.0-or-later WITH GCC-exception-3.1"),
)


def output(*argv):
    return subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def in_half(arguments):
    """(name, version) of each crate that is linked into a half."""
    argv = ["cargo", "tree", "--locked", "-e", "normal,no-proc-macro", "--target", TARGET, "--prefix", "none"]
    lines = output(*argv, "-f", "{p}", *arguments).splitlines()
    return {(name, version.removeprefix("v")) for name, version in (line.split()[:2] for line in lines if line)}


def crates():
    """Each crate that is linked in, as `cargo metadata` describes it, with its halves, checksum and dependencies."""
    halves = {half: in_half(arguments) for half, arguments in HALVES.items()}
    metadata = json.loads(
        output("cargo", "metadata", "--format-version=1", "--locked", f"--filter-platform={TARGET}", "--all-features")
    )
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in locked}
    packages = {p["id"]: p for p in metadata["packages"]}
    keys = {i: (p["name"], p["version"]) for i, p in packages.items()}
    needs = {
        keys[node["id"]]: {keys[d["pkg"]] for d in node["deps"] if any(k["kind"] is None for k in d["dep_kinds"])}
        for node in metadata["resolve"]["nodes"]
    }
    everything = set().union(*halves.values())
    # The guest is no dependency of cargo's, but a part of what the vmm embeds.
    needs[next(k for k in everything if k[0] == "instar-vmm")].add(next(k for k in everything if k[0] == "instar-entry"))
    return [
        {
            **packages[i],
            "key": keys[i],
            "halves": [half for half in HALVES if keys[i] in halves[half]],
            "checksum": checksums[keys[i]],
            "needs": sorted(needs[keys[i]] & everything),
        }
        for i in sorted(packages, key=keys.get)
        if keys[i] in everything
    ]


def expression(crate):
    """The SPDX expression; older crates write a slash for OR."""
    return crate["license"].replace("/", " OR ").replace("  ", " ")


def debian():
    """(package, its source, version, what, licence) of SYSTEM, where dpkg knows them."""
    for package, what, licence in SYSTEM:
        query = ["dpkg-query", "-W", "-f", "${source:Package} ${source:Version}", package]
        found = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if found.returncode == 0:
            yield package, *found.stdout.split(), what, licence


def toolchain():
    return re.search(r"release: (\S+)", output("rustc", "-vV")).group(1)


def bill(found, version, epoch):
    """CycloneDX."""

    def reference(key):
        return f"pkg:cargo/{key[0]}@{key[1]}"

    components = []
    for crate in found:
        component = {
            "type": "library",
            "bom-ref": reference(crate["key"]),
            "name": crate["name"],
            "version": crate["version"],
            "licenses": [{"expression": expression(crate)}],
            "purl": reference(crate["key"]),
            "properties": [{"name": "instar:half", "value": half} for half in crate["halves"]],
        }
        if crate["checksum"]:
            component["hashes"] = [{"alg": "SHA-256", "content": crate["checksum"]}]
        components.append(component)
    own = next(c for c in components if c["name"] == "instar")
    components.remove(own)
    linked = [("rust-std", toolchain(), f"pkg:generic/rust-std@{toolchain()}", "Apache-2.0 OR MIT")]
    linked += [(name, at, f"pkg:deb/debian/{name}@{at}?arch=source", licence) for _, name, at, _, licence in debian()]
    zstd = next(c["version"].split("+zstd.")[1] for c in found if c["name"] == "zstd-sys")
    linked.append(("zstd", zstd, f"pkg:github/facebook/zstd@v{zstd}", "BSD-3-Clause"))
    for name, at, purl, licence in linked:
        licences = [{"expression": licence}]
        components.append(
            {"type": "library", "bom-ref": purl, "name": name, "version": at, "licenses": licences, "purl": purl}
        )
    graph = [{"ref": reference(c["key"]), "dependsOn": [reference(key) for key in c["needs"]]} for c in found]
    for entry in graph:
        if entry["ref"] == own["bom-ref"]:
            entry["dependsOn"] += [purl for name, _, purl, _ in linked if name != "zstd"]
        if entry["ref"].startswith("pkg:cargo/zstd-sys@"):
            entry["dependsOn"].append(linked[-1][2])
    text = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**own, "type": "application", "version": version},
        },
        "components": components,
        "dependencies": graph,
    }
    # The same content, the same number.
    digest = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()
    text["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}"
    return json.dumps(text, indent=1) + "\n"


def licence_texts(crate):
    """{file: text} of what the crate ships."""
    folder = Path(crate["manifest_path"]).parent
    found = {}
    for inner in ["", *INNER.get(crate["name"], [])]:
        for path in sorted((folder / inner).iterdir()):
            name = path.relative_to(folder).as_posix()
            if LICENCE_FILE.match(path.name) and path.is_file() and name not in NOT_CHOSEN.get(crate["name"], ()):
                found[name] = path.read_text(errors="replace").strip() + "\n"
    return found


def licences(found):
    """The list, then each text once, under the names of those that ship it."""
    apache = (ROOT / "LICENSE").read_text().strip() + "\n"
    table, texts, missing = [], {}, []
    for crate in found:
        if crate["checksum"] is None:
            continue
        name = f"{crate['name']} {crate['version']}"
        table.append(f"{name:<40} {'+'.join(crate['halves']):<12} {expression(crate)}")
        shipped = licence_texts(crate)
        if not shipped and FALLBACK in expression(crate):
            shipped = {"its manifest": apache}
        if not shipped:
            missing.append(name)
        for file, text in shipped.items():
            # Only blanks set some copies of a text apart.
            key = " ".join(text.split())
            texts.setdefault(key, (text, []))[1].append(f"{name} ({file})")
    if missing:
        raise SystemExit(f"linked: no licence text of {', '.join(missing)}")
    system = [f"{f'{name} {at}':<40} {'host':<12} {licence}: {what}" for _, name, at, what, licence in debian()]
    rule = "=" * 100 + "\n"
    parts = [
        "What is linked into instar that others wrote, in which half of it, and under which licence. Where a crate offers\n"
        "several, any of them may be chosen; all the texts that it ships follow.\n\n" + "\n".join(table) + "\n",
        f"{f'The Rust standard library {toolchain()}':<40} host+guest   Apache-2.0 OR MIT, and what its own file says:\n"
        "COPYRIGHT-rust-library.html\n" + "".join(line + "\n" for line in system),
    ]
    if system:
        parts.append(
            "The C library is free software under the GNU Lesser General Public License: its text is the file LGPL-2.1,\n"
            "its sources are those of the Debian package named above. instar can be linked with another version of it:\n"
            "its own sources, of which `make source-package` makes an archive, are all that this takes.\n"
        )
    parts += ["\n".join(names) + "\n\n" + text for text, names in texts.values()]
    return rule.join(parts)


def audit(found):
    """The section `.dep-v0` that `cargo audit bin` and others read: JSON, compressed."""
    places = {crate["key"]: place for place, crate in enumerate(found)}
    packages = []
    for crate in found:
        entry = {"name": crate["name"], "version": crate["version"]}
        entry["source"] = "crates.io" if crate["checksum"] else "local"
        if crate["needs"]:
            entry["dependencies"] = sorted(places[key] for key in crate["needs"])
        if crate["name"] == "instar":
            entry["root"] = True
        packages.append(entry)
    return zlib.compress(json.dumps({"packages": packages}, separators=(",", ":")).encode(), 9)


def main():
    folder, version, epoch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    found = crates()
    documents = Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust"
    (folder / "instar.cdx.json").write_text(bill(found, version, epoch))
    (folder / "THIRD-PARTY-LICENSES").write_text(licences(found))
    library = (documents / "COPYRIGHT-library.html").read_bytes()
    (folder / "COPYRIGHT-rust-library.html.gz").write_bytes(gzip.compress(library, 9, mtime=0))
    (folder / "dep-v0").write_bytes(audit(found))
    using = ", ".join(f"{source} (= {at})" for _, source, at, _, _ in debian())
    (folder / "built-using").write_text(using)


if __name__ == "__main__":
    main()
