"""Late functions: cold code that is compiled only once a program needs it, and that kernels call by its address.

All that a kernel may call is compiled with it, and again in each kernel of a user. What few programs ever reach is left
out if it is a late function: kernels load its address from a word of the process, which is 0 until it is made ready.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable
from typing import Any, Protocol

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock

from .compile import INTERPRETED, cfunc
from .faces import kernel_instruction
from .locks import fork_safe_lock

_WORD = ir.IntType(64)
_lock = fork_safe_lock()
_compiled: dict[str, Any] = {}


class Late(Protocol):
    """A late function."""

    def __call__(self, *args: int) -> int:
        """Call it."""

    def ready(self) -> None:
        """Compile it, or load it from the cache. What kernels do with its result must be safe before that, too."""


def late(missing: int) -> Callable[[Callable[..., int]], Late]:
    """Decorate a function of int64s to an int64 that never raises; before it is ready, calls return `missing`."""

    def decorate(function: Any) -> Any:
        name, signature = f"iobuf_nb_late_{function.__name__}", inspect.signature(function)
        words = [types.int64] * len(signature.parameters)
        slot = ctypes.c_int64()

        def ready() -> None:
            if INTERPRETED or slot.value:
                return
            with global_compiler_lock, _lock:  # in the order in which a finalizer takes them while numba compiles
                if not slot.value:
                    _compiled[name] = cfunc(types.int64(*words), function, required=False)
                    slot.value = _compiled[name].address  # last: Ctrl-C may have come at any line above

        def typed(typingctx: Any, *_: Any) -> Any:
            return types.int64(*words), codegen

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            address = cgutils.add_global_variable(builder.module, _WORD, name)
            address = builder.load_atomic(address, "monotonic", 8)
            result = cgutils.alloca_once_value(builder, _WORD(missing))
            with builder.if_then(builder.icmp_signed("!=", address, _WORD(0))):
                kind = ir.FunctionType(_WORD, [_WORD] * len(args)).as_pointer()
                builder.store(builder.call(builder.inttoptr(address, kind), args), result)
            return builder.load(result)

        first = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        typed.__signature__ = inspect.Signature([first, *signature.parameters.values()])  # type: ignore[attr-defined]
        kernel_instruction(function)(typed)
        binding.add_symbol(name, ctypes.addressof(slot))
        function.ready, function.slot = ready, slot
        return function

    return decorate
