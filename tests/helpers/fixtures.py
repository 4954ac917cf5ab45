"""The images of `tests/helpers/variants`, each made once in a process."""

import atexit
import functools
import os
import shutil
import tempfile

from tests.helpers import cells
from tests.helpers.variants import Maker


@functools.cache
def _root():
    root = tempfile.mkdtemp(prefix="instar-fixtures-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


_made = {}


def fixture(variant):
    """(folder, name) of the variant's image."""
    key = cells.key(variant)
    if key not in _made:
        folder = os.path.join(_root(), key.replace("/", "-"))
        os.mkdir(folder)
        _made[key] = folder, variant.make(Maker(folder, key), folder)
    return _made[key]
