"""`bitmap`: persistent bitmaps, added, given up, cleared, switched and merged."""

from tests.helpers.cases import NO_PARALLELS, Case, shown

SIZE = "4M"
# Options of creation that an image with bitmaps may have.
OPTIONS = {
    "cs-512": "cluster_size=512",
    "cs-4k": "cluster_size=4k",
    "cs-2M": "cluster_size=2M",
    "extended-l2": "extended_l2=on",
    "rb-1": "refcount_bits=1",
    "rb-64": "refcount_bits=64",
    "lazy": "lazy_refcounts=on",
}
# name: arguments with the image's name and the bitmap's; the image has `first`, `second` and `still`, `other` has `far`.
ACTIONS = {
    "none": ["image", "first"],
    "add": ["--add", "image", "new"],
    "add-granularity": ["--add", "-g", "512", "image", "new"],
    "add-granularity-2G": ["--add", "-g", "2G", "image", "new"],
    "add-granularity-0": ["--add", "-g", "0", "image", "new"],
    "add-granularity-32-bits": ["--add", "-g", "4294971392", "image", "new"],
    "add-granularity-odd": ["--add", "-g", "1000", "image", "new"],
    "add-granularity-small": ["--add", "-g", "256", "image", "new"],
    "add-granularity-4G": ["--add", "-g", "4G", "image", "new"],
    "add-granularity-negative": ["--add", "-g", "-1", "image", "new"],
    "add-granularity-bad": ["--add", "-g", "x", "image", "new"],
    "add-there": ["--add", "image", "first"],
    "add-empty-name": ["--add", "image", ""],
    "add-long-name": ["--add", "image", "n" * 1023],
    "add-name-too-long": ["--add", "image", "n" * 1024],
    "add-utf8": ["--add", "image", "ä€"],
    "add-disabled": ["--add", "--disable", "image", "new"],
    "add-merged": ["--add", "--merge", "first", "--merge", "second", "--disable", "image", "new"],
    "add-twice": ["--add", "--add", "image", "new"],
    "remove": ["--remove", "image", "first"],
    "remove-missing": ["--remove", "image", "nosuch"],
    "remove-and-clear": ["--remove", "--clear", "image", "first"],
    "clear": ["--clear", "image", "first"],
    "clear-missing": ["--clear", "image", "nosuch"],
    "clear-granularity": ["--clear", "-g", "4k", "image", "first"],
    "enable": ["--enable", "image", "still"],
    "enable-missing": ["--enable", "image", "nosuch"],
    "disable": ["--disable", "image", "first"],
    "disable-missing": ["--disable", "image", "nosuch"],
    "on-and-off": ["--disable", "--enable", "--disable", "image", "first"],
    "merge": ["--merge", "first", "image", "second"],
    "merge-itself": ["--merge", "first", "image", "first"],
    "merge-missing": ["--merge", "nosuch", "image", "first"],
    "merge-into-missing": ["--merge", "first", "image", "nosuch"],
    "merge-other": ["--merge", "far", "-b", "other", "-F", "qcow2", "image", "first"],
    "merge-other-probed": ["--merge", "far", "-b", "other", "image", "second"],
    "merge-other-missing": ["--merge", "far", "-b", "absent", "image", "first"],
    "merge-other-format": ["--merge", "far", "-b", "other", "-F", "nosuch", "image", "first"],
    "merge-other-same": ["--merge", "second", "-b", "image", "image", "first"],
    "merge-longer": ["--merge", "far", "-b", "longer", "image", "first"],
    "file-without-merge": ["--clear", "-b", "other", "image", "first"],
    "format-without-file": ["--merge", "first", "-F", "raw", "image", "second"],
    "image-opts": ["--add", "--image-opts", "driver=qcow2,file.filename=image", "new"],
    "image-opts-and-format": ["--add", "--image-opts", "-f", "qcow2", "image", "new"],
    "format-unknown": ["--add", "-f", "nosuch", "image", "new"],
    "file-missing": ["--add", "absent", "new"],
    "operand-missing": ["--add", "image"],
    "operand-extra": ["--add", "image", "new", "more"],
    "option-unknown": ["--add", "-z", "image", "new"],
    "option-argument": ["--merge"],
    "remove-all": ["--remove-all", "image"],
    "remove-all-name": ["--remove-all", "image", "first"],
    "remove-all-add": ["--remove-all", "--add", "image", "new"],
    "remove-ambiguous": ["--remo", "image", "first"],
}
WITHOUT = ("raw", "vmdk", "vdi", "vpc", "vhdx", "qed", "parallels")


def _setup(target, options):
    def make(maker):
        more = ["-o", options] if options else []
        maker.create(target, "image", SIZE, *more)
        if target != "qcow2" or "compat" in options:
            return
        maker.create("qcow2", "other", SIZE)
        maker.create("qcow2", "longer", "5M")
        for name in ("other", "longer"):
            maker.img("bitmap", "--add", "-g", "4k", name, "far")
            maker.io("qcow2", name, "write 1M 70k")
        maker.img("bitmap", "--add", "-g", "512", "image", "first")
        maker.io("qcow2", "image", "write 96k 160k")
        maker.img("bitmap", "--add", "image", "second")
        maker.img("bitmap", "--add", "--disable", "image", "still")
        maker.io("qcow2", "image", "write 3M 10k")

    return make


def _case(name, target, options, argv, without=None):
    runs = {"text": ["bitmap", *argv], "info-json": shown("image", "-f", target)}
    # Of a large cluster, what the file system has as holes is not data.
    if "2M" not in options:
        runs["measure"] = ["measure", "-f", target, "-O", "qcow2", "image"]
    return Case(name, target, _setup(target, options), runs, without or {}, own_layout=True)


def _cases():
    for name, argv in ACTIONS.items():
        yield _case(name, "qcow2", "", argv)
    for name, options in OPTIONS.items():
        for kind in ("add", "remove", "clear", "merge", "merge-other"):
            yield _case(f"{name}-{kind}", "qcow2", options, ACTIONS[kind])
    for kind in ("add", "remove", "merge"):
        yield _case(f"compat-v2-{kind}", "qcow2", "compat=0.10", ACTIONS[kind])
    for target in WITHOUT:
        for kind in ("add", "remove", "merge"):
            yield _case(kind, target, "", ACTIONS[kind], NO_PARALLELS if target == "parallels" else {})


CASES = [*_cases()]
