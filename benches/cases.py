"""What is measured."""

from dataclasses import dataclass, field

from images import SECRET


@dataclass
class Case:
    """Arguments for both tools; OUT is a new file, WORK a copy made afresh before every run."""

    name: str
    argv: list
    # The most of qemu-img's time it should take.
    goal: float
    images: list
    # What WORK is a copy of.
    work: str = ""
    # Exit statuses that are not failures.
    statuses: tuple = field(default=(0,))
    # At most so many pairs, for what takes minutes.
    rounds: int = 99
    # Where the images lie: one of stores.py.
    store: str = "memory"

    @property
    def title(self):
        """Its name in the tables."""
        return self.name if self.store == "memory" else f"{self.name} ({self.store})"


def convert(name, source, goal, *options, **fields):
    return Case(name, ["convert", *options, source, "OUT"], goal, [source], **fields)


RAW = ["-f", "raw"]
# Written by the stock tool from the plain image; the commands below are measured on each.
OTHERS = ["qcow", "vdi", "vpc", "vhdx", "vmdk", "stream.vmdk", "parallels", "qed"]
CHECKED = ["vdi", "vhdx", "vmdk", "stream.vmdk", "parallels", "qed"]


def rounds_of(kind):
    """The stock tool takes many seconds for qcow."""
    return 3 if kind == "qcow" else 99


def other_formats():
    """info, check, map, compare and measure of every format but raw and qcow2."""
    for kind in OTHERS:
        image = f"plain.{kind}"
        yield Case(f"info, {kind}", ["info", image], 0.9, [image])
        if kind in CHECKED:
            yield Case(f"check, {kind}", ["check", image], 0.9, [image])
        yield Case(f"map, {kind}", ["map", "--output=json", image], 0.9, [image])
        yield Case(f"measure, {kind}", ["measure", "-O", "qcow2", image], 0.9, [image])
        both = [image, "plain.qcow2"]
        yield Case(f"compare {kind}, qcow2", ["compare", *both], 0.9, both, rounds=rounds_of(kind))
        yield convert(f"{kind} -> raw", image, 0.8, "-O", "raw", rounds=rounds_of(kind))


def written():
    """Converting to every format that both tools write."""
    for kind in ("vmdk", "vhdx", "vdi", "vpc", "parallels", "qed", "qcow"):
        yield convert(f"raw -> {kind}", "plain.raw", 0.8, *RAW, "-O", kind, rounds=rounds_of(kind))
    stream = ["-O", "vmdk", "-o", "subformat=streamOptimized"]
    yield convert("raw -> streamOptimized", "plain.raw", 0.5, *RAW, *stream, rounds=3)


def encrypted():
    """To and from encrypted images; each run derives keys for a moment, and the stock tool measures how fast it can."""
    luks = ["-O", "luks", *SECRET, "-o", "key-secret=s,iter-time=10"]
    yield convert("raw -> luks", "plain.raw", 0.8, *RAW, *luks, rounds=3)
    inside = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    yield convert("raw -> qcow2, luks", "plain.raw", 0.8, *RAW, "-O", "qcow2", *SECRET, "-o", inside, rounds=3)
    options = "driver=luks,key-secret=s,file.filename=plain.luks"
    argv = ["convert", *SECRET, "--image-opts", "-O", "raw", options, "OUT"]
    yield Case("luks -> raw", argv, 0.8, ["plain.luks"])


def kept():
    """What is said of an image of 1 TiB besides its disk."""
    yield Case("snapshot -c, 1 TiB scattered", ["snapshot", "-c", "new", "WORK"], 0.5, [], "scattered.qcow2")
    yield Case("snapshot -d, 1 TiB scattered", ["snapshot", "-d", "old", "WORK"], 0.5, [], "kept.qcow2")
    yield Case("bitmap --add", ["bitmap", "--add", "-g", "64k", "WORK", "new"], 0.8, [], "bits.qcow2")
    for source, target in (("fine", "coarse"), ("coarse", "fine")):
        yield Case(
            f"bitmap --merge {source} -> {target}", ["bitmap", "--merge", source, "WORK", target], 0.8, [], "bits.qcow2"
        )
    yield Case("amend refcount_bits=64", ["amend", "-o", "refcount_bits=64", "WORK"], 0.5, [], "reserved.qcow2")
    yield Case("check -r, lost refcounts", ["check", "-q", "-r", "all", "WORK"], 0.5, [], "uncounted.qcow2", rounds=3)


def late(store):
    """From and to storage that answers late; `memory` has the other side of a conversion."""
    for name, source, options in (
        ("qcow2 -> raw", "plain.qcow2", ["-O", "raw"]),
        ("raw -> qcow2", "plain.raw", [*RAW, "-O", "qcow2"]),
        ("qcow2 zlib -> raw", "zlib.qcow2", ["-O", "raw"]),
    ):
        yield Case(
            f"{name}, into memory", ["convert", *options, source, "MEMORY"], 0.5, [source], rounds=3, store=store
        )
        yield convert(name, source, 0.8, *options, rounds=3, store=store)
    both = ["plain.raw", "plain.qcow2"]
    yield Case("compare raw, qcow2", ["compare", *both], 0.5, both, rounds=3, store=store)
    for command in ("info", "check"):
        yield Case(command, [command, "plain.qcow2"], 0.5, ["plain.qcow2"], rounds=3, store=store)
    uncached = ["-t", "none", "-T", "none"]
    yield convert("qcow2 -> raw, uncached", "plain.qcow2", 0.8, *uncached, "-O", "raw", rounds=3, store=store)
    yield convert("raw -> qcow2, uncached", "plain.raw", 0.8, *uncached, *RAW, "-O", "qcow2", rounds=3, store=store)


