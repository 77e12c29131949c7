"""Ways for messages to go from one process to another: ours, those of the standard library and those from PyPI.

A message is an array of int64. Every sender copies it into memory that the receiver can read, or into what copies it
there, and every receiver touches all of it: it adds it up where it lies, or copies it out.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import queue
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iobuf_nb import BufferPool, Channel
from iobuf_nb._jit.compile import kernel

from ..names import (
    CHANNEL,
    CHANNEL_IN_KERNELS,
    FASTER_FIFO,
    ICEORYX2,
    MP_QUEUE,
    PIPE,
    PIPE_BOTH_WAYS,
    PYZMQ,
)

Message = NDArray[np.int64]
Send = Callable[[Message], object]
Receive = Callable[[], Any]
MEMORY, MOST_ROOM = 1 << 20, 256  # bytes and messages on their way at once, where that can be chosen

fork = multiprocessing.get_context("fork")


class Touch(NamedTuple):
    """What a receiver does with a message."""

    array: Callable[[Message], Any]  # that lies in an array
    data: Callable[[Any], Any]  # that lies in anything else that has bytes


SUM = Touch(lambda array: int(array.sum()), lambda data: int(np.frombuffer(data, np.int64).sum()))
COPY = Touch(np.ndarray.tobytes, bytes)


class Way:
    """A way for messages of `size` bytes: made before the processes part, then opened by each of them at its end."""

    def __init__(self, size: int, touch: Touch = SUM) -> None:
        self.size, self.room, self.touch = size, min(MEMORY // size, MOST_ROOM), touch

    def sender(self) -> Send:
        """Open the end that sends: return what sends a message."""
        raise NotImplementedError

    def receiver(self) -> Receive:
        """Open the end that receives: return what receives a message and touches it."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what the first process has open."""

    def send_all(self) -> Callable[[Message, int], object]:
        """Open the end that sends: return what sends a message so many times, each time with its number in front."""
        send = self.sender()

        def send_all(message: Message, n: int) -> None:
            for k in range(n):
                message[0] = k
                send(message)

        return send_all

    def receive_all(self) -> Callable[[int], int]:
        """Open the end that receives: return what receives so many messages and adds them all up."""
        receive = self.receiver()
        return lambda n: sum(receive() for _ in range(n))


