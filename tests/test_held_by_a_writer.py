"""Images that another program has open to write: what holds nothing but the disk's bytes is read all the same, by all
but `convert`; everything else is refused, as by the stock tool."""

from tests.base import InstarTestBase

SECRET = ("--object", "secret,id=s,data=abc")
LUKS = "driver=luks,file.filename=luks,key-secret=s"
# What is read, and which of its files another program writes to, as what.
HELD = {
    "raw": ("raw", "raw"),
    "qcow2": ("qcow2", "qcow2"),
    "qcow2, held as raw": ("qcow2", "qcow2 raw"),
    "over-raw": ("raw", "raw"),
    "over-qcow2": ("qcow2", "qcow2"),
    "over-over": ("raw", "raw"),
    "with-data": ("data", "raw"),
    "vdi": ("vdi", "vdi"),
    "luks": ("luks", "raw"),
    "flat.vmdk": ("flat-flat.vmdk", "raw"),
    "flat.vmdk, its text": ("flat.vmdk", "raw"),
    "over.vmdk": ("flat-flat.vmdk", "raw"),
    "split.vmdk": ("split-s001.vmdk", "raw"),
}
READING = (
    ("info", "{}"),
    ("info", "--backing-chain", "{}"),
    ("info", "-U", "{}"),
    ("info", "-f", "raw", "{}"),
    ("info", "-f", "vdi", "{}"),
    ("info", "--image-opts", "driver=raw,file.driver=raw,file.file.filename={}"),
    ("info", "--image-opts", "driver=qcow2,file.driver=raw,file.file.filename={}"),
    ("map", "--output=json", "{}"),
    ("map", "-U", "{}"),
    ("map", "--image-opts", "driver=raw,file.driver=raw,file.file.filename={}"),
    ("measure", "-O", "qcow2", "{}"),
    ("check", "{}"),
    ("check", "-U", "{}"),
    ("compare", "{}", "free"),
    ("compare", "free", "{}"),
    ("bench", "-c", "1", "-U", "{}"),
    ("snapshot", "-l", "{}"),
    ("snapshot", "-l", "-U", "{}"),
    ("dd", "if={}", "of=out", "bs=64k"),
    ("convert", "-O", "raw", "{}", "out"),
    ("convert", "-f", "raw", "-O", "raw", "{}", "out"),
    ("convert", "-O", "raw", "--salvage", "free", "{}", "out"),
    ("convert", "--image-opts", "-O", "raw", "driver=raw,file.driver=raw,file.file.filename={}", "out"),
    ("convert", "-U", "-O", "raw", "{}", "out"),
    ("convert", "-O", "qcow2", "-B", "{}", "-F", "raw", "free", "out"),
    ("create", "-f", "qcow2", "-b", "{}", "-F", "raw", "out"),
    ("rebase", "-f", "qcow2", "-b", "{}", "-F", "raw", "changed"),
)
WRITING = (
    ("resize", "-f", "raw", "{}", "2M"),
    ("bench", "-w", "-c", "1", "-f", "raw", "{}"),
    ("snapshot", "-c", "one", "-f", "raw", "{}"),
    ("amend", "-o", "compat=1.1", "-f", "raw", "{}"),
    ("convert", "-O", "raw", "free", "{}"),
    ("convert", "-n", "-O", "raw", "free", "{}"),
    ("create", "-f", "raw", "{}", "1M"),
    ("commit", "-f", "qcow2", "over-raw"),
)


class TestHeldByAWriter(InstarTestBase):
    def setUp(self):
        super().setUp()
        create = ("qemu-img", "create", "-q", "-f")
        for name, fmt, *words in (
            ("raw", "raw", "1M"),
            ("free", "raw", "1M"),
            ("qcow2", "qcow2", "1M"),
            ("vdi", "vdi", "1M"),
            ("over-raw", "qcow2", "-b", "raw", "-F", "raw"),
            ("over-over", "qcow2", "-b", "over-raw", "-F", "qcow2"),
            ("over-qcow2", "qcow2", "-b", "qcow2", "-F", "qcow2"),
            ("with-data", "qcow2", "-o", "data_file=data", "1M"),
            ("flat.vmdk", "vmdk", "-o", "subformat=monolithicFlat", "1M"),
            ("split.vmdk", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "1M"),
            ("over.vmdk", "vmdk", "-b", "flat.vmdk", "-F", "vmdk"),
        ):
            size = words[-1:] if words[-1] == "1M" else []
            self.make(*create, fmt, *(words[: len(words) - len(size)]), name, *size, cwd=self.tmp)
        self.make(*create, "luks", *SECRET, "-o", "key-secret=s,iter-time=10", "luks", "1M", cwd=self.tmp)

    def both(self, words):
        outcomes = []
        for run in (self.run_as_qemu_img, self.run_qemu_img):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", "changed", "1M", cwd=self.tmp)
            output, errors, status = run(*words, cwd=self.tmp)
            outcomes.append(("" if words[0] == "bench" else output, errors, status))
        self.assertEqual(*outcomes, words)
        return outcomes[0]

    def test_what_is_read(self):
        refused = read = 0
        for what, (held, fmt) in HELD.items():
            with self.held(held, fmt.split()[-1]):
                for words in READING:
                    with self.subTest(what, words=words):
                        _, errors, status = self.both([word.replace("{}", what.split(",")[0]) for word in words])
                        refused += "Is another process using the image" in errors
                        read += status == 0
        self.assertGreater(refused, 80)
        self.assertGreater(read, 150)

    def test_what_is_read_with_a_key(self):
        """A LUKS volume behind its header is a raw disk."""
        with self.held("luks", "raw"):
            for words in (
                ("compare", *SECRET, "--image-opts", LUKS, "driver=raw,file.filename=free"),
                ("map", *SECRET, "--image-opts", LUKS),
                ("convert", *SECRET, "--image-opts", LUKS, "-O", "raw", "out"),
            ):
                with self.subTest(words[0]):
                    self.both(words)

    def test_of_two_writers_the_second_is_refused(self):
        """Also of a raw image, where qemu-img lets both write."""
        with self.held("raw", "raw"):
            before = self.sha256(self.path("raw"))
            for words in WRITING:
                with self.subTest(" ".join(words)):
                    _, errors, status = self.run_as_qemu_img(
                        *(word.replace("{}", "raw") for word in words), cwd=self.tmp
                    )
                    self.assertEqual(status, 1)
                    self.assertIn("Is another process using the image [raw]?", errors)
                    self.assertEqual(self.sha256(self.path("raw")), before)
