"""Datagrams that wait in a socket, received by kernels, by C and by Python."""

from __future__ import annotations

import ctypes
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from iobuf_nb import BufferPool, sockets
from iobuf_nb._jit.compile import kernel

from .names import RECVMMSG, RECVMMSG_C, RECVMMSG_GRO, RECVMSG_INTO
from .peers import RECEIVER
from .table import Settings, Table
from .workloads.sockets import UDP

BATCH, SIZE = 64, 64  # datagrams a call, bytes a datagram
MOST, ROOM = 4096, 1024  # datagrams that wait; bytes of a socket's memory for each, with what Linux adds
BATCHES = 20  # of a sample, each a few milliseconds

Drain = Callable[[int], tuple[int, int]]  # of a descriptor: how many datagrams there were, and their sum


@kernel
def send(fd, pool, indices, messages, n, size):
    """Send `n` numbered datagrams, each call those in buffers of `size` bytes."""
    for k in range(len(indices)):
        messages[k]["length"] = size
    number = 0
    while number < n:
        count = 0
        while count < len(indices) and number < n:
            words = pool.value(indices[count])
            for j in range(0, size // 8, SIZE // 8):
                words[j] = number
                number += 1
            count += 1
        if sockets.sendmmsg(fd, pool, indices[:count], messages) != count:
            return False
    return True


@kernel
def receive(fd, pool, indices, messages):
    """Receive what is there, datagrams that Linux has put together (UDP_GRO) or not."""
    got = total = 0
    while True:
        n = sockets.recvmmsg(fd, pool, indices, messages, sockets.MSG_DONTWAIT)
        if n <= 0:
            return got, total
        for k in range(n):
            words = pool.value(indices[k])
            if not messages[k]["flags"] & sockets.MSG_TRUNC:
                for j in range(0, messages[k]["length"] // 8, SIZE // 8):
                    got += 1
                    total += words[j]


class Side:
    """A socket in which datagrams wait, and what receives them."""

    def __init__(self, drain: Drain | None = None, together: int = 1) -> None:
        self.receiver, self.sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.receiver.setblocking(False)
        self.receiver.bind(("127.0.0.1", 0))
        self.sender.connect(self.receiver.getsockname())
        for option in (sockets.SO_RCVBUF, sockets.SO_RCVBUFFORCE):
            with suppress(PermissionError):
                self.receiver.setsockopt(sockets.SOL_SOCKET, option, MOST * ROOM)
        room = sockets.getsockopt(self.receiver, sockets.SOL_SOCKET, sockets.SO_RCVBUF)
        self.n = min(MOST, room // ROOM // BATCH * BATCH)
        self.size = together * SIZE
        self.pool = BufferPool(BATCH, shape=self.size // 8, dtype=np.int64)
        self.indices = np.empty(BATCH, np.int64)
        self.pool.get_many(self.indices)
        self.messages = np.zeros(BATCH, sockets.MESSAGE_DTYPE)
        if together > 1:
            sockets.setsockopt(self.receiver, sockets.SOL_UDP, sockets.UDP_GRO, 1)
            sockets.setsockopt(self.sender, sockets.SOL_UDP, sockets.UDP_SEGMENT, SIZE)
        self.drain = drain or (lambda fd: receive(fd, self.pool, self.indices, self.messages))

    def sample(self) -> float:
        """Return millions of datagrams a second, in the least disturbed of some batches."""
        return self.n / min(self.seconds() for _ in range(BATCHES)) / 1e6

    def seconds(self) -> float:
        """Return how long it takes to receive a full socket."""
        messages = np.zeros(BATCH, sockets.MESSAGE_DTYPE)
        assert send(self.sender.fileno(), self.pool, self.indices, messages, self.n, self.size), "nothing can be sent"
        start = time.perf_counter()
        found = self.drain(self.receiver.fileno())
        taken = time.perf_counter() - start
        assert found == (self.n, self.n * (self.n - 1) // 2), "datagrams were lost, or came with other contents"
        return taken

    def close(self) -> None:
        """Close the sockets."""
        self.receiver.close()
        self.sender.close()
        self.pool.put_many(self.indices)


def in_c(library: Any, fd: int) -> tuple[int, int]:
    """Receive in C."""
    library.drain.restype, total = ctypes.c_int64, ctypes.c_int64()
    return library.drain(fd, ctypes.byref(total)), total.value


def in_python(fd: int) -> tuple[int, int]:
    """Receive in Python, each datagram with its address."""
    buffer = bytearray(SIZE)
    words, buffers = memoryview(buffer).cast("q"), [buffer]
    got = total = 0
    with socket.socket(fileno=socket.dup(fd)) as receiver, suppress(BlockingIOError):
        receive_into = receiver.recvmsg_into
        while True:
            _, _, flags, _ = receive_into(buffers)
            if not flags & socket.MSG_TRUNC:
                got += 1
                total += words[0]
    return got, total


def sides() -> dict[str, Callable[[], Side]]:
    """Return what makes each side that can be measured here."""
    made: dict[str, Callable[[], Side]] = {
        RECVMMSG: Side,
        RECVMMSG_GRO: partial(Side, together=SIZE),
        RECVMSG_INTO: partial(Side, in_python),
    }
    if not RECEIVER.missing:
        made[RECVMMSG_C] = partial(Side, partial(in_c, RECEIVER.library))
    return made


def run(settings: Settings) -> list[Table]:
    """Measure all sides in turn."""
    table = Table(UDP)
    if RECEIVER.missing:
        table.missing.append(f"{RECVMMSG_C}: {RECEIVER.missing}")
    made = {name: make() for name, make in sides().items()}
    table.measure({name: side.sample for name, side in made.items()}, 5 if settings.quick else 31, settings.seed)
    for side in made.values():
        side.close()
    return [table]
