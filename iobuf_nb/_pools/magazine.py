"""Magazines: a thread's own stack of free buffers, over a pool that all share.

A put goes to the top of the thread's stack and the next get takes it from there, still warm in the cache, at the price
of some plain loads and stores; the pool's ring is touched only when the stack is full or empty. Nothing is lost for
the others: each magazine is a work-stealing deque (`_deque`), and who finds the ring empty, waits or not, takes the
oldest buffer out of somebody's magazine.

- EMPTY stays exact: `try_get` of the pool or of any magazine says -1 only if there was a moment without a free buffer.
- A waiter is not passed over: a put that finds somebody waiting for a buffer goes to the ring and wakes them.
- A magazine whose thread has died keeps nothing from anybody.

For that, buffers do not move between ring and magazines in halves or wholes, as they do in Bonwick & Adams (USENIX
2001): on their way they would be free and in no place where they could be found.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload_attribute
from numpy.typing import NDArray

from .._free.deque import (
    COUNT,
    DEQUE_CAPACITY,
    MAX_DEQUES,
    OWNER,
    OWNERS_FENCE,
    base_of,
    held,
    order_own,
    pop,
    pop_many,
    push,
    push_many,
)
from .._free.free_list import ITEM_POOL, ITEM_POOL_UNCHECKED, PoolType, own, take, take_many
from .._free.handover import release, release_all
from .._free.owners import disown, disown_many
from .._free.queue import CLOSED_FLAG, GET_EVENT, GETTERS
from .._free.waiting import notify, wait_to_get
from .._jit import check
from .._jit.check import FormattedIndexError, FormattedRuntimeError
from .._jit.check_in_kernels import require_integer
from .._jit.compile import hot, kernel, out_of_line
from .._jit.faces import in_kernels, kernel_face, kernel_overload
from .._jit.handle import MAGAZINE, POOL, WORD_POINTER, Handle, HandleType, load_handle
from .._jit.locks import fork_safe_lock
from .._jit.methods import Group, Operations
from .._threads.fences import register_heavy_fence
from .._threads.gil import thread_id
from .._threads.outcomes import CLOSED, EMPTY, OK
from ..atomics import compare_and_swap, load, store
from .allocator import Allocator, count_or_rest, elements
from .repr import ReprMixin

NOBODY = -1  # the user of a deque whose magazine is closed
SIZE = 3  # where among a magazine's members its size stands


class MagazineType(HandleType):
    """The numba type of `Magazine`."""

    def __init__(self, pool: PoolType, asymmetric: bool) -> None:
        self.pool = pool
        self.asymmetric = asymmetric
        self.kind = pool.kind - POOL + MAGAZINE
        members = [("_base", types.int64), ("size", types.int64), ("pool", pool)]
        super().__init__(f"Magazine over {pool.name}, asymmetric={asymmetric}", members)


class MagazineSetType(HandleType):
    """The numba type of `MagazineSet`."""

    def __init__(self, magazine: MagazineType) -> None:
        self.magazine = magazine
        super().__init__(f"MagazineSet of {magazine.name}", [("_magazines", WORD_POINTER), ("n", types.int64)])


magazine_type = functools.cache(MagazineType)
_set_type = functools.cache(MagazineSetType)


@overload_attribute(MagazineType, "checked")
def _checked(magazine):
    checked = magazine.pool.checked
    return lambda magazine: checked


@overload_attribute(MagazineType, "_asymmetric")  # a constant in kernels, as `checked` is
def _asymmetric(magazine):
    asymmetric = magazine.asymmetric
    return lambda magazine: asymmetric


@overload_attribute(MagazineType, "capacity")
def _capacity(magazine):
    return lambda magazine: magazine.pool.capacity


@kernel
def adopt(magazine):
    """Make this thread the user of a magazine that has none, or refuse."""
    words, owner_word = magazine.pool._deques, magazine._base + OWNER
    out_of_line()
    # U1 acquires from U2; U1 releases to U3. Mutant: "a user takes a magazine by a plain store"
    if not compare_and_swap(words, owner_word, 0, thread_id()):
        owner = load(words, owner_word)  # U3 acquires from U1, U2
        raise FormattedRuntimeError("the magazine belongs to another thread until that releases it: thread {}", owner)


@hot
def enter(magazine):
    """Say whether a magazine is open; refuse one that another thread uses."""
    is_open = magazine.size > 0
    # U3 acquires from U1, U2
    if magazine.pool.checked and is_open and load(magazine.pool._deques, magazine._base + OWNER) != thread_id():
        adopt(magazine)
    return is_open


@hot
def take_from(magazine):
    """Take a free buffer, the one put last if it is still here: its index, or EMPTY."""
    pool = magazine.pool
    if not enter(magazine) or load(pool._queue._words, CLOSED_FLAG):  # C2 acquires from C1
        return EMPTY
    index = pop(pool._deques, magazine._base, magazine._asymmetric)
    if index < 0:
        return take_elsewhere(pool)
    own(pool, index)
    return index


@kernel
def take_elsewhere(pool):
    """Take a free buffer that is not in this thread's magazine."""
    out_of_line()
    return take(pool)


