"""The data file of a qcow2 that the user names himself (`data-file.filename=..`), as incus does: his own word, which no
policy is asked about."""

import os

from tests.base import InstarTestBase

MIB = 1 << 20
# How it can be named; `{}` is the image's own options.
NAMED = (
    "{},data-file.filename=../elsewhere/other.raw",
    "{},data-file.driver=file,data-file.filename=../elsewhere/other.raw",
    "{},data-file.driver=raw,data-file.file.driver=file,data-file.file.filename=../elsewhere/other.raw",
    "json:{{'driver':'qcow2','file':{{'filename':'disk.qcow2'}},'data-file':{{'driver':'file','filename':'../elsewhere/other.raw'}}}}",
)
REFUSED = (
    "data-file.filename=../elsewhere/absent",
    "data-file.filename=..",
    "data-file.filename=",
    "data-file.driver=file",
    "data-file.driver=host_device,data-file.filename=../elsewhere/other.raw",
    "data-file.driver=nosuch,data-file.filename=../elsewhere/other.raw",
    "data-file=node",
)
IMAGE = "driver=qcow2,file.filename=disk.qcow2"
BELOW = "driver=qcow2,file.filename=over.qcow2,backing.data-file.filename="


class TestDataFileOptions(InstarTestBase):
    def setUp(self):
        super().setUp()
        for folder in ("work", "elsewhere"):
            os.mkdir(self.path(folder))
        self.work = self.path("work")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=own.raw,data_file_raw=on", "disk.qcow2", "2M", cwd=self.work)
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 256k", "disk.qcow2", cwd=self.work)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", "over.qcow2", cwd=self.work)
        self.fill()

    def fill(self, size=2 * MIB):
        with open(self.path("elsewhere/other.raw"), "wb") as file:
            file.write(b"other" * (2 * MIB // 5))
            file.truncate(size)

    def both(self, *words):
        ours, theirs = (tool(*words, cwd=self.work) for tool in (self.run_as_qemu_img, self.run_qemu_img))
        self.assertEqual(ours, theirs, words)
        return theirs

    def words(self, name):
        return [name] if name.startswith("json:") else ["--image-opts", name]

    def test_read(self):
        for name in (text.format(IMAGE) for text in NAMED):
            with self.subTest(name):
                words = self.words(name)
                for command in (["info"], ["map"], ["map", "--output=json"], ["check"], ["measure", "-O", "raw"]):
                    self.assertEqual(self.both(*command, *words)[2], 0)
                self.assertEqual(self.both("convert", "-O", "raw", *words, "out.raw")[2], 0)
                self.assert_bytes_identical(os.path.join(self.work, "out.raw"), self.path("elsewhere/other.raw"))

    def test_read_below(self):
        name = BELOW + "../elsewhere/other.raw"
        self.assertEqual(self.both("map", "--output=json", "--image-opts", name)[2], 0)
        self.assertEqual(self.both("convert", "-O", "raw", "--image-opts", name, "out.raw")[2], 0)
        self.assert_bytes_identical(os.path.join(self.work, "out.raw"), self.path("elsewhere/other.raw"))

    def test_refused_in_the_stock_words(self):
        for text in REFUSED:
            with self.subTest(text):
                self.assertEqual(self.both("map", "--image-opts", f"{IMAGE},{text}")[2], 1)
        self.assertEqual(self.both("map", "--image-opts", BELOW + "../elsewhere/absent")[2], 1)
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "plain.qcow2", "1M", cwd=self.work)
        plain = "driver=qcow2,file.filename=plain.qcow2,data-file.filename=../elsewhere/other.raw"
        self.assertEqual(self.both("map", "--image-opts", plain)[2], 1)

    def test_written_in_place(self):
        """Resized, written to, converted into, committed into: what is at the name in the image stays."""
        name = IMAGE + ",data-file.filename=../elsewhere/other.raw"
        self.make("qemu-img", "create", "-q", "-f", "raw", "source.raw", "4M", cwd=self.work)
        self.make("qemu-io", "-f", "raw", "-c", "write -P 9 1M 1M", "source.raw", cwd=self.work)
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 8 64k 64k", "over.qcow2", cwd=self.work)
        own = self.sha256(os.path.join(self.work, "own.raw"))
        for words in (
            ["resize", "--image-opts", name, "4M"],
            ["bench", "-q", "-w", "-c", "3", "--pattern=7", "--image-opts", name],
            ["convert", "-n", "-f", "raw", "--target-image-opts", "source.raw", name],
            ["commit", "--image-opts", BELOW + "../elsewhere/other.raw"],
        ):
            with self.subTest(words[0]):
                made = []
                with open(os.path.join(self.work, "disk.qcow2"), "rb") as file:
                    image = file.read()
                with open(os.path.join(self.work, "over.qcow2"), "rb") as file:
                    over = file.read()
                for tool in (self.run_qemu_img, self.run_as_qemu_img):
                    for path, content in (("disk.qcow2", image), ("over.qcow2", over)):
                        with open(os.path.join(self.work, path), "wb") as file:
                            file.write(content)
                    self.fill(2 * MIB if words[0] == "resize" else 4 * MIB)
                    out, err, status = tool(*words, cwd=self.work)
                    self.assertEqual((err, status), ("", 0), out)
                    made.append(self.sha256(self.path("elsewhere/other.raw")))
                self.assertEqual(*made)
                self.assertEqual(self.sha256(os.path.join(self.work, "own.raw")), own)

    def test_what_the_image_names_is_still_asked_about(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=../elsewhere/new.raw", "far.qcow2", "1M", cwd=self.work)
        err = self.run_as_qemu_img("map", "far.qcow2", cwd=self.work)[1]
        self.assertIn("not in a directory that images may refer to", err)


class TestTwoRoles(InstarTestBase):
    """One file named as data file and as backing file: nothing is written to it as the one while it is read as the other."""

    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "raw", "new.raw", "4M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "4M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 4M", "base.qcow2")
        options = "data_file=xbase.qcow,backing_file=base.qcow2,backing_fmt=qcow2"
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "top.qcow2", "4M")
        with open(self.path("top.qcow2"), "r+b") as file:
            content = file.read()
            file.seek(content.index(b"xbase.qcow"))
            file.write(b"base.qcow2")

    def test_the_backing_file_is_never_written(self):
        with open(self.path("base.qcow2"), "rb") as file:
            before = file.read()
        for command in (
            ["rebase", "-b", "new.raw", "-F", "raw", "top.qcow2"],
            ["bench", "-w", "-f", "qcow2", "-c", "1", "--pattern=9", "top.qcow2"],
            ["convert", "-n", "-f", "raw", "-O", "qcow2", "new.raw", "top.qcow2"],
            ["resize", "-f", "qcow2", "--preallocation=full", "top.qcow2", "8M"],
            ["commit", "top.qcow2"],
        ):
            with self.subTest(command[0]):
                _, err, status = self.run_as_qemu_img(*command, cwd=self.tmp)
                self.assertEqual(status, 1)
                self.assertIn("lock", err)
                self.assertEqual(self.run_qemu_img(*command, cwd=self.tmp)[2], 1)
                with open(self.path("base.qcow2"), "rb") as file:
                    self.assert_same_bytes(file.read(), before)
