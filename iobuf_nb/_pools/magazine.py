"""Magazines: a thread's own stack of free buffers, over a pool shared by all threads.

A put pushes to the thread's stack and the next get pops the same buffer, still warm in the cache, for the cost of a
few plain loads and stores; the pool's free queue is used only when the stack is full or empty. Free buffers in a
magazine stay available to all: each magazine is a work-stealing deque (`_free.deque`), and a get that finds the free
queue empty steals the oldest buffer of a magazine.

- EMPTY is exact: `try_get` of the pool or of any magazine returns -1 only if at some moment no buffer was free.
- Waiters are not bypassed: a put that sees a waiter goes to the free queue and wakes it.
- The magazine of a thread that has ended withholds no buffer.

For these reasons buffers do not move between the free queue and magazines in batches, as in Bonwick & Adams (USENIX
2001): in transit they would be free but nowhere to be found.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import numpy as np
from numba import types
from numpy.typing import NDArray

from .._free.deque import (
    COUNT,
    DEQUE_CAPACITY,
    EMPTINESS,
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
from .._free.free_list import (
    ITEM_POOL,
    let_go,
    let_go_many,
    own,
    own_many,
    own_or_next,
    seek_late,
    take,
    take_failed,
    take_many,
    wait_for_buffer,
)
from .._free.handover import release, release_all
from .._free.queue import CLOSED_FLAG, ELSEWHERE, GET_EVENT, GETTERS
from .._free.waiting import notify
from .._jit import check
from .._jit.check import FormattedIndexError, FormattedRuntimeError
from .._jit.check_in_kernels import require_integer
from .._jit.compile import hot, kernel, out_of_line
from .._jit.faces import in_kernels, is_in_kernels, kernel_face, kernel_method, kernel_overload
from .._jit.handle import WORD_POINTER, Handle, HandleType, load_handle
from .._jit.locks import fork_safe_lock
from .._jit.methods import Operations, replace_methods
from .._threads.fences import register_heavy_fence
from .._threads.gil import thread_id
from .._threads.outcomes import CLOSED, EMPTY, OK
from ..atomics import compare_and_swap, load, store, swap
from .allocator import FOR_DASK, Allocator, count_or_rest
from .holders import thread_names
from .lease import Value
from .repr import ReprMixin

if TYPE_CHECKING:
    from typing_extensions import Self

    from .index_pool import _Pool

NOBODY = -1  # the owner of a deque whose magazine is closed
DEFAULT_SIZE = 64  # the least that takes back what a thread holds that gets 48 buffers at once
SIZE = 2  # position of `size` among the members of a magazine


class MagazineType(HandleType):
    """The numba type of `Magazine`."""

    @property
    def core(self) -> HandleType:
        """What is common to the magazines over all pools."""
        return magazine_type(self.pool.core, self.constants["_asymmetric"])

    def __init__(self, pool: HandleType, asymmetric: bool) -> None:
        self.pool = pool
        self.constants = {"_asymmetric": asymmetric}
        members = [("_base", types.int64), ("size", types.int64), ("pool", pool)]
        super().__init__(f"Magazine over {pool.name}, asymmetric={asymmetric}", members)


class BufferMagazineType(MagazineType):
    """The numba type of a `Magazine` over a `BufferPool`, which has values in kernels, too."""


class MagazineSetType(HandleType):
    """The numba type of `MagazineSet`."""

    def __init__(self, magazine: MagazineType) -> None:
        self.magazine = magazine
        super().__init__(f"MagazineSet of {magazine.name}", [("_magazines", WORD_POINTER), ("n", types.int64)])


@functools.cache
def magazine_type(pool: HandleType, asymmetric: bool) -> MagazineType:
    """Return the type of magazines over pools of a type; `asymmetric` says how they fence."""
    kind = MagazineType if pool is pool.core else getattr(pool, "magazine", BufferMagazineType)
    return kind(pool, asymmetric)


_set_type = functools.cache(MagazineSetType)


@kernel
def adopt(magazine):
    """Make this thread the owner of a magazine that has none, or raise."""
    words, owner_word = magazine.pool._deques, magazine._base + OWNER
    out_of_line()
    # U1 acquires from U2; U1 releases to U3. Mutant: "a thread takes a magazine by a plain store"
    if not compare_and_swap(words, owner_word, 0, thread_id()):
        owner = load(words, owner_word)  # U3 acquires from U1, U2
        raise FormattedRuntimeError("the magazine belongs to another thread until it is released: thread {}", owner)


@hot
def enter(magazine):
    """Return whether a magazine is open; raise if another thread owns it."""
    is_open = magazine.size > 0
    # U3 acquires from U1, U2
    if magazine.pool.checked and is_open and load(magazine.pool._deques, magazine._base + OWNER) != thread_id():
        adopt(magazine)
    return is_open


@hot
def take_from(magazine):
    """Take a free buffer, the most recently put one if it is still here; return its index, or EMPTY."""
    pool = magazine.pool
    if not enter(magazine) or load(pool._queue._words, CLOSED_FLAG):  # C2 acquires from C1
        return EMPTY
    index = pop(pool._deques, magazine._base, magazine._asymmetric)
    if index < 0:
        return take_elsewhere(pool)
    if not own(pool, index):
        own_or_next(pool._address, index)
    return index


@kernel
def take_elsewhere(pool):
    """Take a free buffer from outside this thread's magazine."""
    out_of_line()
    return take(pool)


