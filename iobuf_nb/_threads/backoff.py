"""Pacing a retry loop: `SpinWait` for what another core is about to finish, `Backoff` for everything slower.

Both keep their state in a few words of memory, so the same object keeps its pace whether Python or a kernel calls it.
Objects made inside a kernel live in its stack frame and cannot leave it. Neither class is thread-safe.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from .._jit import check
from .._jit.check import FormattedValueError
from .._jit.compile import hot, kernel
from .._jit.faces import in_kernels, kernel_face, kernel_overload
from .._jit.handle import WORD_POINTER, Handle, HandleType, unmade
from .._jit.instructions import plus, times
from ..atomics import load, store
from .clock import now_ns, sleep
from .parking import SPINS, spin

_WORDS = 5

# SpinWait
TURN = 0

# Backoff; durations in nanoseconds
BLOCK = 0  # from 1; block n is n sleeps of min(n * base, max)
SLEPT = 1  # sleeps of this block that are done
BASE = 2
MAX = 3
RANDOM = 4
_NS = 1e-9  # by less than that a limit that is read differs from what was given


class SpinWaitType(HandleType):
    """The numba type of `SpinWait`."""

    on_the_stack = True

    def __init__(self) -> None:
        super().__init__(type(self).__name__.removesuffix("Type"), [("_words", WORD_POINTER)])


class BackoffType(SpinWaitType):
    """The numba type of `Backoff`."""


def _on_the_stack(numba_type: HandleType) -> Any:
    """Return an intrinsic that makes a handle over words in the caller's stack frame."""

    def typed(typingctx: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            words = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(64), _WORDS), zfill=False)
            model = context.data_model_manager[numba_type]
            handle = ir.Constant(model.get_value_type(), None)  # all members 0: not the address of a Python object
            return model.set(builder, handle, builder.bitcast(words, ir.IntType(64).as_pointer()), "_words")

        return numba_type(), codegen

    return intrinsic(typed)


@hot
def spin_once(waiter):
    """Spin for one turn and count it."""
    turn = load(waiter._words, TURN, "relaxed")
    store(waiter._words, TURN, turn + 1, "relaxed")
    spin(turn)


@kernel_face(SpinWaitType)
class SpinWait(Handle):
    """Spin with exponential back-off: 1, 2, 4 ... 128 pauses, then yield the processor (sched_yield(2)) each turn.

    For waits of a few microseconds, until another thread finishes what it has started. It never sleeps, and keeps the
    GIL if the caller holds it; to wait for Python code, use `Backoff`. Works the same in Python and in kernels. Not
    thread-safe: each waiting thread needs its own.

    Examples
    --------
    >>> from numba import njit
    >>> from iobuf_nb import SpinWait, atomics
    >>> @njit(nogil=True)
    ... def wait_for(words):
    ...     waiter = SpinWait()
    ...     while atomics.load(words, 0) == 0:
    ...         waiter.once()
    >>> wait_for(np.ones(1, np.int64))
    """

    def __init__(self) -> None:
        self._words = np.zeros(_WORDS, np.int64)
        self._describe(SPIN_WAIT_TYPE)

    @in_kernels
    def once(self) -> None:
        """Spin for one turn: pauses for the first eight, then a yield of the processor."""
        spin_once(self)

    @in_kernels
    def reset(self) -> None:
        """Start over with a single pause."""
        store(self._words, TURN, 0, "relaxed")

    @property
    @in_kernels
    def will_yield(self) -> bool:
        """Whether the next turn yields the processor."""
        return load(self._words, TURN, "relaxed") >= SPINS

    def __repr__(self) -> str:
        return unmade(self, "SpinWait") or f"SpinWait(will_yield={self.will_yield})"


def as_limits(base: float, max: float) -> tuple[float, float]:
    """Return the limits of a `Backoff` as floats; TypeError or ValueError if they are not valid."""
    allowed = "a number of seconds > 0"
    shortest = check.seconds("base", base, allowed)
    if not shortest > 0:
        raise ValueError(f"base must be {allowed}, not {base!r:.60}")
    allowed = f"a number of seconds from base ({shortest}) to 2**33"
    longest = check.seconds("max", max, allowed)
    if not 0 < longest <= check.MAX_SECONDS or longest < shortest - _NS:
        raise ValueError(f"max must be {allowed}, not {max!r:.60}")
    return shortest, longest


@kernel_overload(as_limits)
def _as_limits_in_kernel(base: Any, max: Any) -> Any:
    for name, value in (("base", base), ("max", max)):
        if not isinstance(value, (float, types.Integer, types.Float)):
            raise errors.TypingError(f"{name} must be a number of seconds, not {value}")

    def limits(base, max):
        if not base > 0:
            raise FormattedValueError("base must be a number of seconds > 0, not {}", base)
        if not 0 < max <= check.MAX_SECONDS or max < base - _NS:
            raise FormattedValueError("max must be a number of seconds from base ({}) to 2**33, not {}", base, max)
        return float(base), float(max)

    return limits


@hot
def set_limits(backoff, limits):
    """Write limits that `as_limits` has checked, in nanoseconds; none is 0, which `as_limits` would refuse."""
    base, max = limits
    store(backoff._words, BASE, int(base * 1e9 + 0.5) or 1, "relaxed")
    store(backoff._words, MAX, int(max * 1e9 + 0.5) or 1, "relaxed")


