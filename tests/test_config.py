"""The configuration: it fails closed, its layers add up as they are documented, and what the system pins holds."""

import json
import os
import re
import shutil
import stat
import unittest
from pathlib import Path

from tests.base import ROOT, InstarTestBase

SYSTEM = "/etc/instar/config.toml"
# What this suite itself runs under is not to be seen here.
BARE = {"INSTAR_ISOLATION": "", "INSTAR_QEMU_VERSION": "", "INSTAR_ALLOW_BACKING": "", "XDG_CONFIG_HOME": ""}
VARIABLES = {
    "isolation": ("INSTAR_ISOLATION", "process"),
    "qemu-version": ("INSTAR_QEMU_VERSION", "9.0.0"),
    "backing.allow": ("INSTAR_ALLOW_BACKING", "/etc"),
    "backing.none": ("INSTAR_NO_BACKING", "true"),
    "limits.cpu-seconds": ("INSTAR_MAX_CPU_SECONDS", "7"),
    "limits.seconds": ("INSTAR_MAX_SECONDS", "7"),
    "limits.guest-memory": ("INSTAR_MAX_GUEST_MEMORY", "32M"),
    "limits.requests": ("INSTAR_MAX_REQUESTS", "7"),
    "limits.output-growth": ("INSTAR_MAX_OUTPUT_GROWTH", "7M"),
    "limits.results": ("INSTAR_MAX_RESULTS", "7M"),
    "limits.messages": ("INSTAR_MAX_MESSAGES", "7K"),
    "workers": ("INSTAR_WORKERS", "7"),
    "extensions": ("INSTAR_EXTENSIONS", "true"),
}
# Those as JSON has them.
TYPED = {"true": True, "7": 7, "7K": 7 << 10, "7M": 7 << 20, "32M": 32 << 20, "/etc": ["/etc"]}


