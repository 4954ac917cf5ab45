#!/usr/bin/env python3
"""Runs the case tables with each release of qemu-img that fetch-qemu-img brought.

Usage: generate-baselines.py [--command NAME]... [--version X.Y.Z]... [--jobs N]

Writes expected-outputs/<command>-<type>/<target>/<version>/<case>.stdout.txt and .meta.json (standard error, exit status);
detect-profiles.py folds them into the profiles that are committed. Needs qemu-img and qemu-io (the installed ones make
the fixtures), nothing else.
"""

import argparse
import concurrent.futures
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.helpers import baselines, cases  # noqa: E402

BINARIES = ROOT / "instar-testdata/qemu-img-binaries" / os.uname().machine
TIMEOUT = 60


def run_with(binary):
    """A function that runs that release."""

    def run(argv, cwd):
        done = subprocess.run(
            [binary, *argv],
            cwd=cwd,
            capture_output=True,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
            check=False,
        )
        return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), done.returncode

    return run


def generate_baseline(command, qemu, target, case):
    """What that qemu-img says to a case of a command's table: output type to a map with text and exit status."""
    if case not in cases.by_target(command).get(target, ()):
        raise ValueError(f"{case.name} is no case of {command} {target}")
    with tempfile.TemporaryDirectory(prefix="instar-baseline-") as folder:
        return baselines.run_case(case, folder, run_with(qemu))


# Each command's table, target to cases, and how a baseline of it is made.
CREATE_CASES = cases.by_target("create")
RESIZE_CASES = cases.by_target("resize")
REBASE_CASES = cases.by_target("rebase")
COMMIT_CASES = cases.by_target("commit")
generate_create_baseline = functools.partial(generate_baseline, "create")
generate_resize_baseline = functools.partial(generate_baseline, "resize")
generate_rebase_baseline = functools.partial(generate_baseline, "rebase")
generate_commit_baseline = functools.partial(generate_baseline, "commit")


def one(command, index, version):
    """Runs one case with one release and writes what it said."""
    case = cases.cases(command)[index]
    said = generate_baseline(command, BINARIES / version / "qemu-img", case.target, case)
    for kind, what in said.items():
        at = baselines.OUTPUTS / f"{command}-{kind}" / case.target / version
        at.mkdir(parents=True, exist_ok=True)
        (at / f"{case.name}.stdout.txt").write_text(what["stdout"])
        meta = {key: value for key, value in what.items() if key != "stdout"}
        (at / f"{case.name}.meta.json").write_text(json.dumps(meta) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--command", action="append", choices=cases.commands())
    parser.add_argument("--version", action="append")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    given = parser.parse_args()
    versions = given.version or sorted((p.name for p in BINARIES.glob("*.*")), key=baselines.version_key)
    if not versions:
        sys.exit("no releases: instar-testdata/scripts/fetch-qemu-img instar-testdata/qemu-img-binaries")
    jobs = []
    for command in given.command or cases.commands():
        for old in baselines.OUTPUTS.glob(f"{command}-*/*/*"):
            if old.name in versions:
                shutil.rmtree(old)
        for index, case in enumerate(cases.cases(command)):
            jobs += [(command, index, version) for version in versions if case.has(version)]
    with concurrent.futures.ProcessPoolExecutor(given.jobs) as pool:
        for job in concurrent.futures.as_completed([pool.submit(one, *job) for job in jobs]):
            job.result()
    print(f"{len(jobs)} cases of {len(versions)} releases")


if __name__ == "__main__":
    main()
