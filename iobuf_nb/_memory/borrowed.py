"""Borrowed memory: arrays over a pool's buffers that kernels use without counting references.

Counting the references to a pool's memory would cost more than a get and a put together. So a kernel sees a buffer as
a numba type of its own, a `BorrowedArray`. Like any array it points to the object that keeps the memory alive (NRT's
``MemInfo``), but its references are not counted, because the kernel's caller keeps the pool alive. When it is returned,
kept in a container or unified with an array of another kind it becomes an ordinary array, which numba counts.

Handles have no MemInfo. So containers that may outlive a call refuse them when a kernel is compiled, and a generator
that is returned to Python keeps the handles that it was called with.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import boxing, cgutils, errors, pythonapi
from numba.core.imputils import lower_builtin, lower_cast, lower_getattr
from numba.core.runtime import _nrt_python
from numba.extending import box, intrinsic, models, register_model
from numpy.typing import NDArray

from .._jit.compile import FINGERPRINT
from .._jit.faces import compiled_as
from .._jit.handle import HandleType, live


def memory_info(array: NDArray[Any]) -> tuple[Any, int]:
    """Return the MemInfo that keeps an array's memory alive for kernels, and its address.

    Keep it as long as kernels may start with the address. Arrays that kernels return keep it, and the memory, alive.
    """
    address = _nrt_python.meminfo_new(array.ctypes.data, array)
    return _nrt_python._MemInfo(address), address


class BorrowedArray(types.Array):
    """The numba type of an array whose memory is kept alive by the caller of the kernel."""

    def __init__(self, dtype: types.Type, ndim: int, layout: str, readonly: bool = False, aligned: bool = True) -> None:
        name = f"borrowed {types.Array(dtype, ndim, layout, readonly=readonly, aligned=aligned)}"
        super().__init__(dtype, ndim, layout, readonly=readonly, name=name, aligned=aligned)

    def copy(self, dtype: Any = None, ndim: Any = None, layout: Any = None, readonly: Any = None) -> types.Array:
        """Return the type of an array that numba derives from this one."""
        made = super().copy(dtype, ndim, layout, readonly)
        # Only slices and rows are derived like this. Other views, and arrays with memory of their own, are counted.
        sliced = None not in (ndim, layout) and dtype is readonly is None
        return _as(BorrowedArray, made) if sliced else made

    def unify(self, typingctx: Any, other: types.Type) -> Any:
        """Unify with another array: borrowed if both are, otherwise counted."""
        unified = super().unify(typingctx, other)
        return unified and _as(BorrowedArray if isinstance(other, BorrowedArray) else types.Array, unified)


def _as(kind: type, array: types.Array) -> Any:
    return kind(array.dtype, array.ndim, array.layout, readonly=not array.mutable, aligned=array.aligned)


@register_model(BorrowedArray)
class _Model(models.StructModel):
    """The layout of an array, with a plain pointer in place of the MemInfo, so that numba does not count it."""

    def __init__(self, manager: Any, array: BorrowedArray) -> None:
        counted = manager.lookup(_as(types.Array, array))
        members = [(field, counted.get_type(field)) for field in counted._fields]
        members[counted.get_field_position("meminfo")] = ("meminfo", types.voidptr)
        super().__init__(manager, array, members)


@lower_cast(BorrowedArray, types.Array)
@lower_cast(BorrowedArray, BorrowedArray)
def _cast(context: Any, builder: Any, from_type: Any, to_type: Any, array: Any) -> Any:
    return array  # numba counts the result of a cast by its new type


@lower_cast(types.Array, BorrowedArray)
def _refuse_cast(context: Any, builder: Any, from_type: Any, to_type: Any, array: Any) -> Any:
    raise errors.TypingError(f"cannot use {from_type} as a {to_type}: nothing would keep its memory alive")


def _view(attribute: str) -> Any:
    """Register the lowering of a view for which numba counts a reference, as of the ordinary array type."""

    def lower(context: Any, builder: Any, borrowed: BorrowedArray, array: Any) -> Any:
        counted = _as(types.Array, borrowed)
        return context.get_getattr(counted, attribute)(context, builder, counted, array, attribute)

    return lower_getattr(BorrowedArray, attribute)(lower)


_transposed, _ = map(_view, ("T", "real"))


@lower_builtin("array.transpose", BorrowedArray)
def _transpose(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return _transposed(context, builder, *signature.args, *args)


@box(BorrowedArray)
def _box(borrowed: BorrowedArray, array: Any, c: Any) -> Any:
    counted = _as(types.Array, borrowed)
    c.context.nrt.incref(c.builder, counted, array)  # boxing consumes a reference
    return c.box(counted, array)


def _adopt(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array over the same memory that keeps it alive, if it is in the memory of a pool."""
    for handle in [*live.values()]:
        memory = getattr(handle, "_buffers", np.empty(0)).base
        if memory is not None and 0 <= array.ctypes.data - memory.ctypes.data < memory.nbytes:
            place = array.ctypes.data - memory.ctypes.data
            return np.ndarray(array.shape, array.dtype, memory, place, array.strides)
    return array


del pythonapi._boxers.functions[types.Array]


