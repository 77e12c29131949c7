"""Ctrl-C at each place where Python looks for signals: it comes out as what it is, and leaves nothing behind."""

import inspect
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import iobuf_nb
from iobuf_nb import blocks, stream

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("untraced", "threads_end")]

PACKAGE = str(Path(iobuf_nb.__file__).parent)


@njit
def count(buffer, n, offset, state):
    state[0] += n


def use_workers(path, pool):
    stream(path, count, state=np.zeros(1, np.int64), combine=np.add, workers=2, pool=pool)


def use_this_thread(path, pool):
    stream(path, count, state=np.zeros(1, np.int64), workers=1, pool=pool)


def read(path, pool):
    for block in blocks(path, workers=1, tier=4096):
        assert len(block)


def lease(path, pool):
    with pool.lease() as buffer:
        buffer.flags.writeable = False  # so that the next lease must make another array


@pytest.mark.parametrize("use", [use_workers, use_this_thread, read, lease])
def test_ctrl_c_anywhere(file, pool, monkeypatch, use):
    path, caught = file(bytes(10_000)), []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: caught.append(raised.exc_type))  # in a finalizer
    use(path, pool)
    for place in itertools.count():
        left = itertools.count(place, -1)

        def look(frame, event, argument, left=left):
            # At the start of a function in Python, and after one in C.
            mine = use is use_this_thread or PACKAGE in frame.f_code.co_filename  # the others take longer
            # Python 3.10 would not let a generator catch what is raised here when it goes on.
            goes_on = event == "call" and frame.f_code.co_flags & inspect.CO_GENERATOR
            if event not in ("return", "c_call") and mine and not goes_on and next(left) == 0:
                raise KeyboardInterrupt

        caught.clear()
        sys.setprofile(look)
        try:
            use(path, pool)
        except KeyboardInterrupt:
            caught.append(KeyboardInterrupt)
        finally:
            sys.setprofile(None)
        assert not pool.holders()
        if next(left) >= 0:
            break
        assert caught == [KeyboardInterrupt], place
    assert place > (100 if use is not lease else 4)