@hot
def give_to(magazine, index):
    """Return a buffer: OK, or the status of a refusal, without effect."""
    keeps = enter(magazine)
    status = let_go(magazine.pool, index)
    if status == OK:
        put_free(magazine, index, keeps)
    return status


@hot
def put_free(magazine, index, keeps):
    """Push a free index, or release it to others: if the magazine is closed or full, or if a thread waits."""
    pool = magazine.pool
    words = pool._queue._words
    # K1 is ordered with W1, H1, L6: a hint that spares the push; K2 decides.
    if not keeps or load(words, GETTERS) or not push(pool._deques, magazine._base, magazine.size, index):
        release_elsewhere(pool._queue, index)
    else:
        order_own(magazine._asymmetric)
        # K2 is ordered with W1, H1, L6, after D2: a getter that counted itself in since may have looked too early.
        # Mutants: "a put checks for getters only before it pushes", "a push does not refute that all is empty",
        # "a push refutes before it counts"
        if load(words, GETTERS) | load(pool._deques, EMPTINESS, "relaxed"):
            tell(pool._queue, pool._deques, 1)


@kernel
def tell(queue, deques, n):
    """After `n` pushes, take back that all deques are empty, and wake as many getters."""
    out_of_line()
    # E1 is ordered with E2, E3, E4, after D2: a push that has returned is seen.
    # Mutant: "a push refutes by a plain store"
    swap(deques, EMPTINESS, 0, "seq_cst")
    # K3 is ordered with W1, H1, L6, after E1. Mutants: "a put to a magazine checks by an acquire load",
    # "a bulk put to a magazine wakes nobody"
    for _ in range(min(n, load(queue._words, GETTERS, "seq_cst"))):
        notify(queue, GET_EVENT)


@kernel
def release_elsewhere(queue, index):
    """Release a free index to other threads."""
    out_of_line()
    release(queue, index)


# Bulk operations are hot, too: calls with all members of a magazine would take a third of the time for 32 buffers.


@hot
def take_many_from(magazine, out, n, seek):
    """Take up to `n` free buffers; return how many. Other magazines are searched only if `seek` is True."""
    pool = magazine.pool
    if not enter(magazine) or load(pool._queue._words, CLOSED_FLAG):  # C2 acquires from C1
        return 0
    done = pop_many(pool._deques, magazine._base, magazine._asymmetric, out, n)
    own_many(pool, out, 0, done)
    return take_many(pool, out, done, n, seek) if done < n else done


