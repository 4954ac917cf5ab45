#!/usr/bin/env python3
"""Folds what generate-baselines.py wrote into profiles: releases that said the same, by command and target.

Usage: detect-profiles.py

Writes expected-outputs/version-map.json and expected-outputs/profiles/profile-X-Y-Z/<command>-<target>.json, X.Y.Z being
the first release of the profile. Releases that are not neighbours do not share a profile.
"""

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.helpers import baselines, cases  # noqa: E402


def said(command, target, version):
    """Case to output type to what the release said."""
    found = {}
    for case in cases.cases(command):
        if case.target != target or not case.has(version):
            continue
        for kind in case.runs:
            at = baselines.OUTPUTS / f"{command}-{kind}" / target / version
            if not (at / f"{case.name}.meta.json").exists():
                continue  # what comes behind a command that failed is not looked at
            meta = json.loads((at / f"{case.name}.meta.json").read_text())
            stdout = (at / f"{case.name}.stdout.txt").read_bytes().decode()
            found.setdefault(case.name, {})[kind] = {"stdout": stdout, **meta}
    return found


def main():
    shutil.rmtree(baselines.PROFILES, ignore_errors=True)
    mapped = {}
    for command in cases.commands():
        folders = baselines.OUTPUTS.glob(f"{command}-*/*/*")
        versions = sorted({f.name for f in folders}, key=baselines.version_key)
        for target in sorted({case.target for case in cases.cases(command)}):
            profiles, of_version, before, known = [], {}, None, {}
            for version in versions:
                now = said(command, target, version)
                if not now:
                    continue
                if now != before:
                    profiles.append("profile-" + version.replace(".", "-"))
                    at = baselines.PROFILES / profiles[-1]
                    at.mkdir(parents=True, exist_ok=True)
                    # A case that this release leaves out is written down as such.
                    news = {name: what for name, what in now.items() if known.get(name) != what}
                    news.update({name: None for name in known if name not in now and known[name] is not None})
                    text = json.dumps(news, indent=1, sort_keys=True) + "\n"
                    (at / f"{command}-{target}.json").write_text(text)
                    known.update(news)
                before = now
                of_version[version] = profiles[-1]
            mapped[f"{command}-{target}"] = {"profiles": profiles, "version_to_profile": of_version}
    baselines.VERSION_MAP.write_text(json.dumps(mapped, indent=1) + "\n")
    count = sum(len(entry["profiles"]) for entry in mapped.values())
    print(f"{count} profiles of {len(mapped)} commands and targets")


if __name__ == "__main__":
    main()
