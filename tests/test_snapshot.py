"""snapshot, next to the stock tool: words, what must be as it makes it, odd images, random histories."""

import os
import random
import re
import struct
import unittest

from tests.helpers.twins import TwinTest

SEEDS = int(os.environ.get("INSTAR_SNAPSHOT_SEEDS", "4"))
FIRST_SEED = int(os.environ.get("INSTAR_SNAPSHOT_FIRST_SEED", "0"))
KIB, MIB = 1 << 10, 1 << 20
SECRET = ("--object", "secret,id=s,data=swordfish")
# Options of creation, with the clusters that data is written in.
OPTIONS = (
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=8",
    "cluster_size=2M",
    "cluster_size=16k,refcount_bits=64,lazy_refcounts=on",
    "cluster_size=64k,refcount_bits=2",
    "cluster_size=32k,extended_l2=on",
    "compat=0.10,cluster_size=4k",
    "compression_type=zstd,cluster_size=64k",
)


class SnapshotTest(TwinTest):
    COMMAND = "snapshot"


class TestSnapshotArguments(SnapshotTest):
    def test_texts_equal_the_stock_tools(self):
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "1M", cwd=self.path("ours"))
        for name in ("first", "1", "dup", "dup"):
            self.make("qemu-img", "snapshot", "-c", name, "a.q", cwd=self.path("ours"))
        self.make("qemu-img", "create", "-q", "-f", "raw", "r.raw", "1M", cwd=self.path("ours"))
        self.make("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "nope", "-F", "raw", "m.q", "1M",
                  cwd=self.path("ours"))
        self.copy()
        # (Of 10.0, the long names of `-c`, `-a` and `-d` take no argument, whatever its help says.)
        for line in (
            "", "-l", "-c", "a.q a.q", "-l -c x a.q", "-c x -a y a.q", "-c x -c y a.q", "-l -l a.q", "-c x -l a.q",
            "-a nosuch a.q", "-d nosuch a.q", "-d 2 a.q", "-d 4 a.q", "-l nofile", "-c x nofile", "-a x nofile",
            "-f raw -l a.q", "-f raw -c x a.q", "-f raw -a x a.q", "-f nosuch -c x a.q", "-z a.q", "-l -z -c x a.q",
            "--image-opts -f qcow2 a.q", "--image-opts -f qcow2 a.q b", "-U -c x a.q", "-U -a first a.q", "-U -d first a.q",
            "-U -l a.q", "-U a.q", "-l a.q", "a.q", "-q a.q", "--list a.q", "--object nosuch -l a.q", "--object nosuch -c x nofile", "--object nosuch -l -c x",
            "-l r.raw", "-c x r.raw", "-a x r.raw", "-d x r.raw", "-f raw -a x r.raw", "-l m.q", "-c x m.q",
            "-l --image-opts driver=qcow2,file.filename=a.q", "-l --image-opts driver=raw,file.filename=r.raw",
            "-U -c x nofile", "-U -l nofile", "-c x .", "-l .",
        ):  # fmt: skip
            with self.subTest(line):
                self.same(*line.split())
        self.assert_same_image()

    def test_ids_and_names(self):
        """`-a` asks for an id first, then for a name; `-d` for names only. Of two with one name the first is meant."""
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "4M")
        for number, name in enumerate(("3", "1", "one", "one", "")):
            self.each("qemu-io", "-c", f"write -P {number + 1} {number * 64}k 128k", "a.q")
            self.same("-c", name, "a.q")
        for argv in (
            ("-a", "1"), ("-a", "3"), ("-a", "one"), ("-d", "1"), ("-a", "1"), ("-d", "one"), ("-d", "one"), ("-d", "one"),
            ("-a", ""), ("-d", ""), ("-c", "again"), ("-d", "3"), ("-d", "again"), ("-c", "anew"),
        ):  # fmt: skip
            with self.subTest(argv):
                self.same(*argv, "a.q")
                self.assert_same_image()

    def test_names_of_any_bytes(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "1M")
        long = b"n" * 300
        for name in (b"\xff\xfe", "ä€".encode(), b"n" * 255, long, b"with blanks in it"):
            self.same("-c", name, "a.q")
        tables = []
        for who in ("ours", "theirs"):
            with open(os.path.join(self.path(who), "a.q"), "rb") as file:
                data = file.read()
            count, at = struct.unpack_from(">IQ", data, 60)
            names = []
            for _ in range(count):
                at = (at + 7) // 8 * 8
                id_len, name_len = struct.unpack_from(">HH", data, at + 12)
                extra = struct.unpack_from(">I", data, at + 36)[0]
                begin = at + 40 + extra + id_len
                names.append((data[at + 40 : begin], data[begin : begin + name_len]))
                at = begin + name_len
            tables.append(names)
        self.assertEqual(*tables)
        self.assertEqual(tables[0][3][1], b"n" * 255)
        for argv in (("-a", b"\xff\xfe"), ("-d", b"\xff\xfe"), ("-d", long), ("-d", b"n" * 255), ("-a", long)):
            self.same(*argv, "a.q")
        self.assertEqual(self.header("ours")[0], self.header("theirs")[0])


