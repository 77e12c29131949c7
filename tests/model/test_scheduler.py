"""What the explorer offers beyond plain interleavings, each on the smallest program that shows it."""

import numpy as np
import pytest

from iobuf_nb._threads.parking import park, wake
from iobuf_nb.atomics import compare_and_swap, load, store

from . import scheduler
from .memories import SC, TSO, Relaxed
from .specs import Spec


def counting(threads=2):
    """Each thread adds one to a word, not atomically."""

    def program():
        words = np.zeros(1, np.int64)
        shared[:] = [words]
        return [words], [[("add", lambda got: store(words, 0, load(words, 0) + 1))] for _ in range(threads)]

    def check(results):
        assert shared[0][0] == threads, "an addition was lost"

    shared = []
    return program, None, check


def schedule_of(violation):
    return str(violation.value).rpartition("schedule ")[2].strip("'")


def test_a_schedule_is_replayed(capsys):
    with pytest.raises(scheduler.Violation, match="an addition was lost") as violation:
        scheduler.explore(*counting(), memory=TSO)
    program, spec, check = counting()
    with pytest.raises(AssertionError, match="an addition was lost"):
        scheduler.replay(program, schedule_of(violation), spec, check, memory=TSO)
    shown = capsys.readouterr().out
    assert "load 0[0] acquire  -> 0" in shown and "store 0[0] release (1,)" in shown and "drains" in shown


def test_a_bound_on_preemptions_says_what_it_leaves_out():
    assert scheduler.explore(*counting(), preemptions=0).bound == "0 preemptions"
    with pytest.raises(scheduler.Violation, match="an addition was lost"):
        scheduler.explore(*counting(), preemptions=1)


def test_random_schedules_depend_on_their_seed_alone():
    found = []
    for seed in (1, 1, 2):
        with pytest.raises(scheduler.Violation, match="an addition was lost") as violation:
            scheduler.sample(*counting(3), runs=100, depth=2, seed=seed)
        found.append(schedule_of(violation))
    assert found[0] == found[1]


def spin_lock():
    words = np.zeros(1, np.int64)

    def pass_through(got):
        while not compare_and_swap(words, 0, 0, 1):
            pass
        store(words, 0, 0)

    return [words], [[("L", pass_through)], [("L", pass_through)]]


def test_a_lock_is_not_lock_free():
    with pytest.raises(scheduler.Violation, match="alone, thread . does not end L in 5 steps"):
        scheduler.explore(spin_lock, alone=5)


def test_an_operation_whose_thread_died_may_have_taken_effect_or_not():
    def program():
        words = np.zeros(1, np.int64)

        def set_and_look(got):
            store(words, 0, 1)
            load(words, 0)

        return [words], [[("set", set_and_look)], [("get", lambda got: load(words, 0))]]

    def register(value, name, got):
        yield (None, 1) if name == "set" else (value, value)

    found = set()
    scheduler.explore(program, Spec(0, register), found.add, deaths=1)
    assert {results for results in found if not results[0]} == {((), (("get", 0),)), ((), (("get", 1),))}


@pytest.mark.parametrize("memory", [SC, TSO, Relaxed])
def test_the_system_lets_go_of_the_lock_of_what_died_after_all_its_stores(memory):
    def program():
        words = np.array([0, 1], np.int64)

        def look(got):
            return load(words, 1), load(words, 0)

        return [words], [
            [("set", lambda got: store(words, 0, 1)), ("set", lambda got: store(words, 0, 2))],
            [("look", look)],
        ]

    found = set()

    def check(results):
        found.update((len(results[0]), seen) for _, seen in results[1])

    scheduler.explore(program, None, check, memory=memory, locks={0: (0, 1)}, deaths=1)
    assert (1, (0, 1)) in found and (1, (1, 1)) in found
    assert all(value == ended for ended, (locked, value) in found if not locked)


def test_sleepers_are_woken_whichever_they_be_and_may_get_up_unwoken():
    def program():
        words = np.zeros(1, np.int64)
        sleepers = [[("sleep", lambda got: park(words, 0, 0, 1, False))] for _ in range(2)]
        return [words], [*sleepers, [("wake", lambda got: wake(words, 0, 1, False))]]

    with pytest.raises(scheduler.Violation, match="sleep and none will wake them"):
        scheduler.explore(program, risings=1)
    scheduler.explore(program, risings=2)


def test_a_park_sees_what_is_newest_in_its_word():
    def program():
        words = np.zeros(1, np.int64)

        def wait(got):
            while not load(words, 0, "relaxed"):
                park(words, 0, 0, 1, False)

        def end(got):
            store(words, 0, 1, "relaxed")
            wake(words, 0, 1, False)

        return [words], [[("wait", wait)], [("end", end)]]

    assert scheduler.explore(program, memory=Relaxed).ends
