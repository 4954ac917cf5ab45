"""What the sandbox promises: who may open what, when, and where it runs. The hostile guest's own tests are in src/host/trial."""

import json
import os
import re
import shutil
import subprocess
import time

from tests.base import ISOLATION, ROOT, InstarTestBase
from tests.helpers import images
from tests.helpers.faulty import Faulty

OPENING = ("open", "openat", "openat2", "creat", "socket", "connect", "execve", "execveat", "fork", "vfork")


class TestLockDown(InstarTestBase):
    """Seen by strace."""

    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "4M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        images.write("top.qcow2", (1, 0, "1M"), cwd=self.tmp)

    def calls_after_lock_down(self, *argv):
        """Names of the system calls of all threads and children after the filter is in place, in order."""
        log = self.path("strace.log")
        out, err, status = self.run_tool(
            ["strace", "-f", "-qq", "-o", log, self.get_instar_binary(), *argv], cwd=self.tmp, timeout=120
        )
        self.assertEqual(status, 0, err)
        lines = open(log, encoding="utf-8", errors="replace").read().splitlines()
        # The process that publishes has a lock-down of its own (tests/test_confined.py): it may make files.
        publishers = {line.split()[0] for line in lines if re.search(r"\b(linkat|renameat2?)\(", line)}
        lines = [line for line in lines if line.split()[0] not in publishers]
        main = lines[0].split()[0]
        locked = [i for i, line in enumerate(lines) if line.startswith(main) and "landlock_restrict_self" in line]
        self.assertTrue(locked, "the host half was never locked down")
        # From the filter on: the first seccomp call behind the rules for paths.
        start = next(i for i in range(locked[-1], len(lines)) if lines[i].startswith(main) and " seccomp(" in lines[i])
        names = [re.match(r"\d+ +(?:<\.\.\. )?(\w+)", line) for line in lines[start + 1 :]]
        return [m.group(1) for m in names if m]

    def test_an_image_without_a_chain_opens_nothing(self):
        for argv in (["info", "base.qcow2"], ["convert", "-O", "raw", "base.qcow2", "x.raw"]):
            calls = self.calls_after_lock_down(*argv)
            self.assertEqual([c for c in calls if c in OPENING], [], argv)

    def test_a_chain_is_opened_by_openat2_and_then_nothing(self):
        calls = self.calls_after_lock_down("convert", "-O", "raw", "top.qcow2", "x.raw")
        self.assertEqual({c for c in calls if c in OPENING}, {"openat2"})
        # Once the second filter is there, not even that.
        last_filter = max(i for i, c in enumerate(calls) if c == "seccomp")
        self.assertEqual([c for c in calls[last_filter + 1 :] if c in OPENING], [])


