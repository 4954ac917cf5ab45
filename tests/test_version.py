"""`--version --verbose`: from which commit, by which compiler, with which programs for the sandbox."""

import hashlib
import mmap
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

from tests.base import ROOT, InstarTestBase

LABELS = ["commit", "toolchain", "target", "features", "guest x86-64-v2", "guest x86-64-v3"]
# What stands in for cargo, and says only what it was told.
CARGO = '#!/bin/sh\necho "<$INSTAR_COMMIT>"\n'


class TestVersion(InstarTestBase):
    def rows(self):
        out, err, status = self.run_instar("version", "--verbose")
        self.assertEqual((err, status), ("", 0))
        lines = out.splitlines()
        self.assertEqual(out.splitlines()[:2], self.run_instar("version")[0].splitlines())
        return dict(re.match(r"(.+?): +(\S.*)$", line).groups() for line in lines[2:])

    def test_in_every_way_that_it_is_asked_for(self):
        said = self.run_instar("version", "--verbose")
        self.assertEqual(list(self.rows()), LABELS)
        for argv in (("--version", "--verbose"), ("-V", "--verbose"), ("--verbose", "--version"), ("--verbose", "version")):
            self.assertEqual(self.run_instar(*argv), said, argv)
        self.assertEqual(self.run_as_qemu_img("--version", "--verbose"), self.run_as_qemu_img("--version"))

    def test_what_it_says(self):
        rows = self.rows()
        self.assertRegex(rows["commit"], r"\A(unknown|[0-9a-f]{40}(, changed)?)\Z")
        self.assertRegex(rows["toolchain"], r"\Arustc \d+\.\d+\.\d+ ")
        self.assertEqual(rows["target"], "x86_64-unknown-linux-gnu")
        features = rows["features"].split(", ")
        self.assertLessEqual({"kvm", "process"}, set(features))
        same = rows["guest x86-64-v2"] == rows["guest x86-64-v3"]
        self.assertEqual(same, "quick-guest" in features)

    def test_the_guests_are_those_in_the_program(self):
        """Found there as what they are: whole ELF files at the beginning of a page."""
        found = set()
        with open(self.get_instar_binary(), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for at in range(4096, len(data), 16):
                if data[at : at + 4] == b"\x7fELF":
                    sections, size, count = struct.unpack_from("<Q10xHH", data, at + 40)
                    end = at + sections + size * count
                    found.add(f"sha256:{hashlib.sha256(data[at:end]).hexdigest()}")
        rows = self.rows()
        self.assertLessEqual({rows["guest x86-64-v2"], rows["guest x86-64-v3"]}, found)


class TestCommit(InstarTestBase):
    """What `scripts/build` says of the tree that it is in."""

    def setUp(self):
        super().setUp()
        cargo = Path(self.path("bin/cargo"))
        cargo.parent.mkdir()
        cargo.write_text(CARGO)
        cargo.chmod(0o755)
        self.tree = Path(self.path("tree"))
        (self.tree / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/build", self.tree / "scripts/build")

    def git(self, *argv, cwd=None):
        names = ("-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main")
        done = subprocess.run(["git", *names, *argv], cwd=cwd or self.tree, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def said(self, path=None):
        env = {"PATH": path or f"{self.path('bin')}:{os.environ['PATH']}", "GIT_CEILING_DIRECTORIES": ""}
        out, err, status = self.run_tool([self.tree / "scripts/build"], env=env)
        self.assertEqual((err, status), ("", 0))
        return out.strip()

    def test_it_is_the_trees_own(self):
        self.assertEqual(self.said(), "<>")
        self.git("init", "-q")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "one")
        commit = self.git("rev-parse", "HEAD")
        self.assertEqual(self.said(), f"<{commit}>")
        (self.tree / "scripts/new").write_text("not git's\n")
        self.assertEqual(self.said(), f"<{commit}>")
        with open(self.tree / "scripts/build", "a") as script:
            script.write("# changed\n")
        self.assertEqual(self.said(), f"<{commit}, changed>")

    def test_a_tree_in_another_one_has_none(self):
        above = self.tree.parent
        self.git("init", "-q", cwd=above)
        self.git("add", "tree", cwd=above)
        self.git("commit", "-q", "-m", "one", cwd=above)
        self.assertEqual(self.said(), "<>")

    def test_without_git_there_is_none(self):
        self.git("init", "-q")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "one")
        for name in ("sh", "dirname"):
            Path(self.path(f"bin/{name}")).symlink_to(shutil.which(name))
        self.assertEqual(self.said(self.path("bin")), "<>")
