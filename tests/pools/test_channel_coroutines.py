"""Coroutines that wait at channels: what they leave behind when they go, and whom they keep waiting."""

import asyncio
import threading

import numpy as np
import pytest

from iobuf_nb import BufferPool, Channel, Closed, WouldBlock
from iobuf_nb._free.queue import GET_EVENT, GETTERS, PUTTERS

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])


@pytest.fixture
def channel():
    with BufferPool(2, 64) as pool, Channel(pool, 1) as made:
        yield made


def waiting(channel):
    return channel._queue._words[[GETTERS, PUTTERS]].tolist()


def test_coroutines_that_have_gone_are_no_longer_counted_as_waiting(channel):
    async def use():
        channel.send(channel.pool.get())
        index = await channel.areceive()
        await channel.asend(index)
        with pytest.raises(WouldBlock):
            await channel.asend(channel.pool.get(), timeout=0.01)
        channel.pool.put_many(np.array([1 - index, await channel.areceive()]))
        with pytest.raises(WouldBlock):
            await channel.areceive(timeout=0.01)
        waiters = [asyncio.ensure_future(channel.areceive()) for _ in range(3)]
        await asyncio.sleep(0)
        assert waiting(channel) == [3, 0]
        waiters[0].cancel()
        channel.close()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, Closed, Closed]

    asyncio.run(use())
    assert waiting(channel) == [0, 0]


def test_a_wake_up_for_a_coroutine_that_was_cancelled_reaches_the_next_thread(channel):
    received = []
    thread = threading.Thread(target=lambda: received.append(channel.receive(timeout=20)))

    async def use():
        coroutine = asyncio.ensure_future(channel.areceive())
        words = channel._queue._words
        while not thread.is_alive() or words[GETTERS] < 2:
            await asyncio.sleep(0)
            if words[GETTERS] == 1 and not thread.ident:
                await asyncio.sleep(0.005)
                thread.start()
        await asyncio.sleep(0.01)
        coroutine.cancel()
        await asyncio.wait([coroutine])
        before = words[GET_EVENT]
        channel.send(channel.pool.get())
        assert words[GET_EVENT] > before
        await asyncio.to_thread(thread.join, 10)

    asyncio.run(use())
    assert len(received) == 1
    channel.pool.put(received[0])


@SHARED
def test_many_channels_leave_the_executor_of_their_loop_to_others(shared):
    async def use(pool):
        loop = asyncio.get_running_loop()
        channels = [Channel(pool) for _ in range(40)]
        waiters = [asyncio.ensure_future(channel.areceive()) for channel in channels]
        await asyncio.sleep(0)
        assert loop._default_executor is None
        for channel in channels:
            channel.send(pool.get())
        for index in await asyncio.gather(*waiters):
            pool.put(index)

    with BufferPool(40, 64, shared=shared) as pool:
        asyncio.run(use(pool))


@SHARED
@pytest.mark.parametrize("index", [-1, 2, 2**70])
def test_an_index_out_of_range_is_refused_by_name(shared, index):
    with BufferPool(2, 64, shared=shared) as pool, Channel(pool) as channel:
        for send in channel.send, channel.try_send, lambda index: asyncio.run(channel.asend(index)):
            with pytest.raises(IndexError, match="index must be from 0 to 1, not"):
                send(index)
        if index < 2**63:
            with pytest.raises(IndexError, match="index must be from 0 to 1, not"):
                channel.send_many(np.array([index]))


def test_what_is_in_a_channel_is_not_reported_as_checked_out(recwarn):
    pool = BufferPool(2, 64)
    channel = Channel(pool)
    channel.send(pool.get())
    pool.close()
    assert [str(warning.message) for warning in recwarn] == []
    other = BufferPool(2, 64)
    channel = Channel(other)
    channel.send(other.get())
    del channel, other
    assert [str(warning.message) for warning in recwarn] == []
