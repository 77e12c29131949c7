"""Process slots: which processes use a segment, told by locks.

A process that uses a segment holds a slot of it: an open-file-description lock (fcntl(2)) on a byte far behind its end.
Linux releases the lock when the last thread of the process is gone, whatever killed it, also while it is a zombie; a
process that is only stopped keeps it. What keeps the lock is a mapping, through a description of its own whose
descriptor is closed at once: so nothing that the process does with descriptors lets go of it, and a child that it forks
does not inherit it (madvise(2), MADV_DONTFORK).

On which bytes the locks of a segment lie is drawn at random. So a descriptor that somebody has closed, and that is by
now one of another segment, shows none of them, not even this process's own: whoever asks it sees that it cannot tell.

Each time a slot is taken it gives the process a *process number*: the slot, and above it how often it has been taken. A
number is in the table of the segment as long as something may bear it, and is never used a second time.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from .._jit import seam
from .._jit.compile import kernel
from .._jit.faces import compiled_as
from .._jit.instructions import four_words, load_word
from .._jit.locks import fork_safe_lock
from .._threads.libc import fcntl as call_fcntl
from ..atomics import load, store

# The table of a segment: for each process slot the number that took it last, negative once nothing bears it any more;
# the process, negative once it needs the name of the segment no more; and, for the model checker alone, whether the
# lock of the slot is held. In place of a number, slot 0 has the byte on which its lock lies; the others follow it.
NUMBER, PID, LOCKED = range(3)
SLOT_WORDS = 4
SLOT_BITS = 8
MOST_PROCESSES = (1 << SLOT_BITS) - 1  # slot 0 is not used
MOST_TAKEN = 1 << 12  # how often a slot can be taken: numbers have 20 bits
FIRST_LOCK = NUMBER

_DECISION_MS = 100  # a decision takes a few hundred microseconds; who is stopped in one holds up others no longer

# Linux's values (fcntl(2), madvise(2)).
_F_OFD_GETLK, _F_OFD_SETLK, _F_WRLCK, _F_UNLCK = 36, 37, 1, 2
_FLOCK = "=hhiqqii"  # struct flock
_MADV_DONTFORK = 10
_FAILED = ctypes.c_void_p(-1).value


@kernel
def _is_locked_in_kernel(slots, slot, descriptor):
    flock = four_words(_F_WRLCK, load(slots, FIRST_LOCK, "relaxed") + slot, 1, 0)
    return call_fcntl(descriptor, _F_OFD_GETLK, flock) < 0 or load_word(flock) & 0xFFFF != _F_UNLCK


@compiled_as(_is_locked_in_kernel)
def is_locked(slots: Any, slot: int, descriptor: int) -> bool:
    """Return whether the lock of a process slot is held, or the descriptor cannot tell."""
    if seam.hook is not None:
        return bool(seam.hook("load", slots, slot * SLOT_WORDS + LOCKED, "seq_cst"))
    try:
        flock = _ask(descriptor, _F_OFD_GETLK, int(slots[FIRST_LOCK]) + slot)
    except OSError:
        return True
    return bool(struct.unpack(_FLOCK, flock)[0] != _F_UNLCK)


def _ask(descriptor: int, command: int, byte: int, kind: int = _F_WRLCK) -> bytes:
    return fcntl.fcntl(descriptor, command, struct.pack(_FLOCK, kind, 0, 0, byte, 1, 0, 0))


_no_fork = fork_safe_lock()


@contextlib.contextmanager
def _opened_anew(descriptor: int) -> Iterator[int]:
    """Open the file of a descriptor anew: a lock belongs to the file description.

    Nobody forks meanwhile: the child would have the description, too, and keep the lock when this process dies.
    """
    with _no_fork:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            yield own
        finally:
            os.close(own)


def draw_first_lock() -> int:
    """Return where the locks of a new segment begin: far behind its end, and where no other's are."""
    return 1 << 62 | int.from_bytes(os.urandom(6), "little") << SLOT_BITS


def try_lock(table: NDArray[Any], descriptor: int, slot: int) -> bool:
    """Take the lock of a slot for the file description of a descriptor; return whether that was free."""
    try:
        _ask(descriptor, _F_OFD_SETLK, int(table[FIRST_LOCK]) + slot)
    except BlockingIOError:
        return False
    return True