class TestPolicy(InstarTestBase):
    """Names that images give."""

    def overlay(self, backing, name="over.qcow2"):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", name, "1M")
        return name

    def refusal(self, *argv):
        out, err, status = self.run_instar(*argv, cwd=self.tmp)
        self.assertEqual((out, status), ("", 1), err)
        return err

    def test_a_refusal_does_not_tell_whether_the_target_exists(self):
        os.makedirs(self.path("inner/inner"))
        for present, absent in (
            ("/etc/passwd", "/etc/passwx"),
            ("../outside.raw", "../outsidx.raw"),
            ("/proc/self/environ", "/proc/self/environx"),
            ("inner/../../outside.raw", "inner/../../outsidx.raw"),
        ):
            with open(self.path("outside.raw"), "wb") as file:
                file.truncate(1 << 20)
            texts = []
            for target in (present, absent):
                self.overlay(target, "inner/over.qcow2")
                for argv in (["convert", "-O", "raw", "over.qcow2", "x"], ["info", "--backing-chain", "over.qcow2"]):
                    out, err, status = self.run_instar(*argv, cwd=self.path("inner"))
                    self.assertEqual((out if argv[0] == "convert" else "", status), ("", 1))
                    texts.append(err.replace(target, "T"))
            self.assertEqual(texts[:2], texts[2:])
            self.assertRegex(texts[0], "--allow-backing|no place for images")
            self.assertFalse(os.path.exists(self.path("inner/x")))

    def test_links_do_not_lead_out(self):
        os.makedirs(self.path("inner"))
        images.random_disk(self.path("secret.raw"), 1 << 20, 1)
        os.symlink("../secret.raw", self.path("inner/link.raw"))
        os.symlink(self.tmp, self.path("inner/folder"))
        for name in ("link.raw", "folder/secret.raw"):
            self.overlay(name, "inner/over.qcow2")
            self.refusal("convert", "-O", "raw", "inner/over.qcow2", "x")

    def test_an_allowed_directory_is_allowed(self):
        os.makedirs(self.path("inner"))
        images.random_disk(self.path("base.raw"), 1 << 20, 1)
        self.overlay("../base.raw", "inner/over.qcow2")
        argv = ("convert", "-O", "raw", "inner/over.qcow2", "x")
        self.refusal(*argv)
        for how in ({"argv": ["--allow-backing", self.tmp]}, {"env": {"INSTAR_ALLOW_BACKING": f"/usr:{self.tmp}"}}):
            out, err, status = self.run_instar(*how.get("argv", []), *argv, cwd=self.tmp, env=how.get("env", {}))
            self.assertEqual((out, err, status), ("", "", 0))
            self.assert_bytes_identical(self.path("x"), self.path("base.raw"))

    def test_no_backing_allows_none(self):
        images.random_disk(self.path("base.raw"), 1 << 20, 1)
        self.overlay("base.raw")
        self.refusal("convert", "--no-backing", "-O", "raw", "over.qcow2", "x")
        self.assertEqual(self.run_instar("convert", "-O", "raw", "over.qcow2", "x", cwd=self.tmp)[2], 0)
        self.assertEqual(self.run_instar("info", "--no-backing", "over.qcow2", cwd=self.tmp)[2], 0)

    def test_what_is_no_path_is_refused(self):
        os.mkfifo(self.path("fifo"))
        os.mkdir(self.path("folder"))
        for name in ("json:{}", "nbd:localhost:1", "http://x/y", "fifo", "folder", "x\ny"):
            self.overlay(name)
            self.refusal("convert", "-O", "raw", "over.qcow2", "x")

    def test_data_files_pass_the_same_gate(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "d.qcow2", "1M")
        with open(self.path("d.qcow2"), "r+b") as file:
            head = file.read(4096)
            file.seek(head.index(b"data.raw"))
            file.write(b"/etc/mtb")
        text = self.refusal("convert", "-O", "raw", "d.qcow2", "x")
        self.assertIn("no place for images", text)


