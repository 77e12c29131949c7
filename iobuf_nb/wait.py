"""How to wait for another thread: spin on `pause`, then yield the processor, then sleep.

A wait is a loop that tries, calls `step(turn, ...)` and tries again. It burns a core for less than a millisecond, never
holds the GIL while it sleeps (whether or not the kernel around it was compiled with ``nogil``), and on the main thread
ends within 100 ms of a signal whose Python handler raises, such as Ctrl-C, with the handler's own exception.
"""

from __future__ import annotations

import ctypes
import os
import queue
import threading
import time
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import _check
from ._jit import compiled_as, kernel
from .atomics import pause

__all__ = ["PoolClosed", "WouldBlock"]

FOREVER_NS = 2**62

# Results of an operation that moves one integer, in kernels and below the Python methods.
EMPTY = -1
CLOSED = -2

_SPINS = 8  # turn t < 8 pauses 2**t times: 255 pauses, some 10 us in all
_YIELDS = 24  # then 16 sched_yield
_FIRST_SLEEP_NS = 50_000
_LAST_SLEEP_NS = 1_000_000
_SIGNALS_EVERY = 32  # sleeps between two looks at pending signals: 32 ms


class WouldBlock(BlockingIOError, queue.Empty, queue.Full):
    """An operation that may not wait, or not any longer, found nothing to take or no room.

    It is a `BlockingIOError` to those who think of I/O, and a `queue.Empty` and a `queue.Full` to those who think of
    queues.
    """


class PoolClosed(RuntimeError):
    """The pool or queue has been closed."""


def _limit_in_kernel(block, timeout):
    if not block:
        return 0
    if timeout is None:
        return -1
    if not timeout >= 0:
        raise ValueError("timeout must be None or a number of seconds >= 0, not", timeout)
    return np.int64(min(timeout, 2.0**33) * 1e9)


@compiled_as(_limit_in_kernel)
def limit_ns(block: bool, timeout: float | None) -> int:
    """Return the longest wait in nanoseconds that `block` and `timeout` (seconds) ask for; -1 without limit."""
    limit = _check.timeout_ns(timeout)
    return limit if block else 0


@kernel
def _clock_ns():
    timespec = np.empty(2, np.int64)
    _clock_gettime(_CLOCK_MONOTONIC, timespec.ctypes.data)
    return timespec[0] * 1_000_000_000 + timespec[1]


@compiled_as(lambda: _clock_ns())
def now_ns() -> int:
    """Return the monotonic clock in nanoseconds."""
    return time.monotonic_ns()


@kernel
def _step(turn, most_ns):
    if turn < _SPINS:
        for _ in range(1 << turn):
            pause()
        return
    if turn < _YIELDS:
        _sched_yield()
        return
    sleep_us = min(_FIRST_SLEEP_NS << min(turn - _YIELDS, 5), _LAST_SLEEP_NS, max(most_ns, 1000)) // 1000
    if _holds_gil():
        state = _save_thread()
        _usleep(sleep_us)
        _restore_thread(state)
    else:
        _usleep(sleep_us)
    if (turn - _YIELDS) % _SIGNALS_EVERY == _SIGNALS_EVERY - 1 and _thread_id() == _main_thread():
        _check_signals()


@compiled_as(lambda turn, most_ns: _step(turn, most_ns))
def step(turn: int, most_ns: int) -> None:
    """Wait a little, the more the higher `turn` (0, 1, 2 ...), but no longer than about `most_ns`.

    Raises whatever the Python handler of a pending signal raises, `KeyboardInterrupt` for Ctrl-C.
    """
    time.sleep(0 if turn < _YIELDS else min(_LAST_SLEEP_NS, max(most_ns, 1000)) / 1e9)


# ---- the C functions behind it, found by name when a kernel is linked ------------------------------------------------

_CLOCK_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 1)
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))
_sched_yield = types.ExternalFunction("sched_yield", types.int32())
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
_holds_gil = types.ExternalFunction("PyGILState_Check", types.int32())
_save_thread = types.ExternalFunction("PyEval_SaveThread", types.voidptr())
_restore_thread = types.ExternalFunction("PyEval_RestoreThread", types.void(types.voidptr))
_thread_id = types.ExternalFunction("pthread_self", types.int64())


@compiled_as(lambda: _thread_id())
def thread_id() -> int:
    """Return the identity of this thread, the number that `threading.get_ident` gives."""
    return threading.get_ident()


@intrinsic
def _check_signals(typingctx: Any) -> Any:
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
