"""LLVM instructions that numba does not expose: atomics, fences, the spin-wait hint, wrapping arithmetic."""

from __future__ import annotations

import functools
import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .faces import compiled_as

LLVM_ORDERS = {
    "relaxed": "monotonic",
    "acquire": "acquire",
    "release": "release",
    "acq_rel": "acq_rel",
    "seq_cst": "seq_cst",
}

# A failed compare-and-swap stores nothing, so only the acquire half of its ordering applies.
_ON_FAILURE = {"acq_rel": "acquire", "release": "monotonic"}

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
        # Emits no instruction. LLVM infers that a function of nothing but atomics accesses only its arguments' memory
        # (memory(argmem)), and would move accesses of buffers across calls to it.
        builder.fence("acquire", targetscope="singlethread")
    return value


@functools.cache
def instruction(operation: str, order: str) -> Any:
    """Return the intrinsic of one operation with one ordering."""
    result = {"store": types.void, "compare_and_swap": types.boolean}.get(operation, types.int64)

    def typed(words: Any, *operands: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            base, i, *values = args
            if isinstance(words, types.Array):
                base = context.make_array(words)(context, builder, base).data
            value = _emit(builder, operation, builder.gep(base, [i]), LLVM_ORDERS[order], values)
            return context.get_dummy_value() if operation == "store" else value

        return result(words, types.intp, *(types.int64 for _ in operands)), codegen

    if operation == "load":
        return intrinsic(lambda typingctx, words, i: typed(words))
    if operation == "compare_and_swap":
        return intrinsic(lambda typingctx, words, i, expected, desired: typed(words, expected, desired))
    return intrinsic(lambda typingctx, words, i, value: typed(words, value))


@intrinsic(prefer_literal=True)
def llvm_fence(typingctx: Any, order: Any, scope: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.fence(LLVM_ORDERS[order.literal_value], targetscope=scope.literal_value or None)
        return context.get_dummy_value()

    return types.void(order, scope), codegen


@intrinsic
def llvm_pause(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        machine = platform.machine().lower()
        void, i32 = ir.VoidType(), ir.IntType(32)
        # Not inline assembly, which kills the process: numba does not initialise LLVM's assembly parser.
        if machine in ("x86_64", "amd64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        elif machine in ("aarch64", "arm64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(void, [i32]), "llvm.aarch64.hint")
            builder.call(hint, [i32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


def wrap(value: int) -> int:
    """Return the low 64 bits of `value` as a signed integer."""
    return (int(value) + 2**63) % 2**64 - 2**63


# ---- wrapping arithmetic: in compiled code a signed + may not overflow (LLVM's nsw) ----------------------------------


def _wrapping(operation: str) -> Any:
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return getattr(builder, operation)(*args)

        return types.int64(types.int64, types.int64), codegen

    return intrinsic(typed)


_add, _subtract, _multiply = map(_wrapping, ("add", "sub", "mul"))


@compiled_as(lambda a, b: _add(a, b))
def plus(a: int, b: int) -> int:
    """Return a + b, wrapping at 64 bits."""
    return wrap(a + b)


@compiled_as(lambda a, b: _subtract(a, b))
def minus(a: int, b: int) -> int:
    """Return a - b, wrapping at 64 bits."""
    return wrap(a - b)


@compiled_as(lambda a, b: _multiply(a, b))
def times(a: int, b: int) -> int:
    """Return a * b, wrapping at 64 bits."""
    return wrap(a * b)
