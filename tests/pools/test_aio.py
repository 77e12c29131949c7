"""Coroutines on a pool: none is forgotten, none that is cancelled takes a buffer along, the loop never stands still."""

import asyncio
import gc
import os
import random
import threading
import time

import numpy as np
import pytest
from numba import njit
from support import EVERY_WAY

from iobuf_nb import BufferPool, ItemPool, PoolClosed, WouldBlock
from iobuf_nb._free.queue import GETTERS, STALE


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.fixture
def pool():
    pool = BufferPool(8, shape=1, dtype="i8")
    yield pool
    assert pool.available() == 8 and not pool.holders()
    assert pool._queue._words[GETTERS] == 0


def test_a_thousand_tasks_over_eight_buffers(pool):
    inside = set()

    async def use(k):
        async with pool.alease() as buffer:
            address = buffer.ctypes.data
            assert address not in inside and len(inside) < 8
            inside.add(address)
            await asyncio.sleep(0)
            inside.remove(address)
        return k

    async def main():
        return await asyncio.gather(*(use(k) for k in range(1000)))

    assert run(main()) == list(range(1000))


def test_cancelled_waiters_take_nothing_along(pool):
    generator = random.Random(1)
    finished = []

    async def use():
        index = await pool.aget()
        try:
            await asyncio.sleep(generator.random() * 0.002)
        finally:
            pool.put(index)
        finished.append(index)

    async def main():
        tasks = [asyncio.create_task(use()) for _ in range(400)]
        for victim in generator.sample(tasks, 100):
            await asyncio.sleep(generator.random() * 0.001)
            victim.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        return sum(isinstance(result, asyncio.CancelledError) for result in results)

    cancelled = run(main())
    assert cancelled > 20
    assert len(finished) == 400 - cancelled


def test_cancelled_in_the_very_turn_in_which_it_is_served():
    pool = BufferPool(1, 16)

    async def main():
        index = await pool.aget()
        waiter = asyncio.create_task(pool.aget())
        await asyncio.sleep(0)
        pool.put(index)
        while pool.available():  # until the loop has served it
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert pool.available() == 1

    run(main())


@EVERY_WAY
def test_a_put_in_another_thread_or_a_kernel_is_heard(pool, jit):
    give_all = jit(lambda pool, indices: pool.put_many(indices))
    indices = np.empty(8, np.int64)

    async def main():
        assert pool.get_many(indices) == 8
        waiters = [asyncio.create_task(pool.aget()) for _ in range(8)]
        await asyncio.sleep(0.01)
        thread = threading.Thread(target=give_all, args=(pool, indices))
        thread.start()
        got = await asyncio.gather(*waiters)
        thread.join()
        for index in got:
            pool.put(index)

    run(main())


def test_threads_and_coroutines_share_a_pool():
    pool = BufferPool(2, shape=1, dtype="i8")
    rounds = 300

    def work():
        for _ in range(rounds):
            index = pool.get(timeout=30.0)
            time.sleep(0)
            pool.put(index)

    async def use():
        for _ in range(rounds):
            async with pool.alease(timeout=30.0):
                await asyncio.sleep(0)

    async def main():
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(use() for _ in range(3)))
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.001)

    run(main())
    assert pool.available() == 2 and pool._queue._words[GETTERS] == 0


def test_first_come_first_served():
    pool = BufferPool(1, 16)
    order = []

    async def use(k):
        async with pool.alease():
            order.append(k)

    async def main():
        index = await pool.aget()
        tasks = [asyncio.create_task(use(k)) for k in range(20)]
        await asyncio.sleep(0)
        pool.put(index)
        latecomer = asyncio.create_task(use(20))  # a buffer is free, but others wait for it
        await asyncio.gather(*tasks, latecomer)

    run(main())
    assert order == list(range(21))


