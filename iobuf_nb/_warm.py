"""Warm: compile what programs will need, by using each part of the library once, for images of containers and for CI.

Each step is a first use of one part. What it compiles goes to the cache of compiled code, as in any program.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any

import numpy as np
from numba.core import event

from . import atomics, events, sockets, syscalls, text
from ._jit.cache import place_to_write
from ._jit.compile import kernel
from ._memory.iovec import advance_iovec, fill_iovec, iovec_from_buffers
from ._memory.tier import Tier
from ._pools.bounded_queue import BoundedQueue
from ._pools.channel import Channel
from ._pools.item_pool import ItemPool
from ._pools.magazine import MagazineSet
from ._pools.pool import BufferPool
from ._streams.blocks import blocks
from ._streams.copy import copy
from ._streams.scan import scan
from ._streams.stream import stream
from ._threads.backoff import Backoff, SpinWait
from ._threads.outcomes import WouldBlock

_BYTES = 100_000  # of the file that is read


def warm(report: Callable[[str, int, float], None]) -> str:
    """Compile what the public functions and methods need, or load it from the cache.

    Parameters
    ----------
    report : callable
        ``report(step, kernels, seconds)`` is called after each of `STEPS`: its name, the number of functions that were
        compiled and not loaded, and the time that it took.

    Returns
    -------
    str
        The folder under which the code is cached.

    Raises
    ------
    OSError
        Nothing can be cached; the message says why.

    Notes
    -----
    Not thread-safe, because it makes an error of a warning for the time that it takes. What depends on types that only
    a program knows (its own kernels, and streams with other states than one-dimensional int64 and float64 arrays) is
    left to that program.
    """
    try:
        folder = place_to_write()
    except OSError as error:
        raise OSError(f"{error}; set the environment variable NUMBA_CACHE_DIR to use another folder") from None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "compiled code cannot be cached", RuntimeWarning)
        try:
            for name, step in STEPS.items():
                report(name, *compiled_by(step))
        except RuntimeWarning as warning:
            raise OSError(str(warning)) from None
    return folder


def compiled_by(step: Callable[[], Any]) -> tuple[int, float]:
    """Call a function; return how many kernels were compiled meanwhile, and not loaded, and how long it took."""
    start = perf_counter()
    with event.install_recorder("numba:compile") as recorder:
        step()
    return sum(each.is_start for _, each in recorder.buffer), perf_counter() - start


@kernel
def _add(buffer, n, offset, state):
    state[0] += n


@kernel
def _use_pool(pool, queue, indices):
    """Call the methods of a pool or magazine, and those of a queue, in a kernel."""
    queue.put(pool.get())
    index = queue.get()
    pool.value(index)
    pool.put(index)
    index = pool.try_get()
    if queue.try_put(index):
        pool.try_put(queue.try_get())
    pool.put_many(indices[: pool.get_many(indices)])


def _use(pool: Any) -> None:
    """Call the methods of a pool or magazine from Python, and in a kernel."""
    pool.put(pool.get())
    pool.try_put(pool.get(timeout=1.0))
    for n in (2, 5000):  # more than C methods move at once
        indices = np.empty(n, np.int64)
        pool.put_many(indices[: pool.get_many(indices)])
    taken = [pool.try_get() for _ in range(pool.capacity)]
    with suppress(WouldBlock):
        pool.get(timeout=0.0)
    for index in taken:
        pool.put(index)
    pool.try_put(pool.capacity)
    with suppress(IndexError):
        pool.put(pool.capacity)


def _pools() -> None:
    for checked in (True, False):
        with BufferPool(2, Tier.MEDIUM, checked=checked) as pool:
            _use(pool)
            pool.fill(lambda: np.zeros(1, np.uint8))
            pool.set_value(0, b"x")
            pool.view(0)
            with pool.lease() as buffer:
                buffer[0] = 1
            _use_pool(pool, BoundedQueue(2), np.empty(2, np.int64))
            repr(pool)
        with ItemPool([None], checked=checked) as items:
            _use(items)


@kernel
def _use_queue(queue, items):
    """Call the methods of a queue that only queues have, in a kernel."""
    return queue.put_many(items) + queue.get_many(items) + queue.get_or_closed(0.0) + queue.was_size()


@kernel
def _use_values(queue, values):
    """Call the methods of a queue with a dtype, in a kernel."""
    queue.put(values[0])
    queue.get_into(values)
    if queue.try_put(values[0]) and queue.try_get_into(values):
        queue.put_many(values)
        queue.get_many(values)
    return queue.was_size()


def _queues() -> None:
    queue = BoundedQueue(1)
    queue.put(0)
    with suppress(WouldBlock):
        queue.put(0, timeout=0.0)
    queue.get()
    with suppress(WouldBlock):
        queue.get(timeout=0.0)
    queue.try_put(0)
    queue.try_get()
    for n in (1, 5000):  # more than C methods move at once
        queue.put_many(np.zeros(n, np.int64))
        queue.get_many(np.zeros(n, np.int64))
    queue.put(0)
    queue.get_or_closed()  # by the C method
    queue.get_or_closed(0.0)  # by the Python method, as where it waits
    _use_queue(queue, np.zeros(1, np.int64))
    asyncio.run(_await_item(queue))
    repr(queue)
    queue.close()
    for dtype in (np.int64, np.float64):
        values = BoundedQueue(1, dtype=dtype)
        _use_values(values, np.zeros(1, dtype))
        values.put(0)
        with suppress(WouldBlock):
            values.put(0, timeout=0.0)
        values.put_many(np.zeros(values.get_many(np.zeros(1, dtype)), dtype))
        values.get()
        with suppress(WouldBlock):
            values.get(timeout=0.0)
        values.close()


async def _await_item(queue: BoundedQueue) -> None:
    with suppress(WouldBlock):
        await queue.aget(0.001)
    await queue.aput(0)
    with suppress(WouldBlock):
        await queue.aput(0, 0.001)


def _magazines() -> None:
    for checked in (True, False):
        with BufferPool(4, Tier.MEDIUM, checked=checked) as pool:
            with pool.magazine(2) as magazine:
                _use(magazine)
                _use_pool(magazine, BoundedQueue(2), np.empty(2, np.int64))
                repr(magazine)
                magazine.release()
            MagazineSet(pool, 2).close()


def _coroutines() -> None:
    async def use(pool: BufferPool) -> None:
        index = await pool.aget()
        with suppress(WouldBlock):
            await pool.aget(timeout=0.0)
        waiting = asyncio.ensure_future(pool.aget())
        await asyncio.sleep(0)
        pool.put(index)
        pool.put(await waiting)

    for checked in (True, False):
        with BufferPool(1, Tier.MEDIUM, checked=checked) as pool:
            asyncio.run(use(pool))


@kernel
def _use_channel(channel, index, indices):
    """Call the methods of a channel in a kernel."""
    channel.send(index)
    if channel.try_send(channel.receive()):
        indices[0] = channel.try_receive()
    channel.send_many(indices[: channel.receive_many(indices[: channel.send_many(indices)])])


def _processes() -> None:
    async def use(channel: Channel) -> None:
        index = await channel.areceive()
        with suppress(WouldBlock):
            await channel.areceive(0.001)
        await channel.asend(index)

    if sys.platform != "linux":
        return
    with BufferPool(2, Tier.MEDIUM, shared=True) as pool, Channel(pool) as channel:
        _use(pool)
        _use_pool(pool, BoundedQueue(2, shared=True), np.empty(2, np.int64))
        index = pool.get()
        _use_channel(channel, index, np.full(1, index))
        channel.send(channel.receive())  # by C methods
        channel.send(channel.receive(0.0), 0.0)  # by Python methods, as where they wait
        with suppress(WouldBlock):
            channel.receive(channel.try_receive() * 0.0)
        channel.try_send(index)
        asyncio.run(use(channel))
        pool.put(channel.receive())
        pool.recover()
        repr(channel)


def _pacing() -> None:
    spin, backoff = SpinWait(), Backoff(1e-6, 1e-5)
    spin.once()
    spin.reset()
    backoff.wait()
    backoff.set_base(1e-6)
    backoff.set_max(1e-5)
    backoff.reset()


def _atomics() -> None:
    words = np.zeros(1, np.int64)
    atomics.store(words, 0, atomics.load(words, 0))
    for operation in (atomics.swap, atomics.fetch_add, atomics.fetch_or, atomics.fetch_and):
        operation(words, 0, 0)
    atomics.compare_and_swap(words, 0, 0, 0)
    atomics.fence()


def _system_calls() -> None:
    buffer = bytearray(8)  # one kernel serves all calls: see `syscalls.call`
    with tempfile.TemporaryFile(buffering=0) as file:
        for write in (syscalls.pwrite, syscalls.pwrite_full):
            write(file, buffer, 0)
        for write_vector in (syscalls.pwritev, syscalls.pwritev_full):
            write_vector(file, [buffer], 0)
        syscalls.poll_in(file, 0)
    with BufferPool(2, Tier.MEDIUM) as pool:
        iovec = pool.iovec([0, 1])
        fill_iovec(iovec, pool, np.arange(2))
        advance_iovec(iovec_from_buffers([buffer]), 1)


def _sockets() -> None:
    if sys.platform != "linux":
        return
    messages, address, buffer = np.zeros(2, sockets.MESSAGE_DTYPE), sockets.address_of(("127.0.0.1", 0)), bytearray(8)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other, BufferPool(2, Tier.MEDIUM) as pool:
        messages["length"] = 8
        sockets.sendmmsg(one, pool, range(2), messages)
        sockets.recvmmsg(other, pool, range(2), messages)
        sockets.sendto(one, buffer, messages[0]["address"])
        sockets.recvfrom(other, buffer, address)
        sockets.sendmsg(one, [buffer], messages[0])
        sockets.recvmsg(other, [buffer], messages[0])
        sockets.add_control(messages[0], 1, 1, buffer)
        sockets.same_address(address, address)
        sockets.setsockopt(one, sockets.SOL_SOCKET, sockets.SO_RCVBUF, sockets.getsockopt(one, 1, 8))
        for call in (sockets.accept, sockets.connect):
            with suppress(OSError):
                call(one, address)
        waiting, event, timer = events.epoll_create(), events.eventfd(1), events.timerfd()
        events.epoll_ctl(waiting, events.EPOLL_CTL_ADD, event, events.EPOLLIN)
        events.epoll_wait(waiting, np.zeros(1, events.EPOLL_DTYPE), 0.0)
        events.poll(np.zeros(1, events.POLL_DTYPE), 0.0)
        events.eventfd_write(event, events.eventfd_read(event))
        events.timerfd_set(timer, None)
        events.sleep(0)
        for fd in (waiting, event, timer):
            sockets.close(fd)


@kernel
def _use_text(table, b, bounds):
    """Call what works on bytes, in a kernel."""
    n = len(b)
    start, end = text.trim(b, 0, n)
    found = text.find_byte(b, 32, 0, n), text.rfind_byte(b, 32, 0, n), text.find_any(b, b" ", 0, n)
    counts = text.count_byte(b, 32, 0, n), text.split_fields(b, 0, n, 32, bounds)
    numbers = text.parse_int(b, start, end), text.parse_decimal(b, start, end, 1), text.parse_float(b, start, end)
    table.rows[table.slot(b, start, end), 0] += 1
    return found, counts, numbers, table.find(b, start, end), len(table)


def _text() -> None:
    b, bounds = np.full(64, 32, np.uint8), np.zeros((1, 2), np.int64)
    for dtype in (np.int64, np.float64):
        table = text.ByteTable({"count": "sum"}, dtype=dtype)
        _use_text(table, b, bounds)
        table.merge(table.copy())
    table.find(b, 0, table.slot(b, 0, 1))
    text.trim(b, 0, 64)
    for search in (text.find_byte, text.rfind_byte, text.count_byte):
        search(b, 32, 0, 64)
    text.find_any(b, b" ", 0, 64)
    text.split_fields(b, 0, 64, 32, bounds)
    for parse in (text.parse_int, text.parse_float):
        parse(b, 0, 64)
    text.parse_decimal(b, 0, 64, 1)


def _with_file(use: Callable[[str], Any]) -> Callable[[], None]:
    """Return a step that uses a file."""

    def step() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "data")
            with open(path, "wb") as file:
                file.write(b"\n" * _BYTES)
            use(path)

    return step


def _stream(path: str) -> None:
    for state in (np.zeros(1, np.int64), np.zeros(1)):
        for dtype in (np.uint8, np.int64, np.float32, np.float64):
            stream(path, _add, state=state, dtype=dtype, buffers=1, tier=Tier.MEDIUM)
        for options in (
            {"engine": "mmap"},
            {"ordered": True},
            {"delimiter": b"\n"},
            {"delimiter": b"\n", "ordered": True},
        ):
            stream(path, _add, state=state, tier=Tier.MEDIUM, **options)
        with _empty_pipe() as reader:
            stream(reader, _add, state=state)
    for _ in blocks(path, tier=Tier.MEDIUM):
        pass


def _scan(path: str) -> None:
    scan(path)
    with _empty_pipe() as reader:
        scan(reader)


@contextmanager
def _empty_pipe() -> Iterator[int]:
    """Yield the reading end of a pipe, which is read in turns."""
    reader, writer = os.pipe()
    os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)


def _copy(path: str) -> None:
    copy(path, f"{path}.copy", verify=True)
    copy("/proc/version" if os.path.exists("/proc/version") else path, f"{path}.copy")


def _rings(path: str) -> None:
    with suppress(ImportError, OSError):  # without the extra, or where the system has no io_uring
        for state in (np.zeros(1, np.int64), np.zeros(1)):
            stream(path, _add, state=state, engine="uring")


#: Each is a first use of one part of the library.
STEPS: dict[str, Callable[[], None]] = {
    "pools": _pools,
    "queues": _queues,
    "magazines": _magazines,
    "coroutines": _coroutines,
    "processes": _processes,
    "pacing": _pacing,
    "atomics": _atomics,
    "system calls": _system_calls,
    "sockets": _sockets,
    "text": _text,
    "streams": _with_file(_stream),
    "scan": _with_file(_scan),
    "copy": _with_file(_copy),
    "rings": _with_file(_rings),
}
