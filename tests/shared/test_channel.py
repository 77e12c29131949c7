"""Channels as one process sees them, over a private pool and a shared one: who owns what, order, ends, refusals."""

import asyncio
import gc
import threading
import time

import numpy as np
import pytest
from numba.core.errors import TypingError
from support import assert_a_signal_ends, assert_whole, beside, interrupted, until

from iobuf_nb import BoundedQueue, BufferPool, Channel, Closed, ItemPool, WouldBlock
from iobuf_nb._free.queue import GETTERS, PUTTERS


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def pool(request):
    """Four buffers, all of which must be back when the test ends."""
    pool = BufferPool(4, 16, shared=request.param)
    yield pool
    assert not pool.holders()
    assert_whole(pool)


@pytest.fixture
def channel(pool):
    return Channel(pool)


def drain(channel, face):
    """Receive and put all that is in a channel."""
    while (index := face.try_receive(channel)) >= 0:
        face.put(channel.pool, index)


# ---- owners ----------------------------------------------------------------------------------------------------------


def test_a_buffer_belongs_to_its_sender_then_to_nobody_then_to_its_receiver(face, pool, channel):
    index = face.get(pool)
    face.write(pool, index, 7)
    assert pool.holders() == {index: threading.get_ident()}
    face.send(channel, index)
    assert pool.holders() == {} and face.available(pool) == 3 and face.was_size(channel) == 1
    for refused in (lambda: face.put(pool, index), lambda: face.send(channel, index)):
        with pytest.raises(ValueError, match=f"index .*{index}.* that of a buffer that is checked out|{index}"):
            refused()
    assert not face.try_put(pool, index)
    with pytest.raises(ValueError, match="index"):
        face.put_many(pool, np.array([index]))
    assert face.was_size(channel) == 1 and face.available(pool) == 3
    received = face.receive(channel)
    assert received == index and (face.value(pool, received) == 7).all()
    assert pool.holders() == {index: threading.get_ident()} and face.was_size(channel) == 0
    face.put(pool, index)


def test_order_and_capacity(face, pool):
    channel = Channel(pool, 3)
    assert face.capacity(channel) == 3
    indices = [face.get(pool) for _ in range(4)]
    assert [face.try_send(channel, index) for index in indices] == [True, True, True, False]
    assert pool.holders().keys() == {indices[3]}  # what found no room is still its sender's
    with pytest.raises(WouldBlock, match="send found the channel full for as long as it may wait"):
        face.send_within(channel, indices[3], 0.02)
    assert pool.holders().keys() == {indices[3]}
    assert [face.receive(channel) for _ in range(3)] == indices[:3]
    assert face.try_receive(channel) == -1
    with pytest.raises(WouldBlock, match="receive found the channel empty for as long as it may wait"):
        face.receive_within(channel, 0.02)
    for index in indices:
        face.put(pool, index)


def test_many_at_once(face, pool):
    channel = Channel(pool, 3)
    out, again = np.empty(4, np.int64), np.full(5, -7)
    assert face.get_many(pool, out) == 4
    assert face.send_many(channel, out) == 3
    assert pool.holders().keys() == {out[3]}
    assert face.send_many(channel, out[3:]) == 0 and face.send_many(channel, out[:0]) == 0
    assert face.receive_many(channel, again[:2]) == 2 and face.receive_many(channel, again[2:4]) == 1
    assert again.tolist()[:3] == out.tolist()[:3] and again[4] == -7
    assert face.receive_many(channel, again) == 0
    face.put_many(pool, out)


@pytest.mark.parametrize("bad, error", [(4, IndexError), (-1, IndexError), (None, ValueError)])
def test_many_send_none_if_one_is_refused(face, pool, channel, bad, error):
    held = [face.get(pool) for _ in range(2)]
    free = next(iter({*range(4)} - {*held}))
    with pytest.raises(error, match="index"):
        face.send_many(channel, np.array([*held, free if bad is None else bad]))
    assert pool.holders().keys() == {*held} and face.was_size(channel) == 0
    for index in held:
        face.put(pool, index)


