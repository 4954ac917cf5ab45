"""What is left of the host half in its sandbox processes, and the program in services that deny it much."""

import errno
import json
import os
import shutil
import time
import unittest
from pathlib import Path

from tests.base import ISOLATION, InstarTestBase
from tests.helpers import confine, images, processes

ONE_LINE = r"\A[^\n]+\n\Z"


class Confined(InstarTestBase):
    """An image that takes a while to copy."""

    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "64M")
        images.write("a.qcow2", (1, 0, "32M"), cwd=self.tmp)

    def slow(self, *argv, before=None):
        """A convert at a rate that leaves time to look at it, once it is at work."""
        command = ["convert", "-r", "1M", "-O", "raw", *argv, "a.qcow2", "slow.raw"]

        def works(process):
            found = processes.children(process.pid)
            sandboxes = [pid for pid in found if processes.runs_a_guest(pid)]
            return len(found) > len(sandboxes) and (sandboxes or ISOLATION != "process") and self.reads(process.pid)

        argv = [self.get_instar_binary(), *command]
        return processes.at_work(argv, works, cwd=self.tmp, preexec_fn=before)

    @staticmethod
    def reads(pid):
        """It has read data: whatever comes before that is done."""
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return int(file.readline().split()[1]) > 1 << 20


class TestHardenedServices(Confined):
    """Filters and flags that the program inherits."""

    def converts(self, before):
        self.make("qemu-img", "convert", "-O", "raw", "a.qcow2", "stock.raw")
        out, err, status = self.run_instar(
            "convert", "-O", "raw", "a.qcow2", "own.raw", cwd=self.tmp, before=before
        )
        self.assertEqual((out, err, status), ("", "", 0))
        self.assert_bytes_identical(self.path("own.raw"), self.path("stock.raw"))

    def test_no_page_becomes_executable(self):
        self.converts(confine.no_page_becomes_executable)

    def test_no_page_becomes_executable_as_systemd_has_it(self):
        self.converts(confine.no_page_becomes_executable_by_filter)

    def test_descriptors_are_closed_one_by_one(self):
        for error in (errno.ENOSYS, errno.EPERM):
            self.converts(lambda error=error: confine.deny(confine.CLOSE_RANGE, error=error))

    def test_without_filters_nothing_runs(self):
        for command in (["info", "a.qcow2"], ["convert", "-O", "raw", "a.qcow2", "x.raw"]):
            out, err, status = self.run_instar(*command, cwd=self.tmp, before=lambda: confine.deny(confine.SECCOMP))
            self.assertEqual((out, status), ("", 1), err)
            self.assertRegex(err, ONE_LINE)
            self.assertRegex(err, "^instar: cannot set the sandbox up: system call filter: ")
            self.assertFalse(os.path.exists(self.path("x.raw")))


@unittest.skipUnless(processes.is_root(), "only root may look at them")
class TestSandboxProcess(Confined):
    """What the guest's process has."""

    def check(self, before=None):
        with self.slow(before=before) as main:
            guests = [pid for pid in processes.children(main.pid) if processes.runs_a_guest(pid)]
            self.assertEqual(bool(guests), ISOLATION == "process")
            for guest in guests:
                self.assertEqual(os.listdir(f"/proc/{guest}/fd"), ["0"])
                lowest, highest = 0x400000, 0x40000000 + (64 << 20)
                # What a kernel seals of its own stays; nothing else lies outside of the guest's addresses.
                own = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")
                outside = [m for m in processes.maps(guest) if not (lowest <= m[0] and m[1] <= highest)]
                self.assertEqual([m for m in outside if m[3] not in own], [])
                self.assertEqual([m for m in processes.maps(guest) if "w" in m[2] and "x" in m[2]], [])
                status = processes.status(guest)
                self.assertEqual((status["Seccomp"], status["NoNewPrivs"]), ("2", "1"))
                for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                    self.assertEqual(int(status[kind], 16), 0, kind)

    def test_it_has_one_descriptor_no_rights_and_no_memory_but_the_guests(self):
        self.check()

    def test_so_it_is_where_descriptors_are_closed_one_by_one(self):
        self.check(lambda: confine.deny(confine.CLOSE_RANGE, error=errno.ENOSYS))

    def test_so_it_is_where_no_page_becomes_executable(self):
        self.check(confine.no_page_becomes_executable)


