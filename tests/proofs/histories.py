"""Histories of real threads: what they are told to do with an object, and how it is recorded."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from linearizability import (
    EMPTY,
    FULL,
    GET,
    INVOKE,
    ITEM,
    KIND,
    PUT,
    REFUSED,
    RESPONSE,
    queue_of,
    set_of,
)
from numba import njit
from numba.extending import register_jitable

from iobuf_nb import atomics
from iobuf_nb._threads.clock import now_ns
from iobuf_nb._threads.parking import SPIN_TURNS, spin

in_kernel = njit(nogil=True)


# States of new objects.
def nothing(capacity):
    return queue_of([])


def all_free(capacity):
    return set_of(range(capacity))


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
    out, items = np.empty(MANY, np.int64), np.empty(MANY, np.int64)
    row = used = 0
    for k in range(len(plan)):
        if k % window == 0:
            meet(words, threads)
        action = plan[k] & SHUT
        for j in range(MANY):
            items[j] = me * 40 + (used + j) % 40  # unique among those in the queue
        begin(plan[k], log, row)
        after = row
        if action in (TRY_PUT, WAIT_PUT, PUT_MANY):
            asked = MANY if action == PUT_MANY else 1
            if action == PUT_MANY:
                done = queue.put_many(items)
            else:
                done = int(queue.try_put(items[0]) if action == TRY_PUT else put_within(WAIT_S, queue, items[0]))
            for j in range(done):
                after = write(log, after, PUT, items[j])
            if done < asked:
                after = write(log, after, FULL, items[done])
            used += asked
        else:
            asked = MANY if action == GET_MANY else 1
            if action == GET_MANY:
                done = queue.get_many(out)
            else:
                out[0] = queue.try_get() if action == TRY_GET else get_within(WAIT_S, queue)
                done = int(out[0] >= 0)
            for j in range(done):
                after = write(log, after, GET, out[j])
            if done < asked:
                after = write(log, after, EMPTY, -1)
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
    [TRY_GET] * 8 + [WAIT_GET, GET_MANY] + [TRY_PUT] * 5,
    [TRY_PUT] * 8 + [WAIT_PUT, PUT_MANY] + [TRY_GET] * 5,
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
