"""Magazines: a stack for one thread from which nobody is kept away."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import faces
import numpy as np
import pytest
from magazines import state
from numba.core.errors import TypingError
from support import assert_whole, elsewhere, put_all, take_all, until

from iobuf_nb import BufferPool, ItemPool, MagazineSet, PoolClosed, WouldBlock
from iobuf_nb._free.deque import DEQUE_CAPACITY, MAX_DEQUES
from iobuf_nb._free.queue import GETTERS

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
    # First those that it keeps, the last one first; then those that went to the free queue, in their order.
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
    for index in (lying, 3):  # in the magazine, in the free queue
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
    assert face.get_many(magazine, out) == 4  # its own, the free queue's, and the other's
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
        next_owner, source = pool.magazine(), pool.magazine()
        assert next_owner.was_size() == (0 if afterwards is idle else 4)
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
        until(lambda: checked._queue._words[GETTERS] >= 4)
        put(face, magazine, taken)
        assert sorted(wait.result() for wait in waits) == [0, 1, 2, 3]
        assert threading.get_ident() not in checked.holders().values()
    assert face.was_size(magazine) == 0  # nothing was kept while somebody waited
    put(face, magazine, taken)
    assert face.was_size(magazine) == 4


@pytest.mark.parametrize("put", [put_each, put_at_once])
def test_what_somebody_waits_for_goes_to_the_free_queue(face, pool, put):
    magazine = pool.magazine()
    taken = take_all(magazine, face)
    pool._queue._words[GETTERS] += 1  # as if by one who is slow to wake
    put(face, magazine, taken)
    pool._queue._words[GETTERS] -= 1
    assert face.was_size(magazine) == 0 and pool.available() == 4


def test_a_put_through_the_pool_ends_a_wait_through_a_magazine(face, pool):
    taken = take_all(pool, face)
    with ThreadPoolExecutor(1) as thread:
        wait = thread.submit(face.get_within, pool.magazine(), 60.0)
        until(lambda: pool._queue._words[GETTERS])
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
        until(lambda: pool._queue._words[GETTERS])
        with pytest.warns(ResourceWarning, match="1 of its buffers still checked out"):
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
