"""More hostile images: claims that a small or sparse file makes of much, names of a gigabyte, frames that grow, logs that
lie, and files of every format cut at every structure. `add_all` adds them to those of `images.py`."""

import struct

from tests.adversarial import images
from tests.helpers import bochs, cloop, parallels, qcow1, qed, vdi, vhdx, vmware

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
# What tables count in 32 bits.
COUNTS = {"2-16": 1 << 16, "2-22": 1 << 22, "2-29-less-128": (1 << 29) - 128, "2-31-less-1": (1 << 31) - 1,
          "2-32-less-1": (1 << 32) - 1}  # fmt: skip


def _sparse(into, kind, name, fmt, content, length):
    """A file of those bytes and a hole."""

    def make(folder):
        with open(f"{folder}/disk.img", "wb") as file:
            file.write(content)
            file.truncate(length)
        return "disk.img", fmt

    into.made(f"{kind}-{name}", kind, make)


def _counts(into):
    """Tables of so many entries, and disks that go with them, in files of a few KiB."""
    add, put = into.add, images.patched
    for name, n in COUNTS.items():
        whole = vdi.image(2 * MIB, {0: b"x"})[:4096]
        whole = put(put(whole, 0x180, n, "<I"), 0x170, n * MIB, "<Q")
        add("claim", f"vdi-{name}", "vdi", whole)
        add("claim", f"vdi-all-allocated-{name}", "vdi", put(whole, 0x184, n, "<I"))
        _sparse(into, "claim", f"vdi-{name}-map-in-a-hole", "vdi", whole[:512], 512 + 4 * n + MIB)
        whole = put(put(parallels.image(2048, {0: b"x"})[:4096], 32, n, "<I"), 36, n, "<Q")
        add("claim", f"parallels-{name}", "parallels", whole)
        add("claim", f"parallels-cluster-of-a-sector-{name}", "parallels", put(whole, 28, 1, "<I"))
        add("claim", f"parallels-huge-cluster-{name}", "parallels", put(whole, 28, 1 << 20, "<I")[:64])
        for block in (512, 2 * MIB):
            add(
                "claim",
                f"vpc-{block}-{name}",
                "vpc",
                images.vhd(size=min(n * block, 2040 * GIB), entries=n, block=block),
            )
        whole = qcow1.image(MIB, {0: b"x"})
        add("claim", f"qcow-{name}", "qcow", put(put(whole, 24, n << 9, ">Q"), 32, 9, ">B"))
        whole = put(put(qed.image(MIB, {0: b"x"}), 48, n << 16, "<Q"), 8, 16, "<I")
        add("claim", f"qed-{name}", "qed", whole)
        for grain in (1, 8, 128):
            add("claim", f"vmdk-{grain}-{name}", "vmdk", images.vmdk_sparse(capacity=n * grain, grain=grain, flags=1))
        whole = put(bochs.image(MIB, {0: b"a"}), 72, n, "<I")
        for extent in (512, 65536):
            size = put(put(whole, 80, extent, "<I"), 88, n * extent, "<Q")
            add("claim", f"bochs-{extent}-{name}", "bochs", size)
        whole = put(cloop.image(b"text" * 50_000), 132, n, ">I")
        add("claim", f"cloop-of-512-{name}", "cloop", put(whole, 128, 512, ">I"))
        for bits in (9, 16, 21):
            parts = {"cluster_bits": bits, "size": n << bits, "l1_size": min(n, 1 << 22)}
            whole = images.qcow2(**parts, ref_clusters=min(n, (8 * MIB) >> bits))
            add("claim", f"qcow2-{bits}-{name}", "qcow2", whole)
            if bits == 16:
                _sparse(into, "claim", f"qcow2-{bits}-{name}-sparse", "qcow2", whole, 8 * TIB)
    for block in (MIB, 256 * MIB):
        meta = vhdx.metadata(vhdx.items(64 * TIB, block))
        whole = vhdx.build(8 * MIB, {1: (vhdx.FULL, b"x")}, meta=meta)
        add("claim", f"vhdx-64-tib-{block}", "vhdx", whole)
        _sparse(into, "claim", f"vhdx-64-tib-{block}-sparse", "vhdx", whole, 8 * TIB)