class Shared(Way):
    """A channel over a shared pool."""

    def __init__(self, size: int, touch: Touch = SUM) -> None:
        super().__init__(size, touch)
        self.pool = BufferPool(self.room, shape=size // 8, dtype=np.int64, shared=True)
        self.channel = Channel(self.pool)

    def sender(self) -> Send:
        pool, channel = self.pool, self.channel

        def send(message: Message) -> None:
            index = pool.get()
            pool.value(index)[:] = message
            channel.send(index)

        return send

    def receiver(self) -> Receive:
        pool, channel, touch = self.pool, self.channel, self.touch.array

        def receive() -> Any:
            index = channel.receive()
            found = touch(pool.value(index))
            pool.put(index)
            return found

        return receive


@kernel
def _send_all(pool, channel, message, n):
    for k in range(n):
        index = pool.get()
        buffer = pool.value(index)
        for j in range(len(message)):
            buffer[j] = message[j]
        buffer[0] = k
        channel.send(index)


@kernel
def _receive_all(pool, channel, n):
    total = 0
    for _ in range(n):
        index = channel.receive()
        for word in pool.value(index):
            total += word
        pool.put(index)
    return total


class SharedInKernels(Shared):
    """The same, with all messages of a sample in one call of a kernel."""

    def send_all(self) -> Callable[[Message, int], object]:
        return lambda message, n: _send_all(self.pool, self.channel, message, n)

    def receive_all(self) -> Callable[[int], int]:
        return lambda n: _receive_all(self.pool, self.channel, n)


class Queued(Way):
    """`multiprocessing.Queue`."""

    def __init__(self, size: int, touch: Touch = SUM) -> None:
        super().__init__(size, touch)
        self.queue = fork.Queue(self.room)

    def sender(self) -> Send:
        return lambda message: self.queue.put(message.tobytes())

    def receiver(self) -> Receive:
        return lambda: self.touch.data(self.queue.get())

    def close(self) -> None:
        self.queue.close()


class Piped(Way):
    """`multiprocessing.Pipe(False)`: a pipe."""

    def __init__(self, size: int, touch: Touch = SUM, duplex: bool = False) -> None:
        super().__init__(size, touch)
        self.output, self.input = fork.Pipe(duplex)

    def sender(self) -> Send:
        return lambda message: self.input.send_bytes(message.data)

    def receiver(self) -> Receive:
        return lambda: self.touch.data(self.output.recv_bytes())

    def close(self) -> None:
        self.output.close()
        self.input.close()


class PipedBothWays(Piped):
    """`multiprocessing.Pipe(True)`: a pair of sockets."""

    def __init__(self, size: int, touch: Touch = SUM) -> None:
        super().__init__(size, touch, True)


class Fifo(Way):
    """A queue of `faster-fifo`, without the pickling that it does unless told otherwise."""

    def __init__(self, size: int, touch: Touch = SUM) -> None:
        faster_fifo: Any = importlib.import_module("faster_fifo")
        super().__init__(size, touch)
        self.queue = faster_fifo.Queue(
            self.room * (size + 16), self.room, loads=lambda data: data, dumps=lambda data: data
        )

    def sender(self) -> Send:
        def send(message: Message) -> None:
            data = message.tobytes()
            while True:
                try:
                    self.queue.put(data)
                    return
                except queue.Full:
                    continue

        return send

    def receiver(self) -> Receive:
        return lambda: self.touch.data(self.queue.get(timeout=60))


class ZeroMQ(Way):
    """A PUSH and a PULL socket of `pyzmq` over ipc."""

    def __init__(self, size: int, touch: Touch = SUM) -> None:
        super().__init__(size, touch)
        self.folder = tempfile.TemporaryDirectory()
        self.address = f"ipc://{self.folder.name}/socket"
        self.context: Any = None

    def open(self, kind: str) -> Any:
        """Return a socket."""
        zmq: Any = importlib.import_module("zmq")
        self.context = zmq.Context()
        socket = self.context.socket(getattr(zmq, kind))
        socket.set_hwm(self.room)
        return socket

    def sender(self) -> Send:
        socket = self.open("PUSH")
        socket.connect(self.address)
        return lambda message: socket.send(message)

    def receiver(self) -> Receive:
        socket = self.open("PULL")
        socket.bind(self.address)
        return lambda: self.touch.data(socket.recv(copy=False).buffer)

    def close(self) -> None:
        if self.context is not None:
            self.context.destroy(linger=0)
        self.folder.cleanup()


class Iceoryx(Way):
    """A publisher and a subscriber of `iceoryx2`, and an event for each message."""

    made = 0

    def __init__(self, size: int, touch: Touch = SUM) -> None:
        super().__init__(size, touch)
        Iceoryx.made += 1
        self.name = f"iobuf_nb benchmark {os.getpid()} {Iceoryx.made}"

    def open(self) -> tuple[Any, Any, Any]:
        """Return the module, and the services for data and events."""
        iceoryx2: Any = importlib.import_module("iceoryx2")
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        name = iceoryx2.ServiceName.new(self.name)
        data = node.service_builder(name).publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        data = data.enable_safe_overflow(False).subscriber_max_buffer_size(self.room)
        return iceoryx2, data.open_or_create(), node.service_builder(name).event().open_or_create()

    def bytes_at(self, address: int) -> Any:
        """Return the bytes of a message as an object that numpy can read."""
        return (ctypes.c_uint8 * self.size).from_address(address)

    def sender(self) -> Send:
        iceoryx2, data, event = self.open()
        publisher = data.publisher_builder().initial_max_slice_len(self.size)
        publisher = publisher.backpressure_strategy(iceoryx2.BackpressureStrategy.RetryUntilDelivered).create()
        notifier = event.notifier_builder().create()

        def send(message: Message) -> None:
            sample = publisher.loan_slice_uninit(self.size)
            np.frombuffer(self.bytes_at(sample.payload_ptr), np.int64)[:] = message
            sample.assume_init().send()
            notifier.notify()

        return send

    def receiver(self) -> Receive:
        iceoryx2, data, event = self.open()
        subscriber, listener = data.subscriber_builder().create(), event.listener_builder().create()
        second = iceoryx2.Duration.from_millis(1000)

        def receive() -> Any:
            while (sample := subscriber.receive()) is None:
                listener.timed_wait(second)
            found = self.touch.data(self.bytes_at(sample.payload_ptr))
            sample.delete()
            return found

        return receive


WAYS: dict[str, type[Way]] = {
    CHANNEL: Shared,
    CHANNEL_IN_KERNELS: SharedInKernels,
    MP_QUEUE: Queued,
    PIPE: Piped,
    PIPE_BOTH_WAYS: PipedBothWays,
    FASTER_FIFO: Fifo,
    PYZMQ: ZeroMQ,
    ICEORYX2: Iceoryx,
}
PACKAGES = {FASTER_FIFO: "faster_fifo", PYZMQ: "zmq", ICEORYX2: "iceoryx2"}


def absent() -> dict[str, str]:
    """Return which peers are not installed, each with the reason why it is not measured."""
    reason = "not installed (pip install 'iobuf-nb[bench]')"
    return {name: f"{name}: {reason}" for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None}


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that no other group uses."""
    packages = {PYZMQ: "pyzmq", ICEORYX2: "iceoryx2"}
    return {package: importlib.metadata.version(package) for name, package in packages.items() if name not in absent()}
