"""The packages without a Debian around them: what is in them, and dpkg and rpm installing them below a folder."""

import hashlib
import json
import os
import re
import subprocess
import tarfile
import zlib
from pathlib import Path

from packaging.tests.packages import ROOT, PackageTest, environment, run

# What the stand-in of qemu-utils is: neither is ours.
STOCK = b"#!/bin/sh\necho stock\n"
STOCK_PAGE = b"stock page"
BINARY, PAGE = "usr/bin/qemu-img", "usr/share/man/man1/qemu-img.1.gz"
AWAY = {BINARY: "usr/bin/qemu-img.distrib", PAGE: "usr/share/man/man1/qemu-img.distrib.1.gz"}


class TestContents(PackageTest):
    """Each kind of package holds the same program and its documents."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tree = cls.tmp / "tree"
        run("dpkg-deb", "--extract", cls.deb["instar"], cls.tree)
        cls.program = cls.tree / "usr/bin/instar"
        cls.documents = cls.tree / "usr/share/doc/instar"

    def materials(self):
        return json.loads((self.documents / "instar.cdx.json").read_text())

    def test_sums(self):
        run("sha256sum", "--check", "SHA256SUMS", cwd=self.packages)
        listed = (self.packages / "SHA256SUMS").read_text().splitlines()
        self.assertEqual(len(listed) + 1, len(list(self.packages.iterdir())))

    def test_the_program_stands_alone_and_names_no_folder_of_its_builder(self):
        self.assertNotIn("NEEDED", run("readelf", "--dynamic", "--wide", self.program))
        self.assertEqual(run(self.program, "--version", env=environment()).split()[:2], ["instar", self.version[:5]])
        content = self.program.read_bytes()
        for folder in (os.environ.get("CARGO_HOME", Path.home() / ".cargo"), ROOT, ROOT.resolve()):
            self.assertFalse(str(folder).encode() in content, folder)
        sections = run("readelf", "--sections", "--wide", self.program)
        self.assertNotIn(".symtab", sections)
        self.assertIn(".dep-v0", sections)

    def test_debian_packages_are_roots_and_whole(self):
        for name, path in self.deb.items():
            with self.subTest(name):
                tree = self.tmp / "raw" / name
                tree.parent.mkdir(exist_ok=True)
                run("dpkg-deb", "--raw-extract", path, tree)
                run("md5sum", "--check", "DEBIAN/md5sums", cwd=tree)
                listed = run("dpkg-deb", "--contents", path).splitlines()
                self.assertEqual({line.split()[1] for line in listed}, {"root/root"})
                self.assertEqual([line for line in listed if re.match(r".....w|........w", line) and line[0] != "l"], [])
                for document in ("copyright", "changelog.Debian.gz"):
                    self.assertTrue((tree / "usr/share/doc" / name / document).is_file(), document)

    def test_pages_completions_and_documents_are_there(self):
        share = self.tree / "usr/share"
        pages = sorted(share.glob("man/man*/*"))
        self.assertIn(share / "man/man1/instar.1.gz", pages)
        self.assertEqual([page for page in pages if page.suffix != ".gz"], [])
        for name in (
            "bash-completion/completions/instar",
            "zsh/site-functions/_instar",
            "fish/vendor_completions.d/instar.fish",
        ):
            self.assertGreater((share / name).stat().st_size, 100, name)
        for name in ("README.md", "changelog.gz", "THIRD-PARTY-LICENSES.gz", "COPYRIGHT-rust-library.html.gz"):
            self.assertTrue((self.documents / name).is_file(), name)
        sample = subprocess.run([self.program, "generate", "config"], capture_output=True, env=environment())
        if sample.returncode == 0:
            self.assertEqual((self.documents / "examples/config.toml").read_bytes(), sample.stdout)

    def test_materials_name_every_crate_that_the_program_names(self):
        """A crate whose code can panic has left its name in the program: a list that is not cargo's."""
        found = set(re.findall(rb"/crates/([a-z0-9_-]+?)-(\d+\.\d+\.\d+[0-9a-z.+-]*)/", self.program.read_bytes()))
        self.assertGreater(len(found), 15)
        listed = {(c["name"], c["version"]) for c in self.materials()["components"]}
        self.assertLessEqual({(name.decode(), version.decode()) for name, version in found}, listed)
        for name in ("zstd-sys", "zlib-rs", "rustix", "glibc", "rust-std", "zstd"):
            self.assertIn(name, {name for name, _ in listed})

    def test_materials_are_one_graph(self):
        materials = self.materials()
        known = {c["bom-ref"] for c in [materials["metadata"]["component"], *materials["components"]]}
        self.assertEqual(len(known), len(materials["components"]) + 1)
        needs = {d["ref"]: d["dependsOn"] for d in materials["dependencies"]}
        reached, queue = set(), [materials["metadata"]["component"]["bom-ref"]]
        while queue:
            current = queue.pop()
            if current not in reached:
                reached.add(current)
                queue += needs.get(current, [])
        self.assertEqual(reached, known)

    def test_licences_cover_the_materials(self):
        text = run("gzip", "-dc", self.documents / "THIRD-PARTY-LICENSES.gz")
        head, *texts = text.split("=" * 100 + "\n")
        for component in self.materials()["components"]:
            if component["purl"].startswith("pkg:cargo/") and "hashes" in component:
                name = f"{component['name']} {component['version']}"
                self.assertIn(name + " ", head)
                self.assertTrue(any(line.startswith(name + " (") for part in texts for line in part.splitlines()), name)

    def test_the_program_lists_what_it_consists_of(self):
        section = self.tmp / "section"
        run("objcopy", "--dump-section", f".dep-v0={section}", self.program, self.tmp / "copy")
        packages = json.loads(zlib.decompress(section.read_bytes()))["packages"]
        listed = {(p["name"], p["version"]) for p in packages}
        cargo = {(c["name"], c["version"]) for c in self.materials()["components"] if c["purl"].startswith("pkg:cargo/")}
        self.assertEqual(listed - {("instar", self.version[:5])}, cargo)
        self.assertEqual([p["name"] for p in packages if p.get("root")], ["instar"])

    def test_archive(self):
        (path,) = self.packages.glob("*.tar.xz")
        place = self.tmp / "archive"
        place.mkdir()
        run("tar", "-xf", path, "-C", place)
        (top,) = place.iterdir()
        self.assertEqual(path.name, f"{top.name}.tar.xz")
        self.assertEqual((top / "bin/instar").read_bytes(), self.program.read_bytes())
        self.assertEqual((top / "LICENSE").read_bytes(), (ROOT / "LICENSE").read_bytes())
        self.assertTrue((top / "share/man/man1/instar.1.gz").is_file())

    def unpacked_image(self):
        """What the image's layer holds; each digest is that of its content."""
        (path,) = self.packages.glob("*-oci.tar")
        place = self.tmp / "oci"
        with tarfile.open(path) as archive:
            archive.extractall(place, filter="data")
        for blob in (place / "blobs/sha256").iterdir():
            self.assertEqual(hashlib.sha256(blob.read_bytes()).hexdigest(), blob.name)

        def follow(link):
            path = place / "blobs" / link["digest"].replace(":", "/")
            self.assertEqual(path.stat().st_size, link["size"])
            return path

        (manifest,) = json.loads((place / "index.json").read_text())["manifests"]
        manifest = json.loads(follow(manifest).read_text())
        config = json.loads(follow(manifest["config"]).read_text())
        (layer,) = manifest["layers"]
        plain = self.tmp / "layer.tar"
        with plain.open("wb") as out:
            subprocess.run(["gzip", "-dc", follow(layer)], stdout=out, check=True)
        self.assertEqual(config["rootfs"]["diff_ids"], [f"sha256:{hashlib.sha256(plain.read_bytes()).hexdigest()}"])
        root = self.tmp / "container"
        root.mkdir()
        run("tar", "-xf", plain, "-C", root)
        return root, config["config"]

    def test_image_runs_as_any_user(self):
        root, config = self.unpacked_image()
        data = self.tmp / "data"
        data.mkdir()
        for folder in (self.tmp, data):
            folder.chmod(0o777)
        # What a container's runtime does, and no file of this machine.
        inside = ["--bind", root, "/", "--bind", data, "/data", "--proc", "/proc", "--dev", "/dev", "--chdir", "/data"]
        inside += ["--unshare-all", "--uid", "12345", "--gid", "12345", "--cap-drop", "ALL", "--clearenv"]
        inside += [part for pair in config["Env"] for part in ("--setenv", *pair.split("=", 1))]

        def contained(*argv):
            return run("bwrap", *inside, "--", *argv)

        self.assertEqual(config["WorkingDir"], "/data")
        entry = config["Entrypoint"]
        self.assertIn("instar", contained(*entry, *config["Cmd"]))
        (data / "disk.raw").write_bytes(bytes(range(256)) * 4096)
        contained(*entry, "convert", "-O", "qcow2", "disk.raw", "disk.qcow2")
        contained("qemu-img", "convert", "-O", "raw", "disk.qcow2", "back.raw")
        self.assertEqual((data / "back.raw").read_bytes(), (data / "disk.raw").read_bytes())
        self.assertEqual(json.loads(contained(*entry, "info", "--output=json", "disk.qcow2"))["format"], "qcow2")


