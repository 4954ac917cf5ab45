"""`map` of every image."""

from tests.helpers.cases._images import image_cases

CASES = [
    *image_cases(
        {
            "human": ["map"],
            "json": ["map", "--output=json"],
            "part-json": ["map", "--output=json", "--start-offset=64k", "--max-length=1M"],
        }
    )
]
