"""`rebase`: qcow2 and qed overlays, and what is refused."""

from tests.helpers.cases import Case, shown

# name: overlay, its size, new backing file, its size, arguments
QCOW2 = {
    "1M-unsafe-to-default-parent": ("1M", "next.qcow2", "1M", ["-u", "-b", "next.qcow2", "-F", "qcow2"]),
    "1M-unsafe-to-larger-parent": ("1M", "next.qcow2", "64M", ["-u", "-b", "next.qcow2", "-F", "qcow2"]),
    "1M-unsafe-detach": ("1M", "next.qcow2", "1M", ["-u", "-b", ""]),
    "64M-unsafe-to-default-parent": ("64M", "next.qcow2", "1M", ["-u", "-b", "next.qcow2", "-F", "qcow2"]),
    "1M-safe-to-default-parent": ("1M", "next.qcow2", "1M", ["-b", "next.qcow2", "-F", "qcow2"]),
    "1M-safe-to-larger-parent": ("1M", "next.qcow2", "4M", ["-b", "next.qcow2", "-F", "qcow2"]),
    "64M-safe-to-smaller-parent": ("64M", "next.qcow2", "1M", ["-b", "next.qcow2", "-F", "qcow2"]),
    "1M-safe-detach": ("1M", "next.qcow2", "1M", ["-b", ""]),
    "1M-safe-to-raw": ("1M", "next.raw", "1M", ["-b", "next.raw", "-F", "raw"]),
    "1M-unsafe-to-raw": ("1M", "next.raw", "1M", ["-u", "-b", "next.raw", "-F", "raw"]),
    "1M-unsafe-no-format": ("1M", "next.raw", "1M", ["-u", "-b", "next.raw"]),
    "1M-safe-no-format": ("1M", "next.qcow2", "1M", ["-b", "next.qcow2"]),
    "1M-unsafe-unknown-format": ("1M", "next.qcow2", "1M", ["-u", "-b", "next.qcow2", "-F", "nosuch"]),
    "1M-safe-unknown-format": ("1M", "next.qcow2", "1M", ["-b", "next.qcow2", "-F", "nosuch"]),
    "1M-safe-missing-parent": ("1M", "next.qcow2", "1M", ["-b", "nope.qcow2", "-F", "qcow2"]),
    "1M-unsafe-missing-parent": ("1M", "next.qcow2", "1M", ["-u", "-b", "nope.qcow2", "-F", "qcow2"]),
    "1M-no-parent-given": ("1M", "next.qcow2", "1M", []),
    "1M-unsafe-longer-name": ("1M", "next.qcow2", "1M", ["-u", "-b", "./" * 100 + "next.qcow2", "-F", "qcow2"]),
    "1M-unsafe-longest-name": ("1M", "next.qcow2", "1M", ["-u", "-b", "n" * 1023, "-F", "qcow2"]),
    "1M-unsafe-too-long-name": ("1M", "next.qcow2", "1M", ["-u", "-b", "n" * 1024, "-F", "qcow2"]),
    "1M-progress": ("1M", "next.qcow2", "1M", ["-q", "-b", "next.qcow2", "-F", "qcow2"]),
}


def _chain(target, size, parent, parent_size):
    def setup(make):
        make.convert("qcow2", "base.qcow2", 1 << 20)
        make.create(target, "overlay", size, "-b", "base.qcow2", "-F", "qcow2")
        make.io(target, "overlay", "write -P 17 64k 100k")
        fmt = parent.rsplit(".", 1)[1]
        make.create(fmt, parent, parent_size)
        make.io(fmt, parent, "write -P 18 128k 300k")

    return setup


def _alone(target):
    return lambda make: (make.create(target, "overlay", "1M"), make.create("raw", "next.raw", "1M"))


def _runs(target, argv):
    return {"text": ["rebase", "-f", target, *argv, "overlay"], "info-json": shown("overlay", "-f", target)}


CASES = [
    *(
        Case(name, "qcow2", _chain("qcow2", size, parent, parent_size), _runs("qcow2", argv), own_layout=True)
        for name, (size, parent, parent_size, argv) in QCOW2.items()
    ),
    *(
        Case(name, "qed", _chain("qed", *QCOW2[name][:3]), _runs("qed", QCOW2[name][3]), own_layout=True)
        for name in ("1M-unsafe-to-default-parent", "1M-unsafe-detach", "1M-safe-to-default-parent", "1M-safe-detach")
    ),
    *(
        Case(name, "qcow2", _alone("qcow2"), _runs("qcow2", argv), own_layout=True)
        for name, argv in {
            "gains-a-parent": ["-b", "next.raw", "-F", "raw"],
            "gains-a-parent-unsafe": ["-u", "-b", "next.raw", "-F", "raw"],
            "nothing-to-detach": ["-b", ""],
        }.items()
    ),
    Case("overlay-missing", "qcow2", lambda make: None, {"text": ["rebase", "-u", "-b", "x", "-F", "raw", "overlay"]}),
    *(
        Case(f"refused-{mode}", "raw", _alone("raw"), _runs("raw", [*flags, "-b", "next.raw", "-F", "raw"]))
        for mode, flags in (("unsafe", ["-u"]), ("safe", []))
    ),
]
