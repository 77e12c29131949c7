"""The checker of histories: it tells good ones from bad ones, as one does that tries every order."""

import collections
import itertools
import random
import re

import numpy as np
import pytest
from histories import all_free, nothing
from linearizability import (
    EMPTY,
    FULL,
    GET,
    INVOKE,
    NAMES,
    PUT,
    RESPONSE,
    check,
    closing_fifo,
    fifo,
    free_set,
    overlapped,
    queue_of,
    set_of,
)

pytestmark = [pytest.mark.compiled, pytest.mark.proof]

# ---- the checker, on histories made by hand --------------------------------------------------------------------------


def drawn(picture):
    """Return the history of a picture: a line for each thread, and columns for time."""
    history = []
    for line in picture.strip("\n").splitlines():
        found = re.finditer(r"\[(\w+) *(\d*)\]", line)
        log = [(NAMES.index(m[1]), int(m[2] or -1), m.start(), m.end() - 1) for m in found]
        history.append(np.array(log, np.int64).reshape(-1, 4))
    return history


@pytest.mark.parametrize(
    "good, picture",
    [
        (True, "[put 1][get 1]"),
        (False, "[put 1][get 2]"),
        # A value is got twice, or is put twice.
        (False, "[put 1][get 1]\n       [get 1]"),
        (True, "[put 1][get 1]\n[put 1] [get 1]"),
        # A value is got before it is put, or while it is.
        (False, "[get 1]\n       [put 1]"),
        (True, "[get 1]\n      [put 1]"),  # one stamp in common
        # The order is swapped, or is anybody's.
        (False, "[put 1][put 2][get 2][get 1]"),
        (True, "[put 1]\n [put 2][get 2][get 1]"),
        (True, "[put 1][put 2][get 2]\n               [get 1]"),
        (False, "[put 1][put 2][get 2]\n                     [get 1]"),
        # A value is lost, or was got by one who is not back yet.
        (False, "[put 1][put 2][get 2]"),
        (True, "[put 1][put 2][get 2]\n             [get      1]"),
        # EMPTY while an item is there throughout, or while it comes and goes.
        (False, "[put 1]       [get 1]\n       [empty]"),
        (True, "[put 1]       [get 1]\n      [empty]"),
        (True, "[put 1]      [get 1]\n       [empty]"),
        # FULL (at 2) while there is room throughout, or while it comes and goes.
        (False, "[put 1][full]"),
        (False, "[put 1]      [put 2]\n       [full]"),
        (True, "[put 1]      [put 2]\n        [full]"),
        (False, "[put 1][put 2][get 1]\n                     [full]"),
        (True, "[put 1][put 2][get 1]\n                    [full]"),
        (False, "[put 1][put 2][put 3]"),
        (True, "[put 1][put 2][put 3]\n                   [get 1]"),
        # Two that each can be explained, but not both.
        (False, "[get  1]\n[empty ][empty]\n[put 1]\n       [full]"),
    ],
)
def test_histories_of_a_queue_of_two(good, picture):
    assert (check(drawn(picture), fifo, 2, [queue_of([])]).violation == "") == good


@pytest.mark.parametrize(
    "good, picture",
    [
        (True, "[get 1][get 0][empty]"),  # any order
        (False, "[get 0][get 2]"),
        # A buffer has two owners, or goes from hand to hand.
        (False, "[get 1]\n    [get 1]"),
        (True, "[get 1]\n    [get 1]\n    [put 1]"),
        (False, "[get 1]       [put 1]\n       [get 1]"),
        # One that is free is put.
        (False, "[get 1][put 1]\n       [put 1]"),
        (True, "[get 1][put 1]\n       [refused 1]"),
        (False, "[get 1][refused 1]"),
        (True, "[get 1][refused 1]\n              [put 1]"),
        # EMPTY while a buffer is free throughout: be it always the same or not.
        (False, "[get 1][empty]"),
        (True, "[get 1]      [put 1]\n       [get 0]\n        [empty]"),
        (False, "[get 1]       [put 1]\n        [empty]\n               [get 0]"),
        (False, "[get 1][put 1][get 0]\n       [empty      ]"),
        (True, "[get 1][get 0][put 1]\n       [empty      ]"),
    ],
)
def test_histories_of_a_pool_of_two(good, picture):
    assert (check(drawn(picture), free_set, 2, [set_of([0, 1])]).violation == "") == good