class TestIsolation(InstarTestBase):
    """Where images are read."""

    def test_verbose_tells_and_nothing_else_does(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        _, err, status = self.run_instar("info", "a.qcow2", cwd=self.tmp)
        self.assertEqual((err, status), ("", 0))
        _, err, _ = self.run_instar("info", "--verbose", "a.qcow2", cwd=self.tmp)
        self.assertIn("KVM" if ISOLATION == "kvm" else "process", err)

    def test_without_kvm(self):
        """As a user who may not use /dev/kvm: auto goes on without a word, kvm says what to do."""
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            self.skipTest("becoming another user takes root and setpriv")
        binary = shutil.copy(self.get_instar_binary(), self.path("instar"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M")
        os.chmod(self.tmp, 0o755)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary]
        out, err, status = self.run_tool([*nobody, "info", "--isolation", "auto", "a.qcow2"], cwd=self.tmp)
        self.assertEqual((err, status), ("", 0))
        self.assertIn("file format: qcow2", out)
        out, err, status = self.run_tool([*nobody, "info", "--isolation", "kvm", "a.qcow2"], cwd=self.tmp)
        self.assertEqual((out, status), ("", 1))
        self.assertRegex(err, r"/dev/kvm.*(group|module)")

    def test_limits_are_told_by_name(self):
        images.random_disk(self.path("disk.raw"), 64 << 20, 1)
        for flag, value in (("--max-requests", "3"), ("--max-output-growth", "1M"), ("--max-seconds", "0")):
            out, err, status = self.run_instar(
                "convert", flag, value, "-O", "qcow2", "disk.raw", "x.qcow2", cwd=self.tmp
            )
            self.assertEqual((out, status), ("", 1), flag)
            self.assertIn(flag, err)
            self.assertFalse(os.path.exists(self.path("x.qcow2")))
        out, err, status = self.run_instar("info", "--max-guest-memory", "1M", "disk.raw", cwd=self.tmp)
        self.assertEqual((out, status), ("", 1))
        self.assertIn("--max-guest-memory", err)

    def test_an_output_that_grows_too_far_is_told_as_that(self):
        images.random_disk(self.path("disk.raw"), 1 << 20, 1)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "old.qcow2", "1M")
        for name, run in (("instar", self.run_instar), ("qemu-img", self.run_as_qemu_img)):
            for words in (
                ("create", "-q", "-f", "raw", "x", "64M"),
                ("create", "-q", "-f", "qcow2", "x", "1G"),
                ("create", "-q", "-f", "vmdk", "x", "1G"),
                ("create", "-q", "-f", "vhdx", "x", "1G"),
                ("convert", "-O", "qcow2", "disk.raw", "x"),
                ("convert", "-O", "raw", "disk.raw", "x"),
                ("convert", "-n", "-O", "qcow2", "disk.raw", "old.qcow2"),
                ("resize", "-f", "qcow2", "--preallocation=full", "old.qcow2", "4M"),
                ("dd", "if=disk.raw", "of=x"),
            ):
                out, err, status = run(*words, cwd=self.tmp, env={"INSTAR_MAX_OUTPUT_GROWTH": "64K"})
                self.assertEqual((out, status), ("", 1), words)
                says = "': the limit on growth of the output was reached (65536 bytes); --max-output-growth raises it\n"
                self.assertRegex(err, f"^{name}: '[a-z0-9.]+{re.escape(says)}$")
                self.assertFalse(os.path.exists(self.path("x")))

    def test_a_read_that_is_never_answered_does_not_outlast_the_limit(self):
        """The kernel does not give the thread back: the program ends without it, and what it was making goes."""
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            self.skipTest("needs root and FUSE")
        for folder in ("files", "mount", "out"):
            os.mkdir(self.path(folder))
        images.random_disk(self.path("files/slow.raw"), 4 << 20, 1)
        images.random_disk(self.path("disk.raw"), 4 << 20, 1)
        faulty = Faulty(self.path("files"), self.path("mount"), cached=True)
        try:
            faulty.mute.add("slow.raw")
            slow = self.path("mount/slow.raw")
            for words, expected in (
                (("info", slow), 1),
                (("convert", "-f", "raw", "-O", "qcow2", slow, "out/x"), 1),
                (("compare", "-f", "raw", "-F", "raw", "disk.raw", slow), 2),
            ):
                begun = time.monotonic()
                out, err, status = self.run_instar(words[0], "--max-seconds", "1", *words[1:], cwd=self.tmp, timeout=30)
                self.assertEqual((out, status), ("", expected), err)
                self.assertIn("the limit on wall-clock time was reached (1 seconds); --max-seconds raises it", err)
                self.assertLess(time.monotonic() - begun, 10)
            until = time.monotonic() + 10
            while os.listdir(self.path("out")) and time.monotonic() < until:
                time.sleep(0.05)
            self.assertEqual(os.listdir(self.path("out")), [])
        finally:
            faulty.close()


class TestTrustBoundary(InstarTestBase):
    """Nothing that knows a format is in the host half."""

    def test_the_binary_links_nothing_of_the_guest(self):
        text = subprocess.run(
            ["cargo", "metadata", "--format-version=1", "--locked"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        metadata = json.loads(text)
        where = {p["id"]: p for p in metadata["packages"]}
        needs = {
            node["id"]: [d["pkg"] for d in node["deps"] if any(k["kind"] is None for k in d["dep_kinds"])]
            for node in metadata["resolve"]["nodes"]
        }
        seen, todo = set(), [p["id"] for p in metadata["packages"] if p["name"] == "instar"]
        self.assertEqual(len(todo), 1)
        while todo:
            package = todo.pop()
            if package not in seen:
                seen.add(package)
                todo += needs[package]
        names = {where[p]["name"] for p in seen}
        self.assertIn("instar-vmm", names)
        guests = [where[p]["name"] for p in seen if "/src/guest/" in where[p]["manifest_path"]]
        self.assertEqual(guests, [])
        self.assertFalse(names & {"zlib-rs", "zstd-safe", "instar-image", "instar-codec"})
