"""Many threads on small pools: each buffer is stamped by its holder, and nobody may ever see another's stamp."""

import threading
import time

import numpy as np
import pytest
from numba import config, njit

from iobuf_nb import BoundedQueue, BufferPool, atomics

SHORT, LONG = 1.0, 10.0
STAMPS = 4


def stamp_and_check(pool, me, rounds):
    """Take, stamp, look, clear and give back `rounds` times; return how often something foreign was seen."""
    wrong = 0
    for k in range(rounds):
        index = pool.get()
        buffer = pool.value(index)
        for i in range(STAMPS):
            wrong += atomics.swap(buffer, i, me) != 0
        for _ in range(k % 7):
            atomics.pause()
        for i in range(STAMPS):
            wrong += atomics.swap(buffer, i, 0) != me
        pool.put(index)
    return wrong


in_kernel = njit(nogil=True)(stamp_and_check)


def hammer(pool, threads, seconds):
    """Run kernels and, on every fourth thread, Python code against one pool; return (wrong, rounds)."""
    in_kernel(pool, 1, 1)
    deadline = time.monotonic() + seconds
    wrong, rounds = [0] * threads, [0] * threads

    def work(number):
        body, batch = (stamp_and_check, 20) if number % 4 == 3 else (in_kernel, 2000)
        while time.monotonic() < deadline:
            wrong[number] += body(pool, number + 1, batch)
            rounds[number] += batch

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(wrong), sum(rounds)


@pytest.mark.skipif(config.DISABLE_JIT, reason="about compiled code")
@pytest.mark.parametrize("seconds", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("capacity", [1, 2, 3, 1000])
def test_no_buffer_has_two_owners_and_none_is_lost(capacity, threads, seconds):
    pool = BufferPool(capacity, shape=STAMPS, dtype="i8")
    wrong, rounds = hammer(pool, threads, seconds)
    print(f"capacity {capacity}, {threads} threads: {rounds} rounds")
    assert wrong == 0
    assert rounds > 1000
    assert pool.available() == capacity and not pool.holders()
    out = np.empty(capacity + 1, np.int64)
    assert pool.get_many(out) == capacity
    assert sorted(out[:capacity]) == list(range(capacity))
    pool.put_many(out[:capacity])


def produce(queue, first, step, n):
    for item in range(first, n, step):
        queue.put(item)


def consume(queue, seen, last_of, producers):
    """Count each item; return how many came out of their producer's order."""
    disorder = 0
    while True:
        item = queue.get(timeout=60.0)
        if item == queue.items - 1:
            return disorder
        seen[item] += 1
        disorder += item < last_of[item % producers]
        last_of[item % producers] = item


@pytest.mark.skipif(config.DISABLE_JIT, reason="about compiled code")
@pytest.mark.parametrize("producers, consumers", [(1, 1), (3, 1), (1, 3), (4, 4)])
@pytest.mark.parametrize("capacity", [256, 1000])
def test_queues_deliver_each_item_once_and_in_order(capacity, producers, consumers):
    n = 200_000
    queue = BoundedQueue(capacity, items=n + 1)
    put, take = njit(nogil=True)(produce), njit(nogil=True)(consume)
    seen = np.zeros((consumers, n), np.int64)
    disorder = []
    makers = [threading.Thread(target=put, args=(queue, first, producers, n)) for first in range(producers)]
    takers = [
        threading.Thread(target=lambda k=k: disorder.append(take(queue, seen[k], np.full(producers, -1), producers)))
        for k in range(consumers)
    ]
    for thread in makers + takers:
        thread.start()
    for thread in makers:
        thread.join()
    for _ in takers:
        queue.put(n)
    for thread in takers:
        thread.join()
    assert disorder == [0] * consumers
    assert (seen.sum(axis=0) == 1).all()
    assert queue.was_size() == 0
