"""Pools with stats and debug: what is counted, and which misuse is an error."""

import asyncio
import os
import re
import threading
import warnings

import numpy as np
import pytest
from numba import njit
from support import line_of, until

from iobuf_nb import BufferPool, Channel, Closed, ItemPool, Magazine, MagazineSet, PoolStats, WouldBlock, stream
from iobuf_nb._free.free_list import give, take
from iobuf_nb._free.queue import GETTERS

HERE = re.escape(__file__)


@njit(nogil=True)
def use_after_put(pool, how):
    index = pool.get()
    if how == 0:
        pool.value(index)[0] = 1
    pool.put(index)
    if how == 1:
        pool.value(index)[0] = 1
    elif how == 2:
        pool.set_value(index, np.zeros(1, np.uint8))
    elif how == 3:
        pool.iovec(np.array([index]))
    return index


@njit(nogil=True)
def write_late(pool):
    index = pool.get()
    buffer = pool.value(index)
    pool.put(index)
    buffer[3] = 1
    return index


@njit(nogil=True)
def get_all(pool, out):
    return pool.get_many(out)


# ---- stats -----------------------------------------------------------------------------------------------------------


def test_gets_and_puts_are_counted_wherever_they_are(face):
    pool = BufferPool(4, 64, stats=True)
    held = [face.get(pool), face.try_get(pool)]
    out = np.zeros(4, np.int64)
    assert face.get_many(pool, out) == 2
    assert pool.stats()[:3] == (4, 0, 0) and pool.stats().most_in_use == 4
    face.put(pool, held[0])
    assert face.try_put(pool, held[1])
    face.put_many(pool, out[:2])
    assert pool.stats() == PoolStats(4, 4, 0, 0, 0.0, 4)


def test_a_refused_put_is_not_counted(face):
    pool = BufferPool(2, 64, stats=True)
    index = face.get(pool)
    face.put(pool, index)
    assert not face.try_put(pool, index)
    with pytest.raises(ValueError):
        face.put_many(pool, np.array([index]))
    assert pool.stats()[:2] == (1, 1)


def test_a_get_that_fails_is_counted_once(face):
    pool = BufferPool(1, 64, stats=True)
    index = face.get(pool)
    assert face.try_get(pool) == -1
    with pytest.raises(WouldBlock):
        face.get_at_once(pool)
    assert pool.stats()[2:4] == (2, 0)
    with pytest.raises(WouldBlock):
        face.get_within(pool, 0.01)
    assert pool.stats()[2:4] == (3, 1)
    assert pool.stats().longest_wait >= 0.01
    assert face.get_many(pool, np.zeros(1, np.int64)) == 0
    assert pool.stats()[:4] == (1, 0, 3, 1)
    face.put(pool, index)


@pytest.mark.parametrize("closes", ["pool", "magazine"])
def test_gets_of_what_is_closed_are_not_counted(closes):
    pool = BufferPool(1, 64, stats=True)
    magazine = pool.magazine()
    (pool if closes == "pool" else magazine).close()
    with pytest.raises(Closed):
        magazine.get()
    with pytest.raises(Closed), magazine.lease():
        pass
    assert pool.stats().failed_gets == 0


def test_a_get_whose_last_look_finds_a_buffer_has_not_failed():
    pool = BufferPool(1, 64, stats=True)
    index = pool.get()
    assert pool._take() == -1 and pool.stats().failed_gets == 1
    pool.put(index)
    assert pool._wait(0) == index
    assert pool.stats() == PoolStats(2, 1, 0, 0, 0.0, 1)
    pool.put(index)


@pytest.mark.parametrize("how", ["get", "lease", "magazine"])
def test_a_wait_that_ends_well_is_no_failure(how):
    pool = BufferPool(1, 64, stats=True)
    index = pool.get()
    found = []

    def wait():
        if how == "lease":
            with (lease := pool.lease()):
                found.append(lease.index)
        elif how == "magazine":
            with pool.magazine() as magazine:
                found.append(magazine.get())
                magazine.put(found[0])
        else:
            found.append(pool.get())
            pool.put(found[0])

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: pool._queue._words[GETTERS] == 1)  # it is among the getters
    assert pool.stats().failed_gets == 0
    pool.put(index)
    thread.join()
    assert found == [index]
    assert pool.stats()[:4] == (2, 2, 0, 1) and pool.stats().longest_wait > 0


