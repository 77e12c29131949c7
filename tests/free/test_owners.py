"""Puts that meet the marks of a bulk put: whoever is decided first has put the buffer, and it alone."""

import numpy as np
import pytest

from iobuf_nb import BufferPool
from iobuf_nb._free import owners
from iobuf_nb._free.owners import ABORTED, COMMITTED, NOT_OUT, OK, UNDECIDED


@pytest.fixture
def pool():
    """Four buffers, of which 0, 1 and 2 are out."""
    pool = BufferPool(4, 16)
    assert [pool.get() for _ in range(3)] == [0, 1, 2]
    yield pool
    for index in pool.holders():
        pool.put(index)
    assert pool.available() == 4


class BulkPut:
    """A bulk put that has marked its buffers and not been decided."""

    def __init__(self, pool, *indices):
        self.pool, self.indices = pool, indices
        self.mark = owners._claim(pool._bulks, int(pool._bulks[owners._SHIFT]))
        for index in indices:
            assert owners._put_mark(pool._owners, pool._bulks, owners.owner_at(pool, index), self.mark) == OK

    @property
    def record(self):
        return int(owners._record_of(self.mark))

    @property
    def fate(self):
        return int(self.pool._bulks[self.record]) & owners._FATE

    def decide(self, fate):
        self.pool._bulks[self.record] += fate - UNDECIDED

    def end(self, taken=()):
        """Do as it does once it is decided against."""
        for index in self.indices:
            place = owners.owner_at(self.pool, index)
            if index not in taken and self.pool._owners[place] == self.mark:
                self.pool._owners[place] = self.pool._bulks[owners._FORMER + place]
        self.pool._bulks[self.record] &= ~owners._FATE


def test_a_put_overrules_a_bulk_put_and_is_not_made_twice(face, pool):
    bulk = BulkPut(pool, 0, 1)
    assert set(pool.holders()) == {0, 1, 2}
    assert face.try_put(pool, 0) is True and face.try_put(pool, 0) is False
    assert face.try_put(pool, 1) is True and face.try_put(pool, 1) is False  # it is anybody's now
    assert pool.available() == 3
    bulk.end()


def test_a_put_that_overruled_and_has_not_taken_the_mark_away_is_done_all_the_same(face, pool):
    bulk = BulkPut(pool, 0)
    face.try_put(pool, 0)
    place = owners.owner_at(pool, 0)
    pool._owners[place] = bulk.mark  # as if it had stopped there
    assert face.try_put(pool, 0) is False
    with pytest.raises(ValueError, match="index"):
        pool.put_many(np.array([1, 0]))
    pool._owners[place] = owners.FREE
    bulk.end()
    assert set(pool.holders()) == {1, 2}


def test_what_a_bulk_put_has_put_is_not_put_again(face, pool):
    bulk = BulkPut(pool, 0, 1)
    bulk.decide(COMMITTED)
    for index in (0, 1):
        assert face.try_put(pool, index) is False
        with pytest.raises(ValueError, match="index"):
            pool.put_many(np.array([2, index]))
        assert owners.disown(pool, index, True) == NOT_OUT
    bulk.decide(UNDECIDED + UNDECIDED - COMMITTED)
    bulk.end()
    assert set(pool.holders()) == {0, 1, 2}


def test_a_bulk_put_aborts_another_one_that_has_marked_what_it_puts(face, pool):
    first = BulkPut(pool, 0, 1)
    pool.put_many(np.array([1, 2]))
    assert first.fate == ABORTED and pool.available() == 3
    assert set(pool.holders()) == {0}
    first.end()
    assert face.try_put(pool, 0) is True


def test_what_is_lent_is_taken_out_of_a_bulk_put(pool):
    bulk = BulkPut(pool, 0, 1)
    assert owners.disown(pool, 0, True) == OK and bulk.fate == ABORTED
    assert pool.try_put(0) is False
    bulk.end()
    owners.take_back(pool, 0)
    assert set(pool.holders()) == {0, 1, 2}


def test_no_buffer_may_be_named_twice(face, pool):
    for indices in ([0, 0], [0, 1, 0], [2, 2, 2]):
        with pytest.raises(ValueError, match="index"):
            face.put_many(pool, np.array(indices))
        assert set(pool.holders()) == {0, 1, 2}


def test_records_of_others_are_left_alone(face, pool):
    bulks = [BulkPut(pool, 0), BulkPut(pool, 1)]
    assert len({bulk.record for bulk in bulks}) == 2
    face.put_many(pool, np.array([2]))
    for bulk in bulks:
        bulk.decide(ABORTED)
        bulk.end()
    assert set(pool.holders()) == {0, 1}
