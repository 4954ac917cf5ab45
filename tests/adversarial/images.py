"""The hostile images, by class. Each maker builds its files in an empty folder and returns the name of the image and its
format (None: to be probed). They are made from the formats' specifications; sizes are claimed, not stored."""

import os
import struct
import zlib

from tests.helpers import bochs, cloop, dmg, parallels, qcow1, qed, vdi, vhdx

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BIG = {"2-31": 1 << 31, "2-32-less-1": (1 << 32) - 1}
HUGE = {
    **BIG,
    "2-32": 1 << 32,
    "2-62": 1 << 62,
    "2-63-less-1": (1 << 63) - 1,
    "2-63": 1 << 63,
    "2-64-less-1": (1 << 64) - 1,
}
CONTROL = b"x\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\x00y"
# What no image may make anybody open.
SECRETS = ("/etc/passwd", "/proc/self/environ", "/dev/zero", "../outside")


class Set:
    """Name to (class, maker)."""

    def __init__(self):
        self.all = {}

    def add(self, kind, name, fmt, content, files=None):
        """One file of those bytes; `files`: others beside it."""

        def make(folder):
            for other, data in {"disk.img": content, **(files or {})}.items():
                with open(os.path.join(folder, other), "wb") as file:
                    file.write(data() if callable(data) else data)
            return "disk.img", fmt

        self.made(f"{kind}-{name}", kind, make)

    def made(self, name, kind, make):
        """One that needs more than files of bytes."""
        assert name not in self.all, name
        self.all[name] = kind, make


def qcow2(version=3, cluster_bits=16, size=MIB, l1_size=1, l1=None, l2=None, backing=b"", backing_at=None, order=4,
          features=0, extensions=b"", header_len=104, crypt=0, refs_at=1, ref_clusters=1, snapshots=(0, 0), tail=b""):  # fmt: skip
    """A qcow2 file by its specification: header, refcount table and block, L1, one L2, data cluster, in this order."""
    cluster = 1 << min(cluster_bits, 16)
    at = 104 + len(extensions)
    backing_at = (at if backing else 0) if backing_at is None else backing_at
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing_at, len(backing), cluster_bits, size, crypt,
                       l1_size, 3 * cluster, refs_at * cluster, ref_clusters, *snapshots)  # fmt: skip
    head += struct.pack(">QQQII", features, 0, 0, order, header_len)
    out = bytearray((head + extensions + backing).ljust(cluster, b"\0"))
    out += struct.pack(">Q", 2 * cluster).ljust(cluster, b"\0")
    out += struct.pack(">6H", *[1] * 6).ljust(cluster, b"\0")
    out += (struct.pack(">Q", (4 * cluster) | 1 << 63) if l1 is None else l1).ljust(cluster, b"\0")
    out += (struct.pack(">Q", (5 * cluster) | 1 << 63) if l2 is None else l2).ljust(cluster, b"\0")
    return bytes(out) + b"data".ljust(cluster, b"\0") + tail


def extension(kind, data):
    """A header extension, and the end of them."""
    return struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0") + bytes(8)


def patched(whole, offset, number, width):
    """Those bytes with another number in them."""
    changed = bytearray(whole)
    struct.pack_into(width, changed, offset, number & (1 << 8 * struct.calcsize(width)) - 1)
    return bytes(changed)


def vmdk(text, extra=b""):
    """A file that is only a descriptor."""
    head = (
        b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="%s"\n\n# Extent description\n'
    )
    return head % (b"twoGbMaxExtentSparse" if b"SPARSE" in text else b"monolithicFlat") + text + b"\n" + extra


