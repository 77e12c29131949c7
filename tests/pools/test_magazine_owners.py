"""Magazines: who owns one, how it is released and closed, how many there can be."""

import collections
import functools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import faces
import numpy as np
import pytest
from magazines import BELONGS, end_by_close, end_by_drop, state
from numba import config, njit
from support import elsewhere, in_a_child, needs_fork, put_all, take_all, until

from iobuf_nb import BufferPool, Magazine, MagazineSet, PoolClosed
from iobuf_nb._free.deque import COUNT, EMPTINESS, FENCES_FAIL, MAX_DEQUES
from iobuf_nb._free.queue import GETTERS

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


def test_another_thread_may_close_and_the_owner_finds_it_closed(face, pool):
    magazine = pool.magazine()
    lying, index = face.get(magazine), face.get(magazine)
    face.put(magazine, lying)
    elsewhere(magazine.close)
    assert face.closed(magazine) and pool.available() == 3
    assert face.try_get(magazine) == -1
    face.put(magazine, index)
    assert pool.available() == 4


def test_an_owner_that_waits_for_a_buffer_gets_one_from_the_pool_though_its_magazine_is_closed(face, pool):
    magazine = pool.magazine()
    taken = take_all(pool, face)
    with ThreadPoolExecutor(1) as thread:
        wait = thread.submit(face.get_within, magazine, 60.0)
        until(lambda: pool._queue._words[GETTERS])
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


def test_that_nothing_is_free_is_proven_once_until_the_next_put(face, pool, system):
    magazine, other = pool.magazine(), pool.magazine()
    held = take_all(magazine, face)
    for put in (lambda: face.put(magazine, held[0]), lambda: face.put_many(other, np.array(held[:1]))):
        proven = pool._deques[EMPTINESS]
        assert proven > 0 and proven % 2 == 0
        assert [face.try_get(source) for source in (pool, magazine, other)] == [-1] * 3
        assert pool._deques[EMPTINESS] == proven
        put()
        assert pool._deques[EMPTINESS] == 0
        assert take_all(pool, face) == held[:1]
    put_all(pool, held, face)


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


def test_a_close_that_comes_late_does_not_touch_the_next_owner(face, checked):
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


@pytest.mark.parametrize("end", [end_by_close, end_by_drop])
def test_one_more_than_can_be_open_is_refused(face, checked, end):
    magazines = [checked.magazine(1) for _ in range(MAX_DEQUES)]
    before = state(checked)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="at most 256 open magazines: close one first"):
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


@needs_fork
def test_a_forked_child_uses_its_copy(face, checked):
    magazine, another = checked.magazine(), checked.magazine()

    def use():
        """Steal, fall back, and put back in another order."""
        taken = take_all(another, face)
        put_all(magazine, taken[::-1], face)
        return sorted(taken) == [0, 1, 2, 3] and face.was_size(magazine) == 4

    assert use()
    before = state(checked)

    def check():
        assert use() and use()

    in_a_child(check)
    assert state(checked) == before
    assert use()


def test_a_closed_magazine_leaves_the_next_one_on_its_deque_to_its_own_thread(face, checked):
    index = face.get(checked)
    closed = checked.magazine()
    closed.close()
    fresh = checked.magazine()
    assert fresh._number == closed._number
    face.put(closed, index)
    assert face.try_get(closed) == -1
    with ThreadPoolExecutor(1) as executor:  # nobody has used it yet
        executor.submit(lambda: (fresh.put(fresh.get()), fresh.release())).result()
