"""The packages of target/package: what is in them, and what they do in bare Debian roots.

`SUITES="bookworm trixie sid"` names the roots. With REAL_QEMU_UTILS=1 the stock tool comes from the mirror; otherwise a
package that stands for it is made here.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
PACKAGES = TARGET / "package"
BINARY = Path(os.environ.get("PACKAGE_BINARY") or os.environ["INSTAR_BINARY_PATH"])
SUITES = os.environ.get("SUITES", "bookworm").split()
STOCK = "#!/bin/sh\necho the stock tool\n"
PAGE = gzip.compress(b".TH QEMU-IMG 1\n", mtime=0)

# What is run in a root by each name, in a folder of its own: words, status, and what the output must hold.
COMMANDS = (
    ("--version", 0, "qemu-img version|instar 0"),
    ("create -f qcow2 a.qcow2 10M", 0, "fmt=qcow2"),
    ("info a.qcow2", 0, "virtual size: 10 MiB (10485760 bytes)"),
    ("info --output=json a.qcow2", 0, '"virtual-size": 10485760'),
    ("check a.qcow2", 0, "No errors were found on the image."),
    ("map --output=json a.qcow2", 0, '"length": 10485760'),
    ("measure -O qcow2 a.qcow2", 0, "required size: "),
    ("convert -O raw seed.raw b.raw", 0, ""),
    ("convert -O qcow2 -c seed.raw c.qcow2", 0, ""),
    ("compare seed.raw c.qcow2", 0, "Images are identical."),
    ("compare seed.raw a.qcow2", 1, "Content mismatch at offset 0!"),
    ("convert -O vmdk c.qcow2 d.vmdk", 0, ""),
    ("convert -O raw d.vmdk e.raw", 0, ""),
    ("resize a.qcow2 20M", 0, "Image resized."),
    ("snapshot -c first a.qcow2", 0, ""),
    ("snapshot -l a.qcow2", 0, "first"),
    ("bitmap --add a.qcow2 since", 0, ""),
    ("create -f qcow2 -b a.qcow2 -F qcow2 top.qcow2", 0, "backing_file=a.qcow2"),
    ("info --backing-chain top.qcow2", 0, "backing file: a.qcow2"),
    ("commit top.qcow2", 0, "Image committed."),
    ("dd if=seed.raw of=f.raw bs=4096 count=2", 0, ""),
    ("info nosuch.qcow2", 1, "No such file or directory"),
)
SAME_AS_SEED = ("b.raw", "e.raw")


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, **options)
    if done.returncode:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}")
    return done.stdout


def deb(name, folder, out, control):
    (folder / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (folder / "DEBIAN/control").write_text(control)
    made = out / f"{name}.deb"
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(folder), str(made))
    return made


def newer(package, out):
    """The same package under a higher version."""
    folder = out / f"{package.name}-newer"
    run("dpkg-deb", "-R", str(package), str(folder))
    control = (folder / "DEBIAN/control").read_text().replace("Version: 0", "Version: 1:0").replace("(= 0", "(= 1:0")
    return deb(f"newer-{package.name.split('_')[0]}", folder, out, control)


def clashing(package, out):
    """The same package with a file that the stock tool's package has: its installation fails half way."""
    folder = out / "clashing"
    run("dpkg-deb", "-R", str(package), str(folder))
    (folder / "usr/bin/qemu-io").write_text(STOCK)
    return deb("clashing", folder, out, (folder / "DEBIAN/control").read_text())


def packages():
    return sorted(PACKAGES.glob("*.deb"), key=lambda path: len(path.name))


