"""A bounded FIFO of values of up to some hundred bytes: two queues of indices over one array.

The array is divided into *cells* of `_stride` words, each of which can hold a value. Every cell is free, full, or in
the hands of one thread. The indices of free cells are in one queue, those of full ones, oldest first, in another.

Put, three steps
    1. take a free cell;
    2. write the value into it;
    3. append it to the full ones: here the value enters the queue.

Get, three steps
    1. take the oldest full cell: here the value leaves the queue;
    2. read the value;
    3. append the cell to the free ones.

Why it is correct
    Between steps 1 and 3 nobody else knows the cell, because an index is in one of the queues at most. What was written
    before an index is put is seen by whoever gets it (P2 releases to G1), so that the words of a value need no order of
    their own: a reader sees the whole value, and the next writer does not disturb it.

What it promises
    Values come in the order of step 3, each once. A get finds nothing only if there is no value. A put finds no cell
    only if each of them holds a value or is between steps 1 and 3 of another thread. A thread that stops there blocks
    nobody, but keeps its cell; one that dies there takes the cell with it, and a getter the value, too.

Waiting
    Who waits for a value waits for a full cell, who waits for room for a free one, and each step 3 wakes one of them.
"""

from __future__ import annotations

from numba import types

from .._jit.compile import kernel
from .._jit.handle import WORD_POINTER, HandleType
from .._threads.outcomes import CLOSED, OK
from ..atomics import load, store
from .queue import CLOSED_FLAG, QUEUE_TYPE
from .waiting import close_queue, put_and_wake, wait_to_get


class CellsType(HandleType):
    """The numba type of what queues of values have in common, whatever their dtype is."""

    def __init__(self, name: str) -> None:
        # `_no_limit` is 0, where a queue of indices has its limit: so C methods of those know that this is none.
        numbers = [(each, types.int64) for each in ("capacity", "_stride", "_no_limit")]
        super().__init__(name, [("_cells", WORD_POINTER), *numbers, ("_free", QUEUE_TYPE), ("_full", QUEUE_TYPE)])


@kernel
def _fill(queue, cell, data, begin):
    """Append the value data[begin:] by a free cell: OK or CLOSED; or the status that stands in place of the cell."""
    if cell < 0:
        return cell
    # C2 acquires from C1. Mutants: "a value is put into a queue that was closed meanwhile",
    # "a put of a value that was too late keeps its cell"
    if load(queue._full._words, CLOSED_FLAG, "seq_cst"):
        put_and_wake(queue._free, cell)
        return CLOSED
    first = cell * queue._stride
    for k in range(queue._stride):
        store(queue._cells, first + k, data[begin + k], "relaxed")
    put_and_wake(queue._full, cell)
    return OK


@kernel
def _clear(queue, cell, data, begin):
    """Move the value of a full cell to data[begin:] and free the cell: OK; or the status in place of the cell."""
    if cell < 0:
        return cell
    first = cell * queue._stride
    for k in range(queue._stride):
        data[begin + k] = load(queue._cells, first + k, "relaxed")
    put_and_wake(queue._free, cell)
    return OK


@kernel
def put_value(queue, data, begin):
    """Append the value data[begin:]: OK, EMPTY if there is no free cell, or CLOSED."""
    return _fill(queue, queue._free._get_or_closed(), data, begin)


@kernel
def get_value(queue, data, begin):
    """Move the oldest value to data[begin:]: OK, EMPTY if there is none, CLOSED if there will be none."""
    return _clear(queue, queue._full._get_or_closed(), data, begin)


@kernel
def wait_to_put_value(queue, data, timeout_ns):
    """Do as `put_value` does, waiting for a free cell: what `wait_to_get` returns if there was none."""
    return _fill(queue, wait_to_get(queue._free, timeout_ns), data, 0)


@kernel
def wait_to_get_value(queue, data, timeout_ns):
    """Do as `get_value` does, waiting for a value: what `wait_to_get` returns if there was none."""
    return _clear(queue, wait_to_get(queue._full, timeout_ns), data, 0)


@kernel
def put_values(queue, data, n):
    """Append the `n` values of `data`, while there are free cells; return how many."""
    for k in range(n):
        if put_value(queue, data, k * queue._stride) != OK:
            return k
    return n


@kernel
def get_values(queue, data, n):
    """Move up to `n` values to `data`; return how many."""
    for k in range(n):
        if get_value(queue, data, k * queue._stride) != OK:
            return k
    return n


@kernel
def close_values(queue):
    """Refuse further puts, and wake all that wait for values or room."""
    close_queue(queue._full)
    close_queue(queue._free)


CELLS = CellsType("BoundedQueue of values")
