"""Many threads on few buffers, as long as time allows: owners stamp what they hold, and must see no other stamp.

The whole takes a minute, and ten with ``-m long``: the same programs, each for longer.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba import njit, prange
from support import assert_whole

from iobuf_nb import BoundedQueue, BufferPool, atomics
from iobuf_nb._threads.parking import spin

CAPACITIES, THREADS = [1, 2, 3, 7, 64, 1000], [2, 4, 16]
STAMPS = 4
POOL, OWN, MIXED = range(3)  # what a thread gets through: the pool, its own magazine, now one and now the other
WRONG, FEW, GOT = range(3)  # what it counts: stamps not as they should be, gets of fewer than asked for, buffers got

pytestmark = [pytest.mark.compiled, pytest.mark.proof]
each_for = pytest.mark.parametrize("seconds", [0.4, pytest.param(9.0, marks=pytest.mark.long)])


def stamp(pool, index, old, new):
    """Change all stamps of a buffer; return how many were not as they should be."""
    wrong = 0
    for i in range(STAMPS):
        wrong += atomics.swap(pool.value(index), i, new) != old
    return wrong


def churn(stamp, pool, own, role, me, rounds, seen, most):
    """Take and give back buffers, some at a time, in every way there is, with pauses of random lengths."""
    out = np.empty(most, np.int64)
    random = int(seen[GOT]) % 0x10000 * 64 + me
    for k in range(rounds):
        random = random * 1103515245 + 12345 & 0x7FFFFFFF
        through_pool = role == POOL or (role == MIXED and k % 3 == 0)
        if k % 5 == 0:
            asked = 1 + (random >> 4) % most
            n = pool.get_many(out[:asked]) if through_pool else own.get_many(out[:asked])
            seen[FEW] += n < asked
        elif k % 7 == 0:
            out[0] = pool.get(timeout=60.0) if through_pool else own.get(timeout=60.0)
            n = 1
        else:
            out[0] = pool.try_get() if through_pool else own.try_get()
            n = np.int64(out[0] >= 0)
            seen[FEW] += n < 1
        for j in range(n):
            seen[WRONG] += stamp(pool, out[j], 0, me)
        if random >> 8 & 63:
            atomics.pause(random >> 16 & 15)
        else:
            spin(10)  # lets others have the processor
        for j in range(n):
            seen[WRONG] += stamp(pool, out[j], me, 0)
        if k % 4 == 0:
            own.put_many(out[:n])
        elif k % 10 == 5:
            pool.put_many(out[:n])
        else:
            for j in range(n):
                if k % 11 == 0:
                    pool.put(out[j])
                else:
                    own.put(out[j])
        seen[GOT] += n


stamp_in_kernel, churn_in_kernel = (njit(nogil=True)(function) for function in (stamp, churn))


def hammer(pool, owns, seconds):
    """Let a thread use each of `owns`, the pool or magazines, for a while; return the sums of what they counted."""
    seen = np.zeros((len(owns), 3), np.int64)
    most = min(max(pool.capacity // (2 * len(owns)), 2), 40)  # more than a chunk of the depot
    churn_in_kernel(stamp_in_kernel, pool, owns[0], OWN, 1, 1, seen[0], most)
    if owns[0] is not pool:
        owns[0].release()
    deadline = time.monotonic() + seconds

    def work(number):
        # Every fourth thread runs the same lines in Python; every other one gets what others' magazines hold.
        run, first, batch = (churn, stamp, 20) if number % 4 == 3 else (churn_in_kernel, stamp_in_kernel, 2000)
        role = POOL if number % 2 else (MIXED, OWN)[number // 2 % 2]
        while time.monotonic() < deadline:
            run(first, pool, owns[number], role, number + 1, batch, seen[number], most)

    with ThreadPoolExecutor(len(owns)) as workers:
        for done in [workers.submit(work, number) for number in range(len(owns))]:
            done.result()
    return seen.sum(axis=0)


@each_for
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("kind", ["pool", "unchecked pool", "magazines"])
def test_no_buffer_has_two_owners_and_none_is_lost(kind, capacity, threads, seconds, record_property):
    pool = BufferPool(capacity, shape=STAMPS, dtype="i8", checked=kind != "unchecked pool")
    owns = [pool.magazine(3) if kind == "magazines" else pool for _ in range(threads)]
    wrong, few, got = hammer(pool, owns, seconds)
    record_property(f"buffers got, {kind}", int(got))
    assert wrong == 0 and got > 1000
    assert capacity < 2 * threads or few == 0  # there was never a moment without a free buffer
    assert_whole(pool)


@each_for
@pytest.mark.parametrize("capacity", [1, 4])
def test_nor_where_owners_of_magazines_must_fence(monkeypatch, capacity, seconds):
    monkeypatch.setattr("iobuf_nb._pools.magazine.register_heavy_fence", lambda: False)
    pool = BufferPool(capacity, shape=STAMPS, dtype="i8")
    wrong, few, got = hammer(pool, [pool.magazine(3), pool.magazine(3)], seconds)
    assert wrong == 0 and got > 1000
    assert capacity < 4 or few == 0
    assert_whole(pool)


@each_for
def test_closing_and_opening_magazines_beside_others_loses_nothing(seconds):
    pool = BufferPool(7, shape=STAMPS, dtype="i8")
    seen = np.zeros((2, 3), np.int64)
    with pool.magazine(2) as magazine:
        churn_in_kernel(stamp_in_kernel, pool, magazine, OWN, 1, 1, seen[0], 2)  # compiled before time runs
    deadline = time.monotonic() + seconds

    def come_and_go(number):
        while time.monotonic() < deadline:
            with pool.magazine(2) as magazine:
                churn_in_kernel(stamp_in_kernel, pool, magazine, MIXED, number + 1, 50, seen[number], 2)
            magazine = pool.magazine(2)
            churn_in_kernel(stamp_in_kernel, pool, magazine, OWN, number + 1, 50, seen[number], 2)
            del magazine  # left as it is

    with ThreadPoolExecutor(2) as workers:
        for done in [workers.submit(come_and_go, number) for number in range(2)]:
            done.result()
    wrong, few, got = seen.sum(axis=0)
    assert wrong == few == 0 and got > 1000
    assert_whole(pool)


@njit(nogil=True, parallel=True)
def in_parallel(pool, n):
    """Take, stamp, clear and give back from numba's own threads; return how often something foreign was seen."""
    wrong = 0
    for k in prange(n):
        index = pool.get(timeout=60.0)
        foreign = stamp_in_kernel(pool, index, 0, k + 100)
        foreign += stamp_in_kernel(pool, index, k + 100, 0)
        pool.put(index)
        wrong += foreign
    return wrong


