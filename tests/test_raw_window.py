"""A raw disk that is a part of its file (`driver=raw,offset=..,size=..`): what is written, is written there."""

import shutil

from tests.base import InstarTestBase

MIB = 1 << 20
WINDOWS = ("offset=1M", "offset=1M,size=4M", "size=4M", "offset=4M,size=1M", "offset=5M,size=512k", "offset=9M")


class TestRawWindow(InstarTestBase):
    def setUp(self):
        super().setUp()
        self.make("qemu-img", "create", "-q", "-f", "raw", "big.raw", "8M")
        self.make("qemu-io", "-f", "raw", "-c", "write -P 1 0 8M", "big.raw")
        self.make("qemu-img", "create", "-q", "-f", "raw", "source.raw", "4M")
        self.make("qemu-io", "-f", "raw", "-c", "write -P 7 64k 1M", "-c", "write -z 2M 64k", "source.raw")
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-b", "big.raw", "-F", "raw", "over.qcow2", "2M")
        self.make("qemu-io", "-f", "qcow2", "-c", "write -P 9 128k 256k", "over.qcow2")

    def image(self, window):
        return f"driver=raw,{window},file.filename=big.raw"

    def commands(self, window):
        image = self.image(window)
        options = ",".join(f"backing.{option}" for option in window.split(","))
        over = f"driver=qcow2,file.filename=over.qcow2,backing.driver=raw,{options},backing.file.filename=big.raw"
        yield "convert", "-n", "--target-image-opts", "-f", "raw", "source.raw", image
        yield "bench", "-w", "-c", "3", "-S", "64k", "--pattern=5", "--image-opts", image
        yield "commit", "-d", "--image-opts", over
        yield "resize", "--image-opts", image, "+1M"
        yield "resize", "--shrink", "--image-opts", image, "1M"

    def test_what_is_written_is_written_there(self):
        for window in WINDOWS:
            for command in self.commands(window):
                with self.subTest(window=window, command=command[0]):
                    seen = []
                    for tool, folder in ((self.run_as_qemu_img, "ours"), (self.run_qemu_img, "theirs")):
                        names = shutil.ignore_patterns("ours", "theirs")
                        place = shutil.copytree(self.tmp, self.path(folder), ignore=names)
                        out, err, status = tool(*command, cwd=place)
                        shown = "" if command[0] == "bench" else out
                        with open(f"{place}/big.raw", "rb") as file:
                            seen.append((shown, err, status, file.read()))
                        shutil.rmtree(place)
                    self.assert_same_bytes(seen[0][3], seen[1][3], window)
                    self.assertEqual(seen[0][:3], seen[1][:3])
