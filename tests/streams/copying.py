"""What copies are made of."""

import os

import pytest
from support import content

BLOCK = 1 << 18


def with_holes(path, size, *places):
    """Make a file that has a few bytes at each place, and holes around them."""
    with open(path, "wb") as file:
        file.truncate(size)
        for place in places:
            os.pwrite(file.fileno(), content(5000)[: size - place], place)
    if os.stat(path).st_blocks * 512 >= size:
        pytest.skip("the file system keeps no holes")
