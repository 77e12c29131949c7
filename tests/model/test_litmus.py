"""Small programs whose outcomes are known tell what each machine of `memories` allows, and what the explorer sees."""

import numpy as np
import pytest
import scheduler
from memories import SC, TSO

from iobuf_nb.atomics import compare_and_swap, fence, heavy_fence, light_fence, load, store, swap

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


@pytest.mark.parametrize("memory", [SC, TSO])
def test_messages_arrive_whole(memory):
    def send(words):
        store(words, X, 1, "relaxed")
        store(words, Y, 1)

    def receive(words):
        return load(words, Y), load(words, X)

    found = {result for _, result in outcomes(send, receive, memory=memory)}
    assert found == {(0, 0), (0, 1), (1, 1)}


@pytest.mark.parametrize("memory", [SC, TSO])
def test_a_thread_sees_its_own_stores(memory):
    def write_twice(words):
        store(words, X, 1)
        store(words, X, 2)
        return load(words, X)

    assert outcomes(write_twice, lambda words: load(words, X), memory=memory) == {(2, 0), (2, 1), (2, 2)}


def test_an_array_that_the_program_does_not_name_is_an_error():
    def program():
        return [np.zeros(1, np.int64)], [[("", lambda got: store(np.zeros(1, np.int64), 0, 1))]]

    with pytest.raises(LookupError, match="does not name"):
        scheduler.explore(program)
