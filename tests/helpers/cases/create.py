"""`create`: the line that it prints, and the image that it makes."""

from tests.helpers.cases import NO_PARALLELS, NO_ZSTD, Case, shown

QCOW2 = {
    "1M-default": ("1M", ""),
    "64M-default": ("64M", ""),
    "1G-default": ("1G", ""),
    "1G-cs-512": ("1G", "cluster_size=512"),
    "1G-cs-4k": ("1G", "cluster_size=4k"),
    "1G-cs-64k": ("1G", "cluster_size=64k"),
    "1G-cs-1M": ("1G", "cluster_size=1M"),
    "1G-cs-2M": ("1G", "cluster_size=2M"),
    "1G-rb-1": ("1G", "refcount_bits=1"),
    "1G-rb-8": ("1G", "refcount_bits=8"),
    "1G-rb-64": ("1G", "refcount_bits=64"),
    "1G-extended-l2": ("1G", "extended_l2=on"),
    "64M-extended-l2": ("64M", "extended_l2=on"),
    "1G-compat-v2": ("1G", "compat=0.10"),
    "1G-lazy-refcounts": ("1G", "lazy_refcounts=on"),
    "1G-zstd": ("1G", "compression_type=zstd"),
    "1M-prealloc-metadata": ("1M", "preallocation=metadata"),
    "1M-prealloc-falloc": ("1M", "preallocation=falloc"),
    "1M-prealloc-full": ("1M", "preallocation=full"),
    "1M-data-file": ("1M", "data_file=data.raw"),
    "1M-data-file-raw": ("1M", "data_file=data.raw,data_file_raw=on"),
    "empty": ("0", ""),
    "odd-size": ("1000000", ""),
    "no-such-option": ("1M", "nosuch=1"),
    "bad-cluster-size": ("1M", "cluster_size=3k"),
    "bad-refcount-bits": ("1M", "refcount_bits=3"),
    "bad-number": ("1M", "refcount_bits=x"),
    "bad-compat": ("1M", "compat=2.0"),
    "bad-preallocation": ("1M", "preallocation=xx"),
    "bad-compression-type": ("1M", "compression_type=xx"),
    "v2-wide-refcounts": ("1M", "compat=0.10,refcount_bits=8"),
    "too-large": ("1E", ""),
    "bad-size": ("1x", ""),
    "negative-size": ("-1", ""),
}
RAW = {
    "1M-default": ("1M", ""),
    "1G-default": ("1G", ""),
    "1M-falloc": ("1M", "preallocation=falloc"),
    "1M-full": ("1M", "preallocation=full"),
    "1M-metadata": ("1M", "preallocation=metadata"),
    "odd-size": ("1000", ""),
    "empty": ("0", ""),
    "fraction": ("1.5M", ""),
    "bad-size": ("1GiB", ""),
    "exponent": ("1e3", ""),
}
VMDK = {
    "1M-default": ("1M", ""),
    "64M-default": ("64M", ""),
    "1G-default": ("1G", ""),
    "1M-stream-optimized": ("1M", "subformat=streamOptimized"),
    "1M-monolithic-sparse": ("1M", "subformat=monolithicSparse"),
    "1M-monolithic-flat": ("1M", "subformat=monolithicFlat"),
    "1M-compat6": ("1M", "compat6=on"),
    "bad-subformat": ("1M", "subformat=xx"),
    "bad-adapter": ("1M", "adapter_type=xx"),
}
VPC = {
    "1M-default": ("1M", ""),
    "64M-default": ("64M", ""),
    "1G-default": ("1G", ""),
    "1M-fixed": ("1M", "subformat=fixed"),
    "16M-fixed": ("16M", "subformat=fixed"),
    "1M-force-size": ("1M", "force_size=on"),
    "too-large": ("3T", ""),
    "bad-subformat": ("1M", "subformat=xx"),
}
VHDX = {
    "1M-default": ("1M", ""),
    "64M-default": ("64M", ""),
    "1G-default": ("1G", ""),
    "1G-block-16M": ("1G", "block_size=16M"),
    "1G-block-32M": ("1G", "block_size=32M"),
    "16M-fixed": ("16M", "subformat=fixed"),
    "bad-block-size": ("1M", "block_size=3M"),
    "too-large": ("65T", ""),
}
OTHERS = {
    "vdi": {"1M-default": ("1M", ""), "1M-static": ("1M", "static=on"), "odd-size": ("1000000", "")},
    "qcow": {"1M-default": ("1M", ""), "1G-default": ("1G", "")},
    "qed": {
        "1M-default": ("1M", ""),
        "1G-default": ("1G", ""),
        "1M-cs-4k": ("1M", "cluster_size=4k"),
        "1M-table-1": ("1M", "table_size=1"),
        "bad-cluster-size": ("1M", "cluster_size=3k"),
        "bad-table-size": ("1M", "table_size=3"),
    },
    "parallels": {"1M-default": ("1M", ""), "1M-cs-64k": ("1M", "cluster_size=64k"), "too-large": ("1P", "")},
}
BACKED = {
    "backed-raw": ["-b", "base.raw", "-F", "raw", "image"],
    "backed-qcow2": ["-b", "base.qcow2", "-F", "qcow2", "image", "5M"],
    "backed-unnamed-format": ["-b", "base.raw", "image"],
    "backed-unnamed-qcow2": ["-b", "base.qcow2", "image"],
    "backed-unopened": ["-u", "-b", "nope", "-F", "raw", "image", "1M"],
    "backed-unopened-unnamed": ["-u", "-b", "nope", "image", "1M"],
    "backed-unopened-no-size": ["-u", "-b", "nope", "-F", "raw", "image"],
    "backing-missing": ["-b", "nope", "-F", "raw", "image", "1M"],
    "backing-unknown-format": ["-b", "base.raw", "-F", "nosuch", "image"],
    "backing-wrong-format": ["-b", "base.raw", "-F", "qcow2", "image"],
    "backing-unopened-unknown-format": ["-u", "-b", "base.raw", "-F", "nosuch", "image", "1M"],
    "backing-itself": ["-b", "image", "-F", "raw", "image"],
    "no-size": ["image"],
    "no-name": [],
    "too-many": ["image", "1M", "more"],
    "quiet": ["-q", "image", "1M"],
}


