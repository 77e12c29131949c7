"""Mapping: when a file is read through a mapping instead of into a buffer, and how that stays safe.

A page of a mapping that lies behind the end of its file kills the process that touches it (SIGBUS). A *read lease*
(fcntl(2), F_SETLEASE) excludes that: while it is held, whoever opens the file for writing, or truncates it, is made to
wait. The holder is told by a signal, here one that is ignored by default, and by F_GETLEASE, which workers ask before
each claim. Then no further piece is mapped, and the worker that leaves the mapping last lets go of the lease. Linux
waits for that as long as ``/proc/sys/fs/lease-break-time`` says, 45 seconds by default. Where no lease is given (a file
that is open for writing or belongs to another user, most network file systems), nothing is mapped.

A worker that uses a mapping is counted; it counts itself in before it asks whether the lease is wanted. Who finds that
it is says that the file is not mapped, which stays so. Whoever leaves, sees that, and then sees that nobody is counted,
lets go. In a sequentially consistent order of these accesses, a worker that is not seen then has left, or will see that
the file is not mapped or that the lease is wanted, and the last of those who leave sees all others gone.

Kernels may write to what they get, so the mapping is private. Another one of the same file is for searching: it has the
bytes of the file whatever kernels do to theirs.

Which way is faster depends on the processor, the kernel and the page cache, so workers measure: they read some pieces,
map some, go on in the better way, and now and then try the other one again.
"""

from __future__ import annotations

from .._jit.compile import kernel
from .._threads.clock import FOREVER_NS, now_ns
from .._threads.libc import fcntl, lseek, mmap, munmap
from ..atomics import compare_and_swap, fetch_add, load, store
from .pieces import MEASURES

PAGE = 4096

# How to choose.
NEVER, MEASURE, ALWAYS = range(3)

# Words of a source that its workers share, and the addresses of its two mappings, 0 before there are any.
# PRIVATE: 0 if nobody has mapped the file yet, BEING_MAPPED, the address of the first byte, or NOT_MAPPED, for ever.
PRIVATE, USERS, MAPPED_AT, SEARCHED_AT, MAPPED_BYTES = range(4, 9)
NOT_MAPPED = -1
BEING_MAPPED = -2

# Words of one worker: pieces so far, what the last one was, when it began, and nanoseconds per MiB in both ways.
COUNT, WAY, START, COST = range(MEASURES, MEASURES + 4)  # COST + 1, too
_WARM_UP, _TRIAL, _AGAIN = 1, 3, 256

# Linux's values.
_F_SETSIG, _F_SETLEASE, _F_GETLEASE, _F_RDLCK, _F_UNLCK, _SIGURG = 10, 1024, 1025, 0, 2, 23
_PROT_READ, _PROT_WRITE, _MAP_SHARED, _MAP_PRIVATE, _MAP_NORESERVE = 1, 2, 1, 2, 0x4000
_SEEK_END = 2


@kernel
def enter_mapping(files, row, fd):
    """Begin to use the mapping of an open file: the address of its first byte, or 0 if the file must be read."""
    # X1 is ordered with X5. Mutants: "a worker enters a mapping without being counted",
    # "a worker counts itself in after it has asked for the lease", "a worker enters a mapping by relaxed accesses"
    fetch_add(files, row + USERS, 1, "seq_cst")
    # X2 is ordered with X3: who sees the address sees the mapping.
    address = load(files, row + PRIVATE, "seq_cst")
    # X3 is ordered with X2, X4. Mutants: "two workers map a file",
    # "a worker that maps a file says meanwhile that it is not mapped"
    if address == 0 and compare_and_swap(files, row + PRIVATE, 0, BEING_MAPPED, "seq_cst"):
        address = _map(files, row, fd)
        # X3 is ordered with X2, X4. Mutant: "a mapping is announced by a relaxed store"
        store(files, row + PRIVATE, address, "seq_cst")
    # Mutant: "nobody asks whether the lease is wanted back"
    if address > 0 and fcntl(fd, _F_GETLEASE, 0) != _F_RDLCK:
        # X3 is ordered with X2, X4. Mutant: "a mapping that is wanted back is not said to be over"
        store(files, row + PRIVATE, NOT_MAPPED, "seq_cst")
        address = 0
    if address <= 0:
        leave_mapping(files, row, fd)
        return 0
    return address


@kernel
def leave_mapping(files, row, fd):
    """End the use of a mapping, and let go of the lease if nobody may use it any more."""
    # X5 is ordered with X1, X5, before X4. Mutant: "a worker that leaves looks who else is there while it is counted"
    fetch_add(files, row + USERS, -1, "seq_cst")
    # X4 is ordered with X3; X5 is ordered with X1, X5, after X4. Mutants: "the lease is never let go",
    # "the lease is let go while the mapping is used", "the users are counted before the mapping is seen to be over",
    # "a worker leaves a mapping by relaxed accesses"
    if load(files, row + PRIVATE, "seq_cst") == NOT_MAPPED and load(files, row + USERS, "seq_cst") == 0:
        fcntl(fd, _F_SETLEASE, _F_UNLCK)


@kernel
def _map(files, row, fd):
    """Take a lease of a file and map it twice: the address of the first byte, or NOT_MAPPED."""
    fcntl(fd, _F_SETSIG, _SIGURG)
    if fcntl(fd, _F_SETLEASE, _F_RDLCK) < 0:
        return NOT_MAPPED
    size = files[row + MAPPED_BYTES]
    if lseek(fd, 0, _SEEK_END) < size:  # it became shorter before there was a lease; the position is ours
        return NOT_MAPPED
    private = mmap(0, size, _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_NORESERVE, fd, 0)
    searched = mmap(0, size, _PROT_READ, _MAP_SHARED, fd, 0)
    store(files, row + MAPPED_AT, private, "relaxed")
    store(files, row + SEARCHED_AT, searched, "relaxed")
    return NOT_MAPPED if private < 0 or searched < 0 else private


@kernel
def unmap(files, row, fd):
    """Remove the mappings of a file that nobody uses, and let go of its lease."""
    if load(files, row + MAPPED_AT, "relaxed") != 0:
        fcntl(fd, _F_SETLEASE, _F_UNLCK)  # a close is not enough if a forked process has the descriptor, too
    for word in (MAPPED_AT, SEARCHED_AT):
        address = load(files, row + word, "relaxed")
        if address > 0:
            munmap(address, files[row + MAPPED_BYTES])
            store(files, row + word, 0, "relaxed")


@kernel
def should_map(mapping, own):
    """Decide whether a worker's next piece is to be mapped, and note when it begins; `own` are the worker's words."""
    turn = own[COUNT] % _AGAIN
    own[COUNT] += 1
    own[WAY] = mapping
    if mapping == MEASURE:
        if turn < 2 * _TRIAL:
            own[WAY] = turn // _TRIAL
            if turn % _TRIAL < _WARM_UP:
                own[COST + own[WAY]] = FOREVER_NS
        else:
            own[WAY] = own[COST + 1] < own[COST]
        own[START] = now_ns()
    return own[WAY] > 0


@kernel
def note_cost(mapping, own, n):
    """Note how long the piece of `n` bytes took for which `should_map` decided; the shortest time counts."""
    turn = (own[COUNT] - 1) % _AGAIN
    if mapping == MEASURE and turn < 2 * _TRIAL and turn % _TRIAL >= _WARM_UP and n > 0:
        cost = ((now_ns() - own[START]) << 20) // n
        if cost < own[COST + own[WAY]]:
            own[COST + own[WAY]] = cost
