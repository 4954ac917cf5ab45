"""`check -r`: what is said, counted and left is the stock tool's wherever it repairs in the same way, of damage from seeds."""

import os
import random
import re
import shutil
import struct
from unittest import mock

from tests import test_check
from tests.base import InstarTestBase
from tests.helpers import damage
from tests.helpers.fixtures import by_id

# Damaged images of each format; more for a thorough look: INSTAR_REPAIRS=200.
FIRST = int(os.environ.get("INSTAR_REPAIRS_FIRST", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("INSTAR_REPAIRS", "10")))
MIB = 1 << 20
# Where something of the stock tool's own is in the way, and what it says then; docs/differences.md has the reasons.
OTHERWISE = (
    "Preventing invalid write",
    "Marking image as corrupt",
    "is outside image",
    "overhanging snapshots",
    "Can't update bitmap directory",
    "qcow2_free_clusters failed",
    "rebuilt refcount structure is still broken",
    "Assertion",
)


def plain(outcome):
    """A warning of the stock tool does not end its line."""
    return outcome[0], outcome[1].replace("image file to fix.\n", "image file to fix."), outcome[2]


def counts(outcome):
    """What is told of an image whose refcount blocks were written anew: they lie elsewhere than the stock tool's."""
    errors = re.sub(r"Repairing cluster \d+ refcount=\d+ reference=\d+\n", "", outcome[1])
    return re.sub(r"Image end offset: \d+\n", "", outcome[0]), errors, outcome[2]


def gives_up(outcome):
    """The stock tool does, at the second block that a parallels image uses twice."""
    return "Check failed: Device or resource busy" in outcome[1]


def is_far(path):
    """The stock tool made the file as long as its wrong entries say."""
    return os.path.getsize(path) > 1 << 38


