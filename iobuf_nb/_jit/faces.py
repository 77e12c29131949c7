"""Faces: one body of source serves as a Python method and as the same method inside kernels.

A body is compiled once for each combination of argument types, and cached: all kernels that call it share the
compilation. (numba's own overloads are compiled anew in every kernel that calls them.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from numba import types
from numba.core.imputils import lower_builtin, lower_getattr
from numba.core.typing import templates

from .compile import INLINE, INTERPRETED, for_kernels
from .places import place_in_kernel
from .refusals import one_sentence, usage_of

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class")

_marked: dict[Callable[..., Any], Callable[..., Any]] = {}  # functions and what they are in kernels
_with_face: set[type] = set()
_compiled: dict[Any, Any] = {}  # dispatchers by the code and the closure of their body


def _seen(owner: Any, numba_type: type) -> Any:
    """Return the type that a method of `numba_type` sees of its owner: the core, if that has the method, too."""
    core = getattr(owner, "core", owner)
    return core if type(core) is numba_type else owner


def _dispatcher_of(body: Any) -> Any:
    """Return the dispatcher through which all kernels call a body."""
    if hasattr(body, "for_kernels"):
        return body.for_kernels
    closure = [cell.cell_contents for cell in body.__closure__ or ()]
    key = body.__code__, body.__defaults__, *map(type, closure), *closure  # types too: True == 1
    if key not in _compiled:
        _compiled[key] = for_kernels(body, INLINE)
    return _compiled[key]


def _call_type(body: Any, context: Any, args: Any, kws: Any) -> Any:
    return types.Dispatcher(_dispatcher_of(body)).get_call_type(context, args, kws)


def _lower_call(body: Any, numba_type: type, context: Any, builder: Any, args: Any, kinds: Any) -> Any:
    """Write a call of a method of `numba_type` with arguments of certain kinds, the owner first."""
    dispatcher = types.Dispatcher(_dispatcher_of(body))
    seen = _seen(kinds[0], numba_type), *kinds[1:]
    call = context.get_function(dispatcher, dispatcher.get_call_type(context.typing_context, seen, {}))
    context.add_linking_libs(getattr(call, "libs", ()))
    return call(builder, [context.cast(builder, args[0], kinds[0], seen[0]), *args[1:]])


# ---- functions -------------------------------------------------------------------------------------------------------


class _Overload(templates._OverloadFunctionTemplate):
    """What numba asks for the body of an overloaded function."""

    def _get_impl(self, args: Any, kws: Any) -> Any:
        self._usage.require(args, kws)
        with one_sentence():
            if self._inline.is_always_inline:
                return super()._get_impl(args, kws)
            body = self._overload_func(*args, **kws)
        return (None, None) if body is None else (_dispatcher_of(body), args)


def kernel_overload(function: Any, inline: str = "never") -> Callable[[Function], Function]:
    """Register a chooser of bodies by argument types for `function`; string constants reach it as literals."""

    def register(choose: Function) -> Function:
        made = templates.make_overload_template(function, choose, INLINE, False, inline, prefer_literal=True)
        template = type(made.__name__, (_Overload, made), {"_usage": usage_of(choose, function.__name__)})
        templates.infer(template)
        templates.infer_global(function, types.Function(template))
        return choose

    return register


def compiled_as(body: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorate a plain Python function that is replaced by `body` inside kernels."""

    def mark(function: Function) -> Function:
        if not INTERPRETED:
            templates.infer_global(function, types.Dispatcher(_dispatcher_of(body)))
        return function

    return mark


class _Instruction(templates._IntrinsicTemplate):
    """What numba asks for the LLVM instructions that a function is inside kernels."""

    def generic(self, args: Any, kws: Any) -> Any:
        self._usage.require(args, kws)
        with one_sentence():
            return super().generic(args, kws)


