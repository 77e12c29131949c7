"""Pickles and copies: what owns memory refuses them, what is plain data round-trips."""

import copy
import pickle

import pytest
from support import needs_fork

import iobuf_nb
from iobuf_nb import (
    Backoff,
    BoundedQueue,
    BufferPool,
    CopyResult,
    ItemPool,
    MagazineSet,
    PoolClosed,
    SpinWait,
    StreamError,
    StreamResult,
    Tier,
    WouldBlock,
)

pytestmark = needs_fork


# ---- pickles and copies ----------------------------------------------------------------------------------------------


WAYS = pytest.mark.parametrize("way", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])


@WAYS
def test_what_owns_memory_says_that_it_cannot_be_copied(way):
    pool = BufferPool(2, 16)
    for thing in (
        *(pool, ItemPool("ab"), BoundedQueue(2), pool.magazine(), MagazineSet(pool, 1), Backoff(), SpinWait()),
    ):
        refusal = f"a {type(thing).__name__} cannot be pickled or copied: .*; make one where it is needed"
        with pytest.raises(TypeError, match=refusal):
            way(thing)
    assert pool.available() == 2


@WAYS
def test_what_is_plain_data_round_trips(way):
    results = CopyResult(3, 0.5, 1.5), StreamResult([1, 2], 3, 0.5, 1.5), iobuf_nb.scan(__file__)
    for result in results:
        again = way(result)
        assert type(again) is type(result) and again.bytes == result.bytes and again.gb_per_s == result.gb_per_s
    for error in (WouldBlock("no"), PoolClosed("closed"), StreamError("name", 3, ValueError("why"))):
        again = way(error)
        assert type(again) is type(error) and str(again) == str(error)
    assert way(Tier.GIANT) is Tier.GIANT
    pool = BufferPool(2, 16)
    pool.value(1)[:] = 7
    buffer = way(pool.value(1))
    pool.value(1)[:] = 0
    assert (buffer == 7).all()


def test_an_iovec_can_be_copied_but_not_pickled():
    iovec = BufferPool(2, 16).iovec([1])
    for again in (copy.copy(iovec), copy.deepcopy(iovec)):
        assert (again == iovec).all() and again._memory is not None
    with pytest.raises(TypeError, match="cannot be pickled: .*; send what they point at"):
        pickle.dumps(iovec)
