"""Forks in the middle of what other threads do: the child finds every buffer free, or out and named."""

import asyncio
import os
import threading

import numba
import numpy as np
import pytest
from support import elsewhere, in_a_child, needs_fork

from iobuf_nb import (
    BoundedQueue,
    BufferPool,
    ItemPool,
    MagazineSet,
    WouldBlock,
)
from iobuf_nb._free import deque, handover, owners, queue
from iobuf_nb._free.queue import GETTERS, PUTTERS
from iobuf_nb._pools import fork
from iobuf_nb.atomics import load

pytestmark = needs_fork


def all_are_there(pool, sources=()):
    """Put what is out, and find every buffer free, through magazines, too."""
    for index in pool.holders():
        pool.put(index)
    assert pool.available() == pool.capacity
    for source in (pool, *sources):
        got = sorted(source.try_get() for _ in range(pool.capacity))
        assert got == list(range(pool.capacity)) and source.try_get() == -1
        for index in got:
            source.put(index)


# Each leaves a pool of 4 as a thread does that is stopped somewhere in an operation.
def taken_and_not_owned(pool):
    queue.get_item(pool._queue)


def many_taken_and_not_owned(pool):
    out = np.empty(3, np.int64)
    queue.get_items(pool._queue, out, 0, 3)


def given_up_and_not_back(pool):
    owners.disown(pool, pool.get(), False)


def many_given_up_and_not_back(pool):
    indices = np.array([pool.get(), pool.get()])
    owners.disown_many(pool, indices, 2)


def marked_by_a_bulk_put(pool):
    mark = owners._claim(pool._bulks, pool._bulks[owners._SHIFT])
    for index in (pool.get(), pool.get()):
        owners._put_mark(pool._owners, pool._bulks, owners.owner_at(pool, index), mark)


def lent_to_io_uring(pool):
    owners.disown(pool, pool.get(), True)


def pushed_and_not_counted(pool):
    magazine = pool.magazine(4)
    index = pool.get()
    owners.disown(pool, index, False)
    pool._deques[magazine._base + deque.SLOTS] = index


def popped_and_not_owned(pool):
    magazine = pool.magazine(4)
    magazine.put(pool.get())
    deque.pop(pool._deques, magazine._base, magazine._asymmetric)


def popped_of_nothing(pool):
    magazine = pool.magazine(4)
    magazine.try_put(magazine.get())
    magazine.get()
    pool._deques[magazine._base + deque.POPS] += 1


def stolen_and_not_owned(pool):
    magazine = pool.magazine(4)
    magazine.put(pool.get())
    pool._deques[magazine._base + deque.THIEVES] += 1
    deque._take_top(pool._deques, magazine._base, 0)


def counted_in_as_a_getter(pool):
    pool._queue._words[GETTERS] += 1


def handed_over(pool):
    async def main():
        index = pool.get()
        waiter = asyncio.ensure_future(pool.aget())
        others = [pool.get() for _ in range(3)]
        await asyncio.sleep(0)
        pool.put(index)
        for other in others:
            pool.put(other)
        in_a_child(lambda: all_are_there(pool))
        pool.put(await waiter)

    asyncio.run(main())


