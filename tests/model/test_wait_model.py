"""All schedules of the waiting protocol on small cases: nobody sleeps while there is something to wake for."""

import inspect

import pytest
import scheduler

import iobuf_nb.pool
import iobuf_nb.ring
from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb.ring import CLOSED_FLAG, GET, NONBLOCKING_FLAG, PROCESS, SLOTS

CONSTANT = [NONBLOCKING_FLAG, PROCESS, CLOSED_FLAG]


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


def explore(scripts, capacity, first=()):
    letters = "".join(scripts)
    queues = []

    def fresh():
        queue = BoundedQueue(capacity, 3)
        queues[:] = [queue]
        for item in first:
            queue.put(item)
        code = operations(queue)
        return [queue.words], [[code(letter) for letter in script] for script in scripts]

    def check(history):
        ended = [event[2:] for event in history if event[0] == "end"]
        assert len(ended) == len(letters), "an operation did not end"
        put = [int(name[1]) for name, result in ended if name[0] == "P" and result == 0]
        got = [result for name, result in ended if name == "G" and result >= 0]
        while (left := queues[0].try_get()) >= 0:
            got.append(left)
        assert sorted(got) == sorted([*first, *put]), "an item was lost or doubled"
        if "C" not in letters:
            assert all(result >= 0 for _, result in ended), "an operation failed without a reason"

    constant = CONSTANT[:2] if "C" in letters else CONSTANT
    return scheduler.explore(fresh, check, constant, ordered=False)


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


def mutate(monkeypatch, name, old, new):
    """Replace a piece of the source of a function of ring.py."""
    source = inspect.getsource(getattr(iobuf_nb.ring, name))
    assert source.count(old) == 1
    names = vars(iobuf_nb.ring)
    code = compile(source[source.index("def ") :].replace(old, new), f"a mutant of {name}", "exec")
    made = {}
    exec(code, names, made)
    monkeypatch.setattr(iobuf_nb.ring, name, made[name])


MUTANTS = {
    "recheck removed": (
        "wait",
        "        result = attempt(queue, item)\n        if result == EMPTY:\n            park",
        "        result = EMPTY\n        if result == EMPTY:\n            park",
    ),
    "event read after the recheck": (
        "wait",
        '        seen = load(queue.words, event, "seq_cst")\n        result = attempt(queue, item)\n',
        '        result = attempt(queue, item)\n        seen = load(queue.words, event, "seq_cst")\n',
    ),
    "counted in after the recheck": (
        "wait",
        '        fetch_add(queue.words, waiters, 1, "seq_cst")\n'
        '        seen = load(queue.words, event, "seq_cst")\n'
        "        result = attempt(queue, item)\n",
        '        seen = load(queue.words, event, "seq_cst")\n'
        "        result = attempt(queue, item)\n"
        '        fetch_add(queue.words, waiters, 1, "seq_cst")\n',
    ),
    "event not changed": ("notify", 'fetch_add(queue.words, event, 1, "seq_cst")', "pass"),
    "put does not look for getters": ("put_and_wake", 'load(queue.words, GETTERS, "seq_cst")', "False"),
    "put looks for getters before it puts": (
        "put_and_wake",
        '    done = put_item(queue, item)\n    if done and load(queue.words, GETTERS, "seq_cst"):',
        '    waiting = load(queue.words, GETTERS, "seq_cst")\n'
        "    done = put_item(queue, item)\n"
        "    if done and waiting:",
    ),
    "get does not look for putters": ("get_and_wake", 'load(queue.words, PUTTERS, "seq_cst")', "False"),
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
        for old in pools:  # may have been left in the middle, and is to be silent about it
            old.ring.words[CLOSED_FLAG] = 1

        def get_and_put(got):
            taken = iobuf_nb.pool.wait_take(pool, -1)
            assert pool.try_put(taken)
            return taken

        threads = [[("GP", get_and_put)], [("P", lambda got: pool.try_put(index))]]
        pools[:] = [pool]
        return [pool.ring.words[: SLOTS + 1], pool.owners], threads

    def check(history):
        assert pools[0].available() == 1

    pools = []
    outcome = scheduler.explore(fresh, check, CONSTANT, ordered=False)
    print(f"pool of 1, get by waiting and put || put: {outcome}")
    assert outcome.states > 50
