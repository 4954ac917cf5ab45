"""`info` equals the stock tool's to the letter."""

import json
import os
import tempfile
from pathlib import Path

from tests.base import ROOT, InstarTestBase
from tests.helpers import images
from tests.helpers.comparators import compare_outputs, format_failure_message

OTHER_VERSIONS = sorted((ROOT / "instar-testdata/qemu-img-binaries").glob("*/*/qemu-img"))


class TestInfo(InstarTestBase):
    """On images with every header feature, made once."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="instar-info-")
        cls.addClassCleanup(folder.cleanup)
        cls.images = folder.name
        cls.names = images.create_cases(cls.images)

    def setUp(self):
        super().setUp()
        self.tmp = self.images

    def compare(self, name, expected, actual):
        same, difference = compare_outputs(actual[0], expected[0])
        self.assertTrue(same, format_failure_message(name, difference))
        self.assert_same_outcome(actual, expected, name)

    def each(self, names, **kwargs):
        for name in names:
            with self.subTest(name=name, **kwargs):
                expected = self.run_qemu_img_info(name, cwd=self.tmp, **kwargs)
                self.compare(name, expected, self.run_instar_info(name, cwd=self.tmp, **kwargs))

    def test_there_are_at_least_sixty_images(self):
        self.assertGreaterEqual(len(set(self.names)), 60)

    def test_human(self):
        self.each(self.names)

    def test_json(self):
        self.each(self.names, output_format="json")

    def test_backing_chain(self):
        chains = [n for n in self.names if n.startswith(("over", "base", "size-1M"))]
        self.each(chains, chain=True)
        self.each(chains, chain=True, output_format="json")

    def test_from_another_folder(self):
        for name in ("over-relative.qcow2", "over-over.qcow2"):
            expected = self.run_qemu_img_info(self.path(name), chain=True)
            self.compare(name, expected, self.run_instar_info(self.path(name), chain=True))

    def test_format_given(self):
        for name in ("base.raw", "base.qcow2", "size-0.raw"):
            for fmt in ("raw", "qcow2", "nosuch"):
                argv = ("info", "-f", fmt, name)
                expected = self.run_qemu_img(*argv, cwd=self.tmp)
                self.compare(f"{name} as {fmt}", expected, self.run_instar(*argv, cwd=self.tmp))

    def test_image_opts_and_json_names(self):
        for name in ("driver=qcow2,file.filename=base.qcow2", "driver=raw,file.filename=base.raw"):
            argv = ("info", "--image-opts", name)
            self.compare(name, self.run_qemu_img(*argv, cwd=self.tmp), self.run_instar(*argv, cwd=self.tmp))
        name = 'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}'
        expected = self.run_qemu_img("info", name, cwd=self.tmp)
        self.compare(name, expected, self.run_instar("info", name, cwd=self.tmp))

    def test_qemu_img_by_name(self):
        for name in ("base.qcow2", "nope"):
            expected = self.run_qemu_img("info", name, cwd=self.tmp)
            self.assertEqual(self.run_as_qemu_img("info", name, cwd=self.tmp), expected)


def _equals(binary):
    """A test of a release that is on this machine. The baselines of test_baselines.py, of every release, need none."""
    version = binary.parent.name

    def test(self):
        for name in self.names:
            if version.startswith("5.") and ("zstd" in name or name.startswith("data")):
                continue  # Debian's 5.2 was built without zstd; it opens data files for info, see docs
            for output in ("human", "json"):
                with self.subTest(name=name, output=output):
                    expected = self.run_tool([binary, "info", f"--output={output}", name], cwd=self.tmp)
                    actual = self.run_instar_info(name, qemu_version=version, output_format=output, cwd=self.tmp)
                    self.compare(name, expected, actual)

    return test


for _binary in OTHER_VERSIONS:
    setattr(TestInfo, f"test_release_{_binary.parent.name}".replace(".", "_"), _equals(_binary))


class TestInfoErrors(InstarTestBase):
    """The same words and the same exit status."""

    def test_broken_headers(self):
        for name in images.broken_cases(self.tmp):
            with self.subTest(name=name):
                expected = self.run_qemu_img("info", name, cwd=self.tmp)
                self.assert_same_outcome(self.run_instar("info", name, cwd=self.tmp), expected, name)

    def test_files_that_cannot_be_opened(self):
        os.mkdir(self.path("folder"))
        for name in ("nope", "folder", "folder/nope", "base/x"):
            expected = self.run_qemu_img("info", name, cwd=self.tmp)
            self.assert_same_outcome(self.run_instar("info", name, cwd=self.tmp), expected, name)

    def test_loop(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2")
        self.make("qemu-img", "rebase", "-u", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2")
        expected = self.run_qemu_img("info", "--backing-chain", "a.qcow2", cwd=self.tmp)
        self.assert_same_outcome(self.run_instar("info", "--backing-chain", "a.qcow2", cwd=self.tmp), expected)
        out, err, status = self.run_instar("convert", "a.qcow2", "x.raw", cwd=self.tmp)
        self.assertEqual((out, status), ("", 1))
        self.assertIn("infinite loop", err)

    def test_known_formats_are_never_raw(self):
        """Read, or refused by name where they cannot be."""
        for fmt in ("vmdk", "vpc", "vhdx", "vdi", "qed", "qcow", "parallels", "luks"):
            name = f"image.{fmt}"
            extra = ["--object", "secret,id=s,data=x", "-o", "key-secret=s,iter-time=10"] if fmt == "luks" else []
            self.make("qemu-img", "create", "-q", "-f", fmt, *extra, name, "1M")
            out, err, status = self.run_instar("info", name, cwd=self.tmp)
            self.assertIn(f"file format: {fmt}\n" if status == 0 else f"the {fmt} format", out + err)
            out, err, status = self.run_instar("convert", name, "x.raw", cwd=self.tmp)
            if status:
                self.assertIn(fmt, err)
                self.assertFalse(os.path.exists(self.path("x.raw")))
            else:
                self.assertEqual(set(Path(self.path("x.raw")).read_bytes()), {0}, fmt)
                os.unlink(self.path("x.raw"))

    def test_control_characters_do_not_reach_the_terminal(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "evil.qcow2", "1M")
        self.make("qemu-img", "snapshot", "-c", "s\x07\x1b]0;t", "evil.qcow2")
        self.make("qemu-img", "rebase", "-u", "-b", "x\x1b[2Jy", "-F", "raw", "evil.qcow2")
        for output in ("human", "json"):
            out, err, status = self.run_instar("info", f"--output={output}", "evil.qcow2", cwd=self.tmp)
            self.assertEqual((err, status), ("", 0))
            self.assertFalse([c for c in out if ord(c) < 32 and c != "\n"], out)
        self.assertEqual(json.loads(out)["backing-filename"], "x\x1b[2Jy")
