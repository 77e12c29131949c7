"""Every interleaving of a few threads over the real source, one atomic access at a time.

What an execution can do next follows from a small value, its *state*: memory, where each thread stands (`threads`),
and what the operations that ended leave to explain (`specs`). `explore` walks the graph of states depth first, each
state once; `sample` walks random paths through it where it is too large.

Steps are accesses to words that somebody writes; others cannot matter when they are made. Besides, there are these
moves: a store buffer drains, a parked thread gets up unwoken, a thread dies. A *schedule* names the words that are
written and, after a colon, the moves in their order; `replay` makes them again. ``1`` is the next access of thread 1,
``1.2`` the same where it has several outcomes, ``d1`` drains the oldest store of thread 1, ``u1`` gets it up, ``k1``
kills it.

An operation lasts from its first step (what has touched nothing constrains nothing) to its return, though under `TSO`
some of what it stored may still be on its way. That is the strictest reading, and therefore sound: nobody can see more
of the order of real time than that. An end at which somebody still sleeps is a violation: a lost wake-up.

That the walk comes to an end says that no schedule runs for ever: somebody always gets on. With `alone`, more is looked
at: in every state each thread must be able to end its operation by itself, wherever the others were stopped.
"""

import gc
import itertools
import math
import random
from contextlib import contextmanager
from dataclasses import dataclass

from .memories import SC, Access
from .threads import Complaint, Restart, Threads

MAX_STEPS = 400


class Violation(AssertionError):
    """A schedule under which something went wrong."""


@dataclass
class Outcome:
    states: int = 0
    steps: int = 0
    ends: int = 0
    bound: str = ""  # why it is not all


