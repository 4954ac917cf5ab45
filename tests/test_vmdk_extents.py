"""What a vmdk's descriptor says of its extents: each is read as it says or refused by name, none is left out."""

import json
import os
import random

from tests.base import InstarTestBase

HEAD = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n"
SECTOR = 512
PART = 512 * SECTOR


class TestExtents(InstarTestBase):
    def setUp(self):
        super().setUp()
        self.content = random.Random(1).randbytes(4 * PART)
        with open(self.path("f.bin"), "wb") as file:
            file.write(self.content)

    def descriptor(self, *lines, name="a.vmdk"):
        with open(self.path(name), "w", encoding="ascii") as file:
            file.write(HEAD + "# Extent description\n" + "".join(f"{line}\n" for line in lines))

    def part(self, number):
        return self.content[number * PART : (number + 1) * PART]

    def converted(self, *argv):
        out, err, status = self.run_instar("convert", "-f", "vmdk", "-O", "raw", *argv, "a.vmdk", "o.raw", cwd=self.tmp)
        self.assertEqual((out, err, status), ("", "", 0))
        with open(self.path("o.raw"), "rb") as file:
            return file.read()

    def test_extents_that_are_read_only(self):
        self.descriptor('RW 512 FLAT "f.bin" 0', 'RDONLY 512 FLAT "f.bin" 512', 'RW 1024 FLAT "f.bin" 1024')
        self.assertEqual(self.converted(), self.content)
        self.descriptor('RDONLY 2048 FLAT "f.bin" 0')
        self.assertEqual(self.converted(), self.content)

    def test_extents_of_zeroes(self):
        for access in ("RW", "RDONLY", "NOACCESS", "noaccess"):
            self.descriptor(f"{access} 512 ZERO", 'RW 512 FLAT "f.bin" 512', f"{access} 512 ZERO")
            self.assertEqual(self.converted(), bytes(PART) + self.part(1) + bytes(PART))
        out, err, status = self.run_instar("map", "--output=json", "a.vmdk", cwd=self.tmp)
        self.assertEqual((err, status), ("", 0))
        self.assertEqual([(e["start"], e["length"], e["zero"]) for e in json.loads(out)],
                         [(0, PART, True), (PART, PART, False), (2 * PART, PART, True)])

    def test_the_same_in_other_words(self):
        for line in ('rw 2048 flat "f.bin" 0', "RW 2048 FLAT f.bin 0", '  Rw\t2048  Flat\t"f.bin"  0', "rdonly 2048 flat f.bin 0\r"):
            with self.subTest(line=line):
                self.descriptor(line)
                self.assertEqual(self.converted(), self.content)

    def test_what_cannot_be_read_is_refused_by_name(self):
        for line in (
            'NOACCESS 512 FLAT "f.bin" 512',
            'RW 512 VMFSRDM "f.bin"',
            'RW 512 ODD "f.bin"',
            'RW 512 FLAT "f.bin"',
            'RW 0 FLAT "f.bin" 0',
            "RW 512 SPARSE",
            "RDONLY",
        ):
            for command in (["info"], ["convert", "-O", "raw"], ["check"], ["map"]):
                self.descriptor('RW 512 FLAT "f.bin" 0', line, 'RW 1024 FLAT "f.bin" 1024')
                target = ["o.raw"] if command[0] == "convert" else []
                _out, err, status = self.run_instar(*command, "a.vmdk", *target, cwd=self.tmp)
                self.assertEqual(status, 1, line)
                first = f"instar: Could not open 'a.vmdk': Invalid extent line: {line}"
                self.assertEqual(err.splitlines()[0], first)
                self.assertFalse(os.path.exists(self.path("o.raw")))

    def test_a_disk_without_extents(self):
        for lines in ((), ("# RW 512 FLAT \"f.bin\" 0",), ("ddb.adapterType = \"ide\"",)):
            self.descriptor(*lines)
            for command in (["info", "a.vmdk"], ["convert", "-O", "raw", "a.vmdk", "o.raw"]):
                _out, err, status = self.run_instar(*command, cwd=self.tmp)
                self.assertEqual(err.splitlines()[0], "instar: Could not open 'a.vmdk': invalid VMDK image descriptor")
                self.assertEqual(status, 1)

    def test_what_is_read_only_is_not_written(self):
        self.make("qemu-img", "create", "-q", "-f", "raw", "new.raw", "1M")
        for line in ('RDONLY 512 FLAT "f.bin" 512', "RW 512 ZERO"):
            self.descriptor('RW 512 FLAT "f.bin" 0', line, 'RW 1024 FLAT "f.bin" 1024')
            out, _err, status = self.run_instar("convert", "-n", "-O", "vmdk", "new.raw", "a.vmdk", cwd=self.tmp)
            self.assertEqual((out, status), ("", 1))
            with open(self.path("f.bin"), "rb") as file:
                self.assertEqual(file.read(), self.content)

    def test_colons_are_a_part_of_the_name(self):
        """As with the stock tool: no protocol, not even `file:`."""
        for name in ("v:3.bin", "file:z.bin"):
            os.link(self.path("f.bin"), self.path(name))
            self.descriptor(f'RW 2048 FLAT "{name}" 0')
            for image in ("a.vmdk", "./a.vmdk", self.path("a.vmdk")):
                for command in ("info", "map", "check"):
                    argv = (command, *(["--output=json"] if command != "check" else []), image)
                    self.assert_same_outcome(
                        self.run_instar(*argv, cwd=self.tmp), self.run_qemu_img(*argv, cwd=self.tmp), argv
                    )
            self.assertEqual(self.converted(), self.content)

    def test_more_than_a_thousand(self):
        """Of 2 GiB each when they are made, of a sector when they are read."""
        count = 1500
        for subformat in ("twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
            argv = ["create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", "big.vmdk", f"{2 * count}G"]
            self.assertEqual(self.run_instar(*argv, cwd=self.tmp, timeout=120), ("", "", 0))
            out = self.make("qemu-img", "info", "--output=json", "big.vmdk")
            self.assertEqual(len(json.loads(out)["format-specific"]["data"]["extents"]), count)
            ours = self.run_instar("info", "--output=json", "big.vmdk", cwd=self.tmp, timeout=120)
            self.assertEqual(ours[1:], ("", 0))
            self.assertEqual(len(json.loads(ours[0])["format-specific"]["data"]["extents"]), count)
            for name in os.listdir(self.tmp):
                if name.startswith("big"):
                    os.unlink(self.path(name))
        for number in range(count):
            with open(self.path(f"p{number}"), "wb") as file:
                file.write(number.to_bytes(2, "little") * (SECTOR // 2))
        self.descriptor(*(f'RW 1 FLAT "p{number}" 0' for number in range(count)))
        whole = b"".join(number.to_bytes(2, "little") * (SECTOR // 2) for number in range(count))
        self.assertEqual(self.converted(), whole)
