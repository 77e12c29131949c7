"""Elements: an int64 array as kernels pass it on for the time of a call, a pointer and a length.

numba counts references to an array that is passed to a function, with atomic instructions that take longer than a bulk
get. So a method that is marked `by_elements` sees a contiguous array of int64 as its elements, which have a length and
items but no owner: the caller keeps the array alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_cast
from numba.extending import intrinsic, models, register_model

from .handle import WORD_POINTER

Function = TypeVar("Function", bound=Callable[..., Any])

_marked: set[Any] = set()


class ElementsType(types.Type):
    """The numba type of elements."""

    def __init__(self) -> None:
        super().__init__("iobuf_nb.Elements")


ELEMENTS = ElementsType()


@register_model(ElementsType)
class _ElementsModel(models.StructModel):
    def __init__(self, data_model_manager: Any, kind: Any) -> None:
        super().__init__(data_model_manager, kind, [("first", WORD_POINTER), ("length", types.int64)])


@lower_cast(types.Array, ElementsType)
def _elements_of_array(context: Any, builder: ir.IRBuilder, array_type: Any, kind: Any, value: Any) -> Any:
    array = context.make_array(array_type)(context, builder, value)
    made = cgutils.create_struct_proxy(kind)(context, builder)
    made.first, made.length = array.data, array.nitems
    return made._getvalue()


@intrinsic
def first_of(typingctx: Any, elements: Any) -> Any:
    """Return a pointer to the first of some elements."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return cgutils.create_struct_proxy(ELEMENTS)(context, builder, args[0]).first

    return WORD_POINTER(ELEMENTS), codegen


@intrinsic
def number_of(typingctx: Any, elements: Any) -> Any:
    """Return how many elements there are."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return cgutils.create_struct_proxy(ELEMENTS)(context, builder, args[0]).length

    return types.int64(ELEMENTS), codegen


def by_elements(function: Function) -> Function:
    """Mark the body of a method that takes contiguous arrays of int64 as elements in kernels."""
    _marked.add(function)
    return function


def passed(body: Any, kind: Any) -> Any:
    """Return the type that the body of a method sees of an argument."""
    array = isinstance(kind, types.Array) and (kind.dtype, kind.ndim, kind.layout, kind.mutable)
    return ELEMENTS if body in _marked and array == (types.int64, 1, "C", True) else kind