def kernel_instruction(function: Any) -> Callable[[Function], Function]:
    """Register what `function` is inside kernels, in the form of an intrinsic: a signature, and a writer of code."""

    def register(define: Function) -> Function:
        made = templates.make_intrinsic_template(function, define, function.__name__, prefer_literal=True)
        template = type(made.__name__, (_Instruction, made), {"_usage": usage_of(define, function.__name__, skip=1)})
        templates.infer_global(function, types.Function(template))
        return define

    return register


# ---- methods and attributes ------------------------------------------------------------------------------------------


def kernel_method(numba_type: type, name: str, body: Callable[..., Any], with_place: bool = False) -> None:
    """Give values of `numba_type` the method `name` inside kernels, compiled from `body`.

    If `with_place`, the second argument of the body is the place of the call, see `places`, which kernels do not give.
    """
    usage = usage_of(body, name, hidden="place" if with_place else "")
    place = [types.int64] * with_place

    class Method(templates.AbstractTemplate):
        key = (numba_type, name)

        def generic(self, args: Any, kws: Any) -> Any:
            usage.require((self.this, *args), kws)
            kws = {each: types.unliteral(kind) for each, kind in kws.items()}
            seen = _seen(self.this, numba_type), *place, *map(types.unliteral, args)
            found = _call_type(body, self.context, seen, kws)
            if found and place:
                found = found.replace(args=(found.args[0], *found.args[2:]), pysig=usage)
            return found and found.as_method().replace(recvr=self.this)

    class Attribute(templates.AttributeTemplate):
        key = numba_type

        def generic_resolve(self, owner: Any, attribute: str) -> Any:
            return types.BoundFunction(Method, owner) if attribute == name else None

    templates.infer_getattr(Attribute)

    @lower_builtin((numba_type, name), numba_type, types.VarArg(types.Any))
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        here = [context.get_constant(types.int64, place_in_kernel())] if place else []
        given, kinds = [args[0], *here, *args[1:]], [signature.args[0], *place, *signature.args[1:]]
        return _lower_call(body, numba_type, context, builder, given, kinds)


def kernel_attribute(numba_type: type, name: str, body: Callable[..., Any]) -> None:
    """Give values of `numba_type` the attribute `name` inside kernels, computed by `body`."""

    class Attribute(templates.AttributeTemplate):
        key = numba_type

        def generic_resolve(self, owner: Any, attribute: str) -> Any:
            if attribute != name:
                return None
            return _call_type(body, self.context, (_seen(owner, numba_type),), {}).return_type

    templates.infer_getattr(Attribute)

    @lower_getattr(numba_type, name)
    def lower(context: Any, builder: Any, owner: Any, value: Any) -> Any:
        return _lower_call(body, numba_type, context, builder, [value], [owner])


def in_kernels(function: Function) -> Function:
    """Mark a method, or the getter of a property, as available in kernels too; see `kernel_face`."""
    _marked[function] = function
    return function


def is_in_kernels(body: Callable[..., Any]) -> Callable[[Function], Function]:
    """Mark a method that is `body` itself in kernels: one function less to compile than one that calls it."""

    def mark(function: Function) -> Function:
        _marked[function] = body
        return function

    return mark


def _body_of(member: Any) -> Any:
    return member.fget if isinstance(member, property) else member


def kernel_face(numba_type: type) -> Callable[[type[Class]], type[Class]]:
    """Give values of `numba_type` the methods that a class and its bases mark with `in_kernels`.

    Bases that have a face of their own are skipped: faces are inherited with the numba type.
    """

    def give(python_type: type[Class]) -> type[Class]:
        inherited = {each for base in python_type.__mro__ if base in _with_face for each in base.__mro__}
        for base in python_type.__mro__:
            for name, member in () if base in inherited else [*vars(base).items()]:
                if not (inspect.isfunction(_body_of(member)) and _body_of(member) in _marked):
                    continue
                register = kernel_attribute if isinstance(member, property) else kernel_method
                own = _body_of(inspect.getattr_static(python_type, name))
                register(numba_type, name, _marked.get(own, own))
        _with_face.add(python_type)
        return python_type

    return give
