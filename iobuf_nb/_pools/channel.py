"""`Channel`: hands buffers of a pool from one owner to the next, between threads and processes.

It is a queue of indices, and a number. A buffer that is sent belongs to nobody: its owner word is the negative of the
channel's number (`_free.processes`), so that neither the death of its sender nor that of a receiver which has not yet
taken it frees it. A receiver takes the index from the queue and then, by a compare-and-swap on the owner word, the
buffer. Whoever waits to receive looks now and then for buffers that are in transit and not in the queue, because a
process died between the two steps of a send or a receive, and puts them there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from .._free.free_list import ITEM_POOL
from .._free.owners import MOST_CHANNELS
from .._free.processes import CHANNELS, give_away, is_out, send_lost, take_over
from .._free.queue import CLOSED_FLAG, GETTERS, PUTTERS, QUEUE_TYPE, size
from .._free.waiting import close_queue, get_and_wake, offer, wait_to_get, wait_to_put
from .._jit import check
from .._jit.compile import hot, kernel, out_of_line
from .._jit.faces import in_kernels, is_in_kernels, kernel_face
from .._jit.handle import HandleType
from .._jit.methods import NO_ROOM, UNDECIDED, Operations, replace_methods
from .._memory.segment import COUNTER, Segment, nothing
from .._threads.clock import limit_ns
from .._threads.outcomes import (
    CLOSED,
    EMPTY,
    FORKED,
    NO_WAIT_IN_A_CHILD,
    NOT_OUT,
    OK,
    OUT_OF_RANGE,
    Closed,
    WouldBlock,
)
from ..atomics import fetch_add, load
from . import sharing
from .allocator import FOR_DASK, as_index, check_indices, elements, refuse
from .bounded_queue import BoundedQueue
from .drained import Drained
from .pool import BufferPool
from .repr import ReprMixin, waiting

if TYPE_CHECKING:
    from typing_extensions import Self


class ChannelType(HandleType):
    """The numba type of `Channel`."""

    @property
    def core(self) -> HandleType:
        """What is common to the channels of all pools."""
        return channel_type(self.pool.core)

    def __init__(self, pool: HandleType) -> None:
        self.pool = pool
        members = [("_transit", types.int64), ("capacity", types.int64), ("_queue", QUEUE_TYPE), ("pool", pool)]
        super().__init__(f"Channel of {pool.name}", members)


channel_type = functools.cache(ChannelType)


@kernel
def take_next(channel):
    """Take the next buffer whose entry is not stale: its index, or EMPTY."""
    while True:
        index = get_and_wake(channel._queue)
        if index < 0 or take_over(channel.pool, index, channel._transit):
            return index


@kernel
def take_next_or_closed(channel):
    """Do as `take_next` does, with CLOSED for EMPTY if the channel is closed and nothing is left of it."""
    out_of_line()
    closed = load(channel._queue._words, CLOSED_FLAG, "seq_cst")  # C2 acquires from C1
    index = take_next(channel)
    if closed and index == EMPTY:
        # What was on its way when the channel was closed has come, or is put there now; what is sent later is refused.
        # Mutant: "a receiver from a closed channel does not look for what is on its way"
        resend(channel)
        index = take_next(channel)
    return CLOSED if closed and index == EMPTY else index


@kernel
def resend(channel):
    """Put what is in transit and not in the queue there; return how many."""
    return send_lost(channel.pool, channel._queue, channel._transit)


@kernel
def give(channel, index):
    """Send a buffer: OK, or without effect OUT_OF_RANGE, NOT_OUT, CLOSED, or EMPTY if there is no room."""
    status = give_away(channel.pool, index, channel._transit)
    if status != OK or offer(channel._queue, index):
        return status
    if not take_over(channel.pool, index, channel._transit):
        return OK  # somebody found it in transit, put it into the queue, and it has been received
    return CLOSED if load(channel._queue._words, CLOSED_FLAG) else EMPTY  # C2 acquires from C1


@kernel
def give_many(channel, indices, n):
    """Send from the front while there is room, none if one is not checked out; the count, or -1 - where that stands."""
    for k in range(n):
        if not is_out(channel.pool, indices[k]):
            return -1 - k
    for k in range(n):
        status = give(channel, indices[k])
        if status != OK:
            return -1 - k if status == NOT_OUT else k  # it is named twice
    return n


@kernel
def take_many(channel, out, n):
    """Receive up to `n` buffers; return how many."""
    for k in range(n):
        out[k] = take_next(channel)
        if out[k] < 0:
            return k
    return n


@hot
def close_channel(channel):
    """Close the queue of a channel."""
    close_queue(channel._queue)


@kernel_face(ChannelType)
class Channel(sharing.Shareable, Drained[int], ReprMixin):
    """A bounded queue that hands buffers of a pool on, also between processes; the same in Python and in kernels.

    `send` takes a buffer from its owner, `receive` gives it to the receiver, which puts it back into the pool or sends
    it on. In between it belongs to nobody: what is in a channel survives its sender, and a receiver that died before it
    had it. Buffers come in the order in which they were sent; one that was in the hands of a process when it was killed
    may come later. What is still in a channel when the last process lets go of it is lost to the pool, `recover`
    included: receive it before.

    Any number of threads and processes may send and receive. All but waits and `close` is lock-free.

    Parameters
    ----------
    pool : BufferPool
        Made with ``checked=True``. If it is shared, the channel is, too: forked children have it, and it can be
        pickled. It brings its pool along: a process that gets a channel needs nothing else.
    capacity : int
        Most buffers in it, exactly; by default, and at most, as many as the pool has; at least a 1024th of that.
    name : str, optional
        With which other processes `attach` to it; for a shared pool.

    Attributes
    ----------
    pool : BufferPool
        In Python.
    capacity : int
        As given; readable in kernels as ``channel.capacity``.

    Raises
    ------
    TypeError, ValueError
        `pool` is no checked BufferPool; `capacity` is out of range; a `name` for a pool that is not shared.
    OSError
        As for `BufferPool` with ``shared=True``.

    Examples
    --------
    >>> from iobuf_nb import BufferPool, Channel
    >>> pool = BufferPool(4, 1024)
    >>> channel = Channel(pool)
    >>> index = pool.get()
    >>> pool.value(index)[0] = 7
    >>> channel.send(index)
    >>> received = channel.receive(timeout=1.0)
    >>> int(pool.value(received)[0])
    7
    >>> pool.put(received)
    """

    __slots__ = ("_queue", "_segment", "_transit", "capacity", "pool")

    _segment: Segment | None
    _KIND = "Channel"
    _TAKE, _ATAKE = "receive", "areceive"
    _OR_SHARE = "; or make its pool with shared=True, for other processes of this machine" + FOR_DASK

    def __init__(self, pool: BufferPool[Any], capacity: int | None = None, *, name: str | None = None) -> None:
        if not isinstance(pool, BufferPool):
            raise TypeError(f"pool must be a BufferPool, not {pool!r:.60}")
        if not pool.checked:
            raise ValueError("pool must be made with checked=True: a channel changes the owners of buffers")
        least = -(-pool.capacity // 1024)  # the limit of queues
        capacity = check.integer("capacity", pool.capacity if capacity is None else capacity, least, pool.capacity)
        if pool._segment is None:
            if name is not None:
                raise ValueError(f"name={name!r} needs a pool that is made with shared=True, or with a name of its own")
            self._segment, self.pool = None, pool
            number = fetch_add(pool._local, CHANNELS, 1) + 1  # B8 only counts
            self._finish(BoundedQueue(capacity, pool.capacity), number)
            return
        number = fetch_add(pool._segment.header, COUNTER, 1) + 1  # B8 only counts
        contents = {"kind": self._KIND, "capacity": capacity, "number": number, "pool": pool._segment.reference()}
        self._share(Segment.make(contents, sharing.bytes_of(sharing.queue_bytes(capacity)), name), pool)

    @classmethod
    def attach(cls, name: str, pool: BufferPool[Any] | None = None) -> Self:
        """Return the channel of a name, as another process of the same user has made it. Python only.

        Parameters
        ----------
        name : str
            As given to `Channel`.
        pool : BufferPool, optional
            Its pool, if this process has attached to that already.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError, PermissionError, OSError
            As `BufferPool.attach`, or `pool` is not the pool of this channel.
        """
        return cls._attached(Segment.named(name, cls._KIND), pool)

    @classmethod
    def _attached(cls, segment: Segment, pool: BufferPool[Any] | None = None) -> Self:
        reference = segment.contents["pool"]
        if pool is None:
            pool = BufferPool._attached(Segment.referred(reference, BufferPool._KIND))
        elif pool._segment is None or not pool._segment.is_referred(reference):
            raise ValueError(f"pool must be the pool of this channel, not {pool!r:.60}")
        made = cls.__new__(cls)
        made._share(segment, pool)
        return made

    def _share(self, segment: Segment, pool: BufferPool[Any]) -> None:
        capacity = segment.contents["capacity"]
        self._segment, self.pool = segment, pool
        words = sharing.words(segment, sharing.queue_bytes(capacity))
        self._finish(BoundedQueue._over(segment, words, capacity, pool.capacity), segment.contents["number"])
        if segment.slot is None:
            segment.enter(nothing)

    def _finish(self, queue: BoundedQueue, number: int) -> None:
        check.integer("number of channels of this pool", number, 1, MOST_CHANNELS - 1)
        self.capacity, self._queue, self._transit = queue.capacity, queue, -number
        self._describe(channel_type(self.pool._numba_type_))

    def __reduce__(self) -> Any:
        if self._segment is None:
            return super().__reduce__()
        return _unpickle, (type(self), self._segment.reference(), self.pool)

    @property
    @in_kernels
    def _words(self) -> Any:
        """The words that a thread waits on."""
        return self._queue._words

    @is_in_kernels(take_next)
    def _take(self) -> int:
        return take_next(self._core)

    @is_in_kernels(take_next)
    def _take_at_once(self) -> int:
        """Do as `_take` does, in a kernel; in Python, where the C method has tried before and `_wait` will, nothing."""
        return EMPTY

    @is_in_kernels(take_next_or_closed)
    def _get_or_closed(self) -> int:
        return take_next_or_closed(self._core)

    @is_in_kernels(give)
    def _put_or_closed(self, index: int) -> int:
        return give(self._core, index)

    @is_in_kernels(wait_to_get)
    def _wait(self, limit: int) -> int:
        return wait_to_get(self._core, limit)

    @is_in_kernels(wait_to_put)
    def _wait_for_room(self, index: int, limit: int) -> int:
        return wait_to_put(self._core, index, limit)

    @is_in_kernels(resend)
    def _rescue(self) -> int:
        return resend(self._core)

    @is_in_kernels(resend)
    def recover(self) -> int:
        """Put into the channel what was on its way there, or out of it, when a process died; return how many buffers.

        A `receive` that waits does so by itself; it is for those that only try. Any process may call it at any time.
        """
        return resend(self._core)

    @in_kernels
    def _send_many(self, indices: NDArray[np.int64]) -> int:
        return give_many(self._core, elements(indices), len(indices))

    @in_kernels
    def _receive_many(self, out: NDArray[np.int64]) -> int:
        return take_many(self._core, elements(out), len(out))

    @in_kernels
    def try_send(self, index: int) -> bool:
        """Send a buffer; return False, without effect, if the channel is full or closed. Never blocks.

        Raises
        ------
        IndexError, ValueError, TypeError
            As in `send`.
        """
        number = as_index(index)
        status = self._put_or_closed(number)
        if status in (OUT_OF_RANGE, NOT_OUT):
            refuse(self.pool, number, status)
        return status == OK

    @in_kernels
    def send(self, index: int, timeout: float | None = None) -> None:
        """Give a buffer to the channel, waiting for room if necessary.

        Parameters
        ----------
        index : int
            A buffer of the pool that is checked out. Once it is sent it is no longer yours, and cannot be put.
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Raises
        ------
        WouldBlock
            The channel stayed full until the timeout.
        Closed
            The channel is closed, or was closed during the wait.
        IndexError, ValueError, TypeError
            `index` is out of range, not checked out, or no integer; `timeout` is neither None nor a number >= 0.
        RuntimeError
            The channel is full, not shared, and this is a forked child.

        Notes
        -----
        Whatever is raised, the buffer is still checked out. Waiting releases the GIL and ends with KeyboardInterrupt on
        Ctrl-C in the main thread; see `BufferPool.get`.
        """
        number = as_index(index)
        limit = limit_ns(True, timeout)
        status = self._put_or_closed(number)
        if status == EMPTY:
            status = self._wait_for_room(number, limit)
        if status != OK:
            if status == CLOSED:
                raise Closed("send into a closed channel")
            if status == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if status == EMPTY:
                raise WouldBlock("send found the channel full for as long as it may wait")
            refuse(self.pool, number, status)

    @in_kernels
    def try_receive(self) -> int:
        """Receive the next buffer and return its index, or -1 if there is none. Never blocks.

        The calling thread owns the buffer until it is put or sent.
        """
        return self._take()

    @in_kernels
    def receive(self, timeout: float | None = None) -> int:
        """Receive the next buffer and return its index, waiting for one if necessary.

        The calling thread owns the buffer until it is put or sent.

        Parameters
        ----------
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Raises
        ------
        WouldBlock
            Nothing came in time.
        Closed
            The channel is closed and empty.
        TypeError, ValueError
            `timeout` is neither None nor a number >= 0.
        RuntimeError
            The channel is empty, not shared, and this is a forked child.

        Notes
        -----
        Waiting releases the GIL and ends with KeyboardInterrupt on Ctrl-C in the main thread; see `BufferPool.get`.
        """
        limit = limit_ns(True, timeout)
        index = self._take_at_once()
        if index < 0:
            index = self._wait(limit)
            if index == CLOSED:
                raise Closed("receive from a channel that is closed and empty")
            if index == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if index == EMPTY:
                raise WouldBlock("receive found the channel empty for as long as it may wait")
        return index

    @in_kernels
    def send_many(self, indices: NDArray[np.int64]) -> int:
        """Send buffers from the front of `indices` while there is room, and return how many. Never blocks.

        Parameters
        ----------
        indices : array of int64, shape (n,)

        Returns
        -------
        int
            From 0 to n; 0 if the channel is full or closed. The others are still checked out.

        Raises
        ------
        IndexError, ValueError
            As in `send`, for the first index that is refused; no buffer has been sent, or only those before it if that
            index is named twice.
        TypeError
            `indices` is not such an array.
        """
        check_indices("indices", indices, False)
        sent = self._send_many(indices)
        if sent < 0:
            index = indices[-1 - sent]
            refuse(self.pool, index, OUT_OF_RANGE if index < 0 or index >= self.pool.capacity else NOT_OUT)
        return sent

    @in_kernels
    def receive_many(self, out: NDArray[np.int64]) -> int:
        """Receive up to len(out) buffers, write their indices to the front of `out`, and return how many.

        Parameters
        ----------
        out : array of int64, shape (n,)
            Writable.

        Returns
        -------
        int
            From 0 to n. Never blocks.

        Raises
        ------
        TypeError, ValueError
            `out` is not such an array; it is read-only.
        """
        check_indices("out", out, True)
        return self._receive_many(out)

    async def asend(self, index: int, timeout: float | None = None) -> None:
        """Send a buffer, yielding to the event loop until there is room; parameters and errors as in `send`.

        Python only. A coroutine that is cancelled has not sent it.
        """
        number, limit = as_index(index), limit_ns(True, timeout)
        from .aio_shared import until  # imported here: asyncio is slow to import

        closed, late = "send into a closed channel", "asend found the channel full for as long as it may wait"
        attempt = functools.partial(self._put_or_closed, number)
        status = await until(attempt, self._rescue, self._queue, PUTTERS, limit, closed, late)
        if status != OK:
            refuse(self.pool, number, status)

    async def areceive(self, timeout: float | None = None) -> int:
        """Receive a buffer, yielding to the event loop until there is one; parameters and errors as in `receive`.

        Python only. A coroutine that is cancelled has received nothing.
        """
        limit = limit_ns(True, timeout)
        from .aio_shared import until

        closed, late = (
            "receive from a channel that is closed and empty",
            "areceive found the channel empty for as long as it may wait",
        )
        return await until(self._get_or_closed, self._rescue, self._queue, GETTERS, limit, closed, late)

    @in_kernels
    def was_size(self) -> int:
        """Return the number of buffers it held a moment ago; exact while nobody sends or receives."""
        return size(self._queue)

    @is_in_kernels(close_channel)
    def close(self) -> None:
        """Refuse further sends, in all processes; receivers get what is left and then Closed.

        Closing twice is not an error. If this process gave the channel its name, that is removed; in a kernel, when it
        ends.
        """
        close_queue(self._queue)
        if self._segment is not None:
            self._segment.remove_name()

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether the channel has been closed."""
        return load(self._queue._words, CLOSED_FLAG) != 0  # C2 acquires from C1

    def _figures(self) -> dict[str, object]:
        figures = {"capacity": self.capacity, "size": self.was_size(), "closed": self.closed}
        return figures | sharing.figures(self._segment)

    def _occupancy(self) -> float:
        return self.was_size() / self.capacity

    def _details(self) -> dict[str, object]:
        words = self._words
        return {
            "in transit": f"{self.was_size()} of {self.capacity}",
            "waiting to receive": waiting(words),
            "waiting to send": waiting(words, PUTTERS),
            "pool": repr(self.pool),
        }


def _unpickle(cls: Any, reference: Any, pool: BufferPool[Any]) -> Any:
    """Return the channel that another process has pickled, with its pool."""
    return cls._attached(Segment.referred(reference, cls._KIND), pool)


@hot
def _give_or_leave(channel, index):
    """Send a buffer for a C method: OK, NO_ROOM, or UNDECIDED where the Python method raises."""
    status = give(channel, index)
    return OK if status == OK else NO_ROOM if status == EMPTY else UNDECIDED


replace_methods(
    (Channel,),
    lambda: Operations(channel_type(ITEM_POOL), take_next, _give_or_leave),
    names=("receive", "send"),
)
