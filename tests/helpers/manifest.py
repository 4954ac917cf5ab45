"""`tests/manifest.json`: each image of `tests/helpers/variants` with what it must be when its maker is run.

An entry has `id` (format/variant), `format`, `maker` (the script), `path` (the image's name in its folder), and digests:
`sha256` of all that the maker left, where it leaves the same every time; `disk_sha256` of what a guest sees, where the stock
tool reads it. What has neither (new keys each time, and a header damaged on purpose) is known by its name only. Bytes of a file follow the release of the stock tool that makes it, which is `made_with`.
`scripts/manifest --update` writes it.
"""

import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import os
import subprocess
import tempfile
from pathlib import Path

from tests.base import QEMU_IMG, ROOT, qemu_img_version
from tests.helpers import cells
from tests.helpers.variants import Maker, variants

MANIFEST = ROOT / "tests/manifest.json"
BLOCK = 64 << 10


@functools.cache
def load():
    """The whole file."""
    return json.loads(MANIFEST.read_text())


@functools.cache
def by_id():
    """Entries by their `id`."""
    return {entry["id"]: entry for entry in load()["images"]}


def _blocks(path):
    """Offset and bytes of what is not zero in a file; holes are passed over."""
    with open(path, "rb") as file:
        at, end = 0, os.fstat(file.fileno()).st_size
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:
                return  # a hole up to the end
            file.seek(at)
            block = file.read(BLOCK)
            if block.strip(b"\0"):
                yield at, block
            at += BLOCK


def _add(digest, name, path):
    digest.update(f"{name} {os.path.getsize(path)}\n".encode())
    for at, block in _blocks(path):
        digest.update(f"{at}\n".encode())
        digest.update(block.rstrip(b"\0"))


def files_digest(folder):
    """Of the names, lengths and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        _add(digest, path.relative_to(folder), path)
    return digest.hexdigest()


def _stock(variant, name, command, folder, *argv):
    """Runs a command of the stock tool on the image; returns what it prints, or None where it cannot."""
    given = ["-f", variant.format] if variant.explicit and not variant.image_opts else []
    argv = [QEMU_IMG, command, *variant.argv, *given, *argv[:-1], variant.operand(name), *argv[-1:]]
    done = subprocess.run(
        [word for word in argv if word], cwd=folder, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    return None if done.returncode else done.stdout


def _is_compressed(variant, folder, name):
    """Compressed data lies as the stock tool's workers finished it, in another order each time."""
    said = _stock(variant, name, "map", folder, "--output=json", "")
    return said is not None and b'"compressed": true' in said


def disk_digest(variant, folder, name):
    """Of the length and the bytes that a guest sees; None where the stock tool cannot read it as it is."""
    with tempfile.TemporaryDirectory(prefix="instar-manifest-") as other:
        raw = os.path.join(other, "disk")
        if _stock(variant, name, "convert", folder, "-O", "raw", raw) is None:
            return None
        digest = hashlib.sha256()
        _add(digest, "disk", raw)
        return digest.hexdigest()


def drift(variant, folder, name):
    """What is not as the manifest has it, in words; None where all is."""
    entry = by_id().get(cells.key(variant))
    if entry is None:
        return f"{cells.key(variant)} is not in tests/manifest.json: scripts/manifest --update"
    found = {"path": name}
    if "sha256" in entry and load()["made_with"] == qemu_img_version():
        found["sha256"] = files_digest(folder)
    elif "disk_sha256" in entry:
        found["disk_sha256"] = disk_digest(variant, folder, name)
    wrong = [f"{key} {found[key]}, not {entry[key]}" for key in found if found[key] != entry[key]]
    return f"{cells.key(variant)}: {entry['maker']} makes something else: {', '.join(wrong)}" if wrong else None


def _make(identity):
    """Name and digests of a new image, and whether it is compressed."""
    variant = next(v for v in variants(identity.split("/")[0]) if cells.key(v) == identity)
    with tempfile.TemporaryDirectory(prefix="instar-manifest-") as folder:
        name = variant.make(Maker(folder, identity), folder)
        compressed = _is_compressed(variant, folder, name)
        return name, None if compressed else files_digest(folder), disk_digest(variant, folder, name)


def entry(variant, pool):
    """A new entry: the maker is run twice, in new processes: some keep what they have made once."""
    (name, files, disk), again = pool.map(_make, [cells.key(variant)] * 2)
    made = {
        "id": cells.key(variant),
        "format": variant.format,
        "maker": f"tests/helpers/variants/{variant.format}.py",
        "path": name,
    }
    found = {"sha256": (files, again[1]), "disk_sha256": (disk, again[2])}
    return made | {key: first for key, (first, second) in found.items() if first and first == second}


def whole():
    """The manifest of the makers as they are."""
    anew = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, anew, max_tasks_per_child=1) as pool:
        return {"made_with": qemu_img_version(), "images": [entry(variant, pool) for variant in variants()]}
