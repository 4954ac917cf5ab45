"""Every row as a ratio to the stock tool's time: an SVG that docs/benchmarks.md begins with."""

import math
from html import escape

WIDTH, LEFT, RIGHT, TOP, ROW = 900, 300, 40, 46, 15
# The ends of the axis, and where it has lines.
LEAST, MOST = 0.02, 2.0
MARKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
COLOURS = {"kvm": "#1f6fb2", "process": "#d1701f"}
FONT = 'font-family="sans-serif" font-size="11"'


def place(ratio):
    """Where a ratio stands on the axis."""
    part = math.log(min(max(ratio, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def svg(rows):
    """`rows`: name, isolation and ratio, those of a name behind each other."""
    names = list(dict.fromkeys(name for name, _, _ in rows))
    height = TOP + ROW * len(names) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="14">time of instar / time of qemu-img: further left is faster</text>',
    ]
    for number, (isolation, colour) in enumerate(COLOURS.items()):
        at = WIDTH - RIGHT - 150 + 80 * number
        out.append(f'<circle cx="{at}" cy="10" r="4" fill="{colour}"/><text x="{at + 8}" y="14">{isolation}</text>')
    for mark in MARKS:
        at = place(mark)
        colour = "#444" if mark == 1 else "#ccc"
        out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{height - 6}" stroke="{colour}"/>')
        out.append(f'<text x="{at:.1f}" y="{TOP - 14}" text-anchor="middle">{mark:g}</text>')
    for number, name in enumerate(names):
        middle = TOP + ROW * number + ROW / 2
        out.append(f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>')
        for same, isolation, ratio in rows:
            if same == name:
                out.append(f'<circle cx="{place(ratio):.1f}" cy="{middle}" r="4" fill="{COLOURS[isolation]}"/>')
    return "\n".join([*out, "</svg>"]) + "\n"
