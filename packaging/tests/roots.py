"""The packages in bare Debians: installed by apt, used, upgraded, removed; the stock tool is there before, after or never.

PACKAGE_SUITES: the suites; PACKAGE_ROOTS: the folder of their tars (packaging/root). Everything is done in name spaces of
its own: whatever ends a test, nothing stays mounted.
"""

import hashlib
import json
import os
import shutil
import subprocess
import unittest

from packaging.tests.packages import PackageTest, run

# Mounts are made where nobody else sees them; the last process takes all others with it.
ENTER = """
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/run"
cp -L /etc/resolv.conf "$0/etc/resolv.conf"
exec chroot "$0" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
    LIBGUESTFS_BACKEND=direct "$@"
"""
# What a package manager writes for itself, and what belongs to this machine.
OWN = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "etc/resolv.conf", "run", "proc", "dev", "tmp", "root", "work")

# A person's first twenty: the command, its exit status, and what it must say somewhere.
COMMANDS = """
0 | instar --version | instar
0 | instar create -f raw small.raw 1M | small.raw
0 | instar convert -O qcow2 disk.raw disk.qcow2 |
0 | instar info disk.qcow2 | file format: qcow2
0 | instar info --output=json disk.qcow2 | "virtual-size": 8388608
0 | instar check disk.qcow2 | No errors were found
0 | instar compare disk.raw disk.qcow2 | Images are identical.
1 | instar compare disk.raw small.raw | Content mismatch
0 | instar map disk.qcow2 | disk.qcow2
0 | instar measure -O qcow2 disk.raw | required size:
0 | instar snapshot -c before disk.qcow2 |
0 | instar snapshot -l disk.qcow2 | before
0 | instar bitmap --add disk.qcow2 monday |
0 | instar resize disk.qcow2 16M | Image resized.
0 | instar create -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2 | backing_file=disk.qcow2
0 | instar commit top.qcow2 | Image committed.
0 | instar rebase -b disk.qcow2 -F qcow2 top.qcow2 |
0 | instar amend -o compat=1.1,lazy_refcounts=on disk.qcow2 |
0 | instar dd if=disk.raw of=part.raw bs=1M count=1 |
0 | instar convert -O vmdk disk.raw disk.vmdk |
0 | instar convert -f vmdk -O raw disk.vmdk back.raw |
0 | instar policy top.qcow2 | disk.qcow2
0 | instar doctor | process
0 | instar config | isolation
1 | instar info nowhere.qcow2 | No such file or directory
"""