@pytest.mark.parametrize("array", [(0,), np.zeros(2, np.int8), np.zeros(2), np.zeros((1, 1), np.int64)])
def test_many_refuse_other_arrays(face, channel, array):
    for call in (face.send_many, face.receive_many):
        with pytest.raises((TypeError, TypingError), match="(indices|out) must be a one-dimensional int64 array"):
            call(channel, array)


@pytest.mark.parametrize("bad, error", [(-1, IndexError), (4, IndexError), (2**62, IndexError), (2, ValueError)])
def test_refuses_what_is_not_out(face, channel, bad, error):
    for call in (face.send, face.try_send):
        with pytest.raises(error, match="index must be "):
            call(channel, bad)
    assert face.was_size(channel) == 0


@pytest.mark.parametrize("bad", ["1", 1.0, None])
def test_refuses_what_is_no_index(face, channel, bad):
    for call in (face.send, face.try_send):
        with pytest.raises((TypeError, TypingError), match="index must be an integer, not"):
            call(channel, bad)


@pytest.mark.parametrize("bad, error", [(-1, ValueError), (float("nan"), ValueError)])
def test_refuses_bad_timeouts(face, pool, channel, bad, error):
    index = face.get(pool)
    for call in (lambda: face.send_within(channel, index, bad), lambda: face.receive_within(channel, bad)):
        with pytest.raises(error, match="timeout must be None or a number of seconds >= 0, not"):
            call()
    assert face.was_size(channel) == 0
    face.put(pool, index)


def test_a_buffer_goes_through_one_channel_only(face, pool):
    first, second = Channel(pool), Channel(pool)
    index = face.get(pool)
    face.send(first, index)
    with pytest.raises(ValueError, match="index"):
        face.send(second, index)
    assert face.try_receive(second) == -1
    face.send(second, face.receive(first))
    assert face.try_receive(first) == -1 and face.receive(second) == index
    face.put(pool, index)


def test_holders_name_the_receiving_thread(face, pool, channel):
    index, seen = face.get(pool), []
    thread = threading.Thread(target=lambda: seen.append((face.receive(channel), threading.get_ident())))
    thread.start()
    face.send(channel, index)
    thread.join()
    assert seen == [(index, pool.holders()[index])]
    face.put(pool, index)


# ---- waiting ---------------------------------------------------------------------------------------------------------


def test_a_receiver_waits_for_a_sender_and_a_sender_for_room(face, pool):
    channel, got = Channel(pool, 1), []
    indices = [face.get(pool) for _ in range(3)]
    face.put(pool, indices.pop())
    face.send(channel, indices[0])
    with beside(lambda: face.send(channel, indices[1])):
        until(lambda: channel._queue._words[PUTTERS])
        got.append(face.receive(channel))
    got.append(face.receive(channel))
    assert got == indices
    with beside(lambda: got.append(face.receive(channel))):
        until(lambda: channel._queue._words[GETTERS])
        face.send(channel, indices[0])
    assert got == [*indices, indices[0]]
    for index in indices:
        face.put(pool, index)


@pytest.mark.compiled
def test_a_signal_ends_a_wait(face, pool):
    channel = Channel(pool, 1)
    first, second = face.get(pool), face.get(pool)
    with pytest.raises(WouldBlock):
        face.receive_within(channel, 0.0)  # compiled before the alarm comes
    face.send(channel, first)
    assert face.receive(channel) == first
    assert_a_signal_ends(lambda: face.receive(channel))
    face.send(channel, first)
    with pytest.raises(WouldBlock):
        face.send_within(channel, second, 0.0)
    assert_a_signal_ends(lambda: face.send(channel, second))
    assert pool.holders().keys() == {second}
    face.put(pool, second)
    drain(channel, face)


