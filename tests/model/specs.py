"""Whether some order of the operations explains what they returned: linearizability, decided as the history unfolds.

A sequential model is a function ``steps(model, name, got)`` that yields every (result, model after it) which an
operation may have; `got` is what its thread held. A `Spec` keeps all the *accounts* that the history so far allows. An
account is the state of the model and the results of those operations that took effect and have not returned yet. When
an operation returns, it must have taken effect by then, perhaps after others that still run: so each history is
explained just in time (Lowe, "Testing for linearizability", 2017), and histories that leave the same accounts are one.
An operation whose thread died has no end: it may have taken effect, or not.
"""

from iobuf_nb._threads.outcomes import CLOSED

from .memories import replaced

RUNNING = "running"


class Spec:
    def __init__(self, model, steps):
        self.model, self.steps = model, steps
        self.known = {}

    def start(self, threads):
        return frozenset([(self.model, (RUNNING,) * threads)])

    def ended(self, accounts, thread, end, others):
        """Return the accounts that are left when `thread` returns from `end`.

        `others` are (thread, name, got) of the operations that have begun and not ended.
        """
        question = accounts, thread, end, others
        if question not in self.known:
            self.known[question] = self.explained(*question)
        return self.known[question]

    def explained(self, accounts, thread, end, others):
        found, seen, pending = set(), set(accounts), list(accounts)
        while pending:
            model, results = pending.pop()
            if results[thread] != RUNNING:
                if results[thread] == end.result:
                    found.add((model, replaced(results, thread, RUNNING)))
                continue
            for who, name, got in ((thread, end.name, end.got), *others):
                if results[who] == RUNNING:
                    for result, after in self.steps(model, name, got):
                        account = after, replaced(results, who, result)
                        if account not in seen:
                            seen.add(account)
                            pending.append(account)
        return frozenset(found)


def fifo(capacity, others=0):
    """G gets the oldest item or -1; P puts the oldest that the thread holds, P followed by an item that item.

    Each of `others` may have taken up a place for a while.
    """

    def steps(items, name, got):
        if name == "G":
            yield (items[0], items[1:]) if items else (-1, items)
        else:
            if len(items) < capacity:
                yield True, (*items, int(name[1:] or got[0]))
            if len(items) + others >= capacity:
                yield False, items

    return steps


def closing_fifo(capacity, others=0):
    """G, P and an item: wait; T and an item does not; C closes. What is put at the same time may still land."""

    def steps(model, name, got):
        items, closed = model
        if name == "C":
            yield None, (items, True)
        elif name == "G":
            if items:
                yield items[0], (items[1:], closed)
            elif closed:
                yield CLOSED, model
        else:
            done, refused = (0, CLOSED) if name[0] == "P" else (True, False)
            if closed or (len(items) + others >= capacity and name[0] == "T"):
                yield refused, model
            if len(items) < capacity:
                yield done, ((*items, int(name[1])), closed)

    return steps


def pool(free, name, got):
    """G gets some free index, or -1 if there is none; P puts the oldest that the thread holds, or the one it names."""
    if name[0] == "P":
        yield True, free | {int(name[1:] or got[0])}
    elif free:
        for index in free:
            yield index, free - {index}
    else:
        yield -1, free


def closing_pool(model, name, got):
    """As `pool`; C closes, and then there is nothing to get. R lets a magazine go, which changes nothing."""
    free, closed = model
    if name == "C":
        yield None, (free, True)
    elif name == "R":
        yield None, model
    elif name == "G" and closed:
        yield -1, model
    else:
        for result, after in pool(free, name, got):
            yield result, (after, closed)


def owners(out, name, got):
    """P and an index puts it; M and some puts all or says which was not out; G gets any, or says that it found none."""
    indices = [int(digit) for digit in name[1:]]
    if name[0] == "G":
        yield -1, out  # what was put is free a little later than it is no longer out
        for index in range(3):
            if index not in out:
                yield index, out | {index}
    elif name[0] == "P":
        yield indices[0] in out, out - {indices[0]}
    elif len(set(indices)) == len(indices) and out.issuperset(indices):
        yield -1, out.difference(indices)
    else:
        for k, index in enumerate(indices):
            if index not in out or index in indices[:k]:
                yield k, out
