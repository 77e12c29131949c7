"""Magazines: a stack for one thread from which nobody is kept away; whose it is, how it ends, how it stands load."""

import asyncio
import collections
import functools
import gc
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import faces
import numba
import numpy as np
import pytest
from numba import config, njit, prange, typeof
from numba.core.errors import TypingError
from test_handle import run_script

from iobuf_nb import BufferPool, ItemPool, Magazine, MagazineSet, PoolClosed, WouldBlock
from iobuf_nb._free.deque import COUNT, DEQUE_CAPACITY, FENCES_FAIL, MAX_DEQUES
from iobuf_nb._free.queue import GETTERS
from iobuf_nb._threads import fences


@pytest.fixture(params=[True, False], ids=["checked", "unchecked"])
def pool(request):
    """Four buffers, all of which must be back when the test ends."""
    pool = BufferPool(4, 16, checked=request.param)
    yield pool
    assert_whole(pool)


@pytest.fixture
def checked():
    pool = BufferPool(4, 16)
    yield pool
    assert_whole(pool)


@pytest.fixture(params=[True, False], ids=["membarrier", "fences"])
def system(request, monkeypatch):
    """Run the test where the system has membarrier(2), and as if it had not."""
    if not request.param:
        monkeypatch.setattr("iobuf_nb._pools.magazine.register_heavy_fence", lambda: False)


def assert_whole(pool):
    """Every buffer is free, and is there exactly once."""
    assert pool.available() == pool.capacity
    taken = take_all(pool)
    assert sorted(taken) == list(range(pool.capacity))
    pool.put_many(np.array(taken))


def take_all(source, face=faces.python):
    return [index for index in iter(lambda: face.try_get(source), -1)]


def put_all(source, indices, face=faces.python):
    for index in indices:
        face.put(source, index)


def state(pool):
    """Everything that getting and putting can change."""
    return [
        {i: int(words[i]) for i in np.flatnonzero(words)} for words in (pool._queue._words, pool._owners, pool._deques)
    ]


