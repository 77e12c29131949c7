"""Atomic operations on 64-bit words, for numba kernels and for plain Python.

A *word* is one element of a one-dimensional contiguous int64 array. Every function has the same meaning in both:

- in a kernel it is one LLVM atomic instruction (LLVM Language Reference, "Atomic Memory Ordering Constraints");
- in Python it is the same instruction, called through a compiled function, always sequentially consistent;
- with ``NUMBA_DISABLE_JIT=1`` it is interpreted: atomic among Python threads, or answered by a model checker through
  `_jit.seam`.

The compiler may hoist a plain ``words[i]`` out of a loop, so that it is read only once. Access words that threads share
only through these functions. They never block.

Kernels do not check `i`. In Python, IndexError is raised if `i` is out of range, and TypeError or ValueError if an
argument is not a 64-bit integer, not such an array, or not one of the allowed orders. In kernels the types and the
order, which must be a constant, are checked when the kernel is compiled.

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

from collections.abc import Callable
from contextlib import nullcontext
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numba import types
from numba.core import errors

from ._jit import check, instructions, seam
from ._jit.compile import INTERPRETED, hot
from ._jit.faces import kernel_instruction, kernel_overload
from ._jit.instructions import LLVM_ORDERS, atomic, llvm_pause, wrap
from ._jit.locks import folder_locked, fork_safe_lock

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

Order = Literal["relaxed", "acquire", "release", "acq_rel", "seq_cst"]

_ALL = frozenset(LLVM_ORDERS)

_ALLOWED = {
    "load": _ALL - {"release", "acq_rel"},
    "store": _ALL - {"acquire", "acq_rel"},
    "fence": _ALL - {"relaxed"},
}


def load(words: Any, i: int, order: Order = "acquire") -> int:
    """Load word `i`.

    Parameters
    ----------
    words : int64 array, 1-D, C-contiguous, aligned, writable
    i : int
        The index of the word, from 0 to len(words) - 1.
    order : {"relaxed", "acquire", "seq_cst"}
        The memory ordering; "acquire" pairs with a release store of the same word.

    Returns
    -------
    int

    Raises
    ------
    IndexError, TypeError, ValueError
        From Python, for invalid arguments.

    Examples
    --------
    >>> load(np.array([5, 6]), 1)
    6
    """
    return _interpret("load", words, i, order)


def store(words: Any, i: int, value: int, order: Order = "release") -> None:
    """Store `value` in word `i`.

    Parameters
    ----------
    words, i
        As in `load`.
    value : int
        From -2**63 to 2**63 - 1.
    order : {"relaxed", "release", "seq_cst"}
        The memory ordering; "release" pairs with an acquire load of the same word.

    Examples
    --------
    >>> words = np.zeros(1, np.int64)
    >>> store(words, 0, 7)
    >>> load(words, 0)
    7
    """
    _interpret("store", words, i, order, value)


def compare_and_swap(words: Any, i: int, expected: int, desired: int, order: Order = "acq_rel") -> bool:
    """Store `desired` in word `i` if it contains `expected`, in one atomic step.

    Parameters
    ----------
    words, i
        As in `load`.
    expected, desired : int
        From -2**63 to 2**63 - 1.
    order : {"relaxed", "acquire", "release", "acq_rel", "seq_cst"}
        The memory ordering; on failure only its acquire half applies.

    Returns
    -------
    bool
        Whether it stored `desired`; it never fails spuriously.

    Examples
    --------
    >>> words = np.zeros(1, np.int64)
    >>> compare_and_swap(words, 0, 0, 7), compare_and_swap(words, 0, 0, 8), load(words, 0)
    (True, False, 7)
    """
    return bool(_interpret("compare_and_swap", words, i, order, expected, desired))


def swap(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Store `value` in word `i` and return its previous value; parameters as in `load`, with any `order`.

    Examples
    --------
    >>> words = np.array([5])
    >>> swap(words, 0, 7), load(words, 0)
    (5, 7)
    """
    return _interpret("swap", words, i, order, value)