@hot
def give_to(magazine, index):
    """Give a buffer back: OK, or why not, and nothing changed."""
    keeps = enter(magazine)
    status = disown(magazine.pool, index, False)
    if status == OK:
        put_free(magazine, index, keeps)
    return status


@hot
def put_free(magazine, index, keeps):
    """Push a free index; give it to others if it is not to be kept, if there is no room, or if somebody waits."""
    pool = magazine.pool
    words = pool._queue._words
    # K1 is ordered with W1, H1, L6: a hint that spares the push; K2 decides.
    if not keeps or load(words, GETTERS) or not push(pool._deques, magazine._base, magazine.size, index):
        release_elsewhere(pool._queue, index)
    else:
        order_own(magazine._asymmetric)
        # K2 is ordered with W1, H1, L6, after D2: a getter that counted itself in since may have looked here too early.
        # Mutant: "a put looks for getters only before it"
        if load(words, GETTERS):
            notify(pool._queue, GET_EVENT)


@kernel
def release_elsewhere(ring, index):
    """Give a free index to others."""
    out_of_line()
    release(ring, index)


@kernel
def take_many_from(magazine, out, n, seek):
    """Take up to `n` free buffers: how many. Without `seek` other magazines are left alone."""
    pool = magazine.pool
    if not enter(magazine) or load(pool._queue._words, CLOSED_FLAG):  # C2 acquires from C1
        return 0
    done = pop_many(pool._deques, magazine._base, magazine._asymmetric, out, n)
    for k in range(done):
        own(pool, out[k])
    return take_many(pool, out, done, n, seek) if done < n else done


@kernel
def give_many_to(magazine, indices, n):
    """Give `n` buffers back and return -1, or give none and return where the first refused one stands."""
    pool = magazine.pool
    words = pool._queue._words
    keeps = enter(magazine)
    refused = disown_many(pool, indices, n)
    if refused >= 0:
        return refused
    kept = 0
    if keeps and load(words, GETTERS) == 0:  # K1 is ordered with W1, H1, L6
        kept = push_many(pool._deques, magazine._base, magazine.size, indices, n)
        order_own(magazine._asymmetric)
        # K2 is ordered with W1, H1, L6, after D2. Mutant: "a bulk put looks for getters only before it"
        for _ in range(min(kept, load(words, GETTERS))):
            notify(pool._queue, GET_EVENT)
    if kept < n:
        release_all(pool._queue, indices, kept, n)
    return -1


_reserving = fork_safe_lock()


def reserve(pool: Any) -> int:
    """Return the number of a deque that nobody uses; what its last user left in it is in its next one's hands."""
    try:
        number = pool._free_deques.pop()
    except IndexError:
        with _reserving:
            number = load(pool._deques, COUNT)  # L4 acquires from L5
            if number == MAX_DEQUES:
                raise RuntimeError(f"a pool has at most {MAX_DEQUES} open magazines, and this one has them") from None
            store(pool._deques, COUNT, number + 1, "seq_cst")  # L5 releases to L4
    store(pool._deques, base_of(number) + OWNER, 0)  # U2 releases to U1, U3
    return number


