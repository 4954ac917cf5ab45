"""Which differences between two `info --output=json` are legitimate, each with its reason. Nothing else is forgiven."""

import copy
import json

# The file's length and blocks depend on where a writer puts things.
LAYOUT = ("actual-size",)
LAYOUT_OF_CHILDREN = ("virtual-size", "actual-size")

# What identifies an image is drawn at random.
IDENTITY = {"vmdk": ("cid",), "luks": ("uuid", "master-key-iters")}


def _forget(data, kind):
    for key in IDENTITY.get(kind, ()):
        data.pop(key)
    # How often a key is derived depends on how fast the machine was just then.
    for slot in data.get("slots", []):
        slot.pop("iters", None)


def normalise_info_json(obj, target, tmp_path=None):
    """A copy without what may differ between files written by different tools."""
    if isinstance(obj, list):
        return [normalise_info_json(item, target, tmp_path) for item in obj]
    info = copy.deepcopy(obj)
    specific = info.get("format-specific", {}).get("data", {})
    _forget(specific, info.get("format"))
    encrypt = specific.get("encrypt", {})
    _forget(encrypt, encrypt.get("format"))
    for key in LAYOUT:
        info.pop(key, None)
    if tmp_path and str(info.get("filename", "")).startswith(str(tmp_path)):
        info["filename"] = "$FILENAME"
    for child in info.get("children", []):
        for key in LAYOUT_OF_CHILDREN:
            child["info"].pop(key, None)
        child["info"]["filename"] = "$FILENAME"
    return info


def assert_info_equivalent(test, actual_str, expected_str, target, tmp_path=None, expected_tmp_path=None, msg=None):
    """Both texts describe the same image."""
    actual = normalise_info_json(json.loads(actual_str), target, tmp_path)
    expected = normalise_info_json(json.loads(expected_str), target, expected_tmp_path)
    test.assertEqual(actual, expected, msg)
