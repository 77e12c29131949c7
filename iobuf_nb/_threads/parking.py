"""Parking: how a thread gives up the processor until another thread wakes it.

A wait has three stages: try, without waiting; spin: a bounded number of pauses, then yields of the processor; park on a
futex word (futex(2)) until another thread wakes it. Where there is no futex, parking is a short sleep.

No lost wake-up
    A waiter registers (increments the count of waiters), reads the event word, tries once more, and parks only while
    the event word is unchanged. A waker makes its change (a put), then loads the count of waiters, and if it is not 0
    changes the event word and wakes one. A wake-up would be lost if the waiter's last try missed the change and the
    waker missed the waiter: each side writes one word and then reads the other's. Release and acquire allow that (a
    store may be reordered with a later load); sequential consistency does not, so those four accesses are ``seq_cst``.
    On x86-64 that costs the waker nothing: its compare-and-swap is a full barrier already, and the load after it is a
    plain one.

    No wake-up is wasted either: a thread that was woken tries once more before it leaves, for whatever reason.
"""

from __future__ import annotations

import os
import time
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .._jit import seam
from .._jit.compile import kernel
from .._jit.faces import compiled_as
from .._jit.instructions import two_words
from ..atomics import pause
from .clock import FOREVER_NS, nap
from .gil import LOOK_NS, main_thread_id, regain_gil, release_gil
from .libc import FUTEX, pthread_self, sched_yield, syscall, write

ALL_WAITERS = 2**31 - 1
SPINS = 8  # turn t < 8 pauses 2**t times: 255 pauses, some 10 us in all
SPIN_TURNS = 12  # the turns after the first SPINS yield the processor
_NAP_NS = 1_000_000  # where there is no futex


@kernel
def _spin_in_kernel(turn):
    if turn < SPINS:
        pause(1 << turn)
    else:
        sched_yield()


@compiled_as(_spin_in_kernel)
def spin(turn: int) -> None:
    """Spin for turn `turn` (0, 1, 2 ...): 2**turn pauses while turn < SPINS, then one yield of the processor."""
    if seam.hook is not None:
        seam.hook("pause", None, -1, "", 1)
    else:
        time.sleep(0)


_WAIT, _WAKE, _PRIVATE = 0, 1, 128


@kernel
def _park_in_kernel(address, expected, most_ns, shared):
    if most_ns > LOOK_NS and pthread_self() == main_thread_id():
        most_ns = LOOK_NS
    if FUTEX < 0:
        nap(most_ns if most_ns < _NAP_NS else _NAP_NS)
        return
    if most_ns <= 0:
        return
    timespec = two_words(most_ns // 1_000_000_000, most_ns % 1_000_000_000)
    state = release_gil()
    operation = _WAIT if shared else _WAIT | _PRIVATE
    syscall(FUTEX, address, operation, expected & 0xFFFFFFFF, timespec, 0, 0)
    regain_gil(state)


@compiled_as(lambda words, i, expected, most_ns, shared: _park_in_kernel(_address(words, i), expected, most_ns, shared))
def park(words: Any, i: int, expected: int, most_ns: int, shared: bool) -> None:
    """Sleep until word `i` is woken, if it still holds `expected`; at most `most_ns`, and wake-ups may be spurious.

    `shared`: the word lies in memory that processes share.
    """
    if seam.hook is not None:
        seam.hook("park", words, i, "seq_cst", expected, most_ns <= FOREVER_NS // 2)
    else:
        time.sleep(min(_NAP_NS, max(most_ns, 1000)) / 1e9)


@kernel
def _wake_in_kernel(address, count, shared):
    return 0 if FUTEX < 0 else syscall(FUTEX, address, _WAKE if shared else _WAKE | _PRIVATE, count, 0, 0, 0)


@compiled_as(lambda words, i, count, shared: _wake_in_kernel(_address(words, i), count, shared))
def wake(words: Any, i: int, count: int, shared: bool) -> int:
    """Wake up to `count` threads parked on word `i`, `shared` or not; return how many were woken."""
    return 0 if seam.hook is None else seam.hook("wake", words, i, "seq_cst", count)


@kernel
def _signal_fd_in_kernel(fd):
    if fd >= 0:
        write(fd, two_words(1, 0), 8)


@compiled_as(_signal_fd_in_kernel)
def notify_eventfd(fd: int) -> None:
    """Make an eventfd readable; does nothing for a negative `fd`."""
    if fd >= 0:
        os.eventfd_write(fd, 1)


@intrinsic
def _address(typingctx: Any, words: Any, i: Any) -> Any:
    """Return the address of a word: that of its low half, which futex(2) compares (machines are little-endian)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        pointer = make_array(kind)(context, builder, args[0]).data if isinstance(kind, types.Array) else args[0]
        return builder.ptrtoint(builder.gep(pointer, [args[1]]), ir.IntType(64))

    return types.int64(words, types.intp), codegen
