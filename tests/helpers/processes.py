"""What the kernel says of a command's processes while it works."""

import contextlib
import os
import subprocess
import time
from pathlib import Path


def children(pid):
    """Its child processes."""
    names = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in names for child in (task / "children").read_text().split()]


def status(pid, task=None):
    """Fields of /proc/PID/status, or of one of its threads."""
    where = f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status"
    return dict(line.split(":\t", 1) for line in Path(where).read_text().splitlines() if ":\t" in line)


def maps(pid):
    """(start, end, rights, name) of its mappings."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        start, end = (int(n, 16) for n in words[0].split("-"))
        yield start, end, words[1], words[5] if len(words) > 5 else ""


def runs_a_guest(pid):
    """Whether it is a sandbox: the guest's text lies at its own address."""
    return any(start == 0x400000 and "x" in rights for start, _, rights, _ in maps(pid))


def holds(pid, needle):
    """Where in its memory these bytes lie: the names of the mappings. A virtual machine's memory has none, but is the only
    large one; its beginning, where the pages are small, is a mapping of its own."""
    large = 48 << 20
    found = []
    all_of_them = list(maps(pid))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for (start, end, rights, name), after in zip(all_of_them, [*all_of_them[1:], (0, 0, "", "")], strict=True):
            if "r" not in rights or name in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
                continue
            with contextlib.suppress(OSError):
                memory.seek(start)
                if needle in memory.read(end - start):
                    machine = not name and (end - start >= large or (after[0] == end and after[1] - end >= large))
                    found.append("the guest's memory" if machine or "instar-guest" in name else name or f"{start:x}")
    return found


@contextlib.contextmanager
def at_work(argv, ready, **kwargs):
    """Runs a command and stops it once `ready(process)` is true: what it has then can be looked at in peace."""
    with subprocess.Popen(
        [str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **kwargs
    ) as process:
        try:
            until = time.monotonic() + 60
            while not ready(process):
                if process.poll() is not None or time.monotonic() > until:
                    raise AssertionError(f"it never came so far: {process.poll()} {process.stderr.read()!r}")
                time.sleep(0.01)
            yield process
        finally:
            process.kill()
            process.wait()


def is_root():
    """Other processes may be looked at."""
    return os.geteuid() == 0
