"""Deliberate bugs in the depot, and in the gets and puts that go there; in the form of `mutants`."""

from iobuf_nb._free import depot, free_list, handover

from .depots import CASES

LAPS = [case for case in CASES if "lap" in case.name]

BUGS = [
    (
        CASES,
        [
            ("a slot is read by a relaxed load", depot._find, '"seq_cst"', '"relaxed"'),
            (
                "a search does not pass what is done",
                depot._find,
                "position = _after.*",
                "return position, slot, word, -1",
            ),
            (
                "a get of a chunk is a plain store",
                depot._take,
                r"not compare_and_swap\(words, slot, word, (.*), \"seq_cst\"\)",
                r"store(words, slot, \1, 'seq_cst')",
            ),
            ("a get leaves the state of an emptied chunk", depot._without, "return .* if .* else left", "return left"),
            ("a get of a part ends the chunk", depot._without, r"if count_of\(left\) == 0", "if left"),
            (
                "a chunk is read after it was taken",
                depot.take_chunks,
                r"( *)(load_many.*\n)( *if _take.*\n)",
                r"\3\1    \2",
            ),
            ("an index is read after it was taken", depot.take_one, r"( *index = .*\n)( *if _take.*\n)", r"\2    \1"),
            (
                "a seat is taken by a plain load",
                depot._put_chunk,
                r"swap\(words, seat, 0\)",
                "load(words, seat)",
            ),
            ("a chunk is put by a relaxed compare-and-swap", depot._put_chunk, '"seq_cst"', '"relaxed"'),
            (
                "a chunk is put before it is written",
                depot._put_chunk,
                r"( *store_many.*\n)([\s\S]*?)( *store\(words, seat)",
                r"\2\1\3",
            ),
            (
                "a put of a chunk is a plain store",
                depot._put_chunk,
                r"compare_and_swap\(words, slot, word, full, \"seq_cst\"\)",
                "store(words, slot, full, 'seq_cst') is None",
            ),
            (
                "a chunk is given up before it is put",
                depot._put_chunk,
                r"( *)done = False\n",
                r"\1done = False\n\1store(words, seat, 1 + chunk)\n",
            ),
            ("the chunk that was put stays in the seat", depot._put_chunk, r"chunk, done = .*, True", "done = True"),
            ("a depot is not known to be used", handover.release_all, r"store\(.*ELSEWHERE.*", "pass"),
            ("a bulk put drops what has no chunk", depot.put_chunks, "break", "return end"),
            (
                "chunks are not looked for again once the queue is empty",
                free_list.take_spare,
                r"load\(depot, slot, \"seq_cst\"\) == word",
                "True",
            ),
            (
                "a bulk get does not look for chunks again",
                free_list.take_many,
                r"again = taken < end .*",
                "again = False",
            ),
            (
                "a get looks whether the depot is used before it looks into the queue",
                free_list._take_free,
                r"( *)(index = .*\n)( *if index < 0 and )(load\(pool._queue.*?\))",
                r"\1used = \4\n\1\2\3used",
            ),
            (
                "a get looks by an acquire load whether the depot is used",
                free_list._take_free,
                'ELSEWHERE, "seq_cst"',
                "ELSEWHERE",
            ),
        ],
    ),
    (LAPS, [("a lead is not wrapped", depot._lead, r"minus\(word, (.*)\) >> _", r"(word - (\1)) >> _")]),
]
