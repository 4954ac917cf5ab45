"""The most memory that a program and its children hold at a time."""

import subprocess
import time

# Between two looks, in seconds.
STEP = 0.0005


def children(pid):
    """All below it, itself first."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as listed:
            below = [int(number) for number in listed.read().split()]
    except OSError:
        below = []
    return [pid, *(other for child in below for other in children(child))]


def held(pid):
    """Bytes: what several processes share counts once."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            sizes = (line.split() for line in rollup)
            return sum(int(fields[1]) << 10 for fields in sizes if fields[0] == "Pss:")
    except OSError:
        # It has ended, or has not begun.
        return 0


def peak(argv, folder, env):
    """Runs it in that folder; the most bytes that were seen. (What the kernel accounts to a child that has ended has its
    parent's memory in it.)"""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    program = subprocess.Popen(argv, cwd=folder, env=env, **quiet)
    most = 0
    while program.poll() is None:
        most = max(most, sum(held(each) for each in children(program.pid)))
        time.sleep(STEP)
    return most
