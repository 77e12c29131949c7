"""What a shared word may read: three machines, from the strictest to the weakest.

`SC`       sequentially consistent: every access reads the last value stored.
`TSO`      x86 (Sewell et al., "x86-TSO", 2010): a store that is not seq_cst waits in its thread's first-in first-out
           buffer, where only that thread sees it, until it is drained; a full fence, a read-modify-write, a seq_cst
           store and a system call drain the buffer of their own thread first, `heavy_fence` those of all threads.
           `NoMembarrier` is the same where the system cannot do that: `heavy_fence` is a fence of its own thread.
`Relaxed`  the orderings as C++ has them: a load may read any store that its thread has not learned to be outdated, and
           learns from a release store what that knew. Views of timestamps after Kang et al., "A promising semantics",
           2017, without promises: a load never reads what comes later, and stores to one word take effect in the order
           of the walk. A seq_cst access also learns of, or announces, the last seq_cst store to its word.

A machine's state is a hashable value. `perform` makes one access of a thread and returns every (result, state) that
may come of it; `drains` are the moves that the machine makes by itself.
"""

import functools
from typing import NamedTuple

from iobuf_nb._jit.instructions import wrap
from iobuf_nb.atomics import AFTER

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

    def looked(self, memory, thread, word):
        """Return the memory after a thread has seen what is newest in a word, and nothing else, as it does to park."""
        return memory

    def perform(self, memory, thread, access):
        word = access.word
        result, new = outcome(access, memory[word])
        return [(result, memory if access.operation == "load" else replaced(memory, word, new))]

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
            return [(None, (values, replaced(buffers, thread, own)))]
        values, buffers = self.synchronized(memory, thread)
        if operation == "fence":
            return [(None, (values, buffers))]
        return [(result, (after, buffers)) for result, after in super().perform(values, thread, access)]

    def drains(self, memory):
        """Yield (thread, memory) for each buffer that can drain one entry."""
        for thread, buffer in enumerate(memory[1]):
            if buffer:
                yield thread, self.drained(memory, thread, 1)


class NoMembarrier(TSO):
    def perform(self, memory, thread, access):
        return super().perform(memory, thread, access._replace(operation=access.operation.removeprefix("heavy_")))


class Relaxed(SC):
    """Memory is (for each word the stores that somebody may still read, for each thread its views, the seq_cst view).

    A view names, for each word, the oldest store that may still be read. A store is (value, view that it carries).
    """

    def ignores(self, operation, order):
        return operation == "light_fence"

    def start(self, values):
        nothing = (0,) * len(values)
        # What a thread has seen, what it will have seen after an acquire fence, what its relaxed stores carry.
        return tuple(((value, nothing),) for value in values), ((nothing,) * 3,) * self.threads, nothing

    def values(self, memory):
        return tuple(stores[-1][0] for stores in memory[0])

    def synchronized(self, memory, thread):
        return memory  # a system call orders nothing that the language knows of

    def looked(self, memory, thread, word):
        return pruned(*self.loaded(memory, thread, word, len(memory[0][word]) - 1, "relaxed"))

    def perform(self, memory, thread, access):
        return [(result, pruned(*after)) for result, after in self.outcomes(memory, thread, access)]

    def outcomes(self, memory, thread, access):
        stores, views, everybody = memory
        operation, word, order, operands = access
        if operation == "heavy_fence":
            everybody = functools.reduce(join, (seen for seen, _, _ in views), everybody)
            return [(None, (stores, ((everybody,) * 3,) * self.threads, everybody))]
        if operation == "fence":
            seen, acquired, carried = views[thread]
            if order != "release":
                seen = acquired
            if order == "seq_cst":
                seen = everybody = join(seen, everybody)
            own = seen, join(acquired, seen), carried if order == "acquire" else seen
            return [(None, (stores, replaced(views, thread, own), everybody))]
        newest = len(stores[word]) - 1
        if operation == "store":
            return [(None, self.stored(memory, thread, access, operands[0], views[thread][2]))]
        found = []
        if operation != "load":
            result, value = outcome(access, stores[word][newest][0])
            if result is not False:  # one that fails stores nothing: it is a load
                after = self.loaded(memory, thread, word, newest, order)
                carried = join(after[1][thread][2], stores[word][newest][1])  # it continues the release sequence
                found.append((result, self.stored(after, thread, access, value, carried)))
            if operation != "compare_and_swap":
                return found
        oldest = max(views[thread][0][word], everybody[word] if order == "seq_cst" else 0)
        for k in range(newest, oldest - 1, -1):
            value = stores[word][k][0]
            if operation == "load":
                found.append((value, self.loaded(memory, thread, word, k, order)))
            elif value != operands[0]:
                found.append((False, self.loaded(memory, thread, word, k, order)))
        return found

    def loaded(self, memory, thread, word, k, order):
        """Return the memory after a thread has read store `k` of a word."""
        stores, views, everybody = memory
        seen, acquired, carried = views[thread]
        view = stores[word][k][1]
        seen = replaced(seen, word, max(seen[word], k))
        acquired = join(join(acquired, view), seen)
        if order in ("acquire", "acq_rel", "seq_cst"):
            seen = join(seen, view)
        return stores, replaced(views, thread, (seen, acquired, carried)), everybody

    def stored(self, memory, thread, access, value, carried):
        stores, views, everybody = memory
        seen, acquired, fenced = views[thread]
        word, order = access.word, access.order
        k = len(stores[word])
        seen = replaced(seen, word, k)
        if order in ("release", "acq_rel", "seq_cst"):
            carried = join(carried, seen)
        if order == "seq_cst":
            everybody = replaced(everybody, word, k)
        stores = replaced(stores, word, (*stores[word], (wrap(value), replaced(carried, word, k))))
        return stores, replaced(views, thread, (seen, join(acquired, seen), fenced)), everybody


def replaced(items, k, item):
    return (*items[:k], item, *items[k + 1 :])


def join(view, other):
    return view if view == other else tuple(map(max, view, other))


def pruned(stores, views, everybody):
    """Forget the stores that nobody can read any more, and number the others from 0."""
    cut = tuple(map(min, *(seen for seen, _, _ in views))) if len(views) > 1 else views[0][0]
    if not any(cut):
        return stores, views, everybody

    known = {}  # views are often the same

    def renumbered(view):
        if view not in known:
            known[view] = tuple([k - gone if k > gone else 0 for k, gone in zip(view, cut, strict=True)])
        return known[view]

    stores = tuple(
        [
            tuple([(value, renumbered(view)) for value, view in word[gone:]])
            for word, gone in zip(stores, cut, strict=True)
        ]
    )
    return stores, tuple([tuple(map(renumbered, three)) for three in views]), renumbered(everybody)
