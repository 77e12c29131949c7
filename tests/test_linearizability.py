"""Histories of real threads, checked for linearizability: every EMPTY, every FULL, every order of items.

Threads run random mixes of operations and stamp each of them by the library's kernel clock. A counter that they share
would do as well, but to count is a full fence: nothing that an operation stored would ever be seen late, which is what
goes wrong in work-stealing deques. The clock is CLOCK_MONOTONIC, which on x86-64 Linux is the processors' common time
stamp counter, read when all earlier loads are done; that it is common is tested here, too.
"""

import collections
import itertools
import os
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from linearizability import (
    CLOSE,
    CLOSED,
    EMPTY,
    FULL,
    GET,
    INVOKE,
    ITEM,
    KIND,
    NAMES,
    OPEN,
    PUT,
    REFUSED,
    RESPONSE,
    check,
    closing_fifo,
    fifo,
    free_set,
    overlapped,
    queue_of,
    set_of,
)
from numba import int64, njit
from numba.experimental import jitclass
from numba.extending import register_jitable

from iobuf_nb import BoundedQueue, BufferPool, ItemPool, MagazineSet, atomics
from iobuf_nb._threads.clock import now_ns
from iobuf_nb._threads.parking import SPIN_TURNS, spin

in_kernel = njit(nogil=True)


# States of new objects.


def nothing(capacity):
    return queue_of([])


def all_in_order(capacity):
    return queue_of(range(capacity))


def all_free(capacity):
    return set_of(range(capacity))


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


# ---- recording -------------------------------------------------------------------------------------------------------

# What a thread is told to do next: an action and, above it, for how many pauses to wait before.
TRY_GET, WAIT_GET, GET_MANY, TRY_PUT, WAIT_PUT, PUT_MANY, HAND_ON, SHUT = range(8)
ACTION_BITS = 3
WAIT_S = 50e-6  # long enough to park, so that puts have somebody to wake

# Words that the threads share, on cache lines of their own.
MEETING, MAIL, SHARED_WORDS = 0, 16, 32

MANY = 3  # buffers at a time
MOST_HELD = 8