class Search:
    """The graph of states of a program.

    A state is (memory, nodes, what is to be explained, results, left): `left` is how many deaths, unwoken risings and
    preemptions may still come, and which thread ran last.
    """

    def __init__(
        self,
        program,
        spec=None,
        check=None,
        memory=SC,
        deaths=0,
        risings=0,
        preemptions=None,
        alone=None,
        forked=None,
        clock=None,
        locks=None,
        always=None,
        words=(),
    ):
        self.threads = Threads(program, memory, dict.fromkeys((*(locks or {}).values(), *words)), clock)
        self.memory, self.spec, self.check = self.threads.memory, spec, check
        self.bounded = preemptions is not None
        self.left = deaths, risings, preemptions, None
        self.limit, self.known, self.checked = alone, {}, set()
        self.forked, self.clock, self.always = forked, clock, always
        self.locks = {thread: self.threads.number(*word) for thread, word in (locks or {}).items()}

    def start(self):
        nodes = tuple(self.threads.finished)
        explained = self.spec and self.spec.start(len(nodes))
        state = self.memory.start(self.threads.start()), nodes, explained, ((),) * len(nodes), self.left
        for thread in range(len(nodes)):
            state = self.moved(state, state[0], thread, *self.threads.reach(thread, 0, ()))
        return state

    def noted(self, results, ended):
        return (*results, *((end.name, end.result) for end in ended)) if self.check else ()

    def moved(self, state, memory, thread, ended, node):
        """Return the state after a thread's step, which may have ended operations."""
        _, nodes, explained, results, left = state
        after = (*nodes[:thread], node, *nodes[thread + 1 :])
        if ended:
            results = (*results[:thread], self.noted(results[thread], ended), *results[thread + 1 :])
            complaints = [end.result for end in ended if isinstance(end.result, Complaint)]
            if complaints:
                explained = complaints[0]
            elif self.spec and ended[0].begun and not isinstance(explained, Complaint):
                others = tuple((t, n.name, n.got) for t, n in enumerate(nodes) if t != thread and n.begun)
                explained = self.spec.ended(explained, thread, ended[0], others) or Complaint(
                    f"no order explains that {ended[0].name} of thread {thread} returned {ended[0].result}"
                )
        return memory, after, explained, results, left

    def steps(self, state, thread):
        """Return (result, state) for each thing that the next access of a thread may do."""
        memory, nodes, *_ = state
        node = nodes[thread]
        access = node.access
        if access.operation == "park":
            memory = self.memory.looked(self.memory.synchronized(memory, thread), thread, access.word)
            if self.memory.values(memory)[access.word] == access.operands[0]:
                return [("sleeps", self.moved(state, memory, thread, (), self.threads.asleep(node)))]
            return [(False, self.moved(state, memory, thread, *self.threads.after(node, False)))]
        if access.operation == "wake":
            return self.wakes(state, thread)
        return [
            (result, self.moved(state, after, thread, *self.threads.after(node, result)))
            for result, after in self.memory.perform(memory, thread, access)
        ]

    def wakes(self, state, thread):
        """Wake as many as were asked for, whichever they be."""
        memory, nodes, *_ = state
        node = nodes[thread]
        memory = self.memory.synchronized(memory, thread)
        sleepers = [t for t, other in enumerate(nodes) if other.on and other.on.access.word == node.access.word]
        count = min(len(sleepers), node.access.operands[0])
        for woken in itertools.combinations(sleepers, count):
            after = self.moved(state, memory, thread, *self.threads.after(node, count))
            for sleeper in woken:
                after = self.risen(after, sleeper)
            yield f"wakes {list(woken)}", after

    def risen(self, state, thread):
        return self.moved(state, state[0], thread, *self.threads.after(state[1][thread].on, True))

    def moves(self, state):
        """Yield (label, result, state) for everything that can happen next."""
        memory, nodes, explained, results, (deaths, risings, preemptions, last) = state
        for thread, node in enumerate(nodes):
            if node.access:
                here = state
                if self.bounded:
                    preempts = last not in (None, thread) and nodes[last].access is not None
                    if preempts and not preemptions:
                        continue
                    here = (*state[:4], (deaths, risings, preemptions - preempts, thread))
                found = list(self.steps(here, thread))
                for k, (result, after) in enumerate(found):
                    yield f"{thread}.{k}" if len(found) > 1 else f"{thread}", result, after
            if node.on and risings:
                yield f"u{thread}", None, self.risen((*state[:4], (deaths, risings - 1, preemptions, last)), thread)
            if (node.access or node.on) and deaths:
                after = (*nodes[:thread], self.threads.dead(node), *nodes[thread + 1 :])
                left = deaths - 1, risings, preemptions, last
                yield f"k{thread}", None, (self.unlocked(memory, thread), after, explained, results, left)
        for thread, after in self.memory.drains(memory):
            yield f"d{thread}", None, (after, *state[1:])

    def unlocked(self, memory, thread):
        """Return the memory after the system has let go of the lock of a thread that died, when all else was done."""
        if thread not in self.locks:
            return memory
        return self.memory.perform(memory, thread, Access("store", self.locks[thread], "seq_cst", (0,)))[0][1]

    def look(self, state, moves):
        """Raise AssertionError if something is wrong with a state."""
        memory, nodes, explained, results, _ = state
        assert not isinstance(explained, Complaint), explained
        if self.always:
            self.always([node for node in nodes if node.access or node.on])
        if self.limit is not None:
            for thread, node in enumerate(nodes):
                if node.access:
                    self.look_alone(memory, thread, node)
        if self.forked and not all(node.access and node.begun for node in nodes):  # somebody is free to fork
            self.threads.restore(self.memory.values(memory))
            try:
                self.forked()
            finally:
                self.threads.reset()
        if not moves:
            sleeping = [thread for thread, node in enumerate(nodes) if node.on and not self.gets_up_by_itself(node.on)]
            assert not sleeping, f"threads {sleeping} sleep and none will wake them"
            self.look_at_the_end(self.memory.values(memory), results)

    def look_at_the_end(self, values, results):
        if self.check and (values, results) not in self.checked:
            self.checked.add((values, results))
            self.threads.restore(values)
            try:
                self.check(results)
            finally:
                self.threads.reset()

    def gets_up_by_itself(self, node):
        return self.clock is not None and node.access.operands[1]

    def look_alone(self, memory, thread, node):
        """Look whether a thread ends its operation soon if nobody else moves and it reads what is newest."""
        trail = []
        steps = 0
        while (memory, node) not in self.known:
            trail.append((memory, node))
            assert len(trail) <= self.limit, f"alone, thread {thread} does not end {node.name} in {self.limit} steps"
            if node.access.operation == "wake":  # of those who sleep, none of whom moves
                result, memory = 0, self.memory.synchronized(memory, thread)
            else:
                result, memory = self.memory.perform(memory, thread, node.access)[0]
            ended, node = self.threads.after(node, result)
            if ended:
                break
        else:
            steps = self.known[memory, node]
        for place in reversed(trail):
            steps += 1
            self.known[place] = steps
        assert steps <= self.limit, f"alone, thread {thread} does not end {node.name} in {self.limit} steps"