@box(types.Array)
def _box_array(array_type: types.Array, array: Any, c: Any) -> Any:
    """Box an array as numba does, except for arrays inside a record, for which numba knows no MemInfo."""
    boxed = cgutils.alloca_once_value(c.builder, boxing.box_array(array_type, array, c))
    unknown = cgutils.is_null(c.builder, c.context.make_helper(c.builder, array_type, array).meminfo)
    with c.builder.if_then(unknown, likely=False):
        made = c.builder.load(boxed)
        adopt = c.pyapi.unserialize(c.pyapi.serialize_object(_adopt))
        c.builder.store(c.pyapi.call_function_objargs(adopt, (made,)), boxed)
        c.pyapi.decref(adopt)
        c.pyapi.decref(made)
    return c.builder.load(boxed)


@intrinsic
def _lend(typingctx: Any, array: Any, memory: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.insert_value(args[0], builder.inttoptr(args[1], ir.IntType(8).as_pointer()), 0)

    return _as(BorrowedArray, array)(array, types.int64), codegen


@compiled_as(lambda array, memory: _lend(array, memory))
def lend(array: Any, memory: int) -> Any:
    """Return the array as a `BorrowedArray`, whose memory is kept alive by the `memory_info` at an address."""
    return array


# ---- containers and generators, which may outlive a call -------------------------------------------------------------


def _is_ours(numba_type: types.Type) -> bool:
    """Return whether values of a type are, or contain, handles or borrowed arrays."""
    if isinstance(numba_type, (types.Optional, types.List, types.BaseTuple)):
        inside = numba_type.types if isinstance(numba_type, types.BaseTuple) else [numba_type.dtype]
        return any(map(_is_ours, inside))
    return isinstance(numba_type, (HandleType, BorrowedArray))


def _name(numba_type: types.Type) -> str:
    return f"a {numba_type}".replace(f" of {FINGERPRINT}", "")


def _lasting(container: str, given: Any) -> Any:
    """Return the element type, or types by name, for a container: borrowed arrays become counted, handles refused."""
    if isinstance(given, dict):
        return type(given)((name, _lasting(container, inside)) for name, inside in given.items())
    if not isinstance(given, types.Type):
        return tuple((name, _lasting(container, inside)) for name, inside in given)
    if not _is_ours(given):
        return given
    if isinstance(given, BorrowedArray):
        return _as(types.Array, given)
    if isinstance(given, types.BaseTuple):
        inside = [_lasting(container, one) for one in given.types]
        return types.BaseTuple.from_types(inside, getattr(given, "instance_class", None))
    raise errors.TypingError(
        f"{container} cannot hold {_name(given)}: nothing there keeps its memory alive; "
        "give it to kernels as an argument, several of them in a tuple"
    )


def _guard(kind: type, method: str, container: str, *parameters: str) -> None:
    """Wrap a method of one of numba's container types, so that it gets element types that may outlive a call."""
    original = getattr(kind, method)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def guarded(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options)
        if kind is not types.List or given.arguments.get("reflected"):  # a list made in a kernel does not outlive it
            for name in parameters:
                given.arguments[name] = _lasting(container, given.arguments[name])
        return original(*given.args, **given.kwargs)

    setattr(kind, method, guarded)


# numba offers no hook for a type to say that containers must not keep it.
_guard(types.ListType, "__init__", "a typed.List", "itemty")

_guard(types.DictType, "__init__", "a typed.Dict", "keyty", "valty")

_guard(types.List, "__init__", "a list", "dtype")

_guard(types.ClassType, "__init__", "a jitclass", "struct")

_guard(types.StructRef, "__init__", "a structref", "fields")

_guard(types.DeferredType, "define", "a deferred type", "typ")

_make_generator = types.Generator.__init__


@functools.wraps(_make_generator)
def _make_guarded_generator(self: types.Generator, *args: Any, **options: Any) -> None:
    """Refuse a generator that keeps an object in its stack frame across a yield, where the frame ends."""
    _make_generator(self, *args, **options)
    for state in self.state_types:
        if getattr(state, "on_the_stack", False) and state not in self.arg_types:
            raise errors.TypingError(f"a generator cannot keep {_name(state)} of its own: give it one as an argument")


types.Generator.__init__ = _make_guarded_generator
_made_with: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = weakref.WeakKeyDictionary()


def _keep(generator: Any, *arguments: Any) -> Any:
    _made_with[generator] = arguments
    return generator


del pythonapi._boxers.functions[types.Generator]


@box(types.Generator)
def _box_generator(numba_type: types.Generator, generator: Any, c: Any) -> Any:
    """Box a generator so that it keeps its handles and borrowed arrays alive."""
    made = boxing.box_generator(numba_type, generator, c)
    kept = [made]
    for place, argument in enumerate(t for t in numba_type.arg_types if not isinstance(t, types.Omitted)):
        if _is_ours(argument):
            pointer = cgutils.gep_inbounds(c.builder, generator, 0, 1, place)
            value = c.context.data_model_manager[argument].load_from_data_pointer(c.builder, pointer)
            c.context.nrt.incref(c.builder, argument, value)  # boxing consumes a reference
            kept.append(c.box(argument, value))
    if len(kept) == 1:
        return made
    # If an argument cannot be boxed, an error is set.
    boxed = cgutils.alloca_once_value(c.builder, c.pyapi.get_null_object())
    ended = functools.reduce(c.builder.or_, [cgutils.is_null(c.builder, one) for one in kept])
    with c.builder.if_then(c.builder.not_(ended)):
        keep = c.pyapi.unserialize(c.pyapi.serialize_object(_keep))
        c.builder.store(c.pyapi.call_function_objargs(keep, kept), boxed)
        c.pyapi.decref(keep)
    for one in kept:
        c.pyapi.decref(one)
    return c.builder.load(boxed)
