"""Every interleaving of a few threads over the real source, one atomic access at a time.

A *program* returns the shared arrays and, for each thread, a list of (name, operation). An operation is called with
the list of what its thread holds, which it may change, and shares nothing else with other threads but words of those
arrays, through `iobuf_nb.atomics`. So all that a thread does follows from what its accesses read: it is run again from
the start of its operation with the answers that it had so far, up to the next access that has none (`Threads`). What a
whole execution can do next then follows from a small value, its *state*: memory, where each thread stands, and what
the operations that ended leave to explain. `explore` walks the graph of states depth first, each state once.

Steps are accesses to words that somebody may write; others cannot matter when they are made. Besides, there are these
moves: a store buffer drains, a parked thread is woken, a thread dies. A *schedule* names the moves in their order, and
`replay` makes them again: ``1`` is the next access of thread 1, ``1.2`` the same where it has several outcomes, ``d1``
drains the oldest store of thread 1, ``k1`` kills it.

An operation lasts from its first step (what has touched nothing constrains nothing) to its return, though under `TSO`
some of what it stored may still be on its way. That is the strictest reading, and therefore sound: nobody can see more
of the order of real time than that. An end at which somebody still sleeps is a violation: a lost wake-up.
"""

import itertools
from dataclasses import dataclass

from memories import FENCES, SC, Access

from iobuf_nb import atomics

MAX_STEPS = 400
running = 0  # the thread whose operation is being run, for what stands in for `thread_id`


class Violation(AssertionError):
    """A schedule under which something went wrong."""


class Complaint(str):
    """What is wrong with a state, in the place of what would explain it."""


class Restart(Exception):
    """A word that was thought to be never written is."""


class Unanswered(BaseException):
    """An operation has come to an access that has no answer yet; no ``except Exception`` is to stop that."""


@dataclass
class Outcome:
    states: int = 0
    steps: int = 0
    ends: int = 0


class Node:
    """Where a thread stands: in which operation, holding what, after which answers, and with which access to make.

    There is one object for each such place, so that they compare by identity. `access` is None at the end of the
    program, and where the thread sleeps (until a wake puts it `on`) or is dead.
    """

    __slots__ = ("access", "begun", "got", "name", "next", "number", "on", "reads", "sleeps_on", "thread")

    def __init__(self, thread, number, name, got, reads, access, sleeps_on=None, on=None):
        self.thread, self.number, self.name, self.got, self.reads = thread, number, name, got, reads
        self.access, self.sleeps_on, self.on = access, sleeps_on, on
        self.begun = bool(reads)
        self.next = {}


@dataclass(frozen=True)
class Ended:
    """The end of an operation: what it was called, what its thread held when it began, and what it returned."""

    name: str
    got: tuple
    result: object
    begun: bool