@unittest.skipUnless(processes.is_root(), "only root may look at them")
class TestHostHalf(Confined):
    """What the process that serves the guest and the one that publishes may do, while they work."""

    def test_the_process_that_publishes_has_few_rights(self):
        chown, dac_override, dac_read_search, fowner, fsetid = (1 << n for n in range(5))
        with self.slow() as main:
            [publisher] = [pid for pid in processes.children(main.pid) if not processes.runs_a_guest(pid)]
            status = processes.status(publisher)
            self.assertEqual((status["Seccomp"], status["NoNewPrivs"]), ("2", "1"))
            for kind in ("CapPrm", "CapEff"):
                self.assertEqual(int(status[kind], 16), chown | dac_override | dac_read_search | fowner | fsetid)
            self.assertEqual((int(status["CapInh"], 16), int(status["CapAmb"], 16)), (0, 0))

    def test_no_thread_of_the_one_that_serves_has_any(self):
        # With a chain there is something to open, for which root keeps two rights until the chain stands.
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "top.qcow2")
        os.rename(self.path("a.qcow2"), self.path("base.qcow2"))
        os.rename(self.path("top.qcow2"), self.path("a.qcow2"))
        self.make("qemu-img", "rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", "a.qcow2")
        with self.slow() as main:
            tasks = [task for task in os.listdir(f"/proc/{main.pid}/task") if not self.is_the_kernels(main.pid, task)]
            self.assertGreater(len(tasks), 1)
            for task in tasks:
                # It gives them up before anything else, which a busy machine may not have let it do yet.
                end = time.monotonic() + 10
                held = {"?"}
                while held and time.monotonic() < end:
                    status = processes.status(main.pid, task)
                    held = {k for k in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(status[k], 16)}
                self.assertEqual((status["Seccomp"], status["NoNewPrivs"], held), ("2", "1", set()), task)

    @staticmethod
    def is_the_kernels(pid, task):
        """A thread that KVM has in each of its processes, and that runs nothing of theirs."""
        user_worker = 0x4000
        fields = Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()
        return bool(int(fields[6]) & user_worker)

    def test_no_core_is_written(self):
        with self.slow() as main:
            for pid in [main.pid, *processes.children(main.pid)]:
                limits = Path(f"/proc/{pid}/limits").read_text()
                self.assertRegex(limits, r"Max core file size +0 +0 ")

    def test_nobody_of_the_same_user_looks_in(self):
        """A process that can be dumped belongs to its user in /proc, another one to root. A target is published all the same."""
        nobody = 65534
        os.chown(self.tmp, nobody, nobody)
        binary = shutil.copy(self.get_instar_binary(), self.path("instar"))

        def become_nobody():
            os.setgroups([])
            os.setresgid(nobody, nobody, nobody)
            os.setresuid(nobody, nobody, nobody)

        argv = [binary, "convert", "--isolation", "process", "-O", "raw", "a.qcow2", "own.raw"]
        with processes.at_work(
            [*argv[:-1], "-r", "1M", "slow.raw"],
            lambda process: len(processes.children(process.pid)) > 1 and self.reads(process.pid),
            cwd=self.tmp,
            preexec_fn=become_nobody,
        ) as main:
            for pid in [main.pid, *processes.children(main.pid)]:
                self.assertEqual(os.stat(f"/proc/{pid}/environ").st_uid, 0)
        out, err, status = self.run_tool(argv, cwd=self.tmp, before=become_nobody)
        self.assertEqual((out, err, status), ("", "", 0))
        self.assertEqual(os.path.getsize(self.path("own.raw")), 64 << 20)

    def test_a_secret_is_nowhere_but_in_the_guest(self):
        """Not in the arguments, not in what was allocated, not in the process that publishes."""
        needle = b"seventeen-dark-horses"
        images.random_disk(self.path("disk.raw"), 8 << 20, 1)
        given = ["--object", f"secret,id=s,data={needle.decode()}"]
        self.make(
            "qemu-img", "convert", *given, "-O", "luks", "-o", "key-secret=s,iter-time=10", "disk.raw", "a.luks"
        )
        image = ["--image-opts", "driver=luks,key-secret=s,file.filename=a.luks", "-O", "raw", "slow.raw"]
        as_json = json.dumps({"qom-type": "secret", "id": "s", "data": needle.decode()})
        with open(self.path("key"), "wb") as file:
            file.write(needle)
        for words in (given, ["--object", as_json], ["--object", "secret,id=s,file=key"]):
            argv = [self.get_instar_binary(), "convert", "-r", "1M", *words, *image]
            with processes.at_work(argv, lambda process: self.reads(process.pid), cwd=self.tmp) as main:
                for pid in [main.pid, *processes.children(main.pid)]:
                    if not processes.runs_a_guest(pid):
                        self.assertEqual(set(processes.holds(pid, needle)) - {"the guest's memory"}, set(), words)

    def test_all_end_with_the_one_that_serves(self):
        with self.slow() as main:
            others = processes.children(main.pid)
            main.kill()
            main.wait()
            until = time.monotonic() + 10
            while any(os.path.exists(f"/proc/{pid}") for pid in others) and time.monotonic() < until:
                time.sleep(0.01)
            self.assertEqual([pid for pid in others if os.path.exists(f"/proc/{pid}")], [])
        self.assertFalse(os.path.exists(self.path("slow.raw")))


del Confined
