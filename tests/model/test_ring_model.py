"""All schedules of the real ring and pool on small cases; the same harness finds what is wrong with the Go ring."""

import go_ring
import pytest
import scheduler

import iobuf_nb.ring
from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb.pool import FREE
from iobuf_nb.ring import CLOSED_FLAG, GETTERS, PUTTERS

# Nobody closes and nobody waits here. (The words of the Go ring and the owners have other numbers.)
NEVER_WRITTEN = [CLOSED_FLAG, GETTERS, PUTTERS]


def apply_fifo(capacity):
    """Return the sequential queue: its state is the tuple of its items."""

    def apply(items, name, result):
        if name == "G":
            if result == -1:
                return None if items else items
            return items[1:] if items[:1] == (result,) else None
        item, done = result
        if not done:
            return None if len(items) < capacity else items
        return (*items, item) if len(items) < capacity else None

    return apply


def get(queue):
    def operation(got):
        item = queue.try_get()
        if item >= 0:
            got.append(item)
        return item

    return "G", operation


def put_back(queue):
    """Put what was got; nothing if nothing was."""

    def operation(got):
        return (got[0], queue.try_put(got.pop(0))) if got else None

    return "P", operation


def put(queue, item):
    return f"P{item}", lambda got: (item, queue.try_put(item))


def program(make, scripts, full):
    """`scripts`: for each thread G (get), P (put back) or the digit of an item to put."""

    def fresh():
        queue = make()
        if full:
            for item in range(queue.capacity):
                queue.try_put(item)
        code = {"G": lambda: get(queue), "P": lambda: put_back(queue)}
        threads = [[code.get(c, lambda c=c: put(queue, int(c)))() for c in script] for script in scripts]
        return [queue.words], threads

    return fresh


def explore_queue(make, scripts, capacity, full):
    start = tuple(range(capacity)) if full else ()

    def check(history):
        assert scheduler.linearizable(history, start, apply_fifo(capacity)), "no order explains the results"

    return scheduler.explore(program(make, scripts, full), check, NEVER_WRITTEN)


POOLS = [
    (1, ("GP", "GP")),
    (1, ("GPGP", "GPGP")),
    (1, ("GP", "GPGPGP")),
    (2, ("GP", "GPGPGP")),
    (2, ("GGP", "GPP")),
    (1, ("GP", "GP", "GP")),
    pytest.param(2, ("GPGP", "GPGP"), marks=pytest.mark.long),
]
QUEUES = [
    (1, ("00", "GG")),
    (1, ("0G0", "G0G")),
    (2, ("01", "GG")),
    (2, ("010", "GGG")),
    (2, ("0G1", "1G0")),
    (2, ("01", "10")),
    (2, ("0", "1", "GG")),
]


@pytest.mark.parametrize("capacity, scripts", POOLS, ids=str)
def test_indices_that_come_and_go(capacity, scripts):
    outcome = explore_queue(lambda: BoundedQueue(capacity), scripts, capacity, full=True)
    print(f"capacity {capacity} {' || '.join(scripts)}: {outcome}")
    assert outcome.states > 50


@pytest.mark.parametrize("capacity, scripts", QUEUES, ids=str)
def test_producers_and_consumers(capacity, scripts):
    outcome = explore_queue(lambda: BoundedQueue(capacity, 2), scripts, capacity, full=False)
    print(f"capacity {capacity} {' || '.join(scripts)}: {outcome}")
    assert outcome.states > 50


def test_the_go_ring_hands_out_twice():
    with pytest.raises(scheduler.Violation, match="no order explains"):
        explore_queue(lambda: go_ring.GoRing(2), ("GP", "GPGPGP"), 2, full=False)


def without_lap_check(word, position, order):
    lead = (word - ((position >> order << order) << 1)) >> order
    return lead % 2 if lead > 0 else lead


@pytest.mark.parametrize(
    "name, mutant",
    [
        ("_lead", without_lap_check),
        ("_next", lambda queue, position: position + 2),
        ("compare_and_swap", lambda words, i, expected, desired, order: iobuf_nb.ring.store(words, i, desired) is None),
    ],
)
def test_a_broken_ring_is_caught(monkeypatch, name, mutant):
    monkeypatch.setattr(iobuf_nb.ring, name, mutant)
    with pytest.raises(scheduler.Violation):
        for capacity, scripts in POOLS[:6]:
            explore_queue(lambda capacity=capacity: BoundedQueue(capacity), scripts, capacity, full=True)


the_pool = []


def new_pool(capacity):
    """Make the pool of the next run; the last one may have been left in the middle, and is to be silent about it."""
    for pool in the_pool:
        pool.ring.words[CLOSED_FLAG] = 1
    the_pool[:] = [BufferPool(capacity, 1)]
    return the_pool[0]


def explore_pool(scripts, capacity):
    """Explore a checked pool: whoever got a buffer must be its only holder until it puts it."""
    held = {}

    def get(pool):
        def operation(got):
            index = pool.try_get()
            if index >= 0:
                assert index not in held, f"buffer {index} has two owners"
                held[index] = True
                got.append(index)
            return index

        return "G", operation

    def put(pool):
        def operation(got):
            if got:
                del held[got[0]]
                assert pool.try_put(got.pop(0)), "a held buffer was refused"

        return "P", operation

    def fresh():
        held.clear()
        pool = new_pool(capacity)
        code = {"G": get, "P": put}
        return [pool.ring.words, pool.owners], [[code[c](pool) for c in script] for script in scripts]

    def check(history):
        pool = the_pool[0]
        assert not held and pool.available() == capacity and (pool.owners == FREE).all(), "a buffer was lost"

    return scheduler.explore(fresh, check, NEVER_WRITTEN)


@pytest.mark.parametrize("capacity, scripts", [(1, ("GP", "GP")), (2, ("GP", "GP")), (1, ("GPGP", "GP"))], ids=str)
def test_a_checked_pool_has_one_owner_for_each_buffer(capacity, scripts):
    outcome = explore_pool(scripts, capacity)
    print(f"pool of {capacity} {' || '.join(scripts)}: {outcome}")
    assert outcome.states > 50


def test_of_two_puts_of_one_buffer_one_wins():
    def fresh():
        pool = new_pool(2)
        index = pool.get()
        threads = [[("P", lambda got: pool.try_put(index))] for _ in range(2)]
        return [pool.ring.words, pool.owners], threads

    def check(history):
        results = [event[3] for event in history if event[0] == "end"]
        assert sorted(results) == [False, True] and the_pool[0].available() == 2, "both puts won, or none"

    outcome = scheduler.explore(fresh, check, NEVER_WRITTEN)
    assert outcome.states > 20