def test_coroutines_that_wait_are_counted():
    pool = BufferPool(1, 64, stats=True)

    async def use():
        async with pool.alease(timeout=30):
            await asyncio.sleep(0)

    async def many():
        await asyncio.gather(*(use() for _ in range(5)))
        async with pool.alease():
            with pytest.raises(WouldBlock):
                await pool.aget(timeout=0.001)

    asyncio.run(many())
    gets, puts, failed, waits, longest, most = pool.stats()
    assert (gets, puts, failed, most) == (6, 6, 1, 1)
    assert waits == 5 and longest > 0


def test_magazines_and_streams_are_counted(file):
    pool = BufferPool(8, 4096, stats=True)
    with MagazineSet(pool, 1, 4) as magazines:
        out = np.zeros(3, np.int64)
        for _ in range(5):
            magazines[0].put(magazines[0].get())
            assert magazines[0].get_many(out) == 3
            magazines[0].put_many(out)
    assert pool.stats() == PoolStats(20, 20, 0, 0, 0.0, 3)
    stream(file(bytes(100_000)), count, state=np.zeros(1, np.int64), pool=pool, workers=1)
    gets, puts, *_ = pool.stats()
    assert gets == puts > 20


@njit
def count(buffer, n, offset, state):
    state[0] += n


def test_several_threads_lose_no_count():
    pool = BufferPool(3, 64, stats=True)

    def work():
        for _ in range(300):
            pool.put(pool.get())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = pool.stats()
    assert stats.gets == stats.puts == 1200 and stats.failed_gets == 0 and 1 <= stats.most_in_use <= 3


def test_items_have_stats_too():
    pool = ItemPool("ab", stats=True)
    pool.put(pool.get())
    assert pool.stats()[:2] == (1, 1)


def test_without_being_asked_nothing_is_counted():
    pool = BufferPool(2, 64)
    for method in pool.stats, pool.places, pool.check:
        with pytest.raises(ValueError, match="needs a pool made with"):
            method()


# ---- debug -----------------------------------------------------------------------------------------------------------


def test_a_buffer_that_was_put_is_poisoned():
    pool = BufferPool(1, shape=3, dtype="i4", debug=True)
    index = pool.get()
    assert pool.value(index).tolist() == [0, 0, 0]
    buffer = pool.value(index)
    pool.put(index)
    assert buffer.tobytes() == b"\xdb" * 12


@pytest.mark.parametrize("size", [1, 2, 64, 5000])
def test_a_write_after_the_put_is_told_at_the_next_get(face, size):
    pool = BufferPool(1, size, debug=True)
    index = pool.get()  # the former get
    buffer = pool.value(index)
    pool.put(index)
    buffer[size - 1] = 0
    told = (
        f"buffer 0 was written to after it was put: its byte {size - 1} has changed while it was free; "
        f"thread 'MainThread' put it, which had got it at {HERE}:{line_of(__file__, '# the former ' + 'get')}"
    )
    with pytest.raises(RuntimeError, match=told):
        face.get(pool)
    assert pool.available() == 1  # and that is told once
    face.put(pool, face.get(pool))
    buffer[0] = 0
    with pytest.raises(RuntimeError, match="its byte 0 has changed"):
        face.try_get(pool)
    buffer[0] = 0
    with pytest.raises(RuntimeError, match="its byte 0 has changed"):
        face.get_many(pool, np.zeros(1, np.int64))
    assert pool.available() == 1
    pool.check()


def test_a_bulk_get_that_raises_keeps_nothing():
    pool = BufferPool(4, 16, debug=True)
    out = np.zeros(4, np.int64)
    assert get_all(pool, out) == 4
    buffers = [pool.value(index) for index in out]
    pool.put_many(out)
    buffers[2][:] = 1
    with pytest.raises(RuntimeError, match=f"buffer {out[2]} "):
        get_all(pool, out)
    assert pool.available() == 4 and pool.holders() == {}


