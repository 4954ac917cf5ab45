"""Completions, in each of the shells themselves: they are driven at a terminal of their own."""

import os
import re
from pathlib import Path

from tests.base import InstarTestBase
from tests.helpers import shells

FILES = ["disk.qcow2", "disk.raw"]
# A line; what may come in place of its last word. The words that a shell puts in are these and no others.
CASES = (
    ("instar comp", ["compare"]),
    ("instar co", ["compare", "convert", "commit", "config"]),
    ("instar help res", ["resize"]),
    ("instar info dis", FILES),
    ("instar convert disk.raw dis", FILES),
    ("instar convert -O qc", ["qcow2", "qcow"]),
    ("instar convert -O dm", []),
    ("instar convert -f dm", ["dmg"]),
    ("instar convert -Oqe", ["-Oqed"]),
    ("instar --isolation ", ["auto", "kvm", "process"]),
    ("instar info --isolation=p", ["--isolation=process"]),
    ("instar info --output ", ["human", "json"]),
    ("instar info --output=js", ["--output=json"]),
    ("instar info --back", ["--backing-chain"]),
    ("instar check -r ", ["leaks", "all"]),
    ("instar convert -t wr", ["writeback", "writethrough"]),
    ("instar convert -O qcow2 -o comp", ["compat=", "compression_type="]),
    ("instar convert -O qcow2 -o compression_type=", ["compression_type=zlib", "compression_type=zstd"]),
    ("instar convert -O qcow2 -o lazy_refcounts=on,compat=1", ["lazy_refcounts=on,compat=1.1"]),
    ("instar create -f vmdk -o subformat=mono", ["subformat=monolithicSparse", "subformat=monolithicFlat"]),
    ("instar create -f qcow2 -o nocow=", ["nocow=on", "nocow=off"]),
    ("instar dd if=dis", [f"if={name}" for name in FILES]),
    ("instar info --image-opts driver=lu", ["driver=luks"]),
    ("instar info --image-opts driver=raw,file.filename=dis", [f"driver=raw,file.filename={name}" for name in FILES]),
    ("instar config set isolation k", ["kvm"]),
    ("instar config set backing.n", ["backing.none"]),
    ("instar generate man instar-ma", ["instar-map"]),
    ("instar generate ba", ["bash"]),
    # A size, a name, nothing more: no file fits.
    ("instar resize disk.raw ", []),
    ("instar info disk.raw ", []),
    ("instar convert -S ", []),
    ("instar formats d", []),
    ("qemu-img co", ["compare", "convert", "commit"]),
    ("qemu-img polic", []),
    ("qemu-img convert -O qcow2 -o comp", ["compat=", "compression_type="]),
    ("qemu-img info --output=js", ["--output=json"]),
    ("qemu-img info dis", FILES),
)


class CompletionTest(InstarTestBase):
    def setUp(self):
        super().setUp()
        for name in ("instar", "qemu-img"):
            link = Path(self.path(f"bin/{name}"))
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(self.get_instar_binary())
        self.work = Path(self.path("work"))
        (self.work / "folder").mkdir(parents=True)
        for name in FILES:
            (self.work / name).write_bytes(b"")
        self.env = {
            "PATH": f"{self.path('bin')}:{os.environ['PATH']}",
            "HOME": self.tmp,
            "LC_ALL": "C.UTF-8",
            "INSTAR_QEMU_VERSION": "11.1.3",
        }

    def scripts(self, shell):
        """The completions of both names, as files."""
        for name, argv in (("instar", ()), ("qemu-img", ("--qemu-img",))):
            out, err, status = self.run_instar("generate", shell, *argv)
            self.assertEqual((err, status), ("", 0))
            path = Path(self.path(f"{name}.{shell}"))
            path.write_text(out)
            yield path

    def words(self, line):
        """What instar itself says may come, whole words."""
        argv = line.split(" ")
        out, err, status = self.run_tool([self.get_instar_binary(), "generate", "words", "--", *argv], cwd=self.work)
        self.assertEqual((err, status), ("", 0))
        kind, stem, *rows = out.splitlines()
        return kind, stem, [stem + row.split("\t")[0] for row in rows]


