"""What may be written besides the image that the user names: images of several files, made by the stock tool."""

import contextlib
import os
import subprocess
import unittest

from tests.base import InstarTestBase
from tests.helpers import images

MIB = 1 << 20


class PartsBase(InstarTestBase):
    def setUp(self):
        super().setUp()
        images.random_disk(self.path("disk.raw"), 2 * MIB, 5)

    def ok(self, *argv):
        out, err, status = self.run_instar(*argv, cwd=self.tmp)
        self.assertEqual((err, status), ("", 0), f"{argv}: {out}")
        return out

    def with_data_file(self, name, *argv, size="2M"):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={name}.data", *argv, name, size)


class TestWhatStaysPossible(PartsBase):
    def test_an_existing_image_with_a_data_file_is_written_into(self):
        self.with_data_file("target.qcow2")
        self.ok("convert", "-n", "-O", "qcow2", "disk.raw", "target.qcow2")
        self.assert_same_disk("disk.raw", "target.qcow2")
        self.assert_check_clean("target.qcow2")

    def test_so_is_one_behind_options_and_from_a_chain(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "top.qcow2")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 9 64k 64k", "top.qcow2")
        self.with_data_file("target.qcow2")
        self.ok("convert", "-n", "--target-image-opts", "top.qcow2", "driver=qcow2,file.filename=target.qcow2")
        self.assert_same_disk("top.qcow2", "target.qcow2")

    def test_extents_of_an_existing_vmdk_are_written(self):
        for kind in ("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"):
            with self.subTest(kind):
                self.make("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={kind}", f"{kind}.vmdk", "2M")
                out, err, status = self.run_instar(
                    "convert", "-n", "-O", "vmdk", "disk.raw", f"{kind}.vmdk", cwd=self.tmp
                )
                self.assertEqual((out, err, status), ("", "", 0))
                self.assert_same_disk("disk.raw", f"{kind}.vmdk")

    def test_commands_in_place_write_the_data_file(self):
        for argv in (["-f", "qcow2"], []):
            with self.subTest(argv=argv):
                self.with_data_file("disk.qcow2")
                self.ok("bench", "-q", "-w", "--pattern=7", "-c", "4", "-s", "64k", *argv, "disk.qcow2")
                self.make("qemu-io", "-f", "qcow2", "-c", "read -P 7 0 256k", "disk.qcow2")
                self.ok("resize", "-q", *argv, "disk.qcow2", "3M")
                self.assertEqual(self.info_json("disk.qcow2")["virtual-size"], 3 * MIB)

    def test_commit_writes_the_base_its_data_file_and_those_of_the_top(self):
        for argv in (["-f", "qcow2"], []):
            with self.subTest(argv=argv):
                self.with_data_file("base.qcow2")
                self.with_data_file("top.qcow2", "-b", "base.qcow2", "-F", "qcow2")
                self.make("qemu-io", "-f", "qcow2", "-c", "write -P 3 0 128k", "top.qcow2")
                self.ok("commit", "-q", *argv, "top.qcow2")
                self.make("qemu-io", "-f", "qcow2", "-c", "read -P 3 0 128k", "base.qcow2")

    def test_commit_reaches_a_base_further_down(self):
        self.with_data_file("base.qcow2")
        for name, below in (("middle.qcow2", "base.qcow2"), ("top.qcow2", "middle.qcow2")):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", name)
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 4 0 64k", "middle.qcow2")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 5 64k 64k", "top.qcow2")
        self.ok("commit", "-q", "-b", "base.qcow2", "top.qcow2")
        self.make("qemu-io", "-f", "qcow2", "-c", "read -P 4 0 64k", "-c", "read -P 5 64k 64k", "base.qcow2")

    def test_commit_writes_a_vmdk_of_several_extents(self):
        flat = ["-o", "subformat=twoGbMaxExtentFlat"]
        self.make("qemu-img", "create", "-q", "-f", "vmdk", *flat, "base.vmdk", "2M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.vmdk", "-F", "vmdk", "top.qcow2")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 6 0 64k", "top.qcow2")
        self.ok("commit", "-q", "top.qcow2")
        self.make("qemu-io", "-f", "vmdk", "-c", "read -P 6 0 64k", "base.vmdk")

    def test_commit_writes_outside_of_its_folder_below_an_allowed_one_only(self):
        os.makedirs(self.path("bases"))
        os.makedirs(self.path("tops"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "bases/base.qcow2", "1M")
        self.make(
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", "../bases/base.qcow2", "-F", "qcow2", "tops/top.qcow2"
        )
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 8 0 64k", "tops/top.qcow2")
        before = self.sha256(self.path("bases/base.qcow2"))
        _, err, status = self.run_instar("commit", "-f", "qcow2", "tops/top.qcow2", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("--allow-backing", err)
        self.assertEqual(self.sha256(self.path("bases/base.qcow2")), before)
        self.ok("commit", "-q", "--allow-backing", self.path("bases"), "-f", "qcow2", "tops/top.qcow2")
        self.make("qemu-io", "-f", "qcow2", "-c", "read -P 8 0 64k", "bases/base.qcow2")


class TestWhatIsRefused(PartsBase):
    def test_a_data_file_that_is_missing_is_told_in_the_stock_tools_words(self):
        self.with_data_file("target.qcow2")
        os.remove(self.path("target.qcow2.data"))
        argv = ["convert", "-n", "-O", "qcow2", "disk.raw", "target.qcow2"]
        self.assert_same_outcome(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))
        argv = ["convert", "-n", "-O", "qcow2", "absent.raw", "target.qcow2"]
        self.assert_same_outcome(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))

    def test_a_data_file_that_is_in_use_is_told(self):
        self.with_data_file("target.qcow2")
        before = self.sha256(self.path("target.qcow2.data"))
        with self.held("target.qcow2.data", "raw"):
            _, err, status = self.run_instar("convert", "-n", "-O", "qcow2", "disk.raw", "target.qcow2", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("lock", err)
        self.assertEqual(self.sha256(self.path("target.qcow2.data")), before)

    def test_the_source_is_no_part_of_the_target(self):
        self.with_data_file("target.qcow2")
        os.replace(self.path("disk.raw"), self.path("target.qcow2.data"))
        before = self.sha256(self.path("target.qcow2.data"))
        for share in ([], ["-U"]):
            argv = ["convert", *share, "-n", "-f", "raw", "-O", "qcow2", "target.qcow2.data", "target.qcow2"]
            _, err, status = self.run_instar(*argv, cwd=self.tmp)
            self.assertEqual(status, 1, err)
            self.assertIn("lock", err)
            self.assertEqual(self.sha256(self.path("target.qcow2.data")), before)

    def test_what_is_there_may_be_written_and_what_grows_counts(self):
        self.make("qemu-img", "convert", "-O", "qcow2", "disk.raw", "target.qcow2")
        length = os.path.getsize(self.path("target.qcow2"))
        limit = ["--max-output-growth", "1M"]
        self.ok("convert", *limit, "-n", "-O", "qcow2", "disk.raw", "target.qcow2")
        self.assert_same_disk("disk.raw", "target.qcow2")
        self.make("qemu-img", "resize", "-q", "target.qcow2", "32M")
        images.random_disk(self.path("large.raw"), 32 * MIB, 1)
        _, err, status = self.run_instar(
            "convert", *limit, "-n", "-O", "qcow2", "large.raw", "target.qcow2", cwd=self.tmp
        )
        self.assertEqual(status, 1)
        self.assertIn("--max-output-growth", err)
        self.assertLessEqual(os.path.getsize(self.path("target.qcow2")) - length, MIB)


@unittest.skipUnless(os.geteuid() == 0, "only root can make loop devices")
class TestDevices(PartsBase):
    """CVE-2015-1851 on block devices: a tenant's volume names another one, or a disk of the host."""

    @contextlib.contextmanager
    def loop(self, name):
        argv = ["losetup", "--find", "--show", self.path(name)]
        device = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        try:
            yield device
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)

    def on_device(self, stack, backing):
        """A volume that holds an image over `backing`."""
        self.make("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", "image.qcow2", "2M")
        with open(self.path("volume"), "wb") as volume:
            volume.write(open(self.path("image.qcow2"), "rb").read())
            volume.truncate(8 * MIB)
        return stack.enter_context(self.loop("volume"))

    def test_an_image_on_a_device_names_no_other(self):
        with contextlib.ExitStack() as stack:
            victim = stack.enter_context(self.loop("disk.raw"))
            for backing in (victim, os.path.basename(victim), f"./{os.path.basename(victim)}", f"../{victim}"):
                for argv in (["convert", "-O", "raw"], ["compare"], ["map"], ["info", "--backing-chain"]):
                    with self.subTest(backing=backing, argv=argv), contextlib.ExitStack() as inner:
                        volume = self.on_device(inner, backing)
                        more = {"convert": ["stolen.raw"], "compare": ["disk.raw"]}.get(argv[0], [])
                        _, err, status = self.run_instar(*argv, volume, *more, cwd=self.tmp)
                        self.assertNotEqual(status, 0)
                        self.assertIn("--allow-backing", err)
                        self.assertFalse(os.path.exists(self.path("stolen.raw")))

    def test_by_a_link_or_a_node_elsewhere_neither(self):
        with contextlib.ExitStack() as stack:
            victim = stack.enter_context(self.loop("disk.raw"))
            number = os.stat(victim).st_rdev
            os.mknod(self.path("node"), 0o60600, number)
            volume = self.on_device(stack, "node")
            os.symlink(volume, self.path("link"))
            for image in (self.path("link"), self.path("image.qcow2")):
                _, err, status = self.run_instar("convert", "-O", "raw", image, "stolen.raw", cwd=self.tmp)
                self.assertEqual(status, 1, image)
                self.assertIn("--allow-backing", err)

    def test_a_folder_that_is_allowed_is(self):
        with contextlib.ExitStack() as stack:
            victim = stack.enter_context(self.loop("disk.raw"))
            volume = self.on_device(stack, victim)
            self.ok("convert", "--allow-backing", "/dev", "-O", "raw", volume, "copy.raw")
            self.assert_bytes_identical(self.path("copy.raw"), self.path("disk.raw"))

    def test_commit_writes_a_device_below_an_allowed_folder_only(self):
        with self.loop("disk.raw") as base:
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "top.qcow2", "2M")
            self.make("qemu-io", "-f", "qcow2", "-c", "write -P 8 0 64k", "top.qcow2")
            before = self.sha256(self.path("disk.raw"))
            _, err, status = self.run_instar("commit", "top.qcow2", cwd=self.tmp)
            self.assertEqual(status, 1)
            self.assertIn("--allow-backing", err)
            self.assertEqual(self.sha256(self.path("disk.raw")), before)
            self.ok("commit", "-q", "--allow-backing", "/dev", "top.qcow2")
            self.make("qemu-io", "-f", "raw", "-r", "-c", "read -P 8 0 64k", base)

    def test_a_file_among_devices_names_none_of_them(self):
        name = f"/dev/instar-test-{os.getpid()}.qcow2"
        self.addCleanup(lambda: os.path.exists(name) and os.remove(name))
        with self.loop("disk.raw") as victim:
            argv = ["create", "-q", "-u", "-f", "qcow2", "-b", victim, "-F", "raw", name, "2M"]
            self.make("qemu-img", *argv)
            _, err, status = self.run_instar("convert", "-O", "raw", name, "stolen.raw", cwd=self.tmp)
            self.assertEqual(status, 1)
            self.assertIn("--allow-backing", err)

    def test_a_device_is_a_target_and_a_source_as_before(self):
        with open(self.path("space"), "wb") as file:
            file.truncate(2 * MIB)
        with self.loop("disk.raw") as source, self.loop("space") as target:
            for argv in (["convert", "-n", "-O", "raw"], ["convert", "-f", "raw", "-O", "raw"]):
                self.ok(*argv, source, target)
                subprocess.run(["blockdev", "--flushbufs", target], check=True)
                self.assert_bytes_identical(self.path("space"), self.path("disk.raw"))


if __name__ == "__main__":
    unittest.main()
