"""Fixtures of this folder: a face, names for shared pools, and a look at what a test leaves behind."""

import gc
import itertools
import multiprocessing
import os
from pathlib import Path

import pytest
from support import beginning_with, until

NUMBERS = itertools.count()


def open_segments():
    """Return how many descriptors of segments this process has open."""
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            targets.append(os.readlink(entry))
        except FileNotFoundError:  # that of the folder itself
            pass
    return sum("memfd:iobuf_nb" in target or "iobuf_nb." in target for target in targets)


@pytest.fixture(autouse=True)
def nothing_left(capfd):
    """No name, no descriptor, no child and no complaint is left of a test, kills included."""
    gc.collect()
    before = open_segments()
    yield
    gc.collect()
    assert beginning_with(f"test.{os.getpid()}.") == []
    until(lambda: open_segments() <= before)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f"test.{os.getpid()}.{next(NUMBERS)}"
