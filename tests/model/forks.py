"""Programs that fork: in every state of the parent a child finds each buffer free or out; in the form of `cases`."""

import itertools

from iobuf_nb import BufferPool
from iobuf_nb._free import depot, handover
from iobuf_nb._free.deque import OWNER
from iobuf_nb._pools.fork import mend_pool

from . import cases
from .cases import case, get, get_two, put_all, put_back
from .memories import TSO

OPERATIONS = {"G": get, "P": put_back, "B": get_two, "D": put_all}


class Case(cases.Case):
    sizes = (
        *cases.Case.sizes,
        (depot, "order_for", lambda capacity: 0),
        (depot, "CHUNK", 2),
        (depot, "LEAST", 2),
        (handover, "LEAST", 2),
    )


class Pool(BufferPool):
    def __del__(self):
        """Say nothing of the buffers that are out when it starts."""


def fork_case(capacity, held, scripts):
    """As `magazine_case`, over a checked pool; `held` None: without magazines. Whoever is between two operations forks.

    Every one of the child's buffers can be put, or is free, and then all are.
    """

    def program():
        made = Pool(capacity, 1)
        sources = [made] * len(scripts)
        if held is not None:
            sources = [made.magazine(2) for _ in scripts]
            for magazine, n in zip(sources, held, strict=True):
                for index in [made.get() for _ in range(n)]:
                    magazine.put(index)
                magazine.release()
        pools.append((made, sources))
        programs = [
            [OPERATIONS[letter.upper()](source if letter.isupper() else made) for letter in script]
            for source, script in zip(sources, scripts, strict=True)
        ]
        return [made._queue._words, made._owners, made._bulks, made._deques, made._depot], programs

    def forked():
        made, sources = pools[-1]
        mend_pool(made)
        assert made._depot[depot.seat_at(0, 0)], "a seat has no chunk"
        out = list(made.holders())
        assert made.available() == capacity - len(out), "a buffer is neither free nor out"
        assert all(made.try_put(index) for index in out), "a buffer that is out cannot be put"
        got = [made.try_get() for _ in range(capacity)]
        assert sorted(got) == list(range(capacity)), "a buffer vanished"
        for index, source in zip(got, itertools.cycle(sources)):
            if held is not None:
                made._deques[source._base + OWNER] = 0  # as the next magazine there does
            source.put(index)
        assert sorted(made.try_get() for _ in got) == list(range(capacity)), "a buffer vanished in a magazine"

    pools = []
    return program, None, None, {"forked": forked}


SCRIPTS = [
    (2, None, ("GP", "GP")),
    (2, None, ("BD", "GP")),
    (3, None, ("GP", "BD")),
    (1, (1, 0), ("GP", "G")),
    (2, (2, 0), ("GPG", "G")),
    (2, (1, 1), ("GP", "gP")),
    (2, (2, 0), ("BD", "GP")),
    (2, (1, 0), ("GGP", "g")),
]
CASES = [case(fork_case, *arguments, cls=Case) for arguments in SCRIPTS]
LARGE = [case(fork_case, *arguments, cls=Case, memory=TSO) for arguments in SCRIPTS[:5]]
