"""The programs that are checked: queues, pools, waiting and closing, small enough to walk through every state.

A script says what one thread does, a letter for each operation. The order of the cases is from the cheapest kind of
memory to the dearest, so that the first case which catches a bug tells what it takes to see it.
"""

import itertools
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

import numpy as np

from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb._free import deque, free_list, waiting
from iobuf_nb._free.queue import HEAD, SLOTS, TAIL
from iobuf_nb._jit.instructions import wrap
from iobuf_nb._threads.outcomes import CLOSED
from iobuf_nb.atomics import load, store

from . import scheduler
from .memories import SC, TSO, Relaxed
from .specs import Spec, closing_fifo, fifo, pool


@dataclass
class Case:
    name: str
    make: Callable  # makes the arguments of `explore`: a program, its spec, its check, perhaps options
    options: dict = field(default_factory=dict)
    walk: Callable = scheduler.explore
    everyday: int | None = None  # preemptions, if there are so many states that all are walked with `-m long` only
    #: (module, name, value): what is large is small during the walk, the slots of a deque and how often a thread tries
    #: before it waits. Nothing else is stood in for: what other threads and time decide comes through the seam.
    sizes = (deque, "DEQUE_CAPACITY", 2), (free_list, "LOOKS", 1), (waiting, "SPIN_TURNS", 0)

    @contextmanager
    def applied(self):
        """Make what is large small."""
        with ExitStack() as stack:
            for module, name, size in self.sizes:
                stack.enter_context(patch.object(module, name, size))
            yield

    def run(self):
        """Walk through the case."""
        with self.applied():
            program, spec, check, *more = self.make()
            return self.walk(program, spec, check, **self.options, **(more[0] if more else {}))

    def of_every_day(self):
        """Return the case with those of its schedules that are walked every day."""
        bound = {} if self.everyday is None else {"preemptions": self.everyday}
        return type(self)(self.name, self.make, self.options | bound, self.walk)

    def unbounded(self, most):
        """Return the case with all its schedules, of which the walk takes in those that lead to `most` states."""
        options = {name: self.options[name] for name in ("memory", "deaths", "risings") if name in self.options}
        return type(self)(f"{self.name}, unbounded", self.make, {**options, "most": most})


def get(source):
    def operation(got):
        index = source.try_get()
        if index >= 0:
            got.append(index)
        return index

    return "G", operation


def put_back(source):
    return "P", lambda got: source.try_put(got.pop(0)) if got else None


def get_two(source):
    def operation(got):
        out = np.zeros(2, np.int64)
        n = source.get_many(out)
        got.extend(out[:n].tolist())
        return n

    return "B", operation


def put_all(source):
    def operation(got):
        n = len(got)
        source.put_many(np.array(got, np.int64))
        got.clear()
        return -n

    return "D", operation


def put(queue, item):
    return f"P{item}", lambda got: queue.try_put(item)


def written(scripts, code):
    """Return the operations that scripts stand for."""
    return [[code[letter] for letter in script] for script in scripts]


def queue_case(capacity, scripts, full=False, position=0, deaths=0):
    """G gets, P puts the oldest that the thread got, a digit puts itself; everything from a position far on."""

    def program():
        queue = BoundedQueue(capacity, None if full else 3)
        start_at(queue, position)
        if full:
            for item in range(capacity):
                queue.try_put(item)
        queues.append(queue)
        code = {"G": get(queue), "P": put_back(queue), **{str(item): put(queue, item) for item in range(3)}}
        return [queue._words], written(scripts, code)

    def check(results):
        put = sum(result is True for name, result in itertools.chain(*results) if name[0] == "P")
        taken = sum(result >= 0 for name, result in itertools.chain(*results) if name == "G")
        assert abs(queues[-1].was_size() - (capacity * full + put - taken)) <= deaths, "the size is wrong"

    queues = []
    return program, Spec(tuple(range(capacity)) if full else (), fifo(capacity)), check


def start_at(queue, position):
    """Let an empty queue begin at the first position of some lap."""
    queue._words[SLOTS:] = wrap(2 * position)
    queue._words[HEAD] = queue._words[TAIL] = wrap(position)