class Threads:
    """The threads of a program, each a tree of answers and the accesses that follow them."""

    def __init__(self, program, memory):
        self.shared, self.programs = program()
        self.initial = [array.copy() for array in self.shared]
        self.memory = memory(len(self.programs))
        self.words = {}  # address of each word that is ever written -> (number, array, index)
        self.clear()

    def clear(self):
        self.reached = {}
        self.finished = [Node(t, len(p), "", (), (), None) for t, p in enumerate(self.programs)]

    def values(self):
        return tuple(int(self.initial[array][i]) for _, array, i in self.words.values())

    def word(self, words, i, writes):
        """Return the number of a word, or -1 if it is never written; it is an error if it belongs to nobody."""
        address = words.__array_interface__["data"][0] + 8 * int(i)
        if address not in self.words and writes:
            for number, array in enumerate(self.shared):
                index = (address - array.__array_interface__["data"][0]) // 8
                if 0 <= index < len(array):
                    self.words[address] = (len(self.words), number, index)
                    raise Restart
            raise LookupError(f"a thread wrote word {i} of an array that the program does not name among the shared")
        return self.words.get(address, (-1,))[0]

    def run(self, thread, number, got, reads):
        """Run an operation with its answers: the Access that it stops at, or None and its result and what is held."""
        global running
        running = thread
        answers = iter(reads)
        asked = []

        def hook(operation, words, i, order, *operands):
            if operation in FENCES:
                if self.memory.ignores(operation, order):
                    return None
                word = -1
            else:
                word = self.word(words, i, operation != "load")
                if word < 0:
                    return int(words[i])
            for answer in answers:
                return answer
            asked.append(Access(operation, word, order, operands))
            raise Unanswered

        held = list(got)
        atomics.hook = hook
        try:
            result = self.programs[thread][number][1](held)
        except Unanswered:
            return asked[0], None, None
        except AssertionError as error:
            result = Complaint(str(error))
        finally:
            atomics.hook = None
        return None, result, tuple(held)

    def reach(self, thread, number, got, reads=()):
        """Return the operations that end when the last of `reads` is known, and where the thread then stands."""
        if number == len(self.programs[thread]):
            return (), self.finished[thread]
        place = thread, number, got, reads
        if place not in self.reached:
            name = self.programs[thread][number][0]
            access, result, held = self.run(*place)
            if access:
                self.reached[place] = (), Node(thread, number, name, got, reads, access)
            else:
                more, node = self.reach(thread, number + 1, held)
                self.reached[place] = (Ended(name, got, result, bool(reads)), *more), node
        return self.reached[place]

    def after(self, node, answer):
        """Return what ends and where the thread stands once its access has its answer."""
        if answer not in node.next:
            node.next[answer] = self.reach(node.thread, node.number, node.got, (*node.reads, answer))
        return node.next[answer]

    def asleep(self, node, word):
        return self.twin(node, "asleep", sleeps_on=word, on=node)

    def dead(self, node):
        return self.twin(node.on or node, "dead")

    def twin(self, node, kind, **more):
        if kind not in node.next:
            node.next[kind] = Node(node.thread, node.number, node.name, node.got, node.reads, None, **more)
        return node.next[kind]


