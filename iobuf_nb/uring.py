"""io_uring over the buffers of a pool: reads, writes and receives by index, without a copy. Linux 6.0 or newer.

A `Ring` is one io_uring(7). A `RegisteredPool` ties a `BufferPool` to it: its memory is pinned once and for all, and an
operation names a buffer by the pool's own index. Finished ones come out of a `BoundedQueue`, as indices again.

Three steps
    1. queue: `read_fixed`, `write_fixed`, `read_batch`, `receive` fill entries that the kernel shares: no system call;
    2. `submit`, or `complete`, which submits too: one system call for all of them;
    3. `complete` writes ``lengths[index]`` for each operation that has ended, then puts its index into the queue, from
       where any thread takes it.

Who holds a buffer
    From when it is queued until its index comes out of the queue a buffer is the kernel's. In a checked pool
    its word of `owners` is then the holder's negative, which `put` refuses like any buffer that is not out: no put, no
    second operation, and so nobody else who could get it. Operations that are still under way when the registration
    ends, by `close` or by garbage collection, are cancelled and waited for first.

Nothing is lost
    A read or write is queued only where its completion has room in the kernel's completion queue, and a completion
    leaves that only once its index is in the `BoundedQueue`.

Errors
    In a kernel the methods that queue, submit or wait return a count or -errno, like the functions of `syscalls`, and
    in Python they raise OSError. Misuse raises in both.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import weakref
from pathlib import Path
from typing import Any

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
from ._uring.liburing import CANCEL_ALL, CQE_MORE, MAX_ENTRIES, call
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

__all__ = ["RegisteredPool", "Ring"]


@compiled_as(lambda fd, at_offset: check.integer("fd", fd, -1, 2**31 - 1))
def as_fd(fd: Any, at_offset: bool) -> int:
    """Return a file descriptor; in Python also that of a socket or file, as the functions of `syscalls` take it."""
    return as_descriptor(fd, at_offset)


def as_queue(registered: Any, queue: Any) -> Any:
    """Return a queue that every index of the pool fits into, or refuse it."""
    if not isinstance(queue, BoundedQueue):
        raise TypeError(f"queue must be a BoundedQueue, not {queue!r:.60}")
    if min(queue.capacity, queue.limit) < registered.pool.capacity:
        raise ValueError(
            f"queue must have a capacity of at least the pool's, {registered.pool.capacity}, not {queue.capacity}"
        )
    return queue


@kernel_overload(as_queue)
def _as_queue_in_kernel(registered: Any, queue: Any) -> Any:
    if not isinstance(queue, QueueType):
        raise errors.TypingError(f"queue must be a BoundedQueue, not {queue}")

    def checked(registered, queue):
        if min(queue.capacity, queue.limit) < registered.pool.capacity:
            least = registered.pool.capacity
            raise FormattedValueError(
                "queue must have a capacity of at least the pool's, {}, not {}", least, queue.capacity
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
            raise FormattedValueError("index must be that of a buffer at rest; {} has an operation under way", index)
        if status == FORKED:
            raise RuntimeError(_NOT_IN_A_CHILD)
        if status == FULL:
            raise WouldBlock(_QUEUE_FULL)
        raise Closed(_ENDED)
    return status


_NOT_IN_A_CHILD = "a forked child cannot use the ring that its parent made"
_QUEUE_FULL = "the queue holds other items: no completed index fits into it, and they wait where they are"
_ENDED = "the registration of this pool with its ring has been closed"


@compiled_as(_outcome_in_kernel)
def outcome(registered: Any, index: Any, status: int) -> int:
    """Return a count, or raise what the status stands for; a kernel gets an -errno back."""
    if LEAST_ERRNO <= status < 0:
        raise OSError(-status, os.strerror(-status))
    return int(_outcome_in_kernel(registered, index, status))


@compiled_as(lambda words, n, memory: lend(carray(words, n), memory))
def results(words: Any, n: int, memory: int) -> Any:
    """Return words that completions write as an array to read."""
    view = words.view()
    view.flags.writeable = False
    return view


class Ring(Handle, ReprMixin):
    """One io_uring(7), for one registered pool at a time.

    Parameters
    ----------
    entries : int
        Operations that can be queued between two submits, from 1 to 32768; the kernel rounds up to a power of two.
        Up to twice as many can be under way.

    Attributes
    ----------
    entries : int
        As rounded.

    Raises
    ------
    ImportError
        The package liburing is missing or too old: ``pip install 'iobuf-nb[uring]'``.
    OSError
        io_uring is not to be had here; it says what stands in the way.
    TypeError, ValueError
        `entries` is out of its range.

    Notes
    -----
    Not for several threads at once: like the kernel's, its queues have one user at a time, who may change. What a
    thread submitted and left waiting for a pipe or socket when it ended fails with -ECANCELED once data comes, and
    leaves the data there. A forked child cannot use the ring.

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
        # liburing's struct io_uring takes 216 bytes; later versions may use more, and cannot say how many.
        memory = aligned_mem(1024)
        parameters = np.zeros(30, np.uint32)  # struct io_uring_params; its first two: entries, completions
        status = call("io_uring_queue_init_params", entries, memory.ctypes.data, parameters.ctypes.data)
        if status < 0:
            raise _refusal(-status, f"Ring({entries})")
        self.entries = int(parameters[0])
        self._uring = memory.ctypes.data
        self._words = np.zeros(ENTRIES + self.entries, np.int64)
        self._words[PROCESS] = os.getpid()
        self._words[LIMIT] = parameters[1]
        self._exit = weakref.finalize(self, _exit, memory, self._words[PROCESS])
        self._describe(RING_TYPE)

    def close(self) -> None:
        """Close the registration of its pool, as that one's `close` does, then the ring; twice is no error."""
        registered = self._registered and self._registered()
        if registered:
            registered.close()
        self._exit()

    @property
    def closed(self) -> bool:
        """Whether it has been closed; Python only."""
        return not self._exit.alive

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _register(self, pool: BufferPool, receive: int) -> RegisteredPool:
        """Do what `BufferPool.register` says."""
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
        With buffers of at most 1 GiB. All of its memory is pinned: RLIMIT_MEMLOCK bounds it unless one is root.
    ring : Ring
        One that no other pool is registered with.
    receive : int
        How many buffers, at most, the kernel may have in advance for `receive`; up to 32768, and the pool must
        then have no more than 65536. 0: there is no receiving.

    Attributes
    ----------
    pool, ring
        As given; readable in kernels too, and kept alive.

    Raises
    ------
    TypeError, ValueError
        An argument is out of its range; the ring is in use.
    Closed
        The ring is closed.
    OSError
        The kernel refuses, for example for RLIMIT_MEMLOCK.

    Notes
    -----
    One thread at a time uses the registration; any thread takes indices from the queue, reads `lengths` and puts
    buffers back. The buffer of a queued operation must stay out until its index comes out of the queue; a checked
    pool sees to that.

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

    def __init__(self, pool: BufferPool, ring: Ring, receive: int = 0) -> None:
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
        compile_for(give, pool, 0)  # the collector may have to call it, and is no place to compile a kernel
        status = call("io_uring_register_buffers", ring._uring, pieces.ctypes.data, len(pieces))
        if status < 0:
            raise _refusal(-status, f"pinning {pool.capacity * pool.stride} bytes")
        self.pool = pool
        self.ring = ring
        self._number = int(ring._words[NUMBER])
        self._per_piece = int(pieces["len"][0]) // pool.stride
        entries = 1 << max(self._provide - 1, 0).bit_length()
        self._mask = entries - 1
        slots = aligned_mem(16 * entries)
        self._group = slots.ctypes.data
        arrays = np.zeros((4, pool.capacity), np.int64)
        self._states, self._length_words, self._offset_words, self._descriptor_words = arrays
        self._memory, self._memory_info = memory_info(arrays)
        # The arrays go along, for as long as the kernel may write into what they stand for.
        self._parts = ring, pool, self._number, self._states, slots
        self._end = weakref.finalize(self, _unregister, *self._parts)
        if self._provide:
            # struct io_uring_buf_reg
            request = ctypes.create_string_buffer(struct.pack("QIHH3Q", self._group, entries, 0, 0, 0, 0, 0))
            status = call("io_uring_register_buf_ring", ring._uring, ctypes.addressof(request), 0)
            if status < 0:
                self._end()
                raise _refusal(-status, f"receive={self._provide}")
        self._describe(registered_type(pool._numba_type_))
        ring._registered = weakref.ref(self)

    @property
    @in_kernels
    def in_flight(self) -> int:
        """How many operations are queued or under way, receivers included; readable in kernels."""
        return 0 if self.closed else under_way(self.ring._words)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether it, or its ring, has been closed; readable in kernels."""
        return load(self.ring._words, NUMBER) != self._number

    @property
    @in_kernels
    def lengths(self) -> NDArray[np.int64]:
        """What became of the last operation on each buffer: bytes, 0 at the end of a file or stream, or -errno.

        Written before the index comes out of the queue. A file's bytes may come in more than one read: where a length
        is short of what was asked, the rest has not been read.
        """
        return results(self._length_words, self.pool.capacity, self._memory_info)

    @property
    @in_kernels
    def offsets(self) -> NDArray[np.int64]:
        """Where in its file the last read or write of each buffer began."""
        return results(self._offset_words, self.pool.capacity, self._memory_info)

    @property
    @in_kernels
    def descriptors(self) -> NDArray[np.int64]:
        """The file descriptor of the last operation on each buffer: which socket it was received from."""
        return results(self._descriptor_words, self.pool.capacity, self._memory_info)

    @in_kernels
    def read_fixed(self, fd: Any, index: int, offset: int, length: int = -1) -> int:
        """Queue a read into a buffer that is out.

        Parameters
        ----------
        fd : int
            In Python also a socket or file, as `syscalls` takes it. It must stay open until the read has completed.
        index : int
            The buffer, which must stay out until then.
        offset : int
            Where in the file; -1: where it stands, as pipes and sockets need.
        length : int
            Bytes to read, from 0; by default the whole buffer.

        Returns
        -------
        int
            0, or in a kernel -errno, and then nothing is queued: EBUSY when as many operations are under way as the
            ring has room for completions. A full submission queue is submitted, and is no error.

        Raises
        ------
        IndexError, TypeError, ValueError
            An argument is out of its range; the buffer is not out, or has an operation under way.
        Closed
            The registration is closed.
        OSError
            Python only, in place of -errno.
        RuntimeError
            This is a forked child.
        """
        index, offset = as_index(index), check.integer("offset", offset, -1, 2**63 - 1)
        fd = as_fd(fd, offset >= 0)
        length = check.integer("length", length, -1, self.pool.buffer_size)
        return outcome(self, index, queue_one(self, READ, fd, index, offset, length))

    @in_kernels
    def write_fixed(self, fd: Any, index: int, offset: int, length: int = -1) -> int:
        """Queue a write from a buffer that is out; all else is as in `read_fixed`."""
        index, offset = as_index(index), check.integer("offset", offset, -1, 2**63 - 1)
        fd = as_fd(fd, offset >= 0)
        length = check.integer("length", length, -1, self.pool.buffer_size)
        return outcome(self, index, queue_one(self, WRITE, fd, index, offset, length))

    @in_kernels
    def read_batch(self, fd: Any, offset: int, end: int) -> int:
        """Take free buffers, read a file on into them, a buffer each, and submit.

        Parameters
        ----------
        fd : int
            As in `read_fixed`.
        offset, end : int
            Where in the file to begin and to stop.

        Returns
        -------
        int
            How far it came, `end` or less: where to begin next time. `offset` itself while no buffer is free or no
            more operations can be under way. In a kernel also -errno.

        Raises
        ------
        TypeError, ValueError, Closed, OSError, RuntimeError
            As in `read_fixed`.

        Notes
        -----
        ``offsets[index]`` says which part of the file a buffer is for, and ``lengths[index]`` how much of it there is.
        It does not wait for a buffer, nor does `complete` while nothing is under way: ``pool.put(pool.get())`` does.

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
        """Receive from a socket until it ends, each time into a buffer that the kernel picks when data comes.

        What comes is delivered by `complete`: a buffer with ``lengths[index]`` bytes and ``descriptors[index]``, the
        socket. At the end of the stream, or on an error, one last index comes with a length of 0 or -errno: that of a
        buffer taken now, which stands for this receiver. All of them are the consumer's to put back, and `complete`
        hands the kernel more as they come.

        Parameters
        ----------
        fd : int
            A socket, as in `read_fixed`.

        Returns
        -------
        int
            0, or in a kernel -errno: ENOBUFS if no buffer is free, or the registration was made without ``receive=``.

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
        """Hand the kernel all that is queued: how many operations; in a kernel also -errno."""
        return outcome(self, -1, submit_all(self))

    @in_kernels
    def complete(self, queue: BoundedQueue, at_least: int = 1, timeout: float | None = None) -> int:
        """Submit, wait for completions, and put their indices into a queue.

        Parameters
        ----------
        queue : BoundedQueue
            With room for every index of the pool, and used for nothing else.
        at_least : int
            How many to wait for, unless fewer are under way; 0: do not wait.
        timeout : float, optional
            The longest wait in seconds; by default there is no limit.

        Returns
        -------
        int
            How many indices it put, more or, in the end or after `timeout`, fewer than asked for. In a kernel also
            -errno, if it put none.

        Raises
        ------
        WouldBlock
            Other items fill the queue. No completion is lost: they come with the next call that finds room.
        TypeError, ValueError, Closed, OSError, RuntimeError
            As in `read_fixed`.

        Notes
        -----
        It waits without the GIL, and ends with KeyboardInterrupt on Ctrl-C in the main thread. What went wrong with
        an operation is in `lengths`. A queue that has been closed takes indices all the same, for no buffer may be
        lost.
        """
        queue = as_queue(self, queue)
        at_least = check.integer("at_least", at_least, 0, 2**31 - 1)
        limit = limit_ns(True, timeout)
        return outcome(self, -1, gather(self, queue, at_least, limit))

    def close(self) -> None:
        """End the registration; closing twice is no error. Python only.

        Operations under way are cancelled and waited for, and those never submitted are dropped: they reach no
        queue. Buffers that `read_batch` or `receive` took for them go back to the pool; others stay with those who hold
        them. Garbage collection does the same.
        """
        _unregister(*self._parts)
        self._end.detach()

    def __enter__(self) -> RegisteredPool:
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


_stuck: list[Any] = []  # what the kernel may still write into, because waiting for it was cut short


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
    """Take every buffer out of the kernel's hands. A signal may cut it short anywhere; it can be called again."""
    uring, words = ring._uring, ring._words
    for k in range(call("io_uring_sq_ready", uring)):  # never submitted, and not to be any more
        call("io_uring_prep_nop", words[ENTRIES + (words[TAIL] - 1 - k) % ring.entries])
    # struct io_uring_sync_cancel_reg, which does not wait; struct timespec; a completion and where it is.
    cancel = ctypes.create_string_buffer(struct.pack("QiI2q4Q", 0, -1, CANCEL_ALL, 0, 0, 0, 0, 0, 0))
    timespec = np.array([0, LOOK_NS])
    cqe = np.zeros(3, np.int64)
    address = cqe.ctypes.data
    while ((states > IDLE) & (states <= RECEIVER)).any():
        call("io_uring_register_sync_cancel", uring, ctypes.addressof(cancel))
        status = call("io_uring_submit_and_wait_timeout", uring, address, 1, timespec.ctypes.data, 0)
        if status < 0 and -status not in (errno.ETIME, errno.EINTR, errno.EAGAIN, errno.EBUSY):
            raise _refusal(-status, "closing")
        while call("io_uring_peek_batch_cqe", uring, address, 1):
            ctypes.memmove(address + 8, int(cqe[0]), 16)
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
    """Return the error for what the kernel refuses, with the reason as far as one can know it."""
    reason = os.strerror(code)
    if code in (errno.EPERM, errno.EACCES):
        switch = Path("/proc/sys/kernel/io_uring_disabled")
        value = switch.read_text().strip() if switch.exists() else "0"
        if value == "0":
            reason += ": a seccomp filter or a security module forbids io_uring here, as containers often do"
        else:
            reason += f": kernel.io_uring_disabled is {value} (sysctl), so that io_uring is forbidden to this user"
    elif code == errno.ENOSYS:
        reason += ": this kernel has no io_uring, or a seccomp filter hides it"
    elif code == errno.EINVAL:
        reason += f": this kernel is {os.uname().release}, and io_uring is used as of Linux 6.0"
    elif code == errno.ENOMEM:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        reason += f": RLIMIT_MEMLOCK allows a user {soft} bytes, up to {hard} (-1: without limit); see ulimit -l"
    return OSError(code, f"{what} is refused by io_uring ({reason})")