class TestShells(CompletionTest):
    def put_in(self, shell, line):
        """What the shell put in place of the last word."""
        begun = line[: line.rindex(" ") + 1]
        text = shell.complete(line)
        self.assertTrue(text.startswith(begun), text)
        return text[len(begun) :].split()

    def interactive(self, start, name, whole):
        """Each case, and what `whole` makes of what was put in."""
        shell = start(list(self.scripts(name)), self.work, self.env)
        self.addCleanup(shell.close)
        for line, expected in CASES:
            with self.subTest(line):
                typed = line[line.rindex(" ") + 1 :]
                got = whole(self.put_in(shell, line), typed)
                # Where nothing may come, what was typed stays.
                self.assertEqual(sorted(got), sorted(expected or [typed] * bool(typed)))

    def test_bash(self):
        def whole(words, typed):
            # What is typed in front of = stays, and all is put behind that.
            stem = typed[: max(typed.rfind("="), typed.rfind(":")) + 1]
            if not words or not stem:
                return words
            return [words[0], *(stem + word for word in words[1:])]

        self.interactive(shells.bash, "bash", whole)

    def test_zsh(self):
        def whole(words, typed):
            # The key or the driver in front stays, and all is put behind that, too.
            stem = typed[: max(typed.rfind("="), typed.rfind(",")) + 1]
            return [word if not stem or word.startswith(stem) else stem + word for word in words]

        self.interactive(shells.zsh, "zsh", whole)

    def test_fish(self):
        scripts = list(self.scripts("fish"))
        for line, expected in CASES:
            with self.subTest(line):
                self.assertEqual(sorted(shells.fish(scripts, line, self.work, self.env)), sorted(expected))

    def test_a_folder_is_no_file_where_one_is_asked_for(self):
        line = "instar info --allow-backing "
        self.assertEqual(self.words(line)[0], "folder")
        self.assertEqual(shells.fish(list(self.scripts("fish")), line, self.work, self.env), ["folder/"])
        for start, name in ((shells.bash, "bash"), (shells.zsh, "zsh")):
            shell = start(list(self.scripts(name)), self.work, self.env)
            self.addCleanup(shell.close)
            self.assertEqual([word.rstrip("/") for word in self.put_in(shell, line)], ["folder"], name)

    def test_zsh_loads_it_by_its_name(self):
        """As it is installed: a file in fpath."""
        folder = Path(self.path("site"))
        folder.mkdir()
        for path in self.scripts("zsh"):
            path.rename(folder / f"_{path.stem}")
        setup = Path(self.path("setup.zsh"))
        setup.write_text(f"fpath=({folder} $fpath)\ncompinit -D -u\n")
        shell = shells.zsh([setup], self.work, self.env)
        self.addCleanup(shell.close)
        for line, expected in (("instar comp", ["compare"]), ("qemu-img comp", ["compare"]), ("instar conv", ["convert"])):
            self.assertEqual(self.put_in(shell, line), expected)


class TestWords(CompletionTest):
    """What is offered, without a shell."""

    def test_every_option_of_every_command(self):
        for command in re.findall(r"(?m)^  ([a-z]+) ", self.run_instar()[0]):
            kind, stem, words = self.words(f"instar {command} -")
            self.assertEqual((kind, stem), ("words", ""))
            text = self.run_instar(command, "--help", env={"INSTAR_QEMU_VERSION": ""})[0]
            named = re.findall(r"(?m)^  (?:(-\w), |    )(--[a-z-]+)", text)
            self.assertGreater(len(named), 0)
            for name in (name for names in named for name in names if name):
                self.assertIn(name, words, command)

    def test_a_switch_is_offered_once(self):
        self.assertIn("--progress", self.words("instar convert -")[2])
        words = self.words("instar convert -p -")[2]
        self.assertNotIn("--progress", words)
        self.assertNotIn("-p", words)
        self.assertIn("--object", self.words("instar convert --object secret,id=x,data=y -")[2])

    def test_called_as_qemu_img_own_options_are_none(self):
        for name, has in (("instar", True), ("qemu-img", False), ("/usr/bin/qemu-img", False)):
            self.assertEqual("--dry-run" in self.words(f"{name} rebase -")[2], has)

    @staticmethod
    def beside(name, key):
        """What else has to be said when an option is given."""
        if key == "encrypt.format=":
            return ("encrypt.key-secret=k",)
        prefix = key.startswith("encrypt.") and "encrypt." or ""
        if not prefix and name != "luks":
            return ()
        whole = [f"{prefix}key-secret=k", f"{prefix}iter-time=10", *(["encrypt.format=luks"] if prefix else [])]
        return (*whole, f"{prefix}cipher-alg=aes-256", f"{prefix}ivgen-hash-alg=sha256")

    def test_the_values_that_are_offered_are_taken(self):
        """Each value of each option of each format, given to `create`: nobody is led astray."""
        seen = 0
        # What goes with nothing else, or would have to be given beside others.
        aside = ("backing_fmt=", "encryption=", "detached-header=")
        for name in self.words("instar create -f ")[2]:
            for key in self.words(f"instar create -f {name} -o ")[2]:
                kind, _, pairs = self.words(f"instar create -f {name} -o {key}")
                if kind != "words" or key in aside:
                    continue
                for pair in pairs:
                    seen += 1
                    options = ",".join((*self.beside(name, key), pair))
                    with self.subTest(f"{name}: {options}"):
                        argv = ("create", "-q", "-f", name, "--object", "secret,id=k,data=word", "-o", options, "x", "64M")
                        _, err, _ = self.run_instar(*argv, cwd=self.work, env={"INSTAR_QEMU_VERSION": "11.1.3"})
                        self.assertNotRegex(err, r"(?i)invalid|parameter|not one of|unknown|unsupported subformat")
        self.assertGreater(seen, 100)

    def test_every_list_of_values_is_offered(self):
        """Options whose help says what they can be."""
        seen = 0
        for name in self.words("instar create -f ")[2]:
            out = self.run_instar("create", "-f", name, "-o", "help", env={"INSTAR_QEMU_VERSION": "11.1.3"})[0]
            for key, text in re.findall(r"(?m)^  (\S+?)=<.*?> +- (.*)$", out):
                if re.search(r"allowed values|choices|can be (one|either)|formats are \{", text):
                    seen += 1
                    words = self.words(f"instar create -f {name} -o {key}=")[2]
                    self.assertGreater(len(words), 0, f"{name} {key}")
                    for word in words:
                        self.assertIn(word.split("=")[1], text, f"{name} {key}")
        self.assertGreater(seen, 6)

    def test_a_broken_configuration_is_in_nobodys_way(self):
        broken = Path(self.path("broken.toml"))
        broken.write_text("isolation = \n")
        argv = ("generate", "words", "--", "instar", "convert", "-O", "qcow2", "-o", "clus")
        out, err, status = self.run_instar(*argv, env={"INSTAR_CONFIG": str(broken)})
        self.assertEqual((err, status), ("", 0))
        self.assertIn("cluster_size=", out)
