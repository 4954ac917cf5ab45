"""What every integration test shares: running both tools, comparing what they say, making fixtures.

Each test runs under the isolation that INSTAR_ISOLATION names; `make test` runs the suite once for each.
"""

import contextlib
import hashlib
import json
import os
import re
import resource
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QEMU_IMG = os.environ.get("QEMU_IMG", "qemu-img")
QEMU_IO = os.environ.get("QEMU_IO", "qemu-io")
ISOLATION = os.environ.get("INSTAR_ISOLATION", "auto")


def qemu_img_version():
    """The installed qemu-img's version, as X.Y.Z."""
    text = subprocess.run([QEMU_IMG, "--version"], capture_output=True, text=True, check=True).stdout
    return re.match(r"qemu-img version ([0-9.]+)", text).group(1)


def baselines():
    """The module that reads the committed baselines (it needs this one)."""
    from tests.helpers import baselines

    return baselines


class InstarTestBase(unittest.TestCase):
    """Runners return (stdout, stderr, exit status); a timeout is ('', 'Timeout after Ns', -1)."""

    maxDiff = None
    qemu_version = qemu_img_version()

    @staticmethod
    def get_instar_binary():
        """The binary under test."""
        return Path(os.environ.get("INSTAR_BINARY_PATH", ROOT / "target/release/instar"))

    @staticmethod
    def run_tool(argv, timeout=60, cwd=None, env=None, limits=None, stdin=None, before=None, pass_fds=()):
        """Runs a program; `limits` maps RLIMIT_* to a value, `before` is called in the new process."""

        def apply():
            if before:
                before()
            for what, value in (limits or {}).items():
                resource.setrlimit(what, (value, value))

        try:
            done = subprocess.run(
                [str(a) for a in argv],
                capture_output=True,
                timeout=timeout,
                cwd=cwd,
                env={**os.environ, "TZ": "UTC", "LC_ALL": "C", **(env or {})},
                preexec_fn=apply if limits or before else None,
                pass_fds=pass_fds,
                stdin=stdin or subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "", f"Timeout after {timeout}s", -1
        return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), done.returncode

    def run_instar(self, *argv, **kwargs):
        """Runs instar under its own name, imitating the installed qemu-img."""
        env = {"INSTAR_QEMU_VERSION": self.qemu_version, **kwargs.pop("env", {})}
        return self.run_tool([self.get_instar_binary(), *argv], env=env, **kwargs)

    def run_as_qemu_img(self, *argv, version=None, **kwargs):
        """Runs instar by the name qemu-img."""
        link = Path(self.tmp) / "bin" / "qemu-img"
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(self.get_instar_binary())
        env = {"INSTAR_QEMU_VERSION": version or self.qemu_version, **kwargs.pop("env", {})}
        return self.run_tool([link, *argv], env=env, **kwargs)

    def run_qemu_img(self, *argv, **kwargs):
        """Runs the stock tool, as PATH finds it."""
        return self.run_tool([QEMU_IMG, *argv], **kwargs)

    def run_instar_info(
        self, path, timeout=30, qemu_version=None, output_format="human", unsafe_quirks=False, chain=False, cwd=None
    ):
        """`info`. `unsafe_quirks` is taken for the sake of older tests: header-less files are raw anyway."""
        del unsafe_quirks
        argv = ["info", f"--output={output_format}", *(["--backing-chain"] if chain else []), path]
        env = {"INSTAR_QEMU_VERSION": qemu_version} if qemu_version else {}
        return self.run_instar(*argv, timeout=timeout, env=env, cwd=cwd)

    def run_qemu_img_info(self, path, timeout=30, output_format="human", chain=False, cwd=None):
        """The stock tool's `info`."""
        argv = ["info", f"--output={output_format}", *(["--backing-chain"] if chain else []), path]
        return self.run_qemu_img(*argv, timeout=timeout, cwd=cwd)

    def run_instar_convert(self, source, target, *argv, timeout=60, output_format="raw", compress=False, cwd=None):
        """`convert`."""
        flags = ["-c"] if compress else []
        return self.run_instar("convert", "-O", output_format, *flags, *argv, source, target, timeout=timeout, cwd=cwd)

    def run_qemu_img_convert(self, source, target, *argv, timeout=60, output_format="raw", compress=False, cwd=None):
        """The stock tool's `convert`."""
        flags = ["-c"] if compress else []
        return self.run_qemu_img("convert", "-O", output_format, *flags, *argv, source, target, timeout=timeout, cwd=cwd)

    def run_instar_rebase(self, overlay, *args, timeout=60):
        """`rebase ARGS... OVERLAY`."""
        return self.run_instar("rebase", *args, overlay, timeout=timeout)

    def run_qemu_img_rebase(self, overlay, backing, *args, timeout=60):
        """The stock tool's `rebase`."""
        return self.run_qemu_img("rebase", *args, "-b", backing, overlay, timeout=timeout)

    def run_instar_commit(self, overlay, *args, timeout=60):
        """`commit ARGS... OVERLAY`."""
        return self.run_instar("commit", *args, overlay, timeout=timeout)

    def run_qemu_img_commit(self, overlay, *args, timeout=60):
        """The stock tool's `commit`."""
        return self.run_qemu_img("commit", *args, overlay, timeout=timeout)

    def info_json(self, name):
        """What the stock tool says of an image."""
        return json.loads(self.make("qemu-img", "info", "--output=json", name))

    @contextlib.contextmanager
    def held(self, name, fmt="qcow2"):
        """A qemu-io holds the image open for writing."""
        argv = [QEMU_IO, "-f", fmt, self.path(name)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as holder:
            try:
                holder.stdin.write(b"length\n")
                holder.stdin.flush()
                self.assertTrue(holder.stdout.readline())
                yield
            finally:
                holder.stdin.close()
                holder.wait(timeout=30)

    @staticmethod
    def get_output_profiles(output_type="human", command="info", target="qcow2"):
        """The baselines' profiles and which release has which."""
        del output_type  # all types of a command are folded together
        return baselines().version_map()[f"{command}-{target}"]

    @staticmethod
    def get_expected_output(case, profile, output_type="human", command="info", target="qcow2"):
        """What the releases of a profile print."""
        found = baselines().expected(case, profile, command, target)
        if found is None or output_type not in found:
            raise FileNotFoundError(f"no baseline of {command} {target} {case} {output_type} in {profile}")
        return found[output_type]["stdout"]

    @staticmethod
    def get_qemu_version_for_profile(profile):
        """`profile-8-2-10` is 8.2."""
        return ".".join(profile.removeprefix("profile-").split("-")[:2])

    @classmethod
    def get_profile_for_installed_qemu(cls, output_type="human", command="info", target="qcow2"):
        """The profile of the installed release: its own, or that of the newest release before it."""
        key = baselines().version_key
        known = cls.get_output_profiles(output_type, command, target)["version_to_profile"]
        before = [version for version in known if key(version) <= key(cls.qemu_version)]
        return known[max(before, key=key)]

    def make(self, *argv, cwd=None):
        """Makes a fixture with the stock tools; it must work."""
        tool = QEMU_IO if argv[0] == "qemu-io" else QEMU_IMG
        out, err, status = self.run_tool([tool, *argv[1:]], cwd=cwd or self.tmp)
        self.assertEqual(status, 0, f"{argv}: {out}{err}")
        return out

    def get_image(self, identity):
        """The image that tests/manifest.json lists as `format/variant`, made and compared with its digests: its path."""
        from tests.helpers import fixtures, manifest

        self.assertIn(identity, manifest.by_id(), "tests/manifest.json does not list it")
        return os.path.join(*fixtures.by_id(identity))

    def setUp(self):
        import tempfile

        folder = tempfile.TemporaryDirectory(prefix="instar-test-")
        self.addCleanup(folder.cleanup)
        self.tmp = folder.name

    def path(self, name):
        """A path in the test's own folder."""
        return os.path.join(self.tmp, name)

    @staticmethod
    def sha256(path):
        """Of a file's content."""
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def assert_bytes_identical(self, a, b):
        """Compares by digest: a difference of megabytes is of no use in a report."""
        self.assertEqual(os.path.getsize(a), os.path.getsize(b), f"lengths of {a} and {b}")
        self.assertEqual(self.sha256(a), self.sha256(b), f"content of {a} and {b}")

    def assert_same_bytes(self, shown, should, what=""):
        """Says where they differ, and not all of what is in them."""
        if shown == should:
            return
        self.assertEqual(len(shown), len(should), f"{what}: lengths")
        at = next(at for at, pair in enumerate(zip(shown, should)) if pair[0] != pair[1])
        count = sum(a != b for a, b in zip(shown, should))
        part = slice(at, at + 16)
        self.assertEqual(bytes(shown[part]), bytes(should[part]), f"{what}: {count} bytes differ, from byte {at} on")

    def assert_same_outcome(self, ours, theirs, what=""):
        """Output, errors and exit status equal to the letter, but for the program's name and its hints."""
        err = re.sub(r"^instar: hint: .*\n", "", ours[1], flags=re.MULTILINE)
        mine = (ours[0], re.sub(r"^instar(?=( \w+)?: )", "qemu-img", err, flags=re.MULTILINE), ours[2])
        mine = (mine[0], mine[1].replace("'instar ", "'qemu-img "), mine[2])
        self.assertEqual(mine, theirs, what)

    def assert_same_disk(self, a, b, *argv):
        """The stock tool finds the same bytes in both."""
        out, err, status = self.run_qemu_img("compare", *argv, a, b, timeout=120, cwd=self.tmp)
        self.assertEqual(status, 0, f"{a} {b}: {out}{err}")

    def assert_check_clean(self, path):
        """The stock tool finds no error and no leak."""
        out, err, status = self.run_qemu_img("check", path, cwd=self.tmp)
        self.assertEqual(status, 0, f"{path}: {out}{err}")

    def run_adversarial(self, argv, timeout=30, max_memory_mb=512):
        """Under a limit on memory; a hang or a death by signal is a failure."""
        out, err, status = self.run_instar(
            *argv, timeout=timeout, limits={resource.RLIMIT_AS: max_memory_mb << 20}
        )
        self.assertGreaterEqual(status, 0, f"{argv}: {err}")
        return out, err, status
