"""`check -r` of vdi, vpc and vhdx: what is left of damage from seeds is sound for the stock tool, and shows what it showed."""

import os
import shutil
import struct

from tests.base import InstarTestBase
from tests.helpers import damage_own

MIB = 1 << 20

# Damaged images of each format, as in test_repair.py.
FIRST = int(os.environ.get("INSTAR_REPAIRS_FIRST", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("INSTAR_REPAIRS", "10")))


class OwnRepairTest(InstarTestBase):
    def small(self, fmt, options):
        self.make("img", "create", "-q", "-f", fmt, "-o", options, "image", "8M")
        writes = ("write -P 1 0 1M", "write -P 2 2M 1M", "write -P 3 6M 700k")
        self.make("qemu-io", "-f", fmt, *(word for write in writes for word in ("-c", write)), "image")
        with open(self.path("image"), "rb") as file:
            return bytearray(file.read())

    def put(self, data, name="image"):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def shown(self, name, fmt):
        """What an image shows to the stock tool; None: it does not open."""
        if self.run_qemu_img("convert", "-f", fmt, "-O", "raw", name, "out", cwd=self.tmp)[2] != 0:
            return None
        with open(self.path("out"), "rb") as file:
            return file.read()

    def repaired(self, fmt, what="all"):
        """Under the own name; what it says is the stock tool's only where that repairs, too."""
        return self.run_instar("check", "-r", what, "-f", fmt, "image", cwd=self.tmp)

    def assert_sound(self, fmt, writes=True):
        again = self.run_instar("check", "-f", fmt, "image", cwd=self.tmp)
        self.assertEqual(again[2], 0, again)
        # 63: the stock tool has no check of the format, but it opens the image.
        self.assertIn(self.run_qemu_img("check", "-f", fmt, "image", cwd=self.tmp)[2], (0, 63))
        shown = self.shown("image", fmt)
        if not writes:
            return shown
        # Whoever writes to it writes over nothing.
        shutil.copy(self.path("image"), self.path("written"))
        self.make("qemu-io", "-f", fmt, "-c", "write -P 9 1M 1M", "-c", "write -P 9 4M 2M", "written")
        after = self.shown("written", fmt)
        kept = lambda disk: (disk[:MIB], disk[2 * MIB : 4 * MIB], disk[6 * MIB :])  # noqa: E731
        self.assertTrue(kept(after) == kept(shown), "a block was written over")
        return shown

    def test_vdi(self):
        for seed in SEEDS:
            data = self.small("vdi", "static=on" if seed % 5 == 4 else "static=off")
            what = damage_own.vdi(data, seed)
            self.put(data)
            with self.subTest(seed=seed, what=what):
                shown = self.shown("image", "vdi")
                out = self.repaired("vdi")
                self.assertEqual(out[2], 0, out)
                # With nothing wrong for a check there can be gaps, into whose far side the stock tool writes.
                self.assertTrue(self.assert_sound("vdi", "repaired" in out[0]) == shown or shown is None)

    def test_vpc(self):
        for seed in SEEDS:
            data = self.small("vpc", f"subformat=dynamic,force_size={'on' if seed % 2 else 'off'}")
            right = self.shown("image", "vpc")
            damaged = bytearray(data)
            what = damage_own.vpc(damaged, seed)
            self.put(damaged)
            with self.subTest(seed=seed, what=what):
                out = self.repaired("vpc")
                self.assertEqual(out[2], 0, out)
                self.assertTrue(self.assert_sound("vpc") == right)
                with open(self.path("image"), "rb") as file:
                    self.assertTrue(file.read() == data)

    def test_vhdx(self):
        """The stock tool replays logs, too: its words, and the same bytes but for the headers' marks of who wrote."""
        for seed in SEEDS:
            data = self.small("vhdx", f"block_size={1 + seed % 2}M")
            what = damage_own.vhdx_image(data, seed)
            data = bytes(data)
            for repair in ("leaks", "all"):
                with self.subTest(seed=seed, what=what, repair=repair):
                    outcomes, shown, checked = [], [], []
                    for run in (self.run_as_qemu_img, self.run_qemu_img):
                        self.put(data)
                        outcomes.append(run("check", "-r", repair, "-f", "vhdx", "image", cwd=self.tmp))
                        shown.append(self.shown("image", "vhdx"))
                        checked.append(self.run_qemu_img("check", "-f", "vhdx", "image", cwd=self.tmp))
                    self.assertEqual(*outcomes)
                    self.assertEqual(*checked)
                    self.assertTrue(shown[0] == shown[1])
                    if "entry" not in what:
                        self.assertEqual((outcomes[0][2], checked[0][2]), (0, 0))
                        self.assertIsNotNone(shown[0])

    def test_the_count_alone_is_no_leak(self):
        data = self.small("vdi", "static=off")
        struct.pack_into("<I", data, 388, 7)
        self.put(data)
        self.assertEqual(self.repaired("vdi", "leaks")[2], 2)
        with open(self.path("image"), "rb") as file:
            self.assertTrue(file.read() == data)

