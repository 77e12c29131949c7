"""Deliberate bugs in the library's own source, and which case catches each: what a checker that passes is worth.

A mutant is a function of the library, a pattern in its source, and what stands there instead. The function is compiled
anew and its code put in the place of the old, so that whoever has it runs the mutant.
"""

import inspect
import re
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass

from iobuf_nb._free import depot, deque, free_list, handover, queue, waiting
from iobuf_nb._free import owners as owner
from iobuf_nb._pools import fork
from iobuf_nb._pools.bounded_queue import BoundedQueue

from . import (
    cases,
    coroutines,
    forks,
    mutants_of_magazines,
    mutants_of_processes,
    mutants_of_queues,
    mutants_of_streams,
    owners,
    times,
)
from .scheduler import Violation


@dataclass(eq=False)
class Mutant:
    bug: str
    function: object
    pattern: str
    instead: str
    among: list

    def __post_init__(self):
        source = textwrap.dedent(inspect.getsource(self.function))
        source = re.sub(r"^ *#.*\n", "", source, flags=re.MULTILINE)  # comments stand between the lines
        mutant, count = re.subn(self.pattern, self.instead, source[source.index("def ") :])
        assert count, f"no {self.pattern!r} in {self.function.__qualname__}, for the mutant {self.bug!r}"
        made = {}
        exec(compile(mutant, f"{self.function.__name__}, mutated: {self.bug}", "exec"), self.function.__globals__, made)
        self.code = made[self.function.__name__].__code__

    @contextmanager
    def applied(self):
        code = self.function.__code__
        self.function.__code__ = self.code
        try:
            yield
        finally:
            self.function.__code__ = code

    def caught(self, cases):
        """Return the name of the first case that catches it, and what is wrong there."""
        with self.applied():
            for case in cases:
                try:
                    case.run()
                except Violation as violation:
                    return case.name, str(violation).partition("\n")[0]
        raise AssertionError(f"nothing catches that {self.bug}")


TRY_AGAIN = r"( *seen = .*\n)( *)((?:item|result) = .*\n)"
READ_LATE = r"\1\2\3\2seen = load(words, GETTERS + 1, 'seq_cst')\n"
FIND, HINT = r"( *)if compare_and_swap(.*)\n", r" *(store.*)\n"
WAITING, OWNING = (
    [case for case in cases.CASES if case.name.startswith(kinds)]
    for kinds in (("wait", "bulk"), ("pool", "two", "bulk"))
)