# Why a case is not about a release.
UNREADABLE = "it makes images that it cannot open"


def _nothing(make):
    pass


def _bases(make):
    make.create("raw", "base.raw", "2M")
    make.create("qcow2", "base.qcow2", "3M")


def _plain(target, table):
    for name, (size, options) in table.items():
        words = ["-o", options] if options else []
        argv = ["create", "-f", target, *words, "image", *(["--", size] if size.startswith("-") else [size])]
        without = NO_PARALLELS if target == "parallels" else NO_ZSTD if "zstd" in options else {}
        if (target, name) == ("parallels", "too-large"):
            without = {**without, "7.2": UNREADABLE, "10.0": UNREADABLE}
        runs = {"text": argv, "info-json": shown("image", "-f", target)}
        yield Case(name, target, _nothing, runs, without)


CASES = [
    *_plain("qcow2", QCOW2),
    *_plain("raw", RAW),
    *_plain("vmdk", VMDK),
    *_plain("vpc", VPC),
    *_plain("vhdx", VHDX),
    *(case for target, table in OTHERS.items() for case in _plain(target, table)),
    *(
        Case(name, "qcow2", _bases, {"text": ["create", "-f", "qcow2", *argv], "info-json": shown("image")})
        for name, argv in BACKED.items()
    ),
    *(
        Case(f"{name}-help", target, _nothing, {"text": ["create", "-f", target, "-o", "help", *file]}, without)
        for target, without in (
            *((t, {}) for t in ("raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "qcow", "qed", "luks", "bochs")),
            ("parallels", NO_PARALLELS),
        )
        for name, file in (("option", []), ("file-option", ["image"]))
    ),
]
