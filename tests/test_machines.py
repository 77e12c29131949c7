"""Every public class against a plain model of it, by random sequences of all its methods, from Python and in kernels.

A machine holds an object and a model made of deques, sets and dicts. Its rules call methods, good and bad, from either
face, and compare the answer or the error with the model's; after each step all that can be seen of the object is
compared. The last tests make sure that no public class, and no method of one, is left out.
"""

import asyncio
import contextlib
import copy
import ctypes
import errno
import functools
import importlib
import inspect
import os
import pickle
import pkgutil
import re
import socket
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import faces
import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numba import config
from test_magazine import assert_whole
from test_ring import place
from test_uring import Face, why_not

import iobuf_nb
from iobuf_nb import (
    IOVEC_DTYPE,
    Backoff,
    BoundedQueue,
    BufferPool,
    IoVec,
    ItemPool,
    Magazine,
    MagazineSet,
    PoolClosed,
    SpinWait,
    WouldBlock,
    iovec_from_buffers,
    syscalls,
)
from iobuf_nb._free.deque import COUNT
from iobuf_nb.uring import RegisteredPool, Ring

FACE = st.sampled_from(["python", "kernel"])
NO_INDEX = st.sampled_from([None, 1.0, "1", b"1", [], object()])
ELSEWHERE = ThreadPoolExecutor(1)  # a second thread


def on(face):
    return getattr(faces, face)


def outcome(function, *arguments, **named):
    """Return what a call returns, or the error that it raises, without the frames that would keep its objects alive."""
    try:
        return function(*arguments, **named)
    except Exception as error:
        return error.with_traceback(None)


def only_here(thing, message):
    """It shows itself, and it can be neither pickled nor copied."""
    assert type(thing).__name__ in repr(thing)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=message):
            leave(thing)


class Machine(RuleBasedStateMachine):
    """What all machines share: they count the states in which object and model have been compared."""

    covers = ()
    states = 0

    @invariant()
    def agrees(self):
        type(self).states += 1
        self.compare()


# ---- queues ----------------------------------------------------------------------------------------------------------


class Queue(Machine):
    """A `BoundedQueue` is a deque of bounded length."""

    covers = (BoundedQueue,)

    @initialize(
        capacity=st.integers(1, 5), more=st.sampled_from([None, 1, 7, 1024]), lap=st.sampled_from([0, 1, 2**40])
    )
    def start(self, capacity, more, lap):
        self.queue = BoundedQueue(capacity) if more is None else BoundedQueue(capacity, limit=capacity * more)
        assert (self.queue.capacity, self.queue.limit) == (capacity, capacity * (more or 1))
        place(self.queue, lap)
        self.model, self.is_closed = deque(), False

    @rule(face=FACE, item=st.integers(-2, 5000), name=st.sampled_from(["try_put", "put_within"]))
    def put(self, face, item, name):
        got = outcome(getattr(on(face), name), self.queue, item, *[0.0] * (name == "put_within"))
        if not 0 <= item < self.queue.limit:
            assert isinstance(got, ValueError) and "item must be" in str(got)
        elif self.is_closed or len(self.model) == self.queue.capacity:
            assert got is False or isinstance(got, PoolClosed if self.is_closed else WouldBlock)
        else:
            assert got is {"try_put": True, "put_within": None}[name]
            self.model.append(item)

    @rule(item=st.sampled_from([2**63, -(2**63) - 1, 2**200]), name=st.sampled_from(["put", "try_put"]))
    def put_what_is_too_large(self, item, name):
        with pytest.raises(ValueError, match=f"item must be an integer from 0 to .*, not {item}"):
            getattr(self.queue, name)(item)

    @rule(item=NO_INDEX, name=st.sampled_from(["put", "try_put"]))
    def put_what_is_no_integer(self, item, name):
        with pytest.raises(TypeError, match="item must be an integer"):
            getattr(self.queue, name)(item)

    @rule(face=FACE, name=st.sampled_from(["try_get", "get_at_once"]))
    def get(self, face, name):
        got = outcome(getattr(on(face), name), self.queue)
        if self.model:
            assert got == self.model.popleft()
        else:
            assert got == -1 or isinstance(got, PoolClosed if self.is_closed else WouldBlock)

    @rule(block=st.booleans(), timeout=st.sampled_from([-1, float("nan"), "1", [], True]))
    def get_within_a_bad_time(self, block, timeout):
        with pytest.raises((TypeError, ValueError), match="timeout must be None or a number of seconds >= 0"):
            self.queue.get(block, timeout)

    @rule(face=FACE)
    def close(self, face):
        on(face).close(self.queue)
        self.is_closed = True

    @rule()
    def show(self):
        only_here(self.queue, "a BoundedQueue cannot be pickled or copied")
        assert f"{100 * len(self.model) / self.queue.capacity:.1f} %" in self.queue._repr_html_()

    def compare(self):
        for face in (faces.python, faces.kernel):
            assert face.was_size(self.queue) == len(self.model)
            assert face.closed(self.queue) == self.is_closed


