"""The tables and the plot that come of a run."""

import statistics
from typing import NamedTuple

from images import MIB

# What differs less is noise.
NOISE = 0.04


class Row(NamedTuple):
    """What was measured: seconds of either tool, the ratio that is the goal, size of the output to that of the other's, most
    bytes of memory of either."""

    title: str
    isolation: str
    ours: float
    theirs: float
    goal: float
    size: float | None
    memory: tuple[int, int]

    @property
    def ratio(self):
        return self.ours / self.theirs


def summary(rows):
    """The table in a line for each kind of isolation."""
    lines = []
    for isolation in dict.fromkeys(row.isolation for row in rows):
        here = [row for row in rows if row.isolation == isolation]
        worst = max(here, key=lambda row: row.ratio)
        most = max(here, key=lambda row: row.memory[0])
        mean = statistics.geometric_mean(row.ratio for row in here)
        lines.append(
            f"- {isolation}: {len(here)} rows, geometric mean {mean:.2f}, worst {worst.ratio:.2f} ({worst.title}), "
            f"{sum(row.ratio > row.goal for row in here)} above their goal; "
            f"most memory {most.memory[0] // MIB} MiB ({most.title}), more than the stock tool's in "
            f"{sum(row.memory[0] > row.memory[1] for row in here)}"
        )
    return lines


def report(rows, about, size, rounds, picture):
    lines = [
        "# Benchmarks",
        "",
        *([f"![time of instar to time of qemu-img]({picture})", ""] if picture else []),
        "Written by `make bench`. instar and the stock qemu-img run in turn on the same files, warm ones in memory where no store",
        f"is named; medians of {rounds} pairs (of fewer, where a pair takes long). The image: {size // MIB} MiB, a third holes, a third programs",
        "and libraries, a third random. `3 ms`, `20 ms`: each read and write takes so long, and the page cache is empty (an eighth of",
        "the image at most); `direct`: past the page cache, on the machine's own disk; `xfs`, `btrfs`: in memory, blocks can be shared. A ratio below 1 means that instar is faster; `goal` is the most that it should be.",
        "",
        "Memory: the most that all processes of a tool hold together at a time, in MiB, what they share counted once, seen by",
        "looking again and again in a run of its own: of what takes a few milliseconds it may miss some.",
        "",
        *about,
        *summary(rows),
        "",
        "| what | isolation | instar | qemu-img | ratio | goal | size of output | memory | qemu-img's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        unit = (lambda s: f"{s * 1000:.1f} ms") if row.theirs < 0.1 else (lambda s: f"{s:.2f} s")
        share = f"{row.size:.3f}" if row.size else ""
        memory = " | ".join(f"{bytes_held / MIB:.0f}" for bytes_held in row.memory)
        lines.append(
            f"| {row.title} | {row.isolation} | {unit(row.ours)} | {unit(row.theirs)} | {row.ratio:.2f} | {row.goal:g} "
            f"| {share} | {memory} |"
        )
    return "\n".join(lines) + "\n"


def told(rows):
    """What a comparison of two builds comes to."""
    ratios = [ours / theirs for _, _, ours, theirs in rows]
    slower = [f"{name}, {isolation}: {a / b:.2f}" for name, isolation, a, b in rows if a / b >= 1 + NOISE]
    return "\n".join(
        [
            f"{len(rows)} rows, geometric mean {statistics.geometric_mean(ratios):.3f}, "
            f"least {min(ratios):.2f}, most {max(ratios):.2f}; slower by more than {NOISE:.0%}: {len(slower)}",
            *slower,
        ]
    )
