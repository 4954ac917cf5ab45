"""`measure`: of sizes and of images, for every target that the stock tool measures."""

from tests.helpers.cases import Case
from tests.helpers.cases._images import image_cases

SIZES = ("0", "1", "512", "1M", "65M", "1G", "10G", "1T", "100T")
OPTIONS = {
    "raw": ("",),
    "qcow2": (
        "",
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=2M",
        "compat=0.10",
        "extended_l2=on",
        "refcount_bits=1",
        "refcount_bits=64",
        "preallocation=metadata",
        "preallocation=full",
    ),
}
REFUSED = ("vmdk", "vpc", "vhdx", "vdi", "qed", "qcow", "nosuch")


def _nothing(make):
    pass


def _runs(target, option, *rest):
    words = ["measure", "-O", target, *(["-o", option] if option else []), *rest]
    return {"human": words, "json": [words[0], "--output=json", *words[1:]]}


def _name(size, option):
    return f"size-{size}{'-' if option else ''}{option}".replace("=", "-").replace("_", "-").replace(".", "-")


CASES = [
    *(
        Case(_name(size, option), target, _nothing, _runs(target, option, "--size", size))
        for target, options in OPTIONS.items()
        for option in options
        for size in SIZES
    ),
    *(Case("refused", target, _nothing, _runs(target, "", "--size", "1M")) for target in REFUSED),
    *image_cases(
        {
            "raw-human": ["measure"],
            "raw-json": ["measure", "-O", "raw", "--output=json"],
            "qcow2-human": ["measure", "-O", "qcow2"],
            "qcow2-json": ["measure", "-O", "qcow2", "-o", "cluster_size=4k", "--output=json"],
        }
    ),
]
