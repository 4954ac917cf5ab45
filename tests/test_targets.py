"""A target that exists: what becomes of it, and of all that leads to it, beside what the stock tool does; and that a command
that fails before it writes leaves it as it was."""

import contextlib
import os
import random
import subprocess
import tempfile
import unittest
from pathlib import Path

from tests.base import ISOLATION
from tests.helpers import filesystems
from tests.helpers.targets import MIB, NEW, NOBODY, OLD, ROOT_ONLY, TargetTest, access_list, flags, plain, state


class TestKinds(TargetTest):
    """One test a kind that needs no rights."""

    def test_new(self):
        def make(folder, stack):
            del stack
            return folder / "target.raw", [(folder / "target.raw").read_bytes]

        self.same(make)
        _, _, status = self.convert(self.run_instar, self.path("not-there.raw"), "garbage.qcow2", "qcow2")
        self.assertEqual((status, os.path.exists(self.path("not-there.raw"))), (1, False))

    def test_empty(self):
        self.both(lambda folder, stack: plain(folder, stack, b""), b"")

    def test_empty_file_keeps_its_inode(self):
        """Who made the file beforehand (mkstemp) holds it."""
        with tempfile.NamedTemporaryFile(dir=self.tmp) as file:
            self.assertEqual(self.convert(self.run_instar, file.name), ("", "", 0))
            self.assertEqual(file.read(), NEW)

    def test_plain(self):
        def make(folder, stack):
            path, ways = plain(folder, stack)
            os.chmod(path, 0o640)
            return path, ways

        self.both(make)

    def test_plain_is_replaced_as_a_whole(self):
        """What was there is so until the new one is complete."""
        path, _ = plain(Path(self.tmp), None)
        before = os.stat(path).st_ino
        os.utime(path, ns=(10**18, 10**18))
        self.assertEqual(self.convert(self.run_instar, path), ("", "", 0))
        after = os.stat(path)
        self.assertNotEqual(after.st_ino, before)
        self.assertEqual(after.st_atime_ns, 10**18, "the time of reading is no matter of writing")
        self.assertGreater(after.st_mtime_ns, 10**18)

    def test_hard_linked(self):
        def make(folder, stack):
            path, ways = plain(folder, stack)
            os.link(path, folder / "other.raw")
            return path, [*ways, (folder / "other.raw").read_bytes]

        self.both(make)

    def test_held_open(self):
        def make(folder, stack):
            path, ways = plain(folder, stack)
            file = stack.enter_context(open(path, "rb"))
            return path, [*ways, lambda: os.pread(file.fileno(), 2 * MIB, 0)]

        self.both(make)

    def test_held_by_the_program_itself(self):
        """A descriptor that it was started with."""
        for folder, run in self.tools():
            path, _ = plain(folder, None)
            with open(path, "r+b", buffering=0) as file:
                self.assertEqual(self.convert(run, path, pass_fds=[file.fileno()]), ("", "", 0))
                self.assertEqual(os.pread(file.fileno(), 2 * MIB, 0), NEW)

    def test_named_through_proc(self):
        """`/dev/fd/N`: of a file with a name, of one without any more, and of memory."""

        def named(folder):
            return open(plain(folder, None)[0], "r+b", buffering=0)

        def unlinked(folder):
            file = named(folder)
            os.unlink(folder / "target.raw")
            return file

        def memory(folder):
            del folder
            file = os.fdopen(os.memfd_create("target"), "r+b", buffering=0)
            file.write(OLD)
            return file

        for what, make in {"named": named, "unlinked": unlinked, "memory": memory}.items():
            for prefix in ("/dev/fd", "/proc/self/fd"):
                for folder, run in self.tools():
                    with self.subTest(what, prefix=prefix, tool=folder.name), make(folder) as file:
                        name, inherit = f"{prefix}/{file.fileno()}", {"pass_fds": [file.fileno()]}
                        _, _, status = self.convert(run, name, "garbage.qcow2", "qcow2", **inherit)
                        self.assertEqual((status, os.pread(file.fileno(), MIB, 0)), (1, OLD))
                        self.assertEqual(self.convert(run, name, **inherit), ("", "", 0))
                        self.assertEqual(os.pread(file.fileno(), 2 * MIB, 0), NEW)

    def test_behind_a_link(self):
        def make(folder, stack):
            path, ways = plain(folder, stack)
            os.symlink("target.raw", folder / "link")
            os.symlink("./link", folder / "second")
            return folder / "second", [*ways, lambda: path.read_bytes()]

        self.both(make)
        self.assertTrue(os.path.islink(Path(self.tmp, "ours", "second")))

    def test_names_of_folders(self):
        """What cannot be a file, in the same words."""
        for folder, _ in self.tools():
            plain(folder, None)
            (folder / "folder").mkdir()
        for name in ("new/", "target.raw/", "folder", "folder/", ".", "..", "folder/.", "no/such"):
            with self.subTest(name):
                theirs, ours = (self.convert(run, name, cwd=folder) for folder, run in self.tools())
                self.assert_same_outcome(ours, theirs)

    def test_create_and_dd(self):
        """The other commands that make a target."""
        commands = {
            "create": (("create", "-q", "-f", "qcow2", "-o", "cluster_size=3", "TARGET", "1M"), ("create", "-q", "-f", "raw", "TARGET", "1M")),
            "dd": (("dd", "-f", "qcow2", "bs=1M", "if=garbage.qcow2", "of=TARGET"), ("dd", "-f", "raw", "bs=1M", "if=source.raw", "of=TARGET")),
        }
        for name, (fails, works) in commands.items():
            for other in (False, True):
                with self.subTest(name, hard_linked=other):
                    folder = Path(tempfile.mkdtemp(dir=self.tmp))
                    path, _ = plain(folder, None)
                    if other:
                        os.link(path, folder / "other")
                    words = [str(word).replace("TARGET", str(path)) for word in fails]
                    self.assertEqual(self.run_instar(*words, cwd=self.tmp)[2], 1)
                    self.assertEqual(path.read_bytes(), OLD)
                    words = [str(word).replace("TARGET", str(path)) for word in works]
                    self.assertEqual(self.run_instar(*words, cwd=self.tmp)[1:], ("", 0))
                    expected = bytes(MIB) if name == "create" else NEW
                    self.assertEqual(path.read_bytes(), expected)
                    if other:
                        self.assertEqual((folder / "other").read_bytes(), expected)

    def test_changed_meanwhile(self):
        """A file that came to be under the name since it was looked up stays."""
        for existed in (True, False):
            with self.subTest(existed=existed):
                folder = Path(tempfile.mkdtemp(dir=self.tmp))
                path = folder / "target.raw"
                if existed:
                    path.write_bytes(OLD)
                argv = [self.get_instar_binary(), "convert", "-r", "600k", "-f", "raw", "-O", "raw", self.path("source.raw"), path]
                with subprocess.Popen([str(a) for a in argv], stderr=subprocess.PIPE) as running:
                    # At that rate it takes seconds; that it has begun is seen by its open files.
                    self.wait_for(running.pid, folder)
                    (folder / "another").write_bytes(b"another")
                    os.rename(folder / "another", path)
                    err = running.stderr.read().decode()
                self.assertEqual(running.returncode, 1, err)
                self.assertIn("Stale file handle" if existed else "File exists", err)
                self.assertEqual(path.read_bytes(), b"another")
                self.assertEqual(os.listdir(folder), ["target.raw"])

    def wait_for(self, pid, folder):
        """Until the process has a file without a name in that folder."""
        import time

        for _ in range(500):
            with contextlib.suppress(OSError):
                for name in os.listdir(f"/proc/{pid}/fd"):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if link.startswith(str(folder)) and "(deleted)" in link:
                        return
            time.sleep(0.01)
        self.fail("it did not begin")