@each_for
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_prange_beside_threads_and_python(capacity, seconds, record_property):
    pool = BufferPool(capacity, shape=STAMPS, dtype="i8")
    wrong, rounds = in_parallel(pool, 1), 1
    with ThreadPoolExecutor(1) as workers:
        others = workers.submit(hammer, pool, [pool] * 4, seconds)
        while not others.done():
            wrong += in_parallel(pool, 1000)
            rounds += 1000
    assert wrong == others.result()[WRONG] == 0
    record_property("buffers got, prange and threads", int(rounds + others.result()[GOT]))
    assert_whole(pool)


@njit(nogil=True)
def produce(queue, first, step, n):
    for item in range(first, n, step):
        queue.put(item)


@njit(nogil=True)
def consume(queue, seen, last_of, producers):
    """Count each item; return how many came out of their producer's order."""
    disorder = 0
    while True:
        item = queue.get(timeout=60.0)
        if item == queue.limit - 1:
            return disorder
        seen[item] += 1
        disorder += item < last_of[item % producers]
        last_of[item % producers] = item


@each_for
@pytest.mark.parametrize("producers, consumers", [(1, 1), (3, 1), (1, 3), (8, 8)])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_queues_deliver_each_item_once_and_in_order(capacity, producers, consumers, seconds, record_property):
    n = min(1000 * capacity, 200_000)
    queue = BoundedQueue(capacity, limit=n + 1)
    rounds = 0
    deadline = time.monotonic() + seconds / 4
    with ThreadPoolExecutor(producers + consumers) as workers:
        while rounds == 0 or time.monotonic() < deadline:
            seen = np.zeros((consumers, n), np.int64)
            takers = [
                workers.submit(consume, queue, seen[k], np.full(producers, -1), producers) for k in range(consumers)
            ]
            for done in [workers.submit(produce, queue, first, producers, n) for first in range(producers)]:
                done.result()
            for _ in takers:
                queue.put(n)
            assert [done.result() for done in takers] == [0] * consumers
            assert (seen.sum(axis=0) == 1).all()
            assert queue.was_size() == 0
            rounds += 1
    record_property("items through queues", rounds * n)


