"""A target that exists: what becomes of it, and of all that leads to it, beside what the stock tool does; and that a command
that fails before it writes leaves it as it was."""

import contextlib
import os
import random
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

from tests.base import ISOLATION, InstarTestBase
from tests.helpers import filesystems

KIB, MIB = 1 << 10, 1 << 20
OLD = random.Random(1).randbytes(200 * KIB)
NEW = random.Random(2).randbytes(MIB)
NOBODY = 65534
ROOT_ONLY = unittest.skipUnless(os.geteuid() == 0, "mounts, owners and other users need root")


def access_list(user):
    """A POSIX ACL that lets that user read and write: version, then tag, rights and number of each entry."""
    no_id = 0xFFFFFFFF
    entries = ((1, 6, no_id), (2, 6, user), (4, 4, no_id), (0x10, 6, no_id), (0x20, 0, no_id))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def flags(path):
    """What `chattr` has set."""
    return {letter for letter in filesystems.run("lsattr", "-d", path).split()[0] if letter in "acdijACDS"}


def state(path):
    """All that a file has besides its content and its time of change."""
    seen = os.stat(path)
    extended = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return {"mode": seen.st_mode, "owner": (seen.st_uid, seen.st_gid), "links": seen.st_nlink, "extended": extended}


class TargetTest(InstarTestBase):
    """Each kind of target is made twice, once for each tool: a function that makes it gives its name and what shows its
    content by other ways."""

    def setUp(self):
        super().setUp()
        os.chmod(self.tmp, 0o755)
        for name, content in (("source.raw", NEW), ("garbage.qcow2", b"garbage" * 1000)):
            Path(self.tmp, name).write_bytes(content)

    def tools(self):
        """The folder that each tool works in, and how it is called."""
        for name, run in (("stock", self.run_qemu_img), ("ours", self.run_instar)):
            folder = Path(self.tmp, name)
            folder.mkdir(exist_ok=True)
            yield folder, run

    def convert(self, run, target, source="source.raw", fmt="raw", **more):
        return run("convert", "-f", fmt, "-O", "raw", self.path(source), target, **more)

    def same(self, make, more=lambda path: None):
        """Makes the target, converts onto it with both tools, and compares what is there afterwards by every way."""
        results = []
        for folder, run in self.tools():
            with contextlib.ExitStack() as stack:
                target, ways = make(folder, stack)
                outcome = self.convert(run, target)
                self.assertEqual(outcome, ("", "", 0))
                seen = [way() for way in ways]
                self.assertEqual([len(content) for content in seen], [MIB] * len(seen))
                self.assertTrue(all(content == NEW for content in seen))
                results.append((state(target), more(target)) if not str(target).startswith("/proc") else None)
        self.assertEqual(results[0], results[1])

    def kept(self, make, content=OLD):
        """A conversion that fails before it writes: by every way, all is as it was."""
        folder, run = list(self.tools())[1]
        with contextlib.ExitStack() as stack:
            target, ways = make(folder, stack)
            before = state(target)
            for source, fmt in (("garbage.qcow2", "qcow2"), ("none.raw", "raw")):
                _, err, status = self.convert(run, target, source, fmt)
                self.assertEqual((status, bool(err)), (1, True))
                self.assertEqual([way() for way in ways], [content] * len(ways))
                self.assertEqual(state(target), before)
            self.assertEqual([name for name in os.listdir(folder) if "instar" in name], [])

    def both(self, make, content=OLD, more=lambda path: None):
        """What every kind must show; `make` is done for each run anew."""
        self.same(make, more)
        for folder, _ in self.tools():
            shutil.rmtree(folder)
        self.kept(make, content)