def living(table: NDArray[Any], descriptor: int) -> dict[int, int]:
    """Return the processes that hold a slot, by process number."""
    return {
        int(table[slot * SLOT_WORDS + NUMBER]): abs(int(table[slot * SLOT_WORDS + PID]))
        for slot in range(1, MOST_PROCESSES + 1)
        if table[slot * SLOT_WORDS + NUMBER] > 0 and is_locked(table, slot, descriptor)
    }


class ProcessSlot:
    """The slot that this process holds of a segment.

    Attributes
    ----------
    index, number : int
        The slot, and the process number.
    process : int
        The process that took it; a forked child does not hold it.
    """

    def __init__(self, table: NDArray[Any], descriptor: int, before: Callable[[int], object]) -> None:
        """Take a free slot; `before` is called with the number of a process that died with it, if nobody did so yet.

        OSError if there is none.
        """
        with _opened_anew(descriptor) as own:
            slot = self._lock_one(table, own)
            last = int(load(table, slot * SLOT_WORDS + NUMBER))  # E1 acquires from E2, E3
            if last > 0:
                before(last)
            self._mapping = _map(own)
        self.process = os.getpid()
        self.index = slot
        self.number = slot | (abs(last) >> SLOT_BITS) + 1 << SLOT_BITS
        table[slot * SLOT_WORDS + PID] = self.process
        store(table, slot * SLOT_WORDS + NUMBER, self.number)  # E2 releases to E1

    def _lock_one(self, table: NDArray[Any], descriptor: int) -> int:
        # First those of which nothing is left to recover: who is stopped there, with the lock, keeps nobody from that.
        for clean in (True, False):
            for slot in range(1, MOST_PROCESSES + 1):
                last = int(load(table, slot * SLOT_WORDS + NUMBER))  # E1 acquires from E2, E3
                # Any, the second time: others recover meanwhile.
                usable = (last <= 0 or not clean) and (abs(last) >> SLOT_BITS) + 1 < MOST_TAKEN
                if usable and try_lock(table, descriptor, slot):
                    return slot
        raise OSError(
            f"all {MOST_PROCESSES} process slots are in use, or have been taken {MOST_TAKEN - 1} times: "
            "a shared pool or queue can serve no more processes at once, and a million in all"
        )

    def forget_name(self, table: NDArray[Any]) -> None:
        """Keep nobody from removing the name of the segment any more, although the slot is held on."""
        table[self.index * SLOT_WORDS + PID] = -self.process

    def release(self, table: NDArray[Any]) -> None:
        """Let go of the slot, once, in the process that took it, when nothing bears its number any more."""
        mapping, self._mapping = self._mapping, 0
        if mapping:
            store(table, self.index * SLOT_WORDS + NUMBER, -self.number)  # E3 releases to E1
            _libc().munmap(mapping, mmap.PAGESIZE)


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _map(descriptor: int) -> int:
    """Map a page, which keeps the file description open until it is unmapped; return its address."""
    libc = _libc()  # not the module mmap: it keeps a duplicate of the descriptor
    address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _FAILED or libc.madvise(address, mmap.PAGESIZE, _MADV_DONTFORK) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map the segment: {os.strerror(code)}")
    return int(address)


def unlink_unused(path: str, table: NDArray[Any], descriptor: int) -> bool:
    """Remove the name of a segment unless a process holds a slot and may need the name; return whether it is gone.

    The lock of slot 0 lets only one process at a time decide that. The next one waits: it may be the last to leave.
    """
    with _opened_anew(descriptor) as opened:
        for _ in range(_DECISION_MS):
            if try_lock(table, opened, 0):
                break
            time.sleep(0.001)
        else:
            return False
        if any(
            table[slot * SLOT_WORDS + PID] >= 0 and is_locked(table, slot, opened)
            for slot in range(1, MOST_PROCESSES + 1)
        ):
            return False
        unlink_same(path, os.fstat(opened))
        return True


def unlink_same(path: str, file: os.stat_result) -> None:
    """Remove a name if it is still that of a file."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path, follow_symlinks=False), file):
            os.unlink(path)
