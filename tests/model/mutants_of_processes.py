"""Deliberate bugs in what processes share; in the form of `mutants`."""

from iobuf_nb._free import free_list, processes, waiting
from iobuf_nb._memory.process_slots import ProcessSlot

from .processes import CASES

SWAP = r"compare_and_swap\((.*?), \w+, (\w+)\)"
BY_STORE = r"store(\1, \2) is None"

BUGS = [
    (
        CASES,
        [
            # The naive protocol: a get records the owner and does not look.
            ("a get takes what it finds in the queue", processes.own_shared, r"compare_and_swap\((.*), FREE, ", r"store(\1, "),
        ],
    ),
]
