"""Deliberate bugs of queues of values and of bulk calls of queues, in the form of `mutants`."""

from iobuf_nb._free import values, waiting
from iobuf_nb._pools import bounded_queue

from . import queues

VALUES, BULK = (
    [case for case in (*queues.CASES, *queues.LARGE) if case.name.startswith(kind)] for kind in ("value", "some")
)
COPY_AND_HAND_ON = r"(    first = .*\n    for .*\n .*\n)( *put_and_wake.*\n)"
COUNT_AND_ASK, ASK_FIRST = r"( *done = .*\n)    if (load\(.*?\)) and", r"    waiting = \2\n\1    if waiting and"
SILENTLY = r'put_and_wake.__globals__["put_item"](queue.\1, cell)'

BUGS = [
    (
        VALUES,
        [
            ("a value is put before it is written", values._fill, COPY_AND_HAND_ON, r"\2\1"),
            ("a cell is free before its value is read", values._clear, COPY_AND_HAND_ON, r"\2\1"),
            ("the last word of a value stays behind", values._fill, r"range\(.*\)", "range(queue._stride - 1)"),
            ("values of two cells overlap", values._fill, r"cell \* queue._stride", "cell * (queue._stride - 1)"),
            ("a value wakes nobody", values._fill, r"put_and_wake\(queue\.(_full), cell\)", SILENTLY),
            ("a freed cell wakes nobody", values._clear, r"put_and_wake\(queue\.(_free), cell\)", SILENTLY),
            ("a value is put into a queue that was closed meanwhile", values._fill, r"load\(.*\):", "False:"),
            (
                "a put of a value that was too late keeps its cell",
                values._fill,
                r"put_and_wake\(queue._free.*\)",
                "pass",
            ),
            ("close does not tell who waits for room", values.close_values, r" *close_queue\(queue._free\)\n", ""),
            ("close does not tell who waits for a value", values.close_values, r" *close_queue\(queue._full\)\n?", ""),
        ],
    ),
    (
        BULK,
        [
            ("a bulk put wakes nobody", waiting.put_all_and_wake, r"load\(.*GETTERS.*?\)", "0"),
            ("a bulk get wakes nobody", waiting.get_all_and_wake, r"load\(.*PUTTERS.*?\)", "0"),
            ("a bulk get wakes only one", waiting.get_all_and_wake, "done - begin", "1"),
            (
                "a bulk put checks for getters before it puts",
                waiting.put_all_and_wake,
                COUNT_AND_ASK,
                ASK_FIRST,
            ),
            (
                "a bulk get checks for putters before it gets",
                waiting.get_all_and_wake,
                COUNT_AND_ASK,
                ASK_FIRST,
            ),
            ("a bulk put counts what found no room", waiting.put_all_and_wake, "return done", "return end"),
            ("a bulk put into a closed queue succeeds", bounded_queue.put_in_range, r"load\(.*\):", "False:"),
        ],
    ),
]