@pytest.mark.parametrize(
    "good, picture",
    [
        (True, "[open][put 1][close][refused][closed][get 1][closed][empty]"),
        (False, "[close][open]"),
        (True, "[close]\n [open]  [put 1]"),
        (False, "[closed]"),
        (False, "[open][put 1][refused]"),
        (True, "[open][put 1][refused]\n                  [close]"),
        (True, "[open][put 1][put 2][refused][get 1][empty]\n                               [get 2]"),
        (False, "[open][put 1][close][get 1][empty][open]"),
    ],
)
def test_histories_of_a_closing_queue_of_two(good, picture):
    assert (check(drawn(picture), closing_fifo, 2, [queue_of([])]).violation == "") == good


def test_a_violation_is_told_with_the_operations_around_it():
    verdict = check(drawn("[put 1][put 2]\n                [get 2]\n              [empty]"), fifo, 2, [0])
    assert verdict.states == [queue_of([1, 2])]
    marked = [line for line in verdict.violation.splitlines() if line.startswith(">")]
    assert len(marked) == 1 and "thread 2" in marked[0] and "empty" in marked[0]
    assert "get       2" in verdict.violation


def test_all_states_that_a_history_may_leave_are_carried_on():
    left = check(drawn("[put 1]\n[put 2]"), fifo, 2, [queue_of([])]).states
    assert left == sorted([queue_of([1, 2]), queue_of([2, 1])])
    assert check(drawn("[get 2][get 1]"), fifo, 2, left).violation == ""
    assert check(drawn("[get 2][get 1]"), fifo, 2, left[1:]).violation != ""


def test_overlap_is_counted():
    assert overlapped(drawn("[put 1]  [put 2]  [put 3]\n    [get 1]              [get 2]")) == 2 + 1


# ---- the checker, against one that tries every order -----------------------------------------------------------------


def queue_accepts(order, capacity):
    items = collections.deque()
    for kind, item in order:
        if kind == PUT and len(items) < capacity:
            items.append(item)
        elif kind == GET and items and items[0] == item:
            items.popleft()
        elif not (kind == EMPTY and not items) and not (kind == FULL and len(items) == capacity):
            return False
    return True


def pool_accepts(order, capacity):
    free = set(range(capacity))
    for kind, item in order:
        if kind == PUT and item not in free:
            free.add(item)
        elif kind == GET and item in free:
            free.remove(item)
        elif not (kind == EMPTY and not free):
            return False
    return True


def some_order_explains(history, accepts, capacity):
    operations = [(who, *row) for who, log in enumerate(history) for row in log.tolist()]
    for order in itertools.permutations(operations):
        in_time = all(
            not (b[1 + RESPONSE] < a[1 + INVOKE] or (a[0] == b[0] and operations.index(b) < operations.index(a)))
            for a, b in itertools.combinations(order, 2)
        )
        if in_time and accepts([(kind, item) for _, kind, item, _, _ in order], capacity):
            return True
    return False


def tiny(rng, kinds, items):
    """Return a history of up to five operations of up to three threads, stamps often equal."""
    history = []
    for n in rng.choice([(1, 1), (2, 1), (2, 2), (1, 1, 1), (2, 1, 1), (2, 2, 1), (3, 2), (3, 1, 1)]):
        stamps = sorted(rng.randrange(12) for _ in range(2 * n))
        rows = []
        for invoke, response in zip(stamps[::2], stamps[1::2], strict=True):
            kind = rng.choice(kinds)
            rows.append((kind, rng.randrange(items) if kind in (GET, PUT) else -1, invoke, response))
        history.append(np.array(rows, np.int64))
    return history


@pytest.mark.parametrize(
    "step, accepts, kinds, start",
    [
        (fifo, queue_accepts, [PUT, PUT, GET, EMPTY, FULL], nothing),
        (free_set, pool_accepts, [GET, GET, PUT, EMPTY], all_free),
    ],
    ids=["queue", "pool"],
)
def test_it_agrees_with_one_that_tries_every_order(record_property, step, accepts, kinds, start):
    rng = random.Random(1)
    verdicts = collections.Counter()
    for _ in range(6000):
        capacity = rng.choice([1, 2])
        history = tiny(rng, kinds, 2)
        verdict = check(history, step, capacity, [start(capacity)]).violation == ""
        assert verdict == some_order_explains(history, accepts, capacity), history
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 500
    record_property(
        "figure",
        f"checker of {step.__name__} against all permutations: {verdicts.total():,} tiny random histories, "
        f"{verdicts[True]:,} linearizable, {verdicts[False]:,} not, no verdict differs",
    )
