"""`resize`: of the formats that the stock tool resizes."""

from tests.helpers.cases import Case, shown

# name: start, end, options of creation, arguments
QCOW2 = {
    "1M-to-4M": ("1M", "4M", "", []),
    "1M-to-64M": ("1M", "64M", "", []),
    "64M-to-256M": ("64M", "256M", "", []),
    "cs-512": ("1M", "64M", "cluster_size=512", []),
    "cs-4k": ("1M", "64M", "cluster_size=4k", []),
    "cs-1M": ("1M", "64M", "cluster_size=1M", []),
    "rb-1": ("1M", "64M", "refcount_bits=1", []),
    "rb-64": ("1M", "64M", "refcount_bits=64", []),
    "extended-l2": ("1M", "64M", "extended_l2=on", []),
    "compat-v2": ("1M", "64M", "compat=0.10", []),
    "lazy": ("1M", "64M", "lazy_refcounts=on", []),
    "plus-63M": ("1M", "+63M", "", []),
    "minus-32M": ("64M", "-32M", "", ["--shrink"]),
    "shrink": ("64M", "16M", "", ["--shrink"]),
    "prealloc-off": ("1M", "4M", "", ["--preallocation=off"]),
    "prealloc-metadata": ("1M", "4M", "", ["--preallocation=metadata"]),
    "prealloc-falloc": ("1M", "4M", "", ["--preallocation=falloc"]),
    "prealloc-full": ("1M", "4M", "", ["--preallocation=full"]),
    "noop": ("64M", "64M", "", []),
    "no-shrink": ("64M", "1M", "", []),
    "shrink-prealloc": ("64M", "1M", "", ["--shrink", "--preallocation=full"]),
    "odd-size": ("1M", "1000000", "", ["--shrink"]),
    "negative": ("1M", "-2M", "", ["--shrink"]),
    "bad-size": ("1M", "1x", "", []),
    "bad-prealloc": ("1M", "2M", "", ["--preallocation=xx"]),
}
RAW = {
    "1M-to-4M": ("1M", "4M", "", []),
    "1M-to-64M": ("1M", "64M", "", []),
    "plus-1M": ("1M", "+1M", "", []),
    "falloc": ("1M", "4M", "", ["--preallocation=falloc"]),
    "full": ("1M", "4M", "", ["--preallocation=full"]),
    "shrink": ("4M", "1M", "", ["--shrink"]),
    "no-shrink": ("4M", "1M", "", []),
    "metadata": ("1M", "4M", "", ["--preallocation=metadata"]),
    "noop": ("1M", "1M", "", []),
}
QED = {"1M-to-4M": ("1M", "4M", "", []), "64M-to-256M": ("64M", "256M", "", []), "shrink": ("4M", "1M", "", ["--shrink"])}


def _make(target, size, options):
    words = ["-o", options] if options else []
    return lambda make: make.create(target, "image", size, *words)


def _each(target, table):
    for name, (start, end, options, argv) in table.items():
        runs = {
            "text": ["resize", "-f", target, *argv, "image", *(["--", end] if end.startswith("-") else [end])],
            "info-json": shown("image", "-f", target),
        }
        yield Case(name, target, _make(target, start, options), runs, own_layout=True)


CASES = [*_each("qcow2", QCOW2), *_each("raw", RAW), *_each("qed", QED)]
