"""Where a command's text goes: a stream that is full, closed or left is an error of the command, never a panic."""

import os

from tests.base import InstarTestBase
from tests.helpers import denied

FULL = "No space left on device"
CLOSED = "Bad file descriptor"

# What writes to standard output, and what fails with a message on standard error.
TALKING = (
    "info a.qcow2",
    "info --output=json a.qcow2",
    "map a.qcow2",
    "map --output=json a.qcow2",
    "check a.qcow2",
    "measure -O qcow2 a.qcow2",
    "compare a.qcow2 a.qcow2",
    "compare -p a.qcow2 a.qcow2",
    "convert -p a.qcow2 b.raw",
    "create -f qcow2 b.qcow2 1M",
    "create -f qcow2 -o help",
    "resize c.qcow2 2M",
    "commit d.qcow2",
    "rebase -p -b a.qcow2 -F qcow2 d.qcow2",
    "bench -c 1 a.qcow2",
    "doctor",
    "config",
    "generate man",
    "generate config",
    "generate bash",
    "formats",
    "help",
    "version --verbose",
    "--help",
    "--version",
    "info --help",
)
FAILING = (
    "info nowhere",
    "map nowhere",
    "check nowhere",
    "measure nowhere",
    "convert nowhere b.raw",
    "create -f nosuch b 1M",
    "resize nowhere 1M",
    "commit nowhere",
    "rebase -u -b x nowhere",
    "bench nowhere",
    "dd if=nowhere of=b",
    "info",
    "info --nosuch a.qcow2",
    "nosuch",
    "--isolation nowhere info a.qcow2",
)


class TestStreams(InstarTestBase):
    def setUp(self):
        super().setUp()
        for name, *below in (("a.qcow2",), ("c.qcow2",), ("d.qcow2", "-b", "a.qcow2", "-F", "qcow2")):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", *below, name, "1M")

    def shell(self, words, redirection):
        """Standard error (where it is not redirected) and the exit status."""
        line = f'"$0" {words} {redirection}'
        return self.run_tool(["sh", "-c", line, self.get_instar_binary()], cwd=self.tmp)

    def test_standard_output_cannot_be_written_to(self):
        for words in TALKING:
            for redirection, why in ((">/dev/full", FULL), (">&-", CLOSED)):
                with self.subTest(words, redirection=redirection):
                    told = f"instar: cannot write to standard output: {why}\n"
                    self.assertEqual(self.shell(words, redirection), ("", told, 1))

    def test_a_reader_that_has_left(self):
        """Nobody has to be told."""
        for words in TALKING:
            with self.subTest(words):
                line = f'exec 3>&1; {{ sleep 0.1; "$0" {words}; echo status $? >&3; }} | exec 3>&- true'
                out, err, _ = self.run_tool(["bash", "-c", line, self.get_instar_binary()], cwd=self.tmp)
                self.assertEqual((out, err), ("status 1\n", ""))

    def test_standard_error_cannot_be_written_to(self):
        for words in FAILING:
            for redirection in ("2>/dev/full", "2>&-", ">/dev/full 2>&1", ">&- 2>&-"):
                with self.subTest(words, redirection=redirection):
                    self.assertEqual(self.shell(words, redirection), ("", "", 1))
        # 1 would say that they differ.
        self.assertEqual(self.shell("compare a.qcow2 nowhere", "2>/dev/full"), ("", "", 2))

    def test_a_warning_that_is_lost(self):
        with open(self.path("raw"), "wb") as file:
            file.truncate(1 << 20)
        words = "rebase -u -b raw d.qcow2"
        older = "--qemu-version 5.2"
        out, err, status = self.shell(f"{words} {older}", "")
        self.assertEqual((out, status), ("", 0))
        self.assertIn("warning: ", err)
        for redirection in ("2>/dev/full", "2>&-"):
            self.assertEqual(self.shell(f"{words} {older}", redirection), ("", "", 1))

    def test_what_says_nothing_needs_neither(self):
        self.assertEqual(self.shell("convert -O raw a.qcow2 b.raw", ">&- 2>&-"), ("", "", 0))
        self.assertTrue(os.path.exists(self.path("b.raw")))

    def test_the_work_is_done_where_only_the_bar_is_lost(self):
        self.assertEqual(self.shell("convert -p -O raw a.qcow2 b.raw", ">/dev/full")[2], 1)
        self.assertEqual(os.path.getsize(self.path("b.raw")), 1 << 20)

    def test_no_thread_can_be_made(self):
        """As under a service manager's filter or limit: one line, no panic, nothing made."""
        told = "instar: cannot set the sandbox up: no thread: Resource temporarily unavailable\n"
        for words in ("info a.qcow2", "convert -O raw a.qcow2 b.raw", "check a.qcow2"):
            with self.subTest(words):
                result = self.run_instar(*words.split(), cwd=self.tmp, before=denied.threads)
                self.assertEqual(result, ("", told, 1))
        self.assertFalse(os.path.exists(self.path("b.raw")))
