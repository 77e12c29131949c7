"""Programs over the sources of a stream: each piece once, in its turn, mapped or not; in the form of `cases`.

Whole workers run, as `_streams.work` has them, over a system that is stood in for: its calls read and change words of
their own, in steps that order nothing, so that nothing but the library's accesses can. Each piece is one byte. Counters
that nobody reads before the end are left out: they would tell states apart that are the same to all.
"""

import ctypes
from types import SimpleNamespace

import numpy as np

from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb._free import waiting
from iobuf_nb._streams import blocks, files, mapping, order, output, turns, work
from iobuf_nb._streams.files import DONE_BYTES, FD, FILE_WORDS, SHORT
from iobuf_nb._streams.mapping import ALWAYS, COUNT, MEASURE, NEVER
from iobuf_nb._streams.order import stop_turns
from iobuf_nb._streams.output import NOWHERE, PLACED
from iobuf_nb._streams.pieces import (
    CLAIM,
    DONE,
    END,
    MAPPED,
    PIECE,
    STOP,
    STOPPED,
    STREAM_WORDS,
    UNKNOWN,
    WORKER_WORDS,
    Plan,
)
from iobuf_nb._streams.work import ADDRESS, FED_WORDS
from iobuf_nb._threads.clock import FOREVER_NS
from iobuf_nb._threads.parking import ALL_WAITERS, park, wake
from iobuf_nb.atomics import compare_and_swap, fetch_add, fetch_and, fetch_or, load, store, swap

from .cases import Case, case
from .memories import TSO, Relaxed

# ---- the system ------------------------------------------------------------------------------------------------------

MOST = 4  # files, pieces of a file, and descriptors of it
OPEN, CLOSED = 1, 2  # descriptors, of which no number is used again
WANTED, HELD_BY = 1, 2  # a lease: 1 if somebody wants to write the file, or does, and twice (1 + the descriptor)
MAPPED_FROM = 1 << 20  # the address of the mapping of descriptor 0, and the distance to the next
system = SimpleNamespace()


def new_system():
    """Make the words of a new system, and return them."""
    vars(system).clear()
    system.opens, system.leases, system.last = (np.zeros(MOST, np.int64) for _ in range(3))
    system.descriptors, system.maps, system.taken = (np.zeros(MOST**2, np.int64) for _ in range(3))
    system.written = np.zeros(2 * MOST**2, np.int64)
    return list(vars(system).values())


def open_path(path, flags, mode):
    number = fetch_add(system.opens, path - 1, 1, "relaxed")
    assert number < MOST, "a file is opened again and again"
    fd = (path - 1) * MOST + number
    store(system.descriptors, fd, OPEN, "relaxed")
    return fd


def statx(fd, path, flags, mask, address):
    (ctypes.c_int64 * 6).from_address(address)[5] = MOST
    return 0


def close(fd):
    assert swap(system.descriptors, fd, CLOSED, "relaxed") == OPEN, "a descriptor is closed that is not open"
    let_go(fd)


def require_open(fd):
    assert load(system.descriptors, fd, "relaxed") == OPEN, "a descriptor is used that is not open"


def take(piece):
    assert fetch_add(system.taken, piece, 1, "relaxed") == 0, "a piece is read twice"


def mmap(address, size, protection, flags, fd, offset):
    require_open(fd)
    fetch_add(system.maps, fd, 1, "relaxed")
    return MAPPED_FROM * (fd + 1)


def lseek(fd, offset, whence):
    require_open(fd)
    return 1 << 40


