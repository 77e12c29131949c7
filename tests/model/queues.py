"""Programs over queues of values, and over bulk calls of queues whose other threads wait; in the form of `cases`."""

import functools
import itertools

import numpy as np

from iobuf_nb import BoundedQueue
from iobuf_nb._free.queue import PROCESS, SHARED, get_item
from iobuf_nb._free.values import wait_to_get_value, wait_to_put_value
from iobuf_nb._free.waiting import wait_to_get, wait_to_put
from iobuf_nb._threads.outcomes import CLOSED, OK

from .cases import DEATH, case, written
from .memories import TSO, Relaxed
from .specs import Spec, closing_fifo, fifo

PAIR = np.dtype([("one", "i8"), ("other", "i8")])  # both are the item, or it was torn


def whole(value):
    return int(value["one"]) if value["one"] == value["other"] else f"torn: {value}"


def value_queue(capacity, first=()):
    queue = BoundedQueue(capacity, dtype=PAIR)
    for item in first:
        queue.put((item, item))
    return queue, [queue._free._words, queue._full._words, queue._cells]


def every_cell(queue, deaths=0):
    """Assert that each cell is free or full, but for as many as threads that died; return the values that are left."""
    cells = [list(iter(functools.partial(get_item, each), -1)) for each in (queue._full, queue._free)]
    known = list(itertools.chain(*cells))
    assert len(set(known)) == len(known) >= queue.capacity - deaths, "a cell was lost or doubled"
    values = queue._values_in(queue._cells)
    return [whole(values[cell]) for cell in cells[0]]


def nothing_after_close(results):
    for thread in results:
        after = itertools.dropwhile(lambda end: end[0] != "C", thread)
        assert all(result in (None, 0, CLOSED) for name, result in after if name != "G"), "put after close"


def value_case(capacity, scripts, deaths=0):
    """G gets, a digit puts itself; neither waits."""

    def program():
        queue, words = value_queue(capacity)
        queues.append(queue)

        def get(got):
            out = np.zeros(1, PAIR)
            return whole(out[0]) if queue.try_get_into(out) else -1

        code = {"G": ("G", get)}
        for item in range(3):
            code[str(item)] = f"P{item}", lambda got, item=item: queue.try_put((item, item))
        return words, written(scripts, code)

    def check(results):
        left = every_cell(queues[-1], deaths)
        put = sum(result is True for name, result in itertools.chain(*results) if name[0] == "P")
        got = sum(result != -1 for name, result in itertools.chain(*results) if name == "G")
        assert abs(len(left) - (put - got)) <= deaths, "a value was lost or doubled"

    queues = []
    return program, Spec((), fifo(capacity, len(scripts) - 1)), check


def value_wait_case(capacity, scripts, first=()):
    """G waits for a value, a digit waits for room and puts itself, a letter of abc puts 0, 1 or 2 at once, C closes."""

    def program():
        queue, words = value_queue(capacity, first)
        queues.append(queue)

        def get(got):
            room, values = queue._room(1)
            status = wait_to_get_value(queue, room, -1)
            return whole(values[0]) if status == OK else status

        def put(item):
            room, values = queue._room(1)
            values[0] = item, item
            return wait_to_put_value(queue, room, -1)

        code = {"G": ("G", get), "C": ("C", lambda got: queue.close())}
        for item in range(3):
            code[str(item)] = f"P{item}", lambda got, item=item: put(item)
            code["abc"[item]] = f"T{item}", lambda got, item=item: queue.try_put((item, item))
        return words, written(scripts, code)

    def check(results):
        ended = list(itertools.chain(*results))
        put = [int(name[1]) for name, result in ended if (name[0], result) in (("P", 0), ("T", True))]
        got = [result for name, result in ended if name == "G" and result != CLOSED]
        assert sorted([*got, *every_cell(queues[-1])]) == sorted([*first, *put]), "a value was lost or doubled"
        nothing_after_close(results)

    queues = []
    return program, Spec((tuple(first), False), closing_fifo(capacity, len(scripts) - 1)), check


