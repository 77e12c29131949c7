"""Places: where each get of a pool with trace stands, in Python and in kernels."""

import asyncio
import contextlib
import gc
import logging
import re
import sys

import numpy as np
import pytest
from numba import njit
from support import line_of

from iobuf_nb import BufferPool, Channel, MagazineSet
from iobuf_nb._jit.places import name_of

HERE = re.escape(__file__)


@njit(nogil=True)
def get_and_leave(pool):
    first = pool.get()  # in a kernel: get
    second = pool.try_get()  # in a kernel: try_get
    out = np.zeros(2, np.int64)
    third = out[pool.get_many(out[:1]) - 1]  # in a kernel: get_many
    return first, second, third


def test_each_get_is_known_by_file_and_line():
    pool = BufferPool(8, 64, trace=True)
    indices = get_and_leave(pool)
    places = pool.places()
    for index, method in zip(indices, ["get", "try_get", "get_many"], strict=True):
        assert re.fullmatch(f"{HERE}:{line_of(__file__, '# in a kernel: ' + method)}", places[index])
    here = pool.get()  # in Python
    assert pool.places()[here] == f"{__file__}:{line_of(__file__, '# in ' + 'Python')}"
    with pool.lease():  # a lease
        assert f"{__file__}:{line_of(__file__, '# a ' + 'lease')}" in pool.places().values()
    pool.put_many(np.array([*indices, here]))
    assert pool.places() == {}


def test_a_leak_is_told_with_its_place(caplog):
    pool = BufferPool(2, 64, trace=True)
    pool.get()  # leaks
    line = line_of(__file__, "# " + "leaks")
    told = f"1 of its buffers still checked out: 0 by MainThread, got at {HERE}:{line}"
    with caplog.at_level(logging.WARNING, "iobuf_nb"), pytest.warns(ResourceWarning, match=told):
        pool.close()
    assert re.search(told, caplog.text)
    other = BufferPool(2, 64, trace=True)
    other.get()
    with pytest.warns(ResourceWarning, match=f"BufferPool of 2 was dropped .* got at {HERE}:"):
        del other
        gc.collect()


@pytest.mark.parametrize("options", [{}, {"debug": True}])
def test_the_warning_points_at_the_line_that_closes(options):
    def close(pool):
        pool.get()
        pool.close()

    def leave(pool):
        with pool:
            pool.get()

    def unwind(pool):
        with contextlib.closing(pool):
            pool.get()

    for end in close, leave, unwind:
        with pytest.warns(ResourceWarning, match="closed with 1 of its buffers") as caught:
            end(BufferPool(3, 16, **options))
        line, first = caught[0].lineno, end.__code__.co_firstlineno
        assert caught[0].filename == __file__ and first < line <= first + 2


def test_the_gets_of_magazines_are_known_too():
    pool = BufferPool(8, 64, trace=True)
    with MagazineSet(pool, 1, 2) as magazines:
        indices = get_and_leave(magazines[0])
        places = pool.places()
        for index, method in zip(indices, ["get", "try_get", "get_many"], strict=True):
            assert places[index] == f"{__file__}:{line_of(__file__, '# in a kernel: ' + method)}"
        here = magazines[0].get()  # by a magazine
        assert pool.places()[here] == f"{__file__}:{line_of(__file__, '# by a ' + 'magazine')}"
        assert get_of_set(magazines) not in (*indices, here)
        assert f"{__file__}:{line_of(__file__, '# of a ' + 'set')}" in pool.places().values()
        magazines[0].put_many(np.array(list(pool.holders())))
    assert pool.stats()[:2] == (5, 5)
    assert repr(pool.magazine()).startswith("Magazine(pool=BufferPool(")


@njit(nogil=True)
def get_of_set(magazines):
    return magazines[0].get()  # of a set


class Lazy:
    def __getattr__(self, name):
        raise ImportError(name)


def test_what_no_line_of_the_program_has_got_has_no_place(monkeypatch):
    pool = BufferPool(2, 64, trace=True)
    channel = Channel(pool, 1)
    channel.send(pool.get())
    index = channel.receive()
    assert pool.places() == {index: f"{__file__}:{line_of(__file__, 'channel.send(pool' + '.get())')}"}
    pool.put(index)
    monkeypatch.setitem(sys.modules, "lazy", Lazy())
    assert name_of(0) == "a place that is not known"
    assert name_of(5 << 24 | 17) == "a file that this process does not know:17"


@pytest.mark.compiled  # coverage needs a working directory
def test_a_file_that_is_none_has_a_place_too(tmp_path, monkeypatch):
    pool, out = BufferPool(8, 64, trace=True), np.zeros(1, np.int64)
    pool.put(pool.get()), pool.put_many(out[: pool.get_many(out)])  # compiled while numba still can
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for name in "relative.py", "no\ud800text", "no\0path", "<nothing>":
        code = compile("pool.get()\npool.get_many(out)", "any", "exec").replace(co_filename=name)
        exec(code, {"pool": pool, "out": out})
        assert {f"{name}:1", f"{name}:2"} <= {*pool.places().values()}
    pool.put_many(np.arange(8))


def test_the_gets_of_coroutines_are_known_where_they_are_asked_for():
    pool = BufferPool(2, 64, trace=True)

    async def use():
        index = await asyncio.wait_for(pool.aget(), 30)  # in a task
        assert pool.places() == {index: f"{__file__}:{line_of(__file__, '# in a ' + 'task')}"}
        pool.put(index)
        asyncio.ensure_future(pool.aget()).cancel()  # before it begins
        await asyncio.sleep(0)

    asyncio.run(use())
    with contextlib.ExitStack() as stack:
        stack.enter_context(pool.lease())  # in a stack
        assert list(pool.places().values()) == [f"{__file__}:{line_of(__file__, '# in a ' + 'stack')}"]
    assert pool.available() == 2