WAIT = """
shared, how = sys.argv[1] == "shared", sys.argv[2]
pool = BufferPool(2, 16, shared=shared)
channel = Channel(pool, 1)
first, second = pool.get(), pool.get()
if how == "send":
    channel.send(first)
print("waiting", flush=True)
try:
    channel.send(second) if how == "send" else channel.receive()
except KeyboardInterrupt:
    print(len(pool.holders()), channel.was_size())
pool.put(second)
pool.put(channel.receive() if how == "send" else first)
pool.close()
"""


@pytest.mark.compiled
@pytest.mark.parametrize("how", ["send", "receive"])
@pytest.mark.parametrize("kind", ["private", "shared"])
def test_ctrl_c_ends_a_wait(kind, how):
    assert interrupted(WAIT, kind, how) == ("1 1" if how == "send" else "2 0")


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_close_refuses_sends_and_delivers_what_is_left(face, pool, channel):
    index, other = face.get(pool), face.get(pool)
    face.send(channel, index)
    face.close(channel)
    channel.close()
    assert face.closed(channel)
    with pytest.raises(Closed, match="send into a closed channel"):
        face.send(channel, other)
    assert not face.try_send(channel, other) and face.send_many(channel, np.array([other])) == 0
    assert pool.holders().keys() == {other}
    assert face.receive(channel) == index
    with pytest.raises(Closed, match="receive from a channel that is closed and empty"):
        face.receive(channel)
    assert face.try_receive(channel) == -1
    face.put(pool, index), face.put(pool, other)


def test_close_ends_waits(face, pool):
    channel, ended = Channel(pool, 1), []
    first, second = face.get(pool), face.get(pool)

    def ends(call, *arguments):
        with pytest.raises(Closed):
            call(*arguments)
        ended.append(call)

    with beside(lambda: ends(face.receive, channel)):
        until(lambda: channel._queue._words[GETTERS])
        channel.close()
    channel = Channel(pool, 1)
    face.send(channel, first)
    with beside(lambda: ends(face.send, channel, second)):
        until(lambda: channel._queue._words[PUTTERS])
        channel.close()
    assert len(ended) == 2 and pool.holders().keys() == {second}
    face.put(pool, second)
    drain(channel, face)


def test_iteration_ends_with_the_channel(pool):
    with Channel(pool) as channel:
        sent = [pool.get() for _ in range(3)]
        for index in sent:
            channel.send(index)
    seen = []
    for index in channel:
        seen.append(index)
        pool.put(index)
    assert seen == sent and channel.closed


def test_a_channel_shows_itself(pool, name):
    channel = Channel(pool, 3)
    with pool.lease():
        pass
    index = pool.get()
    channel.send(index)
    shared = "" if pool._segment is None else ", shared=True, name=None"
    assert repr(channel) == f"Channel(capacity=3, size=1, closed=False{shared})"
    assert "33.3 %" in channel._repr_html_()
    pool.put(channel.receive())


def test_a_channel_keeps_its_pool():
    pool = BufferPool(2, 16)
    channel = Channel(pool)
    channel.send(pool.get())
    del pool
    gc.collect()
    channel.pool.put(channel.receive())


# ---- coroutines ------------------------------------------------------------------------------------------------------


def test_coroutines_send_and_receive(pool):
    channel, seen = Channel(pool, 1), []

    async def produce():
        for number in range(50):
            index = await pool.aget()
            pool.value(index)[0] = number
            await channel.asend(index)
        channel.close()

    async def consume():
        async for index in channel:
            seen.append(int(pool.value(index)[0]))
            pool.put(index)

    async def both():
        await asyncio.wait_for(asyncio.gather(produce(), consume(), consume()), 60)

    asyncio.run(both())
    assert sorted(seen) == [*range(50)]


