#!/usr/bin/env python3
"""Writes expected-outputs/options.json: which options each fetched release names in its own help.

Usage: list-options.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.helpers import baselines, stock_help  # noqa: E402


def main():
    binaries = ROOT / "instar-testdata/qemu-img-binaries" / os.uname().machine
    found = {}
    for release in sorted((path.name for path in binaries.iterdir()), key=baselines.version_key):
        def help_of(*command, binary=binaries / release / "qemu-img"):
            return subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=True).stdout

        found[release] = stock_help.said(help_of)
    stock_help.OPTIONS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
