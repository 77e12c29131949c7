"""`BufferPool(trace=True)` or `(debug=True)`: a pool that knows where its buffers were got, and who misuses them.

A class of its own, with a numba type of its own: kernels over other pools have none of this in them, and C methods are
not in the way, because it has Python methods in their place. What it finds is written down where all gets and puts
pass (`_free.observation`); here is where it becomes an error.
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._free.free_list import observation_of
from .._free.observation import FORMER_PLACE, PLACE, PUTTER, SPOILED, observation_at, word_of
from .._free.owners import FREE, owner_at
from .._jit.compile import kernel
from .._jit.faces import in_kernels, kernel_attribute, kernel_face, kernel_method
from .._jit.places import place_called_from
from .._memory.iovec import IoVec, iovec_over
from .._threads.gil import thread_id
from ..atomics import load, store
from .allocator import Allocator, as_index, elements
from .layout import BufferPoolType, kept_buffer, write
from .leaks import tell
from .magazine import BufferMagazineType, Magazine
from .observation import NotYours, Observation, WrittenAfterPut
from .pool import BufferPool


class ObservedPoolType(BufferPoolType):
    """The numba type of `ObservedPool`."""

    KIND = "BufferPool with trace or debug"
    magazine: Any  # the numba type of a magazine over it


@kernel
def note(pool, place, index):
    """Note where a buffer was got; raise, and put it, if it was written to after its last put."""
    seen = observation_at(observation_of(pool))
    spoiled = load(seen._words, word_of(index, SPOILED), "relaxed")
    if spoiled:
        putter = -load(seen._words, word_of(index, PUTTER), "relaxed")
        former = load(seen._words, word_of(index, FORMER_PLACE), "relaxed")
        store(seen._words, word_of(index, SPOILED), 0, "relaxed")
        store(seen._words, word_of(index, PLACE), former, "relaxed")
        pool.put(index)
        raise WrittenAfterPut(index, spoiled - 1, putter, former)
    store(seen._words, word_of(index, PLACE), place, "relaxed")


@kernel
def require_mine(pool, index):
    """Raise if a buffer is not checked out, or by another thread; what is out of range is refused by others."""
    seen = observation_at(observation_of(pool))
    if seen._poisons and 0 <= index < pool.capacity:
        owner = load(pool._owners, owner_at(pool, index), "relaxed")
        if owner <= FREE or (seen._strict and owner != thread_id()):
            raise NotYours(index, owner, load(seen._words, word_of(index, PLACE), "relaxed"))


class _Noting(Allocator[Any]):
    """The gets of what notes where they are called: an observed pool, or a magazine over one."""

    __slots__ = ()

    _noting: ObservedPool

    def try_get(self) -> int:
        """Do as the method of other pools does, and note where it was called."""
        return self._noting._noted(place_called_from(), super().try_get())

    def get(self, block: bool = True, timeout: float | None = None) -> int:
        """Do as the method of other pools does, and note where it was called."""
        return self._noting._noted(place_called_from(), super().get(block, timeout))

    def get_many(self, out: NDArray[np.int64]) -> int:
        """Do as the method of other pools does, and note where it was called."""
        n, place = super().get_many(out), place_called_from()
        _note_many(self._noting._core, place, out, n)
        return n


def _try_get(self, place):
    index = self._core.try_get()
    if index >= 0:
        note(self._noting, place, index)
    return index


def _get(self, place, block=True, timeout=None):
    index = self._core.get(block, timeout)
    note(self._noting, place, index)
    return index


def _get_many(self, place, out):
    n = self._core.get_many(out)
    _note_many(self._noting, place, elements(out), n)
    return n


def _note_gets(numba_type: Any, noting: Any) -> None:
    """Give values of a type the gets of `_Noting`; `noting` returns the core of their pool."""
    kernel_attribute(numba_type, "_noting", noting)
    for body in _try_get, _get, _get_many:
        kernel_method(numba_type, body.__name__[1:], body, with_place=True)


@kernel_face(ObservedPoolType)
class ObservedPool(_Noting, BufferPool[Any]):
    """A `BufferPool` with ``trace=True`` or ``debug=True``."""

    __slots__ = ()

    _observation: Observation
    _attached = BufferPool._attached  # type: ignore[assignment]  # a shared pool is not observed
    _type = staticmethod(functools.cache(ObservedPoolType))

    @property
    def _noting(self) -> ObservedPool:  # type: ignore[override]
        return self

    def aget(self, timeout: float | None = None) -> Coroutine[Any, Any, int]:
        """Do as `BufferPool.aget` does, and note where it was called, not where a task runs it."""
        return self._aget(place_called_from(), timeout)

    async def _aget(self, place: int, timeout: float | None) -> int:
        return self._noted(place, await super().aget(timeout))

    def _noted(self, place: int, index: int) -> int:
        if index >= 0:
            note(self._core, place, index)
        return index

    @in_kernels
    def value(self, index: int) -> NDArray[Any]:
        """Do as `BufferPool.value` does, for a buffer that this thread has checked out."""
        require_mine(self._core, as_index(index))
        return kept_buffer(self, index)

    def view(self, index: int) -> memoryview:
        """Do as `BufferPool.view` does, for a buffer that this thread has checked out."""
        require_mine(self._core, as_index(index))
        return super().view(index)

    @in_kernels
    def set_value(self, index: int, data: ArrayLike | bytes) -> None:
        """Do as `BufferPool.set_value` does, for a buffer that this thread has checked out."""
        require_mine(self._core, as_index(index))
        write(self, index, data)

    @in_kernels
    def iovec(self, indices: ArrayLike, lengths: ArrayLike | None = None) -> IoVec:
        """Do as `BufferPool.iovec` does, for buffers that this thread has checked out."""
        iovec = iovec_over(self, indices, lengths)
        for index in indices:  # type: ignore[union-attr]
            require_mine(self._core, as_index(index))
        return iovec

    def check(self) -> None:
        """Raise if a free buffer has been written to after its put; see `BufferPool.check`."""
        if not self._observation._poisons:
            super().check()
        for index in range(self.capacity):
            spoiled = self._observation.spoiled(index)
            if spoiled:
                _, former, putter, _ = self._observation._words[word_of(index, PLACE) :][:4]
                self._observation.forget(index)
                raise WrittenAfterPut(index, spoiled - 1, abs(int(putter)), int(former))

    def close(self) -> None:
        """Do as `BufferPool.close` does; a RuntimeWarning names a free buffer that was written to after its put."""
        spoiled = ""
        try:
            if self._observation._poisons and not self.closed:
                self.check()
        except RuntimeError as error:
            spoiled = str(error)
        leaks = self._close()
        try:
            tell(leaks)
        finally:  # where warnings are errors, both are told
            tell(spoiled, RuntimeWarning)

    def _figures(self) -> dict[str, object]:
        return {**super()._figures(), "trace": True, "debug": bool(self._observation._poisons)}


ObservedPool.__name__ = BufferPool.__name__  # as which it is made


@kernel
def _note_many(pool, place, indices, n):
    """Do as `note` does for the first `n` of `indices`: raise, and put all of them, if one was written to."""
    words = observation_at(observation_of(pool))._words
    for k in range(n):
        if load(words, word_of(indices[k], SPOILED), "relaxed"):
            for j in range(n):
                if j != k:
                    pool.put(indices[j])
            n = k + 1
    for k in range(n):
        note(pool, place, indices[k])


class ObservedMagazineType(BufferMagazineType):
    """The numba type of a magazine over an `ObservedPool`."""


class ObservedMagazine(_Noting, Magazine[Any]):
    """A magazine over an `ObservedPool`."""

    __slots__ = ()

    _over = ObservedPool

    @property
    def _noting(self) -> ObservedPool:  # type: ignore[override]
        pool: ObservedPool = self.pool
        return pool


_note_gets(ObservedPoolType, lambda pool: pool._core)
_note_gets(ObservedMagazineType, lambda magazine: magazine.pool._core)
ObservedPoolType.magazine = ObservedMagazineType
ObservedMagazine.__name__ = Magazine.__name__
BufferPool._observed, Magazine._observed = ObservedPool, ObservedMagazine
