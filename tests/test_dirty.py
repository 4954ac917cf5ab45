"""Images that were not closed: made by killing a writer at random points, then changed in place.

They are repaired first, silently, as the stock tool does; what they show is what the stock tool finds in them.
"""

import os
import random
import shutil
import signal
import subprocess
import time

from tests.base import QEMU_IO, InstarTestBase

MIB = 1 << 20
SIZE = 4 * MIB
# Images of each format; more for a thorough look: INSTAR_DIRTY_IMAGES=50.
COUNT = int(os.environ.get("INSTAR_DIRTY_IMAGES", "12"))

QCOW2_OPTIONS = (
    "lazy_refcounts=on",
    "lazy_refcounts=on,cluster_size=4k",
    "lazy_refcounts=on,cluster_size=512",
    "lazy_refcounts=on,cluster_size=512,refcount_bits=64",
    "lazy_refcounts=on,refcount_bits=1",
    "lazy_refcounts=on,cluster_size=16k,extended_l2=on",
    "lazy_refcounts=on,cluster_size=2M",
)
OPTIONS = {
    "qcow2": QCOW2_OPTIONS,
    "qed": ("cluster_size=4k", "cluster_size=64k", "table_size=2"),
    "vhdx": ("subformat=dynamic", "subformat=fixed", "block_size=1M"),
    "vdi": ("static=off", "static=on"),
    "parallels": ("cluster_size=64k", "cluster_size=1M"),
}
JOBS = {
    "qcow2": ("resize", "rebase", "convert", "bench", "commit", "commit"),
    "qed": ("resize", "rebase", "convert", "bench", "commit"),
    "vhdx": ("resize", "convert", "bench", "commit"),
    "vdi": ("resize", "convert", "bench", "commit"),
    "parallels": ("resize", "convert", "bench", "commit"),
}


