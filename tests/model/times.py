"""Programs with time limits, and a clock that one of the threads moves on; in the form of `cases`."""

import itertools
from functools import partial

import numpy as np

from iobuf_nb import BoundedQueue
from iobuf_nb._free import waiting
from iobuf_nb._threads.outcomes import EMPTY
from iobuf_nb.atomics import fetch_add, load

from .cases import case, put_back, written
from .memories import TSO
from .specs import Spec, closing_fifo

clock = np.zeros(1, np.int64)


def get_within(queue, ticks, got):
    item = waiting.wait_to_get(queue, ticks)
    if item >= 0:
        got.append(item)
    return item


def now():
    return load(clock, 0, "seq_cst")


def timed_case(capacity, scripts):
    """G waits for an item, X for a tick of the clock at most, + moves the clock on; P puts what X got, a puts 0."""

    def program():
        queue = BoundedQueue(capacity, 3)
        queues.append(queue)
        code = {
            "G": ("G", lambda got: waiting.wait_to_get(queue, -1)),
            "X": ("X", lambda got: get_within(queue, 1, got)),
            "P": put_back(queue),
            "+": ("+", lambda got: fetch_add(clock, 0, 1, "seq_cst")),
        }
        for item in range(3):
            code["abc"[item]] = f"T{item}", lambda got, item=item: queue.try_put(item)
        return [queue._words, clock], written(scripts, code)

    def check(results):
        ended = list(itertools.chain(*results))
        put = sum(result is True for name, result in ended if name[0] in "TP")
        got = sum(result >= 0 for name, result in ended if name in "GX")
        assert queues[-1].was_size() == put - got, "an item was lost or doubled"

    def steps(model, name, got):
        if name == "+":
            yield from ((tick, model) for tick in range(3))
        elif name == "P":
            yield True, ((*model[0], got[0]), model[1])
        elif name == "X" and not model[0]:
            yield EMPTY, model
        else:
            yield from closing_fifo(capacity)(model, "G" if name == "X" else name, got)

    queues = []
    return program, Spec(((), False), steps), check, {"clock": now}


made = partial(case, risings=1)
CASES = [
    made(timed_case, 1, ("X", "a+")),
    made(timed_case, 1, ("X", "+a")),
    made(timed_case, 1, ("XP", "G", "a+"), preemptions=2),
    made(timed_case, 2, ("X", "G", "a+b"), preemptions=2),
    made(timed_case, 2, ("X", "G", "+ab"), preemptions=2),
]
LARGE = [made(timed_case, 1, ("X", "a+"), memory=TSO), made(timed_case, 2, ("X", "G", "a+b"), everyday=1)]
