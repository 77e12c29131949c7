"""Histories of real threads are explained by a sequential queue or pool, and those of broken ones are not."""

import collections
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from histories import (
    ACTION_BITS,
    MAGAZINE_MIX,
    POOL_MIX,
    QUEUE_MIX,
    SHARED_WORDS,
    SHUT,
    TRY_GET,
    TRY_PUT,
    WAIT_GET,
    WAIT_PUT,
    WINDOW,
    Mix,
    all_free,
    begin,
    end,
    get_within,
    history_of,
    in_kernel,
    meet,
    nothing,
    put_within,
    recorded,
    settle,
    write,
)
from linearizability import (
    CLOSE,
    CLOSED,
    EMPTY,
    FULL,
    GET,
    ITEM,
    KIND,
    NAMES,
    OPEN,
    PUT,
    REFUSED,
    check,
    closing_fifo,
    fifo,
    free_set,
    overlapped,
    queue_of,
    set_of,
)
from numba import int64
from numba.experimental import jitclass

from iobuf_nb import BoundedQueue, BufferPool, ItemPool, MagazineSet, atomics
from iobuf_nb._threads.clock import now_ns
from iobuf_nb._threads.parking import SPIN_TURNS, spin

pytestmark = [pytest.mark.compiled, pytest.mark.proof]

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


# After bulk puts, and with magazines, any free buffer may come.
SUBJECTS = {
    "BoundedQueue": Subject(QUEUE_MIX, fifo, nothing, shared(lambda capacity: BoundedQueue(capacity, 255))),
    "BufferPool": Subject(POOL_MIX, free_set, all_free, shared(lambda capacity: BufferPool(capacity, 16))),
    "unchecked BufferPool": Subject(
        POOL_MIX, free_set, all_free, shared(lambda capacity: BufferPool(capacity, 16, checked=False))
    ),
    "ItemPool": Subject(POOL_MIX, free_set, all_free, shared(lambda capacity: ItemPool(range(capacity)))),
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


@pytest.mark.parametrize("name, capacity, threads", EVERY_CASE)
def test_histories_of_kernels(record_property, name, capacity, threads):
    verify(record_property, name, capacity, threads, 40_000)


@pytest.mark.parametrize("name", SUBJECTS)
def test_histories_of_kernels_and_a_thread_of_plain_python(record_property, name):
    verify(record_property, name, 2, 3, 40_000, python=True)


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
    # What was refused is about one buffer and its owner; all else is about the queue of those that are free.
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
        done = 0
        while done < len(items) and self.try_put(items[done]):
            done += 1
        return done

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