def test_limits_closing_and_refusals(pool):
    async def main():
        indices = [await pool.aget() for _ in range(8)]
        ticks = []

        async def tick():
            while True:
                ticks.append(0)
                await asyncio.sleep(0.005)

        ticker = asyncio.create_task(tick())
        start = time.monotonic()
        with pytest.raises(WouldBlock, match="aget"):
            await pool.aget(timeout=0.1)
        assert 0.1 <= time.monotonic() - start < 10 and len(ticks) > 1  # the loop ran on
        ticker.cancel()
        for bad, error in [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)]:
            with pytest.raises(error, match="timeout must be"):
                await pool.aget(timeout=bad)
        pool.nonblocking = True
        with pytest.raises(WouldBlock):
            await pool.aget()
        pool.nonblocking = False
        waiters = [asyncio.create_task(pool.aget()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.warns(ResourceWarning):
            pool.close()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(result) for result in results] == [PoolClosed] * 3
        with pytest.raises(PoolClosed):
            await pool.aget()
        for index in indices:
            pool.put(index)

    run(main())


def in_threads(*works):
    """Run each in a thread of its own, and wait until all have ended."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_coroutines_of_several_loops_are_served():
    for _ in range(20):
        pool = BufferPool(3, 16)
        held = [pool.get() for _ in range(3)]
        together = threading.Barrier(4)
        got = []

        async def wait(pool=pool, together=together, got=got):
            waiter = asyncio.ensure_future(pool.aget())
            await asyncio.sleep(0)
            together.wait()
            got.append(await waiter)

        def put(pool=pool, together=together, held=held):
            together.wait()
            for index in held:
                pool.put(index)

        in_threads(*[lambda wait=wait: run(wait())] * 3, put)
        assert sorted(got) == [0, 1, 2]
        pool.put_many(np.array(got))


def test_a_loop_whose_coroutine_was_served_and_not_resumed_takes_nothing_from_another_loop():
    pool = BufferPool(2, 16)
    held = [pool.get(), pool.get()]
    entered = threading.Event()

    async def second():
        waiter = asyncio.ensure_future(pool.aget())
        await asyncio.sleep(0)
        entered.set()
        pool.put(await waiter)

    async def first():
        waiter = asyncio.ensure_future(pool.aget())
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: run(second()))
        thread.start()
        pool.put(held[0])
        entered.wait(60)  # this loop stands still meanwhile
        pool.put(held[1])
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        pool.put(await waiter)

    run(first())
    assert pool.available() == 2


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.filterwarnings("ignore")  # of tasks that nobody will ever end
def test_a_closed_loop_is_forgotten(served, kept):
    pool = BufferPool(2, 16)
    held = [pool.get(), pool.get()]
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)

    async def main():
        waiter = asyncio.ensure_future(pool.aget())
        await asyncio.sleep(0.01)
        if served:
            pool.put(held.pop())
        return waiter

    waiter = loop.run_until_complete(main())
    loop.close()
    if not kept:
        waiter = None
        gc.collect()
    for index in held:
        pool.put(index)

    async def use():
        async with pool.alease(timeout=30):
            return True

    assert run(use()) and run(use())
    assert pool.available() == 2 - (served and kept)
    if waiter:
        waiter.get_coro().close()  # ended by GeneratorExit, with what it was served
    assert pool.available() == 2 and not pool.holders()
    assert pool._queue._words[GETTERS] == 0


@pytest.mark.filterwarnings("ignore")
def test_a_coroutine_that_is_closed_takes_nothing_along():
    pool = BufferPool(1, 16)

    async def hold(pool):
        async with pool.alease():
            await asyncio.get_running_loop().create_future()

    async def main():
        index = await pool.aget()
        leaving, waiting = pool.aget(), pool.aget()
        leaving.send(None)  # up to where it waits
        waiting.send(None)
        leaving.close()
        pool.put(index)
        pool._getters._waiting[asyncio.get_running_loop()].serve()
        assert pool.available() == 0
        waiting.close()
        assert pool.available() == 1
        leasing = hold(pool)
        leasing.send(None)
        assert pool.available() == 0
        leasing.close()
        assert pool.available() == 1

    run(main())


PUTS = {
    "put": lambda pool, index: pool.put(index),
    "try_put": lambda pool, index: pool.try_put(index),
    "put_many": lambda pool, index: pool.put_many(np.array([index])),
    "kernel": njit(nogil=True)(lambda pool, index: pool.put(index)),
    "kernel, many": njit(lambda pool, index: pool.put_many(np.array([index]))),
}


@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
@pytest.mark.parametrize("through", ["pool", "magazine"])
def test_the_nth_coroutine_in_line_has_its_turn_after_2n_puts(put, through):
    pool = BufferPool(4, 16)
    indices = [pool.get() for _ in range(4)]
    source = pool if through == "pool" else pool.magazine()

    async def main():
        waiters = [asyncio.create_task(pool.aget()) for _ in range(3)]
        await asyncio.sleep(0)
        for _ in range(6):  # the loop does not come round: whoever gets is quicker
            put(source, indices.pop())
            if (index := source.try_get()) >= 0:
                indices.append(index)
        assert len(indices) == 1 + pool._queue._words[STALE]  # some are free again if this took STALE_NS
        while len(indices) > 1:
            pool.put(indices.pop())
        for index in [*indices, *await asyncio.gather(*waiters)]:
            pool.put(index)

    run(main())
    assert pool.available() == 4


def test_what_a_blocked_loop_does_not_fetch_is_taken_by_threads():
    pool = BufferPool(1, 16)
    index = pool.get()
    got = []

    async def main():
        waiter = asyncio.create_task(pool.aget())
        await asyncio.sleep(0)
        pool.put(index)
        assert pool.try_get() == index
        pool.put(index)  # every other put is for coroutines
        assert pool._getters.handed.was_size() == 1
        in_threads(lambda: got.append(pool.get(timeout=30)))  # blocks the loop
        pool.put(got[0])
        pool.put(await waiter)

    run(main())
    assert got == [index] and pool.available() == 1 and pool._queue._words[GETTERS] == 0


@pytest.mark.parametrize("puts", [1, 2])
def test_cancelled_before_the_loop_comes_round(puts):
    pool = BufferPool(2, 16)

    async def main():
        held = [pool.get(), pool.get()]
        waiters = [asyncio.create_task(pool.aget()) for _ in range(2)]
        await asyncio.sleep(0)
        for index in held[:puts]:
            pool.put(index)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert pool.available() == puts
        for index in held[puts:]:
            pool.put(index)

    run(main())


def test_lines_are_made_once_however_many_threads_begin_to_wait():
    for _ in range(10):
        pool = BufferPool(4, 16)
        held = [pool.get() for _ in range(4)]
        together = threading.Barrier(4)

        async def wait(pool=pool, together=together, held=held):
            together.wait()
            waiter = asyncio.ensure_future(pool.aget())
            await asyncio.sleep(0)
            pool.put(held.pop())
            pool.put(await waiter)

        in_threads(*[lambda wait=wait: run(wait())] * 4)
        assert pool.available() == 4


def test_without_epoll_the_lines_look_by_themselves(monkeypatch):
    monkeypatch.delattr("select.epoll")
    pool = BufferPool(1, 16)

    async def main():
        for _ in range(3):
            index = await pool.aget()
            waiter = asyncio.create_task(pool.aget())
            await asyncio.sleep(0.001)
            pool.put(index)
            pool.put(await waiter)

    run(main())
    assert pool._getters._listen == -1 and pool.available() == 1


def test_item_pools_wait_too():
    pool = ItemPool(["a"])

    async def use():
        async with pool.alease() as item:
            return item

    async def main():
        return await asyncio.gather(*(use() for _ in range(5)))

    assert run(main()) == ["a"] * 5


def test_descriptors_are_closed_with_the_pool():
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    pool = BufferPool(1, 16)

    async def main():
        index = await pool.aget()
        with pytest.raises(WouldBlock):
            await pool.aget(timeout=0.01)
        pool.put(index)

    run(main())
    pool = None
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before
