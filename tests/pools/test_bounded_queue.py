"""Queues in bulk, to their end, and in coroutines; what one thread sees item by item is in `free/test_queue.py`."""

import asyncio
import threading

import numpy as np
import pytest
from numba.core.errors import TypingError
from support import until

from iobuf_nb import BoundedQueue, Closed, WouldBlock
from iobuf_nb._free.queue import GETTERS, PUTTERS, SLOTS

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
LONG = 5000  # more than C methods move at once


@pytest.mark.parametrize("capacity", [4, LONG])
def test_bulk_calls_move_what_there_is_and_what_fits(face, capacity):
    queue, out = BoundedQueue(capacity), np.full(capacity + 2, -5)
    items = np.arange(capacity + 2)[::-1] % capacity
    assert face.get_many(queue, out) == 0 and out[0] == -5
    assert face.put_many(queue, items[:1]) == 1
    assert face.put_many(queue, items[1:]) == capacity - 1 and face.put_many(queue, items) == 0
    assert face.get_many(queue, out[:2]) == 2 and face.get_many(queue, out[2:]) == capacity - 2
    assert out.tolist() == [*items[:capacity], -5, -5]
    assert face.put_many(queue, items[:0]) == face.get_many(queue, out[:0]) == 0


@pytest.mark.parametrize("bad", [-1, 4, 2**40, -(2**63)])
def test_a_bulk_put_with_an_item_out_of_range_puts_nothing(face, bad):
    queue = BoundedQueue(4)
    with pytest.raises(ValueError, match=f"items must be from 0 to 3, not {bad}"):
        face.put_many(queue, np.array([0, 1, bad]))
    assert queue.was_size() == 0 and not queue._words[SLOTS:].any()


@pytest.mark.parametrize("bad", [np.zeros(2), np.zeros((1, 1), int), np.zeros(2, np.int32), None, [1]], ids=str)
def test_bulk_calls_take_arrays_of_int64_alone(face, bad):
    queue = BoundedQueue(4)
    for call, name in ((face.put_many, "items"), (face.get_many, "out")):
        if not isinstance(bad, list) or face.name == "python":
            with pytest.raises((TypeError, TypingError), match=f"{name} must be a one-dimensional int64 array, not"):
                call(queue, bad)
    with pytest.raises((ValueError, TypingError), match="out must be a writable array"):
        face.get_many(queue, np.frombuffer(bytes(8), np.int64))


def test_a_closed_queue_gives_in_bulk_what_it_holds(face):
    queue, out = BoundedQueue(4), np.zeros(4, np.int64)
    queue.put(3)
    queue.close()
    assert face.put_many(queue, out) == 0 and face.get_many(queue, out) == 1 and out[0] == 3


def test_get_or_closed_says_how_it_ended(face):
    queue = BoundedQueue(4)
    queue.put(3)
    assert face.get_or_closed(queue) == 3
    assert face.get_or_closed_within(queue, 0.0) == face.get_or_closed_within(queue, 0.01) == -2
    queue.put(0)
    queue.close()
    assert [face.get_or_closed(queue) for _ in range(3)] == [0, -1, -1]
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0"):
        face.get_or_closed_within(queue, -1.0)


@SHARED
def test_who_waits_for_what_comes_in_bulk_is_woken_and_sees_the_end(face, shared):
    queue, out = BoundedQueue(4, shared=shared), np.zeros(4, np.int64)
    face.get_or_closed(closed(BoundedQueue(1)))  # compiled before threads need it
    face.put(queue, 0)
    face.get_many(queue, out)
    found = []
    getters = [threading.Thread(target=lambda: found.append(face.get_or_closed(queue))) for _ in range(3)]
    for thread in getters:
        thread.start()
    until(lambda: queue._words[GETTERS] == (1 if shared else 3))
    assert face.put_many(queue, np.array([1, 2])) == 2
    until(lambda: len(found) == 2)
    queue.close()
    for thread in getters:
        thread.join(20)
    assert sorted(found) == [-1, 1, 2]
    queue = BoundedQueue(2, shared=shared)
    queue.put_many(np.array([0, 1]))
    putters = [threading.Thread(target=face.put, args=(queue, 1)) for _ in range(2)]
    for thread in putters:
        thread.start()
    until(lambda: queue._words[PUTTERS] == (1 if shared else 2))
    assert face.get_many(queue, out[:2]) == 2
    for thread in putters:
        thread.join(20)
    assert queue.was_size() == 2


def closed(queue):
    queue.close()
    return queue


def test_iteration_ends_with_the_queue_and_a_block_closes_it():
    with BoundedQueue(4) as queue:
        queue.put_many(np.array([3, 0, 2]))
        thread = threading.Thread(target=queue.close)
        for item in queue:
            if item == 2:
                thread.start()  # the loop waits for it
    thread.join()
    assert queue.closed and list(queue) == []


@SHARED
def test_coroutines_wait_at_both_ends(shared):
    async def consume(queue):
        return [item async for item in queue]

    async def use():
        with BoundedQueue(2, shared=shared) as queue:
            consumer = asyncio.ensure_future(consume(queue))
            for item in (0, 1, 1, 0, 1):
                await queue.aput(item)
        assert await consumer == [0, 1, 1, 0, 1]
        for call in queue.aget, lambda: queue.aput(0):
            with pytest.raises(Closed):
                await call()

    asyncio.run(use())


@SHARED
def test_coroutines_that_leave_take_nothing_along(shared):
    async def use():
        queue = BoundedQueue(1, shared=shared)
        with pytest.raises(WouldBlock, match="aget found the queue empty for as long as it may wait"):
            await queue.aget(timeout=0.01)
        waiters = [asyncio.ensure_future(queue.aget()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        queue.put(0)
        waiters[1].cancel()
        assert await asyncio.wait_for(waiters[2], 20) == 0 and queue.was_size() == 0
        queue.put(0)
        with pytest.raises(WouldBlock, match="aput found the queue full for as long as it may wait"):
            await queue.aput(0, timeout=0.01)
        putter = asyncio.ensure_future(queue.aput(0))
        await asyncio.sleep(0)
        putter.cancel()
        await asyncio.wait([putter])
        assert (queue.try_get(), queue.try_get()) == (0, -1)
        if not shared:
            assert queue._words[[GETTERS, PUTTERS]].tolist() == [0, 0]
        for bad in -1, 1, 2**70:
            with pytest.raises(ValueError, match=f"item must be an integer from 0 to 0, not {bad}"):
                await queue.aput(bad)

    asyncio.run(use())
