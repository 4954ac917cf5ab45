"""`check`: what is said, what is counted and the exit status are the stock tool's, of sound and of damaged images."""

import json
import os
import random
import resource
import shutil
from unittest import mock

from tests.base import QEMU_IO, InstarTestBase
from tests.helpers import damage

BASES = 36
# More for a thorough look: INSTAR_CHECK_DAMAGES=50.
DAMAGES = int(os.environ.get("INSTAR_CHECK_DAMAGES", "8"))
MIB = 1 << 20


def random_options(rng):
    """Options of `create` for a qcow2 image."""
    cluster = rng.choice((512, 1024, 4096, 4096, 16384, 65536, 2 * MIB))
    options = [f"cluster_size={cluster}"]
    if rng.random() < 0.2:
        return [*options, "compat=0.10"], cluster, False
    if rng.random() < 0.5:
        options.append(f"refcount_bits={rng.choice((1, 2, 4, 8, 32, 64))}")
    if cluster >= 16384 and rng.random() < 0.5:
        options.append("extended_l2=on")
    if rng.random() < 0.2:
        options.append("lazy_refcounts=on")
    external = rng.random() < 0.12
    if external:
        options.append("data_file=disk.data")
    elif rng.random() < 0.2:
        options.append("compression_type=zstd")
    if rng.random() < 0.15:
        options.append(f"preallocation={'metadata' if not external else 'falloc'}")
    return options, cluster, external


