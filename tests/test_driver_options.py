"""Options of `--image-opts`: values that make no sense are refused, as by the stock tool, and those that can mean something
do."""

import os
import shutil

from tests.base import InstarTestBase

VALUES = ("on", "off", "maybe", "", "4097", "-1", "99999999999999999999", "unmap", "all")
OF_ALL = (
    "read-only",
    "auto-read-only",
    "force-share",
    "cache.direct",
    "cache.no-flush",
    "discard",
    "detect-zeroes",
    "node-name",
    "copy-on-read",
    "snapshot",
    "file.read-only",
    "file.force-share",
    "file.cache.direct",
    "file.cache.no-flush",
    "file.drop-cache",
    "file.locking",
    "file.aio",
    "file.aio-max-batch",
    "file.pr-manager",
    "file.discard",
    "file.detect-zeroes",
    "file.node-name",
    "file.nonsense",
    "data-file",
    "data-file.driver",
    "data-file.locking",
    "backing",
)
OF_QCOW2 = (
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "overlap-check.template",
    "overlap-check.inactive-l1",
    "overlap-check.nonsense",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
    "prealloc-mode",
)
OPTIONS = {
    "qcow2": (*OF_ALL, *OF_QCOW2),
    "raw": (*OF_ALL, "lazy-refcounts"),
    "vpc": (*OF_ALL, "force_size_calc"),
    "parallels": (*OF_ALL, "prealloc-mode", "prealloc-size"),
}
# For a thorough look: INSTAR_ALL_VALUES=1.
ALL = bool(os.environ.get("INSTAR_ALL_VALUES"))
COMMANDS = (("info",), ("check",), ("resize", "3M"))


class TestDriverOptions(InstarTestBase):
    def outcome(self, run, fmt, words, option):
        shutil.copyfile(self.path(f"made.{fmt}"), self.path("x"))
        command, *size = words
        return run(command, "--image-opts", f"driver={fmt},file.filename=x,{option}", *size, cwd=self.tmp)

    def test_values(self):
        for fmt, names in OPTIONS.items():
            self.make("qemu-img", "create", "-q", "-f", fmt, self.path(f"made.{fmt}"), "2M")
            # What all drivers have in common is tried in full once; `check` is of two of them only.
            commands = COMMANDS if fmt == "qcow2" else COMMANDS[1:2] if fmt == "parallels" else COMMANDS[:1]
            for number, name in enumerate(names):
                for index, value in enumerate(VALUES):
                    for words in commands:
                        # A third of all pairs: with qcow2 a command each, with the others every third value.
                        if not ALL and (number + index + COMMANDS.index(words)) % 3:
                            continue
                        with self.subTest(fmt, command=words[0], option=f"{name}={value}"):
                            theirs = self.outcome(self.run_qemu_img, fmt, words, f"{name}={value}")
                            ours = self.outcome(self.run_as_qemu_img, fmt, words, f"{name}={value}")
                            self.assertEqual(ours, theirs)

    def test_what_is_given_to_be_shared(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", self.path("x"), "2M")
        with self.held("x"):
            for option in (
                "force-share=on",
                "file.force-share=on",
                "file.locking=off",
                "force-share=off",
                "read-only=on",
            ):
                for command in ("info", "map", "check"):
                    words = (command, "--image-opts", f"driver=qcow2,file.filename=x,{option}")
                    with self.subTest(" ".join(words)):
                        theirs = self.run_qemu_img(*words, cwd=self.tmp)
                        self.assertEqual(self.run_as_qemu_img(*words, cwd=self.tmp), theirs)

    def test_a_fixed_raw_disk(self):
        self.make("qemu-img", "create", "-q", "-f", "raw", self.path("x"), "2M")
        words = ("resize", "--image-opts", "driver=raw,file.filename=x,size=1M", "3M")
        theirs = self.run_qemu_img(*words, cwd=self.tmp)
        self.assertEqual(self.run_as_qemu_img(*words, cwd=self.tmp), theirs)
        self.assertEqual(theirs[2], 1)

    def test_a_letter_of_a_later_release(self):
        words = ("measure", "-s", "1M", "-O", "qcow2")
        self.assertEqual(self.run_as_qemu_img(*words, version="10.0.2"), self.run_qemu_img(*words))
        self.assertEqual(self.run_as_qemu_img(*words, version="10.1.0")[2], 0)
