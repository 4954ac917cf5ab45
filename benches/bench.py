#!/usr/bin/env python3
"""Measures instar next to the stock qemu-img on the same warm files in memory, and writes docs/benchmarks.md.

It asserts nothing: the table is for people.
"""

import argparse
import itertools
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTAR = os.environ.get("INSTAR_BINARY_PATH", str(ROOT / "target/release/instar"))
MIB = 1 << 20
PIECE = 4 * MIB
ROUNDS = 7

# Name, arguments, and the most of qemu-img's time it may take.
CASES = [
    ("info", ["info", "plain.qcow2"], 1.0),
    ("info, chain of 3", ["info", "--backing-chain", "top.qcow2"], 1.0),
    ("qcow2 -> raw", ["convert", "-O", "raw", "plain.qcow2", "OUT"], 0.8),
    ("raw -> qcow2", ["convert", "-f", "raw", "-O", "qcow2", "plain.raw", "OUT"], 0.8),
    ("raw -> qcow2 -c zlib", ["convert", "-f", "raw", "-c", "-O", "qcow2", "plain.raw", "OUT"], 0.5),
    (
        "raw -> qcow2 -c zstd",
        ["convert", "-f", "raw", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "plain.raw", "OUT"],
        0.5,
    ),
    ("qcow2 zlib -> raw", ["convert", "-O", "raw", "zlib.qcow2", "OUT"], 0.6),
    ("qcow2 zstd -> raw", ["convert", "-O", "raw", "zstd.qcow2", "OUT"], 0.6),
    ("chain of 3 -> raw", ["convert", "-O", "raw", "top.qcow2", "OUT"], 0.8),
]


def binaries():
    """Bytes of real programs and libraries, one file after the other."""
    files = itertools.chain(Path("/usr/lib/x86_64-linux-gnu").glob("*.so*"), Path("/usr/bin").iterdir())
    for path in sorted(f for f in files if f.is_file() and not f.is_symlink()):
        try:
            yield path.read_bytes()
        except OSError:
            continue


def pieces(count):
    """`count` pieces of binaries; they repeat when the machine has fewer."""
    made, buffer = 0, bytearray()
    while made < count:
        before = made
        for data in binaries():
            buffer += data
            while len(buffer) >= PIECE and made < count:
                yield bytes(buffer[:PIECE])
                del buffer[:PIECE]
                made += 1
            if made == count:
                return
        if made == before and not buffer:
            raise SystemExit("no programs in /usr to fill the image with")


def make_images(folder, size):
    """A third holes, a third binaries, a third random, in turn."""
    rng = random.Random(2)
    real = pieces(size // PIECE // 3 + 1)
    with open(folder / "plain.raw", "wb") as file:
        file.truncate(size)
        for index in range(size // PIECE):
            if index % 3:
                file.seek(index * PIECE)
                file.write(next(real) if index % 3 == 1 else rng.randbytes(PIECE))

    def tool(*argv):
        subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "plain.raw", "plain.qcow2")
    for kind in ("zlib", "zstd"):
        kinds = ["-o", f"compression_type={kind}"]
        tool("qemu-img", "convert", "-f", "raw", "-c", "-O", "qcow2", *kinds, "plain.raw", f"{kind}.qcow2")
    for below, above, pattern in (("plain", "middle", 0x11), ("middle", "top", 0x22)):
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{below}.qcow2", "-F", "qcow2", f"{above}.qcow2")
        writes = [f"write -q -P {pattern} {offset}M 1M" for offset in range(pattern % 7, size // MIB - 1, 16)]
        tool("qemu-io", "-f", "qcow2", *itertools.chain.from_iterable(("-c", w) for w in writes), f"{above}.qcow2")


def run_once(program, argv, folder, env):
    """Seconds, and the bytes on disk of the output if there is one."""
    out = folder / "out.img"
    out.unlink(missing_ok=True)
    argv = [program] + [str(out) if a == "OUT" else a for a in argv]
    begin = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, env={**os.environ, **env}, stdout=subprocess.DEVNULL, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit status {done.returncode}")
    return seconds, out.stat().st_blocks * 512 if out.exists() else 0


def measure(folder, argv, isolation, rounds):
    """Medians of both tools in turn: (ours, theirs, our size / their size)."""
    env = {"INSTAR_ISOLATION": isolation}
    ours, theirs, sizes = [], [], (0, 0)
    for number in range(rounds + 1):
        mine, my_size = run_once(INSTAR, argv, folder, env)
        stock, stock_size = run_once("qemu-img", argv, folder, {})
        if number:  # the first warms up
            ours.append(mine)
            theirs.append(stock)
            sizes = (my_size, stock_size)
    (folder / "out.img").unlink(missing_ok=True)
    return statistics.median(ours), statistics.median(theirs), sizes[0] / sizes[1] if sizes[1] else None


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


def report(rows, about, size, rounds):
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. instar and the stock qemu-img run in turn on the same warm files in memory;",
        f"medians of {rounds} pairs. The image: {size // MIB} MiB, a third holes, a third programs and libraries,",
        "a third random. A ratio below 1 means that instar is faster; `goal` is the most that it should be.",
        "",
        *about,
        "",
        "| what | isolation | instar | qemu-img | ratio | goal | size of output |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, isolation, ours, theirs, goal, sizes in rows:
        unit = (lambda s: f"{s * 1000:.1f} ms") if theirs < 0.1 else (lambda s: f"{s:.2f} s")
        share = f"{sizes:.3f}" if sizes else ""
        lines.append(
            f"| {name} | {isolation} | {unit(ours)} | {unit(theirs)} | {ours / theirs:.2f} | {goal:.1f} | {share} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small image and 3 pairs; nothing is written")
    parser.add_argument("--only", metavar="NAME", help="cases whose name has NAME in it; nothing is written")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks.md")
    wanted = parser.parse_args()
    size, rounds = (96 * MIB, 3) if wanted.quick else (768 * MIB, ROUNDS)
    about = machine()
    room = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 5 * size else None
    rows = []
    with tempfile.TemporaryDirectory(prefix="instar-bench.", dir=room) as name:
        folder = Path(name)
        make_images(folder, size)
        for case, argv, goal in CASES:
            if wanted.only and wanted.only not in case:
                continue
            for isolation in usable_isolations():
                ours, theirs, sizes = measure(folder, argv, isolation, rounds)
                rows.append((case, isolation, ours, theirs, goal, sizes))
                print(f"{case:<24} {isolation:<8} {ours:8.4f} s {theirs:8.4f} s {ours / theirs:6.2f}", flush=True)
    text = report(rows, about, size, rounds)
    if wanted.quick or wanted.only:
        print(text)
    else:
        wanted.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
