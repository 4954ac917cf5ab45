"""Every format into every format, with its options: the stock tool finds in our file what it finds in its own.

One generated test a pair of input and output. Where the stock tool refuses (a disk of a size that the target cannot
have), the same words are said.
"""

import os
import unittest

from tests.base import QEMU_IMG, InstarTestBase
from tests.helpers import cells, outputs
from tests.helpers.fixtures import fixture
from tests.helpers.info_json import assert_info_equivalent

CASES = 800


class FormatsTestBase(InstarTestBase):
    """Both tools convert; the stock tool looks at both results."""

    def image(self, name, output):
        """The target as the stock tool names it, secrets and all."""
        if not output.argv or output.argv[0] != "--object":
            return ["-f", output.format, name]
        key = "key-secret" if output.format == "luks" else "encrypt.key-secret"
        return [*output.argv, "--image-opts", f"driver={output.format},{key}=out,file.filename={name}"]

    def raw_of(self, name, output, folder):
        """The disk in the target, as the stock tool reads it."""
        out = f"{name}.disk"
        self.run_ok("convert", *self.image(name, output), "-O", "raw", out, cwd=folder)
        return os.path.join(folder, out)

    def run_ok(self, *argv, cwd):
        out, err, status = self.run_qemu_img(*argv, cwd=cwd, timeout=120)
        self.assertEqual(status, 0, f"{argv}: {out}{err}")
        return out

    def pair(self, variant, output):
        folder, name = fixture(variant)
        given = ["-f", variant.format] if variant.explicit else []
        words = ["convert", *variant.argv, *given, *output.words, variant.operand(name)]
        folders = {}
        outcome = {}
        for who, run in (("ours", self.run_instar), ("theirs", self.run_qemu_img)):
            folders[who] = self.path(who)
            os.mkdir(folders[who])
            # The names in the words and in the files are the same for both.
            target = os.path.join(folders[who], "target")
            text = run(*words, target, cwd=folder, timeout=120)
            outcome[who] = tuple(part.replace(folders[who], "") if isinstance(part, str) else part for part in text)
        if output.stock_ends_badly and outcome["theirs"] == ("", "", 1):
            outcome["theirs"] = ("", "", 0)
        self.assert_same_outcome(outcome["ours"], outcome["theirs"], " ".join(words))
        if outcome["theirs"][2]:
            self.assertEqual(os.listdir(folders["ours"]), [])
            return
        self.assertEqual(sorted(os.listdir(folders["ours"])), sorted(os.listdir(folders["theirs"])))
        disks = [self.raw_of("target", output, folders[who]) for who in ("ours", "theirs")]
        self.assertIsNone(cells.difference(*disks), "the disks differ")
        infos = [
            self.run_ok("info", "--output=json", *self.image("target", output), cwd=folders[who])
            for who in ("ours", "theirs")
        ]
        assert_info_equivalent(self, *infos, output.format)
        out, err, status = self.run_qemu_img("check", *self.image("target", output), cwd=folders["ours"])
        self.assertIn(status, (0, 63), out + err)


class TestConvertFormats(FormatsTestBase):
    """`test_<input format>_<variant>_to_<output>`."""


class TestTable(unittest.TestCase):
    def test_there_are_many(self):
        self.assertGreaterEqual(sum(1 for _ in outputs.pairs()), CASES)

    def test_every_format_that_the_stock_tool_writes_is_there(self):
        names = ("raw", "bochs", "cloop", "dmg", "luks", "parallels", "qcow", "qcow2", "qed", "vdi", "vhdx", "vmdk", "vpc")
        writes = {f for f in names if InstarTestBase.run_tool([QEMU_IMG, "create", "-f", f, "-o", "help"])[2] == 0}
        self.assertEqual({output.format for output in outputs.OUTPUTS}, writes)


def _test(variant, output):
    return lambda self: self.pair(variant, output)


for _variant, _output in outputs.pairs():
    _name = f"test_{_variant.format}_{_variant.name}_to_{_output.name}".replace("-", "_")
    setattr(TestConvertFormats, _name, _test(_variant, _output))


if __name__ == "__main__":
    unittest.main()