RECORD = np.dtype([("item", "i8"), ("same", "i8"), ("again", "i4")])


def values_of(items, dtype):
    """Return an array whose elements say which item they are, in all of their fields."""
    if dtype == np.int64:
        return items
    return np.rec.fromarrays([items] * 3, dtype=dtype).view(np.ndarray)


@njit(nogil=True)
def produce_some(queue, values, random):
    """Put values one by one and in bulk."""
    k = 0
    while k < len(values):
        random = random * 1103515245 + 12345 & 0x7FFFFFFF
        if random >> 8 & 3 == 0:
            queue.put(values[k])
            k += 1
        else:
            done = queue.put_many(values[k : k + (random >> 16 & 7)])
            k += done
            if done == 0:
                spin(10)


def consumed(await_one, item_of):
    """Return a kernel that gets one by one and in bulk until the end, and counts what is torn or out of order."""

    @njit(nogil=True)
    def consume_some(queue, out, seen, last_of):
        wrong = 0
        while await_one(queue, out):
            n = 1 + queue.get_many(out[1:])
            for k in range(n):
                item = item_of(out[k])
                wrong += item < 0 or item <= last_of[item % len(last_of)]
                if item >= 0:
                    seen[item] += 1
                    last_of[item % len(last_of)] = item
        return wrong

    return consume_some


@njit(nogil=True)
def await_item(queue, out):
    out[0] = queue.get_or_closed()
    return out[0] >= 0


@njit(nogil=True)
def await_value(queue, out):
    return queue.get_into(out) == 0


@njit
def number(item):
    return item


@njit
def number_of_whole(value):
    return value["item"] if value["item"] == value["same"] and value["item"] == value["again"] else -1


CONSUME = {"bulk": consumed(await_item, number), "values": consumed(await_value, number_of_whole)}


@each_for
@pytest.mark.parametrize("producers, consumers", [(1, 1), (3, 2)])
@pytest.mark.parametrize("capacity", [1, 7, 64])
@pytest.mark.parametrize("kind", CONSUME)
def test_bulk_calls_and_values_too(kind, capacity, producers, consumers, seconds, record_property):
    n = 1000 * min(capacity, 20)
    dtype = RECORD if kind == "values" else np.dtype(np.int64)
    rounds = 0
    deadline = time.monotonic() + seconds / 4
    with ThreadPoolExecutor(producers + consumers) as workers:
        while rounds == 0 or time.monotonic() < deadline:
            queue = BoundedQueue(capacity, dtype=dtype) if kind == "values" else BoundedQueue(capacity, limit=n)
            seen = np.zeros((consumers, n), np.int64)
            takers = [
                workers.submit(CONSUME[kind], queue, np.zeros(5, dtype), row, np.full(producers, -1)) for row in seen
            ]
            makers = [
                workers.submit(produce_some, queue, values_of(np.arange(first, n, producers), dtype), first)
                for first in range(producers)
            ]
            for done in makers:
                done.result()
            queue.close()
            assert [done.result() for done in takers] == [0] * consumers
            assert (seen.sum(axis=0) == 1).all()
            rounds += 1
    record_property("values through queues" if kind == "values" else "items through queues in bulk", rounds * n)