def vmdk_sparse(
    capacity=2048, grain=128, descriptor=(1, 20), per_table=512, rgd=21, gd=26, data_at=128, flags=3, version=1
):
    """The header of a sparse extent, and room behind it."""
    head = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", version, flags, capacity, grain, *descriptor, per_table, rgd, gd, data_at,
                       0, b"\n \r\n", 0)  # fmt: skip
    text = b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicSparse"\n'
    text += b'RW 2048 SPARSE "disk.img"\n'
    out = head.ljust(512, b"\0") + text.ljust(20 * 512, b"\0")
    table = struct.pack("<I", 22).ljust(512, b"\0") + bytes(4 * 512)
    out += table + struct.pack("<I", 27).ljust(512, b"\0") + struct.pack("<I", 128).ljust(4 * 512, b"\0")
    return out.ljust(data_at * 512 if data_at < 4096 else 65536, b"\0") + b"data".ljust(65536, b"\0")


def vhd(
    kind=3,
    size=MIB,
    data_at=512,
    entries=1,
    block=2 * MIB,
    table_at=1536,
    parent="",
    locators=(),
    bat=b"",
    creator=b"win ",
):
    """A VHD: footer copy, dynamic header, table, footer."""
    foot = struct.pack(">8sIIQI4sI4sQQHBBII", b"conectix", 2, 0x10000, data_at, 0, creator, 0x60001, b"Wi2k", size, size,
                       30, 4, 17, kind, 0).ljust(512, b"\0")  # fmt: skip
    foot = patched(foot, 64, ~sum(foot), ">I")
    head = struct.pack(
        ">8sQQIIII16sII", b"cxsparse", (1 << 64) - 1, table_at, 0x10000, entries, block, 0, bytes(16), 0, 0
    )
    head += parent.encode("utf-16-be")[:512].ljust(512, b"\0")
    data, at = b"", 4096
    for code, name in locators:
        head += struct.pack(">4sIIIQ", code, 512, len(name), 0, at + len(data))
        data += name.ljust(512, b"\0")
    head = head.ljust(1024, b"\0")
    head = patched(head, 36, ~sum(head), ">I")
    out = (foot + head + (bat or b"\xff" * 512)).ljust(4096, b"\0") + data
    return out + foot


def luks(
    iterations=1000,
    key_bytes=64,
    payload=4096,
    stripes=4000,
    slot_at=8,
    cipher=b"aes",
    mode=b"xts-plain64",
    digest=b"sha256",
):
    """A LUKS header of version 1 with one active slot."""
    out = struct.pack(">6sH32s32s32sII20s32sI40s", b"LUKS\xba\xbe", 1, cipher, mode, digest, payload, key_bytes, bytes(20),
                      bytes(32), iterations, b"12345678-1234-1234-1234-123456789012")  # fmt: skip
    out += struct.pack(">II32sII", 0xAC71F3, iterations, bytes(32), slot_at, stripes)
    for slot in range(1, 8):
        out += struct.pack(">II32sII", 0xDEAD, 0, bytes(32), 8 + slot * 504, 4000)
    return out.ljust(2 * MIB + MIB, b"\0")


