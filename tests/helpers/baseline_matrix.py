"""Tests of a command against the committed baselines: one generated test a target, case and profile."""

import os

from tests.base import InstarTestBase
from tests.helpers import baselines, cases

# Commands that instar does not have yet.
COMMANDS_NOT_YET = ()


def _test(command, case, profile):
    def test(self):
        expected = baselines.expected(case.name, profile, command, case.target)
        version = profile.removeprefix("profile-").replace("-", ".")
        folder = self.path("case")
        os.mkdir(folder)
        run = lambda argv, cwd: self.run_as_qemu_img(*argv, version=version, cwd=cwd)  # noqa: E731
        said = baselines.run_case(case, folder, run)
        self.assertEqual(sorted(said), sorted(expected))
        for kind in said:
            self.assertEqual(said[kind], expected[kind], f"{kind}: {case.runs[kind]}")

    return test


def baseline_matrix(command):
    """A test class for a command's table."""

    def cases_match(self):
        """The table and the committed files are about the same cases and targets."""
        table = {(case.target, case.name) for case in cases.cases(command)}
        files = set()
        for target in baselines.targets(command):
            for profile in baselines.version_map()[f"{command}-{target}"]["profiles"]:
                known = baselines.cases_of(profile, command, target)
                files |= {(target, name) for name in known}
        self.assertEqual(table, files)

    def versions(self):
        """There are baselines of five releases at least."""
        seen = {v for t in baselines.targets(command) for v in baselines.version_map()[f"{command}-{t}"]["version_to_profile"]}
        self.assertGreaterEqual(len(seen), 5)

    members = {
        "__doc__": f"`test_baseline_<target>_<case>_<profile>`: `{command}` as each release of qemu-img does it.",
        f"test_{command}_cases_match_baselines": cases_match,
        "test_there_are_five_releases": versions,
    }
    for case in cases.cases(command) if command not in COMMANDS_NOT_YET else ():
        entry = baselines.version_map().get(f"{command}-{case.target}", {"profiles": []})
        for profile in entry["profiles"]:
            if baselines.expected(case.name, profile, command, case.target) is not None:
                name = f"test_baseline_{case.target}_{case.name}_{profile}".replace("-", "_").replace("/", "_")
                members[name] = _test(command, case, profile)
    return type(f"Test{command.capitalize()}BaselineMatrix", (InstarTestBase,), members)