class RootTest(PackageTest):
    """One suite: `suite` is its name."""

    suite = None

    @classmethod
    def setUpClass(cls):
        if cls.suite is None:
            raise unittest.SkipTest("the base of the suites' tests")
        super().setUpClass()

    def setUp(self):
        self.root = self.tmp / "root"
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        run("tar", "-C", self.root, "-xf", f"{os.environ['PACKAGE_ROOTS']}/{self.suite}.tar")
        work = self.root / "work"
        work.mkdir()
        for name, packages in (("packages", self.deb), ("newer", self.newer)):
            (work / name).mkdir()
            for package, path in packages.items():
                shutil.copy(path, work / name / f"{package}.deb")
        self.disk = bytes(range(256)) * 4096 * 2 + bytes(6 << 20)
        (work / "disk.raw").write_bytes(self.disk)

    def tearDown(self):
        shutil.rmtree(self.root, ignore_errors=True)

    def inside(self, *argv, status=0):
        """What the command said on both channels."""
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e", "-c", ENTER, self.root]
        done = subprocess.run(
            [*enter, "sh", "-c", 'cd /work && exec "$@"', "sh", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.assertEqual(done.returncode, status, f"{self.suite}: {argv}\n{done.stdout}")
        return done.stdout

    def apt(self, *argv):
        return self.inside("apt-get", "-qq", "-y", "--no-install-recommends", *argv)

    def ours(self, folder="packages"):
        self.apt("install", *(f"/work/{folder}/{name}.deb" for name in self.deb))

    def files(self):
        """{path: what it is} of everything that is no package manager's own."""
        found = {}
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            if name.startswith(OWN) or (path.is_dir() and not path.is_symlink()):
                continue
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def check_ours(self, stock):
        """The name is ours; the stock tool's file is beside, if it is there."""
        self.assertEqual(os.readlink(self.root / "usr/bin/qemu-img"), "instar")
        away = self.root / "usr/bin/qemu-img.distrib"
        self.assertEqual(away.exists(), stock)
        if stock:
            self.assertIn("qemu-img version", self.inside("/usr/bin/qemu-img.distrib", "--version"))
        self.assertIn("qemu-img version", self.inside("qemu-img", "--version"))
        self.inside("qemu-img", "convert", "-O", "qcow2", "disk.raw", "by-name.qcow2")
        self.assertEqual(json.loads(self.inside("instar", "info", "--output=json", "by-name.qcow2"))["format"], "qcow2")

    def check_stock(self):
        """The file of qemu-utils has its name again, byte for byte, and nobody is in its way."""
        sums = (self.root / "var/lib/dpkg/info/qemu-utils.md5sums").read_text()
        (listed,) = [line.split()[0] for line in sums.splitlines() if line.endswith(" usr/bin/qemu-img")]
        path = self.root / "usr/bin/qemu-img"
        self.assertFalse(path.is_symlink())
        self.assertEqual(hashlib.md5(path.read_bytes()).hexdigest(), listed)
        self.assertEqual(self.inside("dpkg", "--verify", "qemu-utils"), "")
        self.assertNotIn("instar", self.inside("dpkg-divert", "--list"))

    def test_alone(self):
        before = self.files()
        self.apt("install", "/work/packages/instar.deb")
        self.assertEqual(self.inside("dpkg", "--verify", "instar"), "")
        isolations = ["process", *(["kvm"] if os.path.exists("/dev/kvm") else [])]
        for isolation in isolations:
            for row in COMMANDS.strip().splitlines():
                status, command, said = (part.strip() for part in row.split("|"))
                with self.subTest(command, isolation=isolation):
                    argv = ["env", f"INSTAR_ISOLATION={isolation}", *command.split()]
                    self.assertIn(said, self.inside(*argv, status=int(status)))
            self.assertEqual((self.root / "work/back.raw").read_bytes(), self.disk)
            self.assertEqual((self.root / "work/part.raw").read_bytes(), self.disk[: 1 << 20])
        self.apt("purge", "instar")
        self.assertEqual(self.files(), before)

    def test_before_the_stock_tool_and_upgraded(self):
        before = self.files()
        self.ours()
        self.check_ours(stock=False)
        self.ours("newer")
        self.assertIn("99-1", self.inside("dpkg-query", "-W", "instar-qemu-img"))
        self.check_ours(stock=False)
        # Nothing but the package is wanted of the archive: what it needs is of no interest here.
        self.apt("update")
        self.apt("install", "qemu-utils")
        self.check_ours(stock=True)
        self.apt("purge", "qemu-utils")
        self.check_ours(stock=False)
        self.apt("purge", "instar-qemu-img", "instar")
        left = self.files()
        self.assertEqual([name for name in left if name not in before and ("instar" in name or "qemu-img" in name)], [])

    def test_after_the_stock_tool_and_used_by_others(self):
        self.apt("update")
        self.apt("install", "cloud-image-utils", "guestfish" if self.suite != "bookworm" else "libguestfs-tools")
        self.check_stock_after_ours()

    def check_stock_after_ours(self):
        self.check_stock()
        self.ours()
        self.check_ours(stock=True)
        # Nobody may use the stock tool from here on.
        away = self.root / "usr/bin/qemu-img.distrib"
        away.chmod(0)
        (self.root / "work/user-data").write_text("#cloud-config\n")
        self.inside("cloud-localds", "--disk-format=qcow2", "seed.qcow2", "user-data")
        self.assertEqual(json.loads(self.inside("instar", "info", "--output=json", "seed.qcow2"))["format"], "qcow2")
        self.inside("instar", "convert", "-O", "raw", "seed.qcow2", "seed.iso")
        self.assertEqual((self.root / "work/seed.iso").read_bytes()[0x8001:0x8006], b"CD001")
        made = "disk-create made.qcow2 qcow2 10M preallocation:metadata compat:1.1 clustersize:131072"
        self.inside("guestfish", *made.split())
        self.assertEqual(self.inside("guestfish", "disk-format", "made.qcow2").strip(), "qcow2")
        self.assertEqual(self.inside("guestfish", "disk-virtual-size", "made.qcow2").strip(), str(10 << 20))
        self.assertEqual(self.inside("guestfish", "disk-has-backing-file", "made.qcow2").strip(), "false")
        away.chmod(0o755)
        self.ours("newer")
        self.check_ours(stock=True)
        self.apt("remove", "instar-qemu-img")
        self.check_stock()
        self.apt("purge", "instar-qemu-img", "instar")
        self.check_stock()


def load_tests(loader, _tests, _pattern):
    """One class for each suite."""
    suite = unittest.TestSuite()
    for name in os.environ["PACKAGE_SUITES"].split():
        suite.addTests(loader.loadTestsFromTestCase(type(f"Test_{name}", (RootTest,), {"suite": name})))
    return suite
