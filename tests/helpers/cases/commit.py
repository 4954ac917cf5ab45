"""`commit`: into the parent and deeper, into each format that the stock tool commits into."""

from tests.helpers.cases import Case, shown

BOTH = {"overlay-info-json": shown("overlay"), "backing-info-json": shown("base")}


def _chain(base, size="1M", base_size=1 << 20, overlay="qcow2", options="", writes=("write -P 5 64k 200k",)):
    def setup(make):
        make.raw("base", base_size) if base == "raw" else make.convert(base, "base", base_size)
        words = ["-o", options] if options else []
        make.create(overlay, "overlay", size, "-b", "base", "-F", base, *words)
        if writes:
            make.io(overlay, "overlay", *writes)

    return setup


def _three(make):
    _chain("raw")(make)
    make.img("rebase", "-q", "-u", "-b", "base", "-F", "raw", "overlay")
    make.create("qcow2", "top", "1M", "-b", "overlay", "-F", "qcow2")
    make.io("qcow2", "top", "write -P 6 128k 300k")


def _runs(*argv):
    return {"text": ["commit", *argv, "overlay"], **BOTH}


CASES = [
    Case("1M-default", "qcow2", _chain("qcow2"), _runs(), own_layout=True),
    Case("1M-nothing-written", "qcow2", _chain("qcow2", writes=()), _runs(), own_layout=True),
    Case("1M-keep-overlay", "qcow2", _chain("qcow2"), _runs("-d"), own_layout=True),
    Case("1M-quiet", "qcow2", _chain("qcow2"), _runs("-q"), own_layout=True),
    Case("1M-format-given", "qcow2", _chain("qcow2"), _runs("-f", "qcow2"), own_layout=True),
    Case("1M-base-named", "qcow2", _chain("qcow2"), _runs("-b", "base"), own_layout=True),
    Case("1M-base-unknown", "qcow2", _chain("qcow2"), _runs("-b", "nope"), own_layout=True),
    Case("larger-overlay", "qcow2", _chain("qcow2", "4M", writes=("write -P 5 3M 64k",)), _runs(), own_layout=True),
    Case("smaller-overlay", "qcow2", _chain("qcow2", "512k", writes=("write -P 5 64k 64k",)), _runs(), own_layout=True),
    Case("4k-clusters", "qcow2", _chain("qcow2", options="cluster_size=4k"), _runs(), own_layout=True),
    Case("into-raw", "raw", _chain("raw"), _runs(), own_layout=True),
    Case("into-raw-larger", "raw", _chain("raw", "2M", writes=("write -P 5 1500k 64k",)), _runs(), own_layout=True),
    Case("into-vmdk", "vmdk", _chain("vmdk"), _runs(), own_layout=True),
    Case("into-vpc", "vpc", _chain("vpc", "2M", 2 << 20), _runs(), own_layout=True),
    Case("into-vdi", "vdi", _chain("vdi"), _runs(), own_layout=True),
    Case("into-vhdx", "vhdx", _chain("vhdx"), _runs(), own_layout=True),
    Case("from-qed", "qed", _chain("raw", overlay="qed"), _runs(), own_layout=True),
    Case("no-parent", "qcow2", lambda make: make.create("qcow2", "overlay", "1M"), {"text": ["commit", "overlay"]}),
    Case("raw", "raw", lambda make: make.create("raw", "overlay", "1M"), {"text": ["commit", "overlay"]}),
    Case("missing", "qcow2", lambda make: None, {"text": ["commit", "overlay"]}),
    *(
        Case(name, "qcow2", _three, {"text": ["commit", *argv, "top"], "top-info-json": shown("top"), **BOTH}, own_layout=True)
        for name, argv in {"deeper": ["-b", "base"], "direct": [], "direct-named": ["-b", "overlay"]}.items()
    ),
]
