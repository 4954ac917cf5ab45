"""`resize`: what the stock tool makes of an image, to the disk's last byte, and what it says."""

import hashlib
import json
import os
import random
import shutil
import unittest

from tests.base import QEMU_IO, InstarTestBase
from tests.helpers import damage

# More for a thorough look: INSTAR_RESIZE_CASES=1000.
CASES = int(os.environ.get("INSTAR_RESIZE_CASES", "200"))
MIB = 1 << 20


def random_options(rng):
    """Options of `create`, the cluster size, and whether the data is in a file of its own."""
    cluster = rng.choice((512, 1024, 4096, 4096, 16384, 65536, 65536, 2 * MIB))
    options = [f"cluster_size={cluster}"]
    if rng.random() < 0.2:
        return [*options, "compat=0.10"], cluster, False
    if rng.random() < 0.4:
        options.append(f"refcount_bits={rng.choice((1, 2, 4, 8, 32, 64))}")
    if cluster >= 16384 and rng.random() < 0.4:
        options.append("extended_l2=on")
    if rng.random() < 0.15:
        options.append("lazy_refcounts=on")
    external = rng.random() < 0.12
    if external:
        options.append("data_file=disk.data")
        if rng.random() < 0.4:
            options.append("data_file_raw=on")
    elif rng.random() < 0.2:
        options.append("compression_type=zstd")
    if rng.random() < 0.1 and not external:
        options.append("preallocation=metadata")
    return options, cluster, external