@ROOT_ONLY
class TestWithRights(TargetTest):
    """Kinds that only root can make, or that concern other users."""

    def as_nobody(self, run, *words, **more):
        def demote():
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

        env = {"HOME": "/nonexistent", "INSTAR_ISOLATION": "process" if ISOLATION != "kvm" else "auto"}
        return run(*words, before=demote, env=env, **more)

    def test_held_where_no_lease_is_to_be_had(self):
        """As in a container: root without the right, over a file of somebody else."""
        path, _ = plain(Path(self.tmp), None)
        words = ["setpriv", "--bounding-set=-lease", self.get_instar_binary(), "convert", "-f", "raw", "-O", "raw"]
        env = {"INSTAR_QEMU_VERSION": self.qemu_version}

        def convert(**more):
            path.write_bytes(OLD + bytes(MIB - len(OLD)))
            os.chown(path, NOBODY, NOBODY)
            before = os.stat(path).st_ino
            self.assertEqual(self.run_tool([*words, self.path("source.raw"), path], env=env, **more), ("", "", 0))
            return os.stat(path).st_ino != before

        self.assertTrue(convert(), "nobody has it")
        with open(path, "rb"):
            self.assertFalse(convert())
        with filesystems.loop_device(path) as device:
            self.assertFalse(convert())
            filesystems.run("blockdev", "--flushbufs", device)
            self.assertEqual(Path(device).read_bytes(), NEW)

    def test_unreachable_in_other_ways(self):
        """A folder over whose parent something is mounted, one with too long a path, and one that is removed: chains are
        read there, and targets made, as far as there is a folder."""
        def chain(folder):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "1M", cwd=folder)
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", cwd=folder)

        tool = str(self.get_instar_binary())
        run = f"'{tool}' convert -O raw top.qcow2 new.raw && echo old > old.raw && '{tool}' convert -O raw top.qcow2 old.raw"
        covered = Path(self.tmp, "covered", "work")
        covered.mkdir(parents=True)
        chain(covered)
        mount = f"mount -t tmpfs tmpfs '{covered.parent}' && {run}; status=$?; umount '{covered.parent}'; exit $status"
        self.assertEqual(self.run_tool(["sh", "-c", mount], cwd=covered), ("", "", 0))
        self.assertEqual((covered / "new.raw").read_bytes(), bytes(MIB))
        self.assertEqual((covered / "old.raw").read_bytes(), bytes(MIB))

        long = "d" * 250
        made = "qemu-img create -q -f qcow2 base.qcow2 1M && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2"
        deep = f"for i in $(seq 20); do mkdir {long} && cd -P {long} || exit; done; {made} && {run} && stat -c %s new.raw old.raw"
        self.assertEqual(self.run_tool(["bash", "-c", deep], cwd=self.tmp), (f"{MIB}\n{MIB}\n", "", 0))

        gone = Path(self.tmp, "parent", "gone")
        gone.mkdir(parents=True)
        chain(gone.parent)
        removed = f"rmdir '{gone}' && '{tool}' info --backing-chain ../top.qcow2 >/dev/null && '{tool}' convert -O raw '{gone.parent}/top.qcow2' ../new.raw"
        self.assertEqual(self.run_tool(["sh", "-c", removed], cwd=gone), ("", "", 0))
        # Its folder is the only one that is allowed, as ever: not what would be left of its name.
        self.make("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "thief.qcow2", "1M", cwd=gone.parent)
        gone.mkdir()
        thief = f"rmdir '{gone}' && '{tool}' convert -O raw ../thief.qcow2 ../stolen.raw"
        _, err, status = self.run_tool(["sh", "-c", thief], cwd=gone)
        self.assertEqual((status, os.path.exists(gone.parent / "stolen.raw")), (1, False))
        self.assertIn("not in a directory that images may refer to", err)

    def test_bind_mounted(self):
        def make(folder, stack):
            path, _ = plain(folder, stack)
            (folder / "mounted.raw").touch()
            filesystems.run("mount", "--bind", path, folder / "mounted.raw")
            stack.callback(filesystems.run, "umount", folder / "mounted.raw")
            return folder / "mounted.raw", [path.read_bytes, (folder / "mounted.raw").read_bytes]

        self.both(make)

    def test_bind_mounted_elsewhere(self):
        """A file that is seen at another place, too: there the new content is to be seen."""
        def make(folder, stack):
            path = folder / "target file.raw"
            path.write_bytes(OLD)
            (folder / "there\tnow").touch()
            filesystems.run("mount", "--bind", path, folder / "there\tnow")
            stack.callback(filesystems.run, "umount", folder / "there\tnow")
            return path, [path.read_bytes, (folder / "there\tnow").read_bytes]

        self.both(make)

    def test_the_same_disk(self):
        """What is read is never written over, also where no lock tells, as the stock tool does."""
        path = Path(self.tmp, "disk.raw")
        path.write_bytes(OLD + bytes(MIB - len(OLD)))
        before = path.read_bytes()
        os.link(path, path.with_name("second"))
        device_of = filesystems.loop_device
        with device_of(path) as device, device_of(path) as twin, device_of(device) as over:
            for words in (
                ["dd", "-U", "if=disk.raw", "of=disk.raw"],
                ["dd", "-U", "if=disk.raw", "of=second"],
                ["convert", "-U", "-f", "raw", "-O", "raw", "disk.raw", "second"],
                ["dd", f"if={device}", "of=disk.raw"],
                ["convert", "-f", "raw", "-O", "qcow2", device, twin],
                ["convert", "-f", "raw", "-O", "qcow2", "second", over],
                ["convert", "-f", "raw", "-O", "qcow2", over, device],
                ["dd", "if=disk.raw", f"of={device}"],
                ["convert", "-f", "raw", "-O", "qcow2", device, "disk.raw"],
                ["convert", "-n", "-f", "raw", "-O", "raw", "second", device],
            ):
                with self.subTest(words):
                    out, err, status = self.run_instar(*words, cwd=self.tmp)
                    self.assertEqual((out, status), ("", 1))
                    self.assertIn("cannot be written: it is the same disk as", err)
                    filesystems.run("blockdev", "--flushbufs", device)
                    self.assertEqual(path.read_bytes(), before)

    def test_the_same_disk_below(self):
        """The same of a file that is named by the image that is read."""
        base = Path(self.tmp, "base.raw")
        base.write_bytes(NEW)
        os.link(base, base.with_name("second"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2", cwd=self.tmp)
        for words in (
            ["convert", "-U", "top.qcow2", "-O", "raw", "second"],
            ["convert", "-U", "-n", "top.qcow2", "-O", "raw", "base.raw"],
            ["dd", "-U", "if=top.qcow2", "of=base.raw"],
        ):
            with self.subTest(words):
                _, err, status = self.run_instar(*words, cwd=self.tmp)
                self.assert_same_bytes(base.read_bytes(), NEW, err)
                self.assertEqual(status, 1)
                self.assertIn("lock", err)
        for format in ("raw", "qcow2"):
            with self.subTest("a loop device of it", format=format), filesystems.loop_device(base) as device:
                words = ["convert", "--allow-backing", self.tmp, "-O", format, "top.qcow2", device]
                _, err, status = self.run_instar(*words, cwd=self.tmp)
                filesystems.run("blockdev", "--flushbufs", device)
                self.assert_same_bytes(base.read_bytes(), NEW, err)
                self.assertEqual(status, 1)
        with filesystems.loop_device(base) as device:
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", device, "-F", "raw", "over.qcow2", cwd=self.tmp)
            words = ["convert", "-U", "--allow-backing", "/dev", "-O", "qcow2", "over.qcow2", "second"]
            _, err, status = self.run_instar(*words, cwd=self.tmp)
            self.assert_same_bytes(base.read_bytes(), NEW, err)
            self.assertEqual(status, 1)

    def test_zeroes_stay_thin(self):
        """What is zero in the source, written or not, takes no room in a target that is there, as with the stock tool."""
        size = 16 * MIB
        Path(self.path("zeroes.raw")).write_bytes(b"x" * 4096 + bytes(size - 4096))
        self.make("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", self.path("zeroes.raw"), self.path("packed.qcow2"))
        content = Path(self.path("zeroes.raw")).read_bytes()
        for source in ("zeroes.raw", "packed.qcow2"):
            for old in (b"", random.Random(1).randbytes(size)):
                for device in (False, True):
                    with self.subTest(source, old=bool(old), device=device):
                        path = Path(self.tmp, "thin.raw")
                        path.write_bytes(old)
                        os.truncate(path, size)
                        with contextlib.ExitStack() as stack:
                            target = stack.enter_context(filesystems.loop_device(path)) if device else path
                            argv = ["convert", "-n", "-O", "raw", self.path(source), target]
                            self.assertEqual(self.run_instar(*argv), ("", "", 0))
                        filesystems.run("sync", path)
                        self.assert_same_bytes(path.read_bytes(), content)
                        self.assertLess(os.stat(path).st_blocks * 512, 256 << 10)

    def test_append_only_folder(self):
        """Names in it cannot be replaced: in place."""
        with filesystems.mounted("ext4", self.tmp) as place:
            (place / "log").mkdir()
            path, _ = plain(place / "log", None)
            filesystems.run("chattr", "+a", place / "log")
            self.assertEqual(self.run_instar("convert", "-O", "raw", self.path("source.raw"), path), ("", "", 0))
            self.assertEqual(path.read_bytes(), NEW)
            self.assertEqual(os.listdir(place / "log"), [path.name])
            filesystems.run("chattr", "-a", place / "log")

    def test_folder_of_another_project(self):
        """It takes in no file of none, or of another one: in place."""
        with filesystems.mounted("xfs", self.tmp) as place:
            (place / "of").mkdir()
            path, _ = plain(place / "of", None)
            filesystems.run("chattr", "-p", "42", place / "of")
            filesystems.run("chattr", "+P", place / "of")
            before = os.stat(path).st_ino
            self.assertEqual(self.run_instar("convert", "-O", "raw", self.path("source.raw"), path), ("", "", 0))
            self.assertEqual((path.read_bytes(), os.stat(path).st_ino), (NEW, before))

    def test_rights_of_a_program(self):
        """Rights that a program in the file would have do not pass to what replaces it."""
        path, _ = plain(Path(self.tmp), None)
        for mode in (0o6755, 0o4711, 0o2644):
            path.write_bytes(OLD)
            os.chmod(path, mode)
            self.assertEqual(self.run_instar("convert", "-O", "raw", self.path("source.raw"), path), ("", "", 0))
            self.assertEqual(oct(os.stat(path).st_mode & 0o7777), oct(mode if mode == 0o2644 else mode & 0o777))

    def test_loop_device(self):
        def make(folder, stack):
            path, ways = plain(folder, stack, OLD + bytes(MIB - len(OLD)))
            device = stack.enter_context(filesystems.loop_device(path))

            def through():
                filesystems.run("blockdev", "--flushbufs", device)
                return Path(device).read_bytes()

            return path, [*ways, through]

        self.both(make, OLD + bytes(MIB - len(OLD)))

    def test_labels_lists_and_flags(self):
        """On every file system: owner, mode, label, attribute, access list and flags stay, and the file is replaced."""

        def make_on(place):
            def make(folder, stack):
                del stack
                path = place / f"{folder.name}.raw"
                path.write_bytes(OLD)
                os.chown(path, 1000, 1001)
                os.chmod(path, 0o2640)
                os.setxattr(path, "user.comment", b"text")
                os.setxattr(path, "security.selinux", b"system_u:object_r:virt_image_t:s0")
                os.setxattr(path, "system.posix_acl_access", access_list(1002))
                filesystems.run("chattr", "+d", path)
                return path, [path.read_bytes]

            return make

        for kind in filesystems.KINDS:
            with self.subTest(kind), filesystems.mounted(kind, self.tmp) as place:
                path, _ = make_on(place)(Path(self.tmp, "inode"), None)
                # A default list of the folder is no matter of a file that is there.
                os.setxattr(place, "system.posix_acl_default", access_list(1003))
                before = os.stat(path).st_ino
                self.assertEqual(self.convert(self.run_instar, path), ("", "", 0))
                self.assertNotEqual(os.stat(path).st_ino, before, "it was not replaced")
                self.both(make_on(place), more=flags)
                os.unlink(path)
                self.assertEqual([name for name in os.listdir(place) if "instar" in name], [])

    def test_no_copy_on_write(self):
        """btrfs: `chattr +C`."""

        def make_on(place):
            def make(folder, stack):
                del stack
                path = place / f"{folder.name}.raw"
                path.unlink(missing_ok=True)
                path.touch()
                filesystems.run("chattr", "+C", path)
                path.write_bytes(OLD)
                return path, [path.read_bytes]

            return make

        with filesystems.mounted("btrfs", self.tmp) as place:
            self.both(make_on(place), more=flags)
            self.assertIn("C", flags(place / "ours.raw"))

    def test_immutable(self):
        """`chattr +i` and `+a`: refused in the same words, untouched."""
        for flag in "ia":
            with self.subTest(flag):
                outcomes = []
                for folder, run in self.tools():
                    path, _ = plain(folder, None)
                    filesystems.run("chattr", f"+{flag}", path)
                    try:
                        outcomes.append(self.convert(run, "target.raw", cwd=folder))
                        self.assertEqual(path.read_bytes(), OLD)
                    finally:
                        filesystems.run("chattr", f"-{flag}", path)
                self.assert_same_outcome(outcomes[1], outcomes[0])

    def test_extent_size_hint_and_project(self):
        """XFS: what quotas and extents are counted by."""
        with filesystems.mounted("xfs", self.tmp) as place:
            path = place / "target.raw"
            path.touch()
            filesystems.run("xfs_io", "-c", "extsize 1m", "-c", "chproj 42", path)
            path.write_bytes(OLD)
            before = os.stat(path).st_ino
            self.assertEqual(self.convert(self.run_instar, path), ("", "", 0))
            self.assertNotEqual(os.stat(path).st_ino, before)
            shown = filesystems.run("xfs_io", "-r", "-c", "extsize", "-c", "lsproj", path)
            self.assertIn("[1048576]", shown)
            self.assertIn("projid = 42", shown)

    def test_full_file_system(self):
        """No room for a second copy: in place, as the stock tool does it; and what cannot succeed either way changes nothing."""
        for kind in ("tmpfs", "ext4"):
            with self.subTest(kind), filesystems.mounted(kind, self.tmp, 24 * MIB if kind == "ext4" else 12 * MIB) as place:
                room = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
                content = random.Random(3).randbytes(room // MIB * 6 // 10 * MIB)
                Path(self.path("big.raw")).write_bytes(content)
                path = place / "target.raw"
                path.write_bytes(content[::-1])
                self.assertEqual(self.convert(self.run_instar, path, "garbage.qcow2", "qcow2")[2], 1)
                self.assertEqual(path.read_bytes(), content[::-1])
                self.assertEqual(self.convert(self.run_instar, path, "big.raw"), ("", "", 0))
                self.assertEqual(path.read_bytes(), content)
                Path(self.path("big.raw")).write_bytes(content * 2)
                self.assertEqual(self.convert(self.run_instar, path, "big.raw")[2], 1)
                self.assertEqual(path.read_bytes(), content)

    def test_no_room_for_all_files_together(self):
        """Of a new vmdk's further files that are copied into at the end, none is where there is no room for all."""
        with filesystems.mounted("tmpfs", self.tmp, 70 * MIB) as place:
            source = self.path("two.raw")
            with open(source, "wb") as file:
                for at in (0, 3000 * MIB):
                    file.seek(at)
                    file.write(random.Random(at).randbytes(20 * MIB))
                file.truncate(4 << 30)
            old = {}
            for number in (1, 2):
                path = place / f"t-f00{number}.vmdk"
                old[path] = random.Random(number).randbytes(MIB)
                path.write_bytes(old[path])
                os.link(path, place / f"hold{number}")
            argv = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", source, place / "t.vmdk"]
            err, status = self.run_instar(*map(str, argv))[1:]
            self.assertEqual(status, 1)
            self.assertIn("No space left on device", err)
            for path, content in old.items():
                self.assert_same_bytes(path.read_bytes(), content, path)

    def test_other_owner_and_folder_that_may_not_be_written(self):
        """As a user to whom neither belongs, but who may write to the file."""
        for what, owner, mode, above in (("owner", 0, 0o666, 0o777), ("folder", NOBODY, 0o600, 0o755)):
            with self.subTest(what):
                for folder, run in self.tools():
                    path, _ = plain(folder, None)
                    os.chown(path, owner, owner)
                    os.chmod(path, mode)
                    os.chmod(folder, above)
                    before = (os.stat(path).st_ino, state(path))
                    words = ("convert", "-f", "qcow2", "-O", "raw", self.path("garbage.qcow2"), path)
                    self.assertEqual(self.as_nobody(run, *words)[2], 1)
                    self.assertEqual(path.read_bytes(), OLD)
                    words = ("convert", "-f", "raw", "-O", "raw", self.path("source.raw"), path)
                    self.assertEqual(self.as_nobody(run, *words), ("", "", 0))
                    self.assertEqual(path.read_bytes(), NEW)
                    self.assertEqual((os.stat(path).st_ino, state(path)), before)

    def test_sticky_folder(self):
        """A link that another user planted in a folder for all leads nowhere, whatever fs.protected_symlinks says; the user's
        own and the folder's owner's do."""
        folder = Path(self.tmp, "for-all")
        folder.mkdir()
        secret = Path(self.tmp, "secret")
        secret.mkdir(mode=0o700)
        for mode, owner, follows in ((0o1777, NOBODY, False), (0o1777, 0, True), (0o777, NOBODY, True), (0o1755, NOBODY, True)):
            for existing in (False, True):
                with self.subTest(mode=oct(mode), owner=owner, existing=existing):
                    os.chmod(folder, mode)
                    victim = secret / "victim.raw"
                    victim.unlink(missing_ok=True)
                    if existing:
                        victim.write_bytes(OLD)
                    os.symlink(victim, folder / "target.raw")
                    os.lchown(folder / "target.raw", owner, owner)
                    flag = ["-n"] if existing else []
                    for more in ([], flag):
                        words = ["convert", *more, "-f", "raw", "-O", "raw", self.path("source.raw"), folder / "target.raw"]
                        _, err, status = self.run_instar(*words)
                        if follows:
                            self.assertEqual((err, status), ("", 0))
                            self.assertEqual(victim.read_bytes(), NEW)
                        else:
                            self.assertEqual(status, 1)
                            self.assertIn("Permission denied", err)
                            self.assertEqual(victim.read_bytes() if existing else victim.exists(), OLD if existing else False)
                    os.unlink(folder / "target.raw")

    def test_unreachable_current_folder(self):
        """Existing and new targets where the current folder cannot be reached by its name."""
        work = Path(self.tmp, "closed", "work")
        work.mkdir(parents=True)
        os.chmod(work, 0o777)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "1M", cwd=work)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", cwd=work)
        (work / "target.raw").write_bytes(OLD)
        for path in work.iterdir():
            os.chmod(path, 0o666)
        os.chmod(work.parent, 0o700)
        for target in ("target.raw", "new.raw"):
            outcome = self.as_nobody(self.run_instar, "convert", "-O", "raw", "top.qcow2", target, cwd=work)
            self.assertEqual(outcome, ("", "", 0))
            self.assertEqual((work / target).read_bytes(), bytes(MIB))


if __name__ == "__main__":
    unittest.main()
