"""Small programs whose outcomes are known tell what each machine of `memories` allows, and what the explorer sees."""

import numpy as np
import pytest

from iobuf_nb._threads.fences import heavy_fence, light_fence
from iobuf_nb.atomics import compare_and_swap, fence, fetch_add, load, store, swap

from . import scheduler
from .memories import SC, TSO, Relaxed

X, Y, SPARE = 0, 1, 2


def outcomes(*threads, memory):
    """Return the set of results that threads of one operation each may have."""
    found = set()

    def program():
        words = np.zeros(3, np.int64)
        return [words], [[("", lambda got, thread=thread: thread(words))] for thread in threads]

    scheduler.explore(program, check=lambda results: found.add(tuple(r[0][1] for r in results)), memory=memory)
    return found


def nothing(words):
    pass


def store_and_look(mine, other, between, order):
    def thread(words):
        store(words, mine, 1, order)
        between(words)
        return load(words, other)

    return thread


def both_miss(memory, *betweens, order="release"):
    threads = [store_and_look(X, Y, betweens[0], order), store_and_look(Y, X, betweens[-1], order)]
    found = outcomes(*threads, memory=memory)
    assert found >= {(0, 1), (1, 0), (1, 1)}
    return (0, 0) in found


def a_fence(make, *order):
    return lambda words: make(*order)


FULL, LIGHT, HEAVY = a_fence(fence), a_fence(light_fence), a_fence(heavy_fence)


def test_stores_wait_in_buffers_only_under_tso():
    assert not both_miss(SC, nothing)
    assert both_miss(TSO, nothing)


@pytest.mark.parametrize(
    "full",
    [FULL, HEAVY, lambda words: swap(words, SPARE, 1), lambda words: compare_and_swap(words, SPARE, 5, 6)],
    ids=["fence", "heavy fence", "swap", "failed compare-and-swap"],
)
def test_what_drains_the_buffer(full):
    assert not both_miss(TSO, full)
    assert not both_miss(TSO, FULL, full)


@pytest.mark.parametrize(
    "half",
    [a_fence(fence, "acq_rel"), LIGHT, lambda words: load(words, SPARE, "seq_cst")],
    ids=["acq_rel fence", "light fence", "seq_cst load"],
)
def test_what_does_not(half):
    assert both_miss(TSO, half)
    assert both_miss(TSO, half, FULL)


def test_seq_cst_stores_are_seen_at_once():
    assert not both_miss(TSO, nothing, order="seq_cst")


def test_a_heavy_fence_on_one_side_is_enough():
    assert not both_miss(TSO, LIGHT, HEAVY)
    assert not both_miss(TSO, HEAVY, LIGHT)


def test_store_buffering_when_relaxed():
    assert both_miss(Relaxed, nothing)
    assert both_miss(Relaxed, LIGHT, HEAVY) is False
    assert both_miss(Relaxed, FULL) is False
    assert both_miss(Relaxed, FULL, nothing)
    assert both_miss(Relaxed, a_fence(fence, "acq_rel"))
    assert both_miss(Relaxed, nothing, order="seq_cst")  # for the loads are not


def test_sequentially_consistent_accesses_see_each_other():
    def thread(mine, other, reading):
        def run(words):
            swap(words, mine, 1, "seq_cst")
            return load(words, other, reading)

        return run

    for reading, may in (("seq_cst", False), ("acquire", True)):
        found = outcomes(thread(X, Y, reading), thread(Y, X, reading), memory=Relaxed)
        assert ((0, 0) in found) == may


MESSAGES = [  # of what is stored and loaded, and of fences before and after
    ("release", "acquire", nothing, nothing, False),
    ("relaxed", "acquire", nothing, nothing, True),
    ("release", "relaxed", nothing, nothing, True),
    ("relaxed", "relaxed", a_fence(fence, "release"), a_fence(fence, "acquire"), False),
    ("relaxed", "relaxed", a_fence(fence, "release"), nothing, True),
    ("relaxed", "relaxed", nothing, a_fence(fence, "acquire"), True),
]


@pytest.mark.parametrize("storing, loading, before, after, torn", MESSAGES)
def test_messages_arrive_whole(storing, loading, before, after, torn):
    def send(words):
        store(words, X, 1, "relaxed")
        before(words)
        store(words, Y, 1, storing)

    def receive(words):
        flag = load(words, Y, loading)
        after(words)
        return flag, load(words, X, "relaxed")

    for memory in (SC, TSO, Relaxed):
        found = {result for _, result in outcomes(send, receive, memory=memory)}
        assert found >= {(0, 0), (0, 1), (1, 1)}
        assert ((1, 0) in found) == (torn and memory is Relaxed)


def test_a_read_modify_write_hands_a_message_on():
    """The release sequence: who acquires from the second store has what came before the first."""

    def send(words):
        store(words, X, 1, "relaxed")
        store(words, Y, 1)

    def hand_on(words):
        return compare_and_swap(words, Y, 1, 2, "relaxed")

    def receive(words):
        return load(words, Y), load(words, X, "relaxed")

    found = {results[2] for results in outcomes(send, hand_on, receive, memory=Relaxed)}
    assert (2, 1) in found and (2, 0) not in found and (1, 0) not in found


@pytest.mark.parametrize("memory", [SC, TSO, Relaxed])
def test_one_word_is_coherent(memory):
    def write_twice(words):
        store(words, X, 1, "relaxed")
        store(words, X, 2, "relaxed")
        return load(words, X, "relaxed")

    def read_twice(words):
        return load(words, X, "relaxed"), load(words, X, "relaxed")

    found = outcomes(write_twice, read_twice, memory=memory)
    assert found == {(2, (a, b)) for a in range(3) for b in range(a, 3)}


@pytest.mark.parametrize("memory", [SC, TSO, Relaxed])
def test_additions_are_not_lost(memory):
    threads = [lambda words: fetch_add(words, X, 1, "relaxed")] * 3
    found = outcomes(*threads, memory=memory)
    assert {tuple(sorted(results)) for results in found} == {(0, 1, 2)}


def test_an_array_that_the_program_does_not_name_is_an_error():
    def program():
        return [np.zeros(1, np.int64)], [[("", lambda got: store(np.zeros(1, np.int64), 0, 1))]]

    with pytest.raises(scheduler.Violation, match="does not name"):
        scheduler.explore(program)
