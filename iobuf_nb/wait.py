"""Waiting for another thread, in three layers: strike, spin, adapt.

Strike: try, without waiting. Spin: `pause` a bounded number of times, then yield the processor (`SpinWait`). Adapt: on
Linux park on a futex word until another thread wakes it (futex(2)); elsewhere sleep, longer each time (`Backoff`).

No lost wake-up
    A waiter counts itself in, reads the event word, tries once more, and parks only while the event word still holds
    what it read. A waker makes its change (a put), then looks whether anybody is counted in, and if so changes the
    event word and wakes one. Lost would be the case where the waiter's last try misses the change and the waker misses
    the waiter: each side writes one word and then reads the other's. Release and acquire do not exclude that (a store
    may pass a later load); sequential consistency does, so those four accesses are ``seq_cst``. On x86-64 that costs
    the waker nothing: its compare-and-swap is a full barrier already, and the load that follows is a plain one.

    No wake is swallowed either: whoever was woken tries once more before leaving, for whatever reason.

The GIL
    A wait never sleeps with the GIL, whether or not the kernel around it was compiled with ``nogil``. The main thread
    looks for signals at least every 50 ms; if a Python handler raises, the wait ends with the handler's own exception,
    Ctrl-C's KeyboardInterrupt for one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import queue
import sys
import threading
import time
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from . import _check, atomics
from ._check import FormattedValueError
from ._jit import compiled_as, hot, kernel, kernel_overload
from .atomics import pause, syscall

__all__ = ["PoolClosed", "WouldBlock"]

FOREVER_NS = 2**62

# Results of an operation that moves one integer, in kernels and below the Python methods.
EMPTY = -1
CLOSED = -2
FORKED = -3
UNFENCED = -5  # beside what `ring` adds

NO_WAIT_IN_A_CHILD = "a forked child cannot wait on what its parent made: nobody could ever wake it"
NO_FENCE = (
    "membarrier(2) has begun to fail in this process, as under a new seccomp filter: "
    "what lies in a magazine can only be got through that"
)
EVERYBODY = 2**31 - 1

SPINS = 8  # turn t < 8 pauses 2**t times: 255 pauses, some 10 us in all
SPIN_TURNS = 12  # the others give the processor away
LOOK_NS = 50_000_000  # the main thread looks for signals this often at least
_NAP_NS = 1_000_000  # where there is no futex


def lock_that_forks_wait_for() -> threading.RLock:
    """Return a lock that no forked child finds in the hands of a thread that it does not have."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


class WouldBlock(BlockingIOError, queue.Empty, queue.Full):
    """An operation that may not wait, or not any longer, found nothing to take or no room.

    It is a `BlockingIOError` to those who think of I/O, and a `queue.Empty` and a `queue.Full` to those who think of
    queues.
    """


class PoolClosed(RuntimeError):
    """The pool or queue has been closed."""


def limit_ns(block: bool, timeout: float | None) -> int:
    """Return the longest wait in nanoseconds that `block` and `timeout` (seconds) ask for; -1 without limit."""
    if type(block) is not bool:
        block = _check.block(block)
    limit = _check.timeout_ns(timeout)
    return limit if block else 0


@kernel_overload(limit_ns)
def _limit_in_kernel(block: Any, timeout: Any) -> Any:
    if not isinstance(block, (bool, types.Boolean)):
        hint = "; did you mean timeout=?" if isinstance(block, types.Number) else ""
        raise errors.TypingError(f"block must be a bool, not {block}{hint}")
    if timeout not in (None, types.none) and not isinstance(
        getattr(timeout, "type", timeout), (types.Integer, types.Float)
    ):
        raise errors.TypingError(f"timeout must be None or a number of seconds >= 0, not {timeout}")

    def limit(block, timeout):
        if not block:
            return 0
        if timeout is None:
            return -1
        if not timeout >= 0:
            raise FormattedValueError("timeout must be None or a number of seconds >= 0, not {}", timeout)
        return np.int64(min(timeout, 2.0**33) * 1e9)

    return limit


@kernel
def _now_in_kernel():
    timespec = np.empty(2, np.int64)
    _clock_gettime(_CLOCK_MONOTONIC, timespec.ctypes.data)
    return timespec[0] * 1_000_000_000 + timespec[1]


@compiled_as(lambda: _now_in_kernel())
def now_ns() -> int:
    """Return the monotonic clock in nanoseconds."""
    return time.monotonic_ns()


@hot
def _release_gil_in_kernel():
    # PyGILState_Check will not do: it says yes to everybody while the interpreter ends, or once it has had a child.
    own = _own_state()
    return _save_thread() if own != 0 and own == _running_state() else 0


@compiled_as(lambda: _release_gil_in_kernel())
def release_gil() -> int:
    """Let go of the GIL if this thread holds it; `regain_gil` needs what this returns."""
    return 0


@hot
def _regain_gil_in_kernel(state):
    if state != 0:
        _restore_thread(state)


@compiled_as(lambda state: _regain_gil_in_kernel(state))
def regain_gil(state: int) -> None:
    """Take the GIL back if `release_gil` let go of it."""


@kernel
def _spin_in_kernel(turn):
    if turn < SPINS:
        pause(1 << turn)
    else:
        _sched_yield()


@compiled_as(lambda turn: _spin_in_kernel(turn))
def spin(turn: int) -> None:
    """Give others a moment, the longer the higher `turn` (0, 1, 2 ...): pauses at first, then the processor."""
    time.sleep(0)


