"""What is left of the host half in its sandbox processes, and the program in services that deny it much."""

import errno
import os
import unittest

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


del Confined