def pool_case(capacity, scripts, checked=True, stamps=False, deaths=0):
    """G gets, P puts the oldest that the thread got. With `stamps` each owner adds one to a word of its buffer."""

    def program():
        made = BufferPool(capacity, 1, checked=checked)
        data = np.zeros(capacity, np.int64)
        pools.append((made, data))

        def get_and_stamp(got):
            index = take(got)
            if index >= 0 and stamps:
                store(data, index, load(data, index, "relaxed") + 1, "relaxed")
            return index

        name, take = get(made)
        return [made._queue._words, made._owners, data], written(
            scripts, {"G": (name, get_and_stamp), "P": put_back(made)}
        )

    def check(results):
        made, data = pools[-1]
        results = list(itertools.chain(*results))
        taken = sum(result >= 0 for name, result in results if name == "G")
        out = taken - sum(result is True for name, result in results if name == "P")
        assert abs(made.available() - (capacity - out)) <= deaths, "a buffer was lost"
        assert abs(np.count_nonzero(made._owners) - out * checked) <= deaths, "the wrong buffers have owners"
        assert data.sum() == taken * stamps, "an owner did not see what the last one had written"

    pools = []
    return program, Spec(frozenset(range(capacity)), pool), check


def two_puts_case():
    """Two threads put the same buffer back."""

    class Pool(BufferPool):
        def __del__(self):
            """Say nothing of the buffer that is out when it starts."""

    def program():
        made = Pool(2, 1)
        index = made.get()
        pools.append(made)
        return [made._queue._words, made._owners, made._bulks], [
            [("P", lambda got: made.try_put(index))] for _ in range(2)
        ]

    def check(results):
        assert sorted(done for ((_, done),) in results) == [False, True], "both puts won, or none"
        assert pools[-1].available() == 2, "a buffer was lost or doubled"

    pools = []
    return program, None, check


def wait_case(capacity, scripts, first=()):
    """G waits for an item, a digit waits for room and puts itself, a letter of abc puts 0, 1 or 2 at once, C closes."""

    def program():
        queue = BoundedQueue(capacity, 3)
        for item in first:
            queue.put(item)
        queues.append(queue)
        code = {"G": ("G", lambda got: waiting.wait_to_get(queue, -1)), "C": ("C", lambda got: queue.close())}
        for item in range(3):
            code[str(item)] = f"P{item}", lambda got, item=item: waiting.wait_to_put(queue, item, -1)
            code["abc"[item]] = f"T{item}", lambda got, item=item: queue.try_put(item)
        return [queue._words], written(scripts, code)

    def check(results):
        ended = list(itertools.chain(*results))
        put = [int(name[1]) for name, result in ended if (name[0], result) in (("P", 0), ("T", True))]
        got = [result for name, result in ended if name == "G" and result >= 0]
        while (left := queues[-1].try_get()) >= 0:
            got.append(left)
        assert sorted(got) == sorted([*first, *put]), "an item was lost or doubled"
        for thread in results:
            after = itertools.dropwhile(lambda end: end[0] != "C", thread)
            assert all(result in (None, False, CLOSED) for name, result in after if name != "G"), "put after close"

    queues = []
    return program, Spec((tuple(first), False), closing_fifo(capacity)), check


def bulk_case(capacity, scripts):
    """G waits for a buffer, B gets up to two at once, P puts the oldest that the thread holds, D all that it holds."""

    def program():
        made = BufferPool(capacity, 1)
        pools.append(made)

        def wait_for_one(got):
            got.append(made.get())
            return 1

        code = {"G": ("G", wait_for_one), "B": get_two(made), "P": put_back(made), "D": put_all(made)}
        return [made._queue._words, made._owners, made._bulks], written(scripts, code)

    def check(results):
        made = pools[-1]
        out = sum(-(result is True) if name == "P" else result for name, result in itertools.chain(*results))
        assert np.count_nonzero(made._owners) == out, "the wrong buffers have owners"
        free = [made.try_get() for _ in range(capacity - out)]
        assert len({*free, -1}) == capacity - out + 1 and made.try_get() == -1, "a buffer was lost or doubled"

    pools = []
    return program, None, check


