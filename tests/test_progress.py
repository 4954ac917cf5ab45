"""SIGUSR1 asks how far an operation is: it says so on standard error, and goes on."""

import re
import shutil
import signal
import subprocess
import time

from tests.base import InstarTestBase

LINE = re.compile(r"    \(\d+\.\d\d/100%\)\n")


class TestProgress(InstarTestBase):
    def setUp(self):
        super().setUp()
        for name, below in (("base", None), ("top", "base")):
            words = ["-b", below, "-F", "qcow2"] if below else []
            self.make("qemu-img", "create", "-q", "-f", "qcow2", *words, name, "24M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 24M", "top")

    def asked(self, *argv):
        """What it says on standard error when it is asked twice."""
        with subprocess.Popen(
            [self.get_instar_binary(), *argv],
            cwd=self.tmp,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as worker:
            for _ in range(2):
                time.sleep(0.7)
                self.assertIsNone(worker.poll(), "it was over too soon to be asked")
                worker.send_signal(signal.SIGUSR1)
            _, err = worker.communicate(timeout=60)
            self.assertEqual(worker.returncode, 0, err)
        return err

    def test_convert(self):
        err = self.asked("convert", "-r", "8M", "-O", "qcow2", "top", "out")
        self.assertRegex(err, LINE)
        self.assertEqual(LINE.sub("", err), "")
        self.assert_same_disk("top", "out")

    def test_commit(self):
        before = self.make("qemu-img", "convert", "-O", "raw", "top", "before")
        self.assertEqual(before, "")
        self.assertRegex(self.asked("commit", "-r", "8M", "top"), LINE)
        self.assert_same_disk("before", "top", "-f", "raw", "-F", "qcow2")

    def test_the_bar_of_what_fails(self):
        """It begins where the stock tool's does, and its line ends."""
        self.make("qemu-img", "create", "-q", "-f", "raw", "disk.raw", "1M")
        for words in (
            "convert -p nowhere out",
            "convert -p -O nosuch top out",
            "convert -p -O raw top nowhere/out",
            "convert -p -n -f qcow2 -O qcow2 top zeroinit:out",
            "convert -p -f qcow2 disk.raw out",
            "convert -p -T nosuch top out",
            "convert -p -l nosuch top out",
            "convert -p -q nowhere out",
            "compare -p top nowhere",
            "compare -p nowhere top",
            "compare -p top base",
            "compare -p top top",
            "rebase -p -b nowhere -F qcow2 top",
            "rebase -p -b base -F qcow2 nowhere",
            "rebase -p -t nosuch -b base -F qcow2 top",
            "rebase -p top",
            "commit -p nowhere",
            "commit -p -b nowhere top",
            "commit -p -t nosuch top",
        ):
            with self.subTest(words):
                theirs = self.run_qemu_img(*words.split(), cwd=self.tmp)
                ours = self.run_as_qemu_img(*words.split(), cwd=self.tmp)
                # How often it tells on the way is each tool's own.
                steps = re.compile(r"(?<=\r)(    \(\d+\.\d\d/100%\)\r)+")
                self.assertEqual((steps.sub("", ours[0]), *ours[1:]), (steps.sub("", theirs[0]), *theirs[1:]))

    def test_the_steps_of_the_bar(self):
        """Of what the stock tool copies in four pieces: each is told, by however many workers, in order."""
        with open(self.path("disk.raw"), "wb") as file:
            file.write(bytes(range(1, 129)) * (8 << 13))
        self.make("qemu-img", "convert", "-O", "qcow2", "disk.raw", "disk.qcow2")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "empty.qcow2", "8M")
        self.make("qemu-img", "create", "-q", "-f", "raw", "there.raw", "8M")
        for words in (
            "convert -p -O raw disk.raw out",
            "convert -p -O raw disk.qcow2 out",
            "convert -p -n -O raw disk.qcow2 there.raw",
            "convert -p -S 0 -O raw disk.raw out",
            "convert -p -O qcow2 disk.qcow2 out",
            "convert -p -O vmdk disk.raw out",
            "convert -p -O raw empty.qcow2 out",
            "convert -p -S 0 -O raw empty.qcow2 out",
            "convert -p -O qcow2 empty.qcow2 out",
            "compare -p disk.raw disk.qcow2",
            "compare -p empty.qcow2 empty.qcow2",
        ):
            with self.subTest(words):
                theirs = self.run_qemu_img(*words.split(), cwd=self.tmp)
                self.assertEqual(self.run_as_qemu_img(*words.split(), cwd=self.tmp), theirs)

    def test_the_steps_of_what_is_there_in_parts(self):
        """Only data counts for convert, everything for compare, and for rebase what is left to the backing file."""
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "parts.qcow2", "8M")
        for at, length in ((100_000, 70_000), (820_000, 300_000), (3 << 20, 2 << 20), (7_500_000, 512)):
            self.make("qemu-io", "-c", f"write -q -P {at % 255} {at // 512 * 512} {length // 512 * 512}", "parts.qcow2")
        self.make("qemu-img", "convert", "-O", "raw", "parts.qcow2", "parts.raw")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "parts.qcow2", "-F", "qcow2", "over.qcow2")
        self.make("qemu-io", "-c", "write -q -P 9 4M 2M", "over.qcow2")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "empty.qcow2", "8M")
        for words in (
            *(
                f"convert -p {how} {source} out"
                for source in ("parts.qcow2", "parts.raw", "over.qcow2", "empty.qcow2")
                for how in ("-O raw", "-O qcow2", "-S 0 -O raw", "-c -O qcow2", "-W -O vdi", "-m 1 -S 1M -O vhdx")
            ),
            "convert -p -O raw parts.qcow2 over.qcow2 out",
            "convert -p -O qcow2 -B parts.qcow2 -F qcow2 over.qcow2 out",
            *(
                f"compare -p {one} {other}"
                for one in ("parts.qcow2", "parts.raw", "over.qcow2", "empty.qcow2")
                for other in ("parts.qcow2", "parts.raw", "over.qcow2", "empty.qcow2")
            ),
            "compare -p -s parts.qcow2 parts.qcow2",
        ):
            with self.subTest(words):
                theirs = self.run_qemu_img(*words.split(), cwd=self.tmp)
                self.assertEqual(self.run_as_qemu_img(*words.split(), cwd=self.tmp), theirs)
        for words in ("-b empty.qcow2 -F qcow2", "-b parts.raw -F raw", "-c -b empty.qcow2 -F qcow2"):
            with self.subTest(words):
                results = []
                for run in (self.run_qemu_img, self.run_as_qemu_img):
                    shutil.copy(self.path("over.qcow2"), self.path("copy.qcow2"))
                    results.append(run("rebase", "-p", *words.split(), "copy.qcow2", cwd=self.tmp))
                self.assertEqual(results[1], results[0])

    def test_with_a_bar_there_is_no_line(self):
        self.assertEqual(self.asked("convert", "-p", "-r", "8M", "-O", "qcow2", "top", "out"), "")
