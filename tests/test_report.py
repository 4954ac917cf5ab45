"""`--report`: one line of JSON for each run, as docs/report.schema.json has it."""

import datetime
import errno
import fcntl
import json
import os
import re
import resource
import socket
import subprocess
import unittest

import jsonschema

from tests.base import ISOLATION, ROOT, InstarTestBase
from tests.helpers import confine, images, processes
from tests.helpers.faulty import Faulty

SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())
MIB = 1 << 20

# Each command, once well and once not, in a folder with a.qcow2, b.qcow2, r.raw; and the images that the report names.
RUNS = [
    ("info a.qcow2", 0, ["a.qcow2"]),
    ("info nope", 1, ["nope"]),
    ("info a.qcow2 --nosuch", 1, []),
    ("check a.qcow2", 0, ["a.qcow2"]),
    ("check r.raw", 63, ["r.raw"]),
    ("map a.qcow2", 0, ["a.qcow2"]),
    ("map nope", 1, ["nope"]),
    ("compare a.qcow2 a.qcow2", 0, ["a.qcow2", "a.qcow2"]),
    ("compare a.qcow2 r.raw", 1, ["a.qcow2", "r.raw"]),
    ("compare a.qcow2 nope", 2, ["a.qcow2", "nope"]),
    ("measure -O qcow2 a.qcow2", 0, ["a.qcow2"]),
    ("measure -O nosuch a.qcow2", 1, ["a.qcow2"]),
    ("convert -O raw a.qcow2 x", 0, ["a.qcow2", "x"]),
    ("convert -O raw nope x", 1, ["nope", "x"]),
    ("dd if=a.qcow2 of=x", 0, ["a.qcow2", "x"]),
    ("dd if=nope of=x", 1, ["nope", "x"]),
    ("create x 1M", 0, ["x"]),
    ("create x ten", 1, ["x"]),
    ("resize r.raw 3M", 0, ["r.raw"]),
    ("resize nope 3M", 1, ["nope"]),
    ("snapshot -c s a.qcow2", 0, ["a.qcow2"]),
    ("snapshot -d nosuch a.qcow2", 1, ["a.qcow2"]),
    ("bitmap --add a.qcow2 bits", 0, ["a.qcow2"]),
    ("bitmap --remove a.qcow2 nosuch", 1, ["a.qcow2"]),
    ("amend -o lazy_refcounts=on a.qcow2", 0, ["a.qcow2"]),
    ("amend -o nosuch=on a.qcow2", 1, ["a.qcow2"]),
    ("rebase -b nope -F qcow2 b.qcow2", 1, ["b.qcow2"]),
    ("rebase -b a.qcow2 -F qcow2 b.qcow2", 0, ["b.qcow2"]),
    ("commit b.qcow2", 0, ["b.qcow2"]),
    ("commit r.raw", 1, ["r.raw"]),
    ("bench -c 4 a.qcow2", 0, ["a.qcow2"]),
    ("bench -c x a.qcow2", 1, ["a.qcow2"]),
    ("policy a.qcow2", 0, ["a.qcow2"]),
    ("policy nope", 1, ["nope"]),
    ("config", 0, []),
    ("config explain nosuch", 1, []),
    ("doctor", 0, []),
    ("doctor x", 1, []),
    ("generate man", 0, []),
    ("generate nosuch", 1, []),
    ("info --image-opts driver=qcow2,file.filename=a.qcow2", 0, ["a.qcow2"]),
]


class ReportTest(InstarTestBase):
    def setUp(self):
        super().setUp()
        for name in ("a.qcow2", "b.qcow2"):
            self.make("qemu-img", "create", "-q", "-f", "qcow2", name, "2M")
        self.make("qemu-img", "create", "-q", "-f", "raw", "r.raw", "2M")
        images.write("a.qcow2", (1, 0, "1M"), cwd=self.tmp)

    def lines(self, name="report"):
        with open(self.path(name), encoding="ascii") as file:
            text = file.read()
        self.assertTrue(text.endswith("\n") or not text)
        return [self.valid(line) for line in text.splitlines()]

    def valid(self, line):
        """The object, which is as the schema has it."""
        found = json.loads(line)
        jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
        return found

    def reported(self, *argv, **kwargs):
        """The outcome, and the last line of the report."""
        outcome = self.run_instar(*argv, "--report", "report", cwd=self.tmp, **kwargs)
        return outcome, self.lines()[-1]


