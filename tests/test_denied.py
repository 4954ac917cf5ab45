"""In places that deny it much: each system call that the program's own filter lets through, denied by somebody else's; no /proc,
no /dev/kvm, nothing that can be written to. What can be done is done, else one sentence says why; `doctor` knows before."""

import errno
import json
import os
import re
import shutil
import tempfile
import unittest

from tests.base import ISOLATION, ROOT, InstarTestBase
from tests.helpers import confine, images, processes

FILTER = ROOT / "src/host/vmm/src/lockdown/syscalls.rs"
HEADERS = ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h")

# Without these no program of the C library's begins, ends a signal's handler, or has threads: it never comes to say anything, or the
# library ends it with words of its own.
NEEDED_BY_ANY = {"arch_prctl", "futex", "mmap", "mprotect", "rt_sigaction", "rt_sigreturn"}
# Bubblewrap's own first process waits under the same filter.
NEEDED_BY_BUBBLEWRAP = {"wait4"}
# Without these nothing can be said, and the exit status says it.
NEEDED_TO_SPEAK = {"write"}
# What cannot tell any more that it has published, or ends at the first signal after that, has published all of it.
TOO_LATE = {"sendmsg", "rt_sigreturn"}
# These are about the image's or the target's file, which the sentence names: `doctor` has none.
OF_FILES = {"open", "openat", "pwrite64"}

# What it calls before its own filter holds.
SETTING_UP = {
    "arch_prctl",
    "close_range",
    "dup2",
    "fork",
    "getppid",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "memfd_create",
    "openat2",
    "pipe2",
    "prlimit64",
    "setrlimit",
    "socketpair",
    "unshare",
}

SENTENCE = r"\A(instar: [^\n]+\n)+\Z"


def of_the_filter():
    """The names of those that the filters let through."""
    tables = FILTER.read_text().split("#[cfg(test)]")[0]
    return sorted(set(re.findall(r"libc::SYS_(\w+)", tables)))


def clean(test, outcome, name):
    """It worked, or says in a sentence why it did not."""
    out, err, status = outcome
    if name in NEEDED_BY_ANY:
        test.assertNotEqual(err, "Timeout after 60s")
        return
    test.assertIn(status, (0, 1), err)
    test.assertNotIn("panicked", err)
    if status == 1 and name not in NEEDED_TO_SPEAK:
        test.assertRegex(err, SENTENCE, out)


class DeniedTest(InstarTestBase):
    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "4M")
        images.write("a.qcow2", (1, 0, "1M"), cwd=self.tmp)
        self.make("qemu-img", "convert", "-O", "raw", "a.qcow2", "stock.raw")

    def numbers(self):
        """System calls by their names, as this machine's headers have them."""
        for header in HEADERS:
            if os.path.exists(header):
                with open(header, encoding="ascii") as file:
                    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", file.read())}
        self.skipTest("the kernel's headers are not there: they have the numbers of system calls")