class Contents(unittest.TestCase):
    def members(self, path):
        return run("dpkg-deb", "-c", str(path)).splitlines()

    def test_the_program_and_what_belongs_to_it(self):
        program, link = packages()
        names = {line.split()[5] for line in self.members(program)}
        doc = "./usr/share/doc/instar"
        self.assertLessEqual(
            {
                "./usr/bin/instar",
                "./usr/share/man/man1/instar.1.gz",
                "./usr/share/bash-completion/completions/instar",
                "./usr/share/zsh/site-functions/_instar",
                "./usr/share/fish/vendor_completions.d/instar.fish",
                *(f"{doc}/{name}" for name in ("copyright", "changelog.gz", "README.md", "THIRD-PARTY.txt")),
                f"{doc}/instar.cdx.json",
                *(f"{doc}/docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
            },
            names,
        )
        self.assertIn("./usr/bin/qemu-img -> instar", "\n".join(self.members(link)))
        for package in (program, link):
            self.assertEqual({line.split()[1] for line in self.members(package)}, {"root/root"})
        self.assertEqual(run("dpkg-deb", "-f", str(program), "Depends").strip(), "")
        version = run("dpkg-deb", "-f", str(program), "Version").strip()
        self.assertEqual(run("dpkg-deb", "-f", str(link), "Depends").strip(), f"instar (= {version})")

    def test_the_tarball_holds_the_same_program(self):
        (tarball,) = PACKAGES.glob("*.tar.gz")
        top = tarball.name.removesuffix(".tar.gz")
        with tarfile.open(tarball) as tar:
            members = tar.getmembers()
            program = tar.extractfile(f"{top}/bin/instar").read()
        names = [member.name for member in members]
        self.assertEqual(names, sorted(names))
        self.assertEqual({(member.uid, member.gid) for member in members}, {(0, 0)})
        self.assertEqual(len({member.mtime for member in members}), 1)
        for name in ("LICENSE", "README.md", "CHANGELOG.md", "docs/install.md", "share/man/man1/instar.1.gz"):
            self.assertIn(f"{top}/{name}", names)
        packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", packages()[0]], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            self.assertEqual(tar.extractfile("./usr/bin/instar").read(), program)

    def test_sums(self):
        listed = {line.split()[1] for line in (PACKAGES / "SHA256SUMS").read_text().splitlines()}
        self.assertEqual(listed, {path.name for path in PACKAGES.iterdir()} - {"SHA256SUMS"})
        run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=PACKAGES)

    def test_licences_of_everything_that_is_linked(self):
        """One crate of each half, one with sources of others inside, none that only runs in the compiler."""
        bill = json.loads((PACKAGES / "instar.cdx.json").read_text())
        self.assertEqual((bill["bomFormat"], bill["specVersion"]), ("CycloneDX", "1.5"))
        names = {row["name"] for row in bill["components"]}
        self.assertLessEqual({"kvm-ioctls", "zlib-rs", "zstd-sys", "glibc", "rust-std"}, names)
        self.assertFalse(names & {"syn", "serde_derive", "proptest", "cc", "instar-abi"})
        refs = [row["bom-ref"] for row in bill["components"]]
        self.assertEqual(len(refs), len(set(refs)))
        self.assertEqual(bill["dependencies"][0]["dependsOn"], refs)
        text = (PACKAGES / "THIRD-PARTY.txt").read_text()
        for row in bill["components"]:
            self.assertIn(f"\n{row['name']} {row['version']}: {row['licenses'][0]['expression']} (texts ", text)
        for words in ("Permission is hereby granted, free of charge", "Meta Platforms", "GNU Lesser General Public"):
            self.assertIn(words, text)

    def test_two_builds_give_the_same_bytes(self):
        with tempfile.TemporaryDirectory() as folder:
            run(str(ROOT / "packaging/package"), str(BINARY), env=os.environ | {"PACKAGE_DIR": f"{folder}/again", "TMPDIR": folder})
            sums = [(where / "SHA256SUMS").read_text() for where in (PACKAGES, Path(folder) / "again")]
        self.assertEqual(*sums)


    def test_uninstall_takes_what_install_puts(self):
        with tempfile.TemporaryDirectory() as folder:
            for goal, files in (("install", 5), ("uninstall", 0)):
                run("make", "-s", goal, f"BINARY={BINARY}", f"DESTDIR={folder}", "PREFIX=/opt/x", cwd=ROOT)
                self.assertEqual(sum(path.is_file() for path in Path(folder).rglob("*")), files)


