"""A queue with a dtype: values come out as they went in, on both faces, and nothing else goes in."""

import asyncio
import os
import threading

import faces
import numpy as np
import pytest
from numba.core.errors import TypingError
from support import in_a_child, needs_fork, until

from iobuf_nb import BoundedQueue, Closed, WouldBlock
from iobuf_nb._free.queue import GETTERS
from iobuf_nb.uring import as_queue

PACKED = np.dtype([("key", "u1"), ("time", "f8"), ("name", "S2"), ("where", "i2", (2,))])  # 15 bytes, not aligned
VALUES = {
    "int64": np.array([-(2**63), -1, 0, 2**63 - 1]),
    "float64": np.array([-0.5, np.nan, np.inf, 0.0]),
    "record": np.array([(k, -k / 4, b"ab", (k, -k)) for k in range(4)], PACKED),
}


@pytest.fixture(params=VALUES)
def values(request):
    """Four values, twice as many as fit."""
    return VALUES[request.param]


def test_values_come_out_as_they_went_in(face, values):
    queue, out = BoundedQueue(2, dtype=values.dtype), np.zeros(3, values.dtype)
    for lap in range(3):
        assert not face.try_get_into(queue, out, 0)
        assert [face.try_put(queue, value) for value in values[lap % 2 :][:3]] == [True, True, False]
        assert queue.was_size() == 2
        assert face.try_get_into(queue, out, 2) and face.get_into(queue, out) == 0
        assert out[[2, 0]].tobytes() == values[lap % 2 :][:2].tobytes()


def test_what_python_gets_is_a_number_or_a_record(values):
    queue = BoundedQueue(1, dtype=values.dtype)
    for value in values:
        queue.put(value)
        got = queue.get()
        assert np.array(got, values.dtype).tobytes() == value.tobytes()
        assert type(got) is (np.void if values.dtype.names else type(value.item()))


@pytest.mark.compiled
def test_kernels_get_numbers_and_no_records(values):
    queue = BoundedQueue(1, dtype=values.dtype)
    queue.put(values[0])
    if values.dtype.names:
        with pytest.raises(TypingError, match=r"in kernels, use get_into\(out\)"):
            faces.kernel.get(queue)
    else:
        assert faces.kernel.get(queue) == values[0]


def test_bulk_calls_move_what_there_is_and_what_fits(face, values):
    queue, out = BoundedQueue(3, dtype=values.dtype), np.zeros(8, values.dtype)[::2]
    assert face.get_many(queue, out) == 0
    assert face.put_many(queue, values[::-1]) == 3
    assert face.get_many(queue, out) == 3 and out[:3].tobytes() == values[:0:-1].tobytes()
    assert not out[3:].tobytes().strip(b"\0")


def test_bulk_calls_cost_what_fits_and_not_what_is_offered():
    queue, one = BoundedQueue(3, dtype=float), np.full(1, 0.5)
    huge = np.lib.stride_tricks.as_strided(one, (2**44,), (0,))
    assert queue.put_many(huge) == 3 and queue.get_many(huge) == 3


def test_waits_end_with_a_status(face):
    queue, out = BoundedQueue(1, dtype=float), np.zeros(1)
    assert face.get_into_within(queue, out, 0, 0.0) == face.get_into_within(queue, out, 0, 0.01) == -2
    with pytest.raises(WouldBlock, match="get found the queue empty"):
        face.get_within(queue, 0.0)
    found = []

    def wait():
        found.extend([face.get_into(queue, out), float(out[0])])

    thread = threading.Thread(target=wait)
    face.get_into(closed(BoundedQueue(1, dtype=float)), out)  # compiled before the thread needs it
    thread.start()
    until(lambda: queue._full._words[GETTERS])
    face.put(queue, 1.5)
    thread.join(20)
    assert found == [0, 1.5]
    face.put(queue, -1)
    with pytest.raises(WouldBlock, match="put found the queue full"):
        face.put_within(queue, 2.5, 0.01)
    assert not face.closed(queue)
    putter = threading.Thread(target=lambda: found.append(outcome(face.put, queue, 2.5)))
    putter.start()
    until(lambda: queue._free._words[GETTERS])
    face.close(queue)
    putter.join(20)
    assert isinstance(found[-1], Closed) and face.closed(queue)
    assert face.put_many(queue, out) == 0 and not face.try_put(queue, 0.0)
    assert face.get(queue) == -1 and face.get_into(queue, out) == -1
    with pytest.raises(Closed):
        face.get(queue)
    assert queue._free.was_size() == 1


def closed(queue):
    queue.close()
    return queue


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "dtype", ["i4", "O", ">i8", "S8", [("a", "O")], "i8,>f8", ("i8", 2), [("a", "S1025")], "?x", [("a", "i8", 0)]]
)
def test_refuses_other_dtypes(dtype):
    with pytest.raises(TypeError, match="dtype must be"):
        BoundedQueue(2, dtype=dtype)


