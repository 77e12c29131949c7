"""Deliberate bugs in `_streams`, in the form of `mutants`."""

from iobuf_nb._streams import blocks, crew, files, mapping, order, output, work

from . import crews, streams

LINE = r"( *{}.*\n)"
#: Each group with the cases that may catch it.
BUGS = [
    (
        streams.FILES,
        [
            (
                "a claim is counted after it was made",
                work.work_on_files,
                r"( *)number = fetch_add\(words, CLAIMED, 1, (.*)\)\n",
                r"\1number = fetch_add(words, CLAIMED, 0, \2)\n\1fetch_add(words, CLAIMED, 1, \2)\n",
            ),
            (
                "a worker leaves a file before it has read its piece",
                work.work_on_files,
                r"( *)(fd = open_file.*\n)([\s\S]*)if leave_file.*:",
                r"\1\2\1last = leave_file(files, row)\n\3if last:",
            ),
            (
                "a descriptor is read by a relaxed load",
                files.open_file,
                r'word = load\((.*), "acquire"\)',
                r'word = load(\1, "relaxed")',
            ),
            ("a descriptor is stored by a relaxed access", files.open_file, '"release"', '"relaxed"'),
            (
                "two workers open a file, and both store its descriptor",
                files.open_file,
                r"compare_and_swap\((.*), 0, (.*), .*\):",
                r"store(\1, \2) is None:",
            ),
            (
                "a worker that opened too late goes on with its own descriptor",
                files.open_file,
                r"status = load\(.*\) - 1",
                "status = fd",
            ),
            (
                "a worker that opened too late leaves its descriptor open",
                files.open_file,
                r"close\(fd\)",
                "pass",
            ),
            ("a file is closed too early", files.leave_file, "== 1", "<= 2"),
            ("a file is closed too late", files.leave_file, "== 1", "== 0"),
            (
                "where a file came short is noted by a plain store",
                files.note_short,
                r"not compare_and_swap\((.*), first, (.*), .*\):",
                r"store(\1, \2) is not None:",
            ),
        ],
    ),
    (
        streams.TURNS,
        [
            (
                "a worker parks on what TURN has become",
                order.wait_for_turn,
                r"park\(words, TURN, current",
                "park(words, TURN, load(words, TURN)",
            ),
            ("a passed turn wakes nobody", order.pass_turn, r"wake\(.*\)", "pass"),
            (
                "a turn is passed after the others are woken",
                order.pass_turn,
                LINE.format("fetch_add") + LINE.format("wake"),
                r"\2\1",
            ),
            (
                "a stop does not change the word that workers park on",
                order.stop_turns,
                r"fetch_or\(.*\)",
                "pass",
            ),
            ("a stop wakes nobody", order.stop_turns, r"wake\(.*\)", "pass"),
            (
                "a place in the output is taken before its turn",
                output.deliver,
                r"not wait_for_turn\(.*\)",
                "False",
            ),
            (
                "a turn is passed before the place in the output is taken",
                output.deliver,
                LINE.format("place =") + LINE.format("store") + r"( *if last:\n *pass_turn.*\n)",
                r"\3\1\2",
            ),
        ],
    ),
    (
        streams.SKIPS,
        [
            ("a turn is skipped before it has come", order.skip_turn, r"if wait_for_turn\(.*\)", "if True"),
            ("a skipped turn is not passed", order.skip_turn, r"pass_turn\(words\)", "pass"),
        ],
    ),
    (
        streams.CROWDS,
        [
            (
                "a turn is passed by a plain store",
                order.pass_turn,
                r"fetch_add\(words, TURN, 2,",
                "store(words, TURN, load(words, TURN) + 2,",
            ),
            ("a passed turn wakes only one", order.pass_turn, "ALL_WAITERS", "1"),
        ],
    ),
    (
        streams.WEAK_TURNS,
        [
            ("a turn is taken by a relaxed load", order.wait_for_turn, '"acquire"', '"relaxed"'),
            ("a turn is passed by a relaxed access", order.pass_turn, '"release"', '"relaxed"'),
        ],
    ),
    (
        streams.PIPES,
        [
            (
                "a source is read on after its turn is passed",
                work.work_in_turns,
                LINE.format("status, address") + LINE.format("number =") + LINE.format("put_and_wake"),
                r"\3\1\2",
            ),
        ],
    ),
    (
        streams.BLOCKS,
        [
            (
                "a block is handed out before its turn",
                blocks._fill_buffers,
                r" or \(n and not wait_for_turn\(.*\)\)",
                "",
            ),
            (
                "a turn is passed before its block is handed out",
                blocks._fill_buffers,
                r"( *if n:\n)([\s\S]*?)( *if begin >= end:\n *pass_turn.*\n)",
                r"\1\3\2",
            ),
        ],
    ),
    (
        streams.MAPS,
        [
            (
                "the claims of a file are counted by relaxed accesses",
                files.leave_file,
                '"acq_rel"',
                '"relaxed"',
            ),
        ],
    ),
    (
        streams.LEASES,
        [
            (
                "a worker enters a mapping without being counted",
                mapping.enter_mapping,
                r"fetch_add\(.*\)",
                "pass",
            ),
            (
                "a worker counts itself in after it has asked for the lease",
                mapping.enter_mapping,
                LINE.format("fetch_add") + r"([\s\S]*?)(    if address <= 0)",
                r"\2\1\3",
            ),
            (
                "two workers map a file",
                mapping.enter_mapping,
                r"compare_and_swap\((.*), 0, (.*), .*\):",
                r"store(\1, \2) is None:",
            ),
            (
                "a worker that maps a file says meanwhile that it is not mapped",
                mapping.enter_mapping,
                "BEING_MAPPED",
                "NOT_MAPPED",
            ),
            ("nobody asks whether the lease is wanted back", mapping.enter_mapping, r"if address > 0 .*", "if False:"),
            (
                "a mapping that is wanted back is not said to be over",
                mapping.enter_mapping,
                r"store\(.*NOT_MAPPED.*\)",
                "pass",
            ),
            (
                "a worker that leaves looks who else is there while it is counted",
                mapping.leave_mapping,
                LINE.format("fetch_add") + r"( *if .*\n *fcntl.*\n)",
                r"\2\1",
            ),
            ("the lease is never let go", mapping.leave_mapping, r"fcntl\(.*\)", "pass"),
            (
                "the lease is let go while the mapping is used",
                mapping.leave_mapping,
                r" and load\(.*USERS.*\) == 0",
                "",
            ),
            (
                "the users are counted before the mapping is seen to be over",
                mapping.leave_mapping,
                r"if (.*) and (.*):",
                r"if \2 and \1:",
            ),
            ("only workers that map look who waits", work._mapping_of, r"if load\(.*", "if False:"),
        ],
    ),
    (
        streams.WEAK_LEASES,
        [
            ("a worker enters a mapping by relaxed accesses", mapping.enter_mapping, '"seq_cst"', '"relaxed"'),
            (
                "a mapping is announced by a relaxed store",
                mapping.enter_mapping,
                r'address, "seq_cst"',
                'address, "relaxed"',
            ),
            ("a worker leaves a mapping by relaxed accesses", mapping.leave_mapping, '"seq_cst"', '"relaxed"'),
        ],
    ),
    (
        crews.CASES,
        [
            (
                "a thread is counted after it has looked whether it is too late",
                crew.Crew._guard,
                r"( *)(fetch_add\(.* 1, .*\n)([\s\S]*)if not self._over:",
                r"\1late = self._over\n\1\2\3if not late:",
            ),
            ("a thread that is too late works", crew.Crew._guard, r"if not self._over:", "if True:"),
            (
                "a crew looks who is at work before it says that it is over",
                crew.Crew.run,
                LINE.format("self._over = True") + r"( *)if self._at_work\[0\]:\n",
                r"\2working = self._at_work[0]\n\1\2if working:\n",
            ),
            ("a crew does not wait for those at work", crew.Crew.run, r"_outlast\(.*\)", "pass"),
            ("a thread is counted out by a relaxed access", crew.Crew._guard, '-1, "seq_cst"', '-1, "relaxed"'),
            ("a crew waits by relaxed loads", crew._outlast, '"seq_cst"', '"relaxed"'),
        ],
    ),
]