@hot
def give_many_to(magazine, indices, n):
    """Return `n` buffers and -1, or return none of them and the position of the first refused one."""
    pool = magazine.pool
    words = pool._queue._words
    keeps = enter(magazine)
    refused = let_go_many(pool, indices, n)
    if refused >= 0:
        return refused
    kept = 0
    if keeps and load(words, GETTERS) == 0:  # K1 is ordered with W1, H1, L6
        kept = push_many(pool._deques, magazine._base, magazine.size, indices, n)
        order_own(magazine._asymmetric)
        # K2 is ordered with W1, H1, L6, after D2. Mutants: "a bulk put checks for getters only before it pushes",
        # "a bulk put does not refute that all is empty"
        if load(words, GETTERS) | load(pool._deques, EMPTINESS, "relaxed"):
            tell(pool._queue, pool._deques, kept)
    if kept < n:
        release_all(pool._queue, pool._depot, indices, kept, n)
    return -1


_reserving = fork_safe_lock()


def reserve(pool: Any) -> int:
    """Return the number of an unused deque; indices left in it by its previous owner are its next owner's."""
    try:
        number = pool._free_deques.pop()
    except IndexError:
        with _reserving:
            number = load(pool._deques, COUNT)  # L4 acquires from L5
            if number == MAX_DEQUES:
                raise RuntimeError(f"a pool can have at most {MAX_DEQUES} open magazines: close one first") from None
            store(pool._deques, COUNT, number + 1, "seq_cst")  # L5 releases to L4
            store(pool._queue._words, ELSEWHERE, 1, "seq_cst")  # J9 releases to J10
    store(pool._deques, base_of(number) + OWNER, 0)  # U2 releases to U1, U3
    return number