def munmap(address, size):
    assert fetch_add(system.maps, address // MAPPED_FROM - 1, -1, "relaxed") > 0, "a file is unmapped twice"


def touch(address):
    """Read a byte of a mapping."""
    fd = address // MAPPED_FROM - 1
    assert load(system.maps, fd, "relaxed") > 0, "a byte is touched that is not mapped"
    assert load(system.leases, fd // MOST, "relaxed") // HELD_BY == fd + 1, "a mapping is used without a lease"


def let_go(fd):
    if load(system.leases, fd // MOST, "relaxed") // HELD_BY == fd + 1:
        fetch_and(system.leases, fd // MOST, WANTED, "relaxed")
        wake(system.leases, fd // MOST, ALL_WAITERS, False)


def fcntl(fd, command, argument):
    require_open(fd)
    if command == mapping._F_GETLEASE:
        return mapping._F_UNLCK if fetch_or(system.leases, fd // MOST, 0, "relaxed") != HELD_BY * (fd + 1) else 0
    if command == mapping._F_SETLEASE and argument == mapping._F_UNLCK:
        let_go(fd)
    elif command == mapping._F_SETLEASE:
        return compare_and_swap(system.leases, fd // MOST, 0, HELD_BY * (fd + 1), "relaxed") - 1
    return 0


def want_lease(got):
    fetch_or(system.leases, 0, WANTED, "relaxed")


def write_file(got):
    """Open the first file to write to it, which waits until no worker has a lease of it."""
    want_lease(got)
    while (held := fetch_or(system.leases, 0, 0, "relaxed")) >= HELD_BY:
        park(system.leases, 0, held, FOREVER_NS, False)


def write_output(number, fd, address, size, place):
    items = (ctypes.c_int64 * (size // 8)).from_address(address)
    for k, item in enumerate(items, place // 8):
        assert compare_and_swap(system.written, k, 0, item, "relaxed"), "output is written to one place twice"
    return size


# ---- workers ---------------------------------------------------------------------------------------------------------


class Failure(Exception):
    """What the kernel of a stream raises."""


def read_piece(bases, short):
    """Return pread, for files that begin at `bases`; the pieces `short` are no longer there."""

    def call_full(number, fd, address, want, offset):
        require_open(fd)
        piece = bases[fd // MOST] + offset
        take(piece)
        return 0 if piece in short else want

    return call_full


def items_of(piece):
    """Return what the kernel writes for a piece: one item, two, or none."""
    return [piece + 1] * (1, 2, 0)[piece % 3]


def kernel_of(form, short, fails):
    """Return the kernel of a stream, which raises at the piece `fails`."""

    def call(items, n, offset, state, out=None):
        if items >= MAPPED_FROM:
            touch(items)
            take(offset)
        if offset == fails:
            raise Failure
        if "ordered" in form:
            before = max((k + 1 for k in range(offset) if k not in short), default=0)
            assert load(system.last, 0, "relaxed") == before, "kernels run out of order"
            store(system.last, 0, offset + 1, "relaxed")
        if out is not None:
            written = items_of(offset)
            out[: len(written)] = written
            return len(written)

    return call


def count(words, i, value, order):
    """Stand for fetch_add: counters that nobody reads before the end are left out."""
    return 0 if i in (DONE, MAPPED) or i % FILE_WORDS == DONE_BYTES else fetch_add(words, i, value, order)


def plan_of(form, **more):
    return Plan(
        length=1,
        mapped_length=1,
        step=1,
        ordered=int("ordered" in form),
        output=PLACED if "output" in form else NOWHERE,
        output_item=8,
        **more,
    )


def form_of(form, map_it=NEVER):
    """Return what is needed of workers, as `_streams.work` has it."""
    in_turns = 0 if form in ("ordered", "output") else None
    return work.Form(None, in_turns, None if map_it == NEVER else 0, "output" if form == "output" else None)


def worker(words, run, k=0):
    """Return what a thread of a crew does: it runs a worker, and stops the crew if that fails."""

    def operation(got):
        own = np.zeros(WORKER_WORDS, np.int64)
        own[CLAIM], own[COUNT] = -1, 0 if k else 4  # where mapping is measured, the first one maps
        try:
            ended, _ = run(np.zeros(2, np.int64), own)
        except Failure:
            ended = "failed"
        if ended not in (END, PIECE, STOPPED):
            stop_turns(words)
        return ended

    return [("W", operation)]


def words_of(pieces, claim=1, map_it=NEVER):
    """Make the words of a stream of files with so many pieces, and those of its sources."""
    rows = np.zeros((len(pieces), FILE_WORDS), np.int64)
    system.bases = (np.cumsum(pieces) - pieces).tolist()
    rows[:, files.PATH] = np.arange(len(pieces)) + 1
    rows[:, files.HIGH] = rows[:, files.LAST] = rows[:, files.TOTAL] = rows[:, mapping.MAPPED_BYTES] = pieces
    rows[:, files.BASE] = system.bases
    rows[:, files.LENGTH], rows[:, files.MAPPING], rows[:, SHORT] = claim, map_it, UNKNOWN
    rows[:, files.CLAIMS] = rows[:, files.LEFT] = -(-np.array(pieces) // claim)
    rows[:, files.CLAIMS_END] = np.cumsum(rows[:, files.CLAIMS])
    system.rows, system.words = rows, np.zeros(STREAM_WORDS, np.int64)
    return system.words, rows.reshape(-1)


def files_case(pieces, workers, form="records", map_it=NEVER, claim=1, short=(), fails=None, more=""):
    """Workers read files of so many pieces, `claim` of which are claimed at once.

    In `form`, "ordered" or "output"; more threads: S stops the crew, X writes to the first file.
    """

    def program():
        arrays = new_system()
        words, table = words_of(pieces, claim, map_it)
        system.call_full = read_piece(system.bases, short)
        plan = plan_of(form, claims=int(system.rows[-1, files.CLAIMS_END]))
        kernel = kernel_of(form, short, fails)

        def run(out, own):
            return work.work_on_files(*form_of(form, map_it), kernel, plan, words, table, 0, out, None, 0, own)

        others = {"S": ("S", lambda got: stop_turns(words)), "X": ("X", write_file)}
        threads = [worker(words, run, k) for k in range(workers)] + [[others[letter]] for letter in more]
        return [words, table, *arrays], threads

    def check(results):
        rows = system.rows
        total = sum(pieces)
        open_now = set(np.flatnonzero(system.descriptors == OPEN).tolist())
        assert open_now <= {fd - 1 for fd in rows[:, FD].tolist()}, "a descriptor is left open"
        assert max(system.opens) <= workers, "a worker opened a file twice"
        ends = [result for ((name, result),) in results if name == "W"]
        assert system.taken.max() <= 1
        if system.words[STOP]:
            assert fails is not None or "S" in more, "nobody had a reason to stop"
            return
        assert ends == [END] * workers and fails is None, "a worker has failed"
        assert not open_now and not rows[:, FD].any(), "a file is left open"
        assert not system.maps.any() and not rows[:, mapping.MAPPED_AT].any(), "a file is left mapped"
        assert system.taken[:total].all(), "a piece is left out"
        done = [k for k in range(total) if k not in short]
        if "output" in form:
            expected = [item for k in done for item in items_of(k)]
            assert system.written.tolist() == expected + [0] * (len(system.written) - len(expected)), "wrong output"
        for k, base in enumerate(system.bases):
            here = [piece - base for piece in short if base <= piece < base + pieces[k]]
            assert rows[k, SHORT] == min(here, default=UNKNOWN), "it is not noted where a file has become shorter"

    return program, None, check


def turns_case(pieces, workers, form="records"):
    """Workers read, in turns, a source that only one can read at a time."""

    def program():
        arrays = new_system()
        system.descriptors[0] = OPEN
        system.call_full = read_piece([0], ())
        words, turn = np.zeros(STREAM_WORDS, np.int64), BoundedQueue(1)
        turn.put(0)
        plan = plan_of(form, seekable=1, size=pieces)
        kernel = kernel_of(form, (), None)

        def run(out, own):
            return work.work_in_turns(*form_of(form), kernel, plan, words, turn, 0, out, None, 0, own)

        return [words, turn._words, *arrays], [worker(words, run) for _ in range(workers)]

    def check(results):
        assert system.taken.tolist() == [1] * pieces + [0] * (len(system.taken) - pieces), "a piece is left out"
        expected = [item for k in range(pieces) for item in items_of(k)] if "output" in form else []
        assert system.written[: len(expected)].tolist() == expected, "wrong output"

    return program, None, check


class Plain(np.ndarray):
    """Words that are accessed without atomics: something else must order that."""

    def __getitem__(self, i):
        return load(self.view(np.ndarray), i, "relaxed")

    def __setitem__(self, i, value):
        store(self.view(np.ndarray), i, value, "relaxed")


def blocks_case(pieces, workers, buffers):
    """Workers read pieces of one file into buffers, which the last thread takes in order, as `blocks` does."""

    def program():
        arrays = new_system()
        words, table = words_of([pieces])
        pool, ready = BufferPool(buffers, 1, checked=False), BoundedQueue(buffers)
        fed, inside = (np.zeros(buffers * FED_WORDS, np.int64) for _ in range(2))
        plan = plan_of("ordered", claims=pieces)

        def call_full(number, fd, address, want, offset):
            take(offset)
            store(inside, (address - pool.arena) // pool.stride, offset, "relaxed")
            return want

        def read(got):
            own = np.zeros(WORKER_WORDS, np.int64)
            return blocks._fill_buffers(plan, words, table, pool, ready, fed.view(Plain), own)[0]

        def consume(number):
            def operation(got):
                index = waiting.wait_to_get(ready, -1)
                assert load(inside, index, "relaxed") == number, "a piece is not in its place"
                address = load(fed, index * FED_WORDS + ADDRESS, "relaxed")
                assert address == pool.arena + index * pool.stride, "it is not known where a piece is"
                pool.put(index)

            return "B", operation

        system.call_full = call_full
        consumer = [consume(number) for number in range(pieces)]
        return [words, table, pool._queue._words, ready._words, fed, inside, *arrays], [
            *([("W", read)] for _ in range(workers)),
            consumer,
        ]

    def check(results):
        assert [result for thread in results for name, result in thread if name == "W"] == [END] * workers

    return program, None, check


def lease_case(scripts):
    """M is a piece of one file that is mapped if it may be, R one that is read; X wants to write to the file.

    Once X does, the lease must be let go when a piece has begun after it, and all have ended.
    """

    def program():
        arrays = new_system()
        system.descriptors[0] = OPEN
        table = np.zeros(FILE_WORDS, np.int64)
        table[mapping.MAPPED_BYTES], table[files.MAPPING] = MOST, MEASURE

        def piece(enter):
            def operation(got):
                wanted = fetch_or(system.leases, 0, 0, "relaxed") & WANTED
                if address := enter():
                    touch(address)
                    mapping.leave_mapping(table, 0, 0)
                return wanted

            return operation

        def look():
            return work._mapping_of(Plan(), table, 0, 0, 1, np.zeros(WORKER_WORDS, np.int64))

        code = {
            "M": ("M", piece(lambda: mapping.enter_mapping(table, 0, 0))),
            "R": ("R", piece(look)),
            "X": ("X", want_lease),
        }
        return [table, *arrays], [[code[letter] for letter in script] for script in scripts]

    def check(results):
        begun = any(result for thread in results for name, result in thread if name in "MR")
        assert not (begun and system.leases[0] >= HELD_BY), "a lease that is wanted is not let go"
        assert system.maps[0] <= 2, "a file is mapped twice"

    return program, None, check


class StreamCase(Case):
    sizes = (
        *((files, each.__name__, each) for each in (open_path, statx, close)),
        *((mapping, each.__name__, each) for each in (fcntl, lseek, mmap, munmap)),
        *((module, "call_full", lambda *arguments: system.call_full(*arguments)) for module in (files, work)),
        (output, "call_full", write_output),
        (output, "GUARD", 0),
        *((module, "memset", lambda address, byte, n: None) for module in (files, turns)),
        (work, "items_at", lambda address, n, like: address),
        *((module, "fetch_add", count) for module in (blocks, work)),
        *((module, "SPIN_TURNS", 0) for module in (order, waiting)),
    )


def stream_case(*arguments, **more):
    return case(*arguments, cls=StreamCase, **more)


FORMS = ("ordered", "output")
FILES = [
    *(stream_case(files_case, pieces, 2) for pieces in ((1,), (2,), (1, 1), (3,), (1, 1, 1), (2, 1))),
    stream_case(files_case, (1, 1), 3),
    stream_case(files_case, (2, 2), 2, claim=2),
    stream_case(files_case, (3,), 2, fails=1),
    stream_case(files_case, (3,), 2, short=(1, 2)),
    *(stream_case(files_case, pieces, 2, memory=memory) for memory in (TSO, Relaxed) for pieces in ((2,), (1, 1))),
]
TURNS = [
    *(stream_case(files_case, (2,), 2, form) for form in FORMS),
    *(stream_case(files_case, (3,), 2, form, fails=1) for form in FORMS),
    stream_case(files_case, (1, 1), 3, "ordered"),
    *(stream_case(files_case, (2,), 2, form, more="S") for form in FORMS),
    stream_case(files_case, (4,), 2, "output", claim=2),
    stream_case(files_case, (1, 2), 2, "output"),
]
SKIPS = [stream_case(files_case, (3,), 2, form, short=(1,)) for form in FORMS]
CROWDS = [
    stream_case(files_case, (3,), 3, "output", preemptions=1),
    stream_case(files_case, (3,), 3, "output", fails=1, preemptions=2),
]
WEAK_TURNS = [stream_case(files_case, (2,), 2, form, memory=memory) for memory in (TSO, Relaxed) for form in FORMS]
PIPES = [
    *(stream_case(turns_case, 2, 2, form, preemptions=1) for form in FORMS),
    stream_case(turns_case, 2, 2, "ordered", preemptions=1, memory=Relaxed),
]
BLOCKS = [
    stream_case(blocks_case, 2, 1, 2, preemptions=2),
    stream_case(blocks_case, 2, 2, 3, preemptions=1),
    stream_case(blocks_case, 2, 1, 2, preemptions=1, memory=Relaxed),
]
MAPS = [
    stream_case(files_case, (1, 1), 2, map_it=ALWAYS),
    *(stream_case(files_case, (2,), 2, map_it=map_it, more="X", preemptions=1) for map_it in (ALWAYS, MEASURE)),
    *(stream_case(files_case, (2,), 2, map_it=MEASURE, memory=memory, preemptions=2) for memory in (TSO, Relaxed)),
]
LEASES = [
    *(stream_case(lease_case, scripts) for scripts in (("M", "X"), ("M", "R", "X"), ("M", "M", "X"), ("MM", "M", "X"))),
    stream_case(lease_case, ("M", "M", "XM"), preemptions=2),
    stream_case(lease_case, ("M", "R", "X"), memory=TSO),
]
WEAK_LEASES = [stream_case(lease_case, ("M", "M", "X"), memory=memory) for memory in (TSO, Relaxed)]
CASES = [*FILES, *TURNS, *SKIPS, *CROWDS, *WEAK_TURNS, *PIPES, *BLOCKS, *MAPS, *LEASES, *WEAK_LEASES]
LARGE = [stream_case(files_case, (2, 1), 3, preemptions=2)]
