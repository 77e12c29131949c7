"""Waiting at a queue or a pool, and wake-ups: the protocol of `_threads.parking` on the words of a queue.

Two pairs of seq_cst accesses exclude a lost wake-up, one for each direction:

- a putter puts (P2), then reads the count of getters (N1); a getter counts itself in (W1), then tries to get (G1);
- a getter gets (G2), then reads the count of putters (M1); a putter counts itself in (W1), then tries to put (P1).

Each side writes one word and then reads the other's, so at least one of them sees the other.

Where processes share the words, a count of waiters would stay raised for ever once one of them is killed. There the
word is a *flag* that says only that somebody may be parked:

- a waiter reads the event (Z1), raises the flag (Z2), tries once more, and parks;
- a waker that finds the flag (N1) changes the event and wakes one; if nobody was parked, it lowers the flag (Z3),
  changes the event (Z4), and wakes all.

A waiter whose flag Z3 lowered has read the event before Z4: it does not park, or is woken, and raises the flag again.
A waiter or waker may be killed after it took a wake-up from another, so nobody parks longer than LOOK_NS; and who has
waited that long looks for buffers of dead processes (`processes`).

Spinning across processes
    To park and be woken costs as much as SPIN_NS of spinning, which is won where the other process is at work on
    another processor, and lost where it is not. So a wait spins for SPIN_NS at most, and only while the queue's *debt*
    is small: each spin in vain raises the debt, each that found something lowers it, and so does, by a 32nd, a wait
    that did not spin. On a busy machine that is one spin in vain in 33 waits. Before it parks, a wait yields once,
    which spares the wake-up where the other process waits for the same processor.
"""

from __future__ import annotations

from .._jit.compile import hot, kernel, out_of_line
from .._threads.clock import FOREVER_NS, now_ns
from .._threads.gil import LOOK_NS, check_signals, process_id
from .._threads.outcomes import EMPTY, FORKED
from .._threads.parking import ALL_WAITERS, SPIN_TURNS, notify_eventfd, park, spin, wake
from ..atomics import fetch_add, load, store
from .queue import (
    CLOSED_FLAG,
    GET_EVENT,
    GET_FD,
    GETTERS,
    HANDED,
    NONBLOCKING_FLAG,
    PROCESS,
    PUT_EVENT,
    PUTTERS,
    SHARED,
    SPIN_DEBT,
    get_item,
    get_items,
    put_item,
    put_items,
)

SPIN_NS = 20_000
_SPIN_LOST = 32  # what a spin in vain adds to the debt
_MOST_DEBT = 3 * _SPIN_LOST  # with more nobody spins
_SHORT_TURN = 3  # of `spin`: 8 pauses, a third of a microsecond


@kernel
def notify(queue, event):
    """Wake one of the threads that wait for `event`."""
    out_of_line()
    if load(queue._words, PROCESS) == SHARED:  # N4 reads a constant
        notify_processes(queue._words, event, 1)
        return
    # N2 releases to W2: a waiter that read the event before does not park. Mutant: "a waker does not change the event"
    fetch_add(queue._words, event, 1, "seq_cst")
    if wake(queue._words, event, 1, False) == 0 and event == GET_EVENT:
        notify_loops(queue)


@kernel
def notify_processes(words, event, count):
    """Wake up to `count` threads, of any process, that wait for `event`; lower the flag if there was none."""
    out_of_line()
    fetch_add(words, event, 1, "seq_cst")  # N2 releases to Z1
    if wake(words, event, count, True) == 0:
        # Z3 is ordered with Z2, before Z4. Mutant: "the flag is lowered after the event has changed"
        store(words, event - 1, 0, "seq_cst")
        # Z4 releases to Z1. Mutant: "a waker that lowers the flag does not change the event"
        fetch_add(words, event, 1, "seq_cst")
        wake(words, event, ALL_WAITERS, True)


@kernel
def notify_loops(queue):
    """Notify the event loops that have waiting coroutines."""
    fd = load(queue._words, GET_FD) - 1  # N3 acquires from A2 of `_pools.aio`
    if fd >= 0 and process_id() == load(queue._words, PROCESS):  # N4 reads a constant; a child's fd may be another file
        notify_eventfd(fd)


@hot
def put_and_wake(queue, item):
    """Append `item` and wake a getter; False if the queue is full."""
    done = put_item(queue, item)
    # N1 is ordered with W1, Z2, H1, L6, after P2. Mutants: "a put checks for getters before it puts",
    # "a put checks for getters with an acquire load", "a put does not check for getters"
    if done and load(queue._words, GETTERS, "seq_cst"):
        notify(queue, GET_EVENT)
    return done


