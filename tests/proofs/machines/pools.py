"""The machine of pools and magazines."""

import asyncio
import contextlib
import functools
import threading

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)
from numba import config
from support import assert_whole

from iobuf_nb import (
    BufferPool,
    ItemPool,
    Magazine,
    MagazineSet,
    PoolClosed,
    WouldBlock,
)
from iobuf_nb._free.deque import COUNT

from .machine import ELSEWHERE, FACE, NO_INDEX, Machine, on, only_here, outcome

# ---- pools and magazines ---------------------------------------------------------------------------------------------


SOURCES = range(5)  # the pool, two magazines over it, and two more that are a set


HOW = st.tuples(FACE, st.sampled_from(["here", "there"]))


THREADS = {"here": threading.get_ident(), "there": ELSEWHERE.submit(threading.get_ident).result()}


class Pools(Machine):
    """A pool and magazines over it, in the hands of two threads, are a set of free indices and a dict of owners.

    Which of the free ones a get finds is left open.
    """

    covers = (BufferPool, ItemPool, Magazine, MagazineSet)

    @initialize(
        kind=st.sampled_from(["checked", "unchecked", "items"]),
        capacity=st.sampled_from([1, 2, 5]),
        sizes=st.tuples(*[st.integers(1, 3)] * 3),
    )
    def start(self, kind, capacity, sizes):
        if kind == "items":
            self.pool = ItemPool(range(100, 100 + capacity))
            self.contents = dict(enumerate(range(100, 100 + capacity)))
        else:
            self.pool = BufferPool(capacity, 16, checked=kind == "checked")
            self.contents = dict.fromkeys(range(capacity), bytes(16))
        self.faces = (
            ["python", "kernel"] if kind != "items" else ["python"] * 2
        )  # the lines in kernels are a BufferPool's
        self.team = MagazineSet(self.pool, 2, sizes[2])
        self.sources = [self.pool, self.pool.magazine(sizes[0]), Magazine(self.pool, sizes[1]), *self.team]
        self.owners = [None] * len(self.sources)
        self.free, self.out, self.is_closed = set(range(capacity)), {}, False

    def shut(self, k):
        """Whether nothing can be got from a source any more."""
        return self.is_closed or (k > 0 and self.sources[k].closed)

    def call(self, how, name, k, *arguments):
        """Call a method of a source in a thread that may use it: what it returned or raised, and that thread."""
        face, thread = how
        source = self.sources[k]
        if k > 0 and self.pool.checked and not source.closed:
            thread = self.owners[k] = self.owners[k] or thread
        function = getattr(on(self.faces[face == "kernel"]), name)
        run = function if thread == "here" else functools.partial(self.there, function)
        return outcome(run, source, *arguments), THREADS[thread]

    def there(self, function, *arguments):
        return ELSEWHERE.submit(function, *arguments).result()

    def took(self, k, indices, thread):
        """Whatever was got must have been free."""
        assert len(set(indices)) == len(indices) and set(indices) <= self.free
        assert not (self.shut(k) and indices)
        self.free -= set(indices)
        self.out.update(dict.fromkeys(indices, thread))

    def gave(self, indices):
        for index in indices:
            del self.out[index]
            self.free.add(index)

    def error(self, indices):
        """Return the error that giving these back must end with; None if all can be given."""
        for k, index in enumerate(indices):
            if not 0 <= index < self.pool.capacity:
                return IndexError
            if index not in self.out or index in indices[:k]:
                return ValueError
        return None

    @rule(how=HOW, k=st.sampled_from(SOURCES), name=st.sampled_from(["try_get", "get_at_once"]))
    def get(self, how, k, name):
        got, thread = self.call(how, name, k)
        if self.free and not self.shut(k):
            self.took(k, [got], thread)
        else:
            expected = PoolClosed if self.shut(k) else WouldBlock
            assert got == -1 if name == "try_get" else isinstance(got, expected)

    @precondition(lambda self: self.free)
    @rule(how=HOW, k=st.sampled_from(SOURCES))
    def get_for_which_there_is_something(self, how, k):
        assume(not self.shut(k))
        got, thread = self.call(how, "get", k)
        self.took(k, [got], thread)

    @precondition(lambda self: not self.free)
    @rule(k=st.sampled_from(SOURCES), nonblocking=st.booleans())
    def get_in_vain(self, k, nonblocking):
        self.pool.nonblocking = nonblocking
        got, _ = self.call(("python", "here"), *(("get", k) if nonblocking else ("get_within", k, 0.001)))
        self.pool.nonblocking = False
        assert isinstance(got, PoolClosed if self.shut(k) else WouldBlock)

    @rule(how=HOW, k=st.sampled_from(SOURCES), n=st.integers(0, 6))
    def get_many(self, how, k, n):
        out = np.full(n + 1, -7)
        count, thread = self.call(how, "get_many", k, out[:n])
        assert count == (0 if self.shut(k) else min(n, len(self.free))) and (out[count:] == -7).all()
        self.took(k, out[:count].tolist(), thread)

    @rule(how=HOW, k=st.sampled_from(SOURCES), index=st.integers(-1, 5), name=st.sampled_from(["try_put", "put"]))
    def put(self, how, k, index, name):
        assume(self.pool.checked or index not in self.free)
        error = self.error([index])
        got, _ = self.call(how, name, k, index)
        if name == "put" and error:
            assert type(got) is error and "index" in str(got) and str(index) in str(got)
        else:
            assert got is (None if name == "put" else error is None)
        self.gave([] if error else [index])

    @rule(how=HOW, k=st.sampled_from(SOURCES), data=st.data())
    def put_many(self, how, k, data):
        indices = data.draw(st.lists(st.sampled_from(sorted(self.out)), unique=True) if self.out else st.just([]))
        indices += data.draw(st.lists(st.integers(-1, 5), max_size=1))
        assume(self.pool.checked or self.error(indices) is not ValueError)
        error = self.error(indices)
        got, _ = self.call(how, "put_many", k, np.array(indices, np.int64))
        assert type(got) is error if error else got is None
        self.gave([] if error else indices)

    @rule(k=st.sampled_from(SOURCES), bad=NO_INDEX, name=st.sampled_from(["put", "try_put", "value"]))
    def pass_what_is_no_index(self, k, bad, name):
        with pytest.raises(TypeError, match="index must be an integer"):
            getattr(self.sources[k], name)(bad)

    @rule(
        k=st.sampled_from(SOURCES),
        bad=st.sampled_from([[0], None, np.zeros(1), np.zeros(1, "i4"), np.zeros((1, 1), "i8"), np.int64(0)]),
        name=st.sampled_from(["get_many", "put_many"]),
    )
    def pass_what_holds_no_indices(self, k, bad, name):
        with pytest.raises(TypeError, match="(indices|out) must be a one-dimensional int64 array"):
            getattr(self.sources[k], name)(bad)

    @rule(
        k=st.sampled_from(SOURCES[1:]), name=st.sampled_from(["try_get", "try_put", "put_many", "release"]), face=FACE
    )
    def use_the_magazine_of_another_thread(self, k, name, face):
        assume(self.owners[k] and self.pool.checked and not self.sources[k].closed)
        arguments = {"try_put": [0], "put_many": [np.zeros(0, np.int64)]}.get(name, [])
        method = getattr(on(self.faces[face == "kernel"]), name)
        run = method if self.owners[k] == "there" else functools.partial(self.there, method)
        with pytest.raises(RuntimeError, match="belongs to another thread"):
            run(self.sources[k], *arguments)

    @rule(how=HOW, k=st.sampled_from(SOURCES[1:]))
    def release(self, how, k):
        assert self.call(how, "release", k)[0] is None
        self.owners[k] = None

    @rule(k=st.sampled_from(SOURCES), fails=st.booleans())
    def lease(self, k, fails):
        def use():
            with self.pool.lease(block=False) if k == 0 else source.lease(block=False) as value:
                assert (value.tobytes() if isinstance(value, np.ndarray) else value) in self.contents.values()
                assert self.pool.available() == len(self.free) - 1
                raise KeyError if fails else StopAsyncIteration

        source = self.sources[k]
        if k > 0 and self.owners[k] == "there" and self.pool.checked and not source.closed:
            return
        if k > 0:
            self.owners[k] = "here"
        expected = (KeyError if fails else StopAsyncIteration) if self.free else WouldBlock
        with pytest.raises(PoolClosed if self.shut(k) else expected):
            use()

    @rule(leave=st.booleans())
    def get_in_a_coroutine(self, leave):
        async def use():
            async with self.pool.alease(timeout=0):
                if leave:
                    return -1
            return await self.pool.aget(timeout=0)

        got = outcome(asyncio.run, use())
        if self.free and not self.is_closed:
            self.took(0, [got] if got >= 0 else [], THREADS["here"])
            assert leave == (got < 0)
        else:
            assert isinstance(got, PoolClosed if self.is_closed else WouldBlock)

    @rule(face=FACE, k=st.sampled_from(SOURCES), index=st.integers(-1, 5), data=st.binary(max_size=17))
    def set_value(self, face, k, index, data):
        known = self.pool.checked or index in self.contents  # kernels do not look, if the pool is not checked
        method = on(self.faces[face == "kernel" and k == 0 and known]).set_value
        got = outcome(method, self.sources[k], index, data)
        if index not in self.contents:
            assert type(got) is IndexError
        elif isinstance(self.pool, ItemPool):
            self.contents[index] = data
        elif len(data) > 16:
            assert type(got) is ValueError and "data must not be longer" in str(got)
        else:
            self.contents[index] = data + self.contents[index][len(data) :]

    @rule(face=FACE, index=st.sampled_from([-1, 5, 2**40]))
    def value_of_what_is_not_there(self, face, index):
        assume(self.pool.checked or face == "python")
        with pytest.raises(IndexError, match="index must be from 0 to"):
            on(self.faces[face == "kernel"]).value(self.pool, index)

    @precondition(lambda self: isinstance(self.pool, BufferPool))
    @rule(byte=st.integers(0, 255))
    def fill(self, byte):
        got = outcome(self.pool.fill, lambda: bytes([byte]))
        if self.is_closed:
            assert isinstance(got, PoolClosed)
        elif self.out:
            assert isinstance(got, ValueError)
        else:
            self.contents = {index: bytes([byte]) + value[1:] for index, value in self.contents.items()}

    @rule(how=HOW, index=st.integers(-1, 2))
    def fetch_from_the_set(self, how, index):
        got = outcome(on(self.faces[how[0] == "kernel"]).fetch, self.team, index)
        assert got is self.sources[3 + index] if index in (0, 1) else type(got) is IndexError
        assert on(self.faces[how[0] == "kernel"]).length(self.team) == 2

    @rule(bad=NO_INDEX)
    def fetch_by_what_is_no_number(self, bad):
        with pytest.raises(TypeError, match="k must be an integer|integer"):
            self.team[bad]

    @rule(k=st.sampled_from(SOURCES[1:3]), leave=st.booleans())
    def close(self, k, leave):
        with self.sources[k] if leave else contextlib.nullcontext():
            self.sources[k].close()
        self.owners[k] = None

    @rule(leave=st.booleans())
    def close_the_set(self, leave):
        with self.team if leave else contextlib.nullcontext():
            self.team.close()
        self.owners[3:] = [None] * 2

    @rule(k=st.sampled_from(SOURCES[1:3]), size=st.integers(1, 3))
    def drop_and_open(self, k, size):
        self.sources[k] = self.owners[k] = None
        self.sources[k] = self.pool.magazine(size)

    @rule(pool=st.sampled_from([None, 1, "magazine"]), size=st.sampled_from([0, 513, 1.5, 4]))
    def open_what_cannot_be(self, pool, size):
        assume(pool is not None or size != 4)
        over = {None: self.pool, "magazine": self.sources[1]}.get(pool, pool)
        for make in (Magazine, lambda over, size: MagazineSet(over, 2, size)):
            with pytest.raises((TypeError, ValueError), match="pool must be|size must be"):
                make(over, size)

    @rule(how=st.sampled_from(["python", "kernel", "with"]))
    def close_the_pool(self, how):
        compiled = how == "kernel" and self.faces[1] == "kernel" and not config.DISABLE_JIT  # that only closes
        warns = self.out and not self.is_closed and not compiled
        warning = pytest.warns(ResourceWarning, match="out") if warns else contextlib.nullcontext()
        with warning, self.pool if how == "with" else contextlib.nullcontext():
            on(self.faces[how == "kernel"]).close(self.pool)
        self.is_closed = True

    @rule(nonblocking=st.booleans(), face=FACE)
    def set_nonblocking(self, nonblocking, face):
        self.pool.nonblocking = nonblocking
        assert on(self.faces[face == "kernel"]).nonblocking(self.pool) is nonblocking
        self.pool.nonblocking = False

    @rule(k=st.sampled_from(SOURCES))
    def show(self, k):
        name = type(self.sources[k]).__name__
        only_here(self.sources[k], f"a {name} cannot be pickled or copied")
        only_here(self.team, "a MagazineSet cannot be pickled or copied")
        assert "<meter" in self.sources[k]._repr_html_() and "<meter" in self.team._repr_html_()

    def compare(self):
        magazines = self.sources[1:]
        assert self.pool.available() == len(self.free) == self.pool.capacity - len(self.out)
        if self.pool.checked:
            assert self.pool.holders() == self.out
        else:
            with pytest.raises(ValueError, match="checked=True"):
                self.pool.holders()
        assert all(magazine.was_size() <= 3 for magazine in magazines)
        lying = self.pool._queue.was_size() + sum(magazine.was_size() for magazine in magazines)
        assert lying <= len(self.free)  # what a closed magazine has left is in no other's size
        assert lying == len(self.free) or any(magazine.closed for magazine in magazines)
        assert self.pool._deques[COUNT] == len(magazines)
        assert all((source.capacity, source.checked) == (len(self.contents), self.pool.checked) for source in magazines)
        assert self.pool.closed is self.is_closed and self.pool._words is self.pool._queue._words
        for index, expected in self.contents.items():
            value = self.sources[index % len(SOURCES)].value(index)
            assert (value.tobytes() if isinstance(value, np.ndarray) else value) == expected
            if isinstance(self.pool, BufferPool):
                assert self.pool.view(index).tobytes() == expected

    def teardown(self):
        self.pool.put_many(np.array(sorted(self.out), np.int64))
        assert self.pool.available() == self.pool.capacity
        if not self.is_closed:
            assert_whole(self.pool)
