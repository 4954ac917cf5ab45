"""What `resize --shrink`, `commit` and `rebase` free goes back to the file system: no more is left than by the stock tool."""

import os
import random
import shutil

from tests.base import QEMU_IO, InstarTestBase

MIB = 1 << 20
# Images of each operation; more for a thorough look: INSTAR_SPACE_IMAGES=200.
CASES = int(os.environ.get("INSTAR_SPACE_IMAGES", "20"))
FILE_SYSTEM_BLOCK = 4096
CLUSTERS = (512, 1024, 4096, 4096, 16384, 65536, 65536, 2 * MIB)


class SpaceTest(InstarTestBase):
    """Each tool on its own copy of the same images."""

    def setUp(self):
        super().setUp()
        self.made = self.path("made")
        os.mkdir(self.made)

    def img(self, *argv):
        self.make("img", *argv, cwd=self.made)

    def options(self, rng):
        """Of `create`; and the cluster size."""
        cluster = rng.choice(CLUSTERS)
        options = [f"cluster_size={cluster}"]
        if rng.random() < 0.3:
            options.append(f"refcount_bits={rng.choice((1, 8, 32, 64))}")
        if cluster >= 16384 and rng.random() < 0.3:
            options.append("extended_l2=on")
        if rng.random() < 0.1:
            options = ["compat=0.10", options[0]]
        return ",".join(options), cluster

    def fill(self, rng, name, size, cluster):
        """Writes into the image; now and then, all of it."""
        if rng.random() < 0.3:
            self.make("qemu-io", "-f", "qcow2", "-c", f"write -P {rng.randrange(1, 255)} 0 {size}", name, cwd=self.made)
        commands = []
        for _ in range(rng.randrange(1, 20)):
            length = min(rng.choice((cluster, cluster * 3, 70000, size // 4)) // 512 * 512, size)
            at = rng.randrange(0, size - length + 1, 512)
            kind = rng.choice(("", "", "", "-z", "-c", "discard"))
            if kind == "-c":
                at, length = at // cluster * cluster, min(cluster, size - at // cluster * cluster)
            pattern = f"-P {rng.randrange(1, 255)}" if kind in ("", "-c") else ""
            commands += ["-c", f"discard {at} {length}" if kind == "discard" else f"write {kind} {pattern} {at} {length}"]
        # A compressed write over data is refused: that is as good.
        self.run_tool([QEMU_IO, "-f", "qcow2", *commands, name], cwd=self.made, timeout=600)

    def usage(self, who, name):
        return os.stat(os.path.join(self.path(who), name)).st_blocks * 512

    def compare(self, argv, clusters, **known):
        """Runs both and compares what is left; `clusters`: bytes of one, by the file's name."""
        for who in ("ours", "theirs"):
            self.run_tool(["cp", "-r", "--sparse=always", self.made, self.path(who)])
        with self.subTest(argv=argv, **known):
            ours = self.run_as_qemu_img(*argv, cwd=self.path("ours"))
            theirs = self.run_qemu_img(*argv, cwd=self.path("theirs"))
            self.assertEqual(ours, theirs)
            for name, cluster in clusters.items():
                # A cluster and a refcount block more, each as the file system counts: in whole blocks of its own.
                slack = 2 * max(cluster, FILE_SYSTEM_BLOCK)
                self.assertLessEqual(self.usage("ours", name), self.usage("theirs", name) + slack, name)
                # The stock tools leave wrong flags behind in a few of the images that they make.
                before = self.run_qemu_img("check", name, cwd=self.made)[2]
                out, err, status = self.run_qemu_img("check", name, cwd=self.path("ours"))
                self.assertIn(status, (0, before), out + err)
        for folder in (self.made, self.path("ours"), self.path("theirs")):
            shutil.rmtree(folder)
        os.mkdir(self.made)

    def test_shrink(self):
        for seed in range(CASES):
            rng = random.Random(f"shrink{seed}")
            options, cluster = self.options(rng)
            size = rng.choice((2, 5, 9)) * MIB if cluster <= 1024 else rng.choice((5, 20, 64)) * MIB
            self.img("create", "-q", "-f", "qcow2", "-o", options, "a", str(size))
            self.fill(rng, "a", size, cluster)
            if rng.random() < 0.2 and "refcount_bits=1" not in options and "0.10" not in options:
                self.img("snapshot", "-c", "s", "a")
                self.fill(rng, "a", size, cluster)
            new = rng.choice((512, MIB, size // 2, size - cluster, rng.randrange(512, size, 512)))
            argv = ["resize", "-q", "--shrink", "-f", "qcow2", "a", str(new)]
            self.compare(argv, {"a": cluster}, seed=seed, options=options, size=size)

    def test_commit(self):
        for seed in range(CASES):
            rng = random.Random(f"commit{seed}")
            below, base_cluster = self.options(rng)
            options, cluster = self.options(rng)
            size = rng.choice((2, 5, 9)) * MIB
            self.img("create", "-q", "-f", "qcow2", "-o", below, "base", str(size))
            self.fill(rng, "base", size, base_cluster)
            self.img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o", options, "top")
            self.fill(rng, "top", size, cluster)
            drop = ["-d"] if rng.random() < 0.3 else []
            argv = ["commit", "-q", *drop, "-f", "qcow2", "top"]
            known = {"seed": seed, "below": below, "options": options, "size": size}
            self.compare(argv, {"top": cluster, "base": base_cluster}, **known)

    def test_rebase(self):
        for seed in range(CASES):
            rng = random.Random(f"rebase{seed}")
            below, base_cluster = self.options(rng)
            options, cluster = self.options(rng)
            size = rng.choice((2, 5, 9)) * MIB
            for name in ("base", "other"):
                self.img("create", "-q", "-f", "qcow2", "-o", below, name, str(size))
                self.fill(rng, name, size, base_cluster)
            self.img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o", options, "top")
            self.fill(rng, "top", size, cluster)
            onto = rng.choice((["-b", "other", "-F", "qcow2"], ["-b", ""]))
            argv = ["rebase", "-q", "-f", "qcow2", *onto, "top"]
            self.compare(argv, {"top": cluster}, seed=seed, below=below, options=options, size=size)

    def test_a_full_disk_that_gets_small(self):
        for cluster, most in ((4096, 2 * MIB), (512, 9 * MIB), (65536, 2 * MIB)):
            self.img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "a", "64M")
            self.make("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 64M", "a", cwd=self.made)
            out, err, status = self.run_instar("resize", "-q", "--shrink", "a", "1M", cwd=self.made)
            self.assertEqual((out, err, status), ("", "", 0))
            self.assertLess(os.path.getsize(os.path.join(self.made, "a")), most)
            os.unlink(os.path.join(self.made, "a"))