class Search:
    """The graph of states of a program; a state is (memory, nodes, what is to be explained, results, deaths left)."""

    def __init__(self, program, memory, spec, check, deaths):
        self.threads = Threads(program, memory)
        self.memory, self.spec, self.check, self.deaths = self.threads.memory, spec, check, deaths

    def start(self):
        self.threads.clear()
        nodes, explained, results = [], self.spec and self.spec.start(len(self.threads.programs)), []
        for thread in range(len(self.threads.programs)):
            ended, node = self.threads.reach(thread, 0, ())
            nodes.append(node)
            results.append(self.noted((), ended))
        return self.memory.start(self.threads.values()), tuple(nodes), explained, tuple(results), self.deaths

    def noted(self, results, ended):
        return (*results, *((end.name, end.result) for end in ended)) if self.check else ()

    def moved(self, state, memory, thread, ended, node):
        """Return the state after a thread's step, which may have ended operations."""
        _, nodes, explained, results, deaths = state
        after = (*nodes[:thread], node, *nodes[thread + 1 :])
        if ended:
            results = (*results[:thread], self.noted(results[thread], ended), *results[thread + 1 :])
            complaints = [end.result for end in ended if isinstance(end.result, Complaint)]
            if complaints:
                explained = complaints[0]
            elif self.spec and ended[0].begun:
                others = tuple((t, n.name, n.got) for t, n in enumerate(nodes) if t != thread and n.begun)
                explained = self.spec.ended(explained, thread, ended[0], others) or Complaint(
                    f"no order explains that {ended[0].name} of thread {thread} returned {ended[0].result}"
                )
        return memory, after, explained, results, deaths

    def steps(self, state, thread):
        """Return (label, result, state) for each thing that the next access of a thread may do."""
        memory, nodes, *_ = state
        node = nodes[thread]
        access = node.access
        if access.operation == "park":
            memory = self.memory.synchronized(memory, thread)
            if self.memory.values(memory)[access.word] == access.operands[0]:
                asleep = self.threads.asleep(node, access.word)
                return [(f"{thread}", "sleeps", self.moved(state, memory, thread, (), asleep))]
            return [(f"{thread}", False, self.moved(state, memory, thread, *self.threads.after(node, False)))]
        if access.operation == "wake":
            return self.wakes(state, thread)
        outcomes = self.memory.perform(memory, thread, access)
        return [
            (f"{thread}.{k}" if len(outcomes) > 1 else f"{thread}", result, self.moved(state, after, thread, *reached))
            for k, (result, after) in enumerate(outcomes)
            for reached in [self.threads.after(node, result)]
        ]

    def wakes(self, state, thread):
        """Wake as many as were asked for, whichever they be."""
        node = state[1][thread]
        sleepers = [t for t, other in enumerate(state[1]) if other.sleeps_on == node.access.word]
        count = min(len(sleepers), node.access.operands[0])
        found = []
        for k, woken in enumerate(itertools.combinations(sleepers, count)):
            after = state
            for sleeper in woken:
                after = self.moved(after, after[0], sleeper, *self.threads.after(after[1][sleeper].on, True))
            memory = self.memory.synchronized(after[0], thread)
            after = self.moved(after, memory, thread, *self.threads.after(node, count))
            found.append((f"{thread}.{k}" if k else f"{thread}", count, after))
        return found

    def moves(self, state):
        """Yield (label, result, state) for everything that can happen next."""
        memory, nodes, explained, results, deaths = state
        for thread, node in enumerate(nodes):
            if node.access:
                yield from self.steps(state, thread)
        for thread, after in self.memory.drains(memory):
            yield f"d{thread}", None, (after, nodes, explained, results, deaths)
        if deaths:
            for thread, node in enumerate(nodes):
                if node.access or node.on:
                    after = (*nodes[:thread], self.threads.dead(node), *nodes[thread + 1 :])
                    yield f"k{thread}", None, (memory, after, explained, results, deaths - 1)

    def ends(self, state):
        """Look at a state from which nothing can happen."""
        memory, nodes, _, results, _ = state
        sleeping = [thread for thread, node in enumerate(nodes) if node.on]
        if sleeping:
            raise Violation(f"threads {sleeping} sleep and nobody will wake them")
        if self.check:
            shared, words = self.threads.shared, self.threads.words
            for value, (_, array, i) in zip(self.memory.values(memory), words.values(), strict=True):
                shared[array][i] = value
            try:
                self.check(results)
            finally:
                for array, initial in zip(shared, self.threads.initial, strict=True):
                    array[:] = initial


def explore(program, spec=None, check=None, memory=SC, deaths=0):
    """Walk through every state of a program; return the Outcome, or raise Violation.

    Parameters
    ----------
    program : callable
        Makes a fresh state: (shared int64 arrays, one list of (name, operation) for each thread).
    spec : Spec, optional
        The sequential model that is to explain every history.
    check : callable, optional
        ``check(results)`` is called at every end, with ((name, result), ...) of each thread, and with the shared arrays
        as they were left there.
    memory : class
        One of `memories`.
    deaths : int
        How many threads may die, each at any point.
    """
    search = Search(program, memory, spec, check, deaths)
    while True:
        path = []
        try:
            return depth_first(search, path)
        except Restart:
            continue
        except AssertionError as error:
            raise Violation(f"{error}\nschedule {' '.join(path)!r}") from None


def depth_first(search, path):
    """Visit every state once; `path` names the moves to where it is."""
    outcome = Outcome()
    seen = set()
    stack = []

    def enter(state):
        seen.add(state)
        moves = list(search.moves(state))
        outcome.steps += len(moves)
        if not moves:
            search.ends(state)
            outcome.ends += 1
        stack.append(iter(moves))

    enter(search.start())
    while stack:
        for label, _, state in stack[-1]:
            if state not in seen:
                path.append(label)
                assert not isinstance(state[2], Complaint), state[2]
                assert len(path) < MAX_STEPS, f"no end after {MAX_STEPS} steps"
                enter(state)
                break
        else:
            stack.pop()
            del path[-1:]
    outcome.states = len(seen)
    return outcome