@hot
def restart(backoff):
    """Go back to the first block."""
    store(backoff._words, BLOCK, 1, "relaxed")
    store(backoff._words, SLEPT, 0, "relaxed")


@hot
def next_ns(backoff):
    """Return the length of the next sleep, before jitter."""
    block = load(backoff._words, BLOCK, "relaxed")
    return min(block * load(backoff._words, BASE, "relaxed"), load(backoff._words, MAX, "relaxed"))


@kernel
def sleep_once(backoff):
    """Sleep once, with jitter, and count it."""
    ns = next_ns(backoff)
    # A linear congruential generator (Knuth, TAOCP 3.3.4, MMIX); its high bits are the random ones.
    random = plus(times(load(backoff._words, RANDOM, "relaxed"), 6364136223846793005), 1442695040888963407)
    store(backoff._words, RANDOM, random, "relaxed")
    sleep(ns + (ns >> 3) * (random >> 32) // 2**31)
    block = load(backoff._words, BLOCK, "relaxed")
    slept = load(backoff._words, SLEPT, "relaxed") + 1
    store(backoff._words, SLEPT, slept % block, "relaxed")
    store(backoff._words, BLOCK, block + slept // block, "relaxed")


@kernel_face(BackoffType)
class Backoff(Handle):
    """Sleep between retries, with linear back-off: block n is n sleeps of min(n * base, max) seconds.

    Each sleep is longer or shorter by a random jitter of up to an eighth (12.5 %), so that threads that start together
    drift apart. Works the same in Python and in kernels.

    Parameters
    ----------
    base : float
        Seconds of the first sleep, and by how much sleeps grow from block to block; > 0.
    max : float
        Seconds of the longest sleep, before jitter; from `base` to 2**33.

    Attributes
    ----------
    block : int
        The block of the next sleep, from 1.
    duration : float
        Seconds of the next sleep, before jitter.
    base, max : float
        The current limits, in seconds.

    Raises
    ------
    TypeError, ValueError
        `base` or `max` is not a number, or out of its range.

    Notes
    -----
    `wait` releases the GIL while it sleeps, even in a kernel compiled without ``nogil``. On the main thread it ends
    with the exception of a signal handler that raises. Not thread-safe: each waiting thread needs its own.

    Examples
    --------
    >>> backoff = Backoff(base=1e-6, max=2e-6)
    >>> for _ in range(4):
    ...     backoff.wait()
    >>> backoff.block, backoff.duration
    (3, 2e-06)
    """

    def __init__(self, base: float = 500e-6, max: float = 0.1) -> None:
        limits = as_limits(base, max)
        self._words = np.zeros(_WORDS, np.int64)
        self._describe(BACKOFF_TYPE)
        store(self._words, RANDOM, time.monotonic_ns() ^ self._words.ctypes.data, "relaxed")
        set_limits(self, limits)
        restart(self)

    @in_kernels
    def wait(self) -> None:
        """Sleep for `duration` seconds, with jitter; each sleep may move on to the next block."""
        sleep_once(self)

    @in_kernels
    def reset(self) -> None:
        """Start over with the first block."""
        restart(self)

    @in_kernels
    def set_base(self, base: float) -> None:
        """Set `base`, in seconds, > 0 and at most `max`; TypeError or ValueError otherwise."""
        set_limits(self, as_limits(base, self.max))

    @in_kernels
    def set_max(self, max: float) -> None:
        """Set `max`, in seconds, from `base` to 2**33; TypeError or ValueError otherwise."""
        set_limits(self, as_limits(self.base, max))

    @property
    @in_kernels
    def block(self) -> int:
        """The block of the next sleep, from 1."""
        return load(self._words, BLOCK, "relaxed")

    @property
    @in_kernels
    def duration(self) -> float:
        """Seconds of the next sleep, before jitter."""
        return next_ns(self) / 1e9

    @property
    @in_kernels
    def base(self) -> float:
        """Seconds of the first sleep."""
        return load(self._words, BASE, "relaxed") / 1e9

    @property
    @in_kernels
    def max(self) -> float:
        """Seconds of the longest sleep, before jitter."""
        return load(self._words, MAX, "relaxed") / 1e9

    def __repr__(self) -> str:
        return unmade(self, "Backoff") or f"Backoff(base={self.base:g}, max={self.max:g}, block={self.block})"


SPIN_WAIT_TYPE = SpinWaitType()
BACKOFF_TYPE = BackoffType()


_spin_wait_on_the_stack = _on_the_stack(SPIN_WAIT_TYPE)
_backoff_on_the_stack = _on_the_stack(BACKOFF_TYPE)


# Inlined before compilation, so that the words are in the stack frame of the calling kernel.
@kernel_overload(SpinWait, inline="always")
def _spin_wait_in_kernel():
    def make():
        waiter = _spin_wait_on_the_stack()
        waiter.reset()
        return waiter

    return make


@kernel_overload(Backoff, inline="always")
def _backoff_in_kernel(base=500e-6, max=0.1):
    def make(base=500e-6, max=0.1):
        limits = as_limits(base, max)
        backoff = _backoff_on_the_stack()
        store(backoff._words, RANDOM, now_ns(), "relaxed")
        set_limits(backoff, limits)
        restart(backoff)
        return backoff

    return make