class RepairTest(InstarTestBase):
    """Both tools on copies of the same image."""

    random_image = test_check.CheckTest.random_image

    def setUp(self):
        super().setUp()
        more = mock.patch.dict(os.environ, {"INSTAR_MAX_MESSAGES": "1G"})
        more.start()
        self.addCleanup(more.stop)

    def clear(self):
        for name in os.listdir(self.tmp):
            if name != "bin":
                os.unlink(self.path(name))

    def repaired(self, *words):
        """Repairs a copy of `image` with each tool, under the same name; the copies are `ours` and `theirs` then."""
        outcomes = []
        for name, run in (("ours", self.run_as_qemu_img), ("theirs", self.run_qemu_img)):
            shutil.copyfile(self.path("image"), self.path("copy"))
            outcomes.append(plain(run("check", *words, "copy", cwd=self.tmp)))
            os.rename(self.path("copy"), self.path(name))
        return outcomes

    def shown(self, name, fmt, *words):
        """What an image shows to the stock tool; None: it does not open."""
        out = self.run_qemu_img("convert", "-f", fmt, "-O", "raw", *words, name, "out", cwd=self.tmp)
        if out[2] != 0:
            return None
        with open(self.path("out"), "rb") as file:
            return file.read()

    def snapshots(self, name):
        lines = self.run_qemu_img("snapshot", "-l", name, cwd=self.tmp)[0].splitlines()[2:]
        return [line.split()[0] for line in lines if line.split()]

    def assert_nothing_lost(self, fmt, theirs_lost_snapshots=False):
        """Whatever the stock tool's copy shows, ours does."""
        shown = self.shown("theirs", fmt)
        if shown is not None and shown != self.shown("image", fmt):
            # A cluster of the disk is one of the metadata, too.
            shown = self.shown("image", fmt) and None
        if shown is not None:
            self.assertTrue(shown == self.shown("ours", fmt), "a byte of the disk is lost")
        if fmt != "qcow2" or theirs_lost_snapshots:
            return
        # Where a snapshot table is no table, thousands may have one name.
        for snapshot in dict.fromkeys(self.snapshots("theirs")):
            shown = self.shown("theirs", fmt, "-l", f"snapshot.id={snapshot}")
            if shown is not None:
                ours = self.shown("ours", fmt, "-l", f"snapshot.id={snapshot}")
                self.assertTrue(shown == ours, f"a byte of snapshot {snapshot} is lost")

    def test_qcow2(self):
        kinds = {"same": 0, "rebuilt": 0, "otherwise": 0, "bitmaps": 0}
        for seed in SEEDS:
            options = self.random_image("image", seed % 36)
            # Opened to be repaired, an image with bitmaps loses all its snapshots to the stock tool.
            loses = damage.Image(self.path("image")).snapshots > 0
            what = damage.damage(self.path("image"), seed)
            bitmaps = damage.Image(self.path("image")).bitmap_directory()
            for repair in ("leaks", "all"):
                with self.subTest(seed=seed, repair=repair, what=what, options=options):
                    ours, theirs = self.repaired("-r", repair)
                    text = theirs[0] + theirs[1]
                    if bitmaps and (loses or "snapshot" in what or ours != theirs):
                        kinds["bitmaps"] += 1
                        # What is no table of snapshots may be taken for one: how much of that is wrong means nothing.
                        self.check_ours(repair, what, counts="snapshot" not in what)
                        continue
                    if any(word in text for word in OTHERWISE) or "the cluster cannot be read" in ours[1]:
                        kinds["otherwise"] += 1
                    elif "their table would be in the header" in ours[1]:
                        kinds["otherwise"] += 1
                        self.assertEqual(ours[2], 0)
                    elif self.snapshot_table("theirs") != self.snapshot_table("image") == self.snapshot_table("ours"):
                        # Said to reach behind the file, it is a leak to the stock tool, which fills it with zeroes.
                        kinds["otherwise"] += 1
                        self.check_ours(repair, what)
                    elif "Rebuilding" in theirs[1] and "snapshot_count" not in what:
                        kinds["rebuilt"] += 1
                        self.assertEqual(counts(ours), counts(theirs))
                    elif "Rebuilding" not in theirs[1]:
                        kinds["same"] += 1
                        self.assertEqual(ours, theirs)
                    if self.run_qemu_img("check", "theirs", cwd=self.tmp)[2] == 0:
                        out = self.run_qemu_img("check", "ours", cwd=self.tmp)
                        if "the cluster cannot be read" not in ours[1]:
                            self.assertEqual(out[2], 0, out)
                    self.assert_nothing_lost("qcow2")
            self.clear()
        print(f"qcow2: {kinds}")

    def snapshot_table(self, name):
        image = damage.Image(self.path(name))
        # A damaged place may be no offset at all.
        return image.read(image.snapshot_table, 8) if image.snapshot_table < image.size else b""

    def check_ours(self, repair, what, counts=True):
        """Judged without the stock tool's repair: nothing is lost and, where it `counts`, no more is wrong than was."""
        before, after = (self.run_qemu_img("check", name, cwd=self.tmp) for name in ("image", "ours"))
        if counts and before[2] != 1:
            # Where counts of lost snapshots are given up, the flag may be missing from what has one user again: that costs a
            # copy, and no data.
            harmless = "OFLAG_COPIED .*_entry=(?![89a-f][0-9a-f]{15} )"
            errors = [re.findall(f"^ERROR (?!{harmless}).*", each[0] + each[1], re.MULTILINE) for each in (before, after)]
            self.assertLessEqual(len(errors[1]), len(errors[0]), (repair, what))
        shown = self.shown("image", "qcow2")
        if (
            shown is not None
            and repair == "leaks"
            and not set(what.split()) & {"entry_metadata", "block_place", "l1_entry"}
        ):
            self.assertTrue(shown == self.shown("ours", "qcow2"))

    def test_snapshots_beside_bitmaps_stay(self):
        """The stock tool's `check -r` of a sound image with both takes all snapshots away."""
        self.make("img", "create", "-q", "-f", "qcow2", "image", "4M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", "image")
        self.make("img", "snapshot", "-c", "kept", "image")
        self.make("img", "bitmap", "--add", "image", "b")
        ours, theirs = self.repaired("-r", "leaks")
        self.assertEqual(ours[1:], ("", 0))
        self.assertNotEqual(theirs[1], "")
        self.assertEqual((self.snapshots("ours"), self.snapshots("theirs")), (["1"], []))
        with open(self.path("image"), "rb") as one, open(self.path("ours"), "rb") as other:
            self.assertEqual(one.read(), other.read())

    def small(self, fmt, options):
        self.make("img", "create", "-q", "-f", fmt, "-o", options, "image", "8M")
        self.make("qemu-io", "-f", fmt, "-c", "write -P 1 0 1M", "-c", "write -P 2 2M 1M", "image")
        with open(self.path("image"), "rb") as file:
            return bytearray(file.read())

    @staticmethod
    def unplaced(outcome):
        """Copies of clusters that were used twice may be anywhere."""
        if "Repairing duplicate" not in outcome[1]:
            return outcome
        return re.sub(r"[0-9.]+% fragmented|Image end offset: \d+", "", outcome[0]), *outcome[1:]

    def compare(self, fmt, words=("leaks", "all")):
        for repair in words:
            ours, theirs = self.repaired("-r", repair, "-f", fmt)
            if theirs[2] < 0:
                # The stock tool gives up by an assertion.
                self.assertGreaterEqual(ours[2], 0)
                continue
            if fmt == "parallels" and repair == "all" and (gives_up(theirs) or is_far(self.path("theirs"))):
                self.assertEqual(ours[2], 0, ours)
                self.assertEqual(self.run_qemu_img("check", "-f", fmt, "ours", cwd=self.tmp)[2], 0)
                self.assert_nothing_lost(fmt)
                continue
            self.assertEqual(self.unplaced(ours), self.unplaced(theirs))
            check = [self.run_qemu_img("check", "-f", fmt, name, cwd=self.tmp)[2] for name in ("ours", "theirs")]
            if repair == "all":
                self.assertEqual(*check)
                self.assert_nothing_lost(fmt)

    def test_qed(self):
        for seed in SEEDS:
            rng = random.Random(seed)
            data = self.small("qed", f"cluster_size={rng.choice((4096, 65536))}")
            tables = [struct.unpack_from("<Q", data, 40)[0]]
            tables += [e for e in struct.unpack_from("<4Q", data, tables[0]) if e]
            for _ in range(rng.randrange(1, 4)):
                kind = rng.randrange(5)
                at = tables[kind % len(tables)] + 8 * rng.randrange(24)
                value = (0, 1 << 40, tables[-1], len(data) + 65536, struct.unpack_from("<Q", data, tables[-1])[0])[kind]
                struct.pack_into("<Q", data, at, value)
            if rng.random() < 0.5:
                struct.pack_into("<Q", data, 16, 2)
            with open(self.path("image"), "wb") as file:
                file.write(data)
            with self.subTest(seed=seed):
                self.compare("qed")
            self.clear()

    def test_parallels(self):
        for seed in SEEDS:
            rng = random.Random(seed)
            data = self.small("parallels", f"cluster_size={rng.choice(('64k', '1M'))}")
            entries = struct.unpack_from("<I", data, 32)[0]
            for _ in range(rng.randrange(1, 4)):
                at = 64 + 4 * rng.randrange(min(entries, 48))
                kind = rng.randrange(6)
                if kind < 2:
                    struct.pack_into("<I", data, at, struct.unpack_from("<I", data, 64)[0])
                elif kind == 2:
                    struct.pack_into("<I", data, at, 0x100000)
                elif kind == 3:
                    struct.pack_into("<I", data, 44, 0x746F6E59)
                elif kind == 4:
                    struct.pack_into("<I", data, 48, rng.choice((77, 1, 1 << 30)))
                else:
                    data += bytes(rng.choice((512, 65536, 300000)))
            with open(self.path("image"), "wb") as file:
                file.write(data)
            with self.subTest(seed=seed):
                self.compare("parallels", ("all",))
                self.compare("parallels", ("leaks",))
            self.clear()

    def test_what_an_extension_refers_to_stays(self):
        """The stock tool cuts the bitmaps of a parallels image off as a leak."""
        folder, name = by_id("parallels/bitmaps")
        shutil.copy(os.path.join(folder, name), self.tmp)
        before = self.sha256(self.path(name))
        for what in ("leaks", "all"):
            out, err, status = self.run_as_qemu_img("check", "-r", what, name, cwd=self.tmp)
            self.assertEqual((status, self.sha256(self.path(name))), (3, before), out + err)
            self.assertIn("warning: Format Extension ignored in RW mode\n", err)
            self.assertIn("1 leaked clusters were found on the image.\n", out)

    def test_formats_without_repair(self):
        for fmt in ("raw", "vdi", "vmdk", "vpc", "qcow"):
            self.make("img", "create", "-q", "-f", fmt, "image", "1M")
            # Whether or not it has to be found out.
            for words in (("-r", "leaks", "-f", fmt), ("-r", "all", "-f", fmt), ("-r", "all")):
                with self.subTest(fmt=fmt, words=words):
                    ours, theirs = self.repaired(*words)
                    self.assertEqual(ours, theirs)

    def test_words(self):
        self.make("img", "create", "-q", "-f", "qcow2", "image", "4M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", "image")
        with open(self.path("image"), "r+b") as file:
            file.seek(0x20000 + 20)
            file.write(b"\0\2")
        for words in (
            ("-r", "all"),
            ("-r", "leaks", "--output=json"),
            ("-q", "-r", "all"),
            ("-U", "-r", "all"),
            ("--repair=all", "-T", "none"),
            ("--repair", "leaks", "--output", "human"),
        ):
            with self.subTest(words=words):
                ours, theirs = self.repaired(*words)
                self.assertEqual(ours, theirs)
        for name in ("missing", "driver=qcow2,file.filename=image,read-only=on"):
            more = ("--image-opts",) if "=" in name else ()
            argv = ("check", "-r", "all", *more, name)
            self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp))

    def test_own_formats(self):
        """Of vdi and vpc, under the own name: what is put right is what our check and the stock tool's find."""
        data = self.small("vdi", "static=off")
        struct.pack_into("<I", data, 0x184, 1)
        with open(self.path("image"), "wb") as file:
            file.write(data)
        shown = self.shown("image", "vdi")
        out = self.run_instar("check", "-r", "all", "image", cwd=self.tmp)
        self.assertEqual(out[2], 0, out)
        self.assertEqual(self.run_qemu_img("check", "image", cwd=self.tmp)[2], 0)
        self.assertEqual(shown, self.shown("image", "vdi"))
        data = self.small("vpc", "subformat=dynamic")
        for place in (0, len(data) - 512):
            broken = bytearray(data)
            broken[place : place + 512] = bytes(512)
            with open(self.path("image"), "wb") as file:
                file.write(broken)
            self.assertEqual(self.run_instar("check", "-f", "vpc", "image", cwd=self.tmp)[2], 2)
            out = self.run_instar("check", "-r", "all", "-f", "vpc", "image", cwd=self.tmp)
            self.assertEqual(out[2], 0, out)
            with open(self.path("image"), "rb") as file:
                self.assertEqual(file.read(), data)
