"""`info` of every image."""

from tests.helpers.cases._images import image_cases

CASES = [
    *image_cases(
        {
            "human": ["info"],
            "json": ["info", "--output=json"],
            "chain-human": ["info", "--backing-chain"],
            "chain-json": ["info", "--backing-chain", "--output=json"],
        }
    )
]
