"""Comparing texts, and saying how they differ."""

import difflib
import os


def get_disk_size(path):
    """Allocated bytes, as `info` counts them."""
    return os.stat(path).st_blocks * 512


def compare_outputs(actual, expected):
    """(equal, difference): white space that the eye misses is marked."""
    if actual == expected:
        return True, ""

    def mark(text):
        return [line.replace("\t", "\\t").replace(" \n", "\\s\n") for line in text.splitlines(keepends=True)]

    return False, "".join(difflib.unified_diff(mark(expected), mark(actual), "expected", "actual"))


def format_failure_message(name, difference):
    """For an assertion."""
    return f"{name} differs:\n{difference}"
