"""The threads of a program as trees: what each does next follows from what its accesses have read.

A *program* returns the shared arrays and, for each thread, a list of (name, operation). An operation is called with
the list of what its thread holds, which it may change, and shares nothing else with other threads but words of those
arrays, through `iobuf_nb._jit.seam`. So to know what a thread does after some answers, its operation is run again
from the start with these answers, up to the next access that has none: nothing has to be stopped in the middle and
kept. What it asked before it asks again, so only the last questions are looked at.

Accesses to words that nobody ever writes are answered at once. Which words are written comes out on the way: the first
access that may write a word raises `Restart`, and whoever walks the states begins anew.
"""

from dataclasses import dataclass

from iobuf_nb import atomics
from iobuf_nb._jit import seam

from .memories import FENCES, Access

#: What a thread, by its number, is told at once, without a step. Time stands still, unless a program has a clock.
WORDLESS = {"thread_id": lambda thread: thread + 1, "now": lambda thread: 0, "pause": lambda thread: None}


class Complaint(str):
    """What is wrong, where a result or an explanation would stand."""


class Restart(BaseException):
    """A word that was thought to be never written is; no ``except Exception`` is to stop that."""


class Unanswered(BaseException):
    """An operation has come to an access that has no answer yet."""


class Node:
    """Where a thread stands: in which operation, holding what, after which answers, and with which access to make.

    There is one object for each such place, so that they compare by identity. `access` is None at the end of the
    program, and where the thread sleeps on a word, until a wake puts it back `on` its place, or is dead. Among the
    `answers` are those to what is no step.
    """

    __slots__ = ("access", "answers", "begun", "got", "name", "next", "number", "on", "thread")

    def __init__(self, thread, number, name, got, answers, begun, access, on=None):
        self.thread, self.number, self.name, self.got, self.answers = thread, number, name, got, answers
        self.begun, self.access, self.on = begun, access, on
        self.next = {}


@dataclass(frozen=True)
class Ended:
    """The end of an operation: what it was called, what its thread held when it began, and what it returned."""

    name: str
    got: tuple
    result: object
    begun: bool


class Threads:
    def __init__(self, program, memory, words=(), clock=None):
        self.shared, self.programs = program()
        self.wordless = WORDLESS | ({"now": lambda thread: clock()} if clock else {})
        self.initial = [array.copy() for array in self.shared]
        self.memory = memory(len(self.programs))
        self.words = {}  # address of each word that is written -> (number, array, index)
        for array, i in words:
            self.add(array, i)
        self.reached = {}
        self.finished = [Node(t, len(p), "", (), (), False, None) for t, p in enumerate(self.programs)]

    def address(self, words, i):
        return words.__array_interface__["data"][0] + 8 * int(i)

    def add(self, array, i):
        self.words[self.address(self.shared[array], i)] = (len(self.words), array, i)

    def number(self, array, i):
        """Return the number of a word that was named from the start."""
        return self.words[self.address(self.shared[array], i)][0]

    def word(self, words, i, writes):
        """Return the number of a word, or -1 if it is never written."""
        address = self.address(words, i)
        if address not in self.words and writes:
            for array, shared in enumerate(self.shared):
                index = (address - self.address(shared, 0)) // 8
                if 0 <= index < len(shared):
                    self.add(array, index)
                    self.reached.clear()
                    raise Restart
            raise LookupError(f"a thread wrote word {i} of an array that the program does not name among the shared")
        return self.words.get(address, (-1,))[0]

    def start(self):
        """Return what the written words hold at first."""
        return tuple(int(self.initial[array][i]) for _, array, i in self.words.values())

    def names(self):
        """Return how a schedule names the written words: array and index."""
        return [f"{array}[{i}]" for _, array, i in self.words.values()]

    def run(self, thread, number, got, answers):
        """Run an operation with its answers: the Access that it stops at, or None, its result, and what is held.

        What is no step, and asked after these answers, is answered here, and noted among them.
        """
        asked = []
        given = iter(answers[:])

        def hook(operation, words, i, order, *operands):
            if operation in self.wordless:
                return self.wordless[operation](thread)
            for answer in given:
                return answer
            if operation in FENCES:
                word, answer = -1, None
                step = not self.memory.ignores(operation, order)
            else:
                atomics._check_order(operation, order)
                atomics._check_words(operation, words, i)
                word = self.word(words, i, operation != "load")
                step = word >= 0
                answer = None if step else int(words[i])
            if step:
                asked.append(Access(operation, word, order, tuple(map(int, operands))))
                raise Unanswered
            answers.append(answer)
            return answer

        held = list(got)
        seam.hook = hook
        try:
            result = self.programs[thread][number][1](held)
        except Unanswered:
            return asked[0], None, None
        except Exception as error:
            result = Complaint(f"{type(error).__name__}: {error}")
        finally:
            seam.hook = None
        return None, result, tuple(held)

    def reach(self, thread, number, got, answers=(), begun=False):
        """Return the operations that end when the last of `answers` is known, and where the thread then stands."""
        if number == len(self.programs[thread]):
            return (), self.finished[thread]
        place = thread, number, got, answers
        if place not in self.reached:
            name = self.programs[thread][number][0]
            known = list(answers)
            access, result, held = self.run(thread, number, got, known)
            if access:
                self.reached[place] = (), Node(thread, number, name, got, tuple(known), begun, access)
            else:
                more, node = self.reach(thread, number + 1, held)
                self.reached[place] = (Ended(name, got, result, begun), *more), node
        return self.reached[place]

    def after(self, node, answer):
        """Return what ends and where the thread stands once its access has its answer."""
        if answer not in node.next:
            node.next[answer] = self.reach(node.thread, node.number, node.got, (*node.answers, answer), True)
        return node.next[answer]

    def asleep(self, node):
        return self.twin(node, "asleep", on=node)

    def dead(self, node):
        return self.twin(node.on or node, "dead")

    def twin(self, node, kind, **more):
        """Return the place of a thread that makes no access, though it has not come to its end."""
        if kind not in node.next:
            place = node.thread, node.number, node.name, node.got, node.answers, node.begun
            node.next[kind] = Node(*place, None, **more)
        return node.next[kind]

    def restore(self, values):
        """Let the shared arrays hold what memory holds."""
        for value, (_, array, i) in zip(values, self.words.values(), strict=True):
            self.shared[array][i] = value

    def reset(self):
        for array, initial in zip(self.shared, self.initial, strict=True):
            array[:] = initial
