"""What a shared word may read: three machines, from the strictest to the weakest.

`SC`       sequentially consistent: every access reads the last value stored.
`TSO`      x86 (Sewell et al., "x86-TSO", 2010): a store that is not seq_cst waits in its thread's first-in first-out
           buffer, where only that thread sees it, until it is drained; a full fence, a read-modify-write, a seq_cst
           store and a system call drain the buffer of their own thread first, `heavy_fence` those of all threads.

A machine's state is a hashable value. `perform` makes one access of a thread and returns every (result, state) that
may come of it; `drains` are the moves that the machine makes by itself.
"""

from typing import NamedTuple

from iobuf_nb.atomics import AFTER, wrap

FENCES = ("fence", "light_fence", "heavy_fence")


class Access(NamedTuple):
    operation: str
    word: int  # its number among the words that are written; -1 for fences
    order: str
    operands: tuple


def outcome(access, old):
    """Return what a read-modify-write or a plain access reads, and what its word holds afterwards."""
    result = old == access.operands[0] if access.operation == "compare_and_swap" else old
    return result, wrap(AFTER[access.operation](old, *access.operands))


class SC:
    """Memory is a tuple of values."""

    def __init__(self, threads):
        self.threads = threads

    def ignores(self, operation, order):
        """Say whether a fence does nothing here."""
        return True

    def start(self, values):
        return values

    def values(self, memory):
        """Return what the words hold once everything has come to rest."""
        return memory

    def synchronized(self, memory, thread):
        """Return the memory after a full fence of a thread."""
        return memory

    def perform(self, memory, thread, access):
        word = access.word
        result, new = outcome(access, memory[word])
        return [(result, memory if access.operation == "load" else (*memory[:word], new, *memory[word + 1 :]))]

    def drains(self, memory):
        return ()


class TSO(SC):
    """Memory is (values, for each thread a buffer of (word, value), the oldest first)."""

    def ignores(self, operation, order):
        return operation == "light_fence" or (operation == "fence" and order != "seq_cst")

    def start(self, values):
        return values, ((),) * self.threads

    def values(self, memory):
        return memory[0]

    def drained(self, memory, thread, count):
        values, buffers = list(memory[0]), list(memory[1])
        for word, value in buffers[thread][:count]:
            values[word] = value
        buffers[thread] = buffers[thread][count:]
        return tuple(values), tuple(buffers)

    def synchronized(self, memory, thread):
        return self.drained(memory, thread, len(memory[1][thread]))

    def perform(self, memory, thread, access):
        operation, word, order, operands = access
        if operation == "heavy_fence":
            for other in range(self.threads):
                memory = self.synchronized(memory, other)
            return [(None, memory)]
        values, buffers = memory
        own = buffers[thread]
        if operation == "load":
            return [(next((value for where, value in reversed(own) if where == word), values[word]), memory)]
        if operation == "store" and order != "seq_cst":
            own = (*own, (word, wrap(operands[0])))
            return [(None, (values, (*buffers[:thread], own, *buffers[thread + 1 :])))]
        values, buffers = self.synchronized(memory, thread)
        if operation == "fence":
            return [(None, (values, buffers))]
        return [(result, (after, buffers)) for result, after in super().perform(values, thread, access)]

    def drains(self, memory):
        """Yield (thread, memory) for each buffer that can drain one entry."""
        for thread, buffer in enumerate(memory[1]):
            if buffer:
                yield thread, self.drained(memory, thread, 1)
