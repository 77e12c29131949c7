"""Pieces: how the sources of a stream are divided, and what workers share while they read them.

Pieces of regular files are claimed in parallel (see `files`), those of pipes, sockets and terminals in turns (see
`turns`), and others are read ahead by a thread of their own (see `feed`).
"""

from __future__ import annotations

from typing import NamedTuple

from .._free.queue import LINE_PAIR

UNKNOWN = 2**62  # the size of a source that does not report one
PAD = 64  # bytes after a piece that kernels may read

# How a claim or a worker ends, beside -errno.
PIECE = 1
END = 0
STOPPED = -10_001
TORN = -10_002
TOO_LONG = -10_003
REPLACED = -10_004
ANOTHER = -10_005  # the next piece is of another source, which has a state of its own

# Words shared by the workers, two cache lines apart. CLAIMED, DONE and MAPPED are counters, each decided by one
# read-modify-write, which orders nothing; what they count is read by others only after the workers have ended. The
# others are described where they are used: STOP and TURN in `order`, WRITTEN in `output`, those from POSITION on in
# `turns`.
CLAIMED = 0 * LINE_PAIR  # claims made
DONE = 1 * LINE_PAIR  # bytes processed by the kernel
MAPPED = 2 * LINE_PAIR  # bytes among them that were mapped, not copied
SHORT_AT = MAPPED + 1  # the first position at which a read from a ring came short
STOP = 3 * LINE_PAIR
TURN = 4 * LINE_PAIR
WRITTEN = 5 * LINE_PAIR
POSITION = 6 * LINE_PAIR
NUMBER, ENDED, CARRIED, AHEAD, AHEAD_END = range(POSITION + 1, POSITION + 6)
STREAM_WORDS = 7 * LINE_PAIR

# Words of one worker.
AT, SOURCE, CLAIM = range(3)  # of its last piece: the position, the source, and the number, if it is yet to be read
MEASURES = 3  # the first of those of `mapping`
SCRATCH, SCRATCH_WORDS = 8, 33
WORKER_WORDS = SCRATCH + SCRATCH_WORDS


class Plan(NamedTuple):
    """How to divide sources into pieces, fixed before the workers start."""

    claims: int = 0  # how many there are
    length: int = 0  # bytes of a piece without its neighbours; of lines, those in which they begin
    mapped_length: int = 0  # the same of a piece that is mapped, and needs no buffer
    step: int = 0  # bytes of a piece at most, with its neighbours
    flags: int = 0  # to open files with
    align: int = 1  # offsets and lengths of reads are multiples of it
    congruent: int = 0  # 1: what is read gets an address that equals its offset in the last 12 bits
    record: int = 1
    item: int = 1  # bytes of what a kernel's `n` counts
    before: int = 0  # bytes of neighbours
    after: int = 0
    delimiter: int = 0  # the address of what ends a line
    delimiter_size: int = 0  # 0: pieces are not lines
    overlaps: int = 0  # 1: delimiters may overlap
    per_file: int = 0  # 1: each source has states of its own
    ordered: int = 0  # 1: kernels run in turns
    output: int = 0  # how `output` writes
    target: int = 0  # to which descriptor
    target_first: int = 0  # from which offset on
    target_most: int = 0  # and how many bytes at once
    output_item: int = 1
    # Of a source that is read in turns:
    fd: int = 0
    seekable: int = 0  # 1: it is read by offset
    first: int = 0  # the offset at which it begins
    size: int = 0  # bytes to read; UNKNOWN: to the end
    base: int = 0  # bytes of the sources before it
    source: int = 0  # its index
    packets: int = 0  # BYTES, MESSAGES or CONNECTED
    unit: int = 0  # smallest room for a read that cuts nothing off
    terminal: int = 0  # 1: EIO means the end
    nonblocking: int = 0  # 1: reads of `fd` do not wait
    ahead: int = 0  # the address of the read-ahead memory, with room for a unit
    carry: int = 0  # the address of the memory between two turns, with room for a step


NO_PLAN = Plan()