class TestDpkg(PackageTest):
    """dpkg below a folder. The stand-in of qemu-utils has the two names that both have."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tree = cls.tmp / "qemu-utils"
        for name, content in {
            BINARY: STOCK,
            PAGE: STOCK_PAGE,
            "DEBIAN/control": b"Package: qemu-utils\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@x>\nDescription: x\n",
        }.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
        cls.stock = cls.built(tree, cls.tmp / "qemu-utils.deb")

    def setUp(self):
        self.root = self.tmp / self.id()
        for name in ("info", "updates", "triggers"):
            (self.root / "var/lib/dpkg" / name).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        (self.root / "var/log").mkdir()

    def dpkg(self, *argv):
        # There is no shell in that folder: scripts run outside, and are told where it is.
        return run("dpkg", f"--root={self.root}", "--force-not-root,script-chrootless", *argv)

    def install(self, *packages):
        self.dpkg("--install", *packages)

    def ours(self):
        self.install(self.deb["instar"], self.deb["instar-qemu-img"])

    def diversions(self):
        return run("dpkg-divert", "--root", self.root, "--list").splitlines()

    def check_ours(self, stock):
        """Ours has the names; the stock's files are beside, if it is there."""
        self.assertEqual(os.readlink(self.root / BINARY), "instar")
        self.assertNotEqual((self.root / PAGE).read_bytes(), STOCK_PAGE)
        self.assertEqual(len(self.diversions()), 2)
        for name, content in ((BINARY, STOCK), (PAGE, STOCK_PAGE)):
            away = self.root / AWAY[name]
            self.assertEqual(away.read_bytes() if away.exists() else None, content if stock else None)

    def check_stock(self, stock):
        """Nothing of ours has the names, and nobody is kept from them."""
        self.assertEqual(self.diversions(), [])
        for name, content in ((BINARY, STOCK), (PAGE, STOCK_PAGE)):
            path = self.root / name
            self.assertEqual(path.read_bytes() if path.exists() else None, content if stock else None)
            self.assertFalse((self.root / AWAY[name]).exists())

    def test_without_the_stock_tool(self):
        self.ours()
        self.check_ours(stock=False)
        self.dpkg("--remove", "instar-qemu-img")
        self.check_stock(stock=False)

    def test_after_the_stock_tool(self):
        self.install(self.stock)
        self.ours()
        self.check_ours(stock=True)
        self.dpkg("--remove", "instar-qemu-img")
        self.check_stock(stock=True)

    def test_before_the_stock_tool(self):
        self.ours()
        self.install(self.stock)
        self.check_ours(stock=True)
        self.dpkg("--remove", "qemu-utils")
        self.check_ours(stock=False)
        self.install(self.stock)
        self.dpkg("--purge", "instar-qemu-img")
        self.check_stock(stock=True)

    def test_upgrades_of_both_keep_the_names(self):
        self.install(self.stock)
        self.ours()
        self.install(self.newer["instar"], self.newer["instar-qemu-img"])
        self.install(self.stock)
        self.check_ours(stock=True)
        self.dpkg("--remove", "instar-qemu-img")
        self.check_stock(stock=True)

    def test_removal_leaves_nothing(self):
        self.ours()
        self.dpkg("--purge", "instar-qemu-img", "instar")
        left = [p for p in self.root.rglob("*") if not p.is_dir() and "var" not in p.relative_to(self.root).parts]
        self.assertEqual(left, [])

    def test_the_link_needs_its_program(self):
        with self.assertRaisesRegex(AssertionError, "depends on instar"):
            self.install(self.deb["instar-qemu-img"])


class TestRpm(PackageTest):
    """rpm below a folder."""

    def test_installed_checked_and_removed(self):
        root = self.tmp / "rpm-root"
        root.mkdir()
        files = sorted(self.packages.glob("*.rpm"))
        self.assertEqual(len(files), 2)
        for path in files:
            run("rpm", "--checksig", "--nosignature", path)

        def rpm(*argv):
            return run("rpm", "--root", root, "--dbpath", "/var/lib/rpm", *argv)

        rpm("--initdb")
        rpm("--install", *files)
        names = ["instar", "instar-qemu-img"]
        self.assertEqual(sorted(rpm("--query", "--all", "--queryformat", "%{NAME}\n").split()), names)
        rpm("--verify", *names)
        self.assertEqual(os.readlink(root / BINARY), "instar")
        self.assertIn("instar", run(root / BINARY.replace("qemu-img", "instar"), "--version", env=environment()))
        owners = rpm("--query", "--all", "--queryformat", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\n]").split()
        self.assertEqual(set(owners), {"root:root"})
        rpm("--erase", *names)
        left = [p for p in root.rglob("*") if not p.is_dir() and "rpm" not in p.parts and "instar" in p.name]
        self.assertEqual(left, [])
