"""VMDK: what the stock tool writes, and extents of ESX built here from the specification."""

import struct

from tests.helpers.variants import GIB, KIB, MIB, REFUSED, Variant

SECTOR = 512
TEXT = """# Disk DescriptorFile
version=1
CID=12345678
parentCID={parent}
createType="{kind}"
{hint}
# Extent description
{extents}

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
"""


def _converted(subformat, size=3 * MIB + 512, *argv):
    def make(case, _folder):
        return case.convert("vmdk", "disk.vmdk", size, "-o", f"subformat={subformat}", *argv)

    return make


def _new(options, size):
    def make(case, _folder):
        return case.create("vmdk", "disk.vmdk", size, *(["-o", options] if options else []))

    return make


def _written(options, size, *commands):
    def make(case, _folder):
        case.create("vmdk", "disk.vmdk", size, "-o", options)
        return case.io("vmdk", "disk.vmdk", *commands)

    return make


def _child(case, _folder):
    case.convert("vmdk", "base.vmdk", 3 * MIB)
    case.create("vmdk", "disk.vmdk", None, "-b", "base.vmdk", "-F", "vmdk")
    return case.io("vmdk", "disk.vmdk", "write -P 7 100k 200k", "write -P 8 2M 64k")


def _text(kind, extents, parent="ffffffff", hint=""):
    return TEXT.format(kind=kind, extents="\n".join(extents), parent=parent, hint=hint).encode()


def cowd(case, grains=(3, 4, 9), sectors=2048, grain=8):
    """An ESX copy-on-write extent ("Virtual Disk Format 5.0", "ESX Server Sparse Extents") with data in some grains."""
    tables = -(-sectors // (4096 * grain))
    directory = 4
    table_at = directory + -(-tables * 4 // SECTOR)
    data_at = table_at + tables * 4096 * 4 // SECTOR
    header = struct.pack("<4sIIIIIII", b"COWD", 1, 3, sectors, grain, directory, tables, data_at)
    entries, body = [0] * (tables * 4096), b""
    for index, number in enumerate(grains):
        entries[number] = data_at + index * grain
        body += case.random.randbytes(grain * SECTOR)
    places = [table_at + n * 4096 * 4 // SECTOR for n in range(tables)]
    image = header.ljust(directory * SECTOR, b"\0")
    image += struct.pack(f"<{tables}I", *places).ljust((table_at - directory) * SECTOR, b"\0")
    return image + struct.pack(f"<{len(entries)}I", *entries) + body


def _cowd(case, _folder):
    """Without a descriptor; the stock tool refuses it."""
    return case.write("disk.vmdk", cowd(case))


def _vmfs_sparse(case, _folder):
    case.write("disk-delta.vmdk", cowd(case))
    return case.write("disk.vmdk", _text("vmfsSparse", ['RW 2048 VMFSSPARSE "disk-delta.vmdk"']))


def _vmfs(case, _folder):
    case.raw("disk-flat.vmdk", 2 * MIB)
    return case.write("disk.vmdk", _text("vmfs", ['RW 4096 VMFS "disk-flat.vmdk"']))


def _two_flats(case, _folder):
    case.raw("one.vmdk", MIB)
    case.raw("two.vmdk", 2 * MIB)
    lines = ['RW 2048 FLAT "one.vmdk" 0', 'RW 2048 FLAT "two.vmdk" 1024']
    return case.write("disk.vmdk", _text("twoGbMaxExtentFlat", lines))


def _se_sparse(case, _folder):
    """seSparse: grains of 4 KiB; data, zeroes, unmapped."""
    grains = 4096
    directory, tables, data = 16, 80, 80 + 64 * 1
    numbers = {5: 0, 6: 1, 700: 2}
    entries = [0] * 4096
    for place, number in numbers.items():
        entries[place] = 3 << 60 | (number & 0xFFF) << 48 | number >> 12
    entries[9], entries[10] = 1 << 60, 2 << 60
    fields = [0xCAFEBABE, 0x200000001, grains * 8, 8, 64, 0, 0, 0, 0, 0]
    fields += [1, 1, 2, 2, 4, 4, directory, 64, tables, 64, 8, 1, 9, 1, data, 64]
    header = struct.pack(f"<{len(fields)}Q", *fields).ljust(SECTOR, b"\0")
    image = header + struct.pack("<QQ", 0xCAFECAFE, 0).ljust(SECTOR, b"\0")
    image = image.ljust(directory * SECTOR, b"\0") + struct.pack("<Q", 1 << 60)
    image = image.ljust(tables * SECTOR, b"\0") + struct.pack("<4096Q", *entries)
    image = image.ljust(data * SECTOR, b"\0") + case.random.randbytes(3 * 4096)
    case.write("disk-sesparse.vmdk", image.ljust(len(image) + 8192, b"\0"))
    return case.write("disk.vmdk", _text("seSparse", [f'RW {grains * 8} SESPARSE "disk-sesparse.vmdk"']))


VARIANTS = [
    Variant("sparse", "vmdk", _converted("monolithicSparse")),
    Variant("stream", "vmdk", _converted("streamOptimized")),
    Variant("flat", "vmdk", _converted("monolithicFlat")),
    Variant("split-sparse", "vmdk", _converted("twoGbMaxExtentSparse")),
    Variant("split-flat", "vmdk", _converted("twoGbMaxExtentFlat")),
    Variant("new", "vmdk", _new("", 10 * MIB)),
    Variant("zeroed", "vmdk", _written("zeroed_grain=on", 4 * MIB, "write -P 1 0 1M", "write -z 512k 128k")),
    Variant("compat6", "vmdk", _new("compat6=on,adapter_type=lsilogic", 4 * MIB)),
    Variant("long-split", "vmdk", _written("subformat=twoGbMaxExtentSparse", 5 * GIB, "write 2047M 2M", "write 4G 64k")),
    Variant("large", "vmdk", _written("subformat=monolithicSparse", 100 * GIB, "write 99G 64k", "write 300k 3k")),
    Variant("child", "vmdk", _child),
    Variant("cowd", "vmdk", _cowd, except_for=REFUSED),
    Variant("vmfs-sparse", "vmdk", _vmfs_sparse),
    Variant("vmfs", "vmdk", _vmfs),
    Variant("two-flats", "vmdk", _two_flats),
    Variant("se-sparse", "vmdk", _se_sparse),
    Variant("small-stream", "vmdk", _converted("streamOptimized", 100 * KIB)),
]