class DirtyTest(InstarTestBase):
    """Each test makes its images from seeds; how far the writer gets is the machine's."""

    def make_dirty(self, rng, fmt, options, name="image"):
        """Makes an image whose writer was killed."""
        self.make("qemu-img", "create", "-q", "-f", fmt, "-o", options, name, str(SIZE))
        if fmt == "qcow2" and "refcount_bits=1" not in options and rng.random() < 0.3:
            self.make("qemu-io", "-f", fmt, "-c", f"write -P {rng.randrange(1, 255)} 0 300k", name)
            self.make("qemu-img", "snapshot", "-c", "before", name)
        commands = []
        for _ in range(rng.randrange(1, 40)):
            length = rng.choice((512, 4096, 65536, 200 * 1024))
            at = rng.randrange(0, SIZE - length + 1, 512)
            kind = rng.choice(("write", "write", "aio_write", "write -z" if fmt in ("qcow2", "qed") else "write"))
            pattern = "" if "-z" in kind else f"-P {rng.randrange(1, 255)}"
            commands += ["-c", f"{kind} {pattern} {at} {length}"]
            if rng.random() < 0.1:
                commands += ["-c", "flush"]
        path = self.path(name)
        if rng.random() < 0.5:
            argv = [QEMU_IO, "-f", fmt, *commands, "-c", "abort", path]
            subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            return
        argv = [QEMU_IO, "-f", fmt, *commands, "-c", "sleep 2000", path]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as writer:
            time.sleep(rng.random() * 0.06)
            writer.send_signal(signal.SIGKILL)

    def content(self, fmt, name):
        """What an image shows, as the stock tool reads it once it has opened it for writing."""
        shutil.copy(self.path(name), self.path("opened"))
        out, err, status = self.run_tool([QEMU_IO, "-f", fmt, "-c", "flush", self.path("opened")])
        self.assertEqual(status, 0, f"{name}: {out}{err}")
        return self.plain(fmt, "opened")

    def plain(self, fmt, name):
        """What an image shows, as the stock tool reads it."""
        self.make("qemu-img", "convert", "-f", fmt, "-O", "raw", name, "plain")
        with open(self.path("plain"), "rb") as file:
            return file.read()

    def quiet(self, *argv):
        """A command that works, and says nothing on standard error."""
        _, err, status = self.run_instar(*argv, cwd=self.tmp)
        self.assertEqual((err, status), ("", 0), argv)

    def change(self, rng, job, fmt, shown):
        """Does the job on `image`, which shows `shown`; returns what it is to show then."""
        if job == "resize":
            self.quiet("resize", "-q", "-f", fmt, "image", str(SIZE + MIB))
            return shown + bytes(MIB)
        if job == "rebase":
            self.make("qemu-img", "create", "-q", "-f", "raw", "below", str(SIZE))
            self.make("qemu-io", "-f", "raw", "-c", f"write -P 77 0 {SIZE}", "below")
            self.quiet("rebase", "-f", fmt, "-b", "below", "-F", "raw", "image")
            return shown
        if job == "convert":
            source = rng.randbytes(SIZE // 2) + bytes(SIZE // 4) + rng.randbytes(SIZE // 4)
            with open(self.path("source"), "wb") as file:
                file.write(source)
            self.quiet("convert", "-n", "-f", "raw", "-O", fmt, "source", "image")
            return source
        if job == "bench":
            at = rng.randrange(0, SIZE - 16 * 4096, 512)
            self.quiet(
                "bench", "-q", "-w", "--pattern=171", "-c", "16", "-s", "4096", "-o", str(at), "-f", fmt, "image"
            )
            return shown[:at] + b"\xab" * (16 * 4096) + shown[at + 16 * 4096 :]
        self.make("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "image", "-F", fmt, "top", str(SIZE))
        data = rng.randbytes(2 * 65536)
        start = rng.randrange(0, SIZE - len(data) + 1, 65536)
        with open(self.path("data"), "wb") as file:
            file.write(data)
        # Written without a look at what is below.
        alone = "driver=qcow2,file.filename=top,backing="
        self.make("qemu-io", "--image-opts", "-c", f"write -s data {start} {len(data)}", alone)
        self.quiet("commit", "-q", "-f", "qcow2", "top")
        return shown[:start] + data + shown[start + len(data) :]

    def assert_sound(self, fmt, name):
        out, err, status = self.run_qemu_img("check", "-f", fmt, name, cwd=self.tmp)
        # Leaks are no damage; some formats are not checked at all.
        self.assertIn(status, (0, 3, 63), out + err)
        self.assertNotIn("ERROR", out + err)

    def one(self, fmt, seed):
        rng = random.Random(f"{fmt}{seed}")
        options = OPTIONS[fmt][seed % len(OPTIONS[fmt])]
        job = JOBS[fmt][seed // len(OPTIONS[fmt]) % len(JOBS[fmt])]
        with self.subTest(fmt=fmt, seed=seed, options=options, job=job):
            self.make_dirty(rng, fmt, options)
            shown = self.content(fmt, "image")
            wanted = self.change(rng, job, fmt, shown)
            self.assert_sound(fmt, "image")
            self.assert_same_bytes(self.plain(fmt, "image"), wanted, "the disk shows something else")
        for name in os.listdir(self.tmp):
            if os.path.isfile(self.path(name)):
                os.unlink(self.path(name))

    def test_qcow2(self):
        # Each kind with each job once.
        for seed in range(max(COUNT, len(QCOW2_OPTIONS) * len(JOBS["qcow2"]))):
            self.one("qcow2", seed)

    def test_qed(self):
        for seed in range(COUNT):
            self.one("qed", seed)

    def test_vhdx(self):
        for seed in range(COUNT):
            self.one("vhdx", seed)

    def test_vdi(self):
        for seed in range(COUNT):
            self.one("vdi", seed)

    def test_parallels(self):
        for seed in range(COUNT):
            self.one("parallels", seed)