class TestSnapshotImages(SnapshotTest):
    def history(self, options, size="5M"):
        """An image with data of all kinds."""
        narrow = re.search("refcount_bits=[12]$", options)
        commands = [] if narrow else ["write -c -P 4 2M " + ("2M" if "2M" in options else "512k")]
        commands += [
            "write -P 1 0 400k", "write -P 2 1M 700k", "write -z 3M 200k", "write -P 3 4000k 100k", "discard 1200k 128k",
        ]  # fmt: skip
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "a.q", size)
        for command in commands:
            self.each("qemu-io", "-c", command, "a.q")

    def test_every_kind_of_image(self):
        for options in OPTIONS:
            with self.subTest(options):
                self.history(options)
                steps = [("-c", "one"), "write -P 5 100k 300k", ("-c", "two"), "write -P 6 2M 100k", ("-a", "one")]
                steps += ["write -P 7 0 5M", ("-a", "two"), ("-d", "one"), "write -P 8 1M 64k", ("-d", "two")]
                for step in steps:
                    if isinstance(step, str):
                        self.each("qemu-io", "-c", step, "a.q")
                    else:
                        self.same(*step, "a.q")
                        self.assert_same_image()

    def test_counts_without_room_are_refused_before_anything_is_touched(self):
        for bits, most in ((1, 0), (2, 2)):
            self.history(f"cluster_size=64k,refcount_bits={bits}" if bits > 1 else "cluster_size=2M,refcount_bits=1")
            for number in range(most):
                self.assertEqual(self.same("-c", f"s{number}", "a.q"), 0)
            before = self.sha256(self.path("ours/a.q"))
            self.assertEqual(self.same("-c", "over", "a.q"), 1)
            if most:
                self.assertEqual(self.same("-a", "s0", "a.q"), 1)
            self.assertEqual(self.sha256(self.path("ours/a.q")), before)

    def test_images_that_were_resized_between(self):
        self.history("cluster_size=4k")
        for step in (
            "-c small", "resize 9M", "-c large", "resize --shrink 1M", "-c tiny", "-a large", "-a small", "-d large",
            "-a tiny", "resize 3M", "-d small", "-a tiny", "-d tiny",
        ):  # fmt: skip
            words = step.split()
            with self.subTest(step):
                if words[0] == "resize":
                    self.each("qemu-img", "resize", "-q", *words[1:-1], "a.q", words[-1])
                    self.each("qemu-io", "-c", "write -P 9 500k 100k", "a.q")
                else:
                    self.same(*words, "a.q")
                self.assert_same_image()

    def test_a_disk_of_nothing(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "0")
        for argv in (("-c", "z"), ("-l",), ("-a", "z"), ("-c", "y"), ("-d", "z"), ("-d", "y")):
            self.same(*argv, "a.q")
            self.assertEqual(self.run_qemu_img("check", "a.q", cwd=self.path("ours"))[2], 0)

    def test_over_a_backing_file(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "4M")
        self.each("qemu-io", "-c", "write -P 1 0 4M", "base.q")
        self.each("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.q", "-F", "qcow2", "a.q")
        self.each("qemu-io", "-c", "write -P 2 1M 100k", "a.q")
        for step in ("-c one", "write -z 0 300k", "-c two", "-a one", "-a two", "-d one", "-d two"):
            if step.startswith("write"):
                self.each("qemu-io", "-c", step, "a.q")
            else:
                self.same(*step.split(), "a.q")
            self.assert_same_image()

    def test_encrypted(self):
        for kind in ("aes", "luks"):
            with self.subTest(kind):
                fast = ",encrypt.iter-time=10" if kind == "luks" else ""
                options = f"encrypt.format={kind},encrypt.key-secret=s{fast}"
                self.prepare("qemu-img", "create", "-q", *SECRET, "-f", "qcow2", "-o", options, "a.q", "2M")
                named = "driver=qcow2,encrypt.key-secret=s,file.filename=a.q"
                given = (*SECRET, "--image-opts", named)
                for step in ("write -P 1 0 1M", "-c one", "write -P 2 500k 1M", "-c two", "-a one", "-d two", "-d one"):
                    if step.startswith("write"):
                        self.each("qemu-io", *SECRET, "-c", step, "--image-opts", named)
                    else:
                        self.same(*step.split(), *given)
                    self.assert_same_image(given=given)
                    out, err, status = self.run_qemu_img("check", *given, cwd=self.path("ours"))
                    self.assertEqual(status, 0, out + err)
                self.same("-l", "a.q")
                self.same("-c", "x", "a.q")

    def test_a_data_file(self):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=d.raw", "a.q", "1M")
        for line in ("-l", "-c x", "-a x", "-d x"):
            self.same(*line.split(), "a.q")

    def test_bitmaps_stay(self):
        """Where there are any, the disk is not made what it was."""
        self.history("cluster_size=64k")
        self.same("-c", "one", "a.q")
        self.each("qemu-img", "bitmap", "--add", "a.q", "b")
        self.each("qemu-io", "-c", "write 1M 200k", "a.q")
        for line in ("-a one", "-a nosuch", "-c two", "-d one", "-l"):
            with self.subTest(line):
                self.same(*line.split(), "a.q")
                self.assert_same_image()
                shown = [self.info("a.q", who)["format-specific"]["data"]["bitmaps"] for who in ("ours", "theirs")]
                self.assertEqual(*shown)
        self.each("qemu-img", "bitmap", "--remove", "a.q", "b")
        self.same("-a", "two", "a.q")
        self.assert_same_image()

    def info(self, name, who):
        import json

        return json.loads(self.make("qemu-img", "info", "--output=json", name, cwd=self.path(who)))

    def test_images_that_were_not_closed(self):
        """They are repaired first."""
        for action in (("-c", "two"), ("-a", "one"), ("-d", "one")):
            self.history("cluster_size=64k,lazy_refcounts=on")
            self.each("qemu-img", "snapshot", "-c", "one", "a.q")
            argv = ["qemu-io", "-c", "write -P 9 300k 200k", "-c", "abort", "a.q"]
            self.run_tool(argv, cwd=self.path("ours"))
            self.copy()
            self.assertEqual(self.run_qemu_img("check", "a.q", cwd=self.path("ours"))[2], 2)
            out, err, status = self.run_as_qemu_img("snapshot", *action, "a.q", cwd=self.path("ours"))
            self.assertEqual((out, err, status), ("", "", 0))
            self.assertEqual(self.run_qemu_img("snapshot", *action, "a.q", cwd=self.path("theirs"))[2], 0)
            self.assert_same_image()

    def test_space_goes_back(self):
        """What only a snapshot had is given up, and the file ends where its content does."""
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "64M")
        self.each("qemu-io", "-c", "write 0 4M", "a.q")
        self.same("-c", "one", "a.q")
        self.each("qemu-io", "-c", "write 8M 32M", "a.q")
        used = lambda who: os.stat(os.path.join(self.path(who), "a.q")).st_blocks * 512  # noqa: E731
        self.assertGreater(used("ours"), 36 * MIB)
        self.same("-a", "one", "a.q")
        self.assert_same_image()
        self.assertLess(used("ours"), 5 * MIB)
        self.assertLessEqual(used("ours"), used("theirs") + 64 * KIB)
        self.each("qemu-io", "-d", "unmap", "-c", "write -z -u 0 4M", "a.q")
        self.same("-d", "one", "a.q")
        self.assertLess(used("ours"), MIB)
        self.assert_same_image()