def elsewhere(call, *arguments):
    """Call in a thread that ends with the call; return or raise what that did."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call, *arguments).result()


def wait_for_getters(pool, n=1):
    """Go on when `n` threads are about to park."""
    give_up = time.monotonic() + 60
    while pool._queue._words[GETTERS] < n:
        assert time.monotonic() < give_up, "nobody waits"
        time.sleep(0.001)


# ---- a stack over the pool -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("size", [1, 2, 3, 4, 32])
def test_gives_back_what_was_put_last_and_keeps_no_more_than_its_size(face, pool, size):
    magazine = pool.magazine(size)
    taken = take_all(magazine, face)
    assert sorted(taken) == [0, 1, 2, 3] and face.try_get(magazine) == -1
    for n, index in enumerate(taken, 1):
        face.put(magazine, index)
        assert face.was_size(magazine) == min(n, size)
        assert face.available(pool) == n
    # First those that it keeps, the last one first; then those that went to the ring, in their order.
    assert take_all(magazine, face) == taken[:size][::-1] + taken[size:]
    put_all(magazine, taken, face)


@pytest.mark.parametrize("size", [1, DEQUE_CAPACITY])
def test_the_smallest_and_the_largest(face, size):
    pool = BufferPool(600, 16)
    magazine = pool.magazine(size)
    for _ in range(3):  # so that the slots are used beyond their end
        taken = [face.get(magazine) for _ in range(600)]
        assert sorted(taken) == list(range(600))
        put_all(magazine, taken, face)
        assert face.was_size(magazine) == size
        assert [face.get(magazine) for _ in range(size)] == taken[:size][::-1]
        put_all(magazine, taken[:size], face)
    assert_whole(pool)


def test_a_pool_of_one(face):
    pool = BufferPool(1, 16)
    with pool.magazine() as magazine:
        for source in (magazine, pool, magazine):
            assert face.get(source) == 0
            assert face.try_get(pool) == face.try_get(magazine) == -1
            face.put(magazine, 0)
            assert not face.try_put(magazine, 0) and not face.try_put(pool, 0)
            assert face.was_size(magazine) == 1
    assert_whole(pool)


def test_what_one_got_the_other_takes_back(face, pool):
    magazine, another = pool.magazine(), pool.magazine()
    index = face.get(magazine)
    face.put(pool, index)
    assert (face.was_size(magazine), pool._queue.was_size()) == (0, 4)
    index = face.get(pool)
    face.put(magazine, index)
    assert (face.was_size(magazine), pool._queue.was_size()) == (1, 3)
    assert face.get(magazine) == index
    face.put(another, index)
    assert (face.was_size(magazine), face.was_size(another)) == (0, 1)


def test_says_what_its_pool_is(face, pool):
    magazine = pool.magazine(7)
    assert magazine.pool is pool
    assert face.capacity(magazine) == 4 and face.size(magazine) == 7
    assert face.checked(magazine) is pool.checked
    assert face.closed(magazine) is False and face.was_size(magazine) == 0


def test_holders_are_those_who_got_through_it(face, checked):
    magazine = checked.magazine()
    indices = np.array([face.get(magazine), face.get(magazine)])
    assert checked.holders() == dict.fromkeys(indices.tolist(), threading.get_ident())
    put_all(magazine, indices, face)
    assert not checked.holders()
    assert face.get_many(magazine, indices) == 2
    assert checked.holders() == dict.fromkeys(indices.tolist(), threading.get_ident())
    face.put_many(magazine, indices)
    assert not checked.holders()


def test_refuses_what_is_not_out_and_changes_nothing(face, checked):
    magazine = checked.magazine()
    lying = face.get(magazine)
    face.put(magazine, lying)
    before = state(checked)
    for index in (lying, 3):  # in the magazine, in the ring
        assert not face.try_put(magazine, index)
        with pytest.raises(ValueError, match=r"index .*that of a buffer that is .*out"):
            face.put(magazine, index)
    assert state(checked) == before


@pytest.mark.parametrize("index", [-1, 4, 2**62])
def test_refuses_indices_out_of_range(face, pool, index):
    magazine = pool.magazine()
    face.put(pool, face.get(magazine))
    before = state(pool)
    assert not face.try_put(magazine, index)
    with pytest.raises(IndexError, match="index must be from 0 to"):
        face.put(magazine, index)
    with pytest.raises(IndexError, match="index must be from 0 to"):
        face.put_many(magazine, np.array([index]))
    assert state(pool) == before


@pytest.mark.parametrize("index", ["1", 1.0, None])
def test_refuses_indices_that_are_no_integers(face, checked, index):
    for call in (face.put, face.try_put):
        with pytest.raises((TypeError, TypingError), match="index must be an integer, not"):
            call(checked.magazine(), index)


def test_refuses_indices_beyond_64_bits(pool):
    with pytest.raises(IndexError, match=f"index must be from 0 to 3, not {2**70}"):
        pool.magazine().put(2**70)
    assert not pool.magazine().try_put(2**70)


# ---- values ----------------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_pool(face):
    pool = BufferPool(3, shape=(4, 5), dtype="f4")
    magazine = pool.magazine()
    index = face.get(magazine)
    face.write(magazine, index, 1.5)
    value = face.value(magazine, index)
    assert value.dtype == np.float32 and value.shape == (4, 5)
    face.set_value(magazine, index, np.full((2, 5), 2, np.float32))
    assert pool.value(index).sum() == 2 * 5 * 2 + 2 * 5 * 1.5
    assert magazine.value(index).ctypes.data == pool.value(index).ctypes.data
    face.put(magazine, index)
    with pytest.raises(IndexError, match="index must be from 0 to"):
        face.value(magazine, 3)
    with pytest.raises(IndexError, match="index must be from 0 to"):
        face.set_value(magazine, -1, np.zeros((1, 5), np.float32))


@pytest.mark.parametrize("checked", [True, False])
def test_item_pools_have_magazines(face, checked):
    items = [object(), "two", [3]]
    pool = ItemPool(items, checked=checked)
    with pool.magazine() as magazine:
        taken = take_all(magazine, face)
        assert {id(magazine.value(index)) for index in taken} == {id(item) for item in items}
        magazine.set_value(taken[0], "new")
        put_all(magazine, taken, face)
        assert face.was_size(magazine) == 3
        with magazine.lease() as item:
            assert item is items[taken[-1]]
        assert pool.value(taken[0]) == "new"
    assert_whole(pool)


def test_lease_gives_back_whatever_happens(pool):
    magazine = pool.magazine()
    with magazine.lease() as buffer:
        buffer[:] = 3
        assert pool.available() == 3
    with pytest.raises(KeyError), magazine.lease(timeout=1.0) as same:
        assert same.ctypes.data == buffer.ctypes.data  # still warm
        raise KeyError
    assert pool.available() == 4 and magazine.was_size() == 1


# ---- in bulk ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("system")
def test_get_many_takes_its_own_first_and_then_as_many_as_there_are(face, pool):
    magazine, other = pool.magazine(), pool.magazine()
    own, lent = np.empty(2, np.int64), np.empty(1, np.int64)
    assert face.get_many(magazine, own) == 2 and face.get_many(other, lent) == 1
    face.put_many(magazine, own)
    face.put_many(other, lent)
    assert (face.was_size(magazine), face.was_size(other)) == (2, 1)
    out = np.full(6, -7)
    assert face.get_many(magazine, out[:1]) == 1 and out[0] == own[-1]
    face.put(magazine, out[0])
    assert face.get_many(magazine, out[:0]) == 0
    assert face.get_many(magazine, out) == 4  # its own, the ring's, and the other's
    assert set(out[:2]) == set(own) and set(out[:4]) == {0, 1, 2, 3} and (out[4:] == -7).all()
    assert face.get_many(magazine, out[4:]) == 0
    face.put_many(magazine, out[:4])
    assert face.was_size(magazine) == 4


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("size", [1, 3])
def test_put_many_keeps_as_many_as_there_is_room_for(face, pool, size):
    magazine = pool.magazine(size)
    taken = np.array(take_all(magazine, face))
    face.put_many(magazine, taken[:0])
    assert face.was_size(magazine) == 0
    face.put_many(magazine, taken)
    assert face.was_size(magazine) == size and pool.available() == 4
    assert take_all(magazine, face) == [*taken[:size][::-1], *taken[size:]]
    face.put_many(magazine, taken[::-1])  # not contiguous
    assert face.get(magazine) == taken[::-1][size - 1]
    face.put(magazine, taken[::-1][size - 1])


@pytest.mark.parametrize(
    "bad, error", [([0, 1, 1], ValueError), ([0, 1, 4], IndexError), ([0, 1, -1], IndexError), ([0, 3], ValueError)]
)
def test_put_many_gives_all_or_nothing(face, checked, bad, error):
    magazine = checked.magazine()
    indices = np.empty(3, np.int64)
    assert face.get_many(magazine, indices) == 3 and 3 not in indices
    before = state(checked)
    with pytest.raises(error, match="index"):
        face.put_many(magazine, np.array(bad))
    assert state(checked) == before
    face.put_many(magazine, indices)


@pytest.mark.parametrize("array", [(0,), np.zeros(2, np.int8), np.zeros(2), np.zeros((1, 1), np.int64)])
def test_bulk_calls_refuse_other_arrays(face, checked, array):
    for call in (face.get_many, face.put_many):
        with pytest.raises((TypeError, TypingError), match="(indices|out) must be a one-dimensional int64 array"):
            call(checked.magazine(), array)


def test_read_only_arrays_can_be_put_and_not_filled(face, pool):
    magazine = pool.magazine()
    indices = np.array(take_all(magazine, face))
    indices.flags.writeable = False
    with pytest.raises((ValueError, TypingError), match="(indices|out) must be a writable array"):
        face.get_many(magazine, indices)
    face.put_many(magazine, indices)
    assert face.was_size(magazine) == 4


# ---- empty only if all are out ---------------------------------------------------------------------------------------


def idle(magazine):
    return magazine


def closed(magazine):
    magazine.close()
    return magazine


def dropped(magazine):
    return None


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("through", ["the pool", "a magazine", "a magazine in bulk"])
@pytest.mark.parametrize("run", [lambda call: call(), elsewhere], ids=["same thread", "dead thread"])
@pytest.mark.parametrize("afterwards", [idle, closed, dropped])
def test_buffers_in_a_magazine_can_be_got_by_all(face, pool, afterwards, run, through):
    def fill():
        magazine = pool.magazine()
        taken = take_all(magazine, face)
        put_all(magazine, taken, face)
        assert face.was_size(magazine) == 4
        return taken, afterwards(magazine)

    taken, kept = run(fill)
    assert face.available(pool) == 4
    if through == "the pool":
        found, source = take_all(pool, face), pool
    else:
        # A closed or dropped magazine's buffers belong to whoever uses its number next: keep that from being the thief.
        next_user, source = pool.magazine(), pool.magazine()
        assert next_user.was_size() == (0 if afterwards is idle else 4)
        if through == "a magazine":
            found = take_all(source, face)
        else:
            out = np.empty(5, np.int64)
            found = out[: face.get_many(source, out)].tolist()
    assert found == taken  # the oldest first
    assert face.try_get(pool) == face.try_get(source) == -1
    assert kept is None or face.was_size(kept) == 0
    put_all(pool, found, face)


def test_the_next_magazine_finds_what_a_dropped_one_left(face, pool):
    magazine = pool.magazine()
    number = magazine._number
    put_all(magazine, taken := take_all(magazine, face), face)
    del magazine
    heir = pool.magazine()
    assert heir._number == number and face.was_size(heir) == 4
    assert take_all(heir, face) == taken[::-1]
    put_all(heir, taken, face)


def test_many_magazines_hide_nothing(face):
    pool = BufferPool(2 * MAX_DEQUES, 16)
    magazines = [pool.magazine(2) for _ in range(MAX_DEQUES)]
    taken = take_all(pool, face)
    for k, index in enumerate(taken):
        face.put(magazines[k // 2], index)
    assert pool._queue.was_size() == 0 and {magazine.was_size() for magazine in magazines} == {2}
    assert sorted(take_all(magazines[100], face)) == sorted(taken)
    assert face.try_get(pool) == -1
    put_all(magazines[0], taken, face)
    assert_whole(pool)


# ---- waiting ---------------------------------------------------------------------------------------------------------


def put_each(face, source, indices):
    put_all(source, indices, face)


def put_at_once(face, source, indices):
    face.put_many(source, np.array(indices))


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("put", [put_each, put_at_once])
@pytest.mark.parametrize("through", ["the pool", "a magazine"])
def test_a_put_through_a_magazine_ends_the_waits_of_others(face, checked, put, through):
    magazine = checked.magazine()
    taken = take_all(magazine, face)
    with ThreadPoolExecutor(4) as threads:
        sources = [checked if through == "the pool" else checked.magazine() for _ in taken]
        waits = [threads.submit(face.get_within, source, 60.0) for source in sources]
        wait_for_getters(checked, 4)
        put(face, magazine, taken)
        assert sorted(wait.result() for wait in waits) == [0, 1, 2, 3]
        assert threading.get_ident() not in checked.holders().values()
    assert face.was_size(magazine) == 0  # nothing was kept while somebody waited
    put(face, magazine, taken)
    assert face.was_size(magazine) == 4


@pytest.mark.parametrize("put", [put_each, put_at_once])
def test_what_somebody_waits_for_goes_to_the_ring(face, pool, put):
    magazine = pool.magazine()
    taken = take_all(magazine, face)
    pool._queue._words[GETTERS] += 1  # as if by one who is slow to wake
    put(face, magazine, taken)
    pool._queue._words[GETTERS] -= 1
    assert face.was_size(magazine) == 0 and pool._queue.was_size() == 4


def test_a_put_through_the_pool_ends_a_wait_through_a_magazine(face, pool):
    taken = take_all(pool, face)
    with ThreadPoolExecutor(1) as thread:
        wait = thread.submit(face.get_within, pool.magazine(), 60.0)
        wait_for_getters(pool)
        face.put(pool, taken[0])
        assert wait.result() == taken[0]
    put_all(pool, taken, face)


def test_nobody_waits_beside_an_idle_magazine(face, pool):
    magazine, another = pool.magazine(), pool.magazine()
    put_all(magazine, take_all(magazine, face), face)
    assert pool._queue.was_size() == 0
    found = [face.get_at_once(source) for source in (pool, another, pool, another)]
    assert sorted(found) == [0, 1, 2, 3]
    put_all(pool, found, face)


def test_a_get_that_may_not_wait_says_so(face, pool):
    magazine = pool.magazine()
    taken = take_all(magazine, face)
    with pytest.raises(WouldBlock):
        face.get_at_once(magazine)
    with pytest.raises(WouldBlock):
        face.get_within(magazine, 0.02)
    with pytest.raises(WouldBlock), magazine.lease(timeout=0.0):
        pass
    pool.nonblocking = True
    with pytest.raises(WouldBlock):
        face.get(magazine)
    pool.nonblocking = False
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0, not"):
        face.get_within(magazine, -1.0)
    put_all(magazine, taken, face)


def test_closing_the_pool_ends_waits_through_magazines(face):
    pool = BufferPool(1, 16)
    magazine = pool.magazine()
    index = face.get(magazine)
    with ThreadPoolExecutor(1) as thread:
        wait = thread.submit(face.get_within, pool.magazine(), 60.0)
        wait_for_getters(pool)
        with pytest.warns(ResourceWarning, match="1 of its buffers still out"):
            pool.close()
        with pytest.raises(PoolClosed):
            wait.result()
    face.put(magazine, index)
    assert face.try_get(magazine) == -1 and face.get_many(magazine, np.empty(1, np.int64)) == 0
    with pytest.raises(PoolClosed):
        face.get(magazine)
    magazine.close()
    assert pool.available() == 1


@pytest.mark.parametrize("put", [put_each, put_at_once])
@pytest.mark.parametrize("run", [lambda call, *arguments: call(*arguments), elsewhere], ids=["loop", "thread"])
def test_coroutines_are_served_by_magazines(face, pool, put, run):
    magazine = pool.magazine()
    taken = take_all(pool, face)

    async def wait():
        index = await pool.aget(timeout=60)
        async with pool.alease(timeout=60) as buffer:
            return index, buffer.shape

    async def serve():
        waiting = asyncio.ensure_future(wait())
        while pool._queue._words[GETTERS] == 0:
            await asyncio.sleep(0)
        run(put, face, magazine, taken)
        return await waiting

    index, shape = asyncio.run(serve())
    assert index in taken and shape == (16,)
    pool.put(index)


def test_coroutines_find_what_lies_in_a_magazine(pool):
    magazine = pool.magazine()
    put_all(magazine, take_all(magazine))
    assert asyncio.run(pool.aget(timeout=0)) in range(4)
    pool.put(next(index for index in range(4) if not pool.checked or index in pool.holders()))


# ---- one thread at a time --------------------------------------------------------------------------------------------

USES = {
    "try_get": lambda face, magazine, index: face.try_get(magazine),
    "get": lambda face, magazine, index: face.get(magazine),
    "put": lambda face, magazine, index: face.put(magazine, index),
    "try_put": lambda face, magazine, index: face.try_put(magazine, index),
    "get_many": lambda face, magazine, index: face.get_many(magazine, np.empty(2, np.int64)),
    "put_many": lambda face, magazine, index: face.put_many(magazine, np.array([index])),
    "release": lambda face, magazine, index: face.release(magazine),
}
BELONGS = "the magazine belongs to another thread until that releases it"


@pytest.mark.parametrize("use", USES)
def test_another_threads_use_is_refused_and_changes_nothing(face, checked, use):
    magazine = checked.magazine()
    lying, index = face.get(magazine), face.get(magazine)
    face.put(magazine, lying)
    before = state(checked)
    with pytest.raises(RuntimeError, match=BELONGS):
        elsewhere(USES[use], face, magazine, index)
    assert state(checked) == before
    assert elsewhere(face.was_size, magazine) == 1  # any thread may ask
    face.release(magazine)
    elsewhere(USES[use], face, magazine, index)
    put_all(checked, checked.holders(), face)


def test_the_first_use_decides_whose_it_is(face, checked):
    magazine = checked.magazine()
    with ThreadPoolExecutor(1) as thread:
        index = thread.submit(face.get, magazine).result()
        with pytest.raises(RuntimeError, match=BELONGS):
            face.try_get(magazine)
        with pytest.raises(RuntimeError, match=BELONGS):
            face.put(magazine, index)
        face.put(checked, index)  # the pool is everybody's
        thread.submit(face.put, magazine, thread.submit(face.get, magazine).result()).result()
        thread.submit(face.release, magazine).result()
        face.put(magazine, face.get(magazine))
        assert face.was_size(magazine) == 1
        with pytest.raises(RuntimeError, match=BELONGS):
            thread.submit(face.try_get, magazine).result()


def test_releasing_what_nobody_used_is_no_error(face, pool):
    magazine = pool.magazine()
    face.release(magazine)
    face.release(magazine)
    assert elsewhere(face.try_put, magazine, elsewhere(face.get, pool))


@pytest.mark.parametrize("use", USES)
def test_unchecked_nobody_looks(face, use):
    pool = BufferPool(4, 16, checked=False)
    magazine = pool.magazine()
    index = face.get(magazine)
    elsewhere(USES[use], face, magazine, index)
    face.try_get(magazine)


def test_another_thread_may_close_and_the_user_finds_it_closed(face, pool):
    magazine = pool.magazine()
    lying, index = face.get(magazine), face.get(magazine)
    face.put(magazine, lying)
    elsewhere(magazine.close)
    assert face.closed(magazine) and pool.available() == 3
    assert face.try_get(magazine) == -1
    face.put(magazine, index)
    assert pool.available() == 4


def test_a_user_that_waits_for_a_buffer_gets_one_from_the_pool_though_its_magazine_is_closed(face, pool):
    magazine = pool.magazine()
    taken = take_all(pool, face)
    with ThreadPoolExecutor(1) as thread:
        wait = thread.submit(face.get_within, magazine, 60.0)
        wait_for_getters(pool)
        magazine.close()
        put_all(pool, taken, face)
        thread.submit(face.put, magazine, wait.result()).result()
    assert pool.available() == 4


def test_a_dead_threads_magazine_can_be_closed(face, checked):
    magazine = checked.magazine()
    elsewhere(lambda: face.put(magazine, face.get(magazine)))
    with pytest.raises(RuntimeError, match=BELONGS):
        face.try_get(magazine)
    magazine.close()
    assert checked.available() == 4
    heir = checked.magazine()
    assert heir._base == magazine._base
    face.put(heir, face.get(heir))


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_close_leaves_everything_to_the_pool(face, pool):
    magazine = pool.magazine()
    put_all(magazine, take_all(magazine, face), face)
    assert pool._queue.was_size() == 0
    magazine.close()
    assert pool.available() == 4 and face.was_size(magazine) == 0
    before = state(pool)
    magazine.close()
    assert state(pool) == before
    assert sorted(take_all(pool, face)) == [0, 1, 2, 3] and face.try_get(pool) == -1
    put_all(pool, range(4), face)


class Watched(collections.deque):
    """The numbers of free deques; `look` is called when one is about to come back."""

    def extend(self, numbers):
        self.look()
        super().extend(numbers)


@pytest.mark.parametrize("end", [lambda magazine: magazine.close(), lambda magazine: magazine.__exit__()])
def test_no_buffer_is_out_of_sight_while_a_magazine_is_closed(face, pool, end):
    magazine = pool.magazine()
    put_all(magazine, take_all(magazine, face), face)
    pool._free_deques = Watched(pool._free_deques)
    found = []
    pool._free_deques.look = lambda: found.extend(take_all(pool, face))
    end(magazine)
    assert sorted(found) == [0, 1, 2, 3]
    pool._free_deques.look = lambda: None
    put_all(pool, found, face)


@pytest.mark.parametrize("end", [lambda magazine: magazine.close(), lambda magazine: magazine.__del__()])
def test_threads_that_close_at_once_free_one_deque_once(pool, end):
    def in_each_others_way(frame, event, argument):
        time.sleep(0)
        return in_each_others_way

    def work():
        sys.settrace(in_each_others_way)
        together.wait()
        end(magazine)
        magazine.close()

    for _ in range(20):
        magazine, together = pool.magazine(), threading.Barrier(3)
        threads_ = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads_:
            thread.start()
        for thread in threads_:
            thread.join()
        assert list(pool._free_deques) == [0]
    first, second = pool.magazine(), pool.magazine()
    assert first._base != second._base


def test_nothing_is_stolen_once_membarrier_fails(face, pool, monkeypatch):
    magazine = pool.magazine()
    put_all(magazine, take_all(magazine, face), face)
    if config.DISABLE_JIT:
        monkeypatch.setattr("iobuf_nb._free.deque.heavy_fence", lambda: False)
    else:
        pool._deques[FENCES_FAIL] = 1  # as `fence_all` says when it does
        take_all(pool, faces.python)
    with pytest.raises(RuntimeError, match="membarrier"):
        face.get_within(pool, 60.0)
    if config.DISABLE_JIT:
        assert face.try_get(pool) == -1 and magazine.was_size() == 4
        assert len(take_all(magazine, face)) == 4
    put_all(pool, range(4), face)
    pool._deques[FENCES_FAIL] = 0


def test_a_close_that_comes_late_does_not_touch_the_next_user(face, checked):
    magazine = checked.magazine()
    magazine.close()
    heir = checked.magazine()
    put_all(heir, take_all(heir, face), face)
    magazine.close()
    magazine.__del__()
    assert face.was_size(heir) == 4 and not heir.closed and not checked._free_deques


def test_a_closed_magazine_gives_nothing_and_hands_on_what_it_gets(face, pool):
    magazine = pool.magazine()
    taken = [face.get(magazine) for _ in range(3)]
    magazine.close()
    assert face.closed(magazine) is True and face.size(magazine) == 0
    assert face.try_get(magazine) == -1
    assert face.get_many(magazine, np.empty(2, np.int64)) == 0
    for call in (face.get, face.get_at_once):
        with pytest.raises(PoolClosed, match="closed pool or magazine"):
            call(magazine)
    face.release(magazine)
    face.write(magazine, taken[0], 5)
    assert (face.value(magazine, taken[0]) == 5).all()
    face.put(magazine, taken[0])
    assert face.try_put(magazine, taken[1])
    face.put_many(magazine, np.array(taken[2:]))
    assert face.was_size(magazine) == 0 and pool._queue.was_size() == 4
    assert not pool.checked or not face.try_put(magazine, taken[0])


@pytest.mark.compiled
def test_closed_magazines_lose_nothing_whoever_asks_them(checked):
    @njit(nogil=True)
    def ask(magazine, n):
        for _ in range(n):
            magazine.try_get()

    magazines = [checked.magazine() for _ in range(2)]
    for magazine in magazines:
        magazine.close()
    ask(magazines[0], 1)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(ask, magazine, 1_000_000) for magazine in magazines]:
            done.result()
    for source in magazines:
        source.put(checked.get())
        assert checked.available() == 4


def test_context_manager_closes_whatever_happens(pool):
    with pytest.raises(KeyError), pool.magazine() as magazine:
        magazine.put(magazine.get())
        raise KeyError
    assert magazine.closed and pool.available() == 4


def end_by_close(magazines):
    magazines.pop().close()


def end_by_drop(magazines):
    magazines.pop()
    gc.collect()


@pytest.mark.parametrize("end", [end_by_close, end_by_drop])
def test_one_more_than_can_be_open_is_refused(face, checked, end):
    magazines = [checked.magazine(1) for _ in range(MAX_DEQUES)]
    before = state(checked)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="at most 256 open magazines, and this one has them"):
            checked.magazine()
    assert state(checked) == before
    number = magazines[-1]._number
    end(magazines)
    last = checked.magazine(1)
    assert last._number == number and checked._deques[COUNT] == MAX_DEQUES
    face.put(last, face.get(last))
    assert face.was_size(last) == 1
    with pytest.raises(RuntimeError, match="at most 256"):
        checked.magazine()


@pytest.mark.parametrize("end", [end_by_close, end_by_drop])
def test_numbers_are_used_again(checked, end):
    for _ in range(2 * MAX_DEQUES):
        magazines = [checked.magazine()]
        magazines[0].put(magazines[0].get())
        end(magazines) if end is end_by_close else magazines.clear()
    assert checked._deques[COUNT] == 1


@pytest.mark.parametrize(
    "size, error",
    [(0, ValueError), (-1, ValueError), (513, ValueError), (2**70, ValueError)]
    + [(bad, TypeError) for bad in ("x", 1.5, True, None, int)],
)
def test_refuses_bad_sizes(checked, size, error):
    shown = "<class 'int'>" if size is int else repr(size)
    for make in (checked.magazine, functools.partial(Magazine, checked), functools.partial(MagazineSet, checked, 2)):
        with pytest.raises(error, match=f"^size must be an integer from 1 to 512, not {shown}$"):
            make(size)
    assert checked._deques[COUNT] == 0


def test_refuses_what_is_no_pool(checked):
    magazine = checked.magazine()
    for bad in (None, 3, checked._queue, BufferPool, magazine, MagazineSet(checked, 1)):
        for make in (Magazine, lambda pool: MagazineSet(pool, 2)):
            with pytest.raises(TypeError, match="^pool must be a BufferPool or an ItemPool, not ") as caught:
                make(bad)
            assert repr(bad)[:20] in str(caught.value)
    magazine.close()


def test_shows_itself(checked):
    magazine = checked.magazine(2)
    magazine.put(magazine.get())
    assert repr(magazine) == f"Magazine(pool={checked!r}, size=2, held=1)"
    assert "50.0 %" in magazine._repr_html_() and "<b>Magazine</b>" in magazine._repr_html_()
    magazine.close()
    assert repr(magazine) == f"Magazine(pool={checked!r}, size=0, held=0)"
    assert " 0.0 %" in magazine._repr_html_()
    put_all(checked, take_all(checked, faces.python), faces.python)  # or the next magazine would take over what it left
    with MagazineSet(checked, 2, 2) as magazines:
        magazines[1].put(checked.get())
        assert repr(magazines) == f"MagazineSet(pool={checked!r}, n=2, held=1)"
        assert "25.0 %" in magazines._repr_html_()


def test_keeps_its_pool_alive(face):
    magazine = BufferPool(4, 16).magazine()
    gc.collect()
    put_all(magazine, take_all(magazine, face), face)
    assert face.was_size(magazine) == 4


# ---- sets ------------------------------------------------------------------------------------------------------------


def test_sets_hand_out_their_magazines_by_number(face, pool):
    magazines = MagazineSet(pool, 3, 2)
    assert face.length(magazines) == 3 == magazines.n and magazines.pool is pool
    found = [face.fetch(magazines, k) for k in range(3)]
    assert [magazine._number for magazine in found] == [0, 1, 2]
    assert all(face.fetch(magazines, k) is found[k] for k in range(3))
    assert {face.size(magazine) for magazine in found} == {2}
    for k, index in enumerate(take_all(pool, face)[:3]):
        face.put(found[k], index)
    assert [face.was_size(magazine) for magazine in found] == [1, 1, 1]
    pool.put(3)
    magazines.close()
    assert all(magazine.closed for magazine in found) and pool.available() == 4
    magazines.close()
    assert face.try_get(face.fetch(magazines, 2)) == -1


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64, np.int64])
def test_sets_take_any_integer_type(face, checked, kind):
    magazines = MagazineSet(checked, 3)
    assert face.fetch(magazines, kind(2)) is magazines[2]
    with pytest.raises(IndexError, match="k must be from 0 to"):
        face.fetch(magazines, kind(3))


@pytest.mark.parametrize("k", [-1, 3, 2**62])
def test_sets_refuse_numbers_out_of_range(face, checked, k):
    with pytest.raises(IndexError, match="k must be from 0 to"):
        face.fetch(MagazineSet(checked, 3), k)


@pytest.mark.parametrize("k", ["1", 1.0, None])
def test_sets_refuse_what_is_no_integer(face, checked, k):
    with pytest.raises((TypeError, TypingError), match="integer"):
        face.fetch(MagazineSet(checked, 3), k)


@pytest.mark.parametrize("n, error", [(0, ValueError), (257, ValueError), ("2", TypeError), (1.5, TypeError)])
def test_sets_refuse_bad_numbers_of_magazines(checked, n, error):
    with pytest.raises(error, match=f"^n must be an integer from 1 to 256, not {n!r}$"):
        MagazineSet(checked, n)
    assert checked._deques[COUNT] == 0


def test_a_set_that_cannot_be_made_whole_gives_everything_back(checked):
    with checked.magazine(), pytest.raises(RuntimeError, match="at most 256"):
        MagazineSet(checked, MAX_DEQUES)
    with MagazineSet(checked, MAX_DEQUES) as magazines:
        assert len({magazine._number for magazine in magazines._all}) == MAX_DEQUES
    with pytest.raises(KeyError), MagazineSet(checked, MAX_DEQUES) as magazines:
        magazines[7].put(magazines[7].get())
        raise KeyError
    assert magazines[7].closed and checked.available() == 4


def test_a_fetched_magazine_belongs_to_its_first_user_until_release(face, checked):
    magazines = MagazineSet(checked, 2)
    mine = face.fetch(magazines, 0)
    index = face.get(mine)
    face.put(mine, index)

    def fetch_and_get():
        return face.get(face.fetch(magazines, 0))

    with pytest.raises(RuntimeError, match=BELONGS):
        elsewhere(fetch_and_get)
    face.release(mine)
    assert elsewhere(fetch_and_get) == index
    with pytest.raises(RuntimeError, match=BELONGS):
        face.put(mine, index)
    face.put(face.fetch(magazines, 1), index)


@pytest.mark.compiled
def test_prange_over_the_magazines_of_a_set():
    @njit(parallel=True)
    def work(magazines, rounds):
        done = 0
        for k in prange(len(magazines)):
            magazine = magazines[k]
            for _ in range(rounds):
                index = magazine.get()
                magazine.value(index)[0] += 1
                done += 1
                magazine.put(index)
            magazine.release()
        return done

    pool = BufferPool(3, shape=1, dtype="i8")
    with MagazineSet(pool, 8) as magazines:
        for _ in range(3):  # numba gives the numbers to its threads as it likes
            assert work(magazines, 1000) == 8000
    assert pool._buffers.sum() == 24_000
    assert_whole(pool)


@pytest.mark.compiled
def test_prange_with_a_magazine_for_each_of_numbas_threads():
    @njit(parallel=True)
    def work(magazines, n):
        for k in prange(n):
            magazine = magazines[numba.get_thread_id()]
            index = magazine.get()
            magazine.value(index)[0] += k
            magazine.put(index)

    pool = BufferPool(3, shape=1, dtype="i8")
    with MagazineSet(pool, config.NUMBA_NUM_THREADS) as magazines:
        work(magazines, 10_000)
    assert pool._buffers.sum() == 10_000 * 9_999 // 2
    assert_whole(pool)


# ---- as kernel arguments ---------------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_magazines_of_like_pools_share_their_type():
    small, large = BufferPool(2, 16), BufferPool(9, 4096)
    assert typeof(small.magazine(3)) == typeof(large.magazine(99))
    assert typeof(small.magazine()) != typeof(BufferPool(2, 16, checked=False).magazine())
    assert typeof(small.magazine()) != typeof(BufferPool(2, shape=2, dtype="f8").magazine())


@pytest.mark.compiled
def test_kernels_may_name_a_magazine_as_a_global():
    pool = BufferPool(2, shape=1, dtype="i8")
    magazine = pool.magazine()

    @njit
    def work():
        index = magazine.get()
        magazine.value(index)[0] += 7
        magazine.put(index)
        return magazine.was_size()

    assert work() == work() == magazine.was_size() == 1
    magazine.close()
    with pytest.raises(PoolClosed):  # what has happened to it since is seen
        work()
    assert pool._buffers.sum() == 14
    assert_whole(pool)


@pytest.mark.compiled
def test_kernels_return_the_objects_they_were_given(checked):
    magazines = MagazineSet(checked, 2)
    magazine = checked.magazine()

    @njit
    def work(magazine, magazines):
        return magazine, magazine.pool, magazines, magazines[1]

    found = work(magazine, magazines)
    assert all(a is b for a, b in zip(found, (magazine, checked, magazines, magazines[1]), strict=True))


@pytest.mark.compiled
def test_tuples_of_a_pool_and_its_magazines(checked):
    @njit
    def move(sources):
        index = sources[0].get()
        sources[1].put(index)
        return sources[2].try_get() >= 0

    sources = checked, checked.magazine(), checked.magazine()
    assert [move(sources) for _ in range(4)] == [True] * 4
    assert checked.available() == 0
    checked.put_many(np.arange(4))


CACHED_KERNEL = """
    from numba import njit
    from iobuf_nb import BufferPool, MagazineSet

    @njit(nogil=True, cache=True)
    def work(magazine, magazines):
        index = magazine.get(timeout=1.0)
        magazines[1].put(index)
        magazine.pool.put(magazine.get())
        return magazine.was_size() + 10 * magazines[1].was_size()

    pool = BufferPool(1, 100)
    print(work(pool.magazine(), MagazineSet(pool, 2)))
    print(sum(work.stats.cache_hits.values()), sum(work.stats.cache_misses.values()))
"""


@pytest.mark.compiled
def test_a_second_process_finds_the_kernel_in_the_cache(tmp_path):
    assert run_script(tmp_path, CACHED_KERNEL) == ["0", "0", "1"]
    assert run_script(tmp_path, CACHED_KERNEL) == ["0", "1", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_uses_its_copy(face, checked):
    magazine, another = checked.magazine(), checked.magazine()

    def use():
        """Steal, fall back, and put back in another order."""
        taken = take_all(another, face)
        put_all(magazine, taken[::-1], face)
        return sorted(taken) == [0, 1, 2, 3] and face.was_size(magazine) == 4

    assert use()
    before = state(checked)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if use() and use() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state(checked) == before
    assert use()


# ---- without membarrier ----------------------------------------------------------------------------------------------


def test_its_type_says_which_fence_it_needs(monkeypatch, pool):
    assert pool.magazine()._asymmetric is fences.register_heavy_fence()
    monkeypatch.setattr("iobuf_nb._pools.magazine.register_heavy_fence", lambda: False)
    magazine = pool.magazine()
    assert magazine._asymmetric is False and magazine._numba_type_.asymmetric is False
    assert MagazineSet(pool, 1)[0]._numba_type_ is magazine._numba_type_
