"""Files: how workers share any number of regular files, and memory, and read their pieces by offset.

The pieces of all files are numbered in one row, and one fetch-and-add claims the next, or several of a large file. The
worker that first comes to a file opens it (when two come at once, one of them closes its own again), and the one that
has done its last piece closes it: so only as many files are open as are being read.
"""

from __future__ import annotations

import errno

from .._free.queue import LINE_PAIR
from .._jit.compile import kernel
from .._threads.libc import close, last_error, memcpy, memset, open_path, statx
from ..atomics import compare_and_swap, fetch_add, load, store
from ..syscalls import PREAD, call_full
from .lines import first_cut, last_cut
from .mapping import MAPPED_AT, SEARCHED_AT
from .pieces import PAD, PIECE, REPLACED, TOO_LONG, TORN

# Words of one source. All positions are in bytes from its beginning. The first four, and five of `mapping`, are shared
# by the workers. The others do not change.
FD = 0  # 1 + the descriptor; 0: nobody has opened it yet
LEFT = 1  # claims that are not done
SHORT = 2  # the first position at which a read came short
DONE_BYTES = 3  # processed by the kernel
CLAIMS_END = 9  # the number of the claim after its last one
CLAIMS = 20
PATH = 10  # the address of its path; 0: the descriptor is not ours
MEMORY = 11  # the address of its bytes; 0: it is a file
ORIGIN = 12  # the offset at which it begins
LOW, HIGH, TOTAL = 13, 14, 15  # what is to be read of it, and its size
BASE = 16  # bytes of the sources before it
INODE = 17
MAPPING = 18  # whether to map it; see `mapping`
INDEX = 19
KNOWN = 21  # 1: a line begins at LOW
LENGTH = 22  # bytes of a claim: one piece, or several of a large file
FIRST, LAST = 23, 24  # within these it has neighbours
FILE_WORDS = 2 * LINE_PAIR

_O_NONBLOCK = 0o4000
_AHEAD = 1024  # bytes that are read at once beyond a claim, to find where its last line ends
_AT_FDCWD, _AT_EMPTY_PATH, _STATX_INO_SIZE, _STATX_MODE_INO_SIZE = -100, 0x1000, 0x300, 0x303


@kernel
def open_file(flags, files, row, scratch):
    """Return the descriptor of a source, which is opened if it is not yet, or -errno; `scratch` is 33 words of 0."""
    # F2 acquires from F1: what another worker has opened is open. Mutant: "a descriptor is read by a relaxed load"
    word = load(files, row + FD, "acquire")
    if word or files[row + MEMORY]:
        return word - 1 if word else 0
    path = files[row + PATH]
    fd = open_path(path, flags, 0)
    if fd < 0 and last_error() == errno.EWOULDBLOCK:  # another process has a lease of it, and is asked to let go
        fd = open_path(path, flags & ~_O_NONBLOCK, 0)
    if fd < 0:
        return -last_error()
    if statx(fd, scratch.ctypes.data + 256, _AT_EMPTY_PATH, _STATX_INO_SIZE, scratch.ctypes.data) < 0:
        status = -last_error()
    elif scratch[4] != files[row + INODE] or scratch[5] < files[row + ORIGIN] + files[row + HIGH]:
        status = REPLACED
    # F1 releases to F2, F3. Mutants: "two workers open a file, and both store its descriptor",
    # "a descriptor is stored by a relaxed access"
    elif compare_and_swap(files, row + FD, 0, fd + 1, "release"):
        return fd
    else:
        # F3 acquires from F1. Mutant: "a worker that opened too late goes on with its own descriptor"
        status = load(files, row + FD, "acquire") - 1
    close(fd)  # Mutant: "a worker that opened too late leaves its descriptor open"
    return status


@kernel
def look_at(addresses, found, scratch):
    """Store the mode, inode and size of files, given by the addresses of their paths, in `found`: 0 or -errno."""
    for k in range(len(addresses)):
        if statx(_AT_FDCWD, addresses[k], 0, _STATX_MODE_INO_SIZE, scratch.ctypes.data) < 0:
            return -last_error()
        found[k, 0] = (scratch[3] >> 32) & 0xFFFF
        found[k, 1] = scratch[4]
        found[k, 2] = scratch[5]
    return 0


@kernel
def leave_file(files, row):
    """Note that a claim is done; return whether it was the last of its file."""
    # I1 is ordered with I1: all that others did with the file is over, and seen. Mutants: "a file is closed too early",
    # "a file is closed too late", "the claims of a file are counted by relaxed accesses"
    return fetch_add(files, row + LEFT, -1, "acq_rel") == 1


@kernel
def close_file(files, row):
    """Close a source, if it is open and ours."""
    word = load(files, row + FD, "relaxed")
    if word and files[row + PATH]:
        store(files, row + FD, 0, "relaxed")
        close(word - 1)


@kernel
def note_short(words, short, position):
    """Make word `short` the first position at which a read came short."""
    first = load(words, short, "relaxed")
    # Mutant: "where a file came short is noted by a plain store"
    while position < first and not compare_and_swap(words, short, first, position, "relaxed"):
        first = load(words, short, "relaxed")


