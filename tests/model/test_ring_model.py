"""All schedules of the real ring and pool on small cases; the same harness finds what is wrong with the Go ring."""

import go_ring
import pytest
import scheduler
import threads
from memories import SC, TSO
from specs import Spec, fifo
from specs import pool as free_list

import iobuf_nb.ring
from iobuf_nb import BoundedQueue, BufferPool


def get(queue):
    def operation(got):
        item = queue.try_get()
        if item >= 0:
            got.append(item)
        return item

    return operation


def put_back(queue):
    """Put what was got; nothing if nothing was."""
    return lambda got: queue.try_put(got.pop(0)) if got else None


def program(make, scripts, full):
    """`scripts`: for each thread G (get), P (put back) or the digit of an item to put."""

    def fresh():
        queue = make()
        if full:
            for item in range(queue.capacity):
                queue.try_put(item)
        code = {"G": ("G", get(queue)), "P": ("P", put_back(queue))}
        code |= {str(item): (f"P{item}", lambda got, item=item: queue.try_put(item)) for item in range(10)}
        return [queue.words], [[code[letter] for letter in script] for script in scripts]

    return fresh


def explore_queue(make, scripts, capacity, full, **options):
    spec = Spec(tuple(range(capacity)) if full else (), fifo(capacity))
    return scheduler.explore(program(make, scripts, full), spec, **options)


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


@pytest.fixture
def threads_have_ids(monkeypatch):
    monkeypatch.setattr(iobuf_nb.pool, "thread_id", lambda: threads.running + 1)


def explore_pool(scripts, capacity, checked, **options):
    """Whoever got a buffer must be its only holder until it puts it, and none may be lost."""
    pools = []

    def fresh():
        made = BufferPool(capacity, 1, checked=checked)
        pools.append(made)
        code = {"G": ("G", get(made)), "P": ("P", put_back(made))}
        return [made.ring.words, made.owners], [[code[letter] for letter in script] for script in scripts]

    def check(results):
        assert pools[0].available() == capacity and not pools[0].owners.any(), "a buffer was lost"

    return scheduler.explore(fresh, Spec(frozenset(range(capacity)), free_list), check, **options)


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("memory", [SC, TSO])
@pytest.mark.parametrize("capacity, scripts", [(1, ("GP", "GP")), (2, ("GP", "GP")), (1, ("GPGP", "GP"))], ids=str)
def test_a_pool_has_one_owner_for_each_buffer(threads_have_ids, capacity, scripts, memory, checked):
    outcome = explore_pool(scripts, capacity, checked, memory=memory)
    print(f"pool of {capacity} {' || '.join(scripts)}: {outcome}")
    assert outcome.states > 50


def test_of_two_puts_of_one_buffer_one_wins():
    def fresh():
        made = BufferPool(2, 1)
        made.get()
        pools.append(made)
        return [made.ring.words, made.owners], [[("P", lambda got: made.try_put(0))] for _ in range(2)]

    def check(results):
        assert sorted(done for ((_, done),) in results) == [False, True], "both puts won, or none"
        assert pools[0].available() == 2

    pools = []
    outcome = scheduler.explore(fresh, check=check)
    pools[0].put(0)
    assert outcome.states > 20