def _names(into):
    """Names of a gigabyte, in files that are as long."""
    two = images.patched(images.qcow2(backing=b"x"), 16, GIB, ">I")
    _sparse(into, "name", "qcow2-backing", "qcow2", two, 2 * GIB)
    for kind, what in ((0x44415441, "data-file"), (0xE2792ACA, "backing-format"), (0x12345678, "unknown")):
        extensions = struct.pack(">II", kind, GIB)
        _sparse(into, "name", f"qcow2-{what}", "qcow2", images.qcow2(features=4, extensions=extensions), 2 * GIB)
    one = images.patched(qcow1.image(MIB, {}, backing=b"x"), 16, GIB, ">I")
    _sparse(into, "name", "qcow-backing", "qcow", one, 2 * GIB)
    _sparse(
        into, "name", "qed-backing", "qed", images.patched(qed.image(MIB, {}, backing=b"x"), 60, GIB, "<I"), 2 * GIB
    )
    _sparse(into, "name", "vmdk-descriptor", "vmdk", images.vmdk_sparse(descriptor=(1, GIB // 512)), 2 * GIB)
    _sparse(into, "name", "vmdk-text", "vmdk", images.vmdk(b'RW 2048 FLAT "' + b"a" * 4096), GIB)
    _sparse(into, "name", "vmdk-parent", "vmdk", images.vmdk(b"RW 1 ZERO", b'parentFileNameHint="' + b"a" * MIB), GIB)
    vhd = images.vhd(kind=4, parent="x", locators=((b"W2ku", b"x\0"),))
    # The length of the first locator's data: behind the dynamic header's first 576 bytes.
    at = 512 + 576
    _sparse(into, "name", "vpc-locator", "vpc", images.patched(vhd, at + 8, GIB, ">I"), 2 * GIB)


def _frames(into):
    """zstd frames (RFC 8878) of few bytes that say much: blocks of one byte repeated, windows, frames in a row."""
    packed = struct.pack(">Q", 1 << 62 | 127 << 54 | 6 << 16)
    magic = struct.pack("<I", 0xFD2FB528)
    block = lambda size, last: struct.pack("<I", size << 3 | 1 << 1 | last)[:3] + b"\0"  # noqa: E731
    many = block(128 * KIB, 0) * 4000
    for name, frame in {
        "repeated": magic + b"\x00\x58" + many + block(1, 1),
        "window-of-terabytes": magic + b"\x00\xff" + block(65536, 1),
        "true-size": magic + b"\xa0" + struct.pack("<I", 65536) + block(65536, 1),
        "size-of-2-31": magic + b"\xa0" + struct.pack("<I", 1 << 31) + many,
        "size-of-2-63": magic + b"\xe0" + struct.pack("<Q", 1 << 63) + many,
        "empty-blocks": magic + b"\x00\x58" + block(0, 0) * 16000,
        "skipped-frames": struct.pack("<II", 0x184D2A50, 0) * 8000,
        "skipped-frame-of-4-gib": struct.pack("<II", 0x184D2A50, (1 << 32) - 1),
        "frames": (magic + b"\x20\x00" + b"\x01\0\0") * 6000,
        "dictionary": magic + b"\x03" + struct.pack("<I", 7) + block(65536, 1),
    }.items():
        for many_clusters in (False, True):
            parts = {"size": 512 * MIB, "l2": packed * 8192} if many_clusters else {"l2": packed}
            extensions = b"\x01" + bytes(7) + images.extension(0x6803F857, bytes(48))
            whole = images.qcow2(features=8, header_len=112, extensions=extensions, tail=frame, **parts)
            into.add("zstd", f"{name}{'-often' if many_clusters else ''}", "qcow2", whole)


def _logs(into):
    """VHDX: two headers that both want to be right, and logs that lie about themselves."""
    one = {1: (vhdx.FULL, b"data")}

    def add(name, headers, log=b""):
        into.add("log", name, "vhdx", vhdx.build(8 * MIB, one, log=log, headers=headers))

    last = (1 << 64) - 1
    sector = [(3 * MIB, b"x" * 4096)]
    live = lambda number: vhdx.header(number, log_id=vhdx.LOG_ID)  # noqa: E731
    add("duel-of-logs", [live(7), live(7)], vhdx.log_entry(1, sector))
    add("duel-one-with-log", [vhdx.header(7), live(7)], vhdx.log_entry(1, sector))
    add("duel-around-zero", [live(0), live(last)], vhdx.log_entry(1, sector))
    for name, number in {"2-63": 1 << 63, "2-64-less-1": last, "0": 0}.items():
        add(f"sequence-{name}", [vhdx.header(1), live(2)], vhdx.log_entry(number, sector))
    add("sequence-over-its-end", [vhdx.header(1), live(2)], vhdx.log_entry(last, sector) + vhdx.log_entry(0, sector))
    add("tail-far", [vhdx.header(1), live(2)], vhdx.log_entry(1, sector, tail=1 << 31))
    add("zeroes-everywhere", [vhdx.header(1), live(2)], vhdx.log_entry(1, [(0, 1 << 62)]))
    add("zeroes-over-the-headers", [vhdx.header(1), live(2)], vhdx.log_entry(1, [(0, 4 * MIB)]))
    add("writes-far", [vhdx.header(1), live(2)], vhdx.log_entry(1, [(1 << 62, b"x" * 4096)]))
    add("file-that-shrinks", [vhdx.header(1), live(2)], vhdx.log_entry(1, sector, flushed=1 << 62, last=0))
    add("many-zeroes", [vhdx.header(1), live(2)], vhdx.log_entry(1, [(i * 4096, 1 << 40) for i in range(2000)]))


def _polyglots(into):
    two = images.qcow2()
    into.add("polyglot", "vhdx-qcow2", None, b"vhdxfile" + two[8:])
    into.add("polyglot", "luks-qcow2", None, images.luks()[:592] + two[592:])
    into.add("polyglot", "elf-as-raw-vhd", "vpc", b"\x7fELF" + bytes(4092) + images.vhd(kind=2)[-512:])
    into.add("polyglot", "vmdk-as-qcow2", "qcow2", images.vmdk_sparse())


def _cuts(into):
    """The kinds of files that `images.py` does not cut."""
    disk = bytes(65536) + b"text" * 16384 + bytes(65536)
    stream, hosted = vmware.stream(disk, "disk.img"), vmware.hosted(disk, "disk.img")
    fixed = bytes(MIB) + images.vhd(kind=2)[-512:]
    child = images.vhd(kind=4, parent="x", locators=((b"W2ku", b"x\0"),))
    logged = vhdx.build(8 * MIB, {1: (vhdx.FULL, b"x")}, log=vhdx.log_entry(1, [(3 * MIB, b"x" * 4096)]),
                        headers=[vhdx.header(1), vhdx.header(2, log_id=vhdx.LOG_ID)])  # fmt: skip
    for name, fmt, whole, places in (
        ("stream", "vmdk", stream, range(512, len(stream), 512)),
        ("hosted", "vmdk", hosted, (512, 21 * 512, 22 * 512, 26 * 512, 65536, 65536 + 512)),
        ("fixed", "vpc", fixed, (511, 512, MIB, MIB + 1, MIB + 511)),
        ("child", "vpc", child, (512, 1536, 2048, 4096, 4608)),
        ("logged", "vhdx", logged, (MIB, MIB + 64, MIB + 4096, MIB + 8192, 2 * MIB, 2 * MIB + 64 * KIB)),
        ("version-2", "qcow2", images.qcow2(version=2), (72, 65536, 131072, 196608, 262144, 327680)),
        ("slots", "luks", images.luks(), (592, 4096, 256_000, 512_000, 4096 * 512)),
        ("map", "qed", qed.image(MIB, {0: b"x"}, backing=b"base"), (64, 68, 4096, 8192, 12288)),
    ):
        for place in places:
            if place < len(whole):
                into.add("cut", f"{fmt}-{name}-at-{place}", fmt, whole[:place])


def add_all(into):
    """All of them."""
    for part in (_counts, _names, _frames, _logs, _polyglots, _cuts):
        part(into)