@in_kernel
def meet(words, threads):
    """Wait until all threads have come here: the windows of a history begin together."""
    goal = (atomics.fetch_add(words, MEETING, 1) // threads + 1) * threads
    while atomics.load(words, MEETING) < goal:
        spin(SPIN_TURNS)


@in_kernel
def begin(task, log, row):
    """Pause, and stamp the invocation that row `row` is about."""
    atomics.pause(task >> ACTION_BITS)
    log[row, INVOKE] = now_ns()
    atomics.fence()  # or loads that come later could be made before the clock is read


@in_kernel
def end(log, row, after):
    """Stamp the response of the call that rows [row, after) are about, and return `after`."""
    now = now_ns()
    for k in range(row, after):
        log[k, INVOKE] = log[row, INVOKE]
        log[k, RESPONSE] = now
    return after


@in_kernel
def write(log, row, kind, item):
    log[row, KIND] = kind
    log[row, ITEM] = item
    return row + 1


# These two are functions, because numba on Python 3.12 and up misses some errors of a `try` inside a loop.


@register_jitable
def get_within(seconds, source):
    """Return what a waiting get gets, or -1 if it fails."""
    try:
        return source.get(True, seconds)
    except Exception:
        return -1


@register_jitable
def put_within(seconds, queue, item):
    """Return whether a waiting put puts."""
    try:
        queue.put(item, True, seconds)
        return True
    except Exception:
        return False


@register_jitable
def use_queue(queue, plan, window, me, threads, words, log):
    """Put and get as planned; return how many rows that took."""
    row = 0
    for k in range(len(plan)):
        if k % window == 0:
            meet(words, threads)
        action = plan[k] & SHUT
        item = me * 40 + k % 40  # unique among those in the queue
        begin(plan[k], log, row)
        done = True
        if action == TRY_PUT:
            done = queue.try_put(item)
        elif action == WAIT_PUT:
            done = put_within(WAIT_S, queue, item)
        elif action == TRY_GET:
            item = queue.try_get()
        else:
            item = get_within(WAIT_S, queue)
        if action in (TRY_PUT, WAIT_PUT):
            after = write(log, row, PUT if done else FULL, item)
        else:
            after = write(log, row, GET if item >= 0 else EMPTY, item)
        row = end(log, row, after)
    return row


@register_jitable
def use_pool(pool, plan, window, me, threads, words, log):
    """Get, put and hand on to others as planned; return how many rows that took."""
    out, held = np.empty(MANY, np.int64), np.empty(MOST_HELD, np.int64)
    holds = row = 0
    for k in range(len(plan)):
        if k % window == 0:
            meet(words, threads)
        action = plan[k] & SHUT
        if action == HAND_ON:
            other = atomics.swap(words, MAIL, held[holds - 1] if holds else -1)
            holds = max(holds - 1, 0)
            if other >= 0:
                held[holds] = other
                holds += 1
            continue
        begin(plan[k], log, row)
        after = row
        if action == TRY_PUT and holds:
            holds -= 1
            after = write(log, row, PUT if pool.try_put(held[holds]) else REFUSED, held[holds])
        elif action == PUT_MANY:
            pool.put_many(held[:holds])
            for j in range(holds):
                after = write(log, after, PUT, held[j])
            holds = 0
        elif holds + MANY <= MOST_HELD:
            asked = 1
            if action == GET_MANY:
                asked = MANY
                got = pool.get_many(out)
            else:
                out[0] = get_within(WAIT_S, pool) if action == WAIT_GET else pool.try_get()
                got = 1 if out[0] >= 0 else 0
            for j in range(got):
                after = write(log, after, GET, out[j])
                held[holds] = out[j]
                holds += 1
            if got < asked:
                after = write(log, after, EMPTY, -1)
        row = end(log, row, after)
    return row


@register_jitable
def use_magazine_of(magazines, plan, window, me, threads, words, log):
    """Use one of a set of magazines, the thread's own while the other threads run."""
    return use_pool(magazines[me % len(magazines)], plan, window, me, threads, words, log)


class Mix(NamedTuple):
    """What threads do with an object, in kernels and in plain Python, and the actions that their plans are made of."""

    kernel: Callable
    python: Callable
    getting: list  # while there are to be more gets than puts
    putting: list  # the other way round
    drain: list  # at the end, one thread alone: any item that was lost, or is there twice, shows


QUEUE_MIX = Mix(
    in_kernel(use_queue),
    use_queue,
    [TRY_GET] * 9 + [WAIT_GET] + [TRY_PUT] * 5,
    [TRY_PUT] * 9 + [WAIT_PUT] + [TRY_GET] * 5,
    [TRY_GET] * 8,
)
POOL_MIX = Mix(
    in_kernel(use_pool),
    use_pool,
    [TRY_GET] * 8 + [WAIT_GET, GET_MANY, HAND_ON] + [TRY_PUT] * 4,
    [TRY_PUT] * 8 + [PUT_MANY, HAND_ON] + [TRY_GET] * 4,
    [HAND_ON] + [TRY_GET] * 8 + [PUT_MANY],
)
MAGAZINE_MIX = POOL_MIX._replace(kernel=in_kernel(use_magazine_of), python=use_magazine_of)

BLOCK = 16  # actions in a row that are of one list
WINDOW = 4000  # operations of all threads between two meetings
PYTHON_SHARE = 16  # plain Python makes this part of the operations that a kernel makes in the meantime
MOST_ROWS = 2 * MANY  # of an action, if what it gets is counted with what is put for it later


def planned(rng, mix, windows, window):
    """Return a plan after which nothing is held: in every other window gets and puts by turns, in the others blocks."""
    step = np.arange(windows * window)
    blocks = rng.integers(0, 2, len(step) // BLOCK + 1).repeat(BLOCK)[: len(step)]
    mixed = np.where(blocks, rng.choice(mix.getting, len(step)), rng.choice(mix.putting, len(step)))
    actions = np.where(step // window % 2, mixed, np.where(step % 2, TRY_PUT, TRY_GET))
    actions[-1] = mix.drain[-1]
    return actions | rng.integers(0, 8, len(step)) * rng.integers(0, 2, len(step)) << ACTION_BITS


def settle(me):
    """Give this thread a core: left to themselves, threads often share one for their first milliseconds."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[me % len(cores)]})


def recorded(uses, plans, windows, sources):
    """Return the history of threads that follow these plans, each with its source, and the words that they shared."""
    threads = len(sources)
    words = np.zeros(SHARED_WORDS, np.int64)
    words[MAIL] = -1
    logs = [np.empty((MOST_ROWS * len(plan), 4), np.int64) for plan in plans]

    def work(me):
        settle(me)
        try:
            window = len(plans[me]) // windows
            return uses[me](sources[me], plans[me], window, me, threads, words, logs[me])
        except BaseException:
            atomics.fetch_add(words, MEETING, 2**32)  # the others wait for nobody
            raise

    with ThreadPoolExecutor(threads) as pool:
        return [log[:rows] for log, rows in zip(logs, pool.map(work, range(threads)), strict=True)], words


def history_of(mix, sources, operations, windows, python=False):
    """Return the history of about so many random operations, and of a last thread that drains the object."""
    threads = len(sources)
    rng = np.random.default_rng(threads)
    window = operations // threads // windows
    uses, plans = [mix.kernel] * threads, [planned(rng, mix, windows, window) for _ in sources]
    if python:
        uses[-1], plans[-1] = mix.python, planned(rng, mix, windows, window // PYTHON_SHARE)
    history, words = recorded(uses, plans, windows, sources)
    log = np.empty((MOST_ROWS * len(mix.drain), 4), np.int64)
    rows = mix.python(sources[0], np.array(mix.drain), 1, threads, 1, words, log)
    return [*history, log[:rows]]


# ---- the clock -------------------------------------------------------------------------------------------------------

TURN, STAMP = 0, 16
ROUNDS = 2_000


@in_kernel
def hand_over(words, me, behind):
    """Stamp a token and hand it over, in turns with another thread; return how often time went backwards."""
    backwards = 0
    for k in range(ROUNDS):
        turn = 0
        while atomics.load(words, TURN) != 2 * k + me:
            spin(turn)
            turn = min(turn + 1, SPIN_TURNS)
        now = now_ns() - behind
        backwards += now < atomics.load(words, STAMP)
        atomics.store(words, STAMP, now)
        atomics.store(words, TURN, 2 * k + me + 1)
    return backwards


@pytest.mark.compiled
@pytest.mark.parametrize("behind, sound", [(0, True), (1_000_000, False)], ids=["", "one runs behind"])
def test_time_never_goes_backwards_from_thread_to_thread(record_property, behind, sound):
    words = np.zeros(SHARED_WORDS, np.int64)

    def work(me):
        settle(me)
        return hand_over(words, me, me * behind)

    with ThreadPoolExecutor(2) as threads:
        backwards = sum(threads.map(work, range(2)))
    assert (backwards == 0) == sound
    if sound:
        record_property("figure", f"the clock: a token handed over {2 * ROUNDS:,} times, never to an earlier time")


# ---- the library -----------------------------------------------------------------------------------------------------


class Subject(NamedTuple):
    """An object under test: how threads use it, what it promises, and how it is made."""

    mix: Mix
    step: Callable
    start: Callable  # of the capacity: the state of a new one
    sources: Callable  # of the capacity and the number of threads: what each of them uses


def shared(make):
    """Return the maker of sources that are all one object."""
    return lambda capacity, threads: [make(capacity)] * threads


def magazines(capacity, threads):
    """Return a pool, for one thread, and magazines over it for the others."""
    pool = BufferPool(capacity, 16)
    return [pool] + [pool.magazine(1 + k) for k in range(threads - 1)]


# A pool is a queue of the free indices, as `iobuf_nb.pool` has it; with magazines, any free buffer may come.
SUBJECTS = {
    "BoundedQueue": Subject(QUEUE_MIX, fifo, nothing, shared(lambda capacity: BoundedQueue(capacity, 255))),
    "BufferPool": Subject(POOL_MIX, fifo, all_in_order, shared(lambda capacity: BufferPool(capacity, 16))),
    "unchecked BufferPool": Subject(
        POOL_MIX, fifo, all_in_order, shared(lambda capacity: BufferPool(capacity, 16, checked=False))
    ),
    "ItemPool": Subject(POOL_MIX, fifo, all_in_order, shared(lambda capacity: ItemPool(range(capacity)))),
    "BufferPool and Magazines": Subject(POOL_MIX, free_set, all_free, magazines),
    "unchecked MagazineSet": Subject(
        MAGAZINE_MIX,
        free_set,
        all_free,
        lambda capacity, threads: [MagazineSet(BufferPool(capacity, 16, checked=False), threads, 2)] * threads,
    ),
}

tally = collections.Counter()


def described(what, history, windows):
    """Count a history in `tally`, and say what it is made of."""
    operations, together = sum(map(len, history)), overlapped(history)
    kinds = np.bincount(np.concatenate(history)[:, KIND], minlength=len(NAMES)).tolist()
    tally.update(histories=1, operations=operations, overlapped=together, empty=kinds[EMPTY], full=kinds[FULL])
    text = f"{what}: {operations:,} operations in {windows:,} windows, {together / operations:.0%} overlapped"
    return text + "".join(f", {kinds[kind]:,} {NAMES[kind].upper()}" for kind in (EMPTY, FULL) if kinds[kind])


def verify(record_property, name, capacity, threads, operations, python=False):
    """Record a history, check it, and see that it says what it is to be about."""
    subject, windows = SUBJECTS[name], operations // WINDOW
    history = history_of(subject.mix, subject.sources(capacity, threads), operations, windows, python)
    verdict = check(history, subject.step, capacity, [subject.start(capacity)])
    who = f"{threads} threads" + (", one of them Python" if python else "")
    print(described(f"{name}, capacity {capacity}, {who}", history, windows))
    record_property(f"operations on {name}", sum(map(len, history)))
    tally["widest"] = max(tally["widest"], verdict.widest)
    assert not verdict.violation, verdict.violation
    kinds = np.concatenate(history)[:, KIND]
    assert overlapped(history) > 0 and (kinds == EMPTY).any()
    assert (kinds == FULL).any() == (subject.mix is QUEUE_MIX)


CAPACITIES, THREADS = (1, 2, 3, 7), (2, 3, 4)
EVERY_CASE = list(itertools.product(SUBJECTS, CAPACITIES, THREADS))


@pytest.mark.compiled
@pytest.mark.parametrize("name, capacity, threads", EVERY_CASE)
def test_histories_of_kernels(record_property, name, capacity, threads):
    verify(record_property, name, capacity, threads, 40_000)


@pytest.mark.compiled
@pytest.mark.parametrize("name", SUBJECTS)
def test_histories_of_kernels_and_a_thread_of_plain_python(record_property, name):
    verify(record_property, name, 2, 3, 40_000, python=True)


@pytest.mark.compiled
@pytest.mark.long
@pytest.mark.parametrize("name, capacity, threads", EVERY_CASE)
def test_long_histories(record_property, name, capacity, threads):
    verify(record_property, name, capacity, threads, 1_000_000)


# ---- closing ---------------------------------------------------------------------------------------------------------

FOR_EVER_S = 60.0  # what takes so long ends as if the queue were closed, and that is a violation


@in_kernel
def use_closing_queue(queue, plan, window, me, threads, words, log):
    """Put and get as planned until after the queue is closed; return how many rows that took."""
    meet(words, threads)
    row = 0
    for k in range(len(plan)):
        action = plan[k] & SHUT
        item = me * 40 + k % 40
        begin(plan[k], log, row)
        if action == SHUT:
            queue.close()
            after = write(log, row, CLOSE, -1)
        elif action == TRY_GET:
            item = queue.try_get()
            after = write(log, row, GET if item >= 0 else EMPTY, item)
        elif action == WAIT_GET:
            item = get_within(FOR_EVER_S, queue)
            after = write(log, row, GET if item >= 0 else CLOSED, item)
            if item < 0:
                after = write(log, after, EMPTY, -1)
        else:
            done = queue.try_put(item) if action == TRY_PUT else put_within(FOR_EVER_S, queue, item)
            if done:
                after = write(log, write(log, row, OPEN, -1), PUT, item)
            else:
                after = write(log, row, REFUSED if action == TRY_PUT else CLOSED, item)
        row = end(log, row, after)
    return row


@pytest.mark.compiled
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_histories_of_queues_that_are_closed(record_property, capacity, threads):
    rng = np.random.default_rng(capacity)
    kinds, histories, together = np.zeros(len(NAMES), np.int64), 100, 0
    for _ in range(histories):
        plans = [rng.choice([TRY_GET, WAIT_GET, TRY_PUT, WAIT_PUT], 60) for _ in range(threads)]
        plans[0] = np.array([*rng.choice([TRY_GET, TRY_PUT], 30), SHUT, *plans[0][:10]])  # never waits before it closes
        history, _ = recorded([use_closing_queue] * threads, plans, 1, [BoundedQueue(capacity, 255)] * threads)
        verdict = check(history, closing_fifo, capacity, [queue_of([])])
        assert not verdict.violation, verdict.violation
        kinds += np.bincount(np.concatenate(history)[:, KIND], minlength=len(NAMES))
        together += overlapped(history)
    assert kinds[CLOSE] == histories and kinds[CLOSED] > 0 and kinds[REFUSED] > 0 and kinds[GET] > 0
    assert together > 0
    record_property("operations on BoundedQueues that are closed in use", int(kinds.sum()))
    record_property("of them too late", int(kinds[CLOSED]))


# ---- puts of what others hold ----------------------------------------------------------------------------------------


@in_kernel
def put_blindly(pool, plan, window, me, threads, words, log):
    """Get buffers, and put any, whoever holds them; return how many rows that took."""
    row = 0
    for k in range(len(plan)):
        if k % window == 0:
            meet(words, threads)
        index = (plan[k] >> ACTION_BITS) % pool.capacity
        begin(plan[k], log, row)
        if plan[k] & SHUT == TRY_PUT:
            after = write(log, row, PUT if pool.try_put(index) else REFUSED, index)
        else:
            index = pool.try_get()
            after = write(log, row, GET if index >= 0 else EMPTY, index)
        atomics.fence()  # who holds a buffer is told by a plain store, which others may see after it is stamped
        row = end(log, row, after)
    return row


@pytest.mark.compiled
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_a_buffer_is_put_once_whoever_puts_it(record_property, capacity, threads):
    windows = 20
    rng = np.random.default_rng(capacity)
    pool = BufferPool(capacity, 16)
    plans = [rng.choice([TRY_GET, TRY_PUT], 5000) | rng.integers(0, 12, 5000) << ACTION_BITS for _ in range(threads)]
    history, _ = recorded([put_blindly] * threads, plans, windows, [pool] * threads)
    for index in range(capacity):
        pool.try_put(index)
    # What was refused is about one buffer and its holder; all else is about the queue of those that are free.
    queue = [log[log[:, KIND] != REFUSED] for log in history]
    verdicts = [check(queue, fifo, capacity, [queue_of(range(capacity))])]
    for index in range(capacity):
        buffer = [log[log[:, ITEM] == index] for log in history]
        verdicts.append(check([log for log in buffer if len(log)], free_set, capacity, [set_of([index])]))
    assert not any(verdict.violation for verdict in verdicts), verdicts
    refused = (np.concatenate(history)[:, KIND] == REFUSED).sum()
    assert refused > 0
    print(described(f"BufferPool, capacity {capacity}, {threads} threads that put blindly", history, windows))
    record_property("operations on BufferPools by threads that put what others hold", sum(map(len, history)))
    record_property("of them refused", int(refused))


# ---- objects that are broken -----------------------------------------------------------------------------------------

FLAWS = ("no flaw", "no lock", "the newest comes first", "hindered gets say EMPTY", "hindered puts say FULL")
NO_FLAW, NO_LOCK, STACK, HASTY_GET, HASTY_PUT = range(len(FLAWS))
LOCK, HEAD, TAIL, SLOTS = range(4)
RACE_PAUSES = 8


@jitclass([("words", int64[::1]), ("capacity", int64), ("flaw", int64)])
class LockedQueue:
    """A ring under a lock, with a flaw: no lock, the newest comes first, or whoever finds the lock taken gives up."""

    def __init__(self, capacity, flaw, filled):
        self.words = np.zeros(SLOTS + capacity, np.int64)
        self.capacity = capacity
        self.flaw = flaw
        if filled:
            self.put_many(np.arange(capacity))

    def lock(self, hasty):
        if self.flaw == NO_LOCK:
            return True
        while not atomics.compare_and_swap(self.words, LOCK, 0, 1):
            if hasty:
                return False
            spin(SPIN_TURNS)
        return True

    def try_put(self, item):
        if not self.lock(self.flaw == HASTY_PUT):
            return False
        tail = atomics.load(self.words, TAIL)
        done = tail - atomics.load(self.words, HEAD) < self.capacity
        atomics.pause(RACE_PAUSES)
        if done:
            atomics.store(self.words, SLOTS + tail % self.capacity, item)
            atomics.store(self.words, TAIL, tail + 1)
        atomics.store(self.words, LOCK, 0)
        return done

    def try_get(self):
        if not self.lock(self.flaw == HASTY_GET):
            return -1
        item = -1
        head, tail = atomics.load(self.words, HEAD), atomics.load(self.words, TAIL)
        atomics.pause(RACE_PAUSES)
        if head < tail:
            if self.flaw == STACK:
                item = atomics.load(self.words, SLOTS + (tail - 1) % self.capacity)
                atomics.store(self.words, TAIL, tail - 1)
            else:
                item = atomics.load(self.words, SLOTS + head % self.capacity)
                atomics.store(self.words, HEAD, head + 1)
        atomics.store(self.words, LOCK, 0)
        return item

    def put(self, item, block, timeout):
        if not self.try_put(item):
            raise ValueError("full")

    def get(self, block, timeout):
        item = self.try_get()
        if item < 0:
            raise ValueError("empty")
        return item

    def put_many(self, items):
        for item in items:
            self.try_put(item)

    def get_many(self, out):
        done = 0
        while done < len(out):
            out[done] = self.try_get()
            if out[done] < 0:
                break
            done += 1
        return done


# What a lock without a flaw is, a queue or a pool, is believed after a few histories. What is neither may need more to
# show it: on one core a thread has to be interrupted at the right place.
FEW, MANY_HISTORIES = 4, 100


@pytest.mark.compiled
@pytest.mark.parametrize("mix", [QUEUE_MIX, POOL_MIX], ids=["queue", "pool"])
@pytest.mark.parametrize("flaw", range(len(FLAWS)), ids=FLAWS)
def test_broken_objects_are_found_out(record_property, mix, flaw):
    step, start = (fifo, queue_of([])) if mix is QUEUE_MIX else (free_set, set_of(range(2)))
    good = flaw == NO_FLAW or (flaw == STACK and mix is POOL_MIX)
    violations = (
        check(history_of(mix, [LockedQueue(2, flaw, mix is POOL_MIX)] * 2, 40_000, 20), step, 2, [start]).violation
        for _ in range(FEW if good else MANY_HISTORIES)
    )
    violation = next(filter(None, violations), "")
    assert (violation == "") == good, violation
    record_property(
        "figure", f"a {step.__name__} with a lock, {FLAWS[flaw]}: {'rejected' if violation else 'accepted'}"
    )


# ---- in all ----------------------------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_a_million_operations_were_checked(record_property):
    if tally["histories"] < len(EVERY_CASE):
        pytest.skip("only part of the histories was recorded")
    assert tally["operations"] >= 1_000_000
    record_property(
        "figure",
        f"in total: {tally['operations']:,} operations in {tally['histories']} histories, "
        f"{tally['overlapped'] / tally['operations']:.0%} overlapped, "
        f"{tally['empty']:,} EMPTY, {tally['full']:,} FULL, all linearizable; "
        f"the checker held at most {tally['widest']:,} configurations at a time",
    )
