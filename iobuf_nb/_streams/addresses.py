"""Arrays over memory that is known by its address."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .._jit.faces import compiled_as


@intrinsic
def _pointer(typingctx: Any, address: Any, like: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


@compiled_as(lambda address, n, like: carray(_pointer(address, like), (n, *like.shape[1:])))
def items_at(address: int, n: int, like: NDArray[Any]) -> NDArray[Any]:
    """Return the `n` items at an address, of the dtype and the shape of the items of `like`."""
    memory = (ctypes.c_char * int(n * like[:1].nbytes)).from_address(int(address))
    return np.frombuffer(memoryview(memory), like.dtype).reshape(n, *like.shape[1:])


_BYTE = np.zeros(1, np.uint8)


@compiled_as(lambda address: _pointer(address, _BYTE))
def bytes_at(address: int) -> Any:
    """Return the bytes from an address on, to be read by their indices."""
    return ctypes.cast(int(address), ctypes.POINTER(ctypes.c_uint8))