@kernel
def claimed(files, row, number):
    """Return what claim `number` is about: the positions at which it begins and ends."""
    begin = files[row + LOW] + (number - (files[row + CLAIMS_END] - files[row + CLAIMS])) * files[row + LENGTH]
    end = begin + files[row + LENGTH]
    return begin, files[row + HIGH] if files[row + HIGH] < end else end


@kernel
def read_at(fd, align, address, offset, want):
    """Read `want` bytes from an offset to an address of which the same number of bits is 0: how many, or -errno."""
    skip = offset % align
    n = call_full(PREAD, fd, address - skip, -(-(skip + want) // align) * align, offset - skip)
    if n < 0:
        return n
    n -= skip
    if n > want:
        n = want
    return n if n > 0 else 0


@kernel
def _fetch(plan, files, row, fd, mapped, memory, position, want):
    """Get bytes [position, position + want) of a source: how many there were, or -errno, and their address."""
    offset = files[row + ORIGIN] + position
    if mapped:
        return want, mapped + offset
    if files[row + MEMORY]:
        memcpy(memory, files[row + MEMORY] + position, want)
        return want, memory
    if plan.congruent:
        memory += offset & 4095  # else the copy in Linux is four times as slow
    n = read_at(fd, plan.align, memory, offset, want)
    if 0 <= n < want:
        note_short(files, row + SHORT, position + n)
    return n, memory


@kernel
def read_records(plan, files, row, fd, mapped, memory, begin, end):
    """Read records [begin, end) and their neighbours: status, address, bytes, position, where to go on, neighbours."""
    first, last = files[row + FIRST], files[row + LAST]
    most = plan.mapped_length if mapped else plan.length
    end = begin + most if begin + most < end else end
    before = begin - first if begin - first < plan.before else plan.before
    after = last - end if last - end < plan.after else plan.after
    want = before + end - begin + after
    n, address = _fetch(plan, files, row, fd, mapped, memory, begin - before, want)
    if n < 0:
        return n, 0, 0, begin, end, 0, 0
    if not mapped:
        memset(address + n, 0, PAD)
    if n < want:  # the file has become shorter
        n -= before
        if n <= 0:
            return PIECE, address, 0, begin, end, 0, 0
        if n % plan.record:
            return TORN, 0, 0, begin + n, end, 0, 0
        after = n - (end - begin) if n > end - begin else 0
        n -= after
        return PIECE, address, n, begin, end, before, after
    return PIECE, address, end - begin, begin, end, before, after


@kernel
def read_lines(plan, files, row, fd, mapped, memory, begin, end, known):
    """Read lines that begin in [begin, end), as many as fit: status, address, bytes, position, where to go on.

    Where to go on is where the next of these lines begins, which then is `known`.
    """
    total = files[row + TOTAL]
    back = 0 if known else (2 * plan.delimiter_size - 1 if 2 * plan.delimiter_size <= begin else begin)
    low = begin - back
    want = end - low + _AHEAD
    want = want if want < plan.step else plan.step
    want = want if want < total - low else total - low
    n, address = _fetch(plan, files, row, fd, mapped, memory, low, want)
    if n < 0:
        return n, 0, 0, begin, end
    search = 0
    if mapped:  # kernels write to what is mapped
        search = load(files, row + SEARCHED_AT, "relaxed") - load(files, row + MAPPED_AT, "relaxed")
    ended = n < want or low + n == total
    inside = int(known and begin > 0)  # then it is behind a delimiter
    at = back
    if back:
        at = first_cut(plan, address + search, back, n, inside)
        if at < 0 or low + at >= end:
            return PIECE, address, 0, begin, end  # no line begins here
    cut = first_cut(plan, address + search, end - low, n, inside) if end - low <= n else -1
    while cut < 0 and not ended and n < plan.step:
        more = n if n < plan.step - n else plan.step - n
        more = more if more < total - low - n else total - low - n
        got = more
        if not mapped:
            got = _read_on(plan, files, row, fd, address + n, low + n, more)
            if got < 0:
                return got, 0, 0, low + n, end
        from_here = n if n > end - low else end - low
        n += got
        ended = got < more or low + n == total
        cut = first_cut(plan, address + search, from_here, n, inside) if from_here <= n else -1
    following = end
    if cut < 0 and ended:
        cut = n
    elif cut < 0:  # the last line may be longer than what is left of the buffer
        cut = last_cut(plan, address + search, at, n, inside)
        if cut < 0 and at == 0:
            return TOO_LONG, 0, 0, low, end
        cut = cut if cut > at else at
        following = low + cut
    if not mapped:
        memset(address + cut, 0, PAD)
    return PIECE, address + at, cut - at, low + at, following


@kernel
def _read_on(plan, files, row, fd, address, position, want):
    """Read the bytes that follow others in memory: how many, or -errno."""
    if files[row + MEMORY]:
        memcpy(address, files[row + MEMORY] + position, want)
        return want
    n = read_at(fd, plan.align, address, files[row + ORIGIN] + position, want)
    if 0 <= n < want:
        note_short(files, row + SHORT, position + n)
    return n