#: Each group with the cases that may catch it.
BUGS = [
    (
        cases.CASES,
        [
            (
                "the lap is left out of a slot's state",
                queue._lead,
                r"return (.*)",
                r"lead = \1; return min(lead, lead % 2)",
            ),
            ("the difference of states does not wrap", queue._lead, r"minus\((\w+), (.*)\) >>", r"(\1 - (\2)) >>"),
            ("a position follows that was skipped", queue._next, r"position, 1", r"position, 2"),
            ("the last slot is followed by one beyond the end", queue._next, "< queue.capacity", "<= queue.capacity"),
            ("the last slot is left out", queue._next, "< queue.capacity", "< queue.capacity - 1"),
            ("a lap ends at its first slot for ever", queue._next, r"plus\(position \| mask, 1\)", "position & ~mask"),
            ("the search jumps a lap too far", queue._after, r"lead - 1", "lead + 1"),
            ("a put's hint is moved too far", queue._put_at, r"(_next\(.*\))\)", r"_next(queue, \1))"),
            ("a get's hint is moved too far", queue._get_at, r"(_next\(.*\))\)", r"_next(queue, \1))"),
            (
                "a put's hint is moved before its compare-and-swap",
                queue._put_at,
                FIND + HINT,
                r"\1\3\n\1if compare_and_swap\2\n",
            ),
            (
                "a get's hint is moved before its compare-and-swap",
                queue._get_at,
                FIND + HINT,
                r"\1\3\n\1if compare_and_swap\2\n",
            ),
            (
                "a put stores in place of a compare-and-swap",
                queue._put_at,
                r"compare_and_swap\((.*), word, (.*)\):",
                r"store(\1, \2) is None:",
            ),
            (
                "a get stores in place of a compare-and-swap",
                queue._get_at,
                r"compare_and_swap\((.*), word, (.*)\):",
                r"store(\1, \2) is None:",
            ),
            ("a get leaves its slot as it was a lap ago", queue._get_at, r"\((1 <<.*)\) - item", r"-(\1) - item"),
            ("a put into a slot that was taken says full", queue._put_at, "return TAKEN", "return EMPTY"),
            ("a get from a slot that was taken says empty", queue._get_at, "return TAKEN", "return EMPTY"),
            ("a put that finds the queue full goes on", queue._put_at, "lead < 0", "lead < -1"),
            ("a put publishes with relaxed accesses", queue._put_at, '"seq_cst"', '"relaxed"'),
            ("a get takes with relaxed accesses", queue._get_at, '"seq_cst"', '"relaxed"'),
            ("a loser waits for the winner to move the hint", queue._search, "lead == 0 or not behind", "True"),
        ],
    ),
    (
        WAITING,
        [
            ("a put into a closed queue succeeds", waiting.offer, r"load\(.*\) == 0", "True"),
            ("a getter does not try again before it parks", waiting.wait_to_get, TRY_AGAIN, r"\1\2item = EMPTY\n"),
            ("a putter does not try again before it parks", waiting.wait_to_put, TRY_AGAIN, r"\1\2result = EMPTY\n"),
            ("a getter reads the event after its last try", waiting.wait_to_get, TRY_AGAIN, READ_LATE),
            (
                "a putter reads the event after its last try",
                waiting.wait_to_put,
                TRY_AGAIN,
                READ_LATE.replace("GET", "PUT"),
            ),
            ("a getter counts itself in after its last try", waiting.wait_to_get, TRY_AGAIN, r"\2\3\1"),
            ("a putter counts itself in after its last try", waiting.wait_to_put, TRY_AGAIN, r"\2\3\1"),
            (
                "a waiter counts itself in by a plain store",
                waiting.enter,
                r"fetch_add\((.*), waiters, 1, .*\)",
                r"store(\1, waiters, load(\1, waiters) + 1)",
            ),
            (
                "a waiter counts itself in with a relaxed access",
                waiting.enter,
                r'(waiters, 1, )"seq_cst"',
                r'\1"relaxed"',
            ),
            ("a getter that is woken gives up", waiting.wait_to_get, r"( *)(leave.*\n)", r"\1\2\1return item\n"),
            ("a putter that is woken gives up", waiting.wait_to_put, r"( *)(leave.*\n)", r"\1\2\1return result\n"),
            ("a waker does not change the event", waiting.notify, r"fetch_add\(.*\)", "pass"),
            (
                "a waker changes the event after it wakes",
                waiting.notify,
                r"( *fetch_add.*\n)( *)if (wake\(.*?\))",
                r"\2woken = \3\n\1\2if woken",
            ),
            ("a waker wakes no thread", waiting.notify, r"wake\(.*?\)", "0"),
            ("a put does not check for getters", waiting.put_and_wake, r"load\(.*GETTERS.*\)", "False"),
            (
                "a put checks for getters before it puts",
                waiting.put_and_wake,
                r"    (done = .*)\n    if done and (load\(.*\)):",
                r"    waiting = \2\n    \1\n    if done and waiting:",
            ),
            ("a put checks for getters with an acquire load", waiting.put_and_wake, '"seq_cst"', '"acquire"'),
            ("a bulk put does not check for getters", handover.release_all, r"if load\(.*GETTERS.*\)", "if False"),
            ("a bulk put wakes only one", waiting.notify_many, r"range\(.*\)", "range(1)"),
            ("a bulk put leaves every other slot out", queue.put_items, r"= (_next\(.*\))", r"= _next(queue, \1)"),
            ("a bulk get leaves every other slot out", queue.get_items, r"= (_next\(.*\))", r"= _next(queue, \1)"),
            ("a get does not check for putters", waiting.get_and_wake, r"load\(.*PUTTERS.*\)", "False"),
            ("close wakes no thread", waiting.wake_everybody, r"wake\(.*\)", "pass"),
            ("close wakes only one", waiting.wake_everybody, "ALL_WAITERS", "1"),
            ("close does not change the events", waiting.wake_everybody, r"fetch_add\(.*\)", "pass"),
            ("close wakes before it closes", waiting.close_queue, r"(    store.*\n)([\s\S]*)", r"\2\1"),
            (
                "a getter checks whether the queue is closed after it found nothing",
                BoundedQueue._get_or_closed,
                r"( *)(item = .*)\n",
                r"\1\2\n\1closed = load(self._words, CLOSED_FLAG, 'seq_cst')\n",
            ),
        ],
    ),
    (
        OWNING,
        [
            (
                "a buffer is free before its owner word is",
                free_list.give,
                r"(    status = [\s\S]*)    if status == OK:\n *(release.*)\n",
                r"    \2\n\1",
            ),
            (
                "an owner word is freed by a plain store",
                owner.disown,
                r"not compare_and_swap\((.*?), owner, (.*)\):",
                r"store(\1, \2) is not None:",
            ),
            ("the owner of a buffer is not checked", owner.disown, r"(owner = .*)", r"\1; return OK"),
            ("an owner is not recorded", free_list.own, r"store\(.*\)", "pass"),
        ],
    ),
    (
        owners.CASES,
        [
            ("a put is refused while a bulk put is undecided", owner._disown_contested, r"owner > MARK", "True"),
            (
                "a put takes what a bulk put has put",
                owner._disown_contested,
                r"if fate == overruled or .*:",
                "if False:",
            ),
            (
                "a put takes a marked buffer and leaves the record",
                owner._disown_contested,
                r"compare_and_swap\(bulks, .*\)",
                "compare_and_swap(owners, place, owner, FREE)",
            ),
            ("an overruled bulk put restores all owners", owner._disown_all, r"if fate == _decided.*:", "if False:"),
            (
                "a bulk put is not decided before it frees",
                owner._disown_all,
                r"if marked == n and compare_and_swap\(.*\):",
                "if marked == n:",
            ),
            (
                "a refused bulk put removes its marks before it is decided",
                owner._disown_all,
                r"fate = _abort\(.*\)",
                "fate = load(bulks, record)",
            ),
            (
                "a bulk put commits by a plain store",
                owner._disown_all,
                r"compare_and_swap\(bulks, record, undecided, (.*)\):",
                r"store(bulks, record, \1) is None:",
            ),
            ("a bulk put may name a buffer twice", owner._put_mark_contested, r"owner == mark or ", ""),
            ("a bulk put takes the marks of another one", owner._put_mark_contested, r"fate = .*", "fate = undecided"),
        ],
    ),
    (
        coroutines.CASES,
        [
            ("a handover does not check for debts", handover.hand_over, r" *settle\(queue\)\n", ""),
            (
                "a coroutine that leaves does not check for debts",
                handover.take_request_back,
                r" *settle\(queue\)\n?",
                "",
            ),
            ("a debt is paid and not written off", handover.settle, r" *fetch_add\(.*\n", ""),
            (
                "a coroutine that leaves keeps its request",
                handover.take_request_back,
                r" *fetch_add\(.*REQUESTS.*\n",
                "",
            ),
            (
                "what was handed over is still asked for",
                handover.hand_over,
                r"requests, requests - 1",
                "requests, requests",
            ),
            ("event loops are not notified of a handover", handover.hand_over, r"notify_loops\(queue\)", "pass"),
            (
                "event loops are notified before the handover",
                handover.hand_over,
                r"( *put_item.*\n)( *notify_loops.*\n)",
                r"\2\1",
            ),
            ("event loops are not notified when no thread is woken", waiting.notify, r"notify_loops\(queue\)", "pass"),
            ("a coroutine is not among the getters", handover.ask, r" *fetch_add\(.*GETTERS.*\n", ""),
            ("a request that was stale is forgotten", handover.ask_again, r"if stale > 0", "if False"),
        ],
    ),
    (
        times.CASES,
        [
            (
                "a waiter whose time is over does not try again",
                waiting.wait_to_get,
                r"( *)if item != EMPTY:\n( *)return item\n?$",
                r"\1if item != EMPTY or now_ns() >= end:\n\2return item\n",
            ),
        ],
    ),
    (
        forks.CASES,
        [
            ("a child leaves what was on its way", fork.mend_pool, r"on_their_way \+= np.flatnonzero.*", "pass"),
            ("a child leaves the marks of bulk puts", fork.mend_pool, r"restore\(.*\)", "pass"),
            ("a child leaves pops that found nothing", deque.mend, r" *words\[base \+ POPS\] = .*\n", ""),
            ("a child leaves the chunks of threads that it has not", depot.mend, r" *seats\[np.*", ""),
            ("a child puts at the wrong place", fork._put, r"enumerate\(items, tail\)", "enumerate(items, tail + 1)"),
        ],
    ),
    *mutants_of_magazines.BUGS,
    *mutants_of_streams.BUGS,
    *mutants_of_processes.BUGS,
    *mutants_of_queues.BUGS,
]
MUTANTS = [Mutant(*bug, among) for among, bugs in BUGS for bug in bugs]
