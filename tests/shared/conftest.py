"""Fixtures of this folder: names for shared pools, and a look at what a test leaves behind."""

import itertools
import multiprocessing
import os

import pytest
from support import beginning_with

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def nothing_left(capfd):
    """No name, no child and no complaint of one is left of a test, kills included."""
    yield
    assert beginning_with(f"test.{os.getpid()}.") == []
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f"test.{os.getpid()}.{next(NUMBERS)}"
