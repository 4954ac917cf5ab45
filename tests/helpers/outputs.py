"""What images are written as: every format with its options, for the tests of convert, create and dd."""

from dataclasses import dataclass

from tests.helpers.variants import variants


@dataclass(frozen=True)
class Output:
    """A format and options to write it with."""

    format: str
    options: str = ""
    # Further arguments of convert (-c, --object).
    argv: tuple = ()
    # The stock tool writes all of it and then exits with 1 without a word, in every release.
    stock_ends_badly: bool = False

    @property
    def name(self):
        """Unique; letters, digits and underscores."""
        text = "_".join([self.format, self.options, *(word for word in self.argv if word == "-c")])
        return "".join(c if c.isalnum() else "_" for c in text).strip("_")

    @property
    def words(self):
        """Arguments of convert and create."""
        return ["-O", self.format, *self.argv, *(["-o", self.options] if self.options else [])]


SECRET = ("--object", "secret,id=out,data=swordfish")

OUTPUTS = [
    Output("raw"),
    Output("raw", "preallocation=falloc"),
    Output("raw", "preallocation=full"),
    Output("qcow2"),
    Output("qcow2", "compat=0.10"),
    Output("qcow2", "cluster_size=512"),
    Output("qcow2", "cluster_size=4k,refcount_bits=1"),
    Output("qcow2", "cluster_size=2M,refcount_bits=64"),
    Output("qcow2", "extended_l2=on"),
    Output("qcow2", "lazy_refcounts=on"),
    Output("qcow2", "preallocation=metadata"),
    Output("qcow2", "preallocation=metadata,extended_l2=on"),
    Output("qcow2", "preallocation=falloc"),
    Output("qcow2", "preallocation=full,cluster_size=16k"),
    Output("qcow2", "", ("-c",)),
    Output("qcow2", "compression_type=zstd", ("-c",)),
    Output("qcow2", "cluster_size=4k,extended_l2=off", ("-c",)),
    Output("qcow2", "encrypt.format=luks,encrypt.key-secret=out,encrypt.iter-time=10", SECRET),
    Output("qcow2", "encrypt.format=aes,encrypt.key-secret=out", SECRET),
    Output("qcow2", "encrypt.format=aes,encrypt.key-secret=out,compat=0.10", SECRET),
    Output("qcow2", "encrypt.format=aes,encrypt.key-secret=out,preallocation=metadata", SECRET),
    Output("qcow"),
    Output("qcow", "encrypt.format=aes,encrypt.key-secret=out", SECRET),
    Output("qcow", "", ("-c",), stock_ends_badly=True),
    Output("qed"),
    Output("qed", "cluster_size=4k,table_size=1"),
    Output("qed", "cluster_size=4k,table_size=2"),
    Output("qed", "cluster_size=256k,table_size=16"),
    Output("vdi"),
    Output("vdi", "static=on"),
    Output("parallels"),
    Output("parallels", "cluster_size=64k"),
    Output("vpc"),
    Output("vpc", "subformat=fixed"),
    Output("vpc", "force_size=on"),
    Output("vpc", "subformat=fixed,force_size=on"),
    Output("vhdx"),
    Output("vhdx", "subformat=fixed"),
    Output("vhdx", "block_size=1M,log_size=2M"),
    Output("vhdx", "block_state_zero=off,block_size=8M"),
    Output("vmdk"),
    Output("vmdk", "subformat=monolithicFlat"),
    Output("vmdk", "subformat=twoGbMaxExtentSparse"),
    Output("vmdk", "subformat=twoGbMaxExtentFlat"),
    Output("vmdk", "subformat=monolithicFlat,adapter_type=lsilogic,hwversion=7"),
    Output("vmdk", "subformat=twoGbMaxExtentSparse,zeroed_grain=on"),
    Output("vmdk", "subformat=streamOptimized"),
    Output("vmdk", "adapter_type=lsilogic,hwversion=7"),
    Output("vmdk", "compat6=on"),
    Output("vmdk", "zeroed_grain=on"),
    Output("luks", "key-secret=out,iter-time=10", SECRET),
    Output("luks", "key-secret=out,iter-time=10,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv", SECRET),
]


# One input of each format goes to every output; a few others to the plain ones.
FIRST = {"raw": "mixed", "qcow2": "snapshots"}
OTHERS = 2
# Formats whose images are encrypted on their way, too: the stock tool measures for two seconds how fast it can make keys.
ENCRYPTED = ("raw", "qcow2")


def _inputs():
    """Of each format: the input for all outputs, and those for the plain ones."""
    by_format = {}
    for variant in variants():
        if variant.stock and "convert-raw" not in variant.except_for:
            by_format.setdefault(variant.format, []).append(variant)
    for fmt, those in sorted(by_format.items()):
        first = next((v for v in those if v.name == FIRST.get(fmt)), those[0])
        rest = [v for v in those if v is not first]
        step = max(1, len(rest) // OTHERS)
        yield first, rest[::step][:OTHERS]


def pairs():
    """(variant, output): what is converted into what."""
    plain = [output for output in OUTPUTS if not output.options]
    for first, others in _inputs():
        encrypts = first.format in ENCRYPTED
        yield from ((first, output) for output in OUTPUTS if encrypts or SECRET[0] not in output.argv)
        yield from ((other, output) for other in others for output in plain)