def _qcow2(into):
    add = into.add
    for bits in (0, 8, 9, 21, 22, 31, 32, 63, 255, 1 << 31):
        add("qcow2", f"cluster-bits-{bits}", "qcow2", qcow2(cluster_bits=bits))
    for order in (7, 8, 31, 32, 1 << 31):
        add("qcow2", f"refcount-order-{order}", "qcow2", qcow2(order=order))
    for name, n in HUGE.items():
        add("qcow2", f"size-{name}", "qcow2", qcow2(size=n & (1 << 64) - 1))
        add("qcow2", f"l1-at-{name}", "qcow2", patched(qcow2(), 40, n, ">Q"))
        add("qcow2", f"refcounts-at-{name}", "qcow2", patched(qcow2(), 48, n, ">Q"))
        add("qcow2", f"l2-at-{name}", "qcow2", qcow2(l1=struct.pack(">Q", n & (1 << 64) - 1)))
        add("qcow2", f"data-at-{name}", "qcow2", qcow2(l2=struct.pack(">Q", n & (1 << 64) - 1)))
        add("qcow2", f"snapshots-at-{name}", "qcow2", qcow2(snapshots=(1, n & (1 << 64) - 1)))
    for name, n in BIG.items():
        add("qcow2", f"l1-entries-{name}", "qcow2", qcow2(l1_size=n))
        add("qcow2", f"refcount-clusters-{name}", "qcow2", qcow2(ref_clusters=n))
        add("qcow2", f"snapshot-count-{name}", "qcow2", qcow2(snapshots=(n, 65536)))
        add("qcow2", f"header-length-{name}", "qcow2", qcow2(header_len=n))
        add("qcow2", f"backing-length-{name}", "qcow2", patched(qcow2(backing=b"x"), 16, n, ">I"))
        add("qcow2", f"extension-length-{name}", "qcow2", qcow2(extensions=struct.pack(">II", 0x6803F857, n)))
    add("qcow2", "table-over-header", "qcow2", patched(qcow2(), 40, 0, ">Q"))
    add("qcow2", "l2-is-l1", "qcow2", qcow2(l1=struct.pack(">Q", 3 << 16 | 1 << 63)))
    add("qcow2", "l2-is-header", "qcow2", qcow2(l1=struct.pack(">Q", 1 << 63)))
    add("qcow2", "l2-past-end", "qcow2", qcow2(l1=struct.pack(">Q", 1 << 40 | 1 << 63)))
    add(
        "qcow2",
        "many-l1-one-l2",
        "qcow2",
        qcow2(size=512 * MIB * 1000, l1_size=1000, l1=struct.pack(">Q", 4 << 16 | 1 << 63) * 1000),
    )
    bomb = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = bomb.compress(bytes(64 * MIB)) + bomb.flush()
    packed = struct.pack(">Q", 1 << 62 | 127 << 54 | 6 << 16)
    add("qcow2", "zlib-bomb", "qcow2", qcow2(l2=packed, tail=bomb))
    add("qcow2", "zlib-bombs", "qcow2", qcow2(size=512 * MIB, l2=packed * 8192, tail=bomb))
    add("qcow2", "zlib-junk", "qcow2", qcow2(l2=packed, tail=b"\xff" * 65536))
    add("qcow2", "packed-far", "qcow2", qcow2(l2=struct.pack(">Q", 1 << 62 | (1 << 54) - 512)))
    zstd = extension(0x6803F857, bytes(48))
    frame = struct.pack("<I", 0xFD2FB528) + b"\xe0" + struct.pack("<Q", 1 << 62) + b"\x03\0\0" * 100
    kind = bytearray(qcow2(features=8, l2=packed, header_len=112, extensions=b"\x01" + bytes(7) + zstd, tail=frame))
    add("qcow2", "zstd-bomb", "qcow2", bytes(kind))
    for name in (*SECRETS, "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}", "nbd://127.0.0.1:1/x", "fat:rw:/etc",
                 "file:/etc/passwd", "http://127.0.0.1:1/", "ssh://x/y", "fd:0", "/dev/fdset/1", "disk.img", "./disk.img", ""):  # fmt: skip
        label = "".join(c if c.isalnum() else "-" for c in name) or "empty"
        add("backing", label, "qcow2", qcow2(backing=name.encode() or b"\0"))
        add(
            "backing", f"data-file-{label}", "qcow2", qcow2(features=4, extensions=extension(0x44415441, name.encode()))
        )
    add("backing", "control-characters", "qcow2", qcow2(backing=CONTROL))
    add(
        "backing",
        "format-with-control-characters",
        "qcow2",
        qcow2(backing=b"x", extensions=extension(0xE2792ACA, CONTROL)),
    )
    add(
        "backing",
        "data-file-with-control-characters",
        "qcow2",
        qcow2(features=4, extensions=extension(0x44415441, CONTROL)),
    )
    add("backing", "of-1023-bytes", "qcow2", qcow2(backing=b"a" * 1023))
    add("backing", "of-1024-bytes", "qcow2", qcow2(backing=b"a" * 1024))
    add(
        "backing",
        "feature-names",
        "qcow2",
        qcow2(features=1 << 40, extensions=extension(0x6803F857, b"\0\x28" + CONTROL.ljust(46, b"\0"))),
    )


