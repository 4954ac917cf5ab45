"""Every release of qemu-img that can be had, in its own words: the baselines of the commands that have no file with a
matrix of their own, and of the functions that read them."""

import os
import unittest

from tests.base import ROOT, InstarTestBase
from tests.helpers import baselines, cases
from tests.helpers.baseline_matrix import baseline_matrix

BINARIES = ROOT / "instar-testdata/qemu-img-binaries" / os.uname().machine
EVERY = 25

TestBitmapBaselineMatrix = baseline_matrix("bitmap")
TestCheckBaselineMatrix = baseline_matrix("check")
TestCompareBaselineMatrix = baseline_matrix("compare")
TestCreateBaselineMatrix = baseline_matrix("create")
TestDdBaselineMatrix = baseline_matrix("dd")
TestInfoBaselineMatrix = baseline_matrix("info")
TestMapBaselineMatrix = baseline_matrix("map")
TestMeasureBaselineMatrix = baseline_matrix("measure")
TestResizeBaselineMatrix = baseline_matrix("resize")
TestSnapshotBaselineMatrix = baseline_matrix("snapshot")


class TestProfiles(InstarTestBase):
    """What the tests ask of the baselines."""

    def test_a_release_has_a_profile_and_a_profile_a_release(self):
        known = self.get_output_profiles("json", "map")
        self.assertEqual(known["profiles"], ["profile-5-2-0", "profile-7-2-18", "profile-10-0-2"])
        self.assertEqual(known["version_to_profile"]["11.1.3"], "profile-10-0-2")
        self.assertEqual(self.get_qemu_version_for_profile("profile-7-2-18"), "7.2")
        self.assertEqual(self.get_qemu_version_for_profile("profile-8-2-10"), "8.2")

    def test_the_installed_release_says_what_its_profile_says(self):
        profile = self.get_profile_for_installed_qemu("json", "map")
        self.assertEqual(profile, "profile-10-0-2")
        self.assertIn('"compressed": false', self.get_expected_output("new", profile, "json", "map"))
        older = self.get_expected_output("new", "profile-5-2-0", "json", "map")
        self.assertNotIn("present", older)

    def test_what_there_is_not_is_not_found(self):
        with self.assertRaises(FileNotFoundError):
            self.get_expected_output("nosuch", "profile-5-2-0")


def _agrees(command, version):
    """A test that a release still says what is written down of it. Of a few cases, others for each release; of all where
    INSTAR_ALL_BASELINES is set."""

    def test(self):
        every = 1 if "INSTAR_ALL_BASELINES" in os.environ else EVERY
        first = baselines.version_key(version)[-1] + len(command)
        binary = BINARIES / version / "qemu-img"
        chosen = [case for case in cases.cases(command) if case.has(version)]
        compared = 0
        for case in chosen[first % every :: every] if len(chosen) > every else chosen:
            profile = baselines.version_map()[f"{command}-{case.target}"]["version_to_profile"][version]
            folder = self.path(f"{case.target}-{case.name}")
            os.mkdir(folder)
            said = baselines.run_case(case, folder, lambda argv, cwd: self.run_tool([binary, *argv], cwd=cwd))
            expected = baselines.expected(case.name, profile, command, case.target)
            self.assertEqual(said, expected, f"{case.target} {case.name}")
            compared += 1
        self.assertGreater(compared, 0)

    return test


class TestStockBinaries(InstarTestBase):
    """`test_<command>_<version>`: the baselines, and the releases that are on this machine."""

    def test_the_installed_release_is_one_of_them(self):
        known = baselines.version_map()["info-qcow2"]["version_to_profile"]
        self.assertIn(self.qemu_version, known)


for _binary in sorted(BINARIES.glob("*/qemu-img")):
    for _command in cases.commands():
        _name = f"test_{_command}_{_binary.parent.name}".replace(".", "_")
        setattr(TestStockBinaries, _name, _agrees(_command, _binary.parent.name))


if __name__ == "__main__":
    unittest.main()
