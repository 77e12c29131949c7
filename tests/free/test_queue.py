"""BoundedQueue as one thread sees it: order, exact capacity, limits, wrapping."""

import faces
import numpy as np
import pytest
from numba.core.errors import TypingError
from support import in_both_kinds, place

from iobuf_nb import BoundedQueue, PoolClosed, WouldBlock
from iobuf_nb._free.queue import HEAD, LINE_PAIR, SLOTS, TAIL

kind = in_both_kinds(globals(), "BoundedQueue")


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 8, 9, 64, 1000, 1025])
def test_holds_exactly_its_capacity_in_order(face, capacity):
    queue = BoundedQueue(capacity)
    for lap in range(3):
        items = [(lap + k) % capacity for k in range(capacity)]
        assert all(face.try_put(queue, item) for item in items)
        assert not face.try_put(queue, 0)
        assert face.was_size(queue) == capacity
        assert [face.try_get(queue) for _ in items] == items
        assert face.try_get(queue) == -1
        assert face.was_size(queue) == 0


def test_items_may_exceed_the_capacity(face):
    queue = BoundedQueue(2, limit=2000)
    assert face.try_put(queue, 1999) and face.try_put(queue, 0) and not face.try_put(queue, 5)
    assert (face.try_get(queue), face.try_get(queue), face.try_get(queue)) == (1999, 0, -1)


@pytest.mark.parametrize("item", [-1, 8, 2**40])
def test_refuses_items_out_of_range(face, item):
    queue = BoundedQueue(8)
    for put in (face.try_put, face.put):
        with pytest.raises(ValueError, match="item must be .* 0 to"):
            put(queue, item)
    assert queue.was_size() == 0


@pytest.mark.parametrize("item", [1.5, "1", None, True])
def test_refuses_items_that_are_no_integers(item):
    with pytest.raises(TypeError, match="item must be an integer from 0 to 7, not"):
        BoundedQueue(8).try_put(item)


@pytest.mark.parametrize(
    "capacity, error",
    [(0, ValueError), (-1, ValueError), (2**40, ValueError), ("8", TypeError), (1.5, TypeError), (True, TypeError)],
)
def test_refuses_capacities(capacity, error):
    with pytest.raises(error, match="capacity must be an integer from 1 to 4294967296, not"):
        BoundedQueue(capacity)


@pytest.mark.compiled
@pytest.mark.parametrize("kind", [np.uint64, np.int8, np.uint16])
def test_kernels_take_any_integer_type(kind):
    queue = BoundedQueue(8)
    place(queue, 2**58)  # high counts would show arithmetic that left the integers
    faces.kernel.put(queue, kind(7))
    assert faces.kernel.try_put(queue, kind(3))
    assert (queue.get(), queue.get()) == (7, 3)
    for bad in (1.5, 1.0, True):
        with pytest.raises(TypingError, match="item must be an integer"):
            faces.kernel.try_put(queue, bad)


def test_refuses_more_items_than_the_history_bound_allows():
    BoundedQueue(2, limit=2048)
    with pytest.raises(ValueError, match="limit must be an integer from 1 to 2048, not 2049"):
        BoundedQueue(2, limit=2049)


def test_blocking_calls_say_what_they_waited_for(face):
    queue = BoundedQueue(1)
    with pytest.raises(WouldBlock, match="empty"):
        face.get_within(queue, 0.01)
    with pytest.raises(WouldBlock, match="empty"):
        face.get_at_once(queue)
    face.put(queue, 0)
    with pytest.raises(WouldBlock, match="full"):
        face.put_within(queue, 0, 0.01)
    assert face.get(queue) == 0


def test_a_closed_queue_gives_what_it_holds_then_ends(face):
    queue = BoundedQueue(4)
    face.put(queue, 3)
    face.jit(lambda queue: queue.close())(queue)
    queue.close()
    assert face.closed(queue)
    assert not face.try_put(queue, 1)
    with pytest.raises(PoolClosed, match="put"):
        face.put(queue, 1)
    assert face.get(queue) == 3
    with pytest.raises(PoolClosed, match="get"):
        face.get(queue)
    assert face.try_get(queue) == -1


def test_layout_keeps_the_cursors_on_lines_of_their_own():
    queue = BoundedQueue(5)
    assert queue._words.ctypes.data % 128 == 0
    assert len({HEAD // LINE_PAIR, TAIL // LINE_PAIR, SLOTS // LINE_PAIR}) == 3
    assert LINE_PAIR * 8 == 128


# Where a position, a lap or a slot's state changes its sign, starts again, or outgrows half a word.
BOUNDARIES = [1, 30, 31, 32, 33, 60, 61, 62, 63]


@pytest.mark.parametrize("capacity", [1, 3, 4])
@pytest.mark.parametrize("bit", BOUNDARIES)
def test_counts_over_powers_of_two(face, capacity, bit):
    queue = BoundedQueue(capacity)
    lap = max((1 << bit >> queue._index_bits) - 2, 0)
    if lap << queue._index_bits >= 2**63:
        pytest.skip("the position itself is beyond the word")
    place(queue, lap)
    item = 0
    for _ in range(4):
        for _ in range(capacity):
            assert face.try_put(queue, item % capacity)
            item += 1
        assert not face.try_put(queue, 0)
        assert face.was_size(queue) == capacity
        for k in range(capacity):
            assert face.try_get(queue) == (item - capacity + k) % capacity
        assert face.try_get(queue) == -1


@pytest.mark.parametrize("capacity", [1, 3, 4])
@pytest.mark.parametrize("behind", [1, 2, 3, 50])
def test_finds_its_place_from_stale_hints(face, capacity, behind):
    queue = BoundedQueue(capacity)
    place(queue, 100)
    face.try_put(queue, 0)
    queue._words[HEAD] -= behind << queue._index_bits
    queue._words[TAIL] -= behind << queue._index_bits
    assert face.was_size(queue) == 1
    assert face.try_get(queue) == 0
    assert face.try_get(queue) == -1
    assert face.was_size(queue) == 0
    queue._words[TAIL] -= behind << queue._index_bits
    assert [face.try_put(queue, 0) for _ in range(capacity + 1)] == [True] * capacity + [False]


def test_shows_itself(kind):
    queue = BoundedQueue(4)
    queue.put(1)
    shared = ", shared=True, name=None" if kind == "shared" else ""
    assert repr(queue) == f"BoundedQueue(capacity=4, limit=4, size=1, closed=False{shared})"
    assert "25.0 %" in queue._repr_html_() and "<meter" in queue._repr_html_()