def explore(program, spec=None, check=None, most=math.inf, **options):
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
    deaths, risings : int
        How many threads may die, each at any point, and how often a parked one may get up without being woken.
    preemptions : int, optional
        Look only at schedules that take the turn from a thread which could go on at most so often.
    most : int, optional
        Stop after so many states.
    alone : int, optional
        In how many steps each thread must be able to end its operation by itself, whatever the state.
    clock : callable, optional
        Returns what the clock says, which may be a word that a thread moves on; then a sleep with a limit ends by
        itself.
    locks : dict, optional
        For threads that are processes, (array, index) of the word that the system sets to 0 when they die.
    always : callable, optional
        Called in every state with the nodes of the threads that are in an operation.
    forked : callable, optional
        Called in every state in which a thread is between two operations, with the shared arrays as a child would have
        them that this thread forks.
    """
    search = Search(program, spec, check, **options)
    outcome = until_all_words_are_known(search, lambda *search: depth_first(*search, most))
    if search.bounded:
        outcome.bound = f"{options['preemptions']} preemptions"
    elif outcome.states >= most:
        outcome.bound = "of more"
    return outcome


def sample(program, spec=None, check=None, runs=1000, depth=3, seed=0, **options):
    """Walk `runs` random paths; each finds a violation that needs `depth` ordering constraints with good probability.

    Threads, and the buffers that drain by themselves, have random priorities, of which the highest always moves, and
    at `depth` - 1 random steps whoever moves falls behind all the others (Burckhardt et al., "A randomized scheduler
    with probabilistic guarantees of finding bugs", 2010). The walk is that of `seed`; other parameters as in `explore`.
    """
    search = Search(program, spec, check, **options)
    outcome = until_all_words_are_known(search, lambda *search: random_walks(*search, runs, depth, seed))
    outcome.bound = f"{runs} random runs of depth {depth}, seed {seed}"
    return outcome


def follow(program, spec=None, check=None, plan=(), **options):
    """Walk one path: threads move in turns.

    Each of `plan` is a thread, and either how many operations it has ended when its turn ends, or what its next access
    is then, as in ``"load 1[16]"``. After that they end, one after the other.
    """
    search = Search(program, spec, check, **options)
    threads = range(len(search.threads.finished))
    turns = (*plan, *((thread, math.inf) for thread in threads))
    return until_all_words_are_known(search, lambda search, path: in_turns(search, path, turns))


def until_all_words_are_known(search, walk):
    """Walk, as often as words come up that had been taken for constants."""
    with no_collector():
        while True:
            path = []
            try:
                run_in_turn(search)
                return walk(search, path)
            except Restart:
                search.known.clear(), search.checked.clear()
            except Exception as error:
                schedule = f"{' '.join(search.threads.names())} : {' '.join(path)}"
                raise Violation("\n".join([str(error), *trace(search, path), f"schedule {schedule!r}"])) from error


def run_in_turn(search):
    """Let each thread be the first that runs to its end: most words that are written come up, before much is walked."""
    threads = range(len(search.threads.finished))
    for first in threads:
        state = search.start()
        for thread in (*threads[first:], *threads[:first]):
            for _ in range(MAX_STEPS):
                moves = (after for label, _, after in search.moves(state) if label.partition(".")[0] == str(thread))
                if (after := next(moves, None)) is None:
                    break
                state = after


@contextmanager
def no_collector():
    """Look for no garbage meanwhile: there is little, and millions of tuples that are none."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def depth_first(search, path, most):
    """Visit every state once, or `most` of them; `path` names the moves to where it is."""
    outcome = Outcome()
    seen = {search.start()}
    stack, known = [], 1

    def enter(state):
        moves = list(search.moves(state))
        outcome.steps += len(moves)
        outcome.ends += not moves
        search.look(state, moves)
        stack.append(iter(moves))

    enter(search.start())
    while stack and len(seen) < most:
        for label, _, state in stack[-1]:
            seen.add(state)
            if len(seen) > known:  # so that it is hashed only once
                known += 1
                path.append(label)
                assert len(path) < MAX_STEPS, f"no end after {MAX_STEPS} steps"
                enter(state)
                break
        else:
            stack.pop()
            del path[-1:]
    outcome.states = len(seen)
    return outcome


def in_turns(search, path, turns):
    outcome = Outcome(ends=1, bound="one schedule")
    state = search.start()
    for thread, stop in turns:
        while access := state[1][thread].access:
            if stop in (f"{access.operation} {search.threads.names()[access.word]}", len(state[3][thread])):
                break
            label, _, state = next(move for move in search.moves(state) if move[0].partition(".")[0] == str(thread))
            path.append(label)
            outcome.steps += 1
            search.look(state, list(search.moves(state)))
    return outcome


def random_walks(search, path, runs, depth, seed):
    chance = random.Random(seed)
    outcome = Outcome()
    seen = set()
    longest = 1
    for _ in range(runs):
        state = search.start()
        path.clear()
        priorities = {}
        falls = [chance.randrange(longest) for _ in range(depth - 1)]
        while True:
            seen.add(state)
            moves = list(search.moves(state))
            search.look(state, moves)
            if not moves:
                break
            actors = {}
            for label, _, after in moves:
                actors.setdefault(label.partition(".")[0], []).append((label, after))
            for actor in actors:
                priorities.setdefault(actor, chance.random())
            first = max(actors, key=priorities.get)
            if len(path) in falls:
                priorities[first] = min(priorities.values()) - 1
            label, state = chance.choice(actors[first])
            path.append(label)
            assert len(path) < MAX_STEPS, f"no end after {MAX_STEPS} steps"
        outcome.steps += len(path)
        outcome.ends += 1
        longest = max(longest, len(path))
    outcome.states = len(seen)
    return outcome


def replay(program, schedule, spec=None, check=None, **options):
    """Make the moves of a schedule that `explore` printed, print each, and raise what it raised."""
    names, path = schedule.split(":")
    words = [tuple(map(int, name.rstrip("]").split("["))) for name in names.split()]
    search = Search(program, spec, check, **options, words=words)
    print(*trace(search, path.split()), sep="\n")
    state = search.start()
    for label in path.split():
        state = next(after for found, _, after in search.moves(state) if found == label)
    search.look(state, list(search.moves(state)))


def trace(search, path):
    """Yield a line for each move of a path: who did what, and what came of it."""
    state = search.start()
    names = search.threads.names()
    for label in path:
        result, after = next((result, after) for found, result, after in search.moves(state) if found == label)
        if label[0].isdigit():
            node = state[1][int(label.partition(".")[0])]
            operation, word, order, operands = node.access
            name = names[word] if word >= 0 else ""
            yield f"{label:5} {node.name:4} {operation} {name} {order} {operands or ''} -> {result}"
        else:
            yield f"{label:5} {dict(d='drains', u='gets up', k='dies')[label[0]]}"
        state = after
