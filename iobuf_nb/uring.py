"""io_uring over the buffers of a pool: reads, writes and receives by index, without a copy. Linux 6.0 or newer.

A `Ring` is one io_uring(7). A `RegisteredPool` ties a `BufferPool` to it: the memory is pinned once, and operations
name buffers by the pool's own indices. Completed ones come out of a `BoundedQueue`, as indices again.

Three steps
    1. Queue: `read_fixed`, `write_fixed`, `read_batch` and `receive` fill entries shared with Linux, without a system
       call.
    2. Submit: `submit`, or `complete`, which also submits; one system call for all queued operations.
    3. Complete: `complete` writes ``lengths[index]`` for each operation that has ended, then puts its index into the
       queue, from which any thread gets it.

Ownership
    From when an operation is queued until its index comes out of the queue, the buffer belongs to Linux. In a checked
    pool its owner word is then the negative of its owner, and `put` refuses the buffer like any that is not checked
    out: it cannot be put, queued a second time, or got by another thread. Operations in flight when the registration
    ends, by `close` or by garbage collection, are cancelled and waited for first.

No completion is lost
    A read or write is queued only if the completion queue has room for its completion, and a completion leaves that
    queue only once its index is in the `BoundedQueue`.

Errors
    In a kernel, the methods that queue, submit or wait return a count or -errno, like the functions of `syscalls`; in
    Python they raise OSError. Misuse raises in both.
"""

from __future__ import annotations

import ctypes
import errno
import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray
from numba.core import errors
from numpy.typing import NDArray

from ._free.free_list import give
from ._free.owners import place_of
from ._free.queue import QueueType
from ._jit import check
from ._jit.check import FormattedValueError
from ._jit.compile import compile_for
from ._jit.faces import compiled_as, in_kernels, kernel_face, kernel_overload
from ._jit.handle import Handle
from ._memory.aligned import aligned_mem
from ._memory.borrowed import lend, memory_info
from ._memory.iovec import iovec_from_registered
from ._pools.allocator import as_index, refuse
from ._pools.bounded_queue import BoundedQueue
from ._pools.pool import BufferPool
from ._pools.repr import ReprMixin
from ._threads.clock import limit_ns
from ._threads.gil import LOOK_NS
from ._threads.outcomes import FORKED, FULL, LEAST_ERRNO, NOT_OUT, OUT_OF_RANGE, UNDER_WAY, Closed, WouldBlock
from ._uring.liburing import (
    BUF_BYTES,
    CQE_BYTES,
    CQE_MORE,
    MAX_ENTRIES,
    PARAMS_CQ_ENTRIES,
    PARAMS_SQ_ENTRIES,
    URING_BYTES,
    buf_reg,
    call,
    cancel_all_reg,
    new_params,
    sysctl_disabled,
    timespec,
)
from ._uring.operations import (
    BUFFER,
    ENTRIES,
    IDLE,
    IN_FLIGHT,
    LIMIT,
    NUMBER,
    PROCESS,
    PROVIDED,
    READ,
    RECEIVER,
    RING_TYPE,
    STARVED,
    TAIL,
    THEIRS,
    WRITE,
    RegisteredType,
    gather,
    queue_one,
    queue_reads,
    registered_type,
    start_receiver,
    submit_all,
    under_way,
)
from .atomics import load
from .syscalls import as_descriptor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RegisteredPool", "Ring"]


@compiled_as(lambda fd, at_offset: check.integer("fd", fd, -1, 2**31 - 1))
def as_fd(fd: Any, at_offset: bool) -> int:
    """Return a file descriptor; in Python also that of a socket or file, as in `syscalls`."""
    return as_descriptor(fd, at_offset)


def as_queue(registered: Any, queue: Any) -> Any:
    """Return `queue` if every index of the pool fits into it, or raise."""
    if not isinstance(queue, BoundedQueue) or queue.dtype is not None:
        raise TypeError(f"queue must be a BoundedQueue, not {queue!r:.60}")
    if min(queue.capacity, queue.limit) < registered.pool.capacity:
        raise ValueError(
            "queue must have a capacity and a limit of at least the pool's capacity, "
            f"{registered.pool.capacity}, not {queue.capacity} and {queue.limit}"
        )
    return queue