class TestCalls(DeniedTest):
    def deny(self, *argv, number, error):
        if os.path.exists(self.path("x.raw")):
            os.unlink(self.path("x.raw"))
        return self.run_instar(*argv, cwd=self.tmp, timeout=60, before=lambda: confine.deny(number, error=error))

    def test_each_call_of_the_filter(self):
        known = self.numbers()
        names = of_the_filter()
        self.assertGreater(len(names), 80)
        self.assertEqual(set(names) - set(known), set())
        failed = set()
        for name in names:
            for error in (errno.EPERM, errno.ENOSYS):
                with self.subTest(name, error=errno.errorcode[error]):
                    how = {"number": known[name], "error": error}
                    info = self.deny("info", "a.qcow2", **how)
                    clean(self, info, name)
                    convert = self.deny("convert", "-O", "raw", "a.qcow2", "x.raw", **how)
                    clean(self, convert, name)
                    self.assertTrue(convert[2] != 0 or os.path.exists(self.path("x.raw")))
                    if convert[2] != 0:
                        failed.add(name)
                        self.assertTrue(name in TOO_LATE or not os.path.exists(self.path("x.raw")))
                    if os.path.exists(self.path("x.raw")):
                        self.assert_bytes_identical(self.path("x.raw"), self.path("stock.raw"))
                    doctor = self.deny("doctor", "--output=json", **how)
                    if name in NEEDED_BY_ANY | NEEDED_TO_SPEAK:
                        continue
                    self.assertIn(doctor[2], (0, 1))
                    says = json.loads(doctor[0])[ISOLATION]["available"]
                    if name not in OF_FILES:
                        self.assertEqual(says, info[2] == 0, doctor[0] + info[1])
        # They were denied indeed.
        self.assertLessEqual({"capset", "seccomp", "clone", "linkat", "pwrite64"}, failed)

    def test_the_cause_is_named(self):
        known = self.numbers()
        process = {
            "sendto": "no sandbox process: its doorbell cannot be used: Operation not permitted",
            "recvfrom": "no sandbox process: its doorbell cannot be used: Operation not permitted",
            "getrandom": "no sandbox process: random bytes: Operation not permitted",
            "clone": "no sandbox process: it cannot be made: Operation not permitted",
            "ftruncate": "no sandbox process: its memory: Operation not permitted",
            "mremap": "no sandbox process: its memory cannot be mapped",
            "munmap": "no sandbox process: memory of this program cannot be unmapped in it",
            "rt_sigprocmask": "no sandbox process: its signals cannot be masked",
        }
        for name, text in process.items():
            with self.subTest(name):
                out, err, status = self.deny("info", "--isolation", "process", "a.qcow2", number=known[name], error=errno.EPERM)
                self.assertEqual((out, err, status), ("", f"instar: cannot set the sandbox up: {text}\n", 1))
        out, err, status = self.deny("convert", "-O", "raw", "a.qcow2", "x.raw", number=known["clone"], error=errno.EPERM)
        why = "no process that publishes it: Operation not permitted"
        said = f"instar: x.raw: error while converting raw: Could not create 'x.raw': {why}\n"
        self.assertEqual((out, err, status), ("", said, 1))


@unittest.skipUnless(shutil.which("bwrap"), "bubblewrap is not there")
class TestBubblewrap(DeniedTest):
    """A root of its own, without /proc and /dev/kvm, in which nothing can be written to."""

    def inside(self, *argv, writable=False, before=confine.no_page_becomes_executable, kvm=False, denied=None):
        """`denied`: a filter that is in force from the beginning of the program on."""
        bind = "--bind" if writable else "--ro-bind"
        places = ["--ro-bind", self.get_instar_binary(), "/instar", bind, self.tmp, "/w", "--chdir", "/w"]
        device = ["--dev-bind", "/dev/kvm", "/dev/kvm"] if kvm else []
        bwrap = ["bwrap", "--unshare-all", *places, *device]
        if denied is None:
            return self.run_tool([*bwrap, "/instar", *argv], before=before)
        with tempfile.TemporaryFile() as file:
            file.write(denied)
            file.seek(0)
            filtered = [*bwrap, "--seccomp", str(file.fileno())]
            return self.run_tool([*filtered, "/instar", *argv], before=before, pass_fds=(file.fileno(),))

    def test_each_call_of_the_filter_and_of_the_way_there(self):
        known = self.numbers()
        for name in sorted({*of_the_filter(), *SETTING_UP} - NEEDED_BY_ANY - NEEDED_BY_BUBBLEWRAP):
            for error in (errno.EPERM, errno.ENOSYS):
                with self.subTest(name, error=errno.errorcode[error]):
                    denied = confine.filter_of(known[name], error=error)
                    info = self.inside("info", "--isolation", "process", "a.qcow2", denied=denied)
                    clean(self, info, name)
                    out, err, status = self.inside("doctor", "--output=json", denied=denied)
                    if name not in NEEDED_TO_SPEAK:
                        self.assertIn(status, (0, 1), err)
                        says = json.loads(out)["process"]["available"]
                        self.assertTrue(name in OF_FILES or says == (info[2] == 0), out + info[1])

    def setUp(self):
        super().setUp()
        made = self.run_tool(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "/bin/true"])
        if made[2] != 0:
            self.skipTest(f"bubblewrap cannot work here: {made[1].strip()}")

    def test_what_can_be_done_is_done(self):
        stock = self.run_qemu_img("info", "a.qcow2", cwd=self.tmp)
        isolation = ["--isolation", "process", "--qemu-version", self.qemu_version]
        self.assertEqual(self.inside("info", *isolation, "a.qcow2"), stock)
        self.assertEqual(self.inside("convert", *isolation, "-O", "raw", "a.qcow2", "x.raw", writable=True), ("", "", 0))
        self.assert_bytes_identical(self.path("x.raw"), self.path("stock.raw"))

    def test_what_cannot_is_said(self):
        out, err, status = self.inside("convert", "--isolation", "process", "-O", "raw", "a.qcow2", "x.raw")
        said = "instar: x.raw: error while converting raw: Could not create 'x.raw': Read-only file system\n"
        self.assertEqual((out, err, status), ("", said, 1))
        out, err, status = self.inside("info", "--isolation", "kvm", "a.qcow2")
        self.assertEqual((out, status), ("", 1))
        said = "instar: no virtual machine, but --isolation kvm asks for one: /dev/kvm: No such file or directory: "
        self.assertRegex(err, rf"\A{said}[^\n]+\n\Z")

    def test_doctor_is_right(self):
        for kvm in (False, os.access("/dev/kvm", os.R_OK | os.W_OK)):
            for before in (None, confine.no_page_becomes_executable, confine.no_page_becomes_executable_by_filter):
                with self.subTest(kvm=kvm, before=getattr(before, "__name__", None)):
                    out, err, status = self.inside("doctor", "--isolation", "auto", "--output=json", before=before, kvm=kvm)
                    self.assertEqual((err, status), ("", 0))
                    found = json.loads(out)
                    for place in ("kvm", "process"):
                        works = self.inside("info", "--isolation", place, "a.qcow2", before=before, kvm=kvm)[2] == 0
                        self.assertEqual(found[place]["available"], works, place)
                    self.assertEqual(found["kvm"]["available"], kvm)