def _chains(into):
    def links(how):
        def make(folder):
            with open(os.path.join(folder, "disk.img"), "wb") as file:
                file.write(qcow2(backing=b"other.img"))
            how(os.path.join(folder, "disk.img"), os.path.join(folder, "other.img"))
            return "disk.img", "qcow2"

        return make

    into.made("chain-by-symbolic-link", "chain", links(lambda a, b: os.symlink(os.path.basename(a), b)))
    into.made("chain-by-hard-link", "chain", links(os.link))
    into.made("chain-to-link-out", "chain", links(lambda _, b: os.symlink("/etc/passwd", b)))
    into.made("chain-to-pipe", "chain", links(lambda _, b: os.mkfifo(b)))
    into.made("chain-to-folder", "chain", links(lambda _, b: os.mkdir(b)))
    into.made("chain-to-link-to-nothing", "chain", links(lambda _, b: os.symlink(b, b)))
    into.add("chain", "a-b-a", "qcow2", qcow2(backing=b"b"), {"b": qcow2(backing=b"disk.img")})
    for depth in (100, 199, 200, 201, 400):
        rest = {
            f"f{i}": qcow2(cluster_bits=9, size=65536, backing=b"f%d" % (i + 1) if i < depth else b"")
            for i in range(1, depth + 1)
        }
        into.add("chain", f"of-{depth}", "qcow2", qcow2(backing=b"f1"), rest)
    into.add(
        "chain",
        "to-another-size",
        "qcow2",
        qcow2(size=1 << 62, cluster_bits=21, l1_size=1, backing=b"b"),
        {"b": qcow2()},
    )


def _polyglots(into):
    two = qcow2()
    into.add("polyglot", "qcow2-elf", None, b"\x7fELF" + two[4:])
    into.add("polyglot", "qcow2-iso", None, two[:0x8000] + b"\x01CD001\x01\0" + two[0x8008:])
    into.add("polyglot", "qcow2-vhd", None, two + vhd()[-512:])
    into.add("polyglot", "qcow2-dmg", None, two + dmg.koly())
    into.add("polyglot", "qcow2-vdi", None, two[:64] + b"\x7f\x10\xda\xbe" + two[68:])
    into.add("polyglot", "qcow2-partitions", None, two[:510] + b"\x55\xaa" + two[512:])
    into.add("polyglot", "vmdk-qcow2", None, vmdk(b'RW 2048 FLAT "disk.img" 0') + two)
    into.add("polyglot", "qcow2-as-vmdk", "vmdk", two)
    into.add("polyglot", "qcow2-as-luks", "luks", two)
    into.add("polyglot", "qcow2-as-vhdx", "vhdx", two)