@kernel_face(MagazineType)
class Magazine(Allocator[Value]):
    """A thread's own stack of free buffers over a pool, the same in Python and in kernels.

    It has the methods of the pool: a put keeps the buffer here while there is room, and a get takes the most recently
    put one; otherwise they use the pool's free queue. Buffers got through a magazine may be put through the pool or
    another magazine, and vice versa. Buffers kept here are free: a get that finds the pool's free queue empty steals
    them, so `try_get`, here and on the pool, returns -1 only if at some moment no buffer was free.

    Parameters
    ----------
    pool : BufferPool or ItemPool
        ``pool.magazine(size)`` is equivalent.
    size : int
        Maximum number of buffers to keep; from 1 to 512. No less than the thread holds at once, or some of its puts and
        gets use the pool's free queue, at some three times the cost. A larger one takes no more memory, but when the
        free queue is empty, others find what is kept here one by one, in some 0.2 microseconds each.

    Attributes
    ----------
    pool : BufferPool or ItemPool
        As given; readable in kernels.
    size : int
        As given, or 0 once closed; readable in kernels.
    capacity : int
        That of the pool.
    checked : bool
        That of the pool.

    Raises
    ------
    RuntimeError
        The pool has 256 open magazines already.
    TypeError, ValueError
        An argument has the wrong type or is out of range.

    Notes
    -----
    A magazine is for one thread at a time. If the pool is checked, it belongs to the first thread that gets or puts
    through it, until `release`; a get, put or release by another thread raises RuntimeError. If the pool is not
    checked, this is not verified. Any thread may call `close`, but only while no kernel that was passed the magazine
    is running.

    A thread that ends without closing its magazine strands no buffer, and neither does a magazine that is closed or
    dropped: its buffers stay where they are, free, until a get takes them or the next new magazine takes them over.

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
    ...     work(magazine, 100)
    """

    __slots__ = ("_asymmetric", "_base", "_number", "_to_free", "pool", "size")

    pool: Any
    _observed: ClassVar[Any]  # the class of those over a pool with trace or debug: `observed` sets it

    def __init__(self, pool: _Pool[Value], size: int = DEFAULT_SIZE) -> None:
        if not isinstance(pool, Allocator) or isinstance(pool, Magazine):
            raise TypeError(f"pool must be a BufferPool or an ItemPool, not {pool!r:.60}")
        self.size = check.integer("size", size, 1, DEQUE_CAPACITY)
        observed = isinstance(pool, self._observed._over)
        if type(self) in (Magazine, self._observed):
            self.__class__ = self._observed if observed else Magazine
        elif observed:
            raise TypeError(f"pool must have neither trace nor debug for a subclass of Magazine, not {pool!r:.60}")
        self._asymmetric = register_heavy_fence()
        seek_late.ready()  # before anything can lie in a magazine
        self.pool = pool
        store(self.pool._deques, OWNERS_FENCE, int(not self._asymmetric))  # T9 releases to T10
        self._number = reserve(pool)
        self._to_free = iter((self._number,))
        self._base = base_of(self._number)
        self._describe(magazine_type(pool._numba_type_, self._asymmetric))

    @property
    @in_kernels
    def capacity(self) -> int:  # type: ignore[override]
        """Number of buffers in the pool."""
        return self.pool.capacity

    @property
    @in_kernels
    def checked(self) -> bool:
        """Whether the pool is checked."""
        return self.pool.checked

    def value(self, index: int) -> Value:
        """Return what the pool's `value` returns for `index`, an array or an item; IndexError, TypeError like it."""
        return self.pool.value(index)

    def view(self, index: int) -> memoryview:
        """Return what the pool's `view` returns for `index`; IndexError, TypeError like it. Python only.

        AttributeError if the pool is an ItemPool.
        """
        return self.pool.view(index)

    def set_value(self, index: int, data: Any) -> None:
        """Do what the pool's `set_value` does; raises IndexError, TypeError and ValueError like it."""
        self.pool.set_value(index, data)

    @is_in_kernels(take_from)
    def _take(self) -> int:
        return take_from(self._core)

    @in_kernels
    def _wait(self, limit: int) -> int:
        return wait_for_buffer(self.pool._core, limit) if self.size else CLOSED

    @is_in_kernels(give_to)
    def _give(self, index: int) -> int:
        return give_to(self._core, index)

    @in_kernels
    def _take_many(self, out: NDArray[np.int64], n: int) -> int:
        return take_many_from(self._core, out, n, True)

    @in_kernels
    def _give_many(self, indices: NDArray[np.int64], n: int) -> int:
        return give_many_to(self._core, indices, n)

    @in_kernels
    def was_size(self) -> int:
        """Return the number of free buffers it held a moment ago. Any thread may call this."""
        return held(self.pool._deques, self._base) if self.size else 0

    @in_kernels
    def release(self) -> None:
        """Give up ownership: the next thread that uses the magazine owns it, with the buffers kept here.

        Does nothing if the magazine is closed.

        Raises
        ------
        RuntimeError
            The pool is checked, and the magazine belongs to another thread.
        """
        if enter(self._core):
            # U2 releases to U1, U3. Mutant: "a magazine is released by a relaxed store"
            store(self.pool._deques, self._base + OWNER, 0)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether it has been closed: gets then find nothing, and puts go to the pool. Readable in kernels."""
        return self.size == 0

    def close(self) -> None:
        """Close the magazine; closing twice, or from several threads at once, is not an error. Python only.

        Buffers kept here stay free and can be got through the pool: none is moved, so none is out of reach for a
        moment. Checked-out buffers are not affected: put them through the pool, or through this magazine, which passes
        them on to the pool.
        """
        self.size, size = 0, int(self._members[SIZE])
        # U4 is ordered with U4: one thread alone frees the deque.
        if size and compare_and_swap(self._members, SIZE, size, 0):
            store(self.pool._deques, self._base + OWNER, NOBODY)  # U2 releases to U1, U3
            self.pool._free_deques.extend(self._to_free)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # The buffers stay where they are, in reach of all threads: this may run in any thread, in any state.
        if hasattr(self, "_to_free"):
            self.pool._free_deques.extend(self._to_free)  # exhausted if `close` has completed

    def _figures(self) -> dict[str, object]:
        return {"pool": repr(self.pool), "size": self.size, "held": self.was_size()}

    def _occupancy(self) -> float:
        # It may hold more than `size`: what it took over from the previous magazine with its deque.
        return min(self.was_size() / self.size, 1.0) if self.size else 0.0

    def _used_by(self) -> str:
        """Return which thread uses it, for who looks at it."""
        if self.closed or not self.pool.checked:
            return "nobody: it is closed" if self.closed else "not recorded: the pool is unchecked"
        owner = int(load(self.pool._deques, self._base + OWNER, "relaxed"))
        return thread_names().get(owner, f"thread {owner}") if owner > 0 else "nobody"

    def _details(self) -> dict[str, object]:
        return {"used by": self._used_by()}


for _method in Magazine.value, Magazine.set_value:
    kernel_method(BufferMagazineType, _method.__name__, _method)


class MagazineSet(Handle, ReprMixin, Generic[Value]):
    """Magazines for a team of threads, one for each thread number: for ``prange`` and thread pools.

    Parameters
    ----------
    pool : BufferPool or ItemPool
    n : int
        Number of magazines; from 1 to 256, the most that a pool can have open.
    size : int
        Size of each; see `Magazine`.

    Attributes
    ----------
    pool, n
        As given; `n` is readable in kernels.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As for `Magazine`.

    Notes
    -----
    ``magazines[k]`` is magazine `k`, in Python and in kernels; IndexError if `k` is not from 0 to n - 1, TypeError if
    it is not an integer. It belongs to the first thread that uses it until `Magazine.release`, so release it at the end
    of each thread's share of the work.

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

    _OR_SHARE = FOR_DASK

    def __init__(self, pool: _Pool[Value], n: int, size: int = DEFAULT_SIZE) -> None:
        self.n = check.integer("n", n, 1, MAX_DEQUES)
        self._all: list[Magazine[Value]] = []
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

    def __getitem__(self, k: int) -> Magazine[Value]:
        number = check.index("k", k)
        if not 0 <= number < self.n:
            raise IndexError(f"k must be from 0 to {self.n - 1}, not {k}")
        return self._all[number]

    @property
    def closed(self) -> bool:
        """Whether all magazines of the set are closed. Python only."""
        return all(magazine.closed for magazine in self._all)

    def close(self) -> None:
        """Close all magazines of the set; see `Magazine.close`."""
        for magazine in self._all:
            magazine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _figures(self) -> dict[str, object]:
        return {"pool": repr(self.pool), "n": self.n, "held": sum(magazine.was_size() for magazine in self._all)}

    def _occupancy(self) -> float:
        return sum(magazine._occupancy() for magazine in self._all) / self.n

    def _details(self) -> dict[str, object]:
        return {
            f"magazine {k}": f"{magazine.was_size()} of {magazine.size}, used by {magazine._used_by()}"
            for k, magazine in enumerate(self._all)
        }


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
    """Take up to `n` buffers from here or the free queue; return how many, or REST minus that if there may be more."""
    return count_or_rest(magazine.pool, take_many_from(magazine, out, n, False), n)


@hot
def _is_ours(magazine):
    """Return whether this thread may use a magazine, adopting it if nobody has; if not, the Python method raises."""
    if not magazine.pool.checked or magazine.size == 0:
        return True
    words, owner_word = magazine.pool._deques, magazine._base + OWNER
    # U3 acquires from U1, U2; U1 acquires from U2; U1 releases to U3
    return load(words, owner_word) == thread_id() or compare_and_swap(words, owner_word, 0, thread_id())


@hot
def _look_again(magazine):
    if magazine.size > 0:  # gets of a closed one are not counted
        take_failed(magazine.pool._address, -1)


def _operations() -> Operations:
    kind = magazine_type(ITEM_POOL, register_heavy_fence())
    return Operations(kind, take_from, give_to, _take_near, give_many_to, _is_ours, _look_again)


replace_methods((Magazine,), _operations, bulk=True)