@unittest.skipUnless(processes.is_root() and os.path.exists("/dev/kvm"), "other devices take root, and KVM")
class TestAdvice(InstarTestBase):
    """Without /dev/kvm, what to do depends on the place."""

    def advice(self, *before, env=None):
        """What is said of KVM in a root without devices."""
        places = ["--ro-bind", self.get_instar_binary(), "/instar", "--ro-bind", "/sys", "/sys", *before]
        variables = [word for pair in (env or {}).items() for word in ("--setenv", *pair)]
        out, err, status = self.run_tool(["bwrap", "--clearenv", *variables, *places, "/instar", "doctor"])
        self.assertEqual((err, status), ("", 0), out)
        return re.search(r"(?m)^KVM: +no: /dev/kvm: (.*)$", out).group(1)

    @unittest.skipUnless(shutil.which("bwrap"), "bubblewrap is not there")
    def test_the_place(self):
        missing = "No such file or directory: "
        container = missing + "this is a container: start it with --device /dev/kvm"
        self.assertEqual(self.advice("--ro-bind", "/dev/null", "/run/.containerenv"), container)
        self.assertEqual(self.advice("--ro-bind", "/dev/null", "/.dockerenv"), container)
        self.assertEqual(self.advice(env={"container": "podman"}), container)
        service = missing + "this is a service: its unit needs DeviceAllow=/dev/kvm rw, and PrivateDevices=no"
        self.assertEqual(self.advice(env={"INVOCATION_ID": "0"}), service)
        self.assertTrue(self.advice().startswith(missing + "the kernel has KVM, and this place has other devices"))
        # A kernel that has not loaded it.
        unloaded = self.advice("--tmpfs", "/sys/module")
        ways = "load the module kvm_(intel|amd)|this machine is virtual|enable virtualisation"
        self.assertRegex(unloaded, f"^{missing}({ways})")

    @unittest.skipUnless(shutil.which("bwrap"), "bubblewrap is not there")
    def test_root_is_told_of_no_group(self):
        """A device that nobody may use as one: the mount is without devices."""
        said = self.advice("--bind", "/dev/kvm", "/dev/kvm")
        self.assertNotIn("group", said)
        self.assertTrue(said.startswith("Permission denied: something else than its mode denies it"), said)


del DeniedTest
