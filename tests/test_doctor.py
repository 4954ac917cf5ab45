"""`doctor`: it tries, and says what came of it."""

import errno
import json
import os
import re
import shutil

from tests.base import ISOLATION, InstarTestBase
from tests.helpers import confine

WORKS = r"works, a run takes [0-9.]+ ms"


def has_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


class TestDoctor(InstarTestBase):
    def doctor(self, *argv, expect=0, **kwargs):
        """Its lines, by what they are about."""
        out, err, status = self.run_instar("doctor", *argv, **kwargs)
        self.assertEqual((err, status), ("", expect), out)
        return dict(re.fullmatch(r"([^:]+): +(.+)", line).groups() for line in out.splitlines())

    def test_both_are_tried(self):
        found = self.doctor()
        self.assertEqual(
            list(found),
            ["isolation in force", "KVM", "process", "Landlock", "seccomp", "user namespaces", "x86-64-v3"],
        )
        self.assertEqual(found["isolation in force"], ISOLATION)
        self.assertRegex(found["process"], WORKS)
        self.assertRegex(found["KVM"], WORKS if has_kvm() else "^no: /dev/kvm")
        self.assertEqual(found["seccomp"], "yes")

    def test_json(self):
        out, err, status = self.run_instar("doctor", "--output=json")
        self.assertEqual((err, status), ("", 0))
        found = json.loads(out)
        self.assertEqual(list(found["process"]), ["available", "microseconds"])
        self.assertIs(found["process"]["available"], True)
        self.assertEqual(found["kvm"]["available"], has_kvm())
        self.assertEqual(found["isolation"], ISOLATION)

    def test_without_kvm(self):
        """As a user who may not use /dev/kvm."""
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            self.skipTest("becoming another user takes root and setpriv")
        binary = shutil.copy(self.get_instar_binary(), self.path("instar"))
        os.chmod(self.tmp, 0o755)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary, "doctor", "--isolation"]
        for isolation, status in (("auto", 0), ("process", 0), ("kvm", 1)):
            out, err, ended = self.run_tool([*nobody, isolation], cwd=self.tmp)
            self.assertEqual((err, ended), ("", status), out)
            self.assertRegex(out, r"(?m)^KVM: +no: /dev/kvm: ")
            self.assertRegex(out, r"(?m)^process: +" + WORKS)
            self.assertRegex(out, r"(?m)^isolation in force: +" + ("process$" if status == 0 else "none: kvm "))

    def test_what_to_do_without_kvm_depends_on_its_group(self):
        if os.geteuid() != 0 or not os.path.exists("/dev/kvm"):
            self.skipTest("another device in the place of /dev/kvm takes root")
        binary = shutil.copy(self.get_instar_binary(), self.path("instar"))
        os.chmod(self.tmp, 0o755)
        for owner, mode, advice in (
            (34, 0o660, "add the user to the group backup"),
            (54321, 0o660, "the device is for group 54321, which has no name here"),
            (34, 0o600, "the device has no group whose members may use it"),
            (0, 0o660, "the device has no group whose members may use it"),
        ):
            script = (
                f"mknod kvm c 10 232 && chgrp {owner} kvm && chmod {mode:o} kvm && mount --bind kvm /dev/kvm && rm -f kvm"
                ' && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0" doctor --isolation process'
            )
            out, err, status = self.run_tool(["unshare", "--mount", "sh", "-c", script, binary], cwd=self.tmp)
            self.assertEqual((err, status), ("", 0), out)
            self.assertRegex(out, f"(?m)^KVM: +no: /dev/kvm: Permission denied: {advice}")

    def test_without_filters_nothing_works(self):
        found = self.doctor(expect=1, before=lambda: confine.deny(confine.SECCOMP))
        self.assertRegex(found["isolation in force"], "^none: ")
        self.assertRegex(found["process"], "^fails: system call filter: ")
        self.assertRegex(found["KVM"], "^fails: system call filter: " if has_kvm() else "^no: /dev/kvm")
        self.assertRegex(found["seccomp"], "^no: ")

    def test_where_no_page_becomes_executable_all_works(self):
        for before in (confine.no_page_becomes_executable, confine.no_page_becomes_executable_by_filter):
            found = self.doctor(before=before)
            self.assertRegex(found["process"], WORKS)
            self.assertRegex(found["KVM"], WORKS if has_kvm() else "^no: /dev/kvm")

    def test_without_landlock_it_says_so(self):
        found = self.doctor(before=confine.no_landlock)
        self.assertRegex(found["Landlock"], "^missing: ")
        self.assertRegex(found["process"], WORKS)

    def test_a_backend_that_fails_is_told_by_its_reason(self):
        """Without memory files there is no sandbox process; a virtual machine needs none for its memory."""
        found = self.doctor(
            "--isolation=process", expect=1, before=lambda: confine.deny(confine.MEMFD_CREATE, error=errno.ENOSYS)
        )
        self.assertRegex(found["isolation in force"], "^none: process ")
        self.assertRegex(found["process"], "^fails: .*not implemented")
