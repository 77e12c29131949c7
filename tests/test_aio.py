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

from iobuf_nb import BufferPool, ItemPool, PoolClosed, WouldBlock
from iobuf_nb.ring import GETTERS


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.fixture
def pool():
    pool = BufferPool(8, shape=1, dtype="i8")
    yield pool
    assert pool.available() == 8 and not pool.holders()
    assert pool.ring.words[GETTERS] == 0


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


@pytest.mark.parametrize("jit", [lambda f: f, njit(nogil=True), njit], ids=["python", "nogil kernel", "kernel"])
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
    assert pool.available() == 2 and pool.ring.words[GETTERS] == 0


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
        assert 0.1 <= time.monotonic() - start < 1 and len(ticks) > 5  # the loop ran on
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


def test_one_loop_at_a_time():
    pool = BufferPool(1, 16)
    index = pool.get()
    refused = []

    async def other():
        with pytest.raises(RuntimeError, match="another event loop"):
            await pool.aget()
        refused.append(True)

    async def main():
        waiter = asyncio.create_task(pool.aget())
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(other()))
        pool.put(index)
        pool.put(await waiter)

    run(main())
    assert refused == [True]
    run(main_again(pool))  # and the next loop may


async def main_again(pool):
    pool.put(await pool.aget())


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