@kernel_overload(as_queue)
def _as_queue_in_kernel(registered: Any, queue: Any) -> Any:
    if not isinstance(queue, QueueType):
        raise errors.TypingError(f"queue must be a BoundedQueue, not {queue}")

    def checked(registered, queue):
        if min(queue.capacity, queue.limit) < registered.pool.capacity:
            raise FormattedValueError(
                "queue must have a capacity and a limit of at least the pool's capacity, {}, not {} and {}",
                registered.pool.capacity,
                queue.capacity,
                queue.limit,
            )
        return queue

    return checked


def _outcome_in_kernel(registered, index, status):
    if status < LEAST_ERRNO:
        if status == OUT_OF_RANGE:
            refuse(registered.pool, index, OUT_OF_RANGE)
        if status == NOT_OUT:
            refuse(registered.pool, index, NOT_OUT)
        if status == UNDER_WAY:
            raise FormattedValueError("index must be that of an idle buffer; {} has an operation under way", index)
        if status == FORKED:
            raise RuntimeError(_NOT_IN_A_CHILD)
        if status == FULL:
            raise WouldBlock(_QUEUE_FULL)
        raise Closed(_ENDED)
    return status


_NOT_IN_A_CHILD = "a forked child cannot use the ring that its parent made"
_QUEUE_FULL = "the queue holds other items and is full: completed indices stay in the ring until it has room"
_ENDED = "the registration of this pool with its ring has been closed"


@compiled_as(_outcome_in_kernel)
def outcome(registered: Any, index: Any, status: int) -> int:
    """Return a count, or raise the error that a status stands for; in a kernel, -errno is returned."""
    if LEAST_ERRNO <= status < 0:
        raise OSError(-status, os.strerror(-status))
    return int(_outcome_in_kernel(registered, index, status))


@compiled_as(lambda words, n, memory: lend(carray(words, n), memory))
def results(words: Any, n: int, memory: int) -> Any:
    """Return the words that completions write, as a read-only array."""
    view = words.view()
    view.flags.writeable = False
    return view


class Ring(Handle, ReprMixin):
    """One io_uring(7), for one registered pool at a time.

    Parameters
    ----------
    entries : int
        Operations that can be queued between two submits; from 1 to 32768, rounded up to a power of two by Linux. Up to
        twice as many can be in flight.

    Attributes
    ----------
    entries : int
        After rounding.

    Raises
    ------
    ImportError
        The package liburing is missing or too old: ``pip install 'iobuf-nb[uring]'``.
    OSError
        io_uring is not available here; the message gives the reason.
    TypeError, ValueError
        `entries` is not an integer, or is out of range.

    Notes
    -----
    Not thread-safe: its queues may be used by one thread at a time, though not always the same one.
    Operations that a thread submitted on a pipe or socket and that still wait for data when the thread ends fail with
    -ECANCELED once data arrives, and leave the data unread. A forked child cannot use the ring.

    Examples
    --------
    >>> from iobuf_nb import BufferPool
    >>> pool = BufferPool(8, 4096)
    >>> with Ring(entries=20) as ring:
    ...     registered = RegisteredPool(pool, ring)
    ...     ring
    Ring(entries=32, in_flight=0, closed=False)
    """

    _registered: weakref.ref[RegisteredPool] | None = None

    def __init__(self, entries: int = 64) -> None:
        entries = check.integer("entries", entries, 1, MAX_ENTRIES)
        memory = aligned_mem(URING_BYTES)
        params = new_params()
        status = call("io_uring_queue_init_params", entries, memory.ctypes.data, params.ctypes.data)
        if status < 0:
            raise _refusal(-status, f"Ring({entries})")
        self.entries = int(params[PARAMS_SQ_ENTRIES])
        self._uring = memory.ctypes.data
        self._words = np.zeros(ENTRIES + self.entries, np.int64)
        self._words[PROCESS] = os.getpid()
        self._words[LIMIT] = params[PARAMS_CQ_ENTRIES]
        self._exit = weakref.finalize(self, _exit, memory, self._words[PROCESS])
        self._describe(RING_TYPE)

    def close(self) -> None:
        """Close its `RegisteredPool`, if any, then the ring. Closing twice is not an error. Python only."""
        registered = self._registered and self._registered()
        if registered:
            registered.close()
        self._exit()

    @property
    def closed(self) -> bool:
        """Whether the ring has been closed. Python only."""
        return not self._exit.alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _register(self, pool: BufferPool[Any], receive: int) -> RegisteredPool:
        """Implement `BufferPool.register`."""
        return RegisteredPool(pool, self, receive)

    def _figures(self) -> dict[str, object]:
        return {"entries": self.entries, "in_flight": under_way(self._words), "closed": self.closed}

    def _occupancy(self) -> float:
        return float(under_way(self._words) / self._words[LIMIT])


