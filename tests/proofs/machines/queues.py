"""The machine of queues."""

from collections import deque

import faces
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
