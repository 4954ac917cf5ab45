"""Names that images give, where symbolic links are on the way: they lead where the kernel would go, or nowhere."""

import os
import unittest

from tests.base import InstarTestBase

SIZE = 65536
BARE = {"INSTAR_CONFIG": "", "INSTAR_ALLOW_BACKING": ""}


class TestLinks(InstarTestBase):
    """Each base is filled with a letter of its own."""

    def base(self, name, letter):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(letter * SIZE)

    def overlay(self, name, backing):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        self.make("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, name, str(SIZE))

    def read(self, *names, allow=""):
        """The first letter of the (last) image's disk; None where it is refused."""
        env = {**BARE, "INSTAR_ALLOW_BACKING": allow}
        err, status = self.run_instar("convert", "-O", "raw", *names, "out", cwd=self.tmp, env=env)[1:]
        if status:
            self.assertIn("not in a directory that images may refer to", err)
            return None
        self.assertEqual(err, "")
        with open(self.path("out"), "rb") as file:
            return file.read()[-1:]

    def test_back_up_from_a_folder_and_from_a_link_to_one(self):
        self.base("img/base", b"R")
        self.base("img/sub/base", b"U")
        os.mkdir(self.path("img/sub/deep"))
        os.symlink("sub/deep", self.path("img/link"))
        self.overlay("img/plain", "sub/../base")
        self.overlay("img/linked", "link/../base")
        self.assertEqual(self.read("img/plain"), b"R")
        self.assertEqual(self.read("img/linked"), b"U")
        self.make("qemu-img", "convert", "-O", "raw", "img/linked", "theirs")
        self.assert_bytes_identical(self.path("out"), self.path("theirs"))

    def test_nothing_is_committed_into_a_file_that_is_not_the_base(self):
        self.test_back_up_from_a_folder_and_from_a_link_to_one()
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 87 0 64k", "img/linked")
        self.assertEqual(self.run_instar("commit", "-f", "qcow2", "img/linked", cwd=self.tmp, env=BARE)[2], 0)
        for name, letter in (("img/base", b"R"), ("img/sub/base", b"W")):
            with open(self.path(name), "rb") as file:
                self.assertEqual(file.read(), letter * SIZE, name)

    def test_the_image_is_reached_by_a_link(self):
        self.base("data/base/b", b"G")
        self.base("srv/base/b", b"X")
        self.overlay("data/images/i", "../base/b")
        os.symlink("../data/images", self.path("srv/images"))
        allowed = f"{self.path('data/base')}:{self.path('srv/base')}"
        self.assertEqual(self.read("srv/images/i", allow=allowed), b"G")
        self.assertIsNone(self.read("srv/images/i", allow=self.path("srv/base")))

    def test_an_image_names_files_as_the_user_named_its_folder(self):
        self.base("data/images/b", b"G")
        os.mkdir(self.path("srv"))
        os.symlink("../data/images", self.path("srv/images"))
        self.overlay("data/images/i", self.path("srv/images/b"))
        self.assertEqual(self.read("srv/images/i"), b"G")
        self.assertEqual(self.read("data/images/i", allow=self.path("srv/images")), b"G")

    def test_a_folder_given_by_a_link_and_back_up_is_not_another(self):
        self.base("secret/k", b"Q")
        os.makedirs(self.path("secret/x"))
        os.mkdir(self.path("img"))
        os.symlink("../secret/x", self.path("img/o"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "secret/a", str(SIZE))
        self.overlay("img/b", "k")
        argv = ("convert", "-O", "raw", "img/o/../a", "img/b", "out")
        self.assertEqual(self.run_instar(*argv, cwd=self.tmp, env=BARE)[2], 1)
        self.base("img/k", b"R")
        self.assertEqual(self.read("img/o/../a", "img/b"), b"R")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 87 0 64k", "img/b")
        env = {**BARE, "INSTAR_ALLOW_BACKING": self.path("img/o/..")}
        self.assertEqual(self.run_instar("commit", "-f", "qcow2", "img/b", cwd=self.tmp, env=env)[2], 0)
        for name, letter in (("img/k", b"W"), ("secret/k", b"Q")):
            with open(self.path(name), "rb") as file:
                self.assertEqual(file.read(), letter * SIZE, name)


class TestOwnOptions(InstarTestBase):
    """What the stock tool does not know, qemu-img does not, whatever instar does with it."""

    def test_they_are_unknown_to_qemu_img(self):
        self.make("qemu-img", "create", "-q", "-f", "raw", "base", "1M")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
        before = self.sha256(self.path("top"))
        for argv in (["rebase", "--dry-run", "-b", "", "top"], ["info", "--extra-detail", "top"]):
            stock = self.run_qemu_img(*argv, cwd=self.tmp)
            self.assertEqual(stock[2], 1)
            self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
            self.assertEqual(self.sha256(self.path("top")), before)
            self.assertEqual(self.run_instar(*argv, cwd=self.tmp)[1:], ("", 0))
            self.assertEqual(self.sha256(self.path("top")), before)


if __name__ == "__main__":
    unittest.main()