def direct():
    """Past the page cache on both sides."""
    options = ["-t", "none", "-T", "none"]
    yield convert("qcow2 -> raw", "plain.qcow2", 0.8, *options, "-O", "raw", store="direct")
    yield convert("raw -> qcow2", "plain.raw", 0.8, *options, *RAW, "-O", "qcow2", store="direct")


def shared(store):
    """On file systems that share blocks."""
    yield convert("qcow2 -> raw", "plain.qcow2", 0.1, "-O", "raw", store=store)
    yield convert("raw -> qcow2", "plain.raw", 0.35, *RAW, "-O", "qcow2", store=store)
    yield convert("raw -> raw", "plain.raw", 0.1, *RAW, "-O", "raw", store=store)
    yield convert("qcow2 -> qcow2", "plain.qcow2", 0.1, "-O", "qcow2", store=store)


REBASED = ["base.qcow2", "next.qcow2", "share.qcow2", "over.qcow2"]

CASES = [
    Case("info", ["info", "plain.qcow2"], 1.0, ["plain.qcow2"]),
    Case("info, chain of 3", ["info", "--backing-chain", "top.qcow2"], 1.0, ["top.qcow2"]),
    convert("qcow2 -> raw", "plain.qcow2", 0.8, "-O", "raw"),
    convert("raw -> qcow2", "plain.raw", 0.8, *RAW, "-O", "qcow2"),
    convert("raw -> qcow2 -c zlib", "plain.raw", 0.5, *RAW, "-c", "-O", "qcow2", rounds=3),
    convert("raw -> qcow2 -c zstd", "plain.raw", 0.5, *RAW, "-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    convert("qcow2 zlib -> raw", "zlib.qcow2", 0.6, "-O", "raw"),
    convert("qcow2 zstd -> raw", "zstd.qcow2", 0.6, "-O", "raw"),
    convert("chain of 3 -> raw", "top.qcow2", 0.8, "-O", "raw"),
    Case("info, 1 TiB scattered", ["info", "scattered.qcow2"], 0.9, ["scattered.qcow2"]),
    Case("map, 1 TiB scattered", ["map", "--output=json", "scattered.qcow2"], 0.15, ["scattered.qcow2"]),
    Case("check, 1 TiB scattered", ["check", "scattered.qcow2"], 0.5, ["scattered.qcow2"]),
    Case("map, qcow2", ["map", "--output=json", "plain.qcow2"], 0.9, ["plain.qcow2"]),
    Case("check, qcow2", ["check", "plain.qcow2"], 0.9, ["plain.qcow2"]),
    Case("compare raw, qcow2", ["compare", *RAW, "-F", "qcow2", "plain.raw", "plain.qcow2"], 0.6, ["plain.qcow2"]),
    Case("compare qcow2 zlib, raw", ["compare", "zlib.qcow2", "plain.raw"], 0.9, ["zlib.qcow2"]),
    Case("compare chains", ["compare", "top.qcow2", "middle.qcow2"], 0.9, ["top.qcow2"], statuses=(1,)),
    Case("compare, shared base", ["compare", "over.qcow2", "share.qcow2"], 0.9, REBASED, statuses=(1,)),
    Case("create 100 GiB", ["create", "-q", "-f", "qcow2", "OUT", "100G"], 0.8, []),
    Case(
        "create 100 GiB, metadata",
        ["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "OUT", "100G"],
        0.8,
        [],
    ),
    Case("resize to 1 TiB", ["resize", "-q", "WORK", "1T"], 0.8, [], "small.qcow2"),
    Case(
        "resize to 1 TiB, metadata",
        ["resize", "-q", "--preallocation=metadata", "WORK", "1T"],
        0.8,
        [],
        "small.qcow2",
    ),
    Case("rebase -u", ["rebase", "-u", "-b", "next.qcow2", "-F", "qcow2", "WORK"], 0.7, REBASED, "over.qcow2"),
    Case("rebase, another base", ["rebase", "-b", "next.qcow2", "-F", "qcow2", "WORK"], 0.7, REBASED, "over.qcow2"),
    Case("rebase, shared base", ["rebase", "-b", "share.qcow2", "-F", "qcow2", "WORK"], 0.2, REBASED, "over.qcow2"),
    Case("commit", ["commit", "-q", "-d", "WORK"], 0.7, REBASED, "over.qcow2"),
    Case("measure, 1 TiB scattered", ["measure", "-O", "qcow2", "scattered.qcow2"], 0.9, ["scattered.qcow2"]),
    Case("compare, 1 TiB scattered", ["compare", "scattered.qcow2", "again.qcow2"], 0.9, ["again.qcow2"], rounds=1),
    *kept(),
    *other_formats(),
    *written(),
    *encrypted(),
    *late("3 ms"),
    *late("20 ms"),
    *direct(),
    *shared("xfs"),
    *shared("btrfs"),
]

# What is looked at after each change: a row of each kind of work.
SMOKE = (
    "info",
    "info, chain of 3",
    "qcow2 -> raw",
    "raw -> qcow2",
    "raw -> qcow2 -c zlib",
    "qcow2 zlib -> raw",
    "qcow2 zstd -> raw",
    "check, qcow2",
    "map, qcow2",
    "create 100 GiB",
    "compare raw, qcow2",
    "commit",
)
