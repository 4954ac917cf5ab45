"""Every release of qemu-img that can be had, in its own words: the baselines of the commands that have no file with a
matrix of their own, and of the functions that read them."""

import unittest

from tests.base import InstarTestBase
from tests.helpers.baseline_matrix import baseline_matrix

TestCheckBaselineMatrix = baseline_matrix("check")
TestCompareBaselineMatrix = baseline_matrix("compare")
TestCreateBaselineMatrix = baseline_matrix("create")
TestDdBaselineMatrix = baseline_matrix("dd")
TestInfoBaselineMatrix = baseline_matrix("info")
TestMapBaselineMatrix = baseline_matrix("map")
TestMeasureBaselineMatrix = baseline_matrix("measure")
TestResizeBaselineMatrix = baseline_matrix("resize")


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


if __name__ == "__main__":
    unittest.main()
