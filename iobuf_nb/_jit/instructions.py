"""LLVM instructions that numba does not expose: atomics, fences, pauses, words by address, wrapping arithmetic."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .faces import kernel_instruction

LLVM_ORDERS = {
    "relaxed": "monotonic",
    "acquire": "acquire",
    "release": "release",
    "acq_rel": "acq_rel",
    "seq_cst": "seq_cst",
}

# A failed compare-and-swap stores nothing, so only the acquire half of its ordering applies.
_ON_FAILURE = {"acq_rel": "acquire", "release": "monotonic"}

_WORD, _BOOL, _VOID = ir.IntType(64), ir.IntType(1), ir.VoidType()

# ---- in kernels ------------------------------------------------------------------------------------------------------


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, args: list[Any], write: Callable[..., Any]) -> Any:
    """Call a function of one instruction, which `write` writes, and which LLVM inlines.

    Not the instruction itself: across an atomic access LLVM keeps what numba stores in the stack frame, to clear the
    results of calls that are seldom made; across a call it drops that, before it inlines it.
    """
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [arg.type for arg in args])
        function = ir.Function(builder.module, kind, name)
        function.linkage = "linkonce_odr"
        function.attributes.add("alwaysinline")
        body = ir.IRBuilder(function.append_basic_block())
        value = write(body, *function.args)
        body.ret_void() if result == _VOID else body.ret(value)
    return builder.call(function, args)


def atomic(builder: ir.IRBuilder, operation: str, order: str, pointer: Any, i: Any, *operands: Any) -> Any:
    """Write one operation on word `i`, in one of `LLVM_ORDERS`; return its result."""
    order = LLVM_ORDERS[order]

    def write(body: ir.IRBuilder, pointer: Any, i: Any, *operands: Any) -> Any:
        word = body.gep(pointer, [i])
        if operation == "load":
            value = body.load_atomic(word, order, 8)
        elif operation == "store":
            value = body.store_atomic(operands[0], word, order, 8)
        elif operation == "compare_and_swap":
            value = body.extract_value(body.cmpxchg(word, *operands, order, _ON_FAILURE.get(order, order)), 1)
        else:
            instruction = {"swap": "xchg", "fetch_add": "add", "fetch_or": "or", "fetch_and": "and"}[operation]
            value = body.atomic_rmw(instruction, word, operands[0], order)
        if order != "monotonic":
            # Emits no instruction. LLVM infers that a function of nothing but atomics accesses only its arguments'
            # memory (memory(argmem)), and would move accesses of buffers across calls to it.
            body.fence("acquire", targetscope="singlethread")
        return value

    result = {"store": _VOID, "compare_and_swap": _BOOL}.get(operation, _WORD)
    return _call(builder, f"iobuf_nb.{operation}.{order}", result, [pointer, i, *operands], write)


def fence(builder: ir.IRBuilder, order: str, scope: str | None = None) -> None:
    """Write a fence in one of `LLVM_ORDERS`; with the scope "singlethread", one for the compiler alone."""
    name, order = f"iobuf_nb.fence.{order}.{scope}", LLVM_ORDERS[order]
    _call(builder, name, _VOID, [], lambda body: body.fence(order, targetscope=scope))


@intrinsic
def llvm_pause(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        machine = platform.machine().lower()
        i32 = ir.IntType(32)
        # Not inline assembly, which kills the process: numba does not initialise LLVM's assembly parser.
        if machine in ("x86_64", "amd64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VOID, []), "llvm.x86.sse2.pause")
            builder.call(hint, [])
        elif machine in ("aarch64", "arm64"):
            hint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VOID, [i32]), "llvm.aarch64.hint")
            builder.call(hint, [i32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


# ---- memory by its address -------------------------------------------------------------------------------------------


@intrinsic
def load_word(typingctx: Any, address: Any) -> Any:
    """Return the word at an address."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))

    return types.int64(types.int64), codegen


@intrinsic
def store_word(typingctx: Any, address: Any, value: Any) -> Any:
    """Store a word at an address."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], _WORD.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def to_pointer(typingctx: Any, address: Any) -> Any:
    """Return an address as a pointer to words."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], _WORD.as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


def _words_in_frame(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
    words = cgutils.alloca_once(builder, _WORD, len(args))
    for k, value in enumerate(args):
        builder.store(value, builder.gep(words, [_WORD(k)]))
    return builder.ptrtoint(words, _WORD)


@intrinsic
def two_words(typingctx: Any, first: Any, second: Any) -> Any:
    """Return the address of two words in the stack frame."""
    return types.int64(types.int64, types.int64), _words_in_frame


@intrinsic
def four_words(typingctx: Any, first: Any, second: Any, third: Any, fourth: Any) -> Any:
    """Return the address of four words in the stack frame."""
    return types.int64(*[types.int64] * 4), _words_in_frame


# ---- wrapping arithmetic: in compiled code a signed + may not overflow (LLVM's nsw) ----------------------------------


def wrap(value: int) -> int:
    """Return the low 64 bits of `value` as a signed integer."""
    return (int(value) + 2**63) % 2**64 - 2**63


def plus(a: int, b: int) -> int:
    """Return a + b, wrapping at 64 bits."""
    return wrap(a + b)


def minus(a: int, b: int) -> int:
    """Return a - b, wrapping at 64 bits."""
    return wrap(a - b)


def times(a: int, b: int) -> int:
    """Return a * b, wrapping at 64 bits."""
    return wrap(a * b)


def _wrapping(function: Any, instruction: str) -> None:
    @kernel_instruction(function)
    def typed(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return types.int64(types.int64, types.int64), codegen


for _function, _instruction in (plus, "add"), (minus, "sub"), (times, "mul"):
    _wrapping(_function, _instruction)