def test_what_the_type_of_one_makes_is_what_its_arguments_say():
    queue = BoundedQueue(1, dtype=int)
    make = type(queue)
    assert type(make(1)) is BoundedQueue and type(make(1, dtype=int)) is make
    with BoundedQueue(1, name=f"type of a queue.{os.getpid()}") as shared:
        assert type(queue.attach(shared.name)) is BoundedQueue


def test_refuses_what_does_not_go_with_a_dtype():
    with pytest.raises(TypeError, match="limit must be None with a dtype"):
        BoundedQueue(2, 5, dtype=int)
    with pytest.raises(ValueError, match="shared and name cannot be given with a dtype: .* Channel"):
        BoundedQueue(2, dtype=int, shared=True)
    with pytest.raises(TypeError, match="dtype must be None in a subclass"):
        type("Mine", (BoundedQueue,), {})(2, dtype=int)
    queue = BoundedQueue(2, dtype=int)
    with pytest.raises(TypeError, match="queue must be a BoundedQueue, not BoundedQueue.*dtype=int64"):
        as_queue(None, queue)
    for call, instead in ((queue.try_get, "try_get_into"), (queue.get_or_closed, "get_into")):
        with pytest.raises(TypeError, match=f"-1 may be a value .* use {instead}"):
            call()


@pytest.mark.parametrize("name", ["put", "try_put", "put_many", "get", "try_get", "get_or_closed", "get_many"])
def test_methods_of_queues_without_a_dtype_refuse_it(name):
    queue = BoundedQueue(60, dtype=int)
    queue.put(5)
    arguments = {"put": [1], "try_put": [1]}.get(name, [np.zeros(1, np.int64)] if name.endswith("many") else [])
    with pytest.raises((TypeError, AttributeError, TypingError)):
        getattr(BoundedQueue, name)(queue, *arguments)
    assert queue.get() == 5 and queue._free.was_size() == 60


@pytest.mark.parametrize(
    "dtype, bad",
    [
        *((int, value) for value in (2**63, -(2**63) - 1, 1.5, True, None, "1")),
        *((float, value) for value in (1j, True, None, "1", 2**1024)),
        *(("i8,f4", value) for value in (1, (1,), (1, 2, 3), ("x", 1), np.zeros(1, "i8,f8")[0], None, [1, 2])),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refuses_other_values(dtype, bad):
    queue = BoundedQueue(2, dtype=dtype)
    for put in queue.put, queue.try_put, lambda value: asyncio.run(queue.aput(value)):
        with pytest.raises((TypeError, ValueError), match="value must be"):
            put(bad)
    assert queue._free.was_size() == 2


def test_refuses_arrays_of_others(face):
    queue, out = BoundedQueue(2, dtype=float), np.zeros(2)
    for bad in np.zeros(2, np.int64), np.zeros((2, 2)):
        for name, call in (
            ("out", lambda bad: face.get_many(queue, bad)),
            ("out", lambda bad: face.try_get_into(queue, bad, 0)),
            ("values", lambda bad: face.put_many(queue, bad)),
        ):
            with pytest.raises((TypeError, TypingError), match=f"{name} must be a one-dimensional array of float64"):
                call(bad)
    queue.put(1.0)
    for k in -1, 2:
        with pytest.raises(ValueError, match=f"k must be an integer from 0 to 1, not {k}"):
            face.try_get_into(queue, out, k)
    assert queue.was_size() == 1


def test_coroutines_wait_at_both_ends_and_leave_nothing_behind():
    async def use():
        with BoundedQueue(1, dtype="i8,f8") as queue:
            with pytest.raises(WouldBlock):
                await queue.aget(timeout=0.01)
            waiters = [asyncio.ensure_future(queue.aget()) for _ in range(2)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            await queue.aput((1, 0.5))
            assert (await asyncio.wait_for(waiters[1], 20)).item() == (1, 0.5)
            await queue.aput((2, 0.25))
            putter = asyncio.ensure_future(queue.aput((3, 0.0)))
            await asyncio.sleep(0)
            assert (await queue.aget()).item() == (2, 0.25)
            await putter
        assert [value.item() async for value in queue] == [(3, 0.0)]
        assert queue._free.was_size() == 1
        with pytest.raises(Closed):
            await queue.aput((4, 0.0))

    asyncio.run(use())


@needs_fork
def test_a_child_has_the_places_that_others_were_using():
    queue = BoundedQueue(3, dtype=int)
    queue.put(5)
    queue._free.get()  # as a thread does that is about to put

    def child():
        assert queue.put_many(np.arange(3)) == 2 and [queue.get() for _ in range(3)] == [5, 0, 1]

    in_a_child(child)