def test_limits_of_coroutines(pool):
    channel = Channel(pool, 1)
    first, second = pool.get(), pool.get()

    async def limits():
        with pytest.raises(WouldBlock, match="areceive found the channel empty for as long as it may wait"):
            await channel.areceive(0.02)
        await channel.asend(first)
        with pytest.raises(WouldBlock, match="asend found the channel full for as long as it may wait"):
            await channel.asend(second, 0.02)
        with pytest.raises(ValueError, match="index"):
            await channel.asend(first)
        with pytest.raises(IndexError, match="index must be from 0 to 3, not 4"):
            await channel.asend(4)
        with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0, not -1"):
            await channel.areceive(-1)
        channel.close()
        with pytest.raises(Closed, match="send into a closed channel"):
            await channel.asend(second)
        assert await channel.areceive() == first
        with pytest.raises(Closed, match="closed and empty"):
            await channel.areceive()

    asyncio.run(limits())
    pool.put(first), pool.put(second)


def test_a_coroutine_that_is_cancelled_has_neither_sent_nor_received(pool):
    channel = Channel(pool, 1)
    first, second = pool.get(), pool.get()

    async def cancelled(coroutine):
        task = asyncio.ensure_future(coroutine)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def both():
        await cancelled(channel.areceive())
        channel.send(first)
        await cancelled(channel.asend(second))

    asyncio.run(both())
    assert pool.holders().keys() == {second} and channel.was_size() == 1
    pool.put(channel.receive()), pool.put(second)


def test_a_send_in_a_thread_wakes_a_coroutine(face, pool, channel):
    index = face.get(pool)
    face.send(channel, index), face.receive(channel)  # compiled

    async def wait():
        task = asyncio.ensure_future(channel.areceive(60))
        while not channel._queue._words[GETTERS]:
            await asyncio.sleep(0.001)
        start = time.monotonic()
        await asyncio.to_thread(face.send, channel, index)
        assert await task == index
        return time.monotonic() - start

    assert any(asyncio.run(wait()) < 0.045 for _ in range(20))  # it does not wait until somebody looks again
    face.put(pool, index)


# ---- what is no channel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda pool: Channel(None), TypeError, "pool must be a BufferPool, not None"),
        (lambda pool: Channel(ItemPool("ab")), TypeError, "pool must be a BufferPool, not ItemPool"),
        (lambda pool: Channel(BoundedQueue(2)), TypeError, "pool must be a BufferPool, not BoundedQueue"),
        (lambda pool: Channel(BufferPool(2, 16, checked=False)), ValueError, "pool must be made with checked=True"),
        (lambda pool: Channel(pool, 0), ValueError, "capacity must be an integer from 1 to 4, not 0"),
        (lambda pool: Channel(pool, 5), ValueError, "capacity must be an integer from 1 to 4, not 5"),
        (lambda pool: Channel(pool, "2"), TypeError, "capacity must be an integer from 1 to 4, not '2'"),
        (lambda pool: Channel(pool, True), TypeError, "capacity must be an integer from 1 to 4, not True"),
        (lambda pool: Channel(pool, name=""), ValueError, "name"),
        (lambda pool: Channel(pool, name=3), (TypeError, ValueError), "name"),
    ],
)
def test_refuses_bad_arguments(pool, make, error, message):
    with pytest.raises(error, match=message):
        make(pool)


def test_a_name_needs_a_shared_pool():
    with pytest.raises(ValueError, match="name='x' needs a pool that is made with shared=True"):
        Channel(BufferPool(2, 16), name="x")


def test_the_least_capacity_follows_from_the_pool():
    pool = BufferPool(2049, 1)
    assert Channel(pool, 3).capacity == 3
    with pytest.raises(ValueError, match="capacity must be an integer from 3 to 2049, not 2"):
        Channel(pool, 2)


def test_closing_the_pool_leaves_the_channel(face, pool):
    closing = BufferPool(2, 16, shared=pool._segment is not None)
    channel = Channel(closing)
    index = closing.get()
    channel.send(index)
    closing.close()
    assert face.receive(channel) == index
    face.put(closing, index)
