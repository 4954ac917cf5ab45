"""Images that are meant to harm: `images.py` makes them, `test_hostile.py` runs every reading command on each."""