@kernel_face(MagazineType)
class Magazine(Allocator):
    """A thread's own stack of free buffers over a pool, the same in Python and in kernels.

    It has the pool's methods: a put keeps the buffer here while there is room, and a get takes the one that was put
    last; otherwise the pool's ring gives and takes. Buffers got through a magazine may be put through the pool or
    another magazine, and the other way round. A buffer that lies here is free: whoever finds the pool's ring empty
    takes it, so that `try_get`, here and on the pool, says -1 only if there was a moment without a free buffer.

    Parameters
    ----------
    pool : BufferPool or ItemPool
        ``pool.magazine(size)`` is the same.
    size : int
        The most buffers it keeps; from 1 to 512.

    Attributes
    ----------
    pool, size
        As given; readable in kernels, `size` as 0 when closed.
    capacity, checked
        Those of the pool.

    Raises
    ------
    RuntimeError
        The pool has 256 open magazines already.
    TypeError, ValueError
        An argument is out of its range.

    Notes
    -----
    A magazine is for one thread at a time. If the pool is checked, it belongs to the thread that uses it first, until
    `release`; every other thread gets RuntimeError, whatever it calls. If the pool is not checked, nobody looks.
    Only `close` may be called by any thread, when no kernel that was given the magazine is running.

    A thread that ends without closing its magazine takes nothing along: its buffers can be got all the same. So can
    those in a magazine that is closed or dropped: they stay where they are, free, until somebody takes them, or the
    next magazine that is opened takes them over.

    Examples
    --------
    >>> from iobuf_nb import BufferPool
    >>> pool = BufferPool(64, 4096)
    >>> with pool.magazine() as magazine:
    ...     index = magazine.get()
    ...     magazine.value(index)[0] = 7
    ...     magazine.put(index)
    ...     magazine.was_size(), magazine.get() == index, pool.available()
    (1, True, 63)
    >>> pool.put(index)

    >>> from numba import njit
    >>> @njit(nogil=True)
    ... def work(magazine, n):
    ...     for k in range(n):
    ...         index = magazine.get()
    ...         magazine.value(index)[:] = k
    ...         magazine.put(index)
    >>> with pool.magazine(8) as magazine:
    ...     work(magazine, 1000)
    """

    __slots__ = ("_asymmetric", "_base", "_number", "_to_free", "pool", "size")

    pool: Any

    def __init__(self, pool: Any, size: int = 32) -> None:
        if not isinstance(pool, Allocator) or isinstance(pool, Magazine):
            raise TypeError(f"pool must be a BufferPool or an ItemPool, not {pool!r:.60}")
        self.size = check.integer("size", size, 1, DEQUE_CAPACITY)
        self._asymmetric = register_heavy_fence()
        self.pool = pool
        store(self.pool._deques, OWNERS_FENCE, int(not self._asymmetric))  # T9 releases to T10
        self._number = reserve(pool)
        self._to_free = iter((self._number,))
        self._base = base_of(self._number)
        self._describe(magazine_type(pool._numba_type_, self._asymmetric))

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """How many buffers the pool has."""
        return self.pool.capacity

    @property
    def checked(self) -> bool:
        """Whether the pool is checked."""
        return self.pool.checked

    @in_kernels
    def value(self, index: int) -> Any:
        """Return what an index stands for; see the pool's method, also for IndexError and TypeError."""
        return self.pool.value(index)

    @in_kernels
    def set_value(self, index: int, data: Any) -> None:
        """Write what an index stands for; see the pool's method, also for IndexError, TypeError and ValueError."""
        self.pool.set_value(index, data)

    @in_kernels
    def _take(self) -> int:
        return take_from(self)

    @in_kernels
    def _wait(self, limit: int) -> int:
        return wait_to_get(self.pool, limit) if self.size else CLOSED

    @in_kernels
    def _give(self, index: int) -> int:
        return give_to(self, index)

    @in_kernels
    def _take_many(self, out: NDArray[np.int64]) -> int:
        return take_many_from(self, elements(out), len(out), True)

    @in_kernels
    def _give_many(self, indices: NDArray[np.int64]) -> int:
        return give_many_to(self, elements(indices), len(indices))

    @in_kernels
    def was_size(self) -> int:
        """Return how many free buffers it held a moment ago; any thread may ask."""
        return held(self.pool._deques, self._base) if self.size else 0

    @in_kernels
    def release(self) -> None:
        """Let another thread be the next user, with all that lies here.

        Raises
        ------
        RuntimeError
            The pool is checked, and the magazine belongs to another thread.
        """
        if enter(self):
            # U2 releases to U1, U3. Mutant: "a magazine is released by a relaxed store"
            store(self.pool._deques, self._base + OWNER, 0)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether it has been closed; then gets find nothing, and puts go to the pool. Readable in kernels."""
        return self.size == 0

    def close(self) -> None:
        """End its use; closing twice, or by several threads at once, is no error. Python only.

        What lies here stays free and can be got through the pool: nothing is moved, so no buffer is out of sight for a
        moment. Buffers that are out are not touched: put them through this, which hands them on, or the pool.
        """
        self.size, size = 0, int(self._members[SIZE])
        # U4 is ordered with U4: one thread alone frees the deque.
        if size and compare_and_swap(self._members, SIZE, size, 0):
            store(self.pool._deques, self._base + OWNER, NOBODY)  # U2 releases to U1, U3
            self.pool._free_deques.extend(self._to_free)

    def __enter__(self) -> Magazine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Its buffers stay where they are, since everybody finds them there: this may be any thread, in any state.
        if hasattr(self, "_to_free"):
            self.pool._free_deques.extend(self._to_free)  # nothing is left there after a close that came to its end

    def _figures(self) -> dict[str, object]:
        return {"pool": repr(self.pool), "size": self.size, "held": self.was_size()}

    def _occupancy(self) -> float:
        # It may hold more than `size` that it took over from the last one with its number.
        return min(self.was_size() / self.size, 1.0) if self.size else 0.0


class MagazineSet(Handle, ReprMixin):
    """One magazine for each thread of a team, by its number: for ``prange`` and thread pools.

    Parameters
    ----------
    pool : BufferPool or ItemPool
    n : int
        How many magazines; at most 256 can be open for one pool.
    size : int
        Of each; see `Magazine`.

    Notes
    -----
    ``magazines[k]`` is magazine `k`, in Python and in kernels; IndexError if `k` is not from 0 to n - 1, TypeError if
    it is not an integer. It belongs to the thread that uses it first until `Magazine.release`: so release it at the end
    of the thread's share of the work. Other errors are those of `Magazine`.

    Examples
    --------
    >>> import numba
    >>> from iobuf_nb import BufferPool, MagazineSet
    >>> @numba.njit(parallel=True)
    ... def work(magazines, rounds):
    ...     for k in numba.prange(len(magazines)):
    ...         magazine = magazines[k]
    ...         for _ in range(rounds):
    ...             magazine.try_put(magazine.try_get())
    ...         magazine.release()
    >>> pool = BufferPool(64, 4096)
    >>> with MagazineSet(pool, 4) as magazines:
    ...     work(magazines, 1000)
    >>> pool.available()
    64
    """

    __slots__ = ("_all", "_magazines", "n", "pool")

    def __init__(self, pool: Any, n: int, size: int = 32) -> None:
        self.n = check.integer("n", n, 1, MAX_DEQUES)
        self._all: list[Magazine] = []
        try:
            for _ in range(self.n):
                self._all.append(Magazine(pool, size))
        except BaseException:
            self.close()
            raise
        self.pool = pool
        self._magazines = np.array([magazine._address for magazine in self._all])
        self._describe(_set_type(self._all[0]._numba_type_))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, k: int) -> Magazine:
        number = check.index("k", k)
        if not 0 <= number < self.n:
            raise IndexError(f"k must be from 0 to {self.n - 1}, not {k}")
        return self._all[number]

    def close(self) -> None:
        """Close them all; see `Magazine.close`."""
        for magazine in self._all:
            magazine.close()

    def __enter__(self) -> MagazineSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _figures(self) -> dict[str, object]:
        return {"pool": repr(self.pool), "n": self.n, "held": sum(magazine.was_size() for magazine in self._all)}

    def _occupancy(self) -> float:
        return sum(magazine._occupancy() for magazine in self._all) / self.n


@kernel_overload(operator.getitem)
def _fetch(magazines: Any, k: Any) -> Any:
    if not isinstance(magazines, MagazineSetType):
        return None
    require_integer("k", k)
    kind = magazines.magazine

    def fetch(magazines, k):
        if k < 0 or k >= magazines.n:
            raise FormattedIndexError("k must be from 0 to {}, not {}", magazines.n - 1, k)
        return load_handle(load(magazines._magazines, k), kind)  # U5 reads a constant

    return fetch


@kernel_overload(len)
def _len(magazines: Any) -> Any:
    return (lambda magazines: magazines.n) if isinstance(magazines, MagazineSetType) else None


@hot
def _take_near(magazine, out, n):
    """Take up to `n` buffers from here or the free queue: how many, or REST less that if there may be others."""
    return count_or_rest(magazine.pool, take_many_from(magazine, out, n, False), n)


@hot
def _is_ours(magazine):
    """Say whether this thread may use a magazine without a question."""
    # U3 acquires from U1, U2
    return not magazine.pool.checked or load(magazine.pool._deques, magazine._base + OWNER) == thread_id()


def _operations() -> list[Operations]:
    kinds = [magazine_type(pool, register_heavy_fence()) for pool in (ITEM_POOL, ITEM_POOL_UNCHECKED)]
    return [Operations(kind, take_from, give_to, _take_near, give_many_to, _is_ours) for kind in kinds]


METHODS = Group()
METHODS.add(Magazine, _operations)