class ConfigTest(InstarTestBase):
    """A home of the test's own, with the caller's file in it."""

    def setUp(self):
        super().setUp()
        os.chmod(self.tmp, 0o755)
        self.home = Path(self.path("home"))
        self.user = self.home / ".config/instar/config.toml"
        self.user.parent.mkdir(parents=True)
        self.make("qemu-img", "create", "-q", "-f", "raw", "base.raw", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2")

    def file(self, text, name="config.toml"):
        """A file somewhere, and the variable that names it."""
        path = Path(self.path(name))
        path.write_text(text)
        return {"INSTAR_CONFIG": str(path)}

    def run_config(self, *argv, env=None, **kwargs):
        env = {**BARE, "HOME": str(self.home), **(env or {})}
        return self.run_tool([self.get_instar_binary(), *argv], cwd=self.tmp, env=env, **kwargs)

    def setting(self, key, *argv, env=None):
        out, err, status = self.run_config("config", "--output=json", *argv, env=env)
        self.assertEqual((err, status), ("", 0))
        return json.loads(out)["settings"][key]

    def refused(self, *says, argv=("check", "over.qcow2"), **kwargs):
        """The command ends before it looks at anything."""
        out, err, status = self.run_config(*argv, **kwargs)
        self.assertEqual((out, status), ("", 1), err)
        for text in says:
            self.assertIn(text, err)

    def works(self, *argv, **kwargs):
        _, err, status = self.run_config(*(argv or ("check", "over.qcow2")), **kwargs)
        self.assertEqual((err, status), ("", 0))


class TestFailsClosed(ConfigTest):
    """What is there and cannot be read may be what forbids."""

    @staticmethod
    def nobody():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    def test_a_named_file_has_to_be_read(self):
        missing, folder = self.path("nope.toml"), self.tmp
        self.refused(missing, "No such file", env={"INSTAR_CONFIG": missing})
        self.refused(folder, "Is a directory", env={"INSTAR_CONFIG": folder})
        self.refused("nope/x", "INSTAR_CONFIG", env={"INSTAR_CONFIG": "nope/x"})
        Path(self.path("latin1")).write_bytes(b"# \xe9\n")
        self.refused("latin1", "UTF-8", env={"INSTAR_CONFIG": self.path("latin1")})
        Path(self.path("long")).write_text("#" * (1 << 20) + "\n")
        self.refused("long", "1 MiB", env={"INSTAR_CONFIG": self.path("long")})
        self.works(env={"INSTAR_CONFIG": "/dev/null"})

    def test_a_named_file_is_a_regular_one(self):
        """A pipe is not waited for; nor is anything that is no file replaced by one."""
        os.mkfifo(self.path("pipe"))
        for path in (self.path("pipe"), "/dev/zero", "/dev/tty"):
            env = {"INSTAR_CONFIG": path}
            for argv in (("info", "over.qcow2"), ("config",), ("config", "set", "isolation", "process")):
                out, err, status = self.run_config(*argv, env=env, timeout=10)
                shown = f"{path} +cannot be read\\n" if argv == ("config",) else r"\A\Z"
                self.assertRegex(out, shown)
                self.assertEqual(status, 1)
                self.assertRegex(err, f"{path}.*(not a regular file|No such device)")
        self.refused("not a regular file", argv=("config", "unset", "isolation"), env={"INSTAR_CONFIG": "/dev/null"})
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    def test_a_users_file_has_to_be_read_if_it_is_there(self):
        self.works()
        for text in (b"isolation = ", b"nosuch = 1", b"# \xe9"):
            self.user.write_bytes(text)
            self.refused(str(self.user))
            self.works(env={"INSTAR_CONFIG": ""})
        self.user.unlink()
        self.user.mkdir()
        self.refused(str(self.user), "Is a directory", "INSTAR_CONFIG=")
        self.user.rmdir()
        self.user.symlink_to(self.path("nowhere"))
        self.refused(str(self.user), "No such file")
        self.user.unlink()
        folder = self.user.parent
        folder.rmdir()
        folder.symlink_to(self.path("nowhere"))
        self.refused(str(self.user), "No such file")
        folder.unlink()
        folder.mkdir()
        os.mkfifo(self.user)
        self.refused(str(self.user), "not a regular file")

    def test_a_home_that_is_no_folder_has_no_file(self):
        for home in ("/nonexistent", "/dev/null", str(self.path("base.raw"))):
            self.works(env={"HOME": home})

    @unittest.skipUnless(os.geteuid() == 0, "another user needs root")
    def test_a_file_that_another_user_may_not_read(self):
        """Not to be read, it is not as if it were not there: it forbids what would be opened."""
        text = "[backing]\nnone = true\n"
        env = {**self.file(text), "INSTAR_ISOLATION": "process"}
        self.refused("--no-backing", env=env)
        os.chmod(env["INSTAR_CONFIG"], 0o600)
        self.refused(env["INSTAR_CONFIG"], "Permission denied", env=env, before=self.nobody)
        self.user.write_text(text)
        os.chmod(self.user, 0o600)
        env = {"INSTAR_ISOLATION": "process"}
        self.refused(str(self.user), "Permission denied", "INSTAR_CONFIG=", env=env, before=self.nobody)
        self.works(env={**env, "INSTAR_CONFIG": ""}, before=self.nobody)

    @unittest.skipUnless(os.geteuid() == 0, "files of another user need root")
    def test_a_strangers_file_is_none(self):
        self.user.write_text("nosuch = 1\n")
        os.chown(self.user, 1234, 1234)
        self.works()
        os.chmod(self.user, 0o600)
        self.works(env={"INSTAR_ISOLATION": "process"}, before=self.nobody)
        # A home that was kept from another user, and that the caller cannot look into.
        os.chown(self.user, 0, 0)
        os.chmod(self.home, 0o700)
        self.refused(str(self.user))
        self.works(env={"INSTAR_ISOLATION": "process"}, before=self.nobody)

    @unittest.skipUnless(os.geteuid() == 0, "files of another user need root")
    def test_a_strangers_link_to_a_trusted_file_is_none(self):
        """Whoever owns the link chooses the file."""
        env = self.file("nosuch = 1\n")
        for link in (self.user, self.user.parent):
            to = Path(env["INSTAR_CONFIG"])
            shutil.rmtree(link, ignore_errors=True)
            link.symlink_to(to if link == self.user else to.parent)
            self.refused("nosuch")
            os.lchown(link, 1234, 1234)
            self.works()
            out, _, _ = self.run_config("config")
            self.assertIn(f"{self.user}  it, or a link that leads to it, belongs to another user", out)
            link.unlink()

    def test_no_configuration_comes_from_the_current_directory(self):
        for folder in ("instar", ".config/instar"):
            path = Path(self.path(folder))
            path.mkdir(parents=True)
            (path / "config.toml").write_text("nosuch = 1\n")
        for name in ("XDG_CONFIG_HOME", "HOME"):
            for value in ("", ".", "./"):
                self.works(env={"HOME": "", name: value})

    def test_the_command_that_is_called_qemu_img_says_so_too(self):
        out, err, status = self.run_as_qemu_img(
            "info", "over.qcow2", cwd=self.tmp, env={"INSTAR_CONFIG": self.path("nope")}
        )
        self.assertEqual((out, status), ("", 1))
        self.assertIn(self.path("nope"), err)


class TestLayers(ConfigTest):
    """Which word holds."""

    def test_every_setting_has_a_variable(self):
        for key, (name, value) in VARIABLES.items():
            self.assertEqual(self.setting(key)["from"], "default")
            found = self.setting(key, env={name: value})
            self.assertEqual((found["value"], found["from"]), (TYPED.get(value, value), name))
        out, _, _ = self.run_config("config", "--output=json")
        self.assertEqual(set(json.loads(out)["settings"]), set(VARIABLES))

    def test_variables_are_obeyed(self):
        self.refused("--no-backing", env={"INSTAR_NO_BACKING": "1"})
        self.refused("--max-requests", env={"INSTAR_MAX_REQUESTS": "1"})
        self.refused("INSTAR_NO_BACKING", "neither", env={"INSTAR_NO_BACKING": "perhaps"})

    def test_folders_add_up(self):
        self.user.write_text('[backing]\nallow = ["/usr"]\n')
        env = {"INSTAR_ALLOW_BACKING": "/etc::/var"}
        found = self.setting("backing.allow", "--allow-backing", "/tmp", env=env)
        self.assertEqual(found["value"], ["/usr", "/etc", "/var", "/tmp"])
        self.assertEqual(found["from"], f"{self.user}, INSTAR_ALLOW_BACKING, --allow-backing")

    def test_folders_in_a_file_are_there_and_whole(self):
        for folder, says in (("~/x", "~"), ("x", "absolute"), ("/no/such", "not there"), ("/dev/null", "directory")):
            env = self.file(f'[backing]\nallow = ["/usr", "{folder}"]\n')
            self.refused("config.toml", folder, says, env=env)

    def test_folders_of_flags_and_variables_are_there(self):
        for folder, says in (("/no/such", "is not there"), ("nosuch", "is not there"), ("/dev/null", "is not a directory")):
            self.refused(
                f"backing.allow (from --allow-backing): '{folder}' {says}",
                argv=("info", "--allow-backing", folder, "over.qcow2"),
            )
            env = {"INSTAR_ALLOW_BACKING": f"/usr:{folder}"}
            self.refused(f"backing.allow (from INSTAR_ALLOW_BACKING): '{folder}' {says}", env=env)
        self.works("info", "--allow-backing", ".", "over.qcow2")

    def test_who_asks_for_a_virtual_machine_is_told(self):
        script = 'mount --bind /dev/null /dev/kvm && exec "$@"'
        if os.geteuid() != 0 or not os.path.exists("/dev/kvm"):
            self.skipTest("needs root and /dev/kvm")
        self.user.write_text('isolation = "kvm"\n')
        for argv, env, source in (
            (("--isolation", "kvm"), {"INSTAR_CONFIG": ""}, "--isolation kvm"),
            ((), {"INSTAR_CONFIG": "", "INSTAR_ISOLATION": "kvm"}, "INSTAR_ISOLATION=kvm"),
            ((), {}, f"'isolation = kvm' in {self.user}"),
        ):
            words = ["unshare", "--mount", "sh", "-c", script, "sh", self.get_instar_binary(), "info", *argv, "base.raw"]
            _, err, status = self.run_tool(words, cwd=self.tmp, env={**BARE, "HOME": str(self.home), **env})
            self.assertEqual(status, 1)
            self.assertIn(f"no virtual machine, but {source} asks for one: ", err)

    def test_the_manual_has_every_setting(self):
        man = self.run_config("generate", "man")[0].replace("\\-", "-")
        for name, _ in VARIABLES.values():
            self.assertIn(name, man)
        for text in ("INSTAR_CONFIG", "XDG_CONFIG_HOME", ".SH ENVIRONMENT", ".SH FILES", SYSTEM):
            self.assertIn(text, man)
        page = self.run_config("generate", "man", "instar.toml")[0]
        for text in (SYSTEM, "pinned", *VARIABLES):
            self.assertIn(text, page.replace("\\-", "-"))


class TestChanging(ConfigTest):
    """`config set`, `add`, `profile` and `explain`."""

    def test_the_users_file_is_made_and_changed(self):
        self.works("config", "set", "isolation", "process")
        self.works("config", "set", "limits.seconds", "9")
        self.works("config", "add", "backing.allow", "/usr", "/etc")
        self.assertEqual(self.setting("isolation")["value"], "process")
        self.assertEqual(self.setting("limits.seconds"), {"value": 9, "from": str(self.user)})
        self.assertEqual(self.setting("backing.allow")["value"], ["/usr", "/etc"])
        self.assertEqual(os.listdir(self.user.parent), ["config.toml"])

    def test_comments_mode_and_a_link_stay(self):
        real = Path(self.path("dotfiles.toml"))
        real.write_text('# mine\nisolation = "auto" # why\n')
        os.chmod(real, 0o640)
        self.user.symlink_to(real)
        self.works("config", "set", "isolation", "kvm")
        self.assertEqual(real.read_text(), '# mine\nisolation = "kvm" # why\n')
        self.assertEqual((self.user.is_symlink(), real.stat().st_mode & 0o777), (True, 0o640))

    def test_nonsense_changes_nothing(self):
        text = "# mine\n"
        self.user.write_text(text)
        for argv in (
            ("set", "isolation", "moon"),
            ("set", "moon", "1"),
            ("set", "backing.none", "perhaps"),
            ("set", "limits.seconds", "-1"),
            ("set", "limits.guest-memory", "1M"),
            ("add", "isolation", "kvm"),
            ("add", "backing.allow", "~/x"),
            ("add", "backing.allow", "/no/such"),
            ("set", "isolation"),
            ("profile", "moon"),
            ("nosuch",),
        ):
            self.refused(argv=("config", *argv))
            self.assertEqual(self.user.read_text(), text)

    def test_the_least_memory_that_something_can_run_with(self):
        self.refused("nothing can run; the least is 4M", argv=("config", "set", "limits.guest-memory", "4095K"))
        self.works("config", "set", "limits.guest-memory", "4M")
        self.assertIn('guest-memory = "4M"', self.user.read_text())
        self.works()

    def test_what_is_wrong_can_be_mended_by_it(self):
        self.user.write_text("[limits]\nseconds = true\n")
        self.refused(str(self.user))
        self.works("config", "set", "limits.seconds", "5")
        self.works()

    def test_what_is_unset_is_not_said_any_more(self):
        self.user.write_text('# mine\nisolation = "process"\nmoon = 1\n\n[limits]\nseconds = 5\n')
        self.refused("moon")
        self.works("config", "unset", "moon")
        self.works("config", "unset", "limits.seconds")
        self.assertEqual(self.user.read_text(), '# mine\nisolation = "process"\n')
        self.refused("says nothing of 'limits.seconds'", argv=("config", "unset", "limits.seconds"))
        self.assertEqual(self.setting("limits.seconds")["from"], "default")
        self.refused("unset KEY", argv=("config", "unset"))

    def test_a_broken_file_is_in_nobodys_way_to_help(self):
        self.user.write_text("isolation = \n")
        for argv in (("--help",), ("--version",), ("-V",), ("info", "--help"), ("config", "--help")):
            for name in ("instar", "qemu-img"):
                if name == "instar" or argv[0] != "config":
                    out, err, status = self.run_as(name, *argv)
                    self.assertEqual((err, status), ("", 0), argv)
                    self.assertTrue(out)
        self.refused(str(self.user), argv=("info", "base.raw"))
        self.refused(str(self.user), argv=("--verbose", "info", "base.raw"))

    def run_as(self, name, *argv):
        link = Path(self.path(f"bin/{name}"))
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(self.get_instar_binary())
        return self.run_tool([str(link), *argv], cwd=self.tmp, env={**BARE, "HOME": str(self.home)})

    def test_help_has_every_option(self):
        out = self.run_as("instar", "--help")[0]
        for option in ("--version", "--verbose", "--help", "--isolation", "--max-seconds"):
            self.assertRegex(out, rf"(?m)^  .*{option}")

    def test_profiles(self):
        for name, key, value in (("incus", "backing.none", "true"), ("strict", "isolation", "kvm")):
            self.user.unlink(missing_ok=True)
            self.works("config", "profile", name)
            self.assertEqual(self.setting(key)["value"], TYPED.get(value, value))
        self.user.unlink()
        for name in ("nova", "libvirt", "proxmox"):
            _, err, status = self.run_config("config", "profile", name)
            self.assertTrue(status == 0 or "is not there" in err, err)

    def test_explain_tells_what_each_place_says(self):
        self.user.write_text('isolation = "process"\n')
        out = self.works_with("config", "explain", "isolation", env={"INSTAR_ISOLATION": "kvm"})
        for text in ("default: auto", f"{self.user}: process", "INSTAR_ISOLATION: kvm", "--isolation", f"{self.user}  read"):
            self.assertIn(text, out)
        whole = self.works_with("config", "explain")
        for key in VARIABLES:
            self.assertIn(f"{key}: ", whole)
        self.user.write_text("nosuch = 1\n")
        self.refused_but_shown("config", "explain")

    def test_what_is_shown_is_a_table(self):
        """A head, a value a line, each with its place; then the files."""
        self.user.write_text('[backing]\nallow = ["/usr", "/etc"]\n')
        out = self.works_with("config", env={"INSTAR_MAX_SECONDS": "7", "INSTAR_ALLOW_BACKING": "/var"})
        settings, files = out.split("\n\n")
        head, *rows = (re.split(r" {2,}", line) for line in settings.splitlines())
        self.assertEqual(head, ["SETTING", "VALUE", "FROM"])
        self.assertEqual({row[0] for row in rows} - {""}, set(VARIABLES))
        for row in (
            ["backing.allow", "/usr", str(self.user)],
            ["", "/etc", str(self.user)],
            ["", "/var", "INSTAR_ALLOW_BACKING"],
            ["limits.seconds", "7", "INSTAR_MAX_SECONDS"],
            ["limits.cpu-seconds", "120 (metadata)", "default"],
            ["", "2592000 (data)", "default"],
            ["extensions", "false", "default"],
        ):
            self.assertIn(row, rows)
        column = settings.index("FROM")
        for line in settings.splitlines():
            self.assertEqual((line[column - 1], line[column:].count("  ")), (" ", 0), line)
        self.assertEqual([re.split(r" {2,}", line) for line in files.splitlines()][0], ["FILE", "FOUND"])
        self.assertRegex(files, rf"(?m)^{SYSTEM} +not there$")
        self.assertRegex(files, rf"(?m)^{self.user} +read$")
        usual = self.works_with("config", env={"INSTAR_CONFIG": ""}).splitlines()
        self.assertLessEqual(max(map(len, usual)), 80)

    def test_json_has_types(self):
        self.user.write_text('[backing]\nallow = ["/usr"]\nnone = true\n')
        said = json.loads(self.works_with("config", "--output=json", env={"INSTAR_MAX_RESULTS": "7M"}))
        settings = said["settings"]
        for key, value in (
            ("isolation", "auto"),
            ("backing.allow", ["/usr"]),
            ("backing.none", True),
            ("extensions", False),
            ("limits.results", 7 << 20),
            ("limits.messages", 1 << 20),
            ("limits.seconds", {"metadata": 600, "data": 2592000}),
            ("limits.requests", {"metadata": 10_000_000, "data": 1 << 40}),
        ):
            self.assertEqual(settings[key]["value"], value, key)
        for key in ("workers", "limits.guest-memory"):
            self.assertNotIn("value", settings[key])
            self.assertTrue(settings[key]["default"])
        self.assertEqual(said["files"], [{"path": SYSTEM, "found": "not there"}, {"path": str(self.user), "found": "read"}])
        self.user.write_text("nosuch = 1\n")
        out, err, status = self.run_config("config", "--output=json")
        said = json.loads(out)
        self.assertEqual((status, set(said)), (1, {"error", "files"}))
        self.assertIn("nosuch", said["error"])
        self.assertIn(said["error"], err)
        self.assertEqual(said["files"][-1], {"path": str(self.user), "found": "there, and wrong"})

    def test_the_sample_says_everything_and_changes_nothing(self):
        sample = self.works_with("generate", "config")
        before = json.loads(self.works_with("config", "--output=json"))["settings"]
        env = self.file(sample)
        after = json.loads(self.works_with("config", "--output=json", env=env))["settings"]
        self.assertEqual(after, before)
        self.assertLess(max(map(len, sample.splitlines())), 130)
        # Each line is one that could be in force.
        lines = re.findall(r"(?m)^#([a-z-]+ = .+)$", sample)
        self.assertEqual(len(lines), len(VARIABLES) + 1)
        env = self.file(re.sub(r"(?m)^#([a-z-]+ = .+)$", r"\1", sample))
        after = json.loads(self.works_with("config", "--output=json", env=env))["settings"]
        self.assertEqual({row["from"] for row in after.values()}, {env["INSTAR_CONFIG"]})
        for key, row in before.items():
            # What is written there is the default, where there is one.
            if not isinstance(row.get("value", {}), dict):
                self.assertEqual(after[key]["value"], row["value"], key)
        for key in VARIABLES:
            self.assertIn(f"\n#{key.split('.')[-1]} = ", sample)

    def works_with(self, *argv, **kwargs):
        out, err, status = self.run_config(*argv, **kwargs)
        self.assertEqual((err, status), ("", 0))
        return out

    def refused_but_shown(self, *argv):
        out, err, status = self.run_config(*argv)
        self.assertEqual(status, 1)
        self.assertIn("isolation: ", out)
        self.assertIn("nosuch", err)

    def test_the_sample_of_the_documentation_is_a_configuration(self):
        text = (ROOT / "docs/configuration.md").read_text()
        samples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        self.assertTrue(samples)
        for sample in samples:
            for folder in re.findall(r'"(/[^"]+)"', sample):
                here = self.path(folder.strip("/").replace("/", "-"))
                os.makedirs(here, exist_ok=True)
                sample = sample.replace(f'"{folder}"', f'"{here}"')
            self.works("config", env=self.file(sample))
        for key, (name, _) in VARIABLES.items():
            self.assertIn(f"`{key}`", text)
            self.assertIn(f"`{name}`", text)


@unittest.skipUnless(os.geteuid() == 0, "a file below /etc needs root")
class TestPins(ConfigTest):
    """The system's file, in a mount namespace of the test's own."""

    def run_config(self, *argv, env=None, system="", mode="644", **kwargs):
        Path(self.path("system.toml")).write_text(system)
        script = (
            f"mount -t tmpfs none /etc && mkdir /etc/instar && install -m {mode} '{self.path('system.toml')}' {SYSTEM}"
            ' && exec setpriv $USER_OF_THE_TEST -- "$@"'
        )
        env = {**BARE, "HOME": str(self.home), "USER_OF_THE_TEST": "--no-new-privs", **(env or {})}
        argv = ["unshare", "--mount", "sh", "-c", script, "sh", self.get_instar_binary(), *argv]
        return self.run_tool(argv, cwd=self.tmp, env=env, **kwargs)

    def test_the_systems_file_counts(self):
        self.works(system="")
        self.refused("--no-backing", system="[backing]\nnone = true\n")
        self.refused(SYSTEM, system="nosuch = 1\n")

    def test_it_is_not_to_be_overlooked(self):
        system = "[backing]\nnone = true\n"
        env = {"USER_OF_THE_TEST": "--reuid=65534 --clear-groups", "INSTAR_ISOLATION": "process"}
        self.refused(SYSTEM, "Permission denied", "INSTAR_CONFIG=", system=system, mode="600", env=env)
        self.works(system=system, mode="600", env={**env, "INSTAR_CONFIG": ""})

    def test_without_a_pin_it_is_the_weakest(self):
        system = "[backing]\nnone = true\n"
        self.user.write_text("[backing]\nnone = false\n")
        self.works(system=system)
        self.works(system=system, env={"INSTAR_CONFIG": ""})

    def test_what_is_pinned_is_loosened_by_nothing(self):
        system = 'pinned = ["backing.none", "isolation", "limits.seconds"]\nisolation = "auto"\n'
        system += "[backing]\nnone = true\n[limits]\nseconds = 60\n"
        pinned = {"system": system}
        self.refused("--no-backing", **pinned)
        self.refused("--no-backing", env={"INSTAR_CONFIG": ""}, **pinned)
        self.refused("--no-backing", env=self.file(""), **pinned)
        loose = "[backing]\nnone = false\n"
        for env in ({"INSTAR_NO_BACKING": "0"}, self.file(loose)):
            self.refused("pinned", SYSTEM, env=env, **pinned)
        self.user.write_text(loose)
        self.refused("pinned", SYSTEM, str(self.user), **pinned)
        self.user.unlink()
        for argv in (("--isolation", "process"), ("--max-seconds", "61")):
            self.refused("pinned", argv[0], argv=("info", *argv, "over.qcow2"), **pinned)
        self.works("info", "--max-seconds", "59", "over.qcow2", **pinned)

    def test_pinned_folders_are_all_there_are(self):
        os.mkdir(self.path("inner"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", "inner/over.qcow2")
        system = f'pinned = ["backing.allow"]\n[backing]\nallow = ["{self.path("inner")}"]\n'
        argv = ("check", "inner/over.qcow2")
        self.refused("pinned", argv=(*argv, "--allow-backing", self.tmp), system=system)
        self.refused("not in a directory", argv=argv, system=system)
        self.works(*argv, system=system.replace("/inner", ""))

    def test_nothing_is_advised_that_is_pinned(self):
        os.mkdir(self.path("inner"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", "inner/over.qcow2")
        check, policy = ("check", "inner/over.qcow2"), ("policy", "inner/over.qcow2")
        system = 'pinned = ["backing.allow"]\n[backing]\nallow = ["/usr"]\n'
        out, err, status = self.run_config(*check, system=system)
        self.assertEqual((out, status), ("", 1))
        self.assertIn(f"are pinned by {SYSTEM}", err)
        self.assertNotIn("config add", err)
        out, err, status = self.run_config(*policy, system=system)
        self.assertEqual((err, status), ("", 2))
        self.assertIn(f"are pinned by {SYSTEM}", out)
        self.assertNotIn("config add", out)
        out = json.loads(self.run_config(*policy, "--output=json", system=system)[0])
        self.assertEqual((out["pinned"], "configuration" in out), (SYSTEM, False))
        none = 'pinned = ["backing.none"]\n[backing]\nnone = true\n'
        self.refused(f"it is pinned by {SYSTEM}", argv=check, system=none)
        self.refused("it is so by INSTAR_NO_BACKING", argv=check, env={"INSTAR_NO_BACKING": "1"})
        self.assertIn(f"it is pinned by {SYSTEM}", self.run_config(*policy, system=none)[0])
        limits = 'pinned = ["limits.requests"]\n[limits]\nrequests = 2\n'
        self.refused(f"(2); limits.requests is pinned by {SYSTEM}", argv=("info", "base.raw"), system=limits)
        argv = ("info", "--max-requests", "1", "base.raw")
        self.refused(f"raises it, up to 2, to which limits.requests is pinned by {SYSTEM}", argv=argv, system=limits)
        self.refused("(1); --max-requests raises it\n", argv=argv)

    def test_a_broken_system_file_can_be_mended(self):
        """And two that are broken, one after the other."""
        self.user.write_text("moon = 1\n")
        script = (
            f"mount -t tmpfs none /etc && mkdir /etc/instar && echo 'sun = 1' > {SYSTEM}"
            ' && "$0" --version && "$0" config unset moon && "$0" config --system unset sun && "$0" info over.qcow2'
        )
        argv = ["unshare", "--mount", "sh", "-c", script, self.get_instar_binary()]
        _, err, status = self.run_tool(argv, cwd=self.tmp, env={**BARE, "HOME": str(self.home)})
        self.assertEqual((err, status), ("", 0))

    def test_the_systems_file_is_changed(self):
        """A profile pins what it says there."""
        script = (
            f"mount -t tmpfs none /etc && for words in 'set isolation auto' 'profile strict' 'add backing.allow /usr';"
            f' do "$0" config --system $words || exit 1; done; cat {SYSTEM} && "$0" info --isolation auto over.qcow2'
        )
        argv = ["unshare", "--mount", "sh", "-c", script, self.get_instar_binary()]
        out, err, status = self.run_tool(argv, cwd=self.tmp, env={**BARE, "HOME": str(self.home)})
        self.assertEqual(status, 1, out)
        for text in ('isolation = "kvm"', "none = true", 'allow = ["/usr"]', 'pinned = ["backing.none", "isolation"]'):
            self.assertIn(text, out)
        self.assertIn("isolation is pinned to kvm", err)


if __name__ == "__main__":
    unittest.main()