def _vmdk(into):
    add = into.add
    for index, name in enumerate((*SECRETS, "../../../etc/passwd", "/proc/self/mem", "nbd:x:1", "json:{}", "disk.img")):
        line = f'RW 2048 FLAT "{name}" 0'.encode()
        add("vmdk", f"extent-{index}", "vmdk", vmdk(line))
        add("vmdk", f"sparse-extent-{index}", "vmdk", vmdk(f'RW 2048 SPARSE "{name}"'.encode()))
        add(
            "vmdk", f"parent-{index}", "vmdk", vmdk(line, f'parentFileNameHint="{name}"\nparentCID=12345678\n'.encode())
        )
    add("vmdk", "zero-byte", "vmdk", vmdk(b'RW 2048 FLAT "/etc/pas\0swd" 0'))
    add(
        "vmdk",
        "control-characters",
        "vmdk",
        vmdk(b'RW 2048 FLAT "' + CONTROL.replace(b"\n", b"").replace(b"\0", b"") + b'" 0'),
    )
    add("vmdk", "no-extent", "vmdk", vmdk(b""))
    add("vmdk", "thousands-of-extents", "vmdk", vmdk(b"\n".join(b'RW 1 FLAT "disk.img" %d' % i for i in range(5000))))
    add("vmdk", "thousands-of-zero-extents", "vmdk", vmdk(b"\n".join([b"RW 1 ZERO"] * 5000)))
    add("vmdk", "type-with-control-characters", "vmdk", vmdk(b'RW 2048 \x1b[2J "x" 0'))
    add("vmdk", "a-megabyte", "vmdk", vmdk(b"#" * MIB))
    for name, n in {"0": 0, "1": 1, "7": 7, **HUGE}.items():
        add("vmdk", f"grain-{name}", "vmdk", vmdk_sparse(grain=n & (1 << 64) - 1))
        add("vmdk", f"capacity-{name}", "vmdk", vmdk_sparse(capacity=n & (1 << 64) - 1))
        add("vmdk", f"directory-at-{name}", "vmdk", vmdk_sparse(gd=n & (1 << 64) - 1, flags=1))
        add("vmdk", f"descriptor-long-{name}", "vmdk", vmdk_sparse(descriptor=(1, n & (1 << 64) - 1)))
        add("vmdk", f"per-table-{name}", "vmdk", vmdk_sparse(per_table=n & (1 << 32) - 1))


def _vhd(into):
    add = into.add
    names = (
        "/etc/passwd",
        "\\\\server\\share\\x.vhd",
        "http://127.0.0.1:1/x",
        "..\\..\\etc\\passwd",
        "C:\\x.vhd",
        "disk.img",
    )
    for index, name in enumerate(names):
        codes = (
            (b"W2ru", name.encode("utf-16-le")),
            (b"MacX", b"file://localhost" + name.encode()),
            (b"Wi2r", name.encode()),
        )
        add("vpc", f"parent-{index}", "vpc", vhd(kind=4, parent=name, locators=codes))
    for name, n in HUGE.items():
        add("vpc", f"size-{name}", "vpc", vhd(size=n & (1 << 64) - 1))
        add("vpc", f"table-at-{name}", "vpc", vhd(table_at=n & (1 << 64) - 1))
        add("vpc", f"data-at-{name}", "vpc", vhd(data_at=n & (1 << 64) - 1))
    for name, n in {"0": 0, **BIG}.items():
        add("vpc", f"entries-{name}", "vpc", vhd(entries=n))
        add("vpc", f"block-{name}", "vpc", vhd(block=n))
    add("vpc", "block-past-end", "vpc", vhd(bat=struct.pack(">128I", *[0xFFFFFFFE] * 128)))
    add("vpc", "block-in-header", "vpc", vhd(bat=struct.pack(">128I", *[0] * 128)))
    add("vpc", "fixed", "vpc", vhd(kind=2, size=1 << 60))


def _vhdx(into):
    one = {1: (vhdx.FULL, b"data")}
    size = 8 * MIB
    add = lambda name, **parts: into.add("vhdx", name, "vhdx", vhdx.build(size, one, **parts))  # noqa: E731
    add("duelling-headers", headers=[vhdx.header(7), vhdx.header(7)])
    add("headers-of-huge-number", headers=[vhdx.header((1 << 64) - 1), vhdx.header((1 << 64) - 2)])
    add("log-everywhere", headers=[vhdx.header(1), vhdx.header(2, log_id=vhdx.LOG_ID, log_length=1 << 31)])
    add("log-over-itself", headers=[vhdx.header(1), vhdx.header(2, log_id=vhdx.LOG_ID, log_at=64 * KIB)])
    for name, n in {"far": 1 << 40, "2-62": 1 << 62, "2-63": 1 << 63, "in-header": 0}.items():
        add(
            f"table-{name}",
            tables=[vhdx.regions([(vhdx.BAT_REGION, n, MIB, 1), (vhdx.METADATA_REGION, vhdx.METADATA_AT, MIB, 1)])] * 2,
        )
        add(f"block-{name}", bat={0: n | vhdx.FULL})
    for n in (0, 511, 1 << 31, 1 << 62):
        into.add("vhdx", f"size-{n}", "vhdx", vhdx.build(size, one, meta=vhdx.metadata(vhdx.items(n, MIB))))


