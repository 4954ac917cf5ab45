"""`compare`: equal and different images of the same and of other formats."""

from tests.helpers.cases import NO_PARALLELS, Case

FORMATS = ("raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "qed", "qcow", "parallels")


def _both(fmt, change=(), size=None):
    def setup(make):
        make.raw("a", 2 << 20)
        make.img("convert", "-f", "raw", "-O", fmt, "a", "b")
        if size:
            make.img("resize", "-q", "-f", fmt, *(["--shrink"] if size == "1M" else []), "b", size)
        if change:
            make.io(fmt, "b", *change)

    return setup


def _runs(fmt):
    words = ["-f", "raw", "-F", fmt, "a", "b"]
    return {
        "human": ["compare", *words],
        "strict-human": ["compare", "-s", *words],
        "progress-human": ["compare", "-q", *words],
    }


CASES = [
    *(
        Case(name, fmt, _both(fmt, change), _runs(fmt), NO_PARALLELS if fmt == "parallels" else {})
        for fmt in FORMATS
        for name, change in {
            "equal": (),
            "first-sector": ("write -P 77 0 512",),
            "middle": ("write -P 77 1M 64k",),
            "last-sector": ("write -P 77 2096640 512",),
        }.items()
    ),
    *(
        Case(name, fmt, _both(fmt, change, size), _runs(fmt))
        for fmt in ("raw", "qcow2")
        for name, change, size in (
            ("longer", (), "3M"),
            ("longer-with-data", ("write -P 77 2500k 64k",), "3M"),
            ("shorter", (), "1M"),
        )
    ),
    Case("missing", "raw", lambda make: make.raw("a", 1 << 20), {"human": ["compare", "a", "nope"]}),
    Case("no-names", "raw", lambda make: None, {"human": ["compare"]}),
]