@kernel_face(RegisteredType)
class RegisteredPool(Handle, ReprMixin):
    """A `BufferPool` whose buffers a `Ring` reads, writes and receives by index, the same in Python and in kernels.

    Parameters
    ----------
    pool : BufferPool
        With buffers of at most 1 GiB. All of its memory is pinned, which RLIMIT_MEMLOCK limits for users other than
        root.
    ring : Ring
        One that no other pool is registered with.
    receive : int
        Maximum number of buffers provided to Linux in advance for `receive`; up to 32768, and then the pool may have at
        most 65536 buffers. 0 disables receiving.

    Attributes
    ----------
    pool, ring
        As given, and kept alive; readable in kernels.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is out of range; the ring has another pool registered.
    Closed
        The ring is closed.
    OSError
        Linux refuses, for example because of RLIMIT_MEMLOCK.
    RuntimeError
        This is a forked child of the process that made the ring.

    Notes
    -----
    Only one thread at a time may use the registration; any thread may get indices from the queue, read
    `lengths` and put buffers. The buffer of a queued operation must stay checked out until its index comes out of the
    queue; a checked pool enforces this.

    Examples
    --------
    >>> from iobuf_nb import BoundedQueue, BufferPool
    >>> pool, queue = BufferPool(8, 4096), BoundedQueue(8)
    >>> with Ring() as ring, open(__file__, "rb") as file:
    ...     registered = RegisteredPool(pool, ring)
    ...     index = pool.get()
    ...     registered.read_fixed(file, index, offset=3, length=8)
    ...     registered.complete(queue)
    ...     queue.get() == index, int(registered.lengths[index]), bytes(pool.value(index)[:8])
    ...     pool.put(index)
    0
    1
    (True, 8, b'io_uring')
    """

    def __init__(self, pool: BufferPool[Any], ring: Ring, receive: int = 0) -> None:
        if not isinstance(pool, BufferPool):
            raise TypeError(f"pool must be a BufferPool, not {pool!r:.60}")
        if not isinstance(ring, Ring):
            raise TypeError(f"ring must be a Ring, not {ring!r:.60}")
        self._provide = check.integer("receive", receive, 0, min(pool.capacity, MAX_ENTRIES))
        if self._provide and pool.capacity > 2**16:
            raise ValueError(f"receive={receive} needs a pool of at most 65536 buffers, not {pool.capacity}")
        if ring.closed:
            raise Closed("a pool cannot be registered with a ring that has been closed")
        if os.getpid() != ring._words[PROCESS]:
            raise RuntimeError(_NOT_IN_A_CHILD)
        before = ring._registered and ring._registered()
        if before and not before.closed:
            raise ValueError(f"ring must be one that no other pool is registered with; {ring} has one")
        pieces = iovec_from_registered(pool)
        compile_for(give, pool, 0)  # a finalizer may have to call it, and must not compile a kernel
        status = call("io_uring_register_buffers", ring._uring, pieces.ctypes.data, len(pieces))
        if status < 0:
            raise _refusal(-status, f"pinning {pool.capacity * pool.stride} bytes")
        self.pool = pool
        self.ring = ring
        self._number = int(ring._words[NUMBER])
        self._per_piece = int(pieces["len"][0]) // pool.stride
        entries = 1 << max(self._provide - 1, 0).bit_length()
        self._mask = entries - 1
        slots = aligned_mem(BUF_BYTES * entries)
        self._group = slots.ctypes.data
        arrays = np.zeros((4, pool.capacity), np.int64)
        self._states, self._length_words, self._offset_words, self._descriptor_words = arrays
        self._memory, self._memory_info = memory_info(arrays)
        # The finalizer keeps the memory alive for as long as Linux may write to it.
        self._parts = ring, pool, self._number, self._states, slots
        self._end = weakref.finalize(self, _unregister, *self._parts)
        if self._provide:
            request = buf_reg(self._group, entries)
            status = call("io_uring_register_buf_ring", ring._uring, ctypes.addressof(request), 0)
            if status < 0:
                self._end()
                raise _refusal(-status, f"receive={self._provide}")
        self._describe(registered_type(pool._numba_type_))
        ring._registered = weakref.ref(self)

    @property
    @in_kernels
    def in_flight(self) -> int:
        """Number of operations queued or in flight, receivers included; readable in kernels."""
        return 0 if self.closed else under_way(self.ring._words)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether the registration, or its ring, has been closed; readable in kernels."""
        return load(self.ring._words, NUMBER) != self._number

    @property
    @in_kernels
    def lengths(self) -> NDArray[np.int64]:
        """Result of the last operation on each buffer: bytes, 0 at the end of a file or stream, or -errno.

        A read-only int64 array of shape (capacity,); readable in kernels. Written before the index comes out of the
        queue. A read may be short before the end of a file: if a length is smaller than requested, the rest has not
        been read.
        """
        return results(self._length_words, self.pool.capacity, self._memory_info)

    @property
    @in_kernels
    def offsets(self) -> NDArray[np.int64]:
        """File offset of the last read or write of each buffer: a read-only int64 array of shape (capacity,)."""
        return results(self._offset_words, self.pool.capacity, self._memory_info)

    @property
    @in_kernels
    def descriptors(self) -> NDArray[np.int64]:
        """File descriptor of the last operation on each buffer, such as the socket it was received from.

        A read-only int64 array of shape (capacity,); readable in kernels.
        """
        return results(self._descriptor_words, self.pool.capacity, self._memory_info)

    @in_kernels
    def read_fixed(self, fd: Any, index: int, offset: int, length: int = -1) -> int:
        """Queue a read into a checked-out buffer.

        Parameters
        ----------
        fd : int
            In Python also a socket or file, as in `syscalls`. It must stay open until the read has completed.
        index : int
            The buffer, which must stay checked out until then.
        offset : int
            File offset; -1 for the current position, as pipes and sockets require.
        length : int
            Bytes to read; the whole buffer by default.

        Returns
        -------
        int
            0; in a kernel, -errno if nothing was queued: EBUSY if the completion queue has no room for another
            operation in flight. If the submission queue is full, it is submitted.

        Raises
        ------
        IndexError, TypeError, ValueError
            An argument has the wrong type or is out of range; the buffer is not checked out, or has an operation in
            flight.
        Closed
            The registration is closed.
        OSError
            In Python, instead of -errno.
        RuntimeError
            This is a forked child of the process that made the ring.
        """
        index, offset = as_index(index), check.integer("offset", offset, -1, 2**63 - 1)
        fd = as_fd(fd, offset >= 0)
        length = check.integer("length", length, -1, self.pool.buffer_size)
        return outcome(self, index, queue_one(self, READ, fd, index, offset, length))

    @in_kernels
    def write_fixed(self, fd: Any, index: int, offset: int, length: int = -1) -> int:
        """Queue a write from a checked-out buffer; otherwise as `read_fixed`."""
        index, offset = as_index(index), check.integer("offset", offset, -1, 2**63 - 1)
        fd = as_fd(fd, offset >= 0)
        length = check.integer("length", length, -1, self.pool.buffer_size)
        return outcome(self, index, queue_one(self, WRITE, fd, index, offset, length))

    @in_kernels
    def read_batch(self, fd: Any, offset: int, end: int) -> int:
        """Get free buffers, queue reads of consecutive parts of a file into them, and submit.

        Parameters
        ----------
        fd : int
            As in `read_fixed`.
        offset, end : int
            File offsets at which to start and to stop.

        Returns
        -------
        int
            The offset reached, at most `end`: where to continue. Equal to `offset` if no buffer is free or the
            completion queue has no room. In a kernel also -errno.

        Raises
        ------
        TypeError, ValueError, Closed, OSError, RuntimeError
            As in `read_fixed`.

        Notes
        -----
        ``offsets[index]`` is the file offset of a buffer, and ``lengths[index]`` the number of bytes read.
        Neither this nor, with nothing in flight, `complete` waits for a free buffer: ``pool.put(pool.get())`` does.

        Examples
        --------
        >>> from iobuf_nb import BoundedQueue, BufferPool
        >>> pool, queue = BufferPool(4, 1024), BoundedQueue(4)
        >>> with Ring() as ring, open(__file__, "rb") as file:
        ...     registered = RegisteredPool(pool, ring)
        ...     size, position, seen = file.seek(0, 2), 0, 0
        ...     while seen < size:
        ...         position = registered.read_batch(file, position, size)
        ...         for _ in range(registered.complete(queue)):
        ...             index = queue.get()
        ...             seen += int(registered.lengths[index])
        ...             pool.put(index)
        >>> seen == size
        True
        """
        fd = as_fd(fd, True)
        offset = check.integer("offset", offset, 0, 2**63 - 1)
        end = check.integer("end", end, 0, 2**63 - 1)
        return outcome(self, -1, queue_reads(self, fd, offset, end))

    @in_kernels
    def receive(self, fd: Any) -> int:
        """Receive from a socket until the stream ends, each time into a buffer that Linux picks when data arrives.

        `complete` delivers what arrives: an index with ``lengths[index]`` bytes and, in ``descriptors[index]``, the
        socket. At the end of the stream, or on an error, it delivers one last index, with a length of 0 or -errno: that
        of a buffer taken now, which represents this receiver. The consumer puts all of these buffers back, and
        `complete` provides Linux with more as they become free.

        Parameters
        ----------
        fd : int
            A socket, as in `read_fixed`.

        Returns
        -------
        int
            0; in a kernel also -errno: ENOBUFS if no buffer is free, or if the registration was made without
            ``receive=``.

        Raises
        ------
        TypeError, ValueError, Closed, OSError, RuntimeError
            As in `read_fixed`.

        Examples
        --------
        >>> import socket
        >>> from iobuf_nb import BoundedQueue, BufferPool
        >>> pool, queue = BufferPool(8, 1024), BoundedQueue(8)
        >>> ours, theirs = socket.socketpair()
        >>> with Ring() as ring, ours, theirs:
        ...     registered = RegisteredPool(pool, ring, receive=4)
        ...     registered.receive(ours)
        ...     theirs.sendall(b"hello")
        ...     registered.complete(queue)
        ...     index = queue.get()
        ...     bytes(pool.value(index)[: registered.lengths[index]])
        ...     pool.put(index)
        0
        1
        b'hello'
        """
        fd = as_fd(fd, False)
        return outcome(self, -1, start_receiver(self, fd))

    @in_kernels
    def submit(self) -> int:
        """Submit all queued operations to Linux; return how many, in a kernel also -errno.

        Errors are those of `read_fixed`.
        """
        return outcome(self, -1, submit_all(self))

    @in_kernels
    def complete(self, queue: BoundedQueue, at_least: int = 1, timeout: float | None = None) -> int:
        """Submit, wait for completions, and put their indices into a queue.

        Parameters
        ----------
        queue : BoundedQueue
            With a capacity and a limit of at least the pool's capacity, and used for nothing else.
        at_least : int
            Number of completions to wait for, or until nothing is in flight; 0 to not wait.
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Returns
        -------
        int
            Number of indices put into the queue: possibly more than `at_least`; fewer after `timeout`, or if nothing is
            left in flight. In a kernel also -errno, if none was put.

        Raises
        ------
        WouldBlock
            The queue is full of other items. No completion is lost: they are delivered by a later call that finds room.
        TypeError, ValueError, Closed, OSError, RuntimeError
            As in `read_fixed`.

        Notes
        -----
        Waiting releases the GIL and ends with KeyboardInterrupt on Ctrl-C in the main thread. Errors of
        operations are in `lengths`. A closed queue still accepts indices, so that no buffer is lost.
        """
        queue = as_queue(self, queue)
        at_least = check.integer("at_least", at_least, 0, 2**31 - 1)
        limit = limit_ns(True, timeout)
        return outcome(self, -1, gather(self, queue, at_least, limit))

    def close(self) -> None:
        """End the registration. Closing twice is not an error. Python only.

        Operations in flight are cancelled and waited for, and those not yet submitted are dropped: none of them reaches
        a queue. Buffers that `read_batch` or `receive` took for them return to the pool; others stay with their owners.
        Garbage collection does the same.
        """
        _unregister(*self._parts)
        self._end.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _figures(self) -> dict[str, object]:
        return {"pool": self.pool, "ring": self.ring, "closed": self.closed}

    def _occupancy(self) -> float:
        return self.ring._occupancy()


def _exit(memory: NDArray[np.uint8], process: int) -> None:
    if os.getpid() == process:
        call("io_uring_queue_exit", memory.ctypes.data)


_stuck: list[Any] = []  # memory that Linux may still write to, because a drain was interrupted


def _unregister(ring: Ring, pool: BufferPool, number: int, states: NDArray[np.int64], slots: Any) -> None:
    words = ring._words
    if words[NUMBER] != number:
        return
    if os.getpid() == words[PROCESS]:
        try:
            _drain(ring, pool, states)
        except BaseException:
            _stuck.append((ring, pool, states, slots))
            raise
    words[NUMBER] += 1


def _drain(ring: Ring, pool: BufferPool, states: NDArray[np.int64]) -> None:
    """Complete or cancel every operation. A signal may interrupt it anywhere; it can be called again."""
    uring, words = ring._uring, ring._words
    for k in range(call("io_uring_sq_ready", uring)):  # not yet submitted: turn them into no-ops
        call("io_uring_prep_nop", words[ENTRIES + (words[TAIL] - 1 - k) % ring.entries])
    cancel = cancel_all_reg()
    timeout = np.array(timespec(LOOK_NS))
    cqe = np.zeros(3, np.int64)  # its address; then a copy
    address = cqe.ctypes.data
    while ((states > IDLE) & (states <= RECEIVER)).any():
        call("io_uring_register_sync_cancel", uring, ctypes.addressof(cancel))
        status = call("io_uring_submit_and_wait_timeout", uring, address, 1, timeout.ctypes.data, 0)
        if status < 0 and -status not in (errno.ETIME, errno.EINTR, errno.EAGAIN, errno.EBUSY):
            raise _refusal(-status, "closing")
        while call("io_uring_peek_batch_cqe", uring, address, 1):
            ctypes.memmove(address + 8, int(cqe[0]), CQE_BYTES)
            index, flags = cqe[1], cqe[2:].view(np.int32)[1]
            if not flags & CQE_MORE:
                if states[index] == THEIRS:
                    _finish(pool, states, index)
                elif states[index] != IDLE:
                    states[index] = BUFFER
            call("io_uring_cq_advance", uring, 1)
    call("io_uring_unregister_buf_ring", uring, 0)
    call("io_uring_unregister_buffers", uring)
    words[[IN_FLIGHT, PROVIDED, STARVED]] = 0
    for index in np.flatnonzero(states):
        _finish(pool, states, index)
        give(pool, int(index))


def _finish(pool: BufferPool, states: NDArray[np.int64], index: Any) -> None:
    states[index] = IDLE
    place = place_of(pool.capacity, int(index))
    pool._owners[place] = abs(pool._owners[place])


def _refusal(code: int, what: str) -> OSError:
    """Return the error for a refusal by Linux, with the reason as far as it can be known."""
    reason = os.strerror(code)
    if code in (errno.EPERM, errno.EACCES):
        value = sysctl_disabled()
        if value == "0":
            reason += ": a seccomp filter or a security module forbids io_uring here, as is common in containers"
        else:
            reason += f": the sysctl kernel.io_uring_disabled is {value}, which forbids io_uring to this user"
    elif code == errno.ENOSYS:
        reason += ": this Linux has no io_uring, or a seccomp filter hides it"
    elif code == errno.EINVAL:
        reason += f": iobuf_nb.uring needs Linux 6.0 or newer, and this is {os.uname().release}"
    elif code == errno.ENOMEM:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        reason += f": RLIMIT_MEMLOCK allows {soft} bytes, at most {hard} (-1: no limit); see ulimit -l"
    return OSError(code, f"{what} is refused by io_uring ({reason})")
