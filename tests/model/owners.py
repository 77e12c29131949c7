"""Programs in which buffers are put that others put, too, one by one and in bulk; in the form of `cases`."""

import numpy as np

from iobuf_nb import BufferPool
from iobuf_nb._free.owners import FREE

from .cases import case, written
from .memories import SC, TSO, Relaxed
from .specs import Spec
from .specs import owners as owned


class Pool(BufferPool):
    def __del__(self):
        """Say nothing of the buffers that are out when it starts."""


def owners_case(out, scripts, deaths=0):
    """A pool of three, of which the first `out` are out. A script names operations: P2 puts 2, M01 puts 0 and 1, G."""

    def program():
        made = Pool(3, 1)
        for _ in range(out):
            made.get()
        pools.append(made)
        operations = {"G": lambda got: made.try_get()}
        for name in {name for script in scripts for name in script.split()} - {"G"}:
            indices = np.array([int(digit) for digit in name[1:]])
            operations[name] = (
                (lambda got, index=int(indices[0]): made.try_put(index))
                if name[0] == "P"
                else (lambda got, indices=indices: made._give_many(indices, len(indices)))
            )
        code = {name: (name, operation) for name, operation in operations.items()}
        return [made._queue._words, made._owners, made._bulks], written([script.split() for script in scripts], code)

    def check(results):
        assert deaths or (pools[-1]._owners >= FREE).all(), "a mark was left"

    pools = []
    return program, Spec(frozenset(range(out)), owned), check


BESIDE = [
    (2, ("M02", "P0")),  # refused, and refuses nobody
    (2, ("M20", "P0")),
    (2, ("M01", "P0")),
    (2, ("M01", "P1")),
    (1, ("M00", "P0")),
    (2, ("M02", "P0 G P0")),
    (2, ("M02", "G P2")),
    (2, ("M02", "P1", "P0")),
    (2, ("M02", "M02")),
]
#: Two of one buffer overrule each other, as often as one begins between the other's marks and its decision.
CLASHES = [(2, ("M01", "M01")), (2, ("M01", "M10")), (3, ("M01", "M12")), (3, ("M012", "P0", "P2"))]

CASES = [
    *(case(owners_case, *arguments, memory=memory) for memory in (SC, TSO) for arguments in BESIDE[:6]),
    case(owners_case, *BESIDE[6]),  # who puts what it did not get has no part in the order of the one who got it
    *(case(owners_case, *arguments, deaths=1, alone=60) for arguments in BESIDE[:4]),
    *(case(owners_case, *arguments, preemptions=2) for arguments in CLASHES),
]
LARGE = [
    *(case(owners_case, *arguments, preemptions=3) for arguments in (*BESIDE[7:], *CLASHES)),
    *(case(owners_case, *arguments, memory=Relaxed, preemptions=3) for arguments in BESIDE[:4]),
]
