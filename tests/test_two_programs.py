"""Two programs at one image: instar keeps off what another one holds, and others keep off what it holds, as with the
stock tool. The locks are QEMU's: bytes of the file."""

import os
import shutil
import subprocess
import time

from tests.base import QEMU_IMG, InstarTestBase

# Each on a copy of the folder, in which a qemu-io holds `held` open for writing; `other` is free.
COMMANDS = (
    ("info", "held"),
    ("info", "--backing-chain", "over"),
    ("info", "-U", "held"),
    ("check", "held"),
    ("check", "-U", "held"),
    ("map", "held"),
    ("map", "-U", "held"),
    ("measure", "-O", "raw", "held"),
    ("measure", "-U", "-O", "raw", "held"),
    ("compare", "held", "other"),
    ("compare", "other", "held"),
    ("compare", "-U", "held", "other"),
    ("convert", "-O", "raw", "held", "out"),
    ("convert", "-U", "-O", "raw", "held", "out"),
    ("convert", "-O", "raw", "over", "out"),
    ("convert", "-O", "qcow2", "other", "held"),
    ("convert", "-n", "-O", "qcow2", "other", "held"),
    ("dd", "if=held", "of=out", "bs=64k"),
    ("dd", "-U", "if=held", "of=out", "bs=64k"),
    ("create", "-f", "qcow2", "held", "1M"),
    ("create", "-f", "qcow2", "-b", "held", "-F", "qcow2", "out"),
    ("resize", "held", "2M"),
    ("rebase", "-u", "-b", "", "held"),
    ("rebase", "-b", "held", "-F", "qcow2", "other"),
    ("rebase", "-b", "", "over"),
    ("commit", "over"),
    ("commit", "held"),
)
# Who may do what with an image, tried by the stock tools while another program is at work with it.
VISITS = (
    ("qemu-io", "-f", "qcow2", "-c", "length", "image"),
    ("qemu-io", "-r", "-f", "qcow2", "-c", "length", "image"),
    ("qemu-img", "info", "image"),
    ("qemu-img", "info", "-U", "image"),
    ("qemu-img", "check", "image"),
    ("qemu-img", "resize", "-f", "qcow2", "--shrink", "image", "512k"),
)


class TestTwoPrograms(InstarTestBase):
    def images(self, folder):
        """held, which stands on base; over, which stands on held; other."""
        os.mkdir(folder)
        for name, below in (("base", None), ("held", "base"), ("over", "held"), ("other", None)):
            words = ["-b", below, "-F", "qcow2"] if below else ["-o", "cluster_size=4k"]
            self.make("qemu-img", "create", "-q", "-f", "qcow2", *words, name, *(() if below else ("1M",)), cwd=folder)
            self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 64k 100k", name, cwd=folder)

    def state(self, folder):
        return {name: self.sha256(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}

    def test_what_another_program_holds(self):
        self.images(self.path("made"))
        refused = 0
        for words in COMMANDS:
            with self.subTest(" ".join(words)):
                outcomes, states = [], []
                for run in (self.run_as_qemu_img, self.run_qemu_img):
                    shutil.rmtree(self.path("here"), ignore_errors=True)
                    shutil.copytree(self.path("made"), self.path("here"))
                    before = self.state(self.path("here"))
                    with self.held("here/held"):
                        outcomes.append(run(*words, cwd=self.path("here")))
                        after = self.state(self.path("here"))
                    states.append(after == before)
                self.assertEqual(outcomes[0], outcomes[1])
                if outcomes[0][2] and 'Failed to get' in outcomes[0][1]:
                    refused += 1
                    self.assertTrue(states[0], "something was changed")
        self.assertGreater(refused, 10)

    def visited(self, program, *argv):
        """What happens to the visitors while the program is at work, in a folder of its own."""
        shutil.rmtree(self.path("here"), ignore_errors=True)
        os.mkdir(self.path("here"))
        for name in ("image", "source"):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", name, "4M", cwd=self.path("here"))
            self.make("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 4M", name, cwd=self.path("here"))
        outcomes = []
        env = {**os.environ, "INSTAR_MAX_CPU_SECONDS": "60"}
        with subprocess.Popen([program, *argv], cwd=self.path("here"), env=env, stdout=subprocess.DEVNULL) as worker:
            try:
                # The first lock is there at once; the work takes seconds.
                deadline = time.monotonic() + 10
                while not self.locked("here/image") and time.monotonic() < deadline:
                    time.sleep(0.01)
                for words in VISITS:
                    out, err, status = self.run_tool(list(words), cwd=self.path("here"))
                    outcomes.append((words, status, out + err if status else ""))
                self.assertIsNone(worker.poll(), "it was over too soon to show anything")
            finally:
                worker.kill()
        return outcomes

    def locked(self, name):
        """Some program has a lock on the file."""
        number = os.stat(self.path(name)).st_ino
        with open("/proc/locks", encoding="ascii") as table:
            return any(f":{number} " in line for line in table)

    def test_what_instar_holds(self):
        """Written to, and read: the stock tools find what they would find if the stock tool were at work."""
        slow = ("convert", "-n", "-r", "100k", "-O", "qcow2")
        for words in ((*slow, "source", "image"), ("convert", "-r", "100k", "-O", "raw", "image", "out")):
            with self.subTest(words):
                ours = self.visited(self.get_instar_binary(), *words)
                theirs = self.visited(QEMU_IMG, *words)
                self.assertEqual(ours, theirs)
                self.assertIn(1, [status for _, status, _ in ours])
