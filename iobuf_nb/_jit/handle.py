"""Handles: how a Python object becomes a few scalars inside a kernel.

An array passed through a chain of calls travels as seven words, and a reference count in a hot loop is worse. A handle
is a struct of integers and raw pointers instead: its *members*. It is loaded at once from an int64 array that holds
the address of that array, and then the members in order. Each member has the name of an attribute of the Python object.
Types of handles whose first members are the same have a *core* in common, a type of just these: what serves all of them
is compiled for the core. Members are not reference-counted: the caller of a kernel keeps the object, and with it the
memory, alive until the kernel returns.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.imputils import lower_cast, lower_constant, lower_getattr_generic
from numba.core.typeinfer import GetAttrConstraint
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, box, intrinsic, models, register_model, unbox
from numpy.typing import NDArray

from .compile import FINGERPRINT, INTERPRETED
from .refusals import KernelTypingError, caller

WORD_POINTER = types.CPointer(types.int64)

#: All live handles, by the address of their members.
live: weakref.WeakValueDictionary[int, Handle] = weakref.WeakValueDictionary()
_pinned: set[Handle] = set()

#: What to run before the first handle of a class is made; it must tolerate being run again.
before_first: dict[type, Callable[[], None]] = {}


class Handle:
    """The Python side: an object that owns memory and can be passed to kernels."""

    # Slots: C methods find `_members` at the same offset in all handles. Classes with C methods have no instance
    # dictionary either, which a method lookup would search first.
    __slots__ = ("__weakref__", "_address", "_members", "_numba_type_")

    _OR_SHARE = ""  # how to use it in other processes

    _address: int
    _members: NDArray[np.int64]
    _numba_type_: HandleType

    def _describe(self, numba_type: HandleType) -> None:
        """Write this object's attributes to the members of `numba_type`, so that kernels can take it."""
        for cls in type(self).__mro__:
            prepare = before_first.get(cls)
            if prepare:
                prepare()
                before_first.pop(cls, None)  # only now: Ctrl-C may interrupt it, and other threads must wait for it
        self._numba_type_ = numba_type
        values = [value for name, member in numba_type.members[1:] for value in _words_of(getattr(self, name), member)]
        self._members = np.array([0, *values], np.int64)
        self._members[0] = self._address = self._members.ctypes.data
        live[self._address] = self

    @property
    def _core(self) -> Any:
        """What compiled functions take for this object that serve several types of handle; see `HandleType.core`."""
        return self if INTERPRETED else _Core(self._address, self._numba_type_.core)

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied: its memory belongs to this process; "
            f"make one where it is needed, and give it to kernels as an argument{self._OR_SHARE}"
        )


def unmade(handle: Any, name: str) -> str:
    """Return the repr of a handle whose constructor has failed, which a traceback may show; nothing for others."""
    return "" if hasattr(handle, "_members") else f"<{name}, not made>"


class _Core:
    """The members of a handle, under another type."""

    __slots__ = ("_address", "_numba_type_")

    def __init__(self, address: int, numba_type: HandleType) -> None:
        self._address = address
        self._numba_type_ = numba_type


def _words_of(value: Any, member: types.Type) -> Iterable[int]:
    """Return the words of a member: an address, an integer, or those of a nested handle or tuple."""
    if member == WORD_POINTER:
        return [value.ctypes.data]
    if isinstance(member, HandleType):
        return value._members
    return value if isinstance(member, types.BaseTuple) else [value]


class HandleType(types.Type):
    """The kernel side: a numba type whose values are structs of the named members."""

    #: Attributes that kernels see as constants.
    constants: Mapping[str, bool] = MappingProxyType({})
    #: Whether kernels may make values in their own stack frames.
    on_the_stack = False

    @property
    def core(self) -> HandleType:
        """The type that functions see which serve several types of handle: it has the first of the same members."""
        return self

    def __init__(self, name: str, members: list[tuple[str, types.Type]]) -> None:
        self.members = [("_address", types.int64), *members]
        super().__init__(f"{name} of {FINGERPRINT}")

    def __init_subclass__(cls) -> None:
        """Register a new kind of handle with numba."""
        register_model(cls)(_Model)
        unbox(cls)(_unbox)
        box(cls)(_box)
        lower_constant(cls)(_constant)