def plain(folder, stack, content=OLD):
    """An ordinary file."""
    del stack
    path = folder / "target.raw"
    path.write_bytes(content)
    return path, [path.read_bytes]


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
                argv = [self.get_instar_binary(), "convert", "-r", "300k", "-f", "raw", "-O", "raw", self.path("source.raw"), path]
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

    def test_bind_mounted(self):
        def make(folder, stack):
            path, _ = plain(folder, stack)
            (folder / "mounted.raw").touch()
            filesystems.run("mount", "--bind", path, folder / "mounted.raw")
            stack.callback(filesystems.run, "umount", folder / "mounted.raw")
            return folder / "mounted.raw", [path.read_bytes, (folder / "mounted.raw").read_bytes]

        self.both(make)

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


@ROOT_ONLY
class TestDevices(TargetTest):
    """Block devices: written where they are."""

    def device(self, size=5 * MIB, *options):
        """A loop device with an old image on it, and its file."""
        back = Path(tempfile.mkdtemp(dir=self.tmp), "back")
        back.write_bytes(bytes(size))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", back, "1M")
        with open(back, "r+b") as file:
            file.truncate(size)
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        return stack.enter_context(filesystems.loop_device(back, *options)), back

    def content(self, device):
        filesystems.run("blockdev", "--flushbufs", device)
        return Path(device).read_bytes()

    def test_no_old_header_over_new_bytes(self):
        """What does not fit: afterwards the device says neither what it was nor what it was to be."""
        Path(self.path("big.raw")).write_bytes(random.Random(5).randbytes(8 * MIB))
        for fmt in ("raw", "qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx", "vdi", "parallels", "luks"):
            for cache in ((), ("-t", "none")):
                with self.subTest(fmt, cache=cache):
                    device, _ = self.device()
                    before = self.content(device)
                    more = ["--object", "secret,id=k,data=k", "-o", "key-secret=k"] if fmt == "luks" else []
                    words = ["convert", *cache, *more, "-f", "raw", "-O", fmt, self.path("big.raw"), device]
                    self.assertEqual(self.run_instar(*words)[2], 1)
                    after = self.content(device)
                    if after != before:
                        self.assertEqual(after[:4096], bytes(4096))

    def test_untouched_by_what_fails_before(self):
        device, _ = self.device()
        before = self.content(device)
        self.assertEqual(self.convert(self.run_instar, device, "garbage.qcow2", "qcow2")[2], 1)
        self.assertEqual(self.content(device), before)

    def test_whole(self):
        """The image is there, its header too, and behind it is what was there before."""
        for fmt in ("raw", "qcow2", "vmdk", "vdi"):
            for cache in ((), ("-t", "none"), ("-t", "writeback")):
                with self.subTest(fmt, cache=cache):
                    device, back = self.device(64 * MIB)
                    with open(back, "r+b") as file:
                        file.seek(60 * MIB)
                        file.write(OLD)
                    filesystems.run("blockdev", "--flushbufs", device)
                    words = ["convert", *cache, "-f", "raw", "-O", fmt, self.path("source.raw"), device]
                    self.assertEqual(self.run_instar(*words), ("", "", 0))
                    self.assertEqual(self.content(device)[60 * MIB :][: len(OLD)], OLD)
                    if fmt == "raw":
                        self.assertEqual(self.content(device)[:MIB], NEW)
                    else:
                        self.assert_same_disk(device, self.path("source.raw"), "-f", fmt, "-F", "raw")

    def test_short_raw_leaves_the_rest(self):
        """Of the first block, too."""
        Path(self.path("short.raw")).write_bytes(NEW[:512])
        device, _ = self.device()
        before = self.content(device)
        self.assertEqual(self.convert(self.run_instar, device, "short.raw"), ("", "", 0))
        self.assertEqual(self.content(device), NEW[:512] + before[512:])

    def test_read_only(self):
        """In the stock tool's words, whatever is to be done to it."""
        device, _ = self.device(5 * MIB, "-r")
        for words in (
            ("convert", "-f", "raw", "-O", "raw", "source.raw", device),
            ("convert", "-f", "raw", "-O", "qcow2", "source.raw", device),
            ("convert", "-n", "-f", "raw", "-O", "raw", "source.raw", device),
            ("create", "-q", "-f", "raw", device, "1M"),
            ("create", "-q", "-f", "qcow2", device, "1M"),
            ("dd", "-f", "raw", "bs=1M", "if=source.raw", f"of={device}"),
            ("resize", "-f", "qcow2", device, "2M"),
            ("rebase", "-f", "qcow2", "-u", "-b", "", device),
            ("commit", "-f", "qcow2", device),
            ("bench", "-w", "-c", "1", "-f", "raw", device),
        ):
            with self.subTest(words):
                theirs = self.run_qemu_img(*words, cwd=self.tmp)
                ours = self.run_as_qemu_img(*words, cwd=self.tmp)
                self.assert_same_outcome(ours, theirs)
                self.assertIn("The device is not writable: Permission denied", ours[1])