class Rooted(unittest.TestCase):
    """What needs a root of its own: nothing of the machine is mounted there but in a namespace that ends with the command."""

    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("only root may change its root")
        self.folder = Path(tempfile.mkdtemp(prefix="instar-packages-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.root = self.folder / "root"
        self.root.mkdir()

    def inside(self, *command, status=0, user=None, cwd="/"):
        """Output of a command in the root; a status that is not the expected one fails."""
        ids = [f"--userspec={user}"] if user else []
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={self.root}/proc", "chroot", *ids, str(self.root),
             "/usr/bin/env", "-C", cwd, *command] if (self.root / "usr/bin/env").exists()
            else ["chroot", *ids, str(self.root), *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        self.assertEqual(done.returncode, status, f"{command}: {done.stdout}")
        return done.stdout


class Image(Rooted):
    def test_it_runs_as_nobody_in_nothing_else(self):
        (packed,) = PACKAGES.glob("*-oci.tar")
        layout = self.folder / "layout"
        with tarfile.open(packed) as tar:
            tar.extractall(layout, filter="data")

        def blob(row):
            data = (layout / "blobs" / row["digest"].replace(":", "/")).read_bytes()
            self.assertEqual((hashlib.sha256(data).hexdigest(), len(data)), (row["digest"].split(":")[1], row["size"]))
            return data

        self.assertEqual(json.loads((layout / "oci-layout").read_text()), {"imageLayoutVersion": "1.0.0"})
        (row,) = json.loads((layout / "index.json").read_text())["manifests"]
        manifest = json.loads(blob(row))
        config = json.loads(blob(manifest["config"]))
        (layer,) = manifest["layers"]
        plain = gzip.decompress(blob(layer))
        self.assertEqual(config["rootfs"]["diff_ids"], [f"sha256:{hashlib.sha256(plain).hexdigest()}"])
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            self.assertEqual(tar.getmember("tmp").mode, 0o1777)
            self.assertIn("usr/share/doc/instar/THIRD-PARTY.txt", tar.getnames())
            tar.extractall(self.root, filter="fully_trusted")
        # An unpacked layer lies in a folder that everybody may enter.
        self.folder.chmod(0o755)
        (start,) = config["config"]["Entrypoint"]
        self.inside(start, "create", "-f", "qcow2", "/tmp/a.qcow2", "3M", user="65534:65534")
        said = self.inside("/usr/bin/qemu-img", "info", "/tmp/a.qcow2", user="65534:65534")
        self.assertIn("virtual size: 3 MiB (3145728 bytes)", said)
        self.assertEqual((self.root / "tmp/a.qcow2").stat().st_uid, 65534)


class Installed(Rooted):
    def test_each_suite(self):
        for suite in SUITES:
            with self.subTest(suite):
                made = subprocess.run([ROOT / "packaging/root", suite], capture_output=True, text=True)
                if made.returncode:
                    self.fail(f"no root of {suite}: {made.stderr}")
                shutil.rmtree(self.root)
                self.root.mkdir()
                run("tar", "-C", str(self.root), "-xf", str(TARGET / f"roots/{suite}.tar"))
                self.prepare()
                for order in ("stock, ours", "ours, stock", "ours"):
                    with self.subTest(order):
                        self.live(order.split(", "))

    def prepare(self):
        """The packages, a newer release of ours, and the stock tool's, at /packages of the root."""
        here = self.root / "packages"
        here.mkdir()
        for package in packages():
            shutil.copy(package, here / f"{package.name.split('_')[0]}.deb")
            scratch = Path(tempfile.mkdtemp(dir=self.folder))
            shutil.copy(newer(package, scratch), here)
        shutil.copy(clashing(packages()[1], Path(tempfile.mkdtemp(dir=self.folder))), here)
        if os.environ.get("REAL_QEMU_UTILS"):
            shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
            self.inside("apt-get", "update", "-qq")
            self.inside("apt-get", "install", "-qq", "--no-install-recommends", "--download-only", "qemu-utils")
            self.inside("sh", "-c", "mv /var/cache/apt/archives/*.deb /packages && mkdir /packages/stock && mv /packages/*_*.deb /packages/stock")
            return
        stock = Path(tempfile.mkdtemp(dir=self.folder)) / "stock"
        (stock / "usr/bin").mkdir(parents=True)
        (stock / "usr/bin/qemu-img").write_text(STOCK)
        (stock / "usr/bin/qemu-img").chmod(0o755)
        # One file that ours does not have: a package of which each file is another's is gone for dpkg.
        (stock / "usr/bin/qemu-io").write_text(STOCK)
        (stock / "usr/share/man/man1").mkdir(parents=True)
        (stock / "usr/share/man/man1/qemu-img.1.gz").write_bytes(PAGE)
        control = "Package: qemu-utils\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n"
        (here / "stock").mkdir()
        deb("qemu-utils", stock, here / "stock", control)

    def files(self):
        """Everything in the root but what dpkg writes of its own deeds; of the stock tool and ours the bytes."""
        own = ("var/lib/dpkg", "var/log", "var/cache", "var/lib/apt", "proc", "packages", "dev")
        found = {}
        for folder, folders, names in os.walk(self.root):
            for path in (Path(folder, name) for name in folders + names):
                name, state = str(path.relative_to(self.root)), path.lstat()
                if name.startswith(own):
                    continue
                if stat.S_ISREG(state.st_mode) and ("qemu" in name or "instar" in name):
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                else:
                    content = os.readlink(path) if path.is_symlink() else state.st_size * stat.S_ISREG(state.st_mode)
                found[name] = (state.st_mode, content)
        return found

    def install(self, what):
        if what == "ours":
            self.inside("dpkg", "-i", "/packages/instar.deb", "/packages/instar-qemu-img.deb")
        else:
            self.inside("sh", "-c", "dpkg -i /packages/stock/*.deb")

    def live(self, order):
        bare = self.files()
        stock = None
        if "stock" in order:
            self.install("stock")
            stock = self.files()
            self.assertIn("usr/bin/qemu-img", stock)
            self.inside("dpkg", "-i", "/packages/clashing.deb", status=1)
            self.same(self.files(), stock)
            if order[0] != "stock":
                self.inside("dpkg", "--purge", "qemu-utils")
        for what in order:
            if what == "ours" or order[0] != "stock":
                self.install(what)
        self.both_names()
        self.stands(stock)
        self.inside("dpkg", "-i", "/packages/newer-instar.deb", "/packages/newer-instar-qemu-img.deb")
        self.stands(stock)
        self.inside("dpkg", "--remove", "instar-qemu-img", "instar")
        self.assertEqual(self.inside("dpkg-divert", "--list", "*qemu-img*"), "")
        self.same(self.files(), stock or bare)
        self.inside("dpkg", "--purge", "instar-qemu-img", "instar")
        self.assertEqual(self.inside("sh", "-c", "ls /var/lib/dpkg/info | grep instar; true"), "")
        if stock:
            self.same(self.files(), stock)
            self.inside("dpkg", "--purge", "qemu-utils")
        if not os.environ.get("REAL_QEMU_UTILS"):
            self.same(self.files(), bare)

    def same(self, now, then):
        """Only what differs is worth showing."""
        names = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        self.assertEqual([(name, then.get(name), now.get(name)) for name in names], [])

    def stands(self, stock):
        """Our link is in the tool's place, and the tool, if it is there, aside."""
        self.assertEqual(os.readlink(self.root / "usr/bin/qemu-img"), "instar")
        page = gzip.decompress((self.root / "usr/share/man/man1/qemu-img.1.gz").read_bytes()).decode()
        self.assertEqual(page, ".so man1/instar.1\n")
        self.assertIn("by instar-qemu-img", self.inside("dpkg-divert", "--list", "/usr/bin/qemu-img"))
        aside = self.root / "usr/bin/qemu-img.distrib"
        self.assertEqual(aside.exists(), stock is not None)
        if stock:
            self.assertEqual(hashlib.sha256(aside.read_bytes()).hexdigest(), stock["usr/bin/qemu-img"][1])
        self.assertEqual(self.inside("dpkg", "--audit"), "")

    def both_names(self):
        for name in ("instar", "qemu-img"):
            work = self.root / "tmp/work"
            work.mkdir()
            seed = b"not nothing\n" * 40000 + bytes(10485760 - 12 * 40000)
            (work / "seed.raw").write_bytes(seed)
            for words, status, said in COMMANDS:
                output = self.inside(name, *words.split(), status=status, cwd="/tmp/work")
                self.assertTrue(any(part in output for part in said.split("|")), f"{name} {words}: {output}")
            for made in SAME_AS_SEED:
                self.assertEqual((work / made).read_bytes(), seed)
            self.assertEqual((work / "f.raw").read_bytes(), seed[:8192])
            shutil.rmtree(work)


if __name__ == "__main__":
    unittest.main()
