"""Cases that look at the images of `tests/helpers/variants`."""

from tests.helpers.cases import NO_PARALLELS, NO_ZSTD, Case
from tests.helpers.variants import variants

# Nothing of a LUKS header is the same twice.
RANDOM = ("luks",)
# Of each format but the first two so many are enough for the differences between releases.
SOME = 6


def images():
    """The variants that every release reads alike."""
    count = {}
    for variant in variants():
        if not variant.stock or variant.format in RANDOM or variant.objects or variant.unreadable or variant.versions:
            continue
        count[variant.format] = count.get(variant.format, 0) + 1
        if variant.format in ("raw", "qcow2") or count[variant.format] <= SOME:
            yield variant


def setup(variant):
    """Makes the variant in the case's folder and returns how it is named."""
    return lambda make: variant.operand(variant.make(make, make.folder))


def without(variant):
    """Releases that cannot read it."""
    if variant.format == "parallels":
        return NO_PARALLELS
    if variant.name.startswith("data-file"):
        return {"5.2": "it opens data files for info, which instar does not"}
    return NO_ZSTD if "zstd" in variant.name else {}


def image_cases(commands):
    """A case an image; `commands` maps an output type to the words before the image."""
    for variant in images():
        given = ["-f", variant.format] if variant.explicit else []
        runs = {kind: [*words, *variant.argv, *given, "{image}"] for kind, words in commands.items()}
        yield Case(variant.name, variant.format, setup(variant), runs, without(variant))