class TestReport(ReportTest):
    def test_the_schema_is_one(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        self.assertEqual(sorted(SCHEMA["required"]), sorted(SCHEMA["properties"]))

    def test_every_command(self):
        commands = set()
        for line, status, named in RUNS:
            with self.subTest(line):
                if os.path.exists(self.path("x")):
                    os.unlink(self.path("x"))
                argv = line.split()
                # What does not parse says of no report either.
                env = {"INSTAR_REPORT": "report"}
                out, err, ended = self.run_instar(*argv, cwd=self.tmp, env=env)
                report = self.lines()[-1]
                self.assertEqual(ended, status, out + err)
                self.assertEqual((report["command"], report["exit"], report["program"]), (argv[0], status, "instar"))
                self.assertEqual(report["release"], self.qemu_version)
                if named:
                    self.assertEqual(report["images"], named)
                if status == 0 and named:
                    self.assertEqual(report["isolation"], ISOLATION)
                commands.add(argv[0])
        of_images = re.compile(r'name: "(\w+)",\n    about: [^\n]*\n    operands: "[^"]*FILE')
        sources = (ROOT / "src/host/cli/src/commands").glob("*.rs")
        known = {name for source in sources for name in of_images.findall(source.read_text())}
        self.assertGreater(len(known), 12)
        self.assertEqual(known - commands, set())
        self.assertEqual(len(self.lines()), len(RUNS))

    def test_numbers_are_the_hosts(self):
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
        _, report = self.reported("convert", "-O", "qcow2", "r.raw", "x.qcow2")
        after = datetime.datetime.now(datetime.UTC)
        self.assertTrue(before <= datetime.datetime.fromisoformat(report["time"]) <= after)
        data = os.urandom(4 * MIB)
        with open(self.path("full.raw"), "wb") as file:
            file.write(data)
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        _, report = self.reported("convert", "-O", "qcow2", "full.raw", "x.qcow2")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        # All of the disk, and tables besides.
        self.assertTrue(4 * MIB <= report["read_bytes"] <= 5 * MIB, report)
        self.assertTrue(4 * MIB <= report["written_bytes"] <= 5 * MIB, report)
        spent = ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime
        self.assertLessEqual(report["cpu_seconds"], spent + 0.05)
        self.assertGreater(report["cpu_seconds"], 0)
        self.assertTrue(1 * MIB < report["peak_memory_bytes"] <= 1 << 30, report)
        self.assertGreater(report["seconds"], 0)

    def test_names_that_are_refused_are_counted(self):
        base = ["-u", "-b", "/etc/x\x1b[2J\u202e", "-F", "raw"]
        self.make("qemu-img", "create", "-q", "-f", "qcow2", *base, "top.qcow2", "1M")
        (_, _, status), report = self.reported("check", "top.qcow2")
        self.assertEqual((status, report["exit"]), (1, 1))
        self.assertEqual((report["refused"], report["refused_names"]), (1, ["/etc/x\x1b[2J\u202e"]))
        with open(self.path("report"), "rb") as file:
            self.assertEqual(re.findall(rb"[^\n -~]", file.read()), [])

    def test_limits_that_are_reached(self):
        (_, err, status), report = self.reported("convert", "-O", "raw", "a.qcow2", "x", "--max-requests", "3")
        self.assertEqual(status, 1, err)
        self.assertEqual(report["limits"], [{"name": "number of requests", "flag": "--max-requests", "value": "3"}])
        (_, err, status), report = self.reported("convert", "-O", "raw", "a.qcow2", "x", "--max-output-growth", "64k")
        self.assertEqual((status, [limit["flag"] for limit in report["limits"]]), (1, ["--max-output-growth"]), err)

    def test_a_run_that_ends_in_the_middle_of_a_read(self):
        """The kernel does not give the thread back: the program ends without it, and tells of the run before."""
        if not (processes.is_root() and os.path.exists("/dev/fuse")):
            self.skipTest("needs root and FUSE")
        for folder in ("files", "mount"):
            os.mkdir(self.path(folder))
        images.random_disk(self.path("files/slow.raw"), MIB, 1)
        faulty = Faulty(self.path("files"), self.path("mount"), cached=True)
        try:
            faulty.mute.add("slow.raw")
            argv = ["compare", "--max-seconds", "1", "-f", "raw", "-F", "raw", "a.qcow2", self.path("mount/slow.raw")]
            (_, err, status), report = self.reported(*argv, timeout=30)
            self.assertEqual((status, report["exit"]), (2, 2), err)
            limit = {"name": "wall-clock time", "flag": "--max-seconds", "value": "1 seconds"}
            self.assertEqual((report["limits"], report["isolation"]), ([limit], ISOLATION))
            self.assertGreaterEqual(report["seconds"], 1)
        finally:
            faulty.close()

    def test_no_secret_is_in_it(self):
        needle = "seventeen-dark-horses"
        secret = ["--object", f"secret,id=s,data={needle}"]
        self.make("qemu-img", "create", "-q", *secret, "-f", "luks", "-o", "key-secret=s,iter-time=10", "a.luks", "1M")
        for image in ("driver=luks,key-secret=s,file.filename=a.luks", f"driver=luks,password={needle},file.filename=a.luks"):
            self.reported("info", *secret, "--image-opts", image)
        as_json = json.dumps({"driver": "luks", "password": needle, "file": {"driver": "file", "filename": "a.luks"}})
        self.reported("info", f"json:{as_json}")
        with open(self.path("report"), encoding="ascii") as file:
            text = file.read()
        self.assertEqual(len(text.splitlines()), 3)
        self.assertNotIn(needle, text)

    def test_called_as_qemu_img_nothing_else_changes(self):
        env = {"INSTAR_REPORT": self.path("report")}
        for argv in (["info", "a.qcow2"], ["info", "nope"], ["convert", "-O", "raw", "a.qcow2", "x"]):
            self.assertEqual(self.run_as_qemu_img(*argv, cwd=self.tmp, env=env), self.run_qemu_img(*argv, cwd=self.tmp))
        said = [(line["program"], line["exit"]) for line in self.lines()]
        self.assertEqual(said, [("qemu-img", 0), ("qemu-img", 1), ("qemu-img", 0)])

    def test_the_release_is_the_one_that_is_imitated(self):
        for given, imitated in (("7.2.18", "7.2.18"), ("9.9", "9.2.0")):
            self.run_instar("--qemu-version", given, "info", "a.qcow2", "--report", "report", cwd=self.tmp)
            self.assertEqual(self.lines()[-1]["release"], imitated)

    def test_help_is_no_run(self):
        self.run_instar("info", "--help", "--report", "report", cwd=self.tmp)
        self.assertEqual(self.lines(), [])


class TestPlaces(ReportTest):
    """Where it goes."""

    def test_what_the_system_pins_stays(self):
        """The system's file is one of the test's own, in a mount namespace of its own."""
        if not processes.is_root():
            self.skipTest("another /etc takes root")
        os.makedirs(self.path("etc/instar"))
        with open(self.path("etc/instar/config.toml"), "w", encoding="utf-8") as file:
            file.write(f'pinned = ["report.file"]\n[report]\nfile = "{self.tmp}/report"\n')
        script = 'mount --bind etc /etc && exec "$0" info a.qcow2 $1'
        for more, said in (
            ("", ""),
            ("--report=other", "--report may not loosen it to other\n"),
        ):
            argv = ["unshare", "--mount", "sh", "-c", script, self.get_instar_binary(), more]
            _, err, status = self.run_tool(argv, cwd=self.tmp)
            self.assertEqual(status, 1 if said else 0, err)
            self.assertTrue(err.endswith(said) and bool(err) == bool(said), err)
        self.assertEqual(([line["exit"] for line in self.lines()], os.path.exists(self.path("other"))), ([0], False))

    def test_a_file_is_added_to_and_may_be_moved_away(self):
        for _ in range(2):
            self.reported("info", "a.qcow2")
        os.rename(self.path("report"), self.path("report.1"))
        self.reported("info", "a.qcow2")
        self.assertEqual([len(self.lines(name)) for name in ("report.1", "report")], [2, 1])
        self.assertEqual(os.stat(self.path("report")).st_mode & 0o137, 0)

    def test_lines_of_many_do_not_mix(self):
        argv = [self.get_instar_binary(), "info", "a.qcow2", "--report", "report"]
        running = [subprocess.Popen(argv, cwd=self.tmp, stdout=subprocess.DEVNULL) for _ in range(16)]
        self.assertEqual([process.wait() for process in running], [0] * 16)
        self.assertEqual({line["pid"] for line in self.lines()}, {process.pid for process in running})

    def test_it_is_written_by_one_call(self):
        strace = subprocess.run(["which", "strace"], capture_output=True, check=False).returncode == 0
        if not strace:
            self.skipTest("strace is not there")
        trace = self.path("trace")
        strace = ["strace", "-f", "-s", "4096", "-o", trace, "-e", "trace=write,writev"]
        self.run_tool([*strace, self.get_instar_binary(), "info", "a.qcow2", "--report", "report"], cwd=self.tmp)
        with open(trace, encoding="utf-8", errors="replace") as file:
            calls = [line for line in file if "peak_memory_bytes" in line]
        self.assertEqual(len(calls), 1, calls)

    def test_a_descriptor(self):
        reader, writer = os.pipe()
        out, err, status = self.run_instar("info", "a.qcow2", "--report", f"fd:{writer}", cwd=self.tmp, pass_fds=(writer,))
        os.close(writer)
        self.assertEqual((err, status), ("", 0), out)
        with os.fdopen(reader, "rb") as file:
            self.assertEqual(self.valid(file.read())["images"], ["a.qcow2"])

    def test_a_descriptor_that_is_not_open_is_told_first(self):
        read_only = os.open(self.path("r.raw"), os.O_RDONLY)
        self.addCleanup(os.close, read_only)
        for number in (77, read_only):
            argv = ["create", "new", "1M", "--report", f"fd:{number}"]
            out, err, status = self.run_instar(*argv, cwd=self.tmp, pass_fds=(read_only,))
            said = f"instar: report.file (from --report): 'fd:{number}' cannot be opened: Bad file descriptor\n"
            self.assertEqual((out, err, status), ("", said, 1))
            self.assertFalse(os.path.exists(self.path("new")))

    def test_what_makes_no_sense(self):
        for value, why in (("fd:x", "'x' is no descriptor's number"), ("", "it names no file")):
            _, err, status = self.run_instar("info", "a.qcow2", "--report", value, cwd=self.tmp)
            self.assertEqual((err, status), (f"instar: report.file (from --report): {why}\n", 1))
        _, err, status = self.run_instar("info", "a.qcow2", "--report", "nodir/x", cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("report.file (from --report): 'nodir/x' cannot be opened: No such file or directory\n", err)

    def test_one_that_cannot_be_written(self):
        for argv, status in ((["info", "a.qcow2"], 1), (["compare", "a.qcow2", "nope"], 2)):
            _, err, ended = self.run_instar(*argv, "--report", "/dev/full", cwd=self.tmp)
            self.assertEqual(ended, status)
            self.assertEqual(err.splitlines()[-1], "instar: the report was not written: No space left on device")
        full = os.pipe()
        fcntl.fcntl(full[1], fcntl.F_SETFL, os.O_NONBLOCK)
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(full[1], bytes(1 << 16))
        _, err, ended = self.run_instar("info", "a.qcow2", "--report", f"fd:{full[1]}", cwd=self.tmp, pass_fds=(full[1],))
        self.assertEqual((err, ended), ("instar: the report was not written: Resource temporarily unavailable\n", 1))

    def test_the_configuration(self):
        config = self.path("config.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'[report]\nfile = "{self.tmp}/report"\nformat = "rfc5424"\n')
        out, err, status = self.run_instar("info", "a.qcow2", cwd=self.tmp, env={"INSTAR_CONFIG": config})
        self.assertEqual((err, status), ("", 0), out)
        with open(self.path("report"), encoding="ascii") as file:
            head, pid, line = re.fullmatch(r"(<14>1 \S+Z - instar) ([0-9]+) run - (\{.*\})\n", file.read()).groups()
        found = self.valid(line)
        self.assertEqual((head, int(pid)), (f"<14>1 {found['time']} - instar", found["pid"]))
        with open(config, "w", encoding="utf-8") as file:
            file.write('[report]\nfile = "report"\n')
        _, err, status = self.run_instar("info", "a.qcow2", cwd=self.tmp, env={"INSTAR_CONFIG": config})
        self.assertEqual((err, status), (f"instar: {config}: report.file: 'report' is not an absolute path\n", 1))

    def test_the_command_that_mends_it_goes_on(self):
        env = {"INSTAR_REPORT": self.path("nodir/report")}
        self.assertEqual(self.run_instar("info", "a.qcow2", cwd=self.tmp, env=env)[2], 1)
        _, err, _ = self.run_instar("config", cwd=self.tmp, env=env)
        self.assertIn("cannot be opened: No such file or directory", err)
        home = {"HOME": self.tmp, "XDG_CONFIG_HOME": "", **env}
        _, err, status = self.run_instar("config", "set", "report.file", self.path("report"), cwd=self.tmp, env=home)
        self.assertEqual(status, 0, err)
        with open(self.path(".config/instar/config.toml"), encoding="utf-8") as file:
            self.assertIn(self.path("report"), file.read())

    @unittest.skipUnless(processes.is_root(), "a socket in the place of /dev/log takes root")
    def test_syslog(self):
        """With a socket of the test's own at /dev/log, in a mount namespace of its own."""
        place = self.path("log")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            log.bind(place)
            log.settimeout(30)
            # The test's own files may be below /dev/shm, which stays.
            script = 'mount --bind /dev/shm /mnt && mount -t tmpfs tmpfs /dev && mkdir /dev/shm && mount --bind /mnt /dev/shm && '
            script += 'ln -s "$1" /dev/log && '
            script += 'exec "$0" info --isolation process a.qcow2 --report syslog $2'
            shell = ["unshare", "--mount", "sh", "-c", script, self.get_instar_binary(), place]
            for more, head in (
                ("", r"<14>instar\[([0-9]+)\]: "),
                ("--report-format=rfc5424", r"<14>1 \S+ - instar ([0-9]+) run - "),
            ):
                _, err, status = self.run_tool([*shell, more], cwd=self.tmp)
                self.assertEqual((err, status), ("", 0))
                pid, line = re.fullmatch(head + r"(\{.*\})", log.recv(1 << 16).decode()).groups()
                self.assertEqual(self.valid(line)["pid"], int(pid))
        shell[-1] = self.path("nowhere")
        _, err, status = self.run_tool([*shell, ""], cwd=self.tmp)
        self.assertEqual(status, 1)
        self.assertIn("'syslog' cannot be opened: No such file or directory", err)

    def test_where_the_usage_is_denied_all_else_is_there(self):
        outcome, report = self.reported("info", "a.qcow2", before=lambda: confine.deny(98, error=errno.EPERM))
        self.assertEqual((outcome[1:], report["peak_memory_bytes"], report["exit"]), (("", 0), 0, 0))


del ReportTest
