"""`snapshot`: internal snapshots, listed, taken, gone back to and deleted."""

from tests.helpers.cases import NO_PARALLELS, Case, shown

SIZE = "4M"
# Options of creation that an image with snapshots may have.
OPTIONS = {
    "default": "",
    "cs-512": "cluster_size=512",
    "cs-4k": "cluster_size=4k",
    "cs-2M": "cluster_size=2M",
    "compat-v2": "compat=0.10",
    "extended-l2": "extended_l2=on",
    "rb-1": "refcount_bits=1",
    "rb-2": "refcount_bits=2",
    "rb-64": "refcount_bits=64",
    "lazy": "lazy_refcounts=on",
    "prealloc": "preallocation=metadata",
}
# name: snapshots that the image has, arguments before its name
ACTIONS = {
    "list-none": ([], ["-l"]),
    "list-one": (["first"], ["-l"]),
    "list-several": (["first", "second", "a name of more than thirty letters in all", "ä€"], ["-l"]),
    "list-is-default": (["first"], []),
    "list-shared": (["first"], ["-l", "-U"]),
    "list-image-opts": (["first"], ["-l", "--image-opts"]),
    "create": ([], ["-c", "new"]),
    "create-second": (["first"], ["-c", "new"]),
    "create-same-name": (["first"], ["-c", "first"]),
    "create-empty-name": ([], ["-c", ""]),
    "create-long-name": ([], ["-c", "n" * 300]),
    "create-quiet": ([], ["-q", "-c", "new"]),
    "apply": (["first", "second"], ["-a", "first"]),
    "apply-by-id": (["first", "second"], ["-a", "2"]),
    "apply-missing": (["first"], ["-a", "nosuch"]),
    "delete": (["first", "second"], ["-d", "first"]),
    "delete-by-id": (["first", "second"], ["-d", "2"]),
    "delete-last": (["first"], ["-d", "first"]),
    "delete-missing": (["first"], ["-d", "nosuch"]),
    "two-actions": (["first"], ["-l", "-c", "new"]),
    "option-unknown": (["first"], ["-z"]),
    "format-unknown": (["first"], ["-l", "-f", "nosuch"]),
    "create-shared": (["first"], ["-c", "new", "-U"]),
}
# Formats that have no snapshots, and of them those that 5.2 ends with an assertion of when one is to be gone back to.
ABORTS = ("vmdk", "vdi", "vpc", "vhdx")
NO_ABORT = {"5.2": "it aborts"}
WITHOUT = ("raw", "vmdk", "vdi", "vpc", "vhdx", "qed", "parallels")


def _setup(target, options, snapshots):
    def make(maker):
        maker.create(target, "image", SIZE, *(["-o", options] if options else []))
        for number, name in enumerate(snapshots, 1):
            maker.io(target, "image", f"write -P {number} {number * 96}k 160k")
            maker.img("snapshot", "-c", name, "image")
        maker.io(target, "image", "write -P 99 64k 256k")

    return make


def _case(name, target, options, snapshots, argv, without=None):
    shared = ["-U"] if "-U" in argv else []
    image = f"driver={target},file.filename=image" if "--image-opts" in argv else "image"
    runs = {"text": ["snapshot", *argv, image], "list": ["snapshot", "-l", *shared, "image"]}
    runs["info-json"] = shown("image", "-f", target)
    return Case(name, target, _setup(target, options, snapshots), runs, without or {}, own_layout=True)


def _cases():
    for name, (snapshots, argv) in ACTIONS.items():
        yield _case(name, "qcow2", "", snapshots, argv)
    for name, options in OPTIONS.items():
        old = [] if name == "rb-1" else ["first"]
        for kind, argv in {"create": ["-c", "new"], "apply": ["-a", "first"], "delete": ["-d", "first"]}.items():
            yield _case(f"{name}-{kind}", "qcow2", options, old, argv)
    for target in WITHOUT:
        for kind, argv in {"list": ["-l"], "create": ["-c", "new"], "apply": ["-a", "x"], "delete": ["-d", "x"]}.items():
            without = NO_ABORT if kind == "apply" and target in ABORTS else {}
            yield _case(kind, target, "", [], argv, NO_PARALLELS if target == "parallels" else without)


CASES = [*_cases()]