def fetch_add(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Add `value` to word `i`, wrapping at 64 bits; return its previous value. Parameters as in `load`, any `order`.

    Examples
    --------
    >>> words = np.array([5])
    >>> fetch_add(words, 0, 2), load(words, 0)
    (5, 7)
    """
    return _interpret("fetch_add", words, i, order, value)


def fetch_or(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Set the bits of `value` in word `i`; return its previous value. Parameters as in `load`, any `order`.

    Examples
    --------
    >>> words = np.array([0b0101])
    >>> fetch_or(words, 0, 0b0011), load(words, 0)
    (5, 7)
    """
    return _interpret("fetch_or", words, i, order, value)


def fetch_and(words: Any, i: int, value: int, order: Order = "acq_rel") -> int:
    """Clear the bits of word `i` that `value` lacks; return its previous value. Parameters as in `load`, any `order`.

    Examples
    --------
    >>> words = np.array([0b0101])
    >>> fetch_and(words, 0, 0b0011), load(words, 0)
    (5, 1)
    """
    return _interpret("fetch_and", words, i, order, value)


def fence(order: Order = "seq_cst") -> None:
    """Order the memory accesses of this thread before the fence with respect to those after it.

    Parameters
    ----------
    order : {"acquire", "release", "acq_rel", "seq_cst"}
        From Python it is always "seq_cst".

    Raises
    ------
    ValueError
        `order` is not one of these.

    Examples
    --------
    >>> fence()
    """
    _check_order("fence", order)
    if not INTERPRETED:
        _native_fence()
    elif seam.hook is not None:
        seam.hook("fence", None, -1, order)


def pause(n: int = 1) -> None:
    """Issue `n` spin-wait hints (PAUSE on x86-64, YIELD on ARM64); no-op from Python, where a call takes longer.

    Parameters
    ----------
    n : int
        From 0 to 2**31. One hint takes some 40 ns on recent x86-64, less elsewhere.

    Raises
    ------
    TypeError, ValueError
        From Python, if `n` is not an integer, or out of its range.

    Examples
    --------
    >>> pause(4)
    """
    check.integer("n", n, 0, 2**31)
    if seam.hook is not None:
        seam.hook("pause", None, -1, "", n)


@kernel_overload(pause)
def _pause_in_kernel(n: Any = 1) -> Any:
    if not isinstance(n, (int, types.Integer, types.Omitted)):
        raise errors.TypingError(f"n must be an integer, not {n}")

    def pauses(n=1):
        for _ in range(n):
            llvm_pause()

    return pauses


def _typed(operation: str, words: Any, order: Any, *integers: Any) -> Any:
    """Check types when a kernel is compiled; return the signature, and what writes the instruction."""
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

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, i, *operands, _ = args
        if isinstance(words, types.Array):
            base = context.make_array(words)(context, builder, base).data
        result = atomic(builder, operation, literal, base, i, *operands)
        return context.get_dummy_value() if operation == "store" else result

    result = {"store": types.void, "compare_and_swap": types.boolean}.get(operation, types.int64)
    return result(words, types.intp, *(types.int64 for _ in integers[1:]), _argument(order)), codegen


def _argument(order: Any) -> Any:
    """Return the type of an order that is given, or left out."""
    return types.Omitted(order) if isinstance(order, str) else order


@kernel_instruction(load)
def _load(typingctx: Any, words: Any, i: int, order: Any = "acquire") -> Any:
    return _typed("load", words, order, i)


@kernel_instruction(store)
def _store(typingctx: Any, words: Any, i: int, value: int, order: Any = "release") -> Any:
    return _typed("store", words, order, i, value)


@kernel_instruction(compare_and_swap)
def _compare_and_swap(typingctx: Any, words: Any, i: int, expected: int, desired: int, order: Any = "acq_rel") -> Any:
    return _typed("compare_and_swap", words, order, i, expected, desired)


def _define_fetch(function: Callable[..., Any]) -> None:
    @kernel_instruction(function)
    def typed(typingctx: Any, words: Any, i: int, value: int, order: Any = "acq_rel") -> Any:
        return _typed(function.__name__, words, order, i, value)


for _function in (swap, fetch_add, fetch_or, fetch_and):
    _define_fetch(_function)


@kernel_instruction(fence)
def _fence(typingctx: Any, order: Any = "seq_cst") -> Any:
    literal = getattr(order, "literal_value", getattr(order, "value", order))
    try:
        _check_order("fence", literal)
    except ValueError as error:
        raise errors.TypingError(str(error)) from None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        instructions.fence(builder, literal)
        return context.get_dummy_value()

    return types.void(_argument(order)), codegen


# ---- from Python -----------------------------------------------------------------------------------------------------


def _check_order(operation: str, order: Any) -> None:
    allowed = _ALLOWED.get(operation, _ALL)
    if not isinstance(order, str) or order not in allowed:
        names = ", ".join(name for name in LLVM_ORDERS if name in allowed)
        raise ValueError(f"order of atomics.{operation} must be one of {names}, not {order!r}")


def _bad_words(operation: str, words: Any) -> str:
    return (
        f"words of atomics.{operation} must be a one-dimensional contiguous, aligned, writable int64 array, not {words}"
    )


def _check_words(operation: str, words: Any, i: int) -> int:
    """Return `i` as an int; TypeError, ValueError or IndexError if there is no such word."""
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
        i = check.index(f"i of atomics.{operation}", i)
    if not 0 <= i < len(words):
        raise IndexError(f"i of atomics.{operation} must be from 0 to {len(words) - 1}, not {i}")
    return i


#: The value of a word after each operation, given its previous value and the operands.
AFTER: dict[str, Callable[..., int]] = {
    "load": lambda old: old,
    "store": lambda old, value: value,
    "swap": lambda old, value: value,
    "compare_and_swap": lambda old, expected, desired: desired if old == expected else old,
    "fetch_add": lambda old, value: old + value,
    "fetch_or": lambda old, value: old | value,
    "fetch_and": lambda old, value: old & value,
}
_interpreter_lock: Any = fork_safe_lock()  # reentrant, for finalizers and handlers of signals
_folder = ""


def _interpret(operation: str, words: Any, i: int, order: str, *operands: int) -> Any:
    if INTERPRETED and seam.hook is not None:  # which checks each access once, and not when it is repeated
        return seam.hook(operation, words, i, order, *operands)
    i = _check_words(operation, words, i)
    _check_order(operation, order)
    if not INTERPRETED:
        names = ("expected", "desired") if operation == "compare_and_swap" else ("value",)
        return _NATIVE[operation](words, i, *map(check.integer, names, operands, repeat(-(2**63)), repeat(2**63 - 1)))

    nested = _interpreter_lock._is_owned()  # this is a finalizer, or a handler of a signal
    with _interpreter_lock, folder_locked(_folder) if _folder and not nested else nullcontext():
        old = int(words[i])
        if operation != "load":
            words[i] = wrap(AFTER[operation](old, *operands))
    return old == operands[0] if operation == "compare_and_swap" else old


def share_words(folder: str) -> None:
    """Have processes with the JIT off exclude each other by a lock of a folder, for words are shared from now on."""
    global _folder
    _folder = folder


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


_NATIVE = {
    "load": _native_load,
    "store": _native_store,
    "compare_and_swap": _native_compare_and_swap,
    "swap": _native_swap,
    "fetch_add": _native_fetch_add,
    "fetch_or": _native_fetch_or,
    "fetch_and": _native_fetch_and,
}