def some_case(capacity, scripts, first=(), shared=False):
    """G waits for an item, B gets up to two at once; a digit waits for room and puts itself, D puts 0 and 1 at once.

    C closes.
    """

    def program():
        queue = BoundedQueue(capacity, 3)
        queue._words[PROCESS] = SHARED if shared else queue._words[PROCESS]
        for item in first:
            queue.put(item)
        queues.append(queue)

        def get_two(got):
            out = np.zeros(2, np.int64)
            return tuple(out[: queue.get_many(out)].tolist())

        code = {
            "G": ("G", lambda got: (wait_to_get(queue, -1),)),
            "B": ("G", get_two),
            "D": ("D", lambda got: queue.put_many(np.arange(2))),
            "C": ("C", lambda got: queue.close()),
        }
        for item in range(3):
            code[str(item)] = f"P{item}", lambda got, item=item: wait_to_put(queue, item, -1)
        return [queue._words], written(scripts, code)

    def check(results):
        ended = list(itertools.chain(*results))
        put = [int(name[1]) for name, result in ended if name[0] == "P" and result == OK]
        put += itertools.chain(*([0, 1][:n] for name, n in ended if name == "D"))
        got = [item for name, items in ended if name == "G" for item in items if item != CLOSED]
        left = list(iter(queues[-1].try_get, -1))
        assert sorted([*got, *left]) == sorted([*first, *put]), "an item was lost or doubled"
        if len(scripts) == 2:
            assert [*got, *left] == [*first, *put], "items are out of order"
        nothing_after_close(results)

    queues = []
    return program, None, check


VALUES = [
    (1, ("01", "GG")),
    (1, ("0G", "1G")),
    (2, ("01", "GG")),
    (2, ("012", "GG")),
]
WAITS = [
    (1, ("01", "GG")),
    (1, ("1", "G"), (0,)),
    (1, ("1", "C"), (0,)),
    (1, ("1", "GC"), (0,)),
    (1, ("GG", "aC")),
    (1, ("Ca", "G")),
]
SOME = [
    (2, ("D", "G", "G")),
    (2, ("0", "1", "B"), (0, 1)),
    (2, ("D", "B")),
    (2, ("DD", "GGB")),
    (1, ("D", "G")),
    (1, ("CD", "G")),
]
CASES = [
    *(case(value_case, *arguments) for arguments in VALUES),
    *(case(value_wait_case, *arguments) for arguments in WAITS),
    *(case(some_case, *arguments) for arguments in SOME),
    case(value_wait_case, 1, ("1", "2", "GC"), (0,), preemptions=1),
    *(case(some_case, *arguments, shared=True) for arguments in SOME[2:]),
    *(case(value_case, *arguments, **DEATH) for arguments in VALUES[:2]),
    *(case(value_case, *arguments, memory=TSO) for arguments in VALUES[:2]),
    *(case(value_case, *arguments, memory=Relaxed) for arguments in VALUES[:1]),
]
LARGE = [
    case(value_case, 2, ("0G", "1G", "G"), preemptions=2),
    case(value_case, 2, ("0G", "1G")),
    case(value_case, 2, ("0G", "1G"), preemptions=2, **DEATH),
    *(case(value_wait_case, *arguments, memory=TSO) for arguments in WAITS),
    *(case(value_wait_case, *arguments, risings=1) for arguments in WAITS[:3]),
    *(case(some_case, *arguments, shared=True, preemptions=2) for arguments in SOME[:2]),
    *(case(some_case, *arguments, memory=TSO, preemptions=2) for arguments in SOME[:3]),
    case(value_case, 1, ("0G", "1G"), memory=Relaxed),
    case(value_wait_case, 1, ("1", "GC"), (0,), memory=Relaxed, preemptions=3),
]
