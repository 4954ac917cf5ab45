"""The images of `tests/helpers/variants`, each made once in a process."""

import atexit
import functools
import os
import shutil
import tempfile

from tests.helpers import cells, manifest
from tests.helpers.variants import Maker, variants


@functools.cache
def _root():
    root = tempfile.mkdtemp(prefix="instar-fixtures-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


_made = {}


def fixture(variant):
    """(folder, name) of the variant's image. It is an error where it is not what the manifest says."""
    key = cells.key(variant)
    if key not in _made:
        folder = os.path.join(_root(), key.replace("/", "-"))
        os.mkdir(folder)
        name = variant.make(Maker(folder, key), folder)
        if wrong := manifest.drift(variant, folder, name):
            raise AssertionError(wrong)
        _made[key] = folder, name
    return _made[key]


def by_id(identity):
    """(folder, name) of the image with that name in the manifest."""
    return fixture(next(v for v in variants(identity.split("/")[0]) if cells.key(v) == identity))
