"""What the processes of the proofs do: own buffers by a stamp that says so, for as long as they are let live."""

import time

import numpy as np
from numba import njit

from iobuf_nb import atomics

OWNER, MESSAGE, SUM = range(3)  # the words of a buffer
WORDS = 16
GET, SEND, PARKED = range(3)  # what a victim does


@njit(nogil=True, cache=True)
def own(pool, index, me):
    """Stamp a buffer; return who had stamped it."""
    return atomics.swap(pool.value(index), OWNER, me)


@njit(nogil=True, cache=True)
def work(pool, me, dead, stop, seen):
    """Get, stamp, clear and put; count gets, and stamps of those who are not dead."""
    out = np.empty(2, np.int64)
    turn = 0
    while atomics.load(stop, 0) == 0:
        turn += 1
        if turn % 3 == 0:
            n = pool.get_many(out)
        else:
            out[0] = pool.try_get()
            n = np.int64(out[0] >= 0)
        for k in range(n):
            before = own(pool, out[k], me)
            seen[1] += before != 0 and atomics.load(dead, before) == 0
        atomics.pause(20)
        for k in range(n):
            seen[1] += atomics.compare_and_swap(pool.value(out[k]), OWNER, me, 0) == 0
        if turn % 3 == 0:
            pool.put_many(out[:n])
        else:
            for k in range(n):
                pool.put(out[k])
        seen[0] += n


@njit(nogil=True, cache=True)
def hand_on(channel, me, dead, stop, seen):
    """Receive, or get, stamp, clear and send."""
    pool = channel.pool
    while atomics.load(stop, 0) == 0:
        index = channel.try_receive()
        if index < 0:
            index = pool.try_get()
        if index >= 0:
            before = own(pool, index, me)
            seen[1] += before != 0 and atomics.load(dead, before) == 0
            atomics.pause(20)
            seen[1] += atomics.compare_and_swap(pool.value(index), OWNER, me, 0) == 0
            if not channel.try_send(index):
                pool.put(index)
            seen[0] += 1


def victim(pipe, what, channel, me, facts):
    """Work until killed."""
    pool, seen, stop, dead = channel.pool, np.zeros(2, np.int64), np.ones(1, np.int64), facts.value(0)
    function, source = (hand_on, channel) if what == SEND else (work, pool)
    function(source, me, dead, stop, seen)  # compiled
    stop[0] = 0
    pipe.send("ready")
    if what != PARKED:
        function(source, me, dead, stop, seen)
    while True:
        pool.put(pool.get())
        time.sleep(0.0002)


@njit(nogil=True, cache=True)
def fill(buffer, number):
    buffer[MESSAGE] = number
    total = np.int64(0)
    for k in range(SUM + 1, len(buffer)):
        buffer[k] = number * k
        total += buffer[k]
    buffer[SUM] = total


@njit(nogil=True, cache=True)
def is_whole(buffer):
    total = np.int64(0)
    for k in range(SUM + 1, len(buffer)):
        total += buffer[k]
    return total == buffer[SUM] and buffer[SUM + 1] == buffer[MESSAGE] * (SUM + 1)


@njit(nogil=True, cache=True)
def produce(channel, me, first, step, n):
    """Send numbered messages; return how many stamps were not as they should be."""
    wrong = 0
    for number in range(first, n, step):
        index = channel.pool.get(timeout=60.0)
        wrong += own(channel.pool, index, me) != 0
        fill(channel.pool.value(index), number)
        wrong += atomics.swap(channel.pool.value(index), OWNER, 0) != me
        channel.send(index)
    return wrong


@njit(nogil=True, cache=True)
def consume(channel, me, counts):
    """Receive and count messages, until one more than all comes; return how many were not as they should be."""
    wrong = 0
    while True:
        index = channel.receive()
        buffer = channel.pool.value(index)
        wrong += own(channel.pool, index, me) != 0
        number = buffer[MESSAGE]
        wrong += not is_whole(buffer)
        wrong += atomics.swap(buffer, OWNER, 0) != me
        channel.pool.put(index)
        if number == len(counts):
            return wrong
        counts[number] += 1


def producer(pipe, channel, me, first, step, n):
    """Send when told, and tell what was wrong."""
    produce(channel, me, 0, 1, 0)  # compiled
    pipe.send("ready")
    while pipe.recv():
        pipe.send(produce(channel, me, first, step, n))


def consumer(pipe, channel, me, n):
    """Receive when told, until message `n` comes, and tell what was wrong and how often each message came."""
    pipe.send("ready")
    while pipe.recv():
        counts = np.zeros(n, np.int64)
        pipe.send((consume(channel, me, counts), counts))
