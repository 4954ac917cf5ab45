"""The open policy in daily use: what the user names is vouched for, a refusal says what to do, `policy` shows all of it."""

import json
import os
import pty
import subprocess
from pathlib import Path

from tests.base import InstarTestBase
from tests.helpers import images

BARE = {"INSTAR_CONFIG": "", "INSTAR_ALLOW_BACKING": ""}


class PolicyTest(InstarTestBase):
    """inst/top stands on _base/mid, and that on _base/low: the layout of OpenStack's nova."""

    def setUp(self):
        super().setUp()
        for folder in ("inst", "_base", "other"):
            os.mkdir(self.path(folder))
        images.random_disk(self.path("_base/low"), 1 << 20, 1)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "low", "-F", "raw", "_base/mid")
        images.write("_base/mid", (2, 0, 65536), cwd=self.tmp)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../_base/mid", "-F", "qcow2", "inst/top")
        images.write("inst/top", (3, 65536, 65536), cwd=self.tmp)

    def run_here(self, *argv, env=None, **kwargs):
        return self.run_instar(*argv, cwd=self.tmp, env={**BARE, **(env or {})}, **kwargs)

    def works(self, *argv, **kwargs):
        out, err, status = self.run_here(*argv, **kwargs)
        self.assertEqual((err, status), ("", 0), argv)
        return out

    def refused(self, *argv, **kwargs):
        out, err, status = self.run_here(*argv, **kwargs)
        self.assertEqual((out, status), ("", 1), argv)
        self.assertIn("not in a directory that images may refer to", err)
        return err

    def copy(self, name):
        self.make("qemu-img", "convert", "-O", "raw", name, f"{name}.raw")
        return self.path(f"{name}.raw")


class TestVouchedFor(PolicyTest):
    """A file that the command names may be named by an image of the run."""

    def test_rebase_onto_what_the_image_stands_on_already(self):
        before = self.copy("inst/top")
        self.works("rebase", "-b", "../_base/mid", "-F", "qcow2", "inst/top")
        self.works("rebase", "-b", self.path("_base/mid"), "-F", "qcow2", "inst/top")
        self.assert_bytes_identical(self.copy("inst/top"), before)

    def test_by_another_name_it_is_the_same_file(self):
        os.symlink("_base", self.path("linked"))
        os.link(self.path("_base/mid"), self.path("_base/again"))
        before = self.copy("inst/top")
        for name in ("../linked/mid", "../_base/again"):
            self.works("rebase", "-b", name, "-F", "qcow2", "inst/top")
        self.make("qemu-img", "rebase", "-u", "-b", self.path("linked/mid"), "-F", "qcow2", "inst/top")
        self.works("rebase", "-b", "../_base/mid", "-F", "qcow2", "inst/top")
        self.assert_bytes_identical(self.copy("inst/top"), before)

    def test_nothing_else_is(self):
        """Not what lies beside it, for an image that stands elsewhere; and not another file of that name."""
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../_base/low", "-F", "raw", "inst/side")
        self.refused("rebase", "-b", "../_base/mid", "-F", "qcow2", "inst/side")
        images.random_disk(self.path("other/mid"), 1 << 20, 2)
        self.make("qemu-img", "rebase", "-u", "-b", "../other/mid", "-F", "raw", "inst/side")
        self.refused("rebase", "-b", "../_base/mid", "-F", "qcow2", "inst/side")
        self.refused("rebase", "--no-backing", "-b", "../_base/mid", "-F", "qcow2", "inst/top")

    def test_commit_into_a_base_that_is_named(self):
        before = self.copy("inst/top")
        self.refused("commit", "inst/top")
        self.works("commit", "-q", "-b", "../_base/mid", "inst/top")
        self.assert_bytes_identical(self.copy("_base/mid"), before)
        self.assert_check_clean("_base/mid")

    def test_commit_writes_only_into_that(self):
        """A base between is read, and one below is not touched."""
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "top", "-F", "qcow2", "inst/upper")
        images.write("inst/upper", (4, 131072, 65536), cwd=self.tmp)
        low, before = self.sha256(self.path("_base/low")), self.copy("inst/upper")
        self.works("commit", "-q", "-b", "../_base/mid", "inst/upper")
        self.assertEqual(self.sha256(self.path("_base/low")), low)
        self.assert_bytes_identical(self.copy("_base/mid"), before)

    def test_create_and_convert_with_a_base_elsewhere(self):
        """The new image of some formats looks at its base while it is made."""
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "_base/parent.vmdk", "1M")
        self.works("create", "-q", "-f", "vmdk", "-b", "../_base/parent.vmdk", "-F", "vmdk", "inst/child.vmdk")
        base = self.path("_base/mid")
        for argv in (("-B", base, "-F", "qcow2"), ("-o", f"backing_file={base},backing_fmt=qcow2")):
            self.refused("convert", "-O", "qcow2", "inst/top", "x")
            self.works("convert", "-O", "qcow2", *argv, "inst/top", "x")
            self.assert_same_disk("x", "inst/top")


