"""Deliberate bugs in magazines and in the search of them, in the form of `mutants`."""

from iobuf_nb._free import deque, free_list
from iobuf_nb._pools import magazine

from . import magazines

AGAIN = r"""while True:
            index = \1
            if index != TAKEN:
                break
            top = load(words, base + TOP)
            if load(words, base + PUSHES) - load(words, base + POPS) <= top:
                break"""

HANDED_ON = [case for case in magazines.CASES if case.name.startswith("handed_on")]
#: What takes a memory of this kind to be seen, where all cases before those would take a minute.
RELAXED, NO_MEMBARRIER, IN_TSO = (
    [case for case in magazines.CASES if case.name.endswith(memory)] for memory in ("Relaxed", "NoMembarrier", "TSO")
)

#: Each group with the cases that may catch it.
BUGS = [
    (
        RELAXED,
        [
            ("a push is counted with a relaxed store", deque.push, r"pushes \+ 1", r'pushes + 1, "relaxed"'),
        ],
    ),
    (
        NO_MEMBARRIER,
        [
            ("an owner does not fence though thieves cannot", deque.order_own, r"        fence\(\)", "        pass"),
        ],
    ),
    (
        IN_TSO,
        [
            ("a thief leaves the fence out", deque.steal, r"fence_all\(words\) and ", ""),
            ("a thief fences for itself alone", deque.fence_all, r"heavy_fence\(\)", "fence() is None"),
        ],
    ),
    (
        HANDED_ON,
        [
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
        magazines.CASES,
        [
            (
                "a push is counted before its slot is written",
                deque.push,
                r"( *store\(.*SLOTS.*\n)( *store\(.*PUSHES.*\n)",
                r"\2\1",
            ),
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
            ("a thief does not count itself in", deque.steal, r" *fetch_add\(.*THIEVES, 1.*\n", ""),
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
]