def test_a_kernel_that_writes_late_is_found_by_check_and_close():
    pool = BufferPool(2, 64, debug=True)
    index = write_late(pool)
    with pytest.raises(RuntimeError, match=f"buffer {index} .* byte 3 "):
        pool.check()
    pool.check()
    index = write_late(pool)
    with pytest.warns(RuntimeWarning, match=f"buffer {index} .* byte 3 "):
        pool.close()
    pool.close()


def test_where_warnings_are_errors_close_tells_of_leaks_and_of_writes():
    pool = BufferPool(2, 64, debug=True)
    write_late(pool)
    pool.get()
    with warnings.catch_warnings(), pytest.raises(RuntimeWarning, match="byte 3") as told:
        warnings.simplefilter("error")
        pool.close()
    assert isinstance(told.value.__context__, ResourceWarning) and pool.closed


def test_a_magazine_tells_it_at_its_get(face):
    pool = BufferPool(1, 64, debug=True)
    write_late(pool)
    with pool.magazine() as magazine:
        with pytest.raises(RuntimeError, match="byte 3"):
            face.get(magazine)
        index = face.get(magazine)
        assert face.value(magazine, index)[0] == 0xDB
        face.put(magazine, index)
    pool.check()


def test_a_stream_tells_it_too(file):
    pool = BufferPool(1, 8192, debug=True)
    write_late(pool)
    with pytest.raises(RuntimeError, match="byte 3"):
        stream(file(bytes(10)), count, state=np.zeros(1, np.int64), pool=pool, workers=1)
    pool.check()


def test_what_io_uring_finds_is_told_later():
    pool = BufferPool(1, 64, debug=True)
    write_late(pool)
    give(pool._core, take(pool._core))  # as its kernels do
    give(pool._core, take(pool._core))
    told = f"byte 3 .* 'MainThread' put it, which had got it at {HERE}:{line_of(__file__, 'def write_late') + 1}"
    with pytest.raises(RuntimeError, match=told):
        pool.check()
    pool.check()


def test_a_coroutine_is_told_it_at_its_get():
    pool = BufferPool(1, 64, debug=True)

    async def wait():
        with pytest.raises(RuntimeError, match="byte 3"):
            await pool.aget(timeout=30)

    async def both():
        index = pool.get()
        buffer = pool.value(index)
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        pool.put(index)
        buffer[3] = 1
        await waiting

    asyncio.run(both())
    assert pool.available() == 1
    pool.check()


def test_what_is_written_in_time_is_no_write_after_a_put():
    pool = BufferPool(1, 64, debug=True)
    channel = Channel(pool, 1)
    pool.put(pool.get())
    pool.value(pool.get())[:] = 1
    channel.send(0)
    pool.check()
    assert not pool._observation.spoiled(0)
    pool.put(channel.receive())
    assert not pool._observation.spoiled(0)


def test_fill_is_no_write_after_a_put(face):
    pool = BufferPool(2, 4, debug=True)
    pool.put(pool.get())
    face.fill(pool, ones)
    for _ in range(2):
        index = pool.get()
        assert pool.value(index).tolist() == [1, 1, 1, 1]
    pool.put_many(np.arange(2))
    pool.check()


def test_a_fill_that_fails_is_no_write_after_a_put(face):
    pool = BufferPool(2, 4, debug=True)
    pool.put_many(np.array([pool.get(), pool.get()]))
    with pytest.raises(ValueError, match="longer than the buffer"):
        face.fill(pool, five)
    calls = iter([np.ones(4, np.uint8)])
    with pytest.raises(StopIteration):
        pool.fill(lambda: next(calls))
    pool.check()


@njit
def five():
    return np.ones(5, np.uint8)


@njit
def ones():
    return np.ones(4, np.uint8)


@pytest.mark.parametrize("how", [1, 2, 3])
def test_a_kernel_cannot_use_what_it_has_put(how):
    pool = BufferPool(2, 64, debug=True)
    with pytest.raises(ValueError, match="index must be that of a buffer that is checked out; 0 was put already"):
        use_after_put(pool, how)
    assert pool.value(pool.get()) is not None and pool.available() == 1
    pool.put(1)
    assert use_after_put(pool, 0) == 0