# ---- pools and magazines ---------------------------------------------------------------------------------------------

SOURCES = range(5)  # the pool, two magazines over it, and two more that are a set
HOW = st.tuples(FACE, st.sampled_from(["here", "there"]))
THREADS = {"here": threading.get_ident(), "there": ELSEWHERE.submit(threading.get_ident).result()}


class Pools(Machine):
    """A pool and magazines over it, in the hands of two threads, are a set of free indices and a dict of holders.

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
        )  # the kernel's lines are a BufferPool's
        self.team = MagazineSet(self.pool, 2, sizes[2])
        self.sources = [self.pool, self.pool.magazine(sizes[0]), Magazine(self.pool, sizes[1]), *self.team]
        self.users = [None] * len(self.sources)
        self.free, self.out, self.is_closed = set(range(capacity)), {}, False

    def shut(self, k):
        """Whether nothing can be got from a source any more."""
        return self.is_closed or (k > 0 and self.sources[k].closed)

    def call(self, how, name, k, *arguments):
        """Call a method of a source in a thread that may use it: what it returned or raised, and that thread."""
        face, thread = how
        source = self.sources[k]
        if k > 0 and self.pool.checked and not source.closed:
            thread = self.users[k] = self.users[k] or thread
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
        assume(self.users[k] and self.pool.checked and not self.sources[k].closed)
        arguments = {"try_put": [0], "put_many": [np.zeros(0, np.int64)]}.get(name, [])
        method = getattr(on(self.faces[face == "kernel"]), name)
        run = method if self.users[k] == "there" else functools.partial(self.there, method)
        with pytest.raises(RuntimeError, match="belongs to another thread"):
            run(self.sources[k], *arguments)

    @rule(how=HOW, k=st.sampled_from(SOURCES[1:]))
    def release(self, how, k):
        assert self.call(how, "release", k)[0] is None
        self.users[k] = None

    @rule(k=st.sampled_from(SOURCES), fails=st.booleans())
    def lease(self, k, fails):
        def use():
            with self.pool.lease(block=False) if k == 0 else source.lease(block=False) as value:
                assert (value.tobytes() if isinstance(value, np.ndarray) else value) in self.contents.values()
                assert self.pool.available() == len(self.free) - 1
                raise KeyError if fails else StopAsyncIteration

        source = self.sources[k]
        if k > 0 and self.users[k] == "there" and self.pool.checked and not source.closed:
            return
        if k > 0:
            self.users[k] = "here"
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
        self.users[k] = None

    @rule(leave=st.booleans())
    def close_the_set(self, leave):
        with self.team if leave else contextlib.nullcontext():
            self.team.close()
        self.users[3:] = [None] * 2

    @rule(k=st.sampled_from(SOURCES[1:3]), size=st.integers(1, 3))
    def drop_and_open(self, k, size):
        self.sources[k] = self.users[k] = None
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

    def teardown(self):
        self.pool.put_many(np.array(sorted(self.out), np.int64))
        assert self.pool.available() == self.pool.capacity
        if not self.is_closed:
            assert_whole(self.pool)


# ---- iovecs ----------------------------------------------------------------------------------------------------------


class Iovecs(Machine):
    """An `IoVec` is a list of pieces of memory; its slices share the entries, its copies do not.

    A piece is [which memory, where in it, how long]. Every iovec must gather the bytes that its pieces name.
    """

    covers = (IoVec,)

    @initialize()
    def start(self):
        self.pool = BufferPool(4, 16)
        self.pool.fill(functools.partial(os.urandom, 16))
        self.memories = {
            "bytearray": bytearray(os.urandom(40)),
            "bytes": os.urandom(20),
            "pool": self.pool._buffers.reshape(-1),
        }
        self.iovecs, self.models, self.unfit = [], [], []

    def add(self, iovec, pieces, unfit):
        assert isinstance(iovec, IoVec) and iovec.shape == (len(pieces),)
        self.iovecs.append(iovec)
        self.models.append(pieces)
        self.unfit.append(unfit)

    def overlap(self, pieces):
        used = [{(name, byte) for byte in range(first, first + length)} for name, first, length in pieces if length]
        return sum(map(len, used)) != len(set().union(*used))

    @rule(
        pieces=st.lists(
            st.tuples(st.sampled_from(["bytearray", "bytes"]), st.integers(0, 9), st.integers(0, 11)), max_size=4
        ),
        writable=st.booleans(),
    )
    def make(self, pieces, writable):
        buffers = [memoryview(self.memories[name])[first : first + length] for name, first, length in pieces]
        unfit = any(name == "bytes" for name, _, _ in pieces) or self.overlap(pieces)
        got = outcome(iovec_from_buffers, buffers, writable=writable)
        if unfit and writable:
            assert isinstance(got, ValueError) and "writable memory" in str(got)
        else:
            self.add(got, [list(piece) for piece in pieces], unfit)

    @rule(
        indices=st.lists(st.integers(-1, 4), max_size=4), lengths=st.none() | st.lists(st.integers(-1, 17), max_size=4)
    )
    def make_over_a_pool(self, indices, lengths):
        got = outcome(self.pool.iovec, indices, lengths)
        error = self.error(indices, lengths)
        if error:
            assert type(got) in error
        else:
            pieces = [["pool", 16 * k, 16 if lengths is None else lengths[i]] for i, k in enumerate(indices)]
            self.add(got, pieces, self.overlap(pieces))

    def error(self, indices, lengths):
        """Return the errors that pointing at these buffers may end with; none if it can be done."""
        return [IndexError] * any(not 0 <= k < 4 for k in indices) + [ValueError] * (
            lengths is not None and (len(lengths) != len(indices) or any(not 0 <= n <= 16 for n in lengths))
        )

    @precondition(lambda self: self.iovecs)
    @rule(data=st.data(), part=st.slices(4), copies=st.booleans())
    def take_a_part(self, data, part, copies):
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        made = self.iovecs[k][part]
        pieces = self.models[k][part]
        self.add(made.copy() if copies else made, copy.deepcopy(pieces) if copies else pieces, self.unfit[k])

    @precondition(lambda self: self.iovecs)
    @rule(data=st.data(), face=FACE, n=st.integers(-1, 45))
    def advance(self, data, face, n):
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        iovec, pieces = self.iovecs[k], self.models[k]
        got = outcome(on(face).advance, iovec, n)
        if not iovec.flags.c_contiguous:
            assert "contiguous" in str(got)
        elif not 0 <= n <= sum(length for _, _, length in pieces):
            assert isinstance(got, ValueError) and "n must be" in str(got)
        else:
            for piece in pieces:
                step = min(n, piece[2])
                piece[1] += step
                piece[2] -= step
                n -= step
            assert got == next((i for i, piece in enumerate(pieces) if piece[2]), len(pieces))

    @precondition(lambda self: self.iovecs)
    @rule(
        data=st.data(),
        face=FACE,
        indices=st.lists(st.integers(-1, 4), max_size=4),
        lengths=st.none() | st.lists(st.integers(-1, 17), max_size=4),
    )
    def point_at_a_pool(self, data, face, indices, lengths):
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        iovec, pieces = self.iovecs[k], self.models[k]
        arguments = [None if each is None else np.array(each, np.int64) for each in (indices, lengths)]
        got = outcome(on(face).point, iovec, self.pool, *arguments)
        error = self.error(indices, lengths) + [ValueError] * (len(indices) > len(iovec))
        if not iovec.flags.c_contiguous:
            assert "contiguous" in str(got)
        elif error:
            assert type(got) in error
        else:
            assert got == (16 * len(indices) if lengths is None else sum(lengths))
            for i, index in enumerate(indices):
                pieces[i][:] = "pool", 16 * index, 16 if lengths is None else lengths[i]

    @precondition(lambda self: self.iovecs)
    @rule(data=st.data(), face=FACE)
    def go_through_a_pipe(self, data, face):
        """Writing gathers the bytes, and reading back scatters the same ones, where that is allowed."""
        k = data.draw(st.integers(0, len(self.iovecs) - 1))
        iovec, expected = self.iovecs[k], self.bytes_of(self.models[k])
        if not iovec.flags.c_contiguous:
            for call in (lambda: syscalls.writev(1, iovec), lambda: on(face).address_and_length(iovec)):
                assert "contiguous" in str(outcome(call))
            return
        assert on(face).address_and_length(iovec) == ((iovec.ctypes.data, len(iovec)) if len(iovec) else (0, 0))
        reader, writer = os.pipe()
        try:
            assert syscalls.writev(writer, iovec) == len(expected)
            if self.unfit[k]:
                with pytest.raises(ValueError, match="an iovec to be read into must be over writable memory"):
                    syscalls.readv(reader, iovec)
            elif expected:
                assert syscalls.readv(reader, iovec) == len(expected)
        finally:
            os.close(reader)
            os.close(writer)

    @precondition(lambda self: self.iovecs)
    @rule()
    def drop(self):
        for column in (self.iovecs, self.models, self.unfit):
            column.pop()

    @precondition(lambda self: self.iovecs)
    @rule()
    def pickle_one(self):
        with pytest.raises(TypeError, match="an IoVec cannot be pickled"):
            pickle.dumps(self.iovecs[-1])

    def bytes_of(self, pieces):
        return b"".join(bytes(self.memories[name][first : first + length]) for name, first, length in pieces)

    def compare(self):
        for iovec, pieces in zip(self.iovecs, self.models, strict=True):
            found = [ctypes.string_at(int(entry["base"]), int(entry["len"])) for entry in iovec]
            assert b"".join(found) == self.bytes_of(pieces)
            assert iovec["len"].tolist() == [length for _, _, length in pieces] and iovec.dtype == IOVEC_DTYPE

    def teardown(self):
        if any(name == "bytearray" for pieces in self.models for name, _, _ in pieces):
            with pytest.raises(BufferError):
                self.memories["bytearray"].clear()


# ---- pacing ----------------------------------------------------------------------------------------------------------


class Spinning(Machine):
    """A `SpinWait` is a count of turns."""

    covers = (SpinWait,)

    @initialize()
    def start(self):
        self.waiter, self.turns = SpinWait(), 0

    @rule(face=FACE)
    def once(self, face):
        on(face).once(self.waiter)
        self.turns += 1

    @rule(face=FACE)
    def reset(self, face):
        on(face).reset(self.waiter)
        self.turns = 0

    @rule()
    def show(self):
        only_here(self.waiter, "a SpinWait cannot be pickled or copied")

    def compare(self):
        assert faces.python.will_yield(self.waiter) == faces.kernel.will_yield(self.waiter) == (self.turns >= 8)


class Pacing(Machine):
    """A `Backoff` is a block, the sleeps of it that are over, and two limits."""

    covers = (Backoff,)
    SECONDS = st.sampled_from([1e-9, 1e-6, 3e-6, 1e-5])
    BAD = st.sampled_from([0, -1e-6, float("nan"), float("inf"), 2**34])

    @initialize(limits=st.tuples(SECONDS, SECONDS))
    def start(self, limits):
        self.base, self.max = sorted(limits)
        self.backoff = Backoff(self.base, self.max)
        self.block, self.slept = 1, 0

    @rule(face=FACE)
    def wait(self, face):
        on(face).sleep(self.backoff)
        self.slept += 1
        if self.slept == self.block:
            self.block, self.slept = self.block + 1, 0

    @rule(face=FACE)
    def reset(self, face):
        on(face).reset(self.backoff)
        self.block, self.slept = 1, 0

    @rule(face=FACE, base=SECONDS | BAD)
    def set_base(self, face, base):
        got = outcome(on(face).set_base, self.backoff, float(base))
        if 0 < base <= self.max:
            self.base = base
        else:
            assert isinstance(got, ValueError) and ("max" if base > 0 else "base") in str(got)

    @rule(face=FACE, max=SECONDS | BAD)
    def set_max(self, face, max):
        got = outcome(on(face).set_max, self.backoff, float(max))
        if self.base <= max <= 2**33:
            self.max = max
        else:
            assert isinstance(got, ValueError) and "max must be a number of seconds from base" in str(got)

    @rule(bad=st.sampled_from([None, True, "1", b"1", [], 1j]))
    def set_what_is_no_number(self, bad):
        for call in (self.backoff.set_base, self.backoff.set_max, Backoff):
            with pytest.raises(TypeError, match="must be a number of seconds"):
                call(bad)

    @rule()
    def show(self):
        only_here(self.backoff, "a Backoff cannot be pickled or copied")

    def compare(self):
        duration = min(self.block * self.base, self.max)
        for face in (faces.python, faces.kernel):
            block, *seconds = face.pace(self.backoff)
            assert block == self.block and seconds == pytest.approx([duration, self.base, self.max], rel=1e-3)


# ---- io_uring --------------------------------------------------------------------------------------------------------

IO = {name: Face(getattr(faces, name)) for name in ("python", "kernel")}


def status(face, function, *arguments):
    """Return a count, or -errno from either face."""
    got = outcome(getattr(IO[face], function), *arguments)
    return -got.errno if isinstance(got, OSError) and not isinstance(got, WouldBlock) else got


class Reading(Machine):
    """A `RegisteredPool` over a file: a buffer is free, held by us, or the kernel's until its index comes back."""

    covers = (RegisteredPool, Ring)
    SIZE, FILE = 512, 5000

    @initialize(entries=st.sampled_from([1, 2, 8]), checked=st.booleans())
    def start(self, entries, checked):
        self.data = bytearray(os.urandom(self.FILE))
        self.file = os.memfd_create("machine")
        os.write(self.file, self.data)
        self.pool, self.ring = BufferPool(4, self.SIZE, checked=checked), Ring(entries)
        assert self.ring.entries == entries
        self.registered = self.pool.register(self.ring)
        self.queue = BoundedQueue(4)
        self.held = set()
        self.queued = {}  # what is under way by index: (offset, length), both None for a write
        self.batches = []  # the same for reads into buffers that we do not know yet
        self.waiting = 0  # operations in the submission queue

    def room(self):
        """How many operations can still be queued."""
        return 2 * self.ring.entries - len(self.queued) - len(self.batches)

    def free(self):
        return 4 - len(self.held) - len(self.queued) - len(self.batches)

    def enqueue(self, n):
        for _ in range(n):
            self.waiting = self.waiting % self.ring.entries + 1

    @rule()
    def get(self):
        index = self.pool.try_get()
        assert (index >= 0) == (self.free() > 0)
        self.held |= {index} - {-1}

    @rule(index=st.integers(0, 3))
    def put(self, index):
        assume(index in self.held or self.pool.checked)
        assert self.pool.try_put(index) is (index in self.held)
        self.held -= {index}

    @rule(face=FACE, index=st.integers(-1, 4), offset=st.integers(-2, 6000), length=st.integers(-2, 513))
    def read(self, face, index, offset, length):
        assume(offset != -1 and (self.pool.checked or index in self.held or index in self.queued))
        got = status(face, "read_some", self.registered, self.file, index, offset, length)
        if offset < 0 or not -1 <= length <= self.SIZE:
            assert isinstance(got, ValueError) and ("offset" if offset < 0 else "length") in str(got)
        elif self.may_queue(got, index):
            self.queued[index] = offset, self.SIZE if length < 0 else length

    @rule(face=FACE, index=st.integers(-1, 4), byte=st.integers(0, 255))
    def write(self, face, index, byte):
        """Write beyond what is read, a place for each buffer."""
        assume(self.pool.checked or index in self.held or index in self.queued)
        if index in self.held:
            self.pool.value(index)[:] = byte
        got = status(face, "write_fixed", self.registered, self.file, index, 10_000 + index * self.SIZE, -1)
        if self.may_queue(got, index):
            self.queued[index] = None, byte

    def may_queue(self, got, index):
        if not 0 <= index < 4:
            assert type(got) is IndexError
        elif index in self.queued:
            assert isinstance(got, ValueError) and "under way" in str(got)
        elif index not in self.held and self.room() > 0:
            assert isinstance(got, ValueError)  # in a kernel's hands, or in the pool
        elif self.room() == 0:
            assert got == -errno.EBUSY or isinstance(got, ValueError)
        else:
            assert got == 0
            self.held.remove(index)
            self.enqueue(1)
            return True
        return False

    @rule(face=FACE, offset=st.integers(-1, 6000), size=st.integers(0, 2000))
    def read_batch(self, face, offset, size):
        n = min(self.free(), self.room(), -(-size // self.SIZE))
        got = status(face, "read_batch", self.registered, self.file, offset, max(offset + size, 0))
        if offset < 0:
            assert isinstance(got, ValueError) and "offset" in str(got)
            return
        assert got == min(offset + size, offset + n * self.SIZE)
        self.batches += [(at, min(self.SIZE, offset + size - at)) for at in range(offset, got, self.SIZE)]
        self.waiting = 0 if n else self.waiting

    @rule(face=FACE)
    def submit(self, face):
        assert IO[face].submit(self.registered) == self.waiting
        self.waiting = 0

    @rule(face=FACE, at_least=st.integers(-1, 5))
    def complete(self, face, at_least):
        under_way = len(self.queued) + len(self.batches)
        got = outcome(IO[face].complete, self.registered, self.queue, at_least, 60.0)
        if at_least < 0:
            assert isinstance(got, ValueError) and "at_least" in str(got)
            return
        assert min(at_least, under_way) <= got <= under_way
        self.waiting = 0
        for _ in range(got):
            self.completed(self.queue.get(block=False))
        assert self.queue.try_get() == -1

    def completed(self, index):
        length, offset, fd = IO["kernel"].result(self.registered, index)
        assert self.registered.lengths[index] == length and self.registered.descriptors[index] == fd == self.file
        assert self.registered.offsets[index] == offset
        if index not in self.queued:
            self.queued[index] = self.batches.pop([at for at, _ in self.batches].index(offset))
        start, wanted = self.queued.pop(index)
        if start is None:
            written = os.pread(self.file, self.SIZE, offset)
            assert length == self.SIZE and written == self.pool.value(index).tobytes() == bytes([wanted]) * self.SIZE
        else:
            expected = self.data[start : start + wanted]
            assert start == offset
            assert length >= len(expected) and self.pool.value(index)[: len(expected)].tobytes() == expected
        self.held.add(index)

    @rule(bad=st.sampled_from([None, 1.5, "1"]), face=st.just("python"))
    def pass_what_is_no_number(self, bad, face):
        for arguments in ((bad, 0, 0), (self.file, bad, 0), (self.file, 0, bad)):
            with pytest.raises(TypeError, match="must be an integer"):
                self.registered.read_fixed(*arguments)

    @rule(queue=st.sampled_from([None, BoundedQueue(3), BoundedQueue(5, limit=3)]))
    def complete_into_what_does_not_fit(self, queue):
        with pytest.raises((TypeError, ValueError), match="queue must"):
            self.registered.complete(queue)

    @rule()
    def open_what_cannot_be(self):
        for bad in (0, 32769, None, 1.5):
            with pytest.raises((TypeError, ValueError), match="entries must be"):
                Ring(bad)
        for pool, ring in ((self.pool, self.ring), (None, self.ring), (self.pool, None)):
            with pytest.raises((TypeError, ValueError), match="must be"):
                RegisteredPool(pool, ring)
        got = status("python", "receive", self.registered, self.file)
        assert got == -errno.ENOBUFS  # it was made without receive=

    @rule(of=st.sampled_from(["ring", "registered"]), leave=st.booleans())
    def close_and_open(self, of, leave):
        """Closing gives back what `read_batch` took, and ends what is under way."""
        closed = getattr(self, of)
        with closed if leave else contextlib.nullcontext():
            closed.close()
        assert self.registered.closed and self.ring.closed == (of == "ring")
        for face in IO:
            assert isinstance(outcome(IO[face].submit, self.registered), PoolClosed)
        self.held |= self.queued.keys()
        self.queued, self.batches, self.waiting = {}, [], 0
        if of == "ring":
            with pytest.raises(PoolClosed):
                self.pool.register(self.ring)
            self.ring = Ring(self.ring.entries)
        self.registered = RegisteredPool(self.pool, self.ring)

    @rule()
    def show(self):
        only_here(self.ring, "a Ring cannot be pickled or copied")
        only_here(self.registered, "a RegisteredPool cannot be pickled or copied")

    def compare(self):
        assert not self.registered.closed and not self.ring.closed
        assert self.registered.in_flight == IO["kernel"].in_flight(self.registered)
        assert self.registered.in_flight == len(self.queued) + len(self.batches)
        assert self.pool.available() == self.free()
        if self.pool.checked:
            out = self.pool.holders().keys()
            assert out >= self.held | self.queued.keys() and len(out) == 4 - self.free()

    def teardown(self):
        self.ring.close()
        os.close(self.file)
        self.pool.put_many(np.array(sorted(self.held | self.queued.keys()), np.int64))
        assert_whole(self.pool)


class Receiving(Machine):
    """A `RegisteredPool` over two sockets: what is received of each is what was sent, in order, and nothing is lost."""

    covers = (RegisteredPool, Ring)

    @initialize(capacity=st.integers(3, 8), entries=st.sampled_from([2, 8]))
    def start(self, capacity, entries):
        self.pool, self.ring = BufferPool(capacity, 16), Ring(entries)
        self.registered = self.pool.register(self.ring, receive=2)
        self.queue = BoundedQueue(capacity)
        pairs = [socket.socketpair() for _ in range(2)]
        self.ours = [ours for ours, _ in pairs]
        self.theirs = [theirs for _, theirs in pairs]
        self.sent, self.received = [b"", b""], [b"", b""]
        self.listening, self.ended, self.held = set(), set(), set()

    @rule(face=FACE, k=st.integers(0, 1))
    def listen(self, face, k):
        if k not in self.listening:
            free = self.pool.available()
            got = status(face, "receive", self.registered, self.ours[k].fileno())
            assert got == (0 if free else -errno.ENOBUFS)
            self.listening |= {k} if got == 0 else set()

    @rule(k=st.integers(0, 1), data=st.binary(min_size=1, max_size=40))
    def send(self, k, data):
        if k not in self.ended:
            self.theirs[k].sendall(data)
            self.sent[k] += data

    @rule(k=st.integers(0, 1))
    def end(self, k):
        self.theirs[k].shutdown(socket.SHUT_WR)
        self.ended.add(k)

    @rule(face=FACE)
    def complete(self, face):
        for _ in range(IO[face].complete(self.registered, self.queue, 1, 0.002)):
            index = self.queue.get(block=False)
            length, _, fd = IO[face].result(self.registered, index)
            k = [ours.fileno() for ours in self.ours].index(fd)
            self.held.add(index)
            if length > 0:
                self.received[k] += self.pool.value(index)[:length].tobytes()
            else:
                assert length == 0 and k in self.ended and self.received[k] == self.sent[k]
                self.listening.remove(k)
                # No more comes: from now on this is another pair.
                self.restart(k)

    def restart(self, k):
        self.ours[k].close()
        self.theirs[k].close()
        self.ours[k], self.theirs[k] = socket.socketpair()
        self.sent[k] = self.received[k] = b""
        self.ended.discard(k)

    @precondition(lambda self: self.held)
    @rule()
    def put(self):
        self.pool.put(self.held.pop())

    @rule(index=st.integers(0, 7))
    def put_what_is_not_ours(self, index):
        assume(index not in self.held)
        assert not self.pool.try_put(index)

    def compare(self):
        assert all(sent.startswith(got) for sent, got in zip(self.sent, self.received, strict=True))
        assert self.registered.in_flight == len(self.listening)
        out = self.pool.holders().keys()
        assert out >= self.held and len(out) == self.pool.capacity - self.pool.available()
        assert len(out) <= len(self.held) + len(self.listening) + 2  # 2 that were provided

    def teardown(self):
        for k in sorted(self.listening):
            self.end(k)
        while self.listening:
            while self.held:
                self.put()
            self.complete("python")
        self.ring.close()
        for each in self.ours + self.theirs:
            each.close()
        self.pool.put_many(np.array(sorted(self.held), np.int64))
        assert_whole(self.pool)


# ---- all of them -----------------------------------------------------------------------------------------------------

needs_io_uring = pytest.mark.skipif(bool(why_not()), reason=why_not() or "io_uring works")
MACHINES = [
    Queue,
    Pools,
    Iovecs,
    Spinning,
    Pacing,
    pytest.param(Reading, marks=needs_io_uring),
    pytest.param(Receiving, marks=needs_io_uring),
]


def run(machine, examples, record, **options):
    before = machine.states
    options = {"max_examples": examples, "stateful_step_count": 30, "deadline": None, **options}
    run_state_machine_as_test(machine, settings=settings(**options))
    names = ", ".join(cls.__name__ for cls in machine.covers)
    record("figure", f"{names}: object and model agree in {machine.states - before:,} states, on both faces")


@pytest.mark.parametrize("machine", MACHINES)
def test_agrees_with_its_model(machine, record_property):
    run(machine, 100, record_property, derandomize=True)


@pytest.mark.long
@pytest.mark.parametrize("machine", MACHINES)
def test_agrees_with_its_model_for_long(machine, record_property):
    run(machine, 2000, record_property)


NO_STATE = "a value or an error: made once, it has no method that changes anything"
EXEMPT = dict.fromkeys(
    ["CopyResult", "PoolClosed", "ScanResult", "StreamError", "StreamResult", "Tier", "WouldBlock"], NO_STATE
)


def public_classes():
    """Every class that the package or one of its modules, but for those of an underscore, names as its own."""
    names = [name for _, name, _ in pkgutil.iter_modules(iobuf_nb.__path__) if not name.startswith("_")]
    modules = [iobuf_nb, *(importlib.import_module(f"iobuf_nb.{name}") for name in names)]
    found = {getattr(module, name) for module in modules for name in module.__all__}
    return {item for item in found if inspect.isclass(item)}


def machines():
    return [getattr(each, "values", [each])[0] for each in MACHINES]


def test_no_public_class_is_left_out():
    covered = {cls.__name__ for machine in machines() for cls in machine.covers}
    assert {cls.__name__ for cls in public_classes()} == covered | EXEMPT.keys()
    assert not covered & EXEMPT.keys()


def test_no_method_is_left_out():
    """Every method and property of a class is named in its machine, or in the function of `faces` for it."""
    text = inspect.getsource(faces)
    for machine in machines():
        text += inspect.getsource(machine)
    words = set(re.findall(r"\w+", text))
    for cls in public_classes():
        if cls.__name__ not in EXEMPT:
            own = {name for base in cls.__mro__ if base.__module__.startswith("iobuf_nb") for name in vars(base)}
            attributes = {name for name in own if inspect.ismemberdescriptor(inspect.getattr_static(cls, name))}
            missing = {name for name in own - attributes if not name.startswith("_")} - words
            assert not missing, f"{cls.__name__}: no machine names {sorted(missing)}"