def _others(into):
    add = into.add
    sectors = {0: b"a", 9: b"b"}
    boch, loop = bochs.image(MIB, sectors), cloop.image(b"text" * 50_000)
    for name, n in BIG.items():
        for offset in (68, 72, 76, 80):
            add("bochs", f"field-{offset}-{name}", "bochs", patched(boch, offset, n, "<I"))
        add("cloop", f"block-{name}", "cloop", patched(loop, 128, n, ">I"))
        add("cloop", f"count-{name}", "cloop", patched(loop, 132, n, ">I"))
        for offset in (0x14C, 0x154, 0x170, 0x178, 0x180, 0x184):
            add("vdi", f"field-{offset:x}-{name}", "vdi", patched(vdi.image(2 * MIB, {0: b"x"}), offset, n, "<I"))
        for offset in (16, 28, 32, 48):
            add(
                "parallels",
                f"field-{offset}-{name}",
                "parallels",
                patched(parallels.image(2048, {0: b"x"}), offset, n, "<I"),
            )
        for offset in (4, 8, 12):
            add("qed", f"field-{offset}-{name}", "qed", patched(qed.image(MIB, {0: b"x"}), offset, n, "<I"))
    for name, n in HUGE.items():
        add("bochs", f"size-{name}", "bochs", patched(boch, 88, n, "<Q"))
        add("cloop", f"offset-{name}", "cloop", patched(loop, 144, n, ">Q"))
        add("qcow", f"size-{name}", "qcow", patched(qcow1.image(MIB, {0: b"x"}), 24, n, ">Q"))
        add("qcow", f"l1-at-{name}", "qcow", patched(qcow1.image(MIB, {0: b"x"}), 40, n, ">Q"))
        add("qed", f"l1-at-{name}", "qed", patched(qed.image(MIB, {0: b"x"}), 40, n, "<Q"))
        add("qed", f"size-{name}", "qed", patched(qed.image(MIB, {0: b"x"}), 48, n, "<Q"))
        add("vdi", f"size-{name}", "vdi", patched(vdi.image(2 * MIB, {0: b"x"}), 0x170, n, "<Q"))
    add("qcow", "backing-passwd", "qcow", qcow1.image(MIB, {}, backing=b"/etc/passwd"))
    add("qcow", "backing-control-characters", "qcow", qcow1.image(MIB, {}, backing=CONTROL.replace(b"\0", b"")))
    add("qed", "backing-passwd", "qed", qed.image(MIB, {}, backing=b"/etc/passwd"))
    add("cloop", "bomb", "cloop", cloop.image(bytes(65536), blocks={0: zlib.compress(bytes(256 * MIB))}))
    add("cloop", "bomb-in-a-large-block", "cloop", cloop.image(b"x", block=64 * MIB))
    add("cloop", "table-of-zeroes", "cloop", cloop.image(b"x", claimed=(65536, (1 << 26) - 2), offsets={0: 0, 1: 0}))


