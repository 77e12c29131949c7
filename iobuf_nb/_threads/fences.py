"""Asymmetric fences: a cheap side for the thread that runs often, an expensive side for the one that runs rarely.

One thread stores, passes `light_fence` and loads what a second thread stores; the second stores, passes `heavy_fence`
and loads what the first stores. Then at least one of the two sees the other's store, as with two full fences.
"""

from __future__ import annotations

import functools

from .._jit import seam
from .._jit.compile import INTERPRETED, kernel
from .._jit.faces import compiled_as
from .._jit.instructions import llvm_fence
from ..atomics import fence
from .libc import MEMBARRIER, syscall


def _light_fence_in_kernel():
    llvm_fence("seq_cst", "singlethread")


@compiled_as(_light_fence_in_kernel)
def light_fence() -> None:
    """Keep the compiler from moving accesses across: the cheap side of a pair with `heavy_fence`.

    It costs no instruction, so the processor may still let a later load pass an earlier store.

    Notes
    -----
    One thread stores, passes a light fence and loads what a second thread stores; the second stores, passes a heavy
    fence and loads what the first stores. Then not both can miss the other's store, just as with two full fences.
    """
    if seam.hook is not None:
        seam.hook("light_fence", None, -1, "seq_cst")


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
    return seam.hook is None or seam.hook("heavy_fence", None, -1, "seq_cst") is not False


@functools.cache
def register_heavy_fence() -> bool:
    """Say whether this system has what `heavy_fence` needs, and make it ready for this process and forked children.

    Returns
    -------
    bool
        False where there is no membarrier(2), or a sandbox forbids it: then both sides of a pair need a `fence`.
    """
    return int(_membarrier(_REGISTER)) == 0 and int(_membarrier(_EXPEDITE)) == 0


_EXPEDITE, _REGISTER = 8, 16  # MEMBARRIER_CMD_PRIVATE_EXPEDITED and MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED


@kernel
def _membarrier(command):
    return syscall(MEMBARRIER, command, 0, 0, 0, 0, 0) if MEMBARRIER >= 0 else -1


@kernel
def _native_heavy_fence():
    return heavy_fence()