@kernel
def put_all_and_wake(queue, items, begin, end):
    """Append items[begin:end] while there is room and wake as many getters; return the index of the first left over."""
    done = put_items(queue, items, begin, end)
    # N1 is ordered with W1, Z2, H1, L6, after P2. Mutants: "a bulk put wakes nobody",
    # "a bulk put checks for getters before it puts"
    if load(queue._words, GETTERS, "seq_cst") and done > begin:
        notify_many(queue, GET_EVENT, done - begin)
    return done


@kernel
def get_all_and_wake(queue, out, begin, end):
    """Take the oldest items into out[begin:end] and wake as many putters; return the index after the last."""
    done = get_items(queue, out, begin, end)
    # M1 is ordered with W1, Z2, after G2. Mutants: "a bulk get wakes nobody",
    # "a bulk get checks for putters before it gets"
    if load(queue._words, PUTTERS, "seq_cst") and done > begin:
        notify_many(queue, PUT_EVENT, done - begin)
    return done


@kernel
def notify_many(queue, event, count):
    """Wake up to `count` of the threads that wait for `event`."""
    out_of_line()
    if load(queue._words, PROCESS) == SHARED:  # N4 reads a constant
        notify_processes(queue._words, event, count)
        return
    # Those that come later find what was moved. Mutants: "a bulk put wakes only one", "a bulk get wakes only one"
    for _ in range(min(count, load(queue._words, event - 1, "relaxed"))):
        notify(queue, event)


@hot
def get_and_wake(queue):
    """Take the oldest item and wake a putter; EMPTY if there is none."""
    item = get_item(queue)
    # M1 is ordered with W1, Z2, after G2. Mutant: "a get does not check for putters"
    if item >= 0 and load(queue._words, PUTTERS, "seq_cst"):
        notify(queue, PUT_EVENT)
    return item


@hot
def offer(queue, item):
    """Append `item` unless the queue is full or closed."""
    # C2 acquires from C1; seq_cst for `give_away`. Mutants: "a put into a closed queue succeeds",
    # "a send looks whether the channel is closed by an acquire load"
    return load(queue._words, CLOSED_FLAG, "seq_cst") == 0 and put_and_wake(queue, item)


@kernel
def _end_of_wait(words, timeout_ns):
    """Return the time at which a wait of `timeout_ns` nanoseconds (-1: without limit) ends."""
    if load(words, NONBLOCKING_FLAG):  # W5 acquires from S1 of `_pools.index_pool`
        return 0
    return FOREVER_NS if timeout_ns < 0 else now_ns() + timeout_ns


@kernel
def enter(words, waiters):
    """Count this thread in among the `waiters`, and return what their event word holds."""
    if load(words, PROCESS) == SHARED:  # N4 reads a constant
        # Z1 acquires from N2, Z4, C3. Mutant: "a waiter raises the flag before it reads the event"
        seen = load(words, waiters + 1, "seq_cst")
        # Z2 is ordered with N1, M1, Z3: then the caller tries once more. Mutant: "a waiter does not raise the flag"
        store(words, waiters, 1, "seq_cst")
        return seen
    # W1 is ordered with N1, M1, K1, K2, K3: then the caller tries once more.
    # Mutants: "a waiter counts itself in by a plain store", "a waiter counts itself in with a relaxed access",
    # "a getter counts itself in after its last try"
    fetch_add(words, waiters, 1, "seq_cst")
    # W2 acquires from N2, C3. Mutant: "a getter reads the event after its last try"
    return load(words, waiters + 1, "seq_cst")


@kernel
def leave(words, waiters, seen, found, end):
    """Park until the event word is not what was `seen`, unless something was `found`; count this thread out."""
    shared = load(words, PROCESS) == SHARED  # N4 reads a constant
    if not found:
        # W6 acquires from A1 of `_pools.aio`: a buffer that was handed to a closed event loop wakes no thread.
        longest = LOOK_NS if shared or load(words, HANDED) else FOREVER_NS
        # The event word still holds what was read before the last try, or this returns at once.
        left = end - now_ns()
        park(words, waiters + 1, seen, left if left < longest else longest, shared)
    if not shared:
        fetch_add(words, waiters, -1, "seq_cst")  # W4 only counts: a waker that still sees it wakes one thread too many


