"""Deliberate bugs in what processes share; in the form of `mutants`."""

from iobuf_nb._free import free_list, processes, waiting
from iobuf_nb._memory.process_slots import ProcessSlot
from iobuf_nb._pools import channel as channels

from .processes import CASES

SWAP, BY_STORE = r"compare_and_swap\((.*), \w+, (\w+)\)", r"store(\1, \2) is None"

STAMPED, IN_TIME, CLOSING = ([case for case in CASES if sign in case.name] for sign in ("stamps", "+", "|| CV"))

BUGS = [
    (
        CASES,
        [
            # The naive protocol: a get records the owner, and does not look.
            (
                "a get takes what it finds in the queue",
                processes.own_shared,
                r"compare_and_swap\((.*), FREE, (.*)\)",
                r"store(\1, \2) is None",
            ),
            ("a put takes from another process by a plain store", processes._disown_foreign, SWAP, BY_STORE),
            ("a shared bulk put may name a buffer twice", processes.disown_all_shared, r" or not comp.*\)\)", ""),
            (
                "a bulk put marks by a word that names no process",
                processes.disown_all_shared,
                r"-owner_word\(.*?\)",
                "-7",
            ),
            ("recovery frees by a plain store", processes.take_from, SWAP, BY_STORE),
            ("recovery leaves what a bulk put has marked", processes.take_from, r"abs\(owner\)", "owner"),
            ("recovery takes a long silence for death", processes.is_dead, r"return [\s\S]*", "return True\n"),
            (
                "recovery trusts a number that is not locked yet",
                processes.recover,
                r"( *)(number = load.*\n)([\s\S]*?)is_dead\(pool, slot\)",
                r"\1dead = is_dead(pool, slot)\n\1\2\3dead",
            ),
            (
                "a number is retired before its buffers",
                processes.recover,
                r"( *found \+= .*\n)( *compare_and_swap.*\n)",
                r"\2\1",
            ),
            ("recovery does not look for buffers that are in no queue", processes.recover, r"put_lost\(pool\)", "0"),
            ("a process that takes a slot leaves what the dead had", ProcessSlot.__init__, r"before\(last\)", "pass"),
            (
                "a process number is used again",
                ProcessSlot.__init__,
                r"\(abs\(last\) .*SLOT_BITS\) \+ 1",
                "abs(last) >> SLOT_BITS",
            ),
            (
                "a process gives up a slot that is recovered meanwhile",
                ProcessSlot._lock_one,
                r"last <= 0 or not clean",
                "(last <= 0) == clean",
            ),
            ("a sent buffer keeps its owner", processes.give_away, r"compare_and_swap\(.*\)", "True"),
            (
                "a receiver takes what it finds in the channel",
                processes.take_over,
                r"compare_and_swap\((.*), transit, (.*)\)",
                r"store(\1, \2) is None",
            ),
            ("a send that finds no room leaves its buffer in transit", channels.give, "not take_over.*:", "False:"),
            (
                "a receiver from a closed channel does not look for what is on its way",
                channels.take_next_or_closed,
                r" *resend.*\n",
                "",
            ),
            (
                "a receiver from a closed channel looks again only for what was lost",
                channels.take_next_or_closed,
                r"( *)resend\(channel\)\n *(index = .*\n)",
                r"\1if resend(channel):\n\1    \2",
            ),
            ("a bulk get takes what it finds in the queue", free_list.own_many, r"if own(.*):", r"if own\1 or 1:"),
            ("a get gives up at a stale entry", free_list.take, r"own_or_next\(.*\)", "EMPTY"),
            ("nobody looks for what is in transit and in no queue", processes.send_lost, r"lost = .*", "lost = False"),
            (
                "a waiter raises the flag before it reads the event",
                waiting.enter,
                r"( *seen = .*\n)( *store.*\n)",
                r"\2\1",
            ),
            ("a waiter does not raise the flag", waiting.enter, r" *store\(.*\n", ""),
            (
                "the flag is lowered after the event has changed",
                waiting.notify_processes,
                r"( *store.*\n)( *fetch_add.*\n)",
                r"\2\1",
            ),
            (
                "a waker that lowers the flag does not change the event",
                waiting.notify_processes,
                r"(store.*\n) *fetch_add.*\n",
                r"\1",
            ),
        ],
    ),
    (
        CLOSING,
        [
            (
                "a buffer is sent by a compare-and-swap that is not seq_cst",
                processes.give_away,
                '"seq_cst"',
                '"acq_rel"',
            ),
            ("what is in transit is looked for by acquire loads", processes.send_lost, '"seq_cst"', '"acquire"'),
            ("a send looks whether the channel is closed by an acquire load", waiting.offer, '"seq_cst"', '"acquire"'),
        ],
    ),
    (STAMPED, [("a put frees by a relaxed store", processes.disown_shared, "place, FREE", 'place, FREE, "relaxed"')]),
    (IN_TIME, [("a waiter does not look for the dead", waiting.wait_to_get, r"source._rescue\(\)", "pass")]),
]
