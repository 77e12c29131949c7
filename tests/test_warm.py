"""Warming: what it says, that nothing is left to be compiled, and what happens where nothing can be cached."""

import pytest
from support import python, said

from iobuf_nb import _warm
from iobuf_nb.__main__ import main

pytestmark = pytest.mark.compiled

NO_ROOM = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from iobuf_nb.__main__ import main
sys.exit(main(["warm"]))
"""

# What the command loads from the cache of this session, or compiles, is all that is in the folder afterwards.
KEPT = """
import os, shutil, sys
from iobuf_nb._jit import cache
from iobuf_nb.__main__ import main

def kept(call):
    def called(place, key, *data):
        result = call(place, key, *data)
        path = cache._path_of(place, key)
        if path is not None and os.path.exists(path):
            folder = os.path.join(sys.argv[1], "iobuf_nb", os.path.basename(os.path.dirname(path)))
            os.makedirs(folder, exist_ok=True)
            shutil.copy2(path, folder)
        return result
    return called

cache.load, cache.save = kept(cache.load), kept(cache.save)
sys.exit(main(["warm"]))
"""

# Each use with what it takes for a program: kernels, states and pools of its own.
USE = """
import asyncio, os, sys
import numpy as np
from numba import njit
from numba.core import event
import iobuf_nb
from iobuf_nb import *

def ours(recorder):
    functions = [each.data["dispatcher"].py_func for _, each in recorder.buffer if each.is_start]
    return [f.__qualname__ for f in functions if f.__module__.startswith("iobuf_nb.") and "<" not in f.__qualname__]

@njit
def most(buffer, n, offset, state):
    state[0] = max(state[0], buffer[:n].max())

path = sys.argv[1]
with event.install_recorder("numba:compile") as recorder:
    for checked in (True, False):
        with BufferPool(3, 1 << 14, checked=checked) as pool:
            with pool.lease(timeout=1) as buffer, pool.magazine() as magazine:
                magazine.put(magazine.get())
            pool.put(asyncio.run(pool.aget()))
            stream(path, most, state=np.zeros(1), combine=np.add, pool=pool)
    for _ in blocks(path):
        pass
    for options in ({}, {"delimiter": b"0"}, {"ordered": True}, {"engine": "mmap"}):
        stream(path, most, state=np.zeros(1, np.int64), combine=np.maximum, **options)
    stream(path, most, state=np.zeros(1), dtype="f4")
    scan(path), copy(path, path + ".copy", verify=True)
    syscalls.pread_full(os.open(path, os.O_RDONLY), bytearray(10), 0)
    BoundedQueue(4).put(3)
    BoundedQueue(4).put_many(np.arange(4))
    BoundedQueue(4).get_or_closed(0)
    BoundedQueue(4, dtype="i8,f8").put_many(np.zeros(2, "i8,f8"))
print(ours(recorder))
"""


def counts(lines):
    """Return how many functions each step of the command has compiled, by what it has said."""
    assert [line[:12].rstrip() for line in lines[:-1]] == list(_warm.STEPS)
    return [int(line[12:17]) for line in lines[:-1]]


def assert_nothing_is_left(file, cache):
    """Neither the command nor a program compiles what is not in the folder."""
    lines = said("-m", "iobuf_nb", "warm", NUMBA_CACHE_DIR=str(cache)).splitlines()
    assert lines[-1] == f"All of it is cached under {cache / 'iobuf_nb'}" and not any(counts(lines))
    assert said("-c", USE, str(file(b"0" * 1_000_000)), NUMBA_CACHE_DIR=str(cache)) == "[]"


@pytest.mark.proof
def test_nothing_is_left_to_be_compiled(file, tmp_path):
    counts(said("-c", KEPT, str(tmp_path / "cache")).splitlines())
    assert_nothing_is_left(file, tmp_path / "cache")


@pytest.mark.long
def test_nothing_is_left_after_an_empty_cache_is_warmed(file, tmp_path):
    lines = said("-m", "iobuf_nb", "warm", NUMBA_CACHE_DIR=str(tmp_path / "cache")).splitlines()
    assert lines[-1] == f"All of it is cached under {tmp_path / 'cache' / 'iobuf_nb'}" and counts(lines)[0] > 0
    assert_nothing_is_left(file, tmp_path / "cache")


def test_a_cache_without_room(tmp_path):
    done = python("-c", NO_ROOM, NUMBA_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"python -m iobuf_nb: warm: compiled code cannot be cached in {tmp_path}")
    assert "NUMBA_CACHE_DIR" in done.stderr and done.stderr.count("\n") == 1


def test_no_folder_to_write_into(monkeypatch, capsys):
    def fail():
        raise OSError("no folder for compiled code can be written: read-only")

    monkeypatch.setattr(_warm, "place_to_write", fail)
    assert main(["warm"]) == 1
    told = (
        "no folder for compiled code can be written: read-only; "
        "set the environment variable NUMBA_CACHE_DIR to use another folder"
    )
    assert capsys.readouterr() == ("", f"python -m iobuf_nb: warm: {told}\n")


def test_steps_are_told_in_order_and_an_error_ends_them(monkeypatch):
    done, told = [], []
    monkeypatch.setattr(_warm, "STEPS", {"one": lambda: done.append(1), "two": lambda: done.append(2)})
    _warm.warm(lambda step, kernels, seconds: told.append((step, kernels, seconds >= 0)))
    assert done == [1, 2] and told == [("one", 0, True), ("two", 0, True)]

    def fail():
        raise ZeroDivisionError

    monkeypatch.setitem(_warm.STEPS, "one", fail)
    with pytest.raises(ZeroDivisionError):
        _warm.warm(lambda *_: None)
    assert done == [1, 2]


def test_the_bar_counts_steps_and_the_notice_is_silent(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("iobuf_nb.__main__._show_progress", lambda: True)
    monkeypatch.setattr(_warm, "STEPS", {"one": lambda: None, "two": lambda: None})
    assert main(["warm"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("one             0 compiled in 0.0 s\ntwo ") and "0/2" in err and "B" not in err
