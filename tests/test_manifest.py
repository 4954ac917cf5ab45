"""The manifest of the fixtures, and the names by which scripts find the case tables.

That no maker drifts is seen wherever an image is made (tests/helpers/fixtures.py): every variant is, by tests/test_matrix.py.
"""

import importlib.util
import os
import unittest

from tests.base import QEMU_IMG, ROOT, InstarTestBase
from tests.helpers import baselines, cells, fixtures, manifest
from tests.helpers.variants import Maker, variants

SCRIPT = ROOT / "instar-testdata/scripts/generate-baselines.py"


def _script():
    spec = importlib.util.spec_from_file_location("generate_baselines", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestManifest(InstarTestBase):
    """tests/manifest.json."""

    def test_it_lists_every_image_and_no_other(self):
        listed = [entry["id"] for entry in manifest.load()["images"]]
        self.assertEqual(sorted(listed), sorted(cells.key(variant) for variant in variants()))

    def test_every_maker_is_there(self):
        for entry in manifest.load()["images"]:
            self.assertTrue((ROOT / entry["maker"]).is_file(), entry)

    def test_an_image_is_got_by_its_name(self):
        path = self.get_image("qcow2/new")
        self.assertEqual(self.make("qemu-img", "info", path).splitlines()[1], "file format: qcow2")
        with self.assertRaises(AssertionError):
            self.get_image("qcow2/no-such-image")

    def test_a_maker_that_drifts_is_told(self):
        for identity in ("qcow2/new", "vdi/default"):
            with self.subTest(identity):
                variant = next(v for v in variants(identity.split("/")[0]) if cells.key(v) == identity)
                name = variant.make(Maker(self.tmp, identity), self.tmp)
                self.assertIsNone(manifest.drift(variant, self.tmp, name))
                self.make("qemu-io", "-f", variant.format, "-c", "write -P 77 0 512", name)
                self.assertIn("makes something else", manifest.drift(variant, self.tmp, name))
                for left in os.listdir(self.tmp):
                    os.unlink(self.path(left))

    def test_what_is_made_is_compared(self):
        key = "raw/empty"
        self.assertIn(key, manifest.by_id())
        folder, name = fixtures.by_id(key)
        self.assertTrue(os.path.exists(os.path.join(folder, name)))


class TestCaseTables(InstarTestBase):
    """generate-baselines.py as a module."""

    def test_tables_map_targets_to_cases_and_a_case_can_be_run(self):
        script = _script()
        for command in ("create", "resize", "rebase", "commit"):
            with self.subTest(command):
                table = getattr(script, f"{command.upper()}_CASES")
                self.assertIn("qcow2", table)
                case = table["qcow2"][0]
                said = getattr(script, f"generate_{command}_baseline")(QEMU_IMG, "qcow2", case)
                profile = self.get_profile_for_installed_qemu(command=command)
                self.assertEqual(said, baselines.expected(case.name, profile, command, "qcow2"))

    def test_a_case_of_another_target_is_refused(self):
        script = _script()
        with self.assertRaises(ValueError):
            script.generate_rebase_baseline(QEMU_IMG, "qed", script.REBASE_CASES["qcow2"][0])


if __name__ == "__main__":
    unittest.main()
