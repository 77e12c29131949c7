"""Programs in which coroutines wait beside threads; the eventfd of their loops is one more word. As in `cases`."""

import itertools
from functools import partial

from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb._free import handover, waiting
from iobuf_nb._free.deque import COUNT
from iobuf_nb._free.handover import ask, ask_again, take_handed, take_request_back
from iobuf_nb._free.queue import ELSEWHERE, GET_FD, GETTERS, HANDED, REQUESTS, STALE, TURNS
from iobuf_nb._threads.clock import FOREVER_NS
from iobuf_nb._threads.parking import ALL_WAITERS, park, wake
from iobuf_nb.atomics import fetch_add, load

from .cases import Case, case, get, put_back, written
from .memories import TSO, Relaxed
from .specs import Spec
from .specs import pool as free_list

HEARD = GETTERS + 15  # stands for the eventfd
LOOPS = []  # the words in which it stands, by the number of the eventfd


def notify_eventfd(fd):
    """Count up the word of a loop, and wake it: an eventfd is beyond the seam."""
    fetch_add(LOOPS[fd], HEARD, 1, "seq_cst")
    wake(LOOPS[fd], HEARD, ALL_WAITERS, False)


def look(pool, got):
    index = take_handed(pool._queue)
    if index < 0:
        index = pool.try_get()
        if index < 0:
            return index
        take_request_back(pool._queue)
    got.append(index)
    return index


def await_one(pool):
    def operation(got):
        ask(pool._queue)
        while True:
            seen = load(pool._queue._words, HEARD, "seq_cst")
            index = look(pool, got)
            if index >= 0:
                return index
            ask_again(pool._queue)
            park(pool._queue._words, HEARD, seen, FOREVER_NS, False)

    return "G", operation  # it is a get whose answer is never EMPTY


def ask_and_leave(pool):
    def operation(got):
        ask(pool._queue)
        index = look(pool, got)
        if index < 0:
            take_request_back(pool._queue)
        return index

    return "G", operation


def wait(pool):
    def operation(got):
        got.append(pool.get())
        return got[-1]

    return "G", operation


def coroutine_case(capacity, turns, scripts):
    """All buffers are out. A awaits one, L asks and leaves if it finds none; W waits as a thread, G gets,
    P puts what the thread got, 0 puts 0 ...

    `turns` puts came before.
    """

    def program():
        made = BufferPool(capacity, 1, checked=False)
        handed = BoundedQueue(capacity)
        made._queue._words[[HANDED, TURNS, GET_FD]] = handed._address, turns, 1 + len(LOOPS)
        LOOPS.append(made._queue._words)
        made._deques[COUNT] = made._queue._words[ELSEWHERE] = 1
        for _ in range(capacity):
            made.get()
        pools.append((made, handed))
        code = {"A": await_one(made), "L": ask_and_leave(made), "W": wait(made), "G": get(made), "P": put_back(made)}
        for index in range(capacity):
            code[str(index)] = f"P{index}", lambda got, index=index: made.try_put(index)
        return [made._queue._words, made._deques, handed._words], written(scripts, code)

    def check(results):
        made, handed = pools[-1]
        results = list(itertools.chain(*results))
        put = sum(result is True for name, result in results if name[0] == "P")
        out = sum(result >= 0 for name, result in results if name == "G")
        assert made.available() + handed.was_size() == put - out, "a buffer was lost or doubled"
        waiting = handed.was_size() + made._queue._words[REQUESTS] + made._queue._words[STALE]
        assert waiting == made._queue._words[GETTERS] == 0, "a coroutine is counted that does not wait"

    pools = []
    explained = "L" not in "".join(scripts)  # who leaves may hold a buffer for a moment, and put it back
    return program, Spec(frozenset(), free_list) if explained else None, check


class CoroutineCase(Case):
    sizes = (*Case.sizes, (waiting, "notify_eventfd", notify_eventfd))


class StaleCase(CoroutineCase):
    """Whatever was handed over is anybody's at once."""

    sizes = (*CoroutineCase.sizes, (handover, "STALE_NS", 0))


made = partial(case, cls=CoroutineCase)
PAIRS = [
    (1, 0, ("A", "0")),
    (1, 1, ("A", "0")),
    (1, 1, ("A", "0GP")),
    (1, 0, ("L", "0GP")),
    (1, 1, ("L", "0GP")),
    (1, 1, ("LPA", "0")),
    (2, 1, ("A", "01")),
    (2, 0, ("APL", "01")),
]
THREES = [
    (1, 1, ("LP", "0", "W")),
    (1, 1, ("LP", "0", "A")),
    (2, 1, ("A", "0", "1")),
    (2, 1, ("A", "01", "W")),
    (2, 0, ("A", "A", "01")),
    (2, 1, ("LP", "0", "1GP")),
]
stale = partial(case, cls=StaleCase)
CASES = [
    *(made(coroutine_case, *arguments) for arguments in (*PAIRS[:2], *PAIRS[3:])),
    made(coroutine_case, *PAIRS[2], everyday=3),
    *(made(coroutine_case, *arguments, memory=TSO, preemptions=3) for arguments in PAIRS),
    *(stale(coroutine_case, *arguments, preemptions=3) for arguments in PAIRS[2:6]),
    *(made(coroutine_case, *arguments, preemptions=2) for arguments in THREES),
]
LARGE = [
    *(made(coroutine_case, *arguments, memory=TSO, preemptions=1) for arguments in THREES),
    *(made(coroutine_case, *arguments, memory=Relaxed, preemptions=2) for arguments in PAIRS),
    stale(coroutine_case, 1, 1, ("A", "0GP"), everyday=1),
]
