"""The committed baselines: what each release of qemu-img said to each case of `tests/helpers/cases`.

`profiles/profile-X-Y-Z/<command>-<target>.json` holds, for the releases from X.Y.Z on up to the next profile of that
command and target, case to output type to what was said. Only cases that differ from the profile before it are in it.
`version-map.json` says which releases there were.
"""

import functools
import json
import os
import re

from tests.base import ROOT

OUTPUTS = ROOT / "instar-testdata/expected-outputs"
VERSION_MAP = OUTPUTS / "version-map.json"
PROFILES = OUTPUTS / "profiles"

# What depends on the file system under the image.
_DISK_SIZE = re.compile(r'(disk size: )[0-9.e+-]+ [KMGTPE]?i?B|("actual-size": )\d+')
# What depends on where a writer puts things in a file.
_FILE_LENGTH = re.compile(r"(file length: ).*|(Image end offset: ).*")
# What is drawn at random when an image is made.
_RANDOM = re.compile(r"((?:parent )?cid: )\d+|(\"(?:parent-)?cid\": )\d+")
# How nodes are numbered that nobody has named.
_NODE = re.compile(r"(#block)\d+")
_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|(\"date-n?sec\": )\d+")


def version_key(version):
    """To sort releases by."""
    return [int(part) for part in version.split(".")]


# How that release was packaged, not what it does.
_MODULE = re.compile(r"^qemu: module \S+ not found, .*\n", re.MULTILINE)


def normalise(text, own_layout=False):
    """What is said, without what no two runs have in common."""
    for pattern in (_DISK_SIZE, _RANDOM, _DATE, _NODE, *([_FILE_LENGTH] if own_layout else [])):
        text = pattern.sub(lambda m: next((g for g in m.groups() if g), "") + "*", text)
    if own_layout:
        text = re.sub(r'("children": \[\s*\{\s*"name": "\w+",\s*"info": \{\s*"children": \[\s*\],\s*"virtual-size": )\d+', r"\1*", text)
    # Progress is shown as time goes by.
    return re.sub(r"(    \(\d+\.\d+/100%\)\r)+", "    (*/100%)\r", text)


def run_case(case, folder, run):
    """Prepares a case in the folder and runs it; `run(argv, cwd)` returns (stdout, stderr, status). Returns output type
    to a map with what was said."""
    from tests.helpers.cases import prepare

    said, failed = {}, False
    for kind, argv in prepare(case, folder).items():
        if argv[0] == "info" and failed:
            # Before 7.2 half a file was left.
            continue
        out, err, status = run(argv, folder)
        failed = argv[0] == "create" and status != 0
        said[kind] = {
            "stdout": normalise(out.replace(folder + os.sep, ""), case.own_layout),
            "stderr": normalise(err.replace(folder + os.sep, ""), case.own_layout),
            "return_code": status,
        }
    return said


@functools.cache
def version_map():
    """`version-map.json`: `<command>-<target>` to its profiles and, for each release, its profile."""
    return json.loads(VERSION_MAP.read_text())


@functools.cache
def _profile(profile, command, target):
    return json.loads((PROFILES / profile / f"{command}-{target}.json").read_text())


def expected(case, profile, command, target):
    """What the releases of that profile said to a case: output type to a map. None: nothing, it was left out."""
    profiles = version_map()[f"{command}-{target}"]["profiles"]
    for name in reversed(profiles[: profiles.index(profile) + 1]):
        found = _profile(name, command, target)
        if case in found:
            return {kind: {**said, "stderr": _MODULE.sub("", said["stderr"])} for kind, said in found[case].items()}
    return None


def cases_of(profile, command, target):
    """The cases that a profile's own file has."""
    return set(_profile(profile, command, target))


def targets(command):
    """The targets that have baselines of a command."""
    return [name.split("-", 1)[1] for name in version_map() if name.split("-", 1)[0] == command]
