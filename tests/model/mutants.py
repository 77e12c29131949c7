"""Deliberate bugs in the library's own source, and which case catches each: what a checker that passes is worth.

A mutant is a function of the library, a pattern in its source, and what stands there instead. The function is compiled
anew and its code put in the place of the old, so that whoever has it runs the mutant.
"""

import functools
import inspect
import re
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass

from iobuf_nb._free import depot, deque, free_list, handover, queue, waiting
from iobuf_nb._free import owners as owner
from iobuf_nb._pools import fork, magazine
from iobuf_nb._pools.bounded_queue import BoundedQueue

from . import (
    cases,
    coroutines,
    forks,
    magazines,
    mutants_of_depots,
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

    @functools.cache  # noqa: B019 (there are only those below)
    def caught(self):
        """Return the first case that catches it, and what is wrong there."""
        with self.applied():
            for case in self.among:
                try:
                    case.run()
                except Violation as violation:
                    return case.name, str(violation).partition("\n")[0]
        raise AssertionError(f"nothing catches that {self.bug}")


TRY_AGAIN = r"( *seen = .*\n)( *)((?:item|result) = .*\n)"
READ_LATE = r"\1\2\3\2seen = load(words, GETTERS + 1, 'seq_cst')\n"
FIND, HINT = r"( *)if compare_and_swap(.*)\n", r" *(store.*)\n"
AGAIN = r"""while True:
            index = \1
            if index != TAKEN:
                break
            top = load(words, base + TOP)
            if load(words, base + PUSHES) - load(words, base + POPS) <= top:
                break"""
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
                r"(    identity = [\s\S]*)    if status == OK:\n *(release.*)\n",
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
        magazines.CASES,
        [
            (
                "a push is counted before its slot is written",
                deque.push,
                r"( *store\(.*SLOTS.*\n)( *store\(.*PUSHES.*\n)",
                r"\2\1",
            ),
            ("a push is counted with a relaxed store", deque.push, r"pushes \+ 1", r'pushes + 1, "relaxed"'),
            (
                "a pop is uncounted before the race for the top",
                deque._finish,
                r"( *index = .*\n)(?: *#.*\n)*( *store\(.*POPS.*\n)",
                r"\2\1",
            ),
            ("an owner does not check for thieves", deque.pop, r" or \(bottom == top and thieves\)", ""),
            ("an owner with thieves leaves them the last but one too", deque.pop, "bottom == top", "bottom <= top + 1"),
            (
                "an owner reads the top before it checks for thieves",
                deque.pop,
                r"( *thieves = .*\n)( *top = .*\n)",
                r"\2\1",
            ),
            ("an owner does not fence though thieves cannot", deque.order_own, r"        fence\(\)", "        pass"),
            ("a thief does not count itself in", deque.steal, r" *fetch_add\(.*THIEVES, 1.*\n", ""),
            ("a thief leaves the fence out", deque.steal, r"fence_all\(words\) and ", ""),
            ("a thief fences for itself alone", deque.fence_all, r"heavy_fence\(\)", "fence() is None"),
            (
                "a thief takes without a compare-and-swap",
                deque._take_top,
                r"if compare_and_swap\((.*), top, top \+ 1, .*\) else",
                r"if store(\1, top + 1) is None else",
            ),
            (
                "a thief reads its slot after it has won it",
                deque._take_top,
                r"( *)index = (.*)\n.*(compare_and_swap.*) else.*",
                r"\1return \2 if \3 else TAKEN",
            ),
            ("a thief that was too slow reports an empty deque", deque._take_top, "TAKEN", "EMPTY"),
            ("a bulk pop takes what thieves may take", deque.pop_many, r" \+ \(thieves > 0\)", ""),
            ("a bulk pop counts what thieves took from it", deque.pop_many, r"pops \+ taken", "pops + n"),
            ("a magazine is released by a relaxed store", magazine.Magazine.release, "0\\)", '0, "relaxed")'),
            (
                "a thread takes a magazine by a plain store",
                magazine.adopt,
                r"not compare_and_swap\((.*?), 0, (.*)\):",
                r"load(\1) or store(\1, \2):",
            ),
        ],
    ),
    (
        magazines.EMPTINESS,
        [
            (
                "the queue is checked before the deques",
                free_list._take_any,
                r"(    lost = False\n(?:.*\n)*?)(    index = take_spare.*\n)",
                r"    last = get_item(queue)\n    if last >= 0:\n        return last\n\1    index = last\n",
            ),
            ("there is no fence before the second look", free_list._look, r"not fence_all\(words\)", "False"),
            ("the proof is read by an acquire load", free_list._look, r'EMPTINESS, "seq_cst"\)', "EMPTINESS)"),
            (
                "a search says that it is proven before it looks",
                free_list._look,
                r"SUSPICIONS, 2\) \+ 1",
                "SUSPICIONS, 2) + 2",
            ),
            ("a suspicion has no number", free_list._look, r"fetch_add\(.*\)", "0"),
            (
                "a search proves what was refuted",
                free_list._look,
                r"not compare_and_swap\(words, EMPTINESS, suspicion, (.*), \"seq_cst\"\)",
                r"store(words, EMPTINESS, \1) is not None",
            ),
            (
                "a search that was too slow says that it is proven",
                free_list._look,
                r"if index == EMPTY and not (compare_and_swap\(words, EMPTINESS, suspicion, .*\)):",
                r"if index == TAKEN:\n        index = EMPTY\n    if index == EMPTY and not \1:",
            ),
            (
                "a put checks for getters only before it pushes",
                magazine.put_free,
                r"load\(words, GETTERS\) \|",
                "0 |",
            ),
            (
                "a bulk put checks for getters only before it pushes",
                magazine.give_many_to,
                r"load\(words, GETTERS\) \|",
                "0 |",
            ),
            (
                "a push does not refute that all is empty",
                magazine.put_free,
                r" \| load\(pool\._deques, EMPTINESS, .*\)",
                "",
            ),
            (
                "a bulk put does not refute that all is empty",
                magazine.give_many_to,
                r" \| load\(pool\._deques, EMPTINESS, .*\)",
                "",
            ),
            (
                "a push refutes before it counts",
                magazine.put_free,
                r"(    if not keeps[\s\S]*) \| (load\(pool\._deques, EMPTINESS, .*?\))",
                r"    proven = \2\n\1 | proven",
            ),
            (
                "a push refutes by a plain store",
                magazine.tell,
                r"swap\(.*\)",
                "store(deques, EMPTINESS, 0)",
            ),
            ("a put to a magazine checks by an acquire load", magazine.tell, r'GETTERS, "seq_cst"', "GETTERS"),
            ("a bulk put to a magazine wakes nobody", magazine.tell, r"range\(.*\)", "range(0)"),
        ],
    ),
    (
        [case for case in magazines.CASES if case.name.startswith("endless")],
        [
            ("a search never counts itself in", free_list.seek, r" *fetch_add\(.*GETTERS, 1.*\n", ""),
            ("a thief goes on until it has won", deque.steal, r"index = (_take_top.*)", AGAIN),
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
    *mutants_of_depots.BUGS,
    *mutants_of_streams.BUGS,
    *mutants_of_processes.BUGS,
    *mutants_of_queues.BUGS,
]
MUTANTS = [Mutant(*bug, among) for among, bugs in BUGS for bug in bugs]