@kernel
def _nap_in_kernel(ns):
    state = release_gil()
    _usleep(ns // 1000 + 1)
    regain_gil(state)


@compiled_as(lambda ns: _nap_in_kernel(ns))
def nap(ns: int) -> None:
    """Sleep `ns` nanoseconds without the GIL, whatever signals come."""
    time.sleep(ns / 1e9)


@kernel
def _sleep_in_kernel(ns):
    end = now_ns() + ns
    while True:
        left = end - now_ns()
        if left <= 0:
            return
        if _thread_id() == _main_thread():
            left = min(left, LOOK_NS)
        _nap_in_kernel(left)
        check_signals()


@compiled_as(lambda ns: _sleep_in_kernel(ns))
def sleep(ns: int) -> None:
    """Sleep `ns` nanoseconds without the GIL; a signal whose handler raises ends it."""
    time.sleep(ns / 1e9)


@kernel
def _park_in_kernel(address, expected, most_ns):
    if _thread_id() == _main_thread():
        most_ns = min(most_ns, LOOK_NS)
    if _FUTEX < 0:
        _nap_in_kernel(min(most_ns, _NAP_NS))
        return
    if most_ns <= 0:
        return
    timespec = np.empty(2, np.int64)
    timespec[0] = most_ns // 1_000_000_000
    timespec[1] = most_ns % 1_000_000_000
    state = release_gil()
    syscall(_FUTEX, address, _WAIT_PRIVATE, expected & 0xFFFFFFFF, timespec.ctypes.data, 0, 0)
    regain_gil(state)


@compiled_as(lambda words, i, expected, most_ns: _park_in_kernel(_address(words, i), expected, most_ns))
def park(words: Any, i: int, expected: int, most_ns: int) -> None:
    """Sleep until somebody wakes word `i`, unless it no longer holds `expected`; at most `most_ns`, at times less."""
    if atomics.hook is not None:
        atomics.hook("park", words, i, "seq_cst", expected, most_ns <= FOREVER_NS // 2)
    else:
        time.sleep(min(_NAP_NS, max(most_ns, 1000)) / 1e9)


@kernel
def _wake_in_kernel(address, count):
    return 0 if _FUTEX < 0 else syscall(_FUTEX, address, _WAKE_PRIVATE, count, 0, 0, 0)


@compiled_as(lambda words, i, count: _wake_in_kernel(_address(words, i), count))
def wake(words: Any, i: int, count: int) -> int:
    """Wake up to `count` of those who park on word `i`; return how many it woke."""
    return 0 if atomics.hook is None else atomics.hook("wake", words, i, "seq_cst", count)


@kernel
def _signal_fd_in_kernel(fd):
    if fd >= 0:
        one = np.ones(1, np.int64)
        _write(fd, one.ctypes.data, 8)


@compiled_as(lambda fd: _signal_fd_in_kernel(fd))
def signal_fd(fd: int) -> None:
    """Make an eventfd readable; a negative `fd` is none."""
    if fd >= 0:
        os.eventfd_write(fd, 1)


@kernel
def _check_signals_in_kernel():
    if _thread_id() == _main_thread():
        _run_handlers()


@compiled_as(lambda: _check_signals_in_kernel())
def check_signals() -> None:
    """On the main thread, run the handlers of signals that have come, and raise what they raise."""


# ---- the C functions behind it, found by name when a kernel is linked ------------------------------------------------

_CLOCK_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 1)
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
_own_state = types.ExternalFunction("PyGILState_GetThisThreadState", types.intp())
_running_state = types.ExternalFunction(
    "PyThreadState_GetUnchecked" if sys.version_info >= (3, 13) else "_PyThreadState_UncheckedGet", types.intp()
)
_save_thread = types.ExternalFunction("PyEval_SaveThread", types.intp())
_restore_thread = types.ExternalFunction("PyEval_RestoreThread", types.void(types.intp))
_thread_id = types.ExternalFunction("pthread_self", types.int64())
_write = types.ExternalFunction("write", types.intp(types.int32, types.intp, types.intp))
_getpid = types.ExternalFunction("getpid", types.int32())

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}.get(platform.machine(), -1)
if sys.platform != "linux":
    _FUTEX = -1
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129


@compiled_as(lambda: _thread_id())
def thread_id() -> int:
    """Return the identity of this thread, the number that `threading.get_ident` gives."""
    return threading.get_ident()


@compiled_as(lambda: np.int64(_getpid()))
def process_id() -> int:
    """Return the identity of this process."""
    return os.getpid()


@intrinsic
def _address(typingctx: Any, words: Any, i: Any) -> Any:
    """Return the address of a word, whose low half is what futex(2) looks at on a little-endian machine."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(builder.gep(args[0], [args[1]]), ir.IntType(64))

    return types.int64(words, types.intp), codegen


@intrinsic
def _run_handlers(typingctx: Any) -> Any:
    """Run pending signal handlers under the GIL; if one raises, leave the kernel with its exception."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        python = context.get_python_api(builder)
        gil = python.gil_ensure()
        check = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.IntType(32), []), "PyErr_CheckSignals"
        )
        raised = cgutils.is_not_null(builder, builder.call(check, []))
        python.gil_release(gil)
        with builder.if_then(raised, likely=False):
            context.call_conv.return_exc(builder)
        return context.get_dummy_value()

    return types.void(), codegen


_main_ident = ctypes.c_int64()
binding.add_symbol("iobuf_nb_main_thread", ctypes.addressof(_main_ident))


def _remember_main_thread() -> None:
    _main_ident.value = threading.main_thread().ident or 0


_remember_main_thread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_main_thread)


@intrinsic
def _main_thread(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word = cgutils.add_global_variable(builder.module, ir.IntType(64), "iobuf_nb_main_thread")
        return builder.load(word)

    return types.int64(), codegen
