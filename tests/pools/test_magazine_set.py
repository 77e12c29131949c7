"""Sets of magazines, and magazines as arguments of kernels."""

import numba
import numpy as np
import pytest
from magazines import BELONGS
from numba import config, njit, prange, typeof
from numba.core.errors import TypingError
from support import assert_whole, elsewhere, run_file, take_all

from iobuf_nb import BufferPool, MagazineSet, PoolClosed
from iobuf_nb._free.deque import COUNT, MAX_DEQUES
from iobuf_nb._threads import fences

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


def test_a_fetched_magazine_belongs_to_its_first_owner_until_release(face, checked):
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


@pytest.mark.proof
@pytest.mark.compiled
def test_a_second_process_finds_the_kernel_in_the_cache(tmp_path):
    assert run_file(tmp_path, CACHED_KERNEL).split() == ["0", "0", "1"]
    assert run_file(tmp_path, CACHED_KERNEL).split() == ["0", "1", "0"]


# ---- without membarrier ----------------------------------------------------------------------------------------------


def test_its_type_says_which_fence_it_needs(monkeypatch, pool):
    assert pool.magazine()._asymmetric is fences.register_heavy_fence()
    monkeypatch.setattr("iobuf_nb._pools.magazine.register_heavy_fence", lambda: False)
    magazine = pool.magazine()
    assert magazine._asymmetric is False and magazine._numba_type_.constants == {"_asymmetric": False}
    assert MagazineSet(pool, 1)[0]._numba_type_ is magazine._numba_type_