def _dmg(into):
    chunks = dmg.sample(1, (dmg.RAW, dmg.ZERO, dmg.ZLIB))
    for name, n in {**HUGE, "minus-1": (1 << 64) - 1, "minus-512": (1 << 64) - 512}.items():
        for index, field in ((1, "sector"), (2, "count"), (3, "offset"), (4, "length")):

            def edit(entries, index=index, n=n):
                first = list(entries[2])
                first[index] = n
                return [*entries[:2], tuple(first)]

            into.add("dmg", f"{field}-{name}", "dmg", dmg.build(chunks, edit=edit))
        for field in (0x18, 0x28, 0x30, 0xD8, 0xE0, 0x1EC):
            whole = dmg.build(chunks)
            into.add("dmg", f"trailer-{field:x}-{name}", "dmg", patched(whole, len(whole) - 512 + field, n, ">Q"))
    big = 131072
    for kind, stored in {dmg.ZLIB: zlib.compress(bytes(64 * MIB)), dmg.BZIP2: dmg.stored(dmg.BZIP2, bytes(64 * MIB)),
                         dmg.ADC: b"\x80x" + b"\x7f\0\0" * (MIB + 1), dmg.LZFSE: b"bvx-" + b"\xff" * 8}.items():  # fmt: skip
        into.add("dmg", f"bomb-{kind:x}", "dmg", dmg.build([(kind, big, b"", stored)]))
        into.add("dmg", f"small-bomb-{kind:x}", "dmg", dmg.build([(kind, 64, b"", stored)]))
    into.add("dmg", "many-tables", "dmg", dmg.build([(dmg.ZERO, 1, b"")] * 3000, split=1))
    into.add("dmg", "list-of-16-mib", "dmg", lambda: dmg.build([(dmg.ZERO, 1, b"")] * 200_000))


def _luks(into):
    for name, fields in {
        "years-of-iterations": {"iterations": (1 << 32) - 1},
        "no-iterations": {"iterations": 0},
        "key-of-2-31": {"key_bytes": 1 << 31},
        "key-of-0": {"key_bytes": 0},
        "stripes-2-31": {"stripes": 1 << 31},
        "stripes-0": {"stripes": 0},
        "payload-far": {"payload": (1 << 32) - 1},
        "slot-in-header": {"slot_at": 0},
        "slot-far": {"slot_at": (1 << 32) - 1},
        "cipher-control-characters": {"cipher": CONTROL},
        "mode-control-characters": {"mode": CONTROL},
        "hash-control-characters": {"digest": CONTROL},
    }.items():
        into.add("luks", name, "luks", luks(**fields))


def _cut(into):
    """Every format's valid image, cut at every structure's boundary and next to it."""
    text = {0: b"data"}
    whole = {
        "qcow2": (qcow2(), (0, 4, 72, 104, 512, 65536, 131072, 196608, 262144, 262152, 327680)),
        "qcow": (qcow1.image(MIB, text), (4, 48, 56, 512, 4096, 8192)),
        "qed": (qed.image(MIB, text), (4, 64, 4096, 8192, 12288)),
        "vdi": (vdi.image(2 * MIB, text), (64, 72, 400, 512, 516, MIB, MIB + 1)),
        "vpc": (vhd(), (8, 511, 512, 1536, 2048, 4096)),
        "vhdx": (vhdx.build(8 * MIB, {1: (vhdx.FULL, b"x")}), (8, 64 * KIB, 128 * KIB, 192 * KIB, 256 * KIB, MIB, 2 * MIB, 3 * MIB)),
        "vmdk": (vmdk_sparse(), (4, 77, 512, 1024, 21 * 512, 26 * 512, 65536)),
        "parallels": (parallels.image(2048, text), (16, 64, 68, 512)),
        "bochs": (bochs.image(MIB, text), (32, 64, 96, 512, 516, 1536, 2048)),
        "cloop": (cloop.image(b"text" * 50_000), (80, 128, 136, 144, 200)),
        "dmg": (dmg.build(dmg.sample(1, (dmg.RAW, dmg.ZLIB))), (1, 512, 33000)),
        "luks": (luks(), (6, 208, 592, 4096)),
    }  # fmt: skip
    for fmt, (content, places) in whole.items():
        for place in places:
            into.add("cut", f"{fmt}-at-{place}", fmt, content[:place])


def hostile():
    """All of them: name to (class, maker)."""
    from tests.adversarial import claims, encrypted  # They build on what is above.

    into = Set()
    for part in (_qcow2, _chains, _polyglots, _vmdk, _vhd, _vhdx, _others, _dmg, _luks, _cut):
        part(into)
    claims.add_all(into)
    encrypted.add_all(into)
    return into.all