class Table:
    """The snapshot table of an image, taken apart and put together by hand."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        count, at = struct.unpack_from(">IQ", self.data, 60)
        self.at, self.entries = at, []
        for _ in range(count):
            at = (at + 7) // 8 * 8
            fixed = bytes(self.data[at : at + 36])
            extra = struct.unpack_from(">I", self.data, at + 36)[0]
            id_len, name_len = struct.unpack_from(">HH", fixed, 12)
            at += 40
            parts = []
            for length in (extra, id_len, name_len):
                parts.append(bytes(self.data[at : at + length]))
                at += length
            self.entries.append([fixed, *parts])

    def write(self):
        """In its place: one cluster has room for it."""
        table = b""
        for fixed, extra, identifier, name in self.entries:
            table += bytes(-len(table) % 8)
            fixed = fixed[:12] + struct.pack(">HH", len(identifier), len(name)) + fixed[16:]
            table += fixed + struct.pack(">I", len(extra)) + extra + identifier + name
        assert len(table) <= 65536
        self.data[self.at : self.at + len(table)] = table
        struct.pack_into(">I", self.data, 60, len(self.entries))
        with open(self.path, "wb") as file:
            file.write(self.data)


class TestOddTables(SnapshotTest):
    def image(self, options="", snapshots=("one", "two")):
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), "a.q", "4M")
        for number, name in enumerate(snapshots):
            self.make("qemu-io", "-c", f"write -P {number + 1} {number * 100}k 300k", "a.q", cwd=self.path("ours"))
            self.make("qemu-img", "snapshot", "-c", name, "a.q", cwd=self.path("ours"))
        self.make("qemu-io", "-c", "write -P 9 50k 100k", "a.q", cwd=self.path("ours"))
        return Table(self.path("ours/a.q"))

    def go_through(self):
        for line in ("-l", "-c three", "-a one", "-d one", "-a three", "-d two", "-c four", "-d three"):
            with self.subTest(line):
                self.same(*line.split(), "a.q")
                self.assert_same_image()

    def test_unknown_extra_data_stays(self):
        table = self.image()
        for number, entry in enumerate(table.entries):
            entry[1] += bytes(range(1, 30 + number))
        table.write()
        self.copy()
        extra = [entry[1] for entry in table.entries]
        for line in ("-c three", "-a one", "-a two", "-d three"):
            self.same(*line.split(), "a.q")
            self.assert_same_image()
            found = [entry[1] for entry in Table(self.path("ours/a.q")).entries]
            self.assertEqual(found[:2], extra, line)
        self.same("-d", "one", "a.q")
        self.assertEqual([entry[1] for entry in Table(self.path("ours/a.q")).entries], extra[1:])

    def test_state_of_the_machine_and_its_clocks_stay(self):
        table = self.image()
        fixed = table.entries[0][0]
        table.entries[0][0] = fixed[:24] + struct.pack(">Q", 3_723_004_000_000) + fixed[32:]
        table.entries[0][1] = struct.pack(">QQQ", 5 << 30, 4 * MIB, 12345)
        table.entries[1][1] = struct.pack(">QQQ", 12345, 4 * MIB, (1 << 64) - 1)
        table.write()
        self.copy()
        self.go_through()

    def test_without_extra_data(self):
        """Images of version 2 may have none: the disk had the size that it has now."""
        table = self.image("compat=0.10")
        for entry in table.entries:
            entry[1] = b""
        table.write()
        self.copy()
        self.go_through()

    def test_identifiers(self):
        for ids in ((b"7", b"3"), (b"x", b"y"), (b"12abc", b""), (b"99999999999999999999", b"1"), (b"007", b"-1")):
            table = self.image()
            for entry, identifier in zip(table.entries, ids):
                entry[2] = identifier
            table.write()
            self.copy()
            with self.subTest(ids):
                for line in ("-l", "-c three", "-l", "-a two", "-d one", "-c four", "-l"):
                    self.same(*line.split(), "a.q")
                self.assert_same_image(given=()) if all(ids) else None

    def test_many(self):
        """As many as there may be, and one more."""
        count, cluster = 65535, 64 * KIB
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "a.q", "4M")
        with open(self.path("ours/a.q"), "rb") as file:
            data = bytearray(file.read())
        # None of them has an L1 table.
        body = bytearray()
        for number in range(1, count + 1):
            identifier = str(number).encode()
            body += struct.pack(">QIHHIIQII", 0, 0, len(identifier), 1, 1, 0, 0, 0, 24)
            body += struct.pack(">QQQ", 0, 4 * MIB, 0) + identifier + b"s"
            body += bytes(-len(body) % 8)
        place = -(-len(data) // cluster) * cluster
        data += bytes(place - len(data)) + body
        struct.pack_into(">IQ", data, 60, count, place)
        blocks = struct.unpack_from(">Q", data, struct.unpack_from(">Q", data, 48)[0])[0]
        for number in range(place // cluster, -(-len(data) // cluster)):
            struct.pack_into(">H", data, blocks + 2 * number, 1)
        with open(self.path("ours/a.q"), "wb") as file:
            file.write(data)
        # The stock tool says the same, but takes minutes.
        full = "qemu-img: Could not create snapshot 'over': File too large\n"
        for line, left, said in (
            ("-c last", 65536, ""),
            ("-c over", 65536, full),
            ("-a 65536", 65536, ""),
            ("-d last", 65535, ""),
            ("-d s", 65534, ""),
        ):
            with self.subTest(line):
                outcome = self.run_as_qemu_img("snapshot", *line.split(), "a.q", cwd=self.path("ours"))
                self.assertEqual(outcome, ("", said, 1 if said else 0))
                self.assertEqual(self.header("ours")[0], left)
                self.assertEqual(self.run_as_qemu_img("check", "a.q", cwd=self.path("ours"))[2], 0)


class TestRandomHistories(SnapshotTest):
    """Writes, resizes and snapshots in any order: one generated test a seed. `INSTAR_SNAPSHOT_SEEDS` is how many."""

    def history(self, seed):
        rng = random.Random(seed)
        options = rng.choice(OPTIONS)
        size = rng.choice((1, 3, 8)) * MIB + 512 * rng.choice((0, 0, 77))
        below = ["-b", "base.q", "-F", "qcow2"] if rng.random() < 0.3 else []
        self.prepare("qemu-img", "create", "-q", "-f", "qcow2", "base.q", "4M")
        self.each("qemu-io", "-c", "write -P 200 0 3M", "base.q")
        self.each("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *below, "a.q", str(size))
        said = [f"{options} {size} {below}"]
        names = []
        for _ in range(rng.randint(8, 16)):
            kind = rng.random()
            if kind < 0.45:
                at = rng.randrange(size // 512) * 512
                length = min(rng.choice((512, 4096, 70 * KIB, 300 * KIB, MIB)), size - at)
                pattern = rng.randint(1, 250)
                what = rng.choice((f"write -P {pattern}",) * 3 + ("write -z", "write -z -u", "discard"))
                step = f"{what} {at} {length}"
                if rng.random() < 0.2 and "refcount_bits=2" not in options:
                    at = at // (64 * KIB) * (64 * KIB)
                    step = f"write -c -P {pattern} {at} {min(64 * KIB, size - at)}"
                run = lambda who, step=step: self.run_tool(["qemu-io", "-c", step, "a.q"], cwd=self.path(who))  # noqa: E731
                self.assertEqual(run("ours")[2], run("theirs")[2])
                said.append(step)
                continue
            elif kind < 0.52 and "compat=0.10" not in options:
                size = rng.choice((1, 2, 5)) * MIB + 512 * rng.choice((0, 3))
                step = f"resize {size}"
                self.each("qemu-img", "resize", "-q", "--shrink", "a.q", str(size))
            else:
                action = rng.choice(("-c", "-c", "-a", "-a", "-d"))
                if action == "-c":
                    names.append(rng.choice("abcdefgh"))
                    name = names[-1]
                else:
                    name = rng.choice([*names, *names, "1", "2", "nosuch"])
                step = f"{action} {name}"
                before, refused = size, self.same(action, name, "a.q")
                size = int(re.search(r'"virtual-size": (\d+),\n    "filename"', self.shown("theirs")).group(1))
                if refused and size != before:
                    # The stock tool has changed the size of the disk before it found that counts have no room.
                    break
            said.append(step)
            with self.subTest("; ".join(said)):
                # What the stock tool leaves behind the end of a disk shows when it grows.
                self.assert_same_image()

    def shown(self, who):
        return self.make("qemu-img", "info", "--output=json", "a.q", cwd=self.path(who))


def _random(seed):
    return lambda self: self.history(seed)


for _seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
    setattr(TestRandomHistories, f"test_history_{_seed}", _random(_seed))


if __name__ == "__main__":
    unittest.main()
