"""Atomic operations on 64-bit words, for numba kernels and for plain Python.

A *word* is one element of a one-dimensional contiguous int64 array (or of the raw ``words`` pointer of this library's
own handles). Each function means the same in both worlds:

- in a kernel it is one LLVM atomic instruction (LLVM Language Reference, "Atomic Memory Ordering Constraints");
- in Python it is the same instruction, reached through a compiled function, always sequentially consistent;
- with ``NUMBA_DISABLE_JIT=1`` it is interpreted: atomic among Python threads, and open to a model checker, which sets
  `hook` and so decides what every access reads.

A plain ``words[i]`` in a loop may be read once and never again: the compiler is free to hoist it. Shared words go
through these functions only. Kernels do not check `i`; Python does: IndexError if there is no such word, TypeError or
ValueError for what is no integer of 64 bits, no such array, or no such order.

Examples
--------
>>> import numpy as np
>>> from numba import njit
>>> from iobuf_nb import atomics
>>> @njit(nogil=True)
... def count(words, n):
...     for _ in range(n):
...         atomics.fetch_add(words, 0, 1, "relaxed")
>>> words = np.zeros(1, np.int64)
>>> count(words, 5)
>>> atomics.load(words, 0)
5
"""

from __future__ import annotations

import functools
import platform
import sys
import threading
from collections.abc import Callable
from itertools import repeat
from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from . import _check
from ._jit import INTERPRETED, c_function, compiled_as, hot, kernel, kernel_overload

Order = Literal["relaxed", "acquire", "release", "acq_rel", "seq_cst"]

__all__ = [
    "compare_and_swap",
    "fence",
    "fetch_add",
    "fetch_and",
    "fetch_or",
    "load",
    "pause",
    "store",
    "swap",
]

#: Where a model checker comes in: if set, ``hook(operation, words, i, order, *operands)`` makes every interpreted
#: access and returns its result. Fences, which have no word, come with None and -1.
hook: Callable[..., Any] | None = None

_LLVM = {
    "relaxed": "monotonic",
    "acquire": "acquire",
    "release": "release",
    "acq_rel": "acq_rel",
    "seq_cst": "seq_cst",
}
_ALL = frozenset(_LLVM)
_ALLOWED = {
    "load": _ALL - {"release", "acq_rel"},
    "store": _ALL - {"acquire", "acq_rel"},
    "fence": _ALL - {"relaxed"},
}
# A failed compare-and-swap stores nothing, so it keeps only the acquiring half of its order.
_ON_FAILURE = {"acq_rel": "acquire", "release": "monotonic"}


def load(words: Any, i: int, order: Order = "acquire") -> int:
    """Read word `i`.

    Parameters
    ----------
    words : int64 array, 1-D, C-contiguous, aligned, writable
    i : int, 0 <= i < len(words)
    order : {"relaxed", "acquire", "seq_cst"}

    Returns
    -------
    int
    """
    return _interpret("load", words, i, order)


def store(words: Any, i: int, value: int, order: Order = "release") -> None:
    """Write `value` to word `i`; `order` is relaxed, release or seq_cst. Other parameters as in `load`."""
    _interpret("store", words, i, order, value)


def compare_and_swap(words: Any, i: int, expected: int, desired: int, order: Order = "acq_rel") -> bool:
    """Write `desired` to word `i` if it holds `expected`; say whether it did. Never fails spuriously.

    Parameters are those of `load`; `order` is any, and a failure keeps its acquiring half.

    Examples
    --------
    >>> words = np.zeros(1, np.int64)
    >>> compare_and_swap(words, 0, 0, 7), compare_and_swap(words, 0, 0, 8), load(words, 0)
    (True, False, 7)
    """
    return bool(_interpret("compare_and_swap", words, i, order, expected, desired))