def case(kind, *arguments, memory=SC, walk=scheduler.explore, cls=Case, everyday=None, **more):
    """Name a case after what it is made of; options of the walk are told from arguments of the kind by their names."""
    of_walk = ("deaths", "risings", "preemptions", "alone", "runs", "depth", "seed", "plan")
    options = {name: more.pop(name) for name in of_walk if name in more}
    parts = [kind.__name__.removesuffix("_case"), *map(shown, arguments)]
    parts += [f"{name} {shown(value)}" for name, value in (*more.items(), *options.items()) if name != "plan"]
    parts += [memory.__name__] * (memory is not SC) + ["at random"] * (walk is scheduler.sample)
    more |= {name: value for name, value in options.items() if name == "deaths"}
    return cls(", ".join(parts), partial(kind, *arguments, **more), {"memory": memory, **options}, walk, everyday)


def shown(value):
    return " || ".join(value) if isinstance(value, tuple) and value and isinstance(value[0], str) else str(value)


DEATH = {"deaths": 1, "alone": 20}
BACK_AND_FORTH = [(1, ("GP", "GP")), (2, ("GGP", "GPP")), (2, ("GP", "GPGPGP"))]  # of a full queue
TO_AND_FRO = [  # of an empty one
    (1, ("00", "GG")),
    (1, ("0G0", "G0G")),
    (2, ("01", "GG")),
    (2, ("010", "GGG")),
    (2, ("01", "10")),
    (2, ("0", "1", "GG")),
    (3, ("0120", "GGGG")),
]
# Where words and positions change sign or start again, or outgrow half a word.
BOUNDARIES = [2**30, 2**31, 2**32, 2**61, 2**62, 2**63, 2**64]
POOLS = [(1, ("GP", "GP")), (2, ("GP", "GP")), (1, ("GPGP", "GP")), (2, ("GGPP", "GP"))]
WAITS = [(1, ("G", "0")), (1, ("1", "G"), (0,)), (1, ("GG", "01")), (2, ("G", "G", "b"), (0,))]
CLOSES = [(1, ("G", "C")), (1, ("1", "C"), (0,)), (1, ("GG", "aC")), (1, ("Ca", "1G"), (0,)), (2, ("G", "G", "C"))]
BULKS = [(2, ("BD", "G")), (3, ("BD", "B")), (2, ("BD", "G", "G"))]

