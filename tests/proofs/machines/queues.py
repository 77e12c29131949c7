"""The machines of queues, and of queues of values."""

import asyncio
from collections import deque
from itertools import islice

import faces
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    rule,
)
from support import place

from iobuf_nb import (
    BoundedQueue,
    PoolClosed,
    WouldBlock,
)

from .machine import FACE, NO_INDEX, Machine, on, only_here, outcome

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

    @rule(face=FACE)
    def get_or_closed(self, face):
        got = on(face).get_or_closed_within(self.queue, 0.0)
        assert got == (self.model.popleft() if self.model else -1 if self.is_closed else -2)

    @rule(face=FACE, items=st.lists(st.integers(-1, 8), max_size=4))
    def put_many(self, face, items):
        got = outcome(on(face).put_many, self.queue, np.array(items, np.int64))
        if any(not 0 <= item < self.queue.limit for item in items):
            assert isinstance(got, ValueError) and "items must be" in str(got)
        else:
            assert got == (0 if self.is_closed else min(len(items), self.queue.capacity - len(self.model)))
            self.model.extend(items[:got])

    @rule(face=FACE, n=st.integers(0, 4))
    def get_many(self, face, n):
        out = np.zeros(n, np.int64)
        n = on(face).get_many(self.queue, out)
        assert out[:n].tolist() == list(islice(self.model, len(out)))
        self.model = deque(islice(self.model, n, None))

    @rule(item=st.integers(-1, 8))
    def await_both(self, item):
        put = outcome(lambda: asyncio.run(self.queue.aput(item, 0.0)))
        got = outcome(lambda: asyncio.run(self.queue.aget(0.0)))
        if 0 <= item < self.queue.limit and not self.is_closed and len(self.model) < self.queue.capacity:
            assert put is None
            self.model.append(item)
        else:
            assert isinstance(put, (ValueError, PoolClosed, WouldBlock))
        if self.model:
            assert got == self.model.popleft()
        else:
            assert isinstance(got, PoolClosed if self.is_closed else WouldBlock)

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


class Values(Machine):
    """A `BoundedQueue` with a dtype is a deque of bounded length, too."""

    covers = (BoundedQueue,)

    @initialize(capacity=st.integers(1, 5))
    def start(self, capacity):
        self.queue = BoundedQueue(capacity, dtype=np.float64)
        self.model, self.is_closed = deque(), False

    @rule(face=FACE, values=st.lists(st.floats(allow_nan=False), max_size=4))
    def put(self, face, values):
        room = 0 if self.is_closed else self.queue.capacity - len(self.model)
        if len(values) == 1:
            assert on(face).try_put(self.queue, values[0]) == (room > 0)
        else:
            assert on(face).put_many(self.queue, np.array(values, float)) == min(len(values), room)
        self.model.extend(values[:room])

    @rule(face=FACE, n=st.integers(0, 4))
    def get_many(self, face, n):
        out = np.zeros(n)
        n = on(face).get_many(self.queue, out)
        assert out[:n].tolist() == list(islice(self.model, len(out)))
        self.model = deque(islice(self.model, n, None))

    @rule(face=FACE, k=st.integers(-1, 2), wait=st.booleans())
    def get_into(self, face, k, wait):
        out = np.full(2, 7.0)
        if wait:
            got = outcome(on(face).get_into_within, self.queue, out, k, 0.0)
        else:
            got = outcome(on(face).try_get_into, self.queue, out, k)
        if not 0 <= k < 2:
            assert isinstance(got, ValueError) and "k must be an integer from 0 to 1" in str(got)
        elif self.model:
            assert got is (0 if wait else True) and out[k] == self.model.popleft()
        else:
            assert got == ((-1 if self.is_closed else -2) if wait else False) and out[k] == 7

    @rule(face=FACE)
    def get(self, face):
        got = outcome(on(face).get_at_once, self.queue)
        if self.model:
            assert got == self.model.popleft()
        else:
            assert isinstance(got, PoolClosed if self.is_closed else WouldBlock)

    @rule(face=FACE)
    def close(self, face):
        on(face).close(self.queue)
        self.is_closed = True

    def compare(self):
        for face in (faces.python, faces.kernel):
            assert face.was_size(self.queue) == len(self.model)
            assert face.closed(self.queue) == self.is_closed
        assert self.queue._free.was_size() + len(self.model) == self.queue.capacity
        assert f"dtype=float64, size={len(self.model)}, closed={self.is_closed}" in repr(self.queue)