@kernel
def watch(words, waiters, seen):
    """Park until the event word is not what was `seen`, LOOK_NS at most, for others, who are counted in."""
    shared = load(words, PROCESS) == SHARED  # N4 reads a constant
    park(words, waiters + 1, seen, LOOK_NS, shared)
    # They may have gone meanwhile: whatever woke this thread is also for the next that is parked.
    if load(words, waiters + 1, "relaxed") != seen:
        wake(words, waiters + 1, 1, shared)


@kernel
def spin_shared(words, waiters, turn, spent_ns):
    """Spin for a third of a microsecond, or yield the processor once; return the next turn, SPIN_TURNS to park."""
    debt = load(words, waiters + SPIN_DEBT, "relaxed")
    if debt <= _MOST_DEBT and spent_ns <= SPIN_NS:
        spin(_SHORT_TURN)
        return 1
    store(words, waiters + SPIN_DEBT, debt + _SPIN_LOST if turn else debt - 1, "relaxed")
    spin(SPIN_TURNS)  # lets the other process run, if it is waiting for this processor
    return SPIN_TURNS


@kernel
def repay_spin(words, waiters, turn):
    """Lower the debt after a wait that has found something in turn `turn`, if it spun until then."""
    debt = load(words, waiters + SPIN_DEBT, "relaxed") if 0 < turn < SPIN_TURNS else 0
    if debt:
        store(words, waiters + SPIN_DEBT, max(debt - _SPIN_LOST, 0), "relaxed")


@kernel
def wait_to_get(source, timeout_ns):
    """Take an item from a queue, or an index from a pool, waiting until there is one.

    EMPTY when `timeout_ns` (-1: no limit) is over; CLOSED; FORKED in a forked child, which no thread would wake.
    """
    words = source._words
    end = _end_of_wait(words, timeout_ns)
    shared = load(words, PROCESS) == SHARED  # N4 reads a constant
    begin = now_ns()
    look = min(end, begin + LOOK_NS) if shared and timeout_ns else FOREVER_NS
    turn = 0
    while True:
        item = source._get_or_closed()
        if item != EMPTY:
            if shared:
                repay_spin(words, GETTERS, turn)
            return item
        now = now_ns()
        if now >= look:
            # Mutant: "a waiter does not look for the dead"
            source._rescue()
            look = now + LOOK_NS
            continue
        if now >= end:
            return EMPTY
        if turn < SPIN_TURNS:
            if shared:
                turn = spin_shared(words, GETTERS, turn, now - begin)
            else:
                spin(turn)
                turn += 1
            continue
        check_signals()
        if not shared and process_id() != load(words, PROCESS):  # N4 reads a constant
            return FORKED
        seen = enter(words, GETTERS)
        item = source._get_or_closed()  # the last try: a put that has not seen this getter is seen here
        leave(words, GETTERS, seen, item != EMPTY, end)
        if item != EMPTY:
            return item


@kernel
def wait_to_put(queue, item, timeout_ns):
    """Append `item` to a queue, waiting until there is room: 0, or what `wait_to_get` returns if it cannot."""
    words = queue._words
    end = _end_of_wait(words, timeout_ns)
    shared = load(words, PROCESS) == SHARED  # N4 reads a constant
    begin = now_ns()
    turn = 0
    while True:
        result = queue._put_or_closed(item)
        now = now_ns()
        if result != EMPTY or now >= end:
            if shared and result != EMPTY:
                repay_spin(words, PUTTERS, turn)
            return result
        if turn < SPIN_TURNS:
            if shared:
                turn = spin_shared(words, PUTTERS, turn, now - begin)
            else:
                spin(turn)
                turn += 1
            continue
        check_signals()
        if not shared and process_id() != load(words, PROCESS):  # N4 reads a constant
            return FORKED
        seen = enter(words, PUTTERS)
        result = queue._put_or_closed(item)  # the last try: a get that has not seen this putter is seen here
        leave(words, PUTTERS, seen, result != EMPTY, end)
        if result != EMPTY:
            return result


@kernel
def close_queue(queue):
    """Close, and wake all waiting threads and event loops."""
    # C1 releases to C2. It comes before C3, so that a woken waiter finds it. Mutant: "close wakes before it closes"
    store(queue._words, CLOSED_FLAG, 1, "seq_cst")
    wake_everybody(queue)


@kernel
def wake_everybody(queue):
    """Wake all waiting threads and event loops."""
    shared = load(queue._words, PROCESS) == SHARED  # N4 reads a constant
    for event in (GET_EVENT, PUT_EVENT):
        # C3 releases to W2, Z1. Mutant: "close does not change the events"
        fetch_add(queue._words, event, 1, "seq_cst")
        wake(queue._words, event, ALL_WAITERS, shared)
    notify_loops(queue)