#: Those that take a moment.
CASES = [
    *(case(queue_case, *arguments, full=True) for arguments in BACK_AND_FORTH),
    *(case(queue_case, *arguments) for arguments in TO_AND_FRO),
    *(case(queue_case, 1, ("0G1", "G1G"), position=at - 4) for at in BOUNDARIES),
    *(case(pool_case, *arguments, checked=checked) for checked in (True, False) for arguments in POOLS),
    case(two_puts_case),
    *(case(wait_case, *arguments) for arguments in (*WAITS, *CLOSES)),
    case(bulk_case, 1, ("GP", "GP")),
    case(bulk_case, 2, ("BD", "BP")),
    *(case(bulk_case, *arguments, preemptions=1) for arguments in BULKS),
    *(case(wait_case, *arguments, risings=1) for arguments in WAITS[:2]),
    *(case(queue_case, *arguments, full=True, **DEATH) for arguments in BACK_AND_FORTH[:2]),
    *(case(queue_case, *arguments, **DEATH) for arguments in TO_AND_FRO[:5]),
    *(case(pool_case, *arguments, **DEATH) for arguments in POOLS[:2]),
    *(case(queue_case, *arguments, full=True, memory=TSO) for arguments in BACK_AND_FORTH[:2]),
    *(case(queue_case, *arguments, memory=TSO) for arguments in TO_AND_FRO[:5]),
    *(case(pool_case, *arguments, memory=TSO) for arguments in POOLS[:3]),
    *(case(wait_case, *arguments, memory=TSO) for arguments in (*WAITS[:2], *CLOSES[:4])),
    *(case(queue_case, *arguments, full=True, memory=Relaxed) for arguments in BACK_AND_FORTH[:1]),
    *(case(queue_case, *arguments, memory=Relaxed) for arguments in TO_AND_FRO[:1]),
    *(case(pool_case, *arguments, stamps=True, memory=Relaxed) for arguments in POOLS[:1]),
    *(case(wait_case, *arguments, memory=Relaxed) for arguments in (*WAITS[:2], *CLOSES[:2])),
]
#: Those that take seconds, and where they would take more, only part of their schedules.
LARGE = [
    case(queue_case, 1, ("GPGP", "GPGP"), full=True),
    case(queue_case, 1, ("GP", "GPGPGP"), full=True),
    case(queue_case, 1, ("GP", "GP", "GP"), full=True),
    case(queue_case, 2, ("GPGP", "GPGP"), full=True),
    case(queue_case, 3, ("GPGP", "GGPP"), full=True),
    case(queue_case, 2, ("0G1", "1G0")),
    case(queue_case, 3, ("01", "20", "GG")),
    *(case(queue_case, 3, ("012G", "GG1G"), position=at - 4) for at in BOUNDARIES),
    case(wait_case, 1, ("12", "GGG"), (0,)),
    case(wait_case, 2, ("G", "G", "ab"), preemptions=3),
    case(wait_case, 1, ("0", "1", "GG"), everyday=4),
    case(wait_case, 2, ("0", "1", "GG"), (0, 1), preemptions=3),
    case(wait_case, 1, ("G", "G", "01"), preemptions=2),
    case(wait_case, 3, ("GG", "G", "abc"), preemptions=2),
    case(wait_case, 2, ("0", "G", "C")),
    case(bulk_case, 1, ("GPGP", "GP"), preemptions=3),
    *(case(bulk_case, *arguments) for arguments in BULKS[:2]),
    case(bulk_case, 2, ("BD", "G", "G"), preemptions=2),
    case(bulk_case, 2, ("BD", "BD"), memory=TSO),
    *(case(wait_case, *arguments, risings=1) for arguments in (*WAITS[2:], (1, ("12", "GGG"), (0,)))),
    case(queue_case, 2, ("GP", "GPGPGP"), full=True, **DEATH),
    *(case(queue_case, *arguments, **DEATH) for arguments in TO_AND_FRO[5:]),
    *(case(pool_case, *arguments, **DEATH) for arguments in POOLS[2:]),
    case(queue_case, 2, ("GP", "GPGPGP"), full=True, memory=TSO),
    case(queue_case, 1, ("GPGP", "GPGP"), full=True, memory=TSO),
    case(queue_case, 3, ("01", "20", "GG"), memory=TSO, everyday=3),
    case(queue_case, 2, ("0", "1", "GG"), memory=TSO, **DEATH),
    case(pool_case, 2, ("GGPP", "GP"), memory=TSO),
    *(case(wait_case, *arguments, memory=TSO) for arguments in (*WAITS[2:], (1, ("12", "GGG"), (0,)))),
    case(queue_case, 2, ("GGP", "GPP"), full=True, memory=Relaxed),
    case(queue_case, 2, ("GP", "GPGPGP"), full=True, memory=Relaxed, preemptions=3),
    *(case(queue_case, *arguments, memory=Relaxed) for arguments in TO_AND_FRO[1:5]),
    *(case(pool_case, *arguments, stamps=True, memory=Relaxed) for arguments in POOLS[1:3]),
    case(pool_case, 2, ("GGPP", "GP"), stamps=True, memory=Relaxed, preemptions=3),
    *(case(wait_case, *arguments, memory=Relaxed, preemptions=3) for arguments in (WAITS[2], *CLOSES[2:4])),
    *(
        case(kind, *arguments, memory=memory, walk=scheduler.sample, runs=100, depth=depth, seed=2)
        for memory, depth in ((TSO, 3), (Relaxed, 5))
        for kind, *arguments in (
            (queue_case, 3, ("01201", "GG0GG", "G21G0")),
            (pool_case, 3, ("GGPGPP", "GPGPGP", "GPGGPP")),
            (wait_case, 2, ("012", "GGG", "1G0", "2G")),
        )
    ),
]
