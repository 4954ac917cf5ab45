#!/usr/bin/env python3
"""Measures instar next to the stock qemu-img on the same files, and writes docs/benchmarks.md: warm ones in memory, and others
on the stores of stores.py.

With `--against OTHER` the other side is another build of instar, and each row says how the two compare.
It asserts nothing: the tables are for people.
"""

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import images
import memory
import plot
import stores
from cases import CASES, SMOKE
from images import MIB
from report import NOISE, Row, report, told

ROOT = Path(__file__).resolve().parent.parent
INSTAR = os.environ.get("INSTAR_BINARY_PATH", str(ROOT / "target/release/instar"))
ROUNDS = 5
# Between two builds a row is looked at again when it differs by more than this, so many times at most.
AGAIN = 4
# Pairs of builds that are measured at first take about so long, in seconds, and are so many at the least and most.
BUDGET, FEWEST, MOST = 1.5, 3, 25


def prepare(program, case, store):
    """What is run, and its output: names are put in, and what it changes is made."""
    folder = store.folder
    inside = store.images if "MEMORY" in case.argv else folder
    out, work = inside / "out.img", folder / "work.img"
    out.unlink(missing_ok=True)
    if case.work:
        subprocess.run(["cp", "--sparse=always", folder / case.work, work], check=True)
    names = {"OUT": str(out), "MEMORY": str(out), "WORK": str(work)}
    store.before_run()
    return [program] + [names.get(a, a) for a in case.argv], out


def run_once(program, case, store, env):
    """Seconds, and the bytes on disk of the output if there is one."""
    argv, out = prepare(program, case, store)
    begin = time.perf_counter()
    # What a repair tells would fill the screen.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    done = subprocess.run(argv, cwd=store.folder, env={**os.environ, **env}, check=False, **quiet)
    seconds = time.perf_counter() - begin
    if done.returncode not in case.statuses:
        said = done.stderr[-500:].decode(errors="replace")
        raise SystemExit(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
    return seconds, out.stat().st_blocks * 512 if out.exists() else 0


def clear(store):
    """Removes what the last run left."""
    for left in ("out.img", "work.img"):
        (store.images / left).unlink(missing_ok=True)


def measure(store, case, isolation, rounds):
    """A row: medians of both tools in turn, and a run of each to see what memory it holds."""
    env = {"INSTAR_ISOLATION": isolation}
    ours, theirs, sizes = [], [], (0, 0)
    rounds = min(rounds, case.rounds)
    # The first warms up, where there is more than one.
    warming = int(rounds > 1)
    for number in range(rounds + warming):
        mine, my_size = run_once(INSTAR, case, store, env)
        stock, stock_size = run_once("qemu-img", case, store, {})
        if number >= warming:
            ours.append(mine)
            theirs.append(stock)
            sizes = (my_size, stock_size)
    size = sizes[0] / sizes[1] if sizes[1] else None
    held = []
    for program in (INSTAR, "qemu-img"):
        argv, _ = prepare(program, case, store)
        held.append(memory.peak(argv, store.folder, {**os.environ, **env}))
    clear(store)
    times = statistics.median(ours), statistics.median(theirs)
    return Row(case.title, isolation, *times, case.goal, size, tuple(held))


def shortest(store, case, env, other, pairs):
    """The least seconds of either build in some pairs: what else runs on the machine only ever adds."""
    least, programs = [float("inf")] * 2, (INSTAR, other)
    for number in range(pairs):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            least[which] = min(least[which], run_once(programs[which], case, store, env)[0])
    return least


def compare_builds(store, case, isolation, other):
    """Least seconds of this build and of the other, measured until they agree or it is no noise; None where the other, an
    older one, cannot do it."""
    env = {"INSTAR_ISOLATION": isolation}
    first = run_once(INSTAR, case, store, env)[0]
    try:
        first += run_once(other, case, store, env)[0]
    except SystemExit:
        return None
    pairs = max(FEWEST, min(MOST, int(BUDGET / first)))
    ours, theirs = shortest(store, case, env, other, pairs)
    for _ in range(AGAIN):
        if ours / theirs < 1 + NOISE:
            break
        more = shortest(store, case, env, other, pairs)
        ours, theirs = min(ours, more[0]), min(theirs, more[1])
    clear(store)
    return ours, theirs


def usable_isolations():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError:
        return ["process"]
    return ["kvm", "process"]


def machine():
    """What the numbers depend on."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    stock = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    load = os.getloadavg()[0]
    return [
        f"- processor: {cpu}, {os.cpu_count()} threads; load before the run {load:.1f}",
        f"- kernel: {platform.release()}",
        f"- stock tool: {stock}",
    ]


def is_wanted(case, only):
    return not only or any(name in case.title for name in only)


def measured(store, cases, size, rounds, against):
    """The rows of one store."""
    rows = []
    for case, isolation in itertools.product(cases, usable_isolations()):
        images.need(store.images, size, [*case.images, *([case.work] if case.work else [])])
        if against:
            both = compare_builds(store, case, isolation, against)
            if both is None:
                print(f"{case.title:<34} {isolation:<8} left out: only one of the two does it", flush=True)
                continue
            ours, theirs = both
            rows.append((case.title, isolation, ours, theirs))
        else:
            rows.append(measure(store, case, isolation, rounds))
            ours, theirs = rows[-1].ours, rows[-1].theirs
        print(f"{case.title:<34} {isolation:<8} {ours:8.4f} s {theirs:8.4f} s {ours / theirs:6.2f}", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="OTHER", help="another build of instar, in place of qemu-img")
    parser.add_argument("--smoke", action="store_true", help="two minutes: a few rows in memory; nothing is written")
    parser.add_argument("--quick", action="store_true", help="a small image and 3 pairs; nothing is written")
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        help="cases whose name has NAME in it (or another NAME); nothing is written",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks.md")
    wanted = parser.parse_args()
    wanted.quick |= wanted.smoke
    size, rounds = (96 * MIB, 3) if wanted.quick else (768 * MIB, ROUNDS)
    about, rows = machine(), []
    for name, why in stores.usable():
        cases = [case for case in CASES if case.store == name and is_wanted(case, wanted.only)]
        cases = [case for case in cases if not wanted.smoke or case.title in SMOKE]
        if why and cases:
            print(f"{name}: left out, {why}", flush=True)
        elif cases:
            opened, part = stores.STORES[name]
            with opened(size // part) as store:
                rows += measured(store, cases, size // part, rounds, wanted.against)
    if wanted.against:
        print(told(rows))
        return 0
    if wanted.quick or wanted.only:
        print(report(rows, about, size, rounds, ""))
    else:
        picture = wanted.output.with_suffix(".svg")
        picture.write_text(plot.svg([(row.title, row.isolation, row.ratio) for row in rows]))
        wanted.output.write_text(report(rows, about, size, rounds, picture.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
