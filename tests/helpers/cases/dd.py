"""`dd`: parts of images into images."""

from tests.helpers.cases import Case, shown

ROWS = {
    "default": [],
    "bs-1": ["bs=1", "count=3000"],
    "bs-1000": ["bs=1000"],
    "bs-1M": ["bs=1M"],
    "bs-largest": ["bs=2147483647", "count=1"],
    "bs-too-large": ["bs=2147483648"],
    "bs-zero": ["bs=0"],
    "count": ["bs=64k", "count=5"],
    "count-zero": ["count=0"],
    "count-behind-end": ["bs=1M", "count=100"],
    "skip": ["bs=64k", "skip=7"],
    "skip-count": ["bs=64k", "skip=7", "count=3"],
    "skip-behind-end": ["bs=1M", "skip=100"],
    "unknown-operand": ["seek=1"],
    "no-value": ["bs"],
    "bad-number": ["count=x"],
}


def _image(fmt):
    return lambda make: make.convert(fmt, "in", 2 << 20) if fmt != "raw" else make.raw("in", 2 << 20)


def _cases():
    for name, operands in ROWS.items():
        for source, target in (("raw", "raw"), ("qcow2", "raw"), ("raw", "qcow2"), ("qcow2", "vpc")):
            argv = ["dd", "-f", source, "-O", target, "if=in", "of=out", *operands]
            runs = {"text": argv, "info-json": shown("out", "-f", target), "compare": ["compare", "-F", target, "in", "out"]}
            yield Case(f"{name}-from-{source}", target, _image(source), runs, own_layout=True)


CASES = [
    *_cases(),
    Case("no-input", "raw", lambda make: None, {"text": ["dd", "of=out"]}),
    Case("input-missing", "raw", lambda make: None, {"text": ["dd", "if=nope", "of=out"]}),
]