class TestBeside(TargetTest):
    """The further files of an image that has several: nothing in them changes unless the command succeeds."""

    def image(self, folder, name="disk"):
        """A vmdk of two files, whose second has another name as well."""
        self.make("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", f"{name}.vmdk", "64k", cwd=folder)
        (folder / f"{name}-flat.vmdk").write_bytes(OLD)
        os.link(folder / f"{name}-flat.vmdk", folder / "other")

    def onto(self, folder, source, **more):
        words = ["convert", "-f", "qcow2", "-O", "vmdk", "-o", "subformat=monolithicFlat", self.path(source), "disk.vmdk"]
        return self.run_instar(*words, cwd=folder, **more)

    def test_hard_linked(self):
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "source.raw", "whole.qcow2")
        # Compressed clusters, of which the later ones do not unpack: writing has begun when that is found out.
        Path(self.path("digits.raw")).write_bytes(b"".join(b"%d" % number for number in range(200_000)))
        self.make("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "digits.raw", "damaged.qcow2")
        image = Path(self.path("damaged.qcow2"))
        content = image.read_bytes()
        image.write_bytes(content[: len(content) * 3 // 4] + b"\xff" * (len(content) // 4))
        folder = Path(self.tmp, "work")
        folder.mkdir()
        self.image(folder)
        descriptor = (folder / "disk.vmdk").read_bytes()
        for source in ("garbage.qcow2", "damaged.qcow2"):
            self.assertEqual(self.onto(folder, source)[2], 1)
            self.assertEqual((folder / "other").read_bytes(), OLD)
            self.assertEqual((folder / "disk.vmdk").read_bytes(), descriptor)
        self.assertEqual(sorted(os.listdir(folder)), ["disk-flat.vmdk", "disk.vmdk", "other"])
        self.assertEqual(self.onto(folder, "whole.qcow2"), ("", "", 0))
        self.assertEqual((folder / "other").read_bytes(), NEW)
        self.assert_same_disk(folder / "disk.vmdk", self.path("source.raw"), "-f", "vmdk", "-F", "raw")
        self.assertEqual(sorted(os.listdir(folder)), ["disk-flat.vmdk", "disk.vmdk", "other"])

    @ROOT_ONLY
    def test_no_room_for_the_copy(self):
        """What could not be copied is not begun."""
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "source.raw", "whole.qcow2")
        Path(self.path("big.raw")).write_bytes(random.Random(6).randbytes(8 * MIB))
        self.make("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "big.raw", "big.qcow2")
        with filesystems.mounted("tmpfs", self.tmp, 12 * MIB) as folder:
            self.image(folder)
            self.assertEqual(self.onto(folder, "big.qcow2")[2], 1)
            self.assertEqual((folder / "other").read_bytes(), OLD)
            self.assertEqual(self.onto(folder, "whole.qcow2"), ("", "", 0))
            self.assertEqual((folder / "other").read_bytes(), NEW)


if __name__ == "__main__":
    unittest.main()
