"""Every interleaving of a few threads over the real source, one atomic access at a time.

Threads are greenlets that stop before each interpreted atomic access, and where they park sleep until another wakes
them. `explore` walks the tree of choices depth first by running the program again for each branch, and does not walk
twice from the same state: the shared words, what each thread has read since its operation began, and the history so
far. An end at which somebody still sleeps is a violation: a lost wake-up.

The history lists when each operation began (its first access, not the time it was written down: an operation that has
touched nothing constrains nothing) and ended. `linearizable` looks for an order of the operations that keeps to the
real time order and that a sequential model explains (Wing & Gong, 1993).
"""

from dataclasses import dataclass, field

import greenlet

from iobuf_nb import atomics

MAX_STEPS = 400


class Violation(AssertionError):
    """A schedule under which something went wrong."""


@dataclass
class Outcome:
    runs: int = 0
    states: int = 0
    steps: int = 0


@dataclass
class Thread:
    number: int
    operations: list
    state: tuple = ()  # what it has read since its operation began, after the results of earlier ones
    began: bool = False
    parked: int = -1  # the word it sleeps on
    greenlet: object = field(default=None, repr=False)


class Run:
    """One execution under a given prefix of choices."""

    def __init__(self, program, constant, ordered):
        self.constant, self.ordered = constant, ordered
        self.shared, programs = program()
        self.history = []
        self.threads = [Thread(number, operations) for number, operations in enumerate(programs)]
        self.main = greenlet.getcurrent()
        self.current = None
        for thread in self.threads:
            thread.greenlet = greenlet.greenlet(lambda thread=thread: self.body(thread))

    def body(self, thread):
        got = []
        for name, operation in thread.operations:
            thread.began = False
            self.called = name
            result = operation(got)
            if thread.began:
                self.history.append(("end", thread.number, name, result))
            thread.state = (*[r for r in thread.state if isinstance(r, str)], f"{name}={result}")

    def hook(self, operation, i, access):
        if i in self.constant:
            return access()
        thread = self.current
        self.main.switch()
        if not thread.began:
            thread.began = True
            self.history.append(("begin", thread.number))
        result = access()
        if operation == "wake":
            sleepers = [other for other in self.threads if other.parked == i][:result]
            for other in sleepers:
                other.parked = -1
            result = len(sleepers)
        thread.state = (*thread.state, result)
        if operation == "park" and result:
            thread.parked = i
            self.main.switch()
            thread.state = (*thread.state, None)  # it got up: a step like any other, though it reads nothing
        return result

    def step(self, thread):
        self.current = thread
        thread.greenlet.switch()

    def runnable(self):
        return [t.number for t in self.threads if not t.greenlet.dead and t.parked < 0]

    def stuck(self):
        return [t.number for t in self.threads if not t.greenlet.dead]

    def key(self):
        words = tuple(array.tobytes() for array in self.shared)
        return (
            words,
            tuple((t.state, t.parked, t.greenlet.dead) for t in self.threads),
            self.ordered and tuple(self.history),
        )


def explore(program, check, constant=(), ordered=True):
    """Run `program` under every schedule and `check(history)` at every end; return the Outcome.

    `program()` makes a fresh state: (shared arrays, one list of (name, operation) for each thread). An operation is
    called with the list of what its thread holds. Words in `constant` are never written, so it makes no difference
    when they are read. With `ordered` False the check looks at results alone, and states that differ only in the order
    of the history count as one.
    """
    outcome = Outcome()
    seen = set()
    pending = [()]
    while pending:
        prefix = pending.pop()
        run = Run(program, constant, ordered)
        atomics.hook = run.hook
        try:
            for thread in run.threads:  # up to the first access
                run.step(thread)
            schedule = list(prefix)
            for choice in prefix:
                run.step(run.threads[choice])
            outcome.runs += 1
            while choices := run.runnable():
                key = run.key()
                if key in seen:
                    break
                seen.add(key)
                pending.extend((*schedule, other) for other in choices[1:])
                schedule.append(choices[0])
                run.step(run.threads[choices[0]])
                outcome.steps += 1
                if len(schedule) > MAX_STEPS:
                    raise Violation(f"no end after {MAX_STEPS} steps of schedule {schedule}")
            else:
                try:
                    assert not run.stuck(), f"threads {run.stuck()} sleep and nobody will wake them"
                    check(run.history)
                except AssertionError as error:
                    raise Violation(f"{error}\nschedule {schedule}\nhistory {run.history}") from None
        finally:
            atomics.hook = None
            for thread in run.threads:
                if not thread.greenlet.dead:
                    thread.greenlet.throw(greenlet.GreenletExit)
    outcome.states = len(seen)
    return outcome


def operations_of(history):
    """Return (begin, end, name, result) of each operation."""
    begun, found = {}, []
    for time, (kind, thread, *rest) in enumerate(history):
        if kind == "begin":
            begun[thread] = time
        else:
            found.append((begun.pop(thread), time, *rest))
    return found


def linearizable(history, model, apply):
    """Say whether some order of the operations, kept to real time, is explained by `apply(model, name, result)`.

    `apply` returns the model after the operation, or None if it could not have had that result.
    """
    operations = operations_of(history)
    seen = set()

    def search(left, model):
        if not left:
            return True
        if (left, model) in seen:
            return False
        seen.add((left, model))
        first_end = min(operations[k][1] for k in left)
        for k in left:
            begin, _, name, result = operations[k]
            if begin < first_end:
                after = apply(model, name, result)
                if after is not None and search(left - {k}, after):
                    return True
        return False

    return search(frozenset(range(len(operations))), model)