@pytest.mark.parametrize("use", ["value", "view", "set_value", "iovec"])
def test_only_the_owner_uses_a_buffer(use):
    arguments = {"set_value": (b"x",)}.get(use, ())

    def attempt(pool, index):
        getattr(pool, use)([index] if use == "iovec" else index, *arguments)

    def elsewhere(pool):
        caught = []

        def run():
            try:
                attempt(pool, 0)
            except ValueError as error:
                caught.append(str(error))

        thread = threading.Thread(target=run, name="other")
        thread.start()
        thread.join()
        return caught

    pool = BufferPool(1, 64, debug=True)
    with pytest.raises(ValueError, match="was put already or never got"):
        attempt(pool, 0)
    index = pool.get()  # of this thread
    attempt(pool, index)
    (told,) = elsewhere(pool)
    assert told == (
        f"index must be that of a buffer of this thread; thread 'MainThread' got 0 at {__file__}:"
        f"{line_of(__file__, '# of this ' + 'thread')}; "
        "where threads hand buffers on, make the pool with debug='any thread'"
    )
    pool.put(index)
    for wrong in -1, 1:
        with pytest.raises(IndexError):
            attempt(pool, wrong)
    lenient = BufferPool(1, 64, debug="any thread")
    assert len(elsewhere(lenient)) == 1
    lenient.get()
    assert elsewhere(lenient) == []
    lenient.put(0)


def test_what_comes_through_a_channel_belongs_to_its_receiver():
    pool = BufferPool(1, 64, debug=True)
    channel = Channel(pool, 1)
    channel.send(pool.get())
    with pytest.raises(ValueError, match="checked out"):
        pool.value(0)
    index = channel.receive()
    pool.value(index)[0] = 1
    pool.put(index)
    pool.check()


def test_a_stream_goes_through_a_pool_with_debug(file):
    pool = BufferPool(2, 8192, debug=True)
    data = bytes(range(256)) * 400
    result = stream(file(data), count, state=np.zeros(1, np.int64), pool=pool, workers=1)
    assert result.state[0] == len(data)
    pool.check()


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"stats": 1}, TypeError, "stats must be a bool, not 1"),
        ({"trace": "yes"}, TypeError, "trace must be a bool, not 'yes'"),
        ({"debug": 1}, TypeError, "debug must be True, False or 'any thread', not 1"),
        ({"debug": "all"}, ValueError, "debug must be True, False or 'any thread', not 'all'"),
        ({"stats": True, "checked": False}, ValueError, "stats must be False for a pool with checked=False"),
        ({"debug": True, "shared": True}, ValueError, "debug must be False for a shared pool"),
    ],
)
def test_bad_arguments_are_refused(options, error, told):
    with pytest.raises(error, match=told):
        BufferPool(1, 64, **options)


def test_a_subclass_has_stats_and_no_trace():
    class Mine(BufferPool):
        pass

    assert Mine(1, 64, stats=True).stats().gets == 0
    with pytest.raises(TypeError, match="trace and debug must be False in a subclass"):
        Mine(1, 64, trace=True)


def test_a_magazine_of_a_subclass_is_refused_where_it_would_note_nothing():
    class Mine(Magazine):
        pass

    pool = BufferPool(1, 64, stats=True)
    magazine = Mine(pool)
    magazine.put(magazine.get())
    assert pool.stats().gets == 1
    with pytest.raises(TypeError, match="pool must have neither trace nor debug for a subclass of Magazine, not Buff"):
        Mine(BufferPool(1, 64, trace=True))


def test_what_the_type_of_one_makes_is_what_its_arguments_say():
    pool, usual = BufferPool(1, 64, debug=True), BufferPool(1, 64)
    make, make_magazine = type(pool), type(pool.magazine())
    assert type(make(1, 64)) is BufferPool and type(make(1, 64, trace=True)) is make
    assert type(make_magazine(usual)) is Magazine and type(make_magazine(pool)) is make_magazine
    with BufferPool(1, 64, name=f"type of a pool.{os.getpid()}") as shared:
        assert type(pool.attach(shared.name)) is BufferPool


def test_it_is_a_buffer_pool_to_all():
    pool = BufferPool(1, 64, debug=True)
    assert isinstance(pool, BufferPool)
    assert (
        repr(pool) == "BufferPool(capacity=1, in_use=0, checked=True, shape=(64,), dtype=uint8, trace=True, debug=True)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool.close()
