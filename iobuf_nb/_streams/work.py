"""Work: what the threads of a stream do, without the GIL: claim a piece, read it, run the user's kernel on it.

What exactly depends on the `Form` of a stream. numba sees its members as constants and leaves out what they exclude, so
that nothing is compiled that a stream does not need.

Every process that finds no cached code compiles these kernels, so they avoid what takes numba long: slice assignments,
`min` and `max`, and arrays where an address will do.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from .._free.free_list import give
from .._free.waiting import put_and_wake, wait_to_get
from .._jit.compile import kernel, tiny
from .._jit.faces import kernel_overload
from .._threads.libc import memcpy, memset
from ..atomics import fetch_add, load
from ..syscalls import PREAD, call_full
from .addresses import items_at
from .files import (
    BASE,
    CLAIMS_END,
    DONE_BYTES,
    FILE_WORDS,
    INDEX,
    KNOWN,
    LOW,
    MAPPING,
    ORIGIN,
    claimed,
    close_file,
    leave_file,
    note_short,
    open_file,
    read_lines,
    read_records,
)
from .mapping import MAPPED_BYTES, NEVER, PAGE, PRIVATE, enter_mapping, leave_mapping, note_cost, should_map, unmap
from .order import skip_turn, wait_for_turn
from .output import DELIVERED, deliver
from .pieces import (
    ANOTHER,
    AT,
    CLAIM,
    CLAIMED,
    DONE,
    END,
    MAPPED,
    NUMBER,
    PAD,
    PIECE,
    SCRATCH,
    SHORT_AT,
    SOURCE,
    STOP,
    STOPPED,
    TORN,
)
from .turns import claim_in_turn

#: Parameters that kernels may have after the first four, recognised by their names.
EXTRAS = ("output", "source", "before", "after")


class Form(NamedTuple):
    """What a stream needs of its workers; None stands for what it does not need."""

    lines: int | None  # pieces are lines, not records
    turns: int | None  # pieces take effect in order
    mapping: int | None  # files may be mapped
    extras: str | None  # the parameters that the kernel has after the first four, in their order

    @property
    def names(self) -> list[str]:
        """The parameters that the kernel has after the first four."""
        return (self.extras or "").split()


_PARAMETERS = "extras, function, items, n, offset, state, output, source, before, after"


@functools.cache
def _with_extras(extras: str) -> Any:
    """Make the function that calls a kernel with the parameters it has."""
    names = extras.split()
    call = f"function({', '.join(['items', 'n', 'offset', 'state', *names])})"
    body = f"return int({call})" if "output" in names else f"{call}\n    return 0"
    made: dict[str, Any] = {}
    exec(f"def call({_PARAMETERS}):\n    {body}", {"__name__": __name__}, made)
    return made["call"]


def _call(extras, function, items, n, offset, state, output, source, before, after):
    """Run a kernel that has more than four parameters; return how many items it has put into `output`, or 0."""
    return _with_extras(extras)(extras, function, items, n, offset, state, output, source, before, after)


@kernel_overload(_call, inline="always")
def _call_in_kernel(extras, function, items, n, offset, state, output, source, before, after):
    return _with_extras(extras.literal_value)


# ---- workers ---------------------------------------------------------------------------------------------------------


@tiny
def _run_on(extras, function, plan, words, address, n, offset, like, state, output, source, before, after):
    """Run `function` on a piece of `n` bytes between neighbours."""
    items = items_at(address, (before + n + after) // plan.item, like)
    count = 0
    if extras is None:
        function(items, n // plan.item, offset, state)
    else:
        count = _call(
            extras, function, items, n // plan.item, offset, state, output, source, before // plan.item,
            after // plan.item,
        )  # fmt: skip
    fetch_add(words, DONE, n, "relaxed")
    return count


@kernel
def _mapping_of(plan, files, row, fd, end, own):
    """Return the address of the first byte of a file if this worker's next piece is to be mapped, or 0."""
    if files[row + MAPPING] == NEVER:
        return 0
    wanted = should_map(files[row + MAPPING], own)
    reach = files[row + ORIGIN] + end + plan.after + PAD + (plan.step if plan.delimiter_size else 0)
    if wanted and reach <= -(-files[row + MAPPED_BYTES] // PAGE) * PAGE:
        return enter_mapping(files, row, fd)
    if load(files, row + PRIVATE, "relaxed") > 0 and enter_mapping(files, row, fd):
        # It was only to see whether somebody waits for the file. Mutant: "only workers that map look who waits"
        leave_mapping(files, row, fd)
    return 0


@kernel
def work_on_files(lines, turns, mapping, extras, function, plan, words, files, memory, output, like, state, own):
    """Run `function` on pieces of files until none is left: how it ended, and at which position.

    `like` is an array of the dtype that the kernel sees; `own` are the words of this worker.
    """
    row = own[SOURCE] * FILE_WORDS if own[SOURCE] >= 0 else 0
    number = own[CLAIM]
    while True:
        if number < 0:
            # Mutant: "a claim is counted after it was made"
            number = fetch_add(words, CLAIMED, 1, "relaxed")
        if number >= plan.claims:
            return END, 0
        while number >= files[row + CLAIMS_END]:  # a worker's numbers only grow
            row += FILE_WORDS
        own[CLAIM] = number
        if plan.per_file and row != own[SOURCE] * FILE_WORDS:
            own[SOURCE] = row // FILE_WORDS
            return ANOTHER, 0
        own[SOURCE] = row // FILE_WORDS
        begin, end = claimed(files, row, number)
        own[AT] = begin
        if load(words, STOP, "relaxed"):
            return STOPPED, begin
        fd = open_file(plan.flags, files, row, own[SCRATCH:])
        if fd < 0:
            return fd, begin
        known = begin == files[row + LOW] and files[row + KNOWN]
        mapped = 0
        if mapping is not None:
            mapped = _mapping_of(plan, files, row, fd, end, own)
        done = 0
        while begin < end:
            if lines is None:
                status, address, n, position, begin, before, after = read_records(
                    plan, files, row, fd, mapped, memory, begin, end
                )
            else:
                before = after = 0
                status, address, n, position, begin = read_lines(
                    plan, files, row, fd, mapped, memory, begin, end, known
                )
            known = True
            if status != PIECE:
                return status, position
            if n == 0:
                if mapping is not None and mapped and begin >= end:
                    leave_mapping(files, row, fd)
                if turns is not None and begin >= end:
                    skip_turn(words, number)
                continue
            own[AT] = position
            if turns is not None and plan.ordered and not wait_for_turn(words, number):
                return STOPPED, position
            count = _run_on(
                extras, function, plan, words, address, n, files[row + BASE] + position, like, state, output,
                files[row + INDEX], before, after,
            )  # fmt: skip
            done += n
            if mapping is not None and mapped and begin >= end:  # before the output, which may have to wait
                leave_mapping(files, row, fd)
            if turns is not None:
                status = deliver(plan, words, number, output, count, begin >= end)
                if status != DELIVERED:
                    return status, position
        fetch_add(files, row + DONE_BYTES, done, "relaxed")
        if mapping is not None:
            note_cost(files[row + MAPPING], own, done)
            if mapped:
                fetch_add(words, MAPPED, done, "relaxed")
        # Mutant: "a worker leaves a file before it has read its piece"
        if leave_file(files, row):
            if mapping is not None:
                unmap(files, row, fd)
            close_file(files, row)
        number = -1


@kernel
def work_in_turns(lines, turns, mapping, extras, function, plan, words, turn, memory, output, like, state, own):
    """Run `function` on pieces that are read in turns; otherwise as `work_on_files`."""
    while True:
        if wait_to_get(turn, -1) < 0:
            return STOPPED, 0
        status, address, n, position = claim_in_turn(plan, words, memory)
        number = load(words, NUMBER, "relaxed") - 1
        put_and_wake(turn, 0)  # Mutant: "a source is read on after its turn is passed"
        if status != PIECE or load(words, STOP, "relaxed"):
            return status, position
        own[AT] = position
        if turns is not None and plan.ordered and not wait_for_turn(words, number):
            return STOPPED, position
        count = _run_on(
            extras, function, plan, words, address, n, plan.base + position, like, state, output, plan.source, 0, 0
        )
        if turns is not None:
            status = deliver(plan, words, number, output, count, True)
            if status != DELIVERED:
                return status, position


# Words of a buffer that a thread has filled.
ADDRESS, BYTES, PLACE, NUMBERED, BEFORE, AFTER = range(6)
FED_WORDS = 8


@kernel
def work_on_fed(lines, turns, mapping, extras, function, plan, words, ready, pool, fed, output, like, state, own):
    """Run `function` on buffers that another thread fills; own[CLAIM] is the one at work; else as `work_on_files`."""
    while True:
        index = wait_to_get(ready, -1)
        if index < 0:
            return END, 0
        own[CLAIM] = index
        row = index * FED_WORDS
        number, position = fed[row + NUMBERED], fed[row + PLACE]
        own[AT] = position
        if load(words, STOP, "relaxed"):
            return STOPPED, position
        if turns is not None and plan.ordered and not wait_for_turn(words, number):
            return STOPPED, position
        address, n, before, after = fed[row + ADDRESS], fed[row + BYTES], fed[row + BEFORE], fed[row + AFTER]
        offset = plan.base + position
        count = _run_on(
            extras, function, plan, words, address, n, offset, like, state, output, plan.source, before, after
        )
        own[CLAIM] = -1
        give(pool, index)
        if turns is not None:
            status = deliver(plan, words, number, output, count, True)
            if status != DELIVERED:
                return status, position


@kernel
def work_on_ring(
    lines, turns, mapping, extras, function, plan, words, ready, pool, lengths, offsets, memory, output, like, state,
    own,
):  # fmt: skip
    """Run `function` on what io_uring has read; own[CLAIM] is the buffer at work; otherwise as `work_on_files`.

    It is copied to `memory`, because there is another buffer right behind it.
    """
    while True:
        index = wait_to_get(ready, -1)
        if index < 0:
            return END, 0
        own[CLAIM] = index
        position = offsets[index] - plan.first
        own[AT] = position
        left = plan.size - position
        want = plan.step if plan.step < left else left
        n = lengths[index]
        address = pool.arena + index * pool.stride
        if n < 0:
            return n, position
        if n < want and plan.align == 1:  # interrupted, or at the end
            more = call_full(PREAD, plan.fd, address + n, want - n, offsets[index] + n)
            if more < 0:
                return more, position + n
            n += more
        if n > want:
            n = want if want > 0 else 0
        if n < want:
            note_short(words, SHORT_AT, position + n)
        if n % plan.record:
            return TORN, position + n
        if load(words, STOP, "relaxed"):
            return STOPPED, position
        memcpy(memory, address, n)
        memset(memory + n, 0, PAD)
        if n:
            offset = plan.base + position
            _run_on(extras, function, plan, words, memory, n, offset, like, state, output, plan.source, 0, 0)
        own[CLAIM] = -1
        give(pool, index)
