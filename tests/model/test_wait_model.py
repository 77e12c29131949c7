"""All schedules of the waiting protocol on small cases: nobody sleeps while there is something to wake for."""

import inspect
import itertools
import re

import pytest
import scheduler

import iobuf_nb.ring
from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb.ring import GET


@pytest.fixture(autouse=True)
def park_at_once(monkeypatch):
    """Spinning tries the same things again and again: leave it out, and the clock, which no case here needs."""
    monkeypatch.setattr(iobuf_nb.ring, "SPIN_TURNS", 0)
    monkeypatch.setattr(iobuf_nb.ring, "now_ns", lambda: 0)


def operations(queue):
    """G waits for an item, a digit waits for room and puts itself, a letter of abc puts 0, 1 or 2 at once, C closes."""

    def code(letter):
        if letter == "G":
            return "G", lambda got: iobuf_nb.ring.wait(queue, GET, -1)
        if letter == "C":
            return "C", lambda got: queue.close()
        if letter in "abc":
            return f"P{'abc'.index(letter)}", lambda got: queue.try_put("abc".index(letter)) - 1
        return f"P{letter}", lambda got: iobuf_nb.ring.wait(queue, int(letter), -1)

    return code


def explore(scripts, capacity, first=(), **options):
    closes = any("C" in script for script in scripts)
    queues = []

    def fresh():
        queue = BoundedQueue(capacity, 3)
        queues.append(queue)
        for item in first:
            queue.put(item)
        code = operations(queue)
        return [queue.words], [[code(letter) for letter in script] for script in scripts]

    def check(results):
        ended = list(itertools.chain(*results))
        put = [int(name[1]) for name, result in ended if name[0] == "P" and result == 0]
        got = [result for name, result in ended if name == "G" and result >= 0]
        while (left := queues[0].try_get()) >= 0:
            got.append(left)
        assert sorted(got) == sorted([*first, *put]), "an item was lost or doubled"
        assert closes or all(result is None or result >= 0 for _, result in ended), "an operation failed without reason"

    return scheduler.explore(fresh, check=check, **options)


CASES = [
    (1, (), ("G", "0")),
    (1, (), ("GG", "01")),
    (1, (0,), ("1", "G")),
    (1, (0,), ("12", "GGG")),
    (1, (), ("G", "C")),
    (1, (0,), ("1", "C")),
    (2, (), ("G", "G", "C")),
    (2, (0,), ("G", "G", "b")),
]
LONG_CASES = [
    (2, (), ("G", "G", "ab")),
    (2, (0, 1), ("0", "1", "GG")),
    (1, (), ("0", "1", "GG")),
    (1, (), ("G", "G", "01")),
    (2, (), ("GG", "G", "abc")),
]


@pytest.mark.parametrize(
    "capacity, first, scripts", [*CASES, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG_CASES)], ids=str
)
def test_nobody_sleeps_for_ever(capacity, first, scripts):
    outcome = explore(scripts, capacity, first)
    print(f"capacity {capacity} holding {first}: {' || '.join(scripts)}: {outcome}")
    assert outcome.states > 20


def mutate(monkeypatch, name, pattern, new):
    """Replace a piece of the source of a function of ring.py."""
    source = inspect.getsource(getattr(iobuf_nb.ring, name))
    mutant, count = re.subn(pattern, new, source[source.index("def ") :])
    assert count == 1
    made = {}
    exec(compile(mutant, f"a mutant of {name}", "exec"), vars(iobuf_nb.ring), made)
    monkeypatch.setattr(iobuf_nb.ring, name, made[name])


COUNT_IN = r" *fetch_add\(.*, waiters, 1, .*\n"
SEEN = r" *seen = .*\n"
RECHECK = r" *result = .*\n"
MUTANTS = {
    "recheck removed": ("wait", rf"({SEEN}){RECHECK}", r"\1        result = EMPTY\n"),
    "event read after the recheck": ("wait", rf"({SEEN})({RECHECK})", r"\2\1"),
    "counted in after the recheck": ("wait", f"({COUNT_IN})({SEEN})({RECHECK})", r"\2\3\1"),
    "event not changed": ("notify", r"fetch_add\(.*\)", "pass"),
    "put does not look for getters": ("put_and_wake", r"load\(.*GETTERS.*\)", "False"),
    "put looks for getters before it puts": (
        "put_and_wake",
        r"    (done = .*)\n    if done and (load\(.*\)):",
        r"    waiting = \2\n    \1\n    if done and waiting:",
    ),
    "get does not look for putters": ("get_and_wake", r"load\(.*PUTTERS.*\)", "False"),
    "close wakes only one": ("shut", "EVERYBODY", "1"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_protocol_is_caught(monkeypatch, mutant):
    mutate(monkeypatch, *MUTANTS[mutant])
    with pytest.raises(scheduler.Violation, match="sleep and nobody will wake them"):
        for capacity, first, scripts in CASES:
            explore(scripts, capacity, first)


def test_pools_wait_by_the_same_protocol():
    def fresh():
        pool = BufferPool(1, 1)
        index = pool.get()

        def get_and_put(got):
            taken = pool.get()
            assert pool.try_put(taken)
            return taken

        pools.append(pool)
        return [pool.ring.words, pool.owners], [[("GP", get_and_put)], [("P", lambda got: pool.try_put(index))]]

    def check(results):
        assert pools[0].available() == 1

    pools = []
    outcome = scheduler.explore(fresh, check=check)
    print(f"pool of 1, get by waiting and put || put: {outcome}")
    pools[0].put(0)
    assert outcome.states > 50