class TestWayOut(PolicyTest):
    """A refusal says which directory, by the name's letters alone."""

    def hint(self, err, name):
        first, second = err.splitlines()
        self.assertTrue(first.startswith(f"{name}: ") and second.startswith(f"{name}: "), err)
        return second

    def test_it_names_the_directory_under_both_names(self):
        folder = self.path("_base")
        for name, run in (("instar", self.run_instar), ("qemu-img", self.run_as_qemu_img)):
            out, err, status = run("check", "inst/top", cwd=self.tmp, env=BARE)
            self.assertEqual((out, status), ("", 1))
            hint = self.hint(err, name)
            for text in (f"--allow-backing {folder}", f"INSTAR_ALLOW_BACKING={folder}", f"add backing.allow {folder}"):
                self.assertIn(text, hint)

    def test_what_it_says_helps(self):
        self.works("check", "--allow-backing", self.path("_base"), "inst/top")
        self.works("check", "inst/top", env={"INSTAR_ALLOW_BACKING": self.path("_base")})
        home = {"INSTAR_CONFIG": self.path("config.toml")}
        Path(self.path("config.toml")).touch()
        self.works("config", "add", "backing.allow", self.path("_base"), env=home)
        self.works("check", "inst/top", env=home)

    def test_it_does_not_tell_what_is_there(self):
        texts = []
        for name in ("../other/x", "../nosuch/x"):
            self.make("qemu-img", "rebase", "-u", "-b", name, "-F", "raw", "inst/top")
            texts.append(self.refused("check", "inst/top").replace(name, "N").replace(os.path.dirname(name)[3:], "D"))
        self.assertEqual(*texts)

    def test_nothing_to_be_copied_does_anything(self):
        for name, says in (("/a$(id)/x", "'/a$(id)'"), ("/a'b/x", "--allow-backing DIR"), ("/x", "no place for images")):
            self.make("qemu-img", "rebase", "-u", "-b", name, "-F", "raw", "inst/top")
            self.assertIn(says, self.hint(self.refused("check", "inst/top"), "instar"))

    def test_a_name_makes_no_line_of_its_own(self):
        name = "x': No such file\ninstar: if / is to be trusted: instar config add backing.allow /y"
        self.make("qemu-img", "rebase", "-u", "-b", name, "-F", "raw", "inst/top")
        lines = self.refused("check", "inst/top").splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.assertIn("\\x0ainstar: if / is to be trusted", lines[0])
        done = self.run_instar("policy", "inst/top", cwd=self.tmp, env=BARE)[0]
        self.assertFalse([line for line in done.splitlines() if line.startswith("instar:")], done)

    def test_create_warns_on_a_terminal(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "inst/beside", "1M")
        for name, base, allowed, expected in (
            ("instar", "../_base/mid", "", True),
            ("instar", "../_base/mid", self.path("_base"), False),
            ("instar", "beside", "", False),
            ("qemu-img", "../_base/mid", "", False),
        ):
            argv = ("create", "-f", "qcow2", "-b", base, "-F", "qcow2", "inst/new")
            text = self.on_a_terminal(name, *argv, env={"INSTAR_ALLOW_BACKING": allowed})
            self.assertEqual("will be refused" in text, expected, text)
            self.assertEqual(f"--allow-backing {self.path('_base')}" in text, expected, text)
        self.works("create", "-q", "-f", "qcow2", "-b", "../_base/mid", "-F", "qcow2", "inst/new")

    def on_a_terminal(self, name, *argv, env):
        """What the command says there."""
        link = Path(self.path(f"bin/{name}"))
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(self.get_instar_binary())
        ours, theirs = pty.openpty()
        env = {**os.environ, **BARE, **env}
        subprocess.run([link, *argv], cwd=self.tmp, env=env, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
        os.write(theirs, b"\n")
        text = os.read(ours, 65536).decode()
        os.close(ours)
        os.close(theirs)
        return text


class TestPolicyCommand(PolicyTest):
    """`instar policy` shows names, where they lead, and what is said of them."""

    def judged(self, *argv, status=0, **kwargs):
        out, err, code = self.run_here("policy", "--output=json", *argv, **kwargs)
        self.assertEqual((err, code), ("", status))
        return json.loads(out)

    def test_a_refused_base(self):
        found = self.judged("inst/top", status=2)
        base = {
            "image": self.path("inst/top"),
            "role": "backing file",
            "name": "../_base/mid",
            "path": self.path("_base/mid"),
            "allowed": False,
            "rule": "outside",
        }
        self.assertEqual(found["names"], [base])
        self.assertEqual(found["directories"], [self.path("_base")])
        Path(self.path("c.toml")).write_text(found["configuration"] + "\n")
        self.works("check", "inst/top", env={"INSTAR_CONFIG": self.path("c.toml")})
        out, err, status = self.run_here("policy", "inst/top")
        self.assertEqual((err, status), ("", 2))
        for text in ("../_base/mid", f"leads to: {self.path('_base/mid')}", "refused", found["configuration"]):
            self.assertIn(text, out)

    def test_a_whole_chain_that_is_allowed(self):
        for argv, env, origin in (
            (("--allow-backing", self.path("_base")), {}, "--allow-backing"),
            ((), {"INSTAR_ALLOW_BACKING": self.path("_base")}, "INSTAR_ALLOW_BACKING"),
        ):
            found = self.judged("inst/top", *argv, env=env)
            rules = [(name["name"], name["rule"], name["directory"], name["from"]) for name in found["names"]]
            expected = [(n, "allowed-directory", self.path("_base"), origin) for n in ("../_base/mid", "low")]
            self.assertEqual(rules, expected)
            self.assertNotIn("configuration", found)
        own = self.judged("_base/mid")["names"]
        self.assertEqual([(n["rule"], n["directory"]) for n in own], [("own-directory", self.path("_base"))])
        self.assertEqual(self.judged("_base/low", "-f", "raw")["names"], [])

    def test_other_files_of_an_image(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "d.qcow2", "1M")
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", "f.vmdk", "1M")
        for image, role, name in (("d.qcow2", "data file", "data.raw"), ("f.vmdk", "extent", "f-flat.vmdk")):
            found = self.judged(image)["names"]
            self.assertEqual([(n["role"], n["name"], n["allowed"]) for n in found], [(role, name, True)])
            found = self.judged("--no-backing", image, status=2)
            self.assertEqual([(n["role"], n["rule"]) for n in found["names"]], [(role, "no-backing")])
            self.assertNotIn("configuration", found)

    def test_what_is_no_path_and_what_is_not_there(self):
        for name, rule, status in (("json:{}", "no-path", 2), ("nbd://x/y", "no-path", 2), ("absent", "not-opened", 1)):
            self.make("qemu-img", "rebase", "-u", "-b", name, "-F", "raw", "inst/top")
            out, _, code = self.run_here("policy", "--output=json", "inst/top")
            self.assertEqual((json.loads(out)["names"][0]["rule"], code), (rule, status))

    def test_links_are_followed_to_where_they_lead(self):
        """_base is a link to a folder that is allowed, too: nova's with its bases on a disk of their own."""
        os.rename(self.path("_base"), self.path("disk"))
        os.symlink(self.path("disk"), self.path("inst/_base"))
        os.symlink("../inst/_base/low", self.path("disk/over"))
        self.make("qemu-img", "rebase", "-u", "-b", "over", "-F", "raw", "disk/mid")
        self.make("qemu-img", "rebase", "-u", "-b", "_base/mid", "-F", "qcow2", "inst/top")
        expected = self.copy("inst/top")
        both = ("--allow-backing", self.path("inst"), "--allow-backing", self.path("disk"))
        self.works("convert", *both, "-O", "raw", "inst/top", "copy")
        self.assert_bytes_identical(self.path("copy"), expected)
        found = self.judged(*both, "inst/top")["names"]
        self.assertEqual([(n["path"], n["directory"]) for n in found], [
            (self.path("disk/mid"), self.path("disk")),
            (self.path("disk/low"), self.path("disk")),
        ])
        found = self.judged("inst/top", status=2)
        self.assertEqual((found["names"][0]["path"], found["directories"]), (self.path("disk/mid"), [self.path("disk")]))
        err = self.refused("check", "inst/top")
        self.assertIn(f"if {self.path('disk')} is to be trusted", err)
        self.works("check", "--allow-backing", self.path("disk"), "inst/top")

    def test_a_link_that_somebody_planted_is_not_followed(self):
        if os.geteuid() != 0:
            self.skipTest("only root can give a link away")
        os.chmod(self.path("_base"), 0o1777)
        os.symlink(".", self.path("_base/way"))
        self.make("qemu-img", "rebase", "-u", "-b", "../_base/way/low", "-F", "raw", "inst/top")
        self.works("check", "--allow-backing", self.path("_base"), "inst/top")
        os.lchown(self.path("_base/way"), 65534, 65534)
        argv = ("policy", "--output=json", "--allow-backing", self.path("_base"), "inst/top")
        out, err, status = self.run_here(*argv)
        self.assertEqual((status, err.count("Permission denied")), (1, 1), err)
        found = json.loads(out)
        self.assertEqual([(n["rule"], n["error"]) for n in found["names"]], [("not-opened", "Permission denied")])
        self.assertNotIn("configuration", found)

    def test_it_opens_only_what_is_allowed(self):
        os.symlink("../other/secret", self.path("inst/link"))
        images.random_disk(self.path("other/secret"), 1 << 20, 3)
        for name in ("link", "../other/secret"):
            self.make("qemu-img", "rebase", "-u", "-b", name, "-F", "raw", "inst/top")
            trace = self.path("trace")
            argv = ["strace", "-f", "-e", "trace=open,openat,openat2", "-o", trace]
            argv += [self.get_instar_binary(), "policy", "inst/top"]
            self.assertEqual(self.run_tool(argv, cwd=self.tmp, env=BARE)[2], 2)
            opened = [line for line in Path(trace).read_text().splitlines() if "secret" in line]
            self.assertEqual(opened, [])
