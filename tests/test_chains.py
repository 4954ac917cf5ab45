"""Random chains, the same ones each time: like the stock tool in everything that can be seen.

scripts/differential-fuzz.py does as many as wanted.
"""

import unittest

from tests.base import ISOLATION, InstarTestBase
from tests.helpers import chains
from tests.helpers.baseline_matrix import COMMANDS_NOT_YET

QCOW2_CHAINS = 100
MIXED_CHAINS = 100
MIXED_OPERATIONS = 3
# What the chains stand on.
FORMATS = chains.BELOW
OPERATIONS = tuple(name for name in chains.OPERATIONS if name not in COMMANDS_NOT_YET)


class TestChains(InstarTestBase):
    """One generated test a seed: `test_rebase_0`, `test_commit_0`, `test_mixed_0` ..."""


def _test(seed, kinds, most=1, mixed=()):
    def test(self):
        # 1: the stock tool itself failed, and ours was judged alone.
        self.assertIn(chains.one(seed, self.get_instar_binary(), ISOLATION, kinds, most, mixed), (0, 1))

    return test


for _seed in range(QCOW2_CHAINS):
    for _kind in ("rebase", "commit"):
        setattr(TestChains, f"test_{_kind}_{_seed}", _test(_seed, (_kind,)))
for _seed in range(MIXED_CHAINS):
    setattr(TestChains, f"test_mixed_{_seed}", _test(_seed, OPERATIONS, MIXED_OPERATIONS, FORMATS))


if __name__ == "__main__":
    unittest.main()