class ResizeTest(InstarTestBase):
    """Differential: each tool on its own copy of the same image."""

    def random_image(self, rng):
        """Makes `image.qcow2` (and what it stands on) in the folder `made`; returns what is known of it."""
        folder = self.path("made")
        os.mkdir(folder)
        options, cluster, external = random_options(rng)
        backed = not external and "preallocation=metadata" not in options and rng.random() < 0.3
        size = rng.choice((512, 100 * 512, MIB, 3 * MIB + 512, 9 * MIB + 1024))
        if cluster <= 1024:
            size = min(size, MIB)
        below = []
        if backed:
            below_size = max(512, size + rng.choice((-size // 2, 0, 512, 65536, 2 * MIB)) // 512 * 512)
            self.make("img", "create", "-q", "-f", "raw", "base.raw", str(below_size), cwd=folder)
            self.make("qemu-io", "-f", "raw", "-c", f"write -P 0xbb 0 {below_size}", "base.raw", cwd=folder)
            below = ["-b", "base.raw", "-F", "raw"]
        joined = ",".join(options)
        self.make("img", "create", "-q", "-f", "qcow2", *below, "-o", joined, "image.qcow2", str(size), cwd=folder)
        snapshots = []
        for step in range(rng.randrange(0, 3)):
            commands = []
            for _ in range(rng.randrange(1, 10)):
                length = min(rng.choice((512, cluster, cluster * 5, 70000)) // 512 * 512, size)
                at = rng.choice((size - length, rng.randrange(0, size - length + 1, 512)))
                kind = rng.choice(("", "", "", "-z", "-c"))
                if kind == "-c":
                    at = at // cluster * cluster
                    length = min(cluster, size - at)
                    kind = "" if external else "-c"
                pattern = "" if kind == "-z" else f"-P {rng.randrange(1, 255)}"
                commands += ["-c", f"write {kind} {pattern} {at} {length}"]
            # A compressed write over data is refused: that is as good.
            self.run_tool([QEMU_IO, "-f", "qcow2", *commands, "image.qcow2"], cwd=folder)
            if rng.random() < 0.4 and not external and "refcount_bits=1" not in options:
                self.make("img", "snapshot", "-c", f"s{step}", "image.qcow2", cwd=folder)
                snapshots.append(f"s{step}")
            if rng.random() < 0.3 and "compat=0.10" not in options:
                granularity = rng.choice(("512", "4k", "64k", "1M"))
                self.make("img", "bitmap", "--add", "-g", granularity, "image.qcow2", f"b{step}", cwd=folder)
        return {"options": joined, "size": size, "cluster": cluster, "snapshots": snapshots, "below": below}

    def random_arguments(self, rng, known):
        """What is asked for."""
        size = known["size"]
        new = rng.choice(
            (
                size + 512,
                size + rng.randrange(1, 64) * 512,
                size + known["cluster"],
                size * 2,
                size + 5 * MIB + 512,
                max(size // 2 // 512 * 512, 512),
                max(size - 512, 512),
                512,
                size,
                size + 300 * MIB,
                # Other L1 tables than the header's first, other refcount tables.
                (64 << 30) if known["cluster"] > 1024 else 40 * MIB,
            )
        )
        argv = ["-f", "qcow2"]
        mode = rng.choice((None, None, "off", "metadata", "falloc", "full"))
        if new > 40 * MIB and mode not in (None, "off"):
            new = size + 3 * MIB
        if mode and (new > size or rng.random() < 0.1):
            argv.append(f"--preallocation={mode}")
        if new < size and rng.random() < 0.9:
            argv.append("--shrink")
        if rng.random() < 0.2:
            argv.append("-q")
        operand = str(new)
        if rng.random() < 0.3 and new > size:
            operand = f"+{new - size}"
        elif rng.random() < 0.3 and new < size:
            return ["resize", *argv, "image.qcow2", "--", f"-{size - new}"]
        return ["resize", *argv, "image.qcow2", operand]

    def info(self, folder):
        """Virtual size, and what there is to know of the bitmaps."""
        text = self.make("img", "info", "--output=json", "image.qcow2", cwd=folder)
        info = json.loads(text)
        bitmaps = info["format-specific"]["data"].get("bitmaps", [])
        return info["virtual-size"], sorted((b["name"], b["granularity"], tuple(b["flags"])) for b in bitmaps)

    def test_random_images(self):
        done = 0
        for seed in range(CASES):
            rng = random.Random(seed)
            known = self.random_image(rng)
            argv = self.random_arguments(rng, known)
            for who in ("ours", "theirs"):
                shutil.copytree(self.path("made"), self.path(who))
            with self.subTest(seed=seed, argv=argv, **known):
                ours = self.run_as_qemu_img(*argv, cwd=self.path("ours"))
                theirs = self.run_qemu_img(*argv, cwd=self.path("theirs"))
                self.assertEqual(ours, theirs)
                self.assert_equal_images(known)
                done += theirs[2] == 0
            for folder in ("made", "ours", "theirs"):
                shutil.rmtree(self.path(folder))
        self.assertGreater(done, CASES * 3 // 4)

    def assert_equal_images(self, known):
        """The disk as it was, and zeroes where it grew; snapshots as they were; size and bitmaps as the stock tool's."""
        # The stock tools leave wrong flags behind in a few of the images that they make.
        before = self.run_qemu_img("check", "image.qcow2", cwd=self.path("made"))
        check = self.run_qemu_img("check", "image.qcow2", cwd=self.path("ours"))
        self.assertEqual(check[2], before[2], f"{check}")
        self.assertEqual(self.info(self.path("ours")), self.info(self.path("theirs")))
        size = self.info(self.path("ours"))[0]
        self.assertEqual(self.content("ours", size), self.content("made", min(size, known["size"])))
        for snapshot in known["snapshots"]:
            length = min(known["size"], size)
            self.assertEqual(self.content("ours", length, snapshot), self.content("made", length, snapshot))

    def content(self, who, length, snapshot=None):
        """What the disk shows, up to a length (the stock tool shows snapshots in the disk's size of today)."""
        select = ["-l", snapshot] if snapshot else []
        path = self.path("content.raw")
        self.make("img", "convert", *select, "-f", "qcow2", "-O", "raw", "image.qcow2", path, cwd=self.path(who))
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            at = 0
            # Holes of large disks are not read.
            while at < length:
                try:
                    at = min(os.lseek(file.fileno(), at, os.SEEK_DATA), length)
                except OSError:
                    break
                end = min(os.lseek(file.fileno(), at, os.SEEK_HOLE), length)
                while at < end:
                    block = os.pread(file.fileno(), min(end - at, 65536 - at % 65536), at)
                    for sector in range(0, len(block), 512) if block.strip(b"\0") else ():
                        if part := block[sector : sector + 512].strip(b"\0"):
                            digest.update(b"%d" % (at + sector) + part)
                    at += len(block)
        os.unlink(path)
        return digest.hexdigest()

    def runs(self, who):
        """Which parts are there, are data, are zeroes: without their places."""
        text = self.make("img", "map", "--output=json", "image.qcow2", cwd=self.path(who))
        runs = []
        for run in json.loads(text):
            state = (run["depth"], run["present"], run["zero"], run["data"])
            if runs and runs[-1][2] == state:
                runs[-1][1] = run["start"] + run["length"]
            else:
                runs.append([run["start"], run["start"] + run["length"], state])
        return runs

    def test_options_and_their_errors(self):
        for argv in (
            [],
            ["a.qcow2"],
            ["a.qcow2", "2M", "3M"],
            *(["a.qcow2", "--", size] for size in ("2M", "+1M", "-512k", "+1000", "1000000", "512", "0", "-9M", "1.5M")),
            *(["a.qcow2", "--", size] for size in ("", "k", "abc", "+-1", "1e3", "-1G", "16E", "99999999999999999999k")),
            *(["a.qcow2", "--", size] for size in ("0x1ffffffffffffffff", "18446744073709551616", "0x400000", "4E")),
            ["a.qcow2", "9223372036854775807"],
            ["a.qcow2", "9223372036854775296"],
            ["-q", "a.qcow2", "2M"],
            ["--shrink", "a.qcow2", "512k"],
            ["--shrink", "a.qcow2", "3M"],
            ["--preallocation=some", "a.qcow2", "3M"],
            ["--preallocation=full", "a.qcow2", "1M"],
            ["--preallocation=full", "--shrink", "a.qcow2", "512k"],
            ["-f", "nothing", "a.qcow2", "3M"],
            ["--image-opts", "driver=qcow2,file.filename=a.qcow2", "3M"],
            ["--image-opts", "-f", "qcow2", "a.qcow2", "3M"],
            ["--object", "secret,id=s,data=x", "a.qcow2", "3M"],
            ["missing", "3M"],
            ["a.raw", "3M"],
            *(["-f", "raw", "a.raw", size] for size in ("3M", "512k", "1000001", "100P", "9223372036854775807")),
            *(["-f", "raw", f"--preallocation={mode}", "a.raw", "3M"] for mode in ("metadata", "falloc", "full")),
            ["-f", "raw", "--shrink", "a.raw", "1000"],
            ["v2.qcow2", "3M"],
            ["busy.qcow2", "3M"],
        ):
            with self.subTest(argv=argv):
                for who in ("ours", "theirs"):
                    folder = self.path(who)
                    os.mkdir(folder)
                    self.make("img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M", cwd=folder)
                    self.make("img", "create", "-q", "-f", "raw", "a.raw", "1M", cwd=folder)
                    self.make("img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "1M", cwd=folder)
                    self.make("img", "snapshot", "-c", "s", "v2.qcow2", cwd=folder)
                    # A bitmap that a program had open when it broke off.
                    self.make("img", "create", "-q", "-f", "qcow2", "busy.qcow2", "1M", cwd=folder)
                    self.make("img", "bitmap", "--add", "busy.qcow2", "b", cwd=folder)
                    image = damage.Image(os.path.join(folder, "busy.qcow2"))
                    image.write(image.bitmap_directory()[0] + 12, b"\0\0\0\1")
                ours = self.run_as_qemu_img("resize", *argv, cwd=self.path("ours"))
                theirs = self.run_qemu_img("resize", *argv, cwd=self.path("theirs"))
                self.assertEqual(ours, theirs)
                for name in ("a.qcow2", "a.raw", "v2.qcow2"):
                    sizes = [
                        json.loads(self.make("img", "info", "--output=json", name, cwd=self.path(who)))["virtual-size"]
                        for who in ("ours", "theirs")
                    ]
                    self.assertEqual(sizes[0], sizes[1], name)
                for who in ("ours", "theirs"):
                    shutil.rmtree(self.path(who))

    def test_bitmaps_hold_where_it_is_refused(self):
        """No part of a compressed cluster can be made zeroes, where a longer backing file would show."""
        for who in ("ours", "theirs"):
            folder = self.path(who)
            os.mkdir(folder)
            self.make("img", "create", "-q", "-f", "raw", "base", "3M", cwd=folder)
            options = ("-o", "extended_l2=on,cluster_size=16k", "-b", "base", "-F", "raw")
            self.make("img", "create", "-q", "-f", "qcow2", *options, "a.qcow2", "54784", cwd=folder)
            self.make("qemu-io", "-c", "write -c -P 5 49152 5632", "a.qcow2", cwd=folder)
            self.make("img", "bitmap", "--add", "a.qcow2", "b", cwd=folder)
        ours = self.run_as_qemu_img("resize", "a.qcow2", "1593344", cwd=self.path("ours"))
        self.assertEqual(ours, self.run_qemu_img("resize", "a.qcow2", "1593344", cwd=self.path("theirs")))
        self.assertEqual(ours[2], 1)
        self.assertNotIn("in-use", self.make("img", "info", "a.qcow2", cwd=self.path("ours")))

    def test_raw_preallocation_is_what_it_says(self):
        for mode, least in (("falloc", 4 * MIB), ("full", 4 * MIB), ("off", 0)):
            path = self.path("a.raw")
            with open(path, "wb") as file:
                file.write(b"x" * 1000)
            out, err, status = self.run_instar("resize", "-f", "raw", f"--preallocation={mode}", path, "5M")
            self.assertEqual((status, err), (0, ""), out)
            self.assertEqual(os.path.getsize(path), 5 * MIB)
            self.assertGreaterEqual(os.stat(path).st_blocks * 512, least, mode)
            with open(path, "rb") as file:
                self.assertEqual(file.read().rstrip(b"\0"), b"x" * 1000)

    def test_nothing_old_shows_when_a_disk_grows_again(self):
        """What lay behind the end of a disk that was shrunk, with a snapshot that still has it and without."""
        for options in ("cluster_size=64k", "cluster_size=2M", "cluster_size=64k,extended_l2=on"):
            for how in ("plain", "packed", "snapshot"):
                self.make("img", "create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", "4M")
                packed = "-c" if how == "packed" else ""
                step = 2 * MIB if "2M" in options else 65536
                writes = [part for at in range(0, 4 * MIB, step) for part in ("-c", f"write {packed} -P 7 {at} {step}")]
                self.make("qemu-io", "-f", "qcow2", *writes, "a.qcow2")
                if how == "snapshot":
                    self.make("img", "snapshot", "-c", "s", "a.qcow2")
                for size in (MIB + 512, 3 * MIB):
                    out, err, status = self.run_instar("resize", "--shrink", "a.qcow2", str(size), cwd=self.tmp)
                    self.assertEqual((status, err), (0, ""), out)
                self.assert_check_clean("a.qcow2")
                self.make("img", "convert", "-O", "raw", "a.qcow2", "a.raw")
                with open(self.path("a.raw"), "rb") as file:
                    content = file.read()
                self.assertEqual(content[: MIB + 512], b"\7" * (MIB + 512), (options, how))
                self.assertEqual(content[MIB + 512 :].count(0), 2 * MIB - 512, (options, how))
                if how == "snapshot":
                    self.make("img", "snapshot", "-a", "s", "a.qcow2")
                    self.make("img", "convert", "-O", "raw", "a.qcow2", "a.raw")
                    with open(self.path("a.raw"), "rb") as file:
                        self.assertEqual(file.read(), b"\7" * (4 * MIB), options)
                os.unlink(self.path("a.qcow2"))

    def test_a_raw_data_file_is_what_the_disk_shows_where_it_grew(self):
        for cluster in ("64k", "4k"):
            options = f"data_file=d.raw,data_file_raw=on,cluster_size={cluster}"
            self.make("img", "create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", "1000k")
            for size in ("2M", "5M", "1M", "3M"):
                out, err, status = self.run_instar("resize", "-q", "--shrink", "a.qcow2", size, cwd=self.tmp)
                self.assertEqual((out, err, status), ("", "", 0))
                self.assertEqual(os.path.getsize(self.path("d.raw")), self.info_json("a.qcow2")["virtual-size"])
                # Another program writes into the file, up to its end.
                with open(self.path("d.raw"), "r+b") as file:
                    file.write(random.Random(size).randbytes(os.path.getsize(self.path("d.raw"))))
                self.make("img", "compare", "-q", "-f", "raw", "-F", "qcow2", "d.raw", "a.qcow2")
                self.assert_check_clean("a.qcow2")
            for name in ("a.qcow2", "d.raw"):
                os.unlink(self.path(name))

    @unittest.skipUnless(os.geteuid() == 0, "loop devices need root")
    def test_block_devices_keep_their_size(self):
        with open(self.path("backing"), "wb") as file:
            file.truncate(5 * MIB)
        device = self.run_tool(["losetup", "-f", "--show", self.path("backing")])[0].strip()
        self.addCleanup(self.run_tool, ["losetup", "-d", device])
        for size in ("5M", "+5M", "4M", "6M"):
            argv = ["resize", "--shrink", "-f", "raw", device, size]
            self.assertEqual(self.run_as_qemu_img(*argv), self.run_qemu_img(*argv), size)