@infer_getattr
class _Members(AttributeTemplate):
    """Resolve members as attributes, after all other attributes, and refuse names that do not exist."""

    key = HandleType

    def generic_resolve(self, handle_type: HandleType, name: str) -> Any:
        member = {**dict(handle_type.members), "_core": handle_type.core}.get(name)
        if name in handle_type.constants:
            member = types.boolean
        # hasattr() asks too, and must not get an error.
        if member is None and caller(GetAttrConstraint.__call__, 9):
            kind = handle_type.name.removesuffix(f" of {FINGERPRINT}")
            raise KernelTypingError(f"a {kind} has no attribute {name!r} in kernels")
        return member


@lower_getattr_generic(HandleType)
def _get_member(context: Any, builder: Any, handle_type: HandleType, value: Any, name: str) -> Any:
    if name == "_core":
        return context.cast(builder, value, handle_type, handle_type.core)
    if name in handle_type.constants:
        return context.get_constant(types.boolean, handle_type.constants[name])
    return context.data_model_manager[handle_type].get(builder, value, name)


@lower_cast(HandleType, HandleType)
def _to_core(context: Any, builder: Any, handle_type: HandleType, core: HandleType, value: Any) -> Any:
    """Pass a handle as its core: the members that it has in common."""
    whole, model = context.data_model_manager[handle_type], context.data_model_manager[core]
    inside = dict(handle_type.members)
    part = ir.Constant(model.get_value_type(), ir.Undefined)
    for name, member in core.members:
        one = context.cast(builder, whole.get(builder, value, name), inside[name], member)
        part = model.set(builder, part, one, name)
    return part


class _Model(models.StructModel):
    def __init__(self, manager: Any, handle_type: HandleType) -> None:
        super().__init__(manager, handle_type, handle_type.members)

    # Pointers are passed as integers: numba marks the pointer arguments of a prange body noalias, which pointers to
    # shared words are not.

    def get_argument_type(self) -> Any:
        return tuple(
            ir.IntType(64) if member == WORD_POINTER else model.get_argument_type()
            for member, model in zip(self._members, self._models, strict=True)
        )

    def as_argument(self, builder: Any, value: Any) -> Any:
        return tuple(
            builder.ptrtoint(argument, ir.IntType(64)) if member == WORD_POINTER else argument
            for member, argument in zip(self._members, super().as_argument(builder, value), strict=True)
        )

    def from_argument(self, builder: Any, value: Any) -> Any:
        arguments = [
            builder.inttoptr(argument, model.get_value_type()) if member == WORD_POINTER else argument
            for member, model, argument in zip(self._members, self._models, value, strict=True)
        ]
        return super().from_argument(builder, arguments)


@intrinsic
def load_handle(typingctx: Any, address: Any, handle_type: Any) -> Any:
    """Return the handle whose members are at an address; it may be a prefix of them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, signature.return_type, builder.inttoptr(args[0], ir.IntType(8).as_pointer()))

    return handle_type.instance_type(types.int64, handle_type), codegen


def _load(context: Any, builder: Any, handle_type: HandleType, members: Any) -> Any:
    return builder.load(builder.bitcast(members, context.get_value_type(handle_type).as_pointer()))


def _unbox(handle_type: HandleType, handle: Any, c: Any) -> Any:
    address = c.pyapi.object_getattr_string(handle, "_address")
    members = c.pyapi.long_as_voidptr(address)
    c.pyapi.decref(address)
    return NativeValue(_load(c.context, c.builder, handle_type, members))


def find_handle(address: int) -> Handle:
    """Return the object whose members are at an address."""
    if address == 0:
        raise RuntimeError("an object made inside a kernel lives in its stack frame, and cannot be returned from it")
    handle = live.get(address)
    if handle is None:
        raise RuntimeError("the object that this kernel returns is gone: it was dropped while the kernel ran")
    return handle


def _box(handle_type: HandleType, value: Any, c: Any) -> Any:
    find = c.pyapi.unserialize(c.pyapi.serialize_object(find_handle))
    address = c.pyapi.long_from_longlong(_get_member(c.context, c.builder, handle_type, value, "_address"))
    handle = c.pyapi.call_function_objargs(find, (address,))
    c.pyapi.decref(address)
    c.pyapi.decref(find)
    return handle


def _constant(context: Any, builder: Any, handle_type: HandleType, handle: Handle) -> Any:
    """Lower a handle that a kernel uses as a global: the kernel is not cached, and the handle is never freed."""
    _pinned.add(handle)
    members = context.add_dynamic_addr(builder, handle._address, info=handle_type.name)
    return _load(context, builder, handle_type, members)
