"""Formats that are read and not written: odd images as the stock tool takes them, and every way to write refused."""


class ReadOnlyFormat:
    """For a test class: `format`, `odd` (name to content) and `sound` (the content of a sound image)."""

    def both(self, *argv):
        """The exit status; it and all words must be the stock tool's."""
        stock = self.run_qemu_img(*argv, cwd=self.tmp)
        self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp), stock)
        return stock[2]

    def put(self, content):
        """Makes the image."""
        with open(self.path("disk.img"), "wb") as file:
            file.write(content)

    def test_odd_ones_as_the_stock_tool(self):
        for name, content in self.odd.items():
            with self.subTest(name):
                self.put(content)
                if self.both("info", "-f", self.format, "disk.img"):
                    continue
                self.both("info", "disk.img")
                self.both("map", "--output=json", "-f", self.format, "disk.img")
                words = ("convert", "-f", self.format, "-O", "raw", "disk.img")
                stock = self.run_qemu_img(*words, "theirs", cwd=self.tmp)
                ours = self.run_instar(*words, "ours", cwd=self.tmp)
                self.assertEqual(ours[2], stock[2], ours[1] + stock[1])
                if stock[2]:
                    self.assertIn("Input/output error", ours[1])
                else:
                    self.assert_bytes_identical(self.path("ours"), self.path("theirs"))

    def test_no_writing(self):
        self.put(self.sound)
        self.make("qemu-img", "create", "-f", "raw", "raw.img", "1M")
        for argv in (
            ("create", "-f", self.format, "new.img", "1M"),
            ("convert", "-O", self.format, "raw.img", "new.img"),
            ("check", "-f", self.format, "disk.img"),
            ("resize", "-f", self.format, "disk.img", "2M"),
            ("snapshot", "-c", "one", "-f", self.format, "disk.img"),
            ("snapshot", "-a", "one", "-f", self.format, "disk.img"),
            ("snapshot", "-d", "one", "-f", self.format, "disk.img"),
            ("amend", "-o", "size=2M", "-f", self.format, "disk.img"),
            ("info", "--image-opts", f"driver={self.format},file.filename=disk.img,x=y"),
        ):
            with self.subTest(argv):
                self.assertNotEqual(self.both(*argv), 0)
