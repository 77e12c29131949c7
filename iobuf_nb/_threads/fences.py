"""Asymmetric fences: a cheap fence for the side that runs often, an expensive one for the side that runs rarely.

One thread stores a word, executes `light_fence` and loads another; a second thread stores that other word, executes
`heavy_fence` and loads the first. Then at least one of the two sees the other's store, as with two full fences.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import types

from .._jit import instructions, seam
from .._jit.compile import INTERPRETED, kernel
from .._jit.faces import compiled_as, kernel_instruction
from ..atomics import fence
from .libc import MEMBARRIER, syscall


def light_fence() -> None:
    """Keep the compiler from moving memory accesses across this point: the cheap half of a pair with `heavy_fence`.

    It emits no instruction, so the processor may still execute a later load before an earlier store.

    Notes
    -----
    One thread stores a word, executes a light fence and loads another; a second thread stores that other word,
    executes a heavy fence and loads the first. Then at least one of them sees the other's store, as with two full
    fences.

    Examples
    --------
    >>> light_fence()
    """
    if seam.hook is not None:
        seam.hook("light_fence", None, -1, "seq_cst")


@kernel_instruction(light_fence)
def _light_fence(typingctx: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        instructions.fence(builder, "seq_cst", "singlethread")
        return context.get_dummy_value()

    return types.void(), codegen


def _heavy_fence_in_kernel():
    fence("seq_cst")
    if _membarrier(_EXPEDITE) == 0:
        return True
    _membarrier(_REGISTER)
    return _membarrier(_EXPEDITE) == 0


@compiled_as(_heavy_fence_in_kernel)
def heavy_fence() -> bool:
    """Execute a full fence on all running threads of this process: the expensive half of a pair with `light_fence`.

    It calls membarrier(2), which takes some microseconds. After `register_heavy_fence` has returned True it works,
    unless a sandbox forbids the system call later.

    Returns
    -------
    bool
        Whether all threads executed a fence. If False, only this thread did, and stores that other threads made before
        their light fences may not be visible yet: the caller must not do what relies on the pair.

    Examples
    --------
    >>> if register_heavy_fence():
    ...     assert heavy_fence()
    """
    if not INTERPRETED:
        return bool(_native_heavy_fence())
    return seam.hook is None or seam.hook("heavy_fence", None, -1, "seq_cst") is not False


@functools.cache
def register_heavy_fence() -> bool:
    """Register this process, and its forked children, for `heavy_fence`; return whether that works here.

    Returns
    -------
    bool
        False if there is no membarrier(2), or a sandbox forbids it: then both sides of a pair need a full `fence`.
        The result is cached.
    """
    return int(_membarrier(_REGISTER)) == 0 and int(_membarrier(_EXPEDITE)) == 0


_EXPEDITE, _REGISTER = 8, 16  # MEMBARRIER_CMD_PRIVATE_EXPEDITED and MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED


@kernel
def _membarrier(command):
    return syscall(MEMBARRIER, command, 0, 0, 0, 0, 0) if MEMBARRIER >= 0 else -1


@kernel
def _native_heavy_fence():
    return heavy_fence()
