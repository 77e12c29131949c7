"""Programs of single and bulk calls beside a depot of one or two slots, chunks of two; in the form of `cases`."""

import itertools
from unittest.mock import patch

import numpy as np

from iobuf_nb import BufferPool
from iobuf_nb._free import depot, handover
from iobuf_nb._free.depot import COUNT_BITS, HEAD, ORDER, SLOTS, TAIL
from iobuf_nb._free.queue import ELSEWHERE
from iobuf_nb._jit.instructions import wrap
from iobuf_nb.atomics import load, store

from . import cases
from .cases import DEATH, case, get_two, put_all, put_back, written
from .memories import TSO, Relaxed
from .specs import Spec, pool


class Case(cases.Case):
    sizes = (*cases.Case.sizes, (depot, "CHUNK", 2), (depot, "LEAST", 1), (handover, "LEAST", 1))


def depot_case(capacity, scripts, held=(), chunked=(), order=0, lap=0, used=False, stamps=False, deaths=0):
    """Each thread begins with as many buffers as `held` says; chunks of so many as `chunked` says are in the depot.

    G gets a buffer, H gets one by a bulk call, W waits for one; P puts the oldest that the thread holds, Q puts it by a
    bulk call. B gets up to two at once, D puts all that the thread holds at once. All positions begin in `lap`; a depot
    that is empty at first may have been `used`.
    """

    def program():
        with patch.object(depot, "order_for", lambda capacity: order):
            made = BufferPool(capacity, 1, checked=False)
        start_in(made._depot, lap)
        made._queue._words[ELSEWHERE] = used
        own = [[made.try_get() for _ in range(n)] for n in held]
        for out in [[made.try_get() for _ in range(n)] for n in chunked]:
            made.put_many(np.array(out))
        data = np.zeros(capacity, np.int64)
        pools[:] = [made, data]

        def stamped(operation):
            def get(got):
                before = len(got)
                result = operation(got)
                for index in got[before:] if stamps else ():
                    store(data, index, load(data, index, "relaxed") + 1, "relaxed")
                return result

            return get

        def get_by_bulk(got):
            out = np.zeros(1, np.int64)
            if made.get_many(out) == 0:
                return -1
            got.append(int(out[0]))
            return got[-1]

        def wait(got):
            got.append(made.get())
            return got[-1]

        code = {
            "G": ("G", stamped(cases.get(made)[1])),
            "H": ("G", stamped(get_by_bulk)),
            "W": ("G", stamped(wait)),
            "P": put_back(made),
            "Q": ("P", lambda got: made.put_many(np.array([got.pop(0)])) is None if got else None),
            "B": ("B", stamped(get_two(made)[1])),
            "D": put_all(made),
        }
        own.extend([] for _ in scripts[len(own) :])
        begin = [("has", lambda got, mine=mine: got.extend(mine)) for mine in own]
        end = ("holds", tuple)
        programs = [[first, *rest, end] for first, rest in zip(begin, written(scripts, code), strict=True)]
        return [made._queue._words, made._depot, data], programs

    def check(results):
        made, data = pools
        ended = list(itertools.chain(*results))
        taken = sum(result >= 0 if name == "G" else result for name, result in ended if name in "GB")
        found = [index for name, result in ended if name == "holds" for index in result]
        while (index := made.try_get()) >= 0:
            found.append(index)
        assert len(set(found)) == len(found), "a buffer was doubled"
        assert len(found) == capacity or deaths, "a buffer was lost"
        assert not lap or made._depot[TAIL] > lap << order, "no chunk was put"
        assert data.sum() == taken * stamps or deaths, "an owner did not see what the last one had written"

    pools = []
    exact = not set("BD") & set("".join(scripts))
    in_pool = frozenset(range(sum(held), capacity))
    return program, Spec(in_pool, steps) if exact else None, check


def steps(free, name, got):
    """As `pool`; a thread that names what it has, or has nothing to put, changes nothing."""
    if name in ("has", "holds") or (name == "P" and not got):
        yield got if name == "holds" else None, free
    else:
        yield from pool(free, name, got)


def start_in(words, lap):
    """Let an empty depot begin in some lap."""
    order = int(words[ORDER])
    slots = words[SLOTS : SLOTS + (1 << order)]
    slots[:] = [wrap(int(word) + (2 * lap << (COUNT_BITS + order + 1))) for word in slots]
    words[HEAD] = words[TAIL] = wrap(lap << order)


def of_depot(*arguments, **more):
    return case(depot_case, *arguments, cls=Case, **more)


#: EMPTY beside puts by the chunk: what one thread puts another gets, and a third finds nothing at that moment.
EXACT = [
    (2, ("H", "G"), (0,), (2,)),
    (1, ("GQ", "GP")),
    (1, ("GP", "HQ")),
    (1, ("Q", "G"), (1,)),
    (2, ("Q", "G", "G"), (1,)),
    (2, ("QP", "G"), (2,)),
    (2, ("QG", "GQ"), (1,)),
    (2, ("Q", "H", "G"), (1,)),
    (2, ("G", "QHQ"), (0, 1), (1,)),
    (3, ("H", "QHQ"), (0, 1), (1,)),
    (2, ("G", "PG", "HQ"), (0, 1), (1,)),
]
BULK = [
    (2, ("BD", "BD")),
    (2, ("BD", "G")),
    (3, ("BD", "BD"), (), (2,)),
    (3, ("D", "B"), (2,)),
    (4, ("D", "D"), (2, 2)),
    (3, ("GG", "B"), (), (2,)),
]
AFTER_USE = [(1, ("GQ", "G")), (1, ("W", "Q"), (0, 1))]
WAITS = [(1, ("W", "Q"), (0, 1)), (2, ("W", "D"), (0, 2)), (2, ("W", "W", "D"), (0, 0, 2))]
LAPS = [2**n - 1 for n in (54, 55, 56, 57, 58, 62)]

CASES = [
    *(of_depot(*arguments) for arguments in (*EXACT, *BULK, *WAITS[:2])),
    *(of_depot(*arguments, order=1) for arguments in (*EXACT[:4], *BULK[:2], (2, ("H", "G"), (), (1, 1)))),
    *(of_depot(2, ("HQ", "GQ"), (), (1,), lap=lap) for lap in LAPS),
    *(of_depot(*arguments, **DEATH) for arguments in (*EXACT[:4], *BULK[:2])),
    *(of_depot(*arguments, memory=TSO) for arguments in (*EXACT[:4], BULK[3], *WAITS[:1])),
    *(of_depot(*arguments, stamps=True, memory=Relaxed) for arguments in (EXACT[1], EXACT[3])),
    *(of_depot(*arguments, memory=Relaxed) for arguments in (BULK[3], *WAITS[:1])),
    of_depot(*AFTER_USE[0], used=True, stamps=True, memory=Relaxed),
    of_depot(*AFTER_USE[1], used=True, memory=Relaxed),
]
LARGE = [
    of_depot(2, ("GQ", "HQ", "G"), preemptions=3),
    of_depot(*WAITS[2], everyday=3),
    of_depot(2, ("HQHQ", "GQ"), order=1),
    *(of_depot(*arguments, order=1, memory=TSO) for arguments in BULK[:3]),
    *(of_depot(*arguments, stamps=True, memory=Relaxed, preemptions=2) for arguments in (BULK[0], BULK[5])),
]