MIDDLES = [
    taken_and_not_owned,
    many_taken_and_not_owned,
    given_up_and_not_back,
    many_given_up_and_not_back,
    marked_by_a_bulk_put,
    lent_to_io_uring,
    pushed_and_not_counted,
    popped_and_not_owned,
    popped_of_nothing,
    stolen_and_not_owned,
    counted_in_as_a_getter,
    handed_over,
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("make", [lambda: BufferPool(4, 64), lambda: ItemPool("abcd")], ids=["BufferPool", "ItemPool"])
@pytest.mark.parametrize("middle", MIDDLES, ids=lambda middle: middle.__name__)
def test_a_child_mends_what_a_thread_was_in_the_middle_of(middle, make):
    pool = make()
    sources = [pool.magazine(2)]
    elsewhere(middle, pool)
    held = set(pool.holders())

    def check():
        assert held <= set(pool.holders()), "what was held is not named"
        all_are_there(pool, sources)
        assert pool._queue._words[GETTERS] == 0

    in_a_child(check)


def test_what_lies_in_magazines_of_other_threads_can_be_got_in_a_child():
    pool = BufferPool(8, 64)
    magazines = MagazineSet(pool, 3, 4)
    mine = pool.magazine(4)
    mine.put(mine.get())
    for magazine in magazines._all:
        elsewhere(lambda magazine=magazine: magazine.put(magazine.get()))

    def check():
        assert mine.was_size() == 1
        with pytest.raises(RuntimeError, match="another thread"):
            magazines[0].get()
        all_are_there(pool, [mine])
        magazines.close()
        all_are_there(pool, [pool.magazine(4) for _ in range(3)])

    in_a_child(check)
    magazines.close()


def test_queues_are_whole_in_a_child_and_nobody_waits():
    queue = BoundedQueue(3, 100)
    queue.put(99)
    queue._words[[GETTERS, PUTTERS]] = 1, 2  # of threads that wait in the parent

    def check():
        assert queue._words[GETTERS] == queue._words[PUTTERS] == 0
        queue.put(5)
        assert (queue.get(), queue.get(), queue.try_get()) == (99, 5, -1)

    in_a_child(check)
    queue._words[[GETTERS, PUTTERS]] = 0


@pytest.mark.parametrize("how", ["put", "close", "drop"])
def test_a_child_touches_nobodys_descriptor(how, tmp_path):
    async def main():
        pools = [BufferPool(1, 64)]
        pool = pools[0]
        held = pool.get()
        waiter = asyncio.create_task(pool.aget())
        await asyncio.sleep(0)
        numbers = [pool._getters._listen, pool._getters._waiting[asyncio.get_running_loop()]._epoll.fileno()]

        def check():
            os.closerange(3, 256)  # as daemons do
            path = tmp_path / "precious"
            files = []
            while not {*numbers} <= {*files}:
                files.append(os.open(path, os.O_CREAT | os.O_RDWR))
            if how == "put":
                pool.put(held)
            elif how == "close":
                pool._queue.close()
            else:
                pool._getters = None
            assert path.read_bytes() == b""
            for number in numbers:
                os.write(number, b"still open")

        in_a_child(check)
        if how == "put":
            pool.put(held)
            pool.put(await waiter)
        else:
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            pool.put(held)

    asyncio.run(main())


def test_a_child_takes_what_is_free_but_does_not_wait():
    pool = BufferPool(1, 64)

    async def main():
        index = pool.get()
        waiter = asyncio.ensure_future(pool.aget())
        await asyncio.sleep(0)

        def check():
            for index in pool.holders():
                pool.put(index)
            assert pool.get() == 0
            with pytest.raises(RuntimeError, match="forked child"):
                pool.aget().send(None)
            with pytest.raises(RuntimeError, match="forked child"):
                pool.get()
            with pytest.raises((RuntimeError, WouldBlock)):
                pool.get(timeout=0.01)
            pool.put(0)

        in_a_child(check)
        pool.put(index)
        pool.put(await waiter)

    asyncio.run(main())


@pytest.mark.proof
@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="kernels go on beside a fork")
@pytest.mark.parametrize("checked", [True, False])
def test_forks_beside_kernels_at_work(checked):
    pool = BufferPool(64, 64, checked=checked)
    stop = np.ones(1, np.int64)

    @numba.njit(nogil=True)
    def churn(pool, magazine, out, stop):
        while load(stop, 0) == 0:
            pool.put_many(out[: pool.get_many(out)])
            magazine.try_put(magazine.try_get())

    magazine = pool.magazine(8)
    churn(pool, magazine, np.empty(16, np.int64), stop)
    magazine.release()
    stop[0] = 0
    thread = threading.Thread(target=churn, args=(pool, magazine, np.empty(16, np.int64), stop))
    thread.start()
    try:
        for _ in range(20):
            if checked:
                in_a_child(lambda: all_are_there(pool))
            else:
                in_a_child(lambda: sorted({pool.try_get() for _ in range(64)}) and pool.available())
    finally:
        stop[0] = 1
        thread.join()
    magazine.close()
    assert pool.available() == 64


def test_what_is_put_back_in_a_child_keeps_the_order_of_the_queue():
    pool = BufferPool(3, 64)
    for _ in range(50):  # the free queue has more slots than buffers, and wraps
        pool.put(pool.get())
    taken = queue.get_item(pool._queue)

    def check():
        first, second = pool.get(), pool.get()
        assert pool.get() == taken and len({first, second, taken}) == 3

    in_a_child(check)
    assert handover.take_stale(pool._queue) == -1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("middle", MIDDLES[:-1], ids=lambda middle: middle.__name__)
def test_mending_needs_no_fork(middle):
    pool = BufferPool(4, 64)
    elsewhere(middle, pool)
    fork.mend_pool(pool)
    pool._queue._words[GETTERS] = 0
    all_are_there(pool, [pool.magazine(2)])
    fork.mend()
    all_are_there(pool)