def swap(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Write `value` to word `i` and return what it held. Parameters as in `load`; `order` is any."""
    return _interpret("swap", words, i, order, value)


def fetch_add(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Add `value` to word `i`, wrapping at 64 bits, and return what it held. Parameters as in `load`; any `order`."""
    return _interpret("fetch_add", words, i, order, value)


def fetch_or(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Set the bits of `value` in word `i` and return what it held. Parameters as in `load`; `order` is any."""
    return _interpret("fetch_or", words, i, order, value)


def fetch_and(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Clear the bits of word `i` that `value` lacks and return what it held. Parameters as in `load`; any `order`."""
    return _interpret("fetch_and", words, i, order, value)


def fence(order: Order = "seq_cst") -> None:
    """Order this thread's accesses before it against those after it; `order` is any but relaxed."""
    _check_order("fence", order)
    if not INTERPRETED:
        _native_fence()
    elif hook is not None:
        hook("fence", None, -1, order)


def _light_fence_in_kernel():
    _fence("seq_cst", "singlethread")


@compiled_as(_light_fence_in_kernel)
def light_fence() -> None:
    """Keep the compiler from moving accesses across: the cheap side of a pair with `heavy_fence`.

    It costs no instruction, so the processor may still let a later load pass an earlier store.

    Notes
    -----
    One thread stores, passes a light fence and loads what a second thread stores; the second stores, passes a heavy
    fence and loads what the first stores. Then not both can miss the other's store, just as with two full fences.
    """
    if hook is not None:
        hook("light_fence", None, -1, "seq_cst")


def _heavy_fence_in_kernel():
    fence("seq_cst")
    if _membarrier(_EXPEDITE) == 0:
        return True
    _membarrier(_REGISTER)
    return _membarrier(_EXPEDITE) == 0


@compiled_as(_heavy_fence_in_kernel)
def heavy_fence() -> bool:
    """Make every running thread of this process pass a full fence, this one included: the dear side of a pair.

    It is membarrier(2), some microseconds long. Where `register_heavy_fence` says True it can be relied upon, until a
    sandbox forbids it later.

    Returns
    -------
    bool
        Whether it was done. If not, only this thread has passed a fence, and what other threads stored before their
        light fences may still be out of sight: the caller must leave alone what only the pair makes safe.
    """
    if not INTERPRETED:
        return bool(_native_heavy_fence())
    return hook is None or hook("heavy_fence", None, -1, "seq_cst") is not False


@functools.cache
def register_heavy_fence() -> bool:
    """Say whether this system has what `heavy_fence` needs, and make it ready for this process and forked children.

    Returns
    -------
    bool
        False where there is no membarrier(2), or a sandbox forbids it: then both sides of a pair need a `fence`.
    """
    return int(_membarrier(_REGISTER)) == 0 and int(_membarrier(_EXPEDITE)) == 0


syscall = c_function("syscall", types.int64, *[types.int64] * 7)
_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}.get(platform.machine(), -1)
if sys.platform != "linux":
    _MEMBARRIER = -1
_EXPEDITE, _REGISTER = 8, 16  # MEMBARRIER_CMD_PRIVATE_EXPEDITED and MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED


@kernel
def _membarrier(command):
    return syscall(_MEMBARRIER, command, 0, 0, 0, 0, 0) if _MEMBARRIER >= 0 else -1


@intrinsic
def _pause(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        machine = platform.machine().lower()
        void, i32 = ir.VoidType(), ir.IntType(32)
        # Inline assembly would kill the process: numba initialises no assembly parser.
        if machine in ("x86_64", "amd64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        elif machine in ("aarch64", "arm64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, [i32]), "llvm.aarch64.hint")
            builder.call(hint, [i32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


def pause(n: int = 1) -> None:
    """Tell the processor `n` times that this thread spins; from Python, where each call takes longer, it does nothing.

    One pause takes some 40 ns on recent x86-64 (the PAUSE instruction), less elsewhere (YIELD on ARM64).
    """
    _check.integer("n", n, 0, 2**31)


@kernel_overload(pause)
def _pause_in_kernel(n: Any = 1) -> Any:
    if not isinstance(n, (int, types.Integer, types.Omitted)):
        raise errors.TypingError(f"n must be an integer, not {n}")

    def pauses(n=1):
        for _ in range(n):
            _pause()

    return pauses


def wrap(value: int) -> int:
    """Return the int64 that has the low 64 bits of `value`."""
    return (int(value) + 2**63) % 2**64 - 2**63


# ---- arithmetic that wraps: in compiled code, too, where the overflow of a signed + is undefined (LLVM's nsw) --------


def _wrapping(operation: str) -> Any:
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return getattr(builder, operation)(*args)

        return types.int64(types.int64, types.int64), codegen

    return intrinsic(typed)


_add, _subtract, _multiply = map(_wrapping, ("add", "sub", "mul"))


@compiled_as(lambda a, b: _add(a, b))
def plus(a: int, b: int) -> int:
    """Return a + b."""
    return wrap(a + b)


@compiled_as(lambda a, b: _subtract(a, b))
def minus(a: int, b: int) -> int:
    """Return a - b."""
    return wrap(a - b)


@compiled_as(lambda a, b: _multiply(a, b))
def times(a: int, b: int) -> int:
    """Return a * b."""
    return wrap(a * b)


# ---- in kernels ------------------------------------------------------------------------------------------------------


def _emit(builder: ir.IRBuilder, operation: str, pointer: Any, order: str, operands: Any) -> Any:
    if operation == "load":
        value = builder.load_atomic(pointer, order, 8)
    elif operation == "store":
        value = builder.store_atomic(operands[0], pointer, order, 8)
    elif operation == "compare_and_swap":
        value = builder.extract_value(builder.cmpxchg(pointer, *operands, order, _ON_FAILURE.get(order, order)), 1)
    else:
        instruction = {"swap": "xchg", "fetch_add": "add", "fetch_or": "or", "fetch_and": "and"}[operation]
        value = builder.atomic_rmw(instruction, pointer, operands[0], order)
    if order != "monotonic":
        # No instruction. LLVM takes a function of nothing but atomics for one that touches no memory but its
        # arguments' (memory(argmem)), and would move a buffer's accesses across a call of it.
        builder.fence("acquire", targetscope="singlethread")
    return value


@functools.cache
def _instruction(operation: str, order: str) -> Any:
    """Make the intrinsic of one operation in one order."""
    result = {"store": types.void, "compare_and_swap": types.boolean}.get(operation, types.int64)

    def typed(words: Any, *operands: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            base, i, *values = args
            if isinstance(words, types.Array):
                base = context.make_array(words)(context, builder, base).data
            value = _emit(builder, operation, builder.gep(base, [i]), _LLVM[order], values)
            return context.get_dummy_value() if operation == "store" else value

        return result(words, types.intp, *(types.int64 for _ in operands)), codegen

    if operation == "load":
        return intrinsic(lambda typingctx, words, i: typed(words))
    if operation == "compare_and_swap":
        return intrinsic(lambda typingctx, words, i, expected, desired: typed(words, expected, desired))
    return intrinsic(lambda typingctx, words, i, value: typed(words, value))


def _resolve(operation: str, words: Any, order: Any, *integers: Any) -> Any:
    """Check types while a kernel is compiled and return the instruction to use."""
    for number in integers:
        if not isinstance(types.unliteral(number), types.Integer):
            raise errors.TypingError(f"i and values of atomics.{operation} must be integers, not {number}")
    literal = order if isinstance(order, str) else getattr(order, "literal_value", getattr(order, "value", None))
    if not isinstance(literal, str):
        raise errors.TypingError(f"order of atomics.{operation} must be a string constant, not {order}")
    try:
        _check_order(operation, literal)
    except ValueError as error:
        raise errors.TypingError(str(error)) from None
    fits = words == types.CPointer(types.int64) or (
        isinstance(words, types.Array)
        and (words.dtype, words.ndim, words.layout) == (types.int64, 1, "C")
        and words.mutable
        and words.aligned
    )
    if not fits:
        raise errors.TypingError(_bad_words(operation, words))
    return _instruction(operation, literal)


@kernel_overload(load)
def _load(words: Any, i: int, order: Any = "acquire") -> Any:
    instruction = _resolve("load", words, order, i)
    return lambda words, i, order="acquire": instruction(words, i)


@kernel_overload(store)
def _store(words: Any, i: int, value: int, order: Any = "release") -> Any:
    instruction = _resolve("store", words, order, i, value)
    return lambda words, i, value, order="release": instruction(words, i, value)


@kernel_overload(compare_and_swap)
def _compare_and_swap(words: Any, i: int, expected: int, desired: int, order: Any = "acq_rel") -> Any:
    instruction = _resolve("compare_and_swap", words, order, i, expected, desired)
    return lambda words, i, expected, desired, order="acq_rel": instruction(words, i, expected, desired)


def _overload_fetch(function: Callable[..., Any]) -> None:
    @kernel_overload(function)
    def choose(words: Any, i: int, value: int, order: Any = "acq_rel") -> Any:
        instruction = _resolve(function.__name__, words, order, i, value)
        return lambda words, i, value, order="acq_rel": instruction(words, i, value)


for _function in (swap, fetch_add, fetch_or, fetch_and):
    _overload_fetch(_function)


@intrinsic(prefer_literal=True)
def _fence(typingctx: Any, order: Any, scope: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.fence(_LLVM[order.literal_value], targetscope=scope.literal_value or None)
        return context.get_dummy_value()

    return types.void(order, scope), codegen


@kernel_overload(fence)
def _overload_fence(order: Any = "seq_cst") -> Any:
    literal = getattr(order, "literal_value", getattr(order, "value", order))
    try:
        _check_order("fence", literal)
    except ValueError as error:
        raise errors.TypingError(str(error)) from None
    return lambda order="seq_cst": _fence(literal, "")


# ---- from Python -----------------------------------------------------------------------------------------------------


def _check_order(operation: str, order: Any) -> None:
    allowed = _ALLOWED.get(operation, _ALL)
    if not isinstance(order, str) or order not in allowed:
        names = ", ".join(name for name in _LLVM if name in allowed)
        raise ValueError(f"order of atomics.{operation} must be one of {names}, not {order!r}")


def _bad_words(operation: str, words: Any) -> str:
    return (
        f"words of atomics.{operation} must be a one-dimensional contiguous, aligned, writable int64 array, not {words}"
    )


def _check_words(operation: str, words: Any, i: int) -> int:
    """Refuse what is no word; return `i` as an int."""
    if not isinstance(words, np.ndarray):
        raise TypeError(_bad_words(operation, type(words).__name__))
    flags = words.flags
    if not (words.dtype == np.int64 and words.dtype.isnative and words.ndim == 1):
        raise TypeError(_bad_words(operation, f"one of dtype {words.dtype} and {words.ndim} dimensions"))
    for wanted, holds in (
        ("contiguous", flags.c_contiguous),
        ("aligned", flags.aligned),
        ("writable", flags.writeable),
    ):
        if not holds:
            raise ValueError(_bad_words(operation, f"one that is not {wanted}"))
    if type(i) is not int:
        i = _check.index(f"i of atomics.{operation}", i)
    if not 0 <= i < len(words):
        raise IndexError(f"i of atomics.{operation} must be from 0 to {len(words) - 1}, not {i}")
    return i


#: What a word holds after each operation, given what it held before and the operands.
AFTER: dict[str, Callable[..., int]] = {
    "load": lambda old: old,
    "store": lambda old, value: value,
    "swap": lambda old, value: value,
    "compare_and_swap": lambda old, expected, desired: desired if old == expected else old,
    "fetch_add": lambda old, value: old + value,
    "fetch_or": lambda old, value: old | value,
    "fetch_and": lambda old, value: old & value,
}
_interpreter_lock = threading.Lock()


def _interpret(operation: str, words: Any, i: int, order: str, *operands: int) -> Any:
    i = _check_words(operation, words, i)
    _check_order(operation, order)
    if not INTERPRETED:
        names = ("expected", "desired") if operation == "compare_and_swap" else ("value",)
        return _NATIVE[operation](words, i, *map(_check.integer, names, operands, repeat(-(2**63)), repeat(2**63 - 1)))

    if hook is not None:
        return hook(operation, words, i, order, *operands)
    with _interpreter_lock:
        old = int(words[i])
        if operation != "load":
            words[i] = wrap(AFTER[operation](old, *operands))
    return old == operands[0] if operation == "compare_and_swap" else old


@hot
def _native_load(words, i):
    return load(words, i, "seq_cst")


@hot
def _native_store(words, i, value):
    store(words, i, value, "seq_cst")


@hot
def _native_compare_and_swap(words, i, expected, desired):
    return compare_and_swap(words, i, expected, desired, "seq_cst")


@hot
def _native_swap(words, i, value):
    return swap(words, i, value, "seq_cst")


@hot
def _native_fetch_add(words, i, value):
    return fetch_add(words, i, value, "seq_cst")


@hot
def _native_fetch_or(words, i, value):
    return fetch_or(words, i, value, "seq_cst")


@hot
def _native_fetch_and(words, i, value):
    return fetch_and(words, i, value, "seq_cst")


@hot
def _native_fence():
    fence("seq_cst")


@kernel
def _native_heavy_fence():
    return heavy_fence()


_NATIVE = {
    "load": _native_load,
    "store": _native_store,
    "compare_and_swap": _native_compare_and_swap,
    "swap": _native_swap,
    "fetch_add": _native_fetch_add,
    "fetch_or": _native_fetch_or,
    "fetch_and": _native_fetch_and,
}
