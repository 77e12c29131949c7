"""The GIL, signals, and the identity of this thread and process.

A wait never sleeps while holding the GIL, even in a kernel compiled without ``nogil``. The main thread checks for
signals at least every `LOOK_NS`; if a Python handler raises, the wait ends with the handler's exception, such as
KeyboardInterrupt for Ctrl-C.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .._jit import seam
from .._jit.compile import hot, kernel
from .._jit.faces import compiled_as
from .._jit.python_api import own_thread_state, restore_thread, running_thread_state, save_thread
from .libc import getpid, pthread_self

LOOK_NS = 50_000_000  # the longest that the main thread goes without checking for signals


@hot
def _release_gil_in_kernel():
    # Not PyGILState_Check: it always returns 1 during finalization, and once a subinterpreter has been created.
    own = own_thread_state()
    return save_thread() if own != 0 and own == running_thread_state() else 0


@compiled_as(_release_gil_in_kernel)
def release_gil() -> int:
    """Release the GIL if this thread holds it; return a state for `regain_gil`."""
    return 0


@hot
def _regain_gil_in_kernel(state):
    if state != 0:
        restore_thread(state)


@compiled_as(_regain_gil_in_kernel)
def regain_gil(state: int) -> None:
    """Acquire the GIL again if `release_gil` released it."""


@kernel
def _check_signals_in_kernel():
    if pthread_self() == main_thread_id():
        _run_handlers()


@compiled_as(_check_signals_in_kernel)
def check_signals() -> None:
    """On the main thread, run the handlers of pending signals, and raise what they raise."""


@compiled_as(lambda: pthread_self())
def thread_id() -> int:
    """Return the identifier of this thread, as `threading.get_ident` does."""
    return threading.get_ident() if seam.hook is None else int(seam.hook("thread_id", None, -1, ""))


@compiled_as(lambda: np.int64(getpid()))
def process_id() -> int:
    """Return the identifier of this process."""
    return os.getpid()


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
def main_thread_id(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        word = cgutils.add_global_variable(builder.module, ir.IntType(64), "iobuf_nb_main_thread")
        return builder.load(word)

    return types.int64(), codegen
