"""Whether what real threads saw is linearizable: whether each operation can have taken effect at one moment of its own.

That moment lies between the operation's invocation and its response, and in the order of these moments the results are
those of a sequential queue or pool (Herlihy & Wing, "Linearizability", 1990). A *history* is one array per thread of
the operations that it made, in order: rows of KIND, ITEM, INVOKE and RESPONSE, the last two stamped by a clock that all
threads share. Operations with a stamp in common are concurrent. A call that takes effect in several steps is as many
operations with the same stamps; the order of a thread's operations is kept in any case.

How it is decided
    To search for an order is as old as Wing & Gong, "Testing and verifying concurrent objects" (1993). Here the
    stamps are swept once, in time order, and with them goes the set of all *configurations* that the history so far
    allows: how many operations each thread has had take effect that have not returned yet, and the state they left.
    Nothing is tried before it must be: only when an operation returns, those that are pending take effect in every
    order that ends with it (Lowe, "Testing for linearizability", 2017: just-in-time linearization). Configurations
    that have come to be equal are one. If none is left, no order explains the history. What a state is made of is
    kept to one integer, and the set stays small, so a million operations take less than a second.

What is not done
    A history over independent objects is linearizable if each object's part of it is: Horn & Kroening, "Faster
    linearizability checking via P-compositionality" (2015), and the tool porcupine after it, check such parts alone.
    A queue has none. A pool's buffers are independent until it says EMPTY, which is about all of them: only a caller
    who leaves these out may split a history by buffer.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

KIND, ITEM, INVOKE, RESPONSE = range(4)

NAMES = ("get", "put", "empty", "full", "close", "open", "closed", "refused")
GET, PUT, EMPTY, FULL, CLOSE, OPEN, CLOSED, REFUSED = range(len(NAMES))

ILLEGAL = -1
_SHUT = 1 << 60
_BITS, _MASK = 7, 127  # of a thread's count in `progress`
MOST_THREADS = 8
_MOST_CONFIGURATIONS = 1 << 16
_SHOWN = 12  # operations before a violation


# ---- specifications: the state after an operation with its result, or ILLEGAL ----------------------------------------


@njit
def fifo(items, kind, item, capacity):
    """A bounded queue: a byte for each item, the oldest lowest, and so at most 7 of them, from 0 to 254."""
    if kind == GET:
        return items >> 8 if items & 255 == item + 1 else ILLEGAL
    if kind == EMPTY:
        return items if items == 0 else ILLEGAL
    length = 0
    while items >> 8 * length:
        length += 1
    if kind == PUT:
        return items | (item + 1) << 8 * length if length < capacity else ILLEGAL
    return items if kind == FULL and length == capacity else ILLEGAL


@njit
def closing_fifo(state, kind, item, capacity):
    """A bounded queue that can be closed.

    A put first finds it OPEN and then puts, so it may land in a queue that was closed in between; or it finds it CLOSED
    or is REFUSED. A get finds it CLOSED and then EMPTY, if it does not get.
    """
    shut = state & _SHUT
    items = state - shut
    if kind == CLOSE:
        return items | _SHUT
    if kind == OPEN:
        return ILLEGAL if shut else state
    if kind == CLOSED:
        return state if shut else ILLEGAL
    if kind == REFUSED:
        return state if shut else fifo(items, FULL, item, capacity)
    items = fifo(items, kind, item, capacity)
    return ILLEGAL if items == ILLEGAL else items | shut


@njit
def free_set(free, kind, item, capacity):
    """A pool that hands out any free buffer: a bit for each that is free. REFUSED is the put of one that is."""
    if kind == EMPTY:
        return free if free == 0 else ILLEGAL
    buffer = 1 << item
    if kind == GET:
        return free - buffer if free & buffer else ILLEGAL
    if kind == PUT:
        return ILLEGAL if free & buffer else free | buffer
    return free if kind == REFUSED and free & buffer else ILLEGAL


def queue_of(items):
    """Return the state of a `fifo` that holds `items`, the oldest first."""
    return sum((item + 1) << 8 * k for k, item in enumerate(items))


def set_of(buffers):
    """Return the state of a `free_set` in which `buffers` are free."""
    return sum(1 << buffer for buffer in buffers)


# ---- the checker -----------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    violation: str  # the operations around the response that nothing explains; empty if the history is linearizable
    states: list  # all in which the object may be afterwards, or was before the violation
    widest: int  # the most configurations that there were at a time


def check(history, step, capacity, states):
    """Return a `Verdict` on a history of an object that was in one of `states` when it began."""
    assert len(history) <= MOST_THREADS
    for log in history:
        assert (log[:, INVOKE] <= log[:, RESPONSE]).all() and (np.diff(log[:, INVOKE:], axis=0) >= 0).all()
    operations = np.concatenate(history)
    lengths = [len(log) for log in history]
    thread = np.repeat(np.arange(len(history)), lengths)
    first = np.cumsum([0, *lengths[:-1]])
    n = len(operations)
    # At the same stamp invocations come first, which makes the operations concurrent; the sort is stable.
    stamps = np.concatenate([operations[:, INVOKE], operations[:, RESPONSE]])
    events = np.lexsort([np.arange(2 * n) >= n, stamps])
    row, states, widest = sweep(step, capacity, np.array(states, np.int64), operations, thread, first, events)
    violation = _story(operations, thread, row, states) if row >= 0 else ""
    return Verdict(violation, [int(state) for state in np.unique(states)], widest)


@njit(nogil=True)
def sweep(step, capacity, start, operations, thread, first, events):
    """Return the first row whose response nothing explains (-1: none), the states then, and the most configurations.

    Event e < n is the invocation of row e, event n + e its response; `first` is where each thread's rows begin.
    """
    n = len(operations)
    states = np.empty(_MOST_CONFIGURATIONS, np.int64)
    progress = np.zeros(_MOST_CONFIGURATIONS, np.int64)  # for each thread: how many pending operations took effect
    count = widest = len(start)
    states[:count] = start
    invoked, returned = first.copy(), first.copy()
    for event in events:
        who = thread[event % n]
        if event < n:
            invoked[who] += 1
            continue
        before, k = count, 0
        while k < count:
            if _done(progress[k], who) == 0:
                for other in range(len(first)):
                    row = returned[other] + _done(progress[k], other)
                    if row < invoked[other]:
                        after = step(states[k], operations[row, KIND], operations[row, ITEM], capacity)
                        if after != ILLEGAL:
                            count = _added(states, progress, count, after, progress[k] + (1 << _BITS * other))
            k += 1
        widest = max(widest, count)
        explained = 0
        for k in range(count):
            if _done(progress[k], who):
                states[explained] = states[k]
                progress[explained] = progress[k] - (1 << _BITS * who)
                explained += 1
        if explained == 0:
            return event - n, states[:before].copy(), widest
        count = explained
        returned[who] += 1
    return -1, states[:count].copy(), widest


@njit
def _done(progress, thread):
    return progress >> _BITS * thread & _MASK


@njit
def _added(states, progress, count, state, done):
    """Add a configuration unless it is there: how many there are."""
    for k in range(count):
        if states[k] == state and progress[k] == done:
            return count
    if count == len(states):
        raise RuntimeError("more configurations than there is room for")
    states[count], progress[count] = state, done
    return count + 1


def _story(operations, thread, row, states):
    """Tell of the operations that ended last before the response of `row`, and of those that still ran."""
    now = operations[row, RESPONSE]
    begun = np.flatnonzero(operations[:, INVOKE] <= now)
    told = begun[np.argsort(operations[begun, RESPONSE], kind="stable")]
    running = int((operations[told, RESPONSE] > now).sum())
    told = told[-(_SHOWN + running) :]
    told = told[np.argsort(operations[told, INVOKE], kind="stable")]
    origin = operations[told, INVOKE].min()
    before = ", ".join(f"{state:#x}" for state in np.unique(states)[:8])
    lines = [f"nothing explains what the operation marked > returned; before it, the state was {before}; times in ns:"]
    for k in told:
        kind, item, invoke, response = operations[k].tolist()
        mark = ">" if k == row else " "
        lines.append(
            f"{mark} thread {thread[k]}  {invoke - origin:>8} .. {response - origin:>8}  {NAMES[kind]:<7} {item:>3}"
        )
    return "\n".join(lines)


def overlapped(history):
    """Return how many operations ran while another thread's did."""
    count = 0
    for me, log in enumerate(history):
        others = np.concatenate([other for who, other in enumerate(history) if who != me])
        begun = np.searchsorted(np.sort(others[:, INVOKE]), log[:, RESPONSE], "right")
        ended = np.searchsorted(np.sort(others[:, RESPONSE]), log[:, INVOKE], "left")
        count += int((begun > ended).sum())
    return count