class CheckTest(InstarTestBase):
    """Differential: both tools on the same file."""

    def setUp(self):
        super().setUp()
        # Images that are damaged everywhere have more to be said of them than is let through by itself.
        more = mock.patch.dict(os.environ, {"INSTAR_MAX_MESSAGES": "1G"})
        more.start()
        self.addCleanup(more.stop)

    def random_image(self, name, seed):
        """A sound image with data, zeroes, compressed clusters, snapshots and bitmaps."""
        rng = random.Random(seed)
        options, cluster, external = random_options(rng)
        size = rng.choice((512, MIB, 3 * MIB + 512, 40 * MIB)) if cluster > 1024 else rng.choice((512, MIB + 512))
        self.make("img", "create", "-q", "-f", "qcow2", "-o", ",".join(options), name, str(size))
        narrow = "refcount_bits=1" in options
        for step in range(rng.randrange(1, 4)):
            commands = []
            for _ in range(rng.randrange(1, 12)):
                length = min(rng.choice((512, cluster, cluster * 5, 70000)) // 512 * 512, size)
                at = rng.randrange(0, size - length + 1, 512)
                kind = rng.choice(("", "", "", "-z", "-c"))
                if kind == "-c":
                    at, length = at // cluster * cluster, cluster
                    kind = "" if external or at + length > size else "-c"
                    length = min(length, size - at)
                commands += ["-c", f"write {kind} {'' if kind == '-z' else '-P 0x%x' % rng.randrange(1, 255)} {at} {length}"]
            # A compressed write over data is refused: that is as good.
            self.run_tool([QEMU_IO, "-f", "qcow2", *commands, name], cwd=self.tmp)
            if rng.random() < 0.5 and not external and not narrow:
                self.make("img", "snapshot", "-c", f"s{step}", name)
            if rng.random() < 0.4 and "compat=0.10" not in options:
                self.make("img", "bitmap", "--add", "-g", "64k", name, f"b{step}")
        return options

    def both(self, *argv):
        """The two outcomes; a warning of the stock tool does not end its line."""

        def plain(outcome):
            return (outcome[0], outcome[1].replace("image file to fix.\n", "image file to fix."), outcome[2])

        return plain(self.run_as_qemu_img(*argv, cwd=self.tmp)), plain(self.run_qemu_img(*argv, cwd=self.tmp))

    def test_images_of_every_kind_sound_and_damaged(self):
        statuses = set()
        for seed in range(BASES):
            options = self.random_image("sound.qcow2", seed)
            for output in ("human", "json"):
                ours, theirs = self.both("check", f"--output={output}", "sound.qcow2")
                self.assertEqual(ours, theirs, f"{seed} {options}")
            for number in range(DAMAGES):
                shutil.copyfile(self.path("sound.qcow2"), self.path("damaged.qcow2"))
                # The kinds of damage are passed through one after the other.
                what = damage.damage(self.path("damaged.qcow2"), seed * DAMAGES + number)
                with self.subTest(seed=seed, number=number, what=what, options=options):
                    ours, theirs = self.both("check", "damaged.qcow2")
                    if "the cluster cannot be read" in ours[1]:
                        # Of a data file, which the stock tool's check does not look at.
                        read = self.run_qemu_img("convert", "-O", "raw", "damaged.qcow2", "x.raw", cwd=self.tmp)
                        self.assertEqual((ours[2], read[2]), (2, 1), ours[1])
                        continue
                    self.assertEqual(ours, theirs)
                    statuses.add(theirs[2])
            for name in os.listdir(self.tmp):
                if name != "bin":
                    os.unlink(self.path(name))
        self.assertEqual(statuses & {0, 1, 2, 3}, {0, 1, 2, 3})

    def test_statistics_of_every_format(self):
        """Each tells what it counts, and where there is nothing to be told of, nothing."""
        for fmt in ("qcow2", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels", "qcow", "raw"):
            for size in ("0", "1000000", "3G"):
                if self.run_qemu_img("create", "-q", "-f", fmt, "image", size, cwd=self.tmp)[2] != 0:
                    continue
                for filled in (False, size != "0"):
                    if filled:
                        self.make("qemu-io", "-f", fmt, "-c", "write -q -P 3 0 512", "image")
                    for words in ("-f {} image", "image", "--output=json -f {} image", "--output=json image", "-q image"):
                        with self.subTest(fmt=fmt, size=size, filled=filled, words=words):
                            ours, theirs = self.both("check", *words.format(fmt).split())
                            self.assertEqual(ours, theirs)
                os.unlink(self.path("image"))

    def test_options_and_their_errors(self):
        self.make("img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write 0 256k", "a.qcow2")
        self.make("img", "create", "-q", "-f", "raw", "a.raw", "1M")
        for argv in (
            ["a.qcow2"],
            ["-q", "a.qcow2"],
            ["-f", "qcow2", "a.qcow2"],
            ["-f", "raw", "a.qcow2"],
            ["a.raw"],
            ["-q", "a.raw"],
            ["--output=json", "a.qcow2"],
            ["-q", "--output=json", "a.qcow2"],
            ["--output=xml", "a.qcow2"],
            ["-U", "a.qcow2"],
            ["--force-share", "a.qcow2"],
            ["-T", "none", "a.qcow2"],
            ["-T", "nothing", "a.qcow2"],
            ["--image-opts", "driver=qcow2,file.filename=a.qcow2"],
            ["--image-opts", "-f", "qcow2", "a.qcow2"],
            ["--object", "secret,id=s,data=x", "a.qcow2"],
            ["-r", "everything", "a.qcow2"],
            ["-f", "nothing", "a.qcow2"],
            ["missing"],
            [],
            ["a.qcow2", "a.raw"],
        ):
            with self.subTest(argv=argv):
                ours, theirs = self.both("check", *argv)
                self.assertEqual(ours, theirs)

    def test_backing_and_data_files_are_opened(self):
        self.make("img", "create", "-q", "-f", "raw", "base.raw", "1M")
        self.make("img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2")
        self.make("img", "create", "-q", "-f", "qcow2", "-o", "data_file=disk.data", "data.qcow2", "1M")
        for name in ("top.qcow2", "data.qcow2"):
            ours, theirs = self.both("check", name)
            self.assertEqual(ours, theirs, name)
        os.unlink(self.path("base.raw"))
        os.unlink(self.path("disk.data"))
        for name in ("top.qcow2", "data.qcow2"):
            ours, theirs = self.both("check", name)
            self.assertEqual(ours, theirs, name)
            self.assertEqual(theirs[2], 1)

    def test_counts_beyond_a_byte(self):
        """300 snapshots refer to one cluster; with 8 bits they do not fit, with 16 they do."""
        for bits, status in ((8, 2), (16, 0)):
            name = f"many{bits}.qcow2"
            self.make("img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size=4k,refcount_bits={bits}", name, "64k")
            self.make("qemu-io", "-f", "qcow2", "-c", "write 0 4k", name)
            for number in range(300 if bits == 16 else 3):
                self.make("img", "snapshot", "-c", f"s{number}", name)
            if bits == 8:
                # More L2 entries than a count of 8 bits can hold.
                image = damage.Image(self.path(name))
                table = image.tables()[0]
                entry = image.read(table)
                image.write(table, entry * 400)
            ours, theirs = self.both("check", name)
            self.assertEqual(ours, theirs)
            self.assertEqual(theirs[2], status)

    def test_a_million_lines_take_no_memory(self):
        """Every cluster of a large image is leaked."""
        self.make("img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512,preallocation=metadata", "a.qcow2", "64M")
        image = damage.Image(self.path("a.qcow2"))
        image.write(image.l1, bytes(8 * image.l1_size))
        ours, theirs = self.both("check", "a.qcow2")
        self.assertEqual(ours[1].count("Leaked"), theirs[1].count("Leaked"))
        self.assertEqual(ours, theirs)
        limited = self.run_instar("check", "a.qcow2", cwd=self.tmp, limits={resource.RLIMIT_DATA: 256 << 20})
        self.assertEqual(limited[2], 3)

    def test_more_clusters_than_are_counted_at_once(self):
        """A sparse file of 24 Mi clusters; the tables refer to the first and to the last ones."""
        self.make("img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "a.qcow2", "1M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "a.qcow2")
        os.truncate(self.path("a.qcow2"), 12 << 30)
        image = damage.Image(self.path("a.qcow2"))
        ours, theirs = self.both("check", "a.qcow2")
        self.assertEqual(ours, theirs)
        table = image.tables()[0]
        for entry, place in ((1, 11 << 30), (3, 11 << 30), (5, 12 << 30), (7, image.l1)):
            image.put(table + 8 * entry, place | damage.COPIED)
        image.put(table + 8 * 9, 0)
        ours, theirs = self.both("check", "a.qcow2")
        self.assertEqual(sorted(ours[1].splitlines()), sorted(theirs[1].splitlines()))
        self.assertEqual((ours[0], ours[2]), (theirs[0], theirs[2]))
        self.assertEqual(theirs[2], 2)

    def test_the_json_of_a_damaged_image(self):
        self.make("img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write 0 256k", "a.qcow2")
        image = damage.Image(self.path("a.qcow2"))
        at = image.tables()[0]
        image.put(at, image.number(at) + 512)
        image.put(at + 24, 0)
        ours, theirs = self.both("check", "--output=json", "a.qcow2")
        self.assertEqual(ours, theirs)
        found = json.loads(ours[0])
        self.assertEqual((found["leaks"], found["corruptions"] > 0), (1, True))
