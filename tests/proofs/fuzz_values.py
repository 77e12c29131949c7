"""What the fuzzer passes: values that nobody should pass, and good ones."""

import array
import decimal
import io
import mmap
import os
import socket
import tempfile

import numpy as np
from numba import njit
from support import Index

from iobuf_nb import (
    IOVEC_DTYPE,
    Backoff,
    BoundedQueue,
    BufferPool,
    Channel,
    ItemPool,
    Magazine,
    MagazineSet,
    Sink,
    SpinWait,
    Tier,
    iovec_from_buffers,
)
from iobuf_nb._free.queue import NONBLOCKING_FLAG
from iobuf_nb.events import EPOLL_DTYPE, POLL_DTYPE
from iobuf_nb.sockets import ADDRESS_DTYPE, MESSAGE_DTYPE
from iobuf_nb.uring import RegisteredPool, Ring

# ---- what it is called with ------------------------------------------------------------------------------------------


class Raised(Exception):
    """What arguments raise themselves."""


class Number(int):
    """An int that is of another class."""


class Bad:
    """Whatever is asked of it, it raises."""

    def fail(self, *_):
        raise Raised

    __index__ = __int__ = __float__ = __len__ = __iter__ = __bool__ = __fspath__ = __buffer__ = __array__ = fileno = (
        fail
    )
    __hash__ = object.__hash__


class Lying:
    """An object whose fileno is no number."""

    def fileno(self):
        return "7"


INTEGERS = [
    0,
    1,
    -1,
    255,
    256,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -(2**31),
    -(2**63),
    -(2**64),
]


NUMBERS = [0.0, -0.0, 1.0, 0.5, -1.5, 1e308, float("nan"), float("inf"), -float("inf"), 1j, decimal.Decimal(1)]


DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c16", "M8[s]", "m8[s]", "S3", "U3"]


NASTY = {
    **{repr(value): lambda value=value: value for value in (None, True, False, *INTEGERS, *NUMBERS)},
    **{f"np.{dtype}": lambda dtype=dtype: np.array([1]).astype(dtype)[0] for dtype in DTYPES},
    **{f"{dtype} array": lambda dtype=dtype: np.array([1, 0]).astype(dtype) for dtype in DTYPES},
    "int64 array, 0-d": lambda: np.array(1),
    "int64 array, 2-d": lambda: np.array([[0, 1]]),
    "int64 array, empty": lambda: np.zeros(0, np.int64),
    "int64 array, strided": lambda: np.arange(4)[::2],
    "int64 array, backwards": lambda: np.arange(4)[::-1],
    "int64 array, readonly": lambda: np.frombuffer(bytes(16), np.int64),
    "int64 array, misaligned": lambda: np.frombuffer(bytearray(17), np.uint8)[1:].view(np.int64),
    "int64 array, big-endian": lambda: np.zeros(2, ">i8"),
    "int64 array of large ones": lambda: np.array([2**62, -(2**62)]),
    "uint64 array of large ones": lambda: np.array([2**64 - 1, 2**63], "u8"),
    "object array": lambda: np.array([1, None], object),
    "record array": lambda: np.zeros(2, "i4,f8"),
    "zero-size records": lambda: np.zeros(2, "V0"),
    "iovec of nothing": lambda: np.zeros(0, IOVEC_DTYPE),
    "iovec of zeros": lambda: np.zeros(3, IOVEC_DTYPE),
    "iovec of bad lengths": lambda: np.array([(0, -1), (0, 2**62)], IOVEC_DTYPE),
    "iovec, readonly": lambda: np.frombuffer(bytes(16), IOVEC_DTYPE),
    "iovec, strided": lambda: np.zeros(4, IOVEC_DTYPE)[::2],
    "''": str,
    "'x'": lambda: "x",
    "surrogate": lambda: "\ud800",
    "nul": lambda: "a\0b",
    "path of nothing": lambda: "/nowhere/at/all",
    "b''": bytes,
    "b'abc'": lambda: b"abc",
    "bytearray": lambda: bytearray(b"1"),
    "memoryview": lambda: memoryview(bytearray(8)),
    "memoryview, readonly": lambda: memoryview(bytes(8)),
    "memoryview, strided": lambda: memoryview(bytearray(8))[::2],
    "memoryview, 0-d": lambda: memoryview(np.array(1)),
    "memoryview, released": lambda: _released(),
    "array.array": lambda: array.array("d", [1, 2]),
    "mmap": lambda: mmap.mmap(-1, 16),
    "list": lambda: [0, 1],
    "list of nothing": list,
    "list of lists": lambda: [[0], [1, 2]],
    "list of anything": lambda: [None, "x", 2**70],
    "list of large ones": lambda: [2**63, 1],
    "tuple": lambda: (0, 1),
    "dict": lambda: {"a": 1},
    "set": lambda: {0},
    "range": lambda: range(2),
    "iterator": lambda: iter([0, 1]),
    "int": lambda: int,
    "len": lambda: len,
    "object": object,
    "Bad": Bad,
    "Lying": Lying,
    "Number(1)": lambda: Number(1),
    "Number(-1)": lambda: Number(-1),
    "Index(1)": lambda: Index(1),
    "Index(2**63)": lambda: Index(2**63),
    "a pool": lambda: BufferPool(2, 16),
    "an unchecked pool": lambda: BufferPool(2, 16, checked=False),
    "an item pool": lambda: ItemPool("ab"),
    "a closed pool": lambda: _closed(BufferPool(2, 16)),
    "a queue": lambda: _closed(BoundedQueue(2)),  # over which a loop ends
    "a magazine": lambda: BufferPool(2, 16).magazine(),
    "a backoff": Backoff,
    "closed file": lambda: _closed(_file()),
    "closed socket": lambda: _closed(socket.socket()),
    "Tier.NANO": lambda: Tier.NANO,
}


def _released():
    view = memoryview(b"abc")
    view.release()
    return view


def _closed(thing):
    thing.close()
    return thing


def _file(size=10_000):
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(bytes(range(250)) * (size // 250))
    file.seek(0)
    return file


def _socket():
    one, other = socket.socketpair()
    one.setblocking(False)
    other.sendall(bytes(100))
    return one


@njit
def _kernel(buffer, n, offset, state):
    state[0] += n


@njit
def _failing(buffer, n, offset, state):
    raise ValueError("this kernel fails")


FOLDER = tempfile.TemporaryDirectory()


PATH = os.path.join(FOLDER.name, "file")


def _ring():
    try:
        return Ring(4)
    except (ImportError, OSError):
        return None


def _indices(rng, self):
    capacity = getattr(self, "capacity", 4)
    return np.array([rng.randint(-1, capacity) for _ in range(rng.randint(0, capacity))], np.int64)


def _held(rng, self):
    """An index of a buffer that is out, or another."""
    pool = getattr(self, "pool", self)
    out = list(pool.holders()) if getattr(pool, "checked", False) else []
    return rng.choice(out) if out and rng.random() < 0.8 else rng.randint(-1, 5)


WORDS = [0, 1, -(2**63), 2**63 - 1]


#: For each parameter, by its name: good values, or nearly, of random and of the object whose method it is.
GOOD = {
    "index": [_held],
    "item": [lambda rng, self: rng.randint(-1, 5)],
    "k": [lambda rng, self: rng.randint(-1, 2)],
    "indices": [_indices, lambda rng, self: _indices(rng, self).tolist(), lambda *_: range(2)],
    "out": [lambda rng, self: np.empty(rng.randint(0, 6), np.int64)],
    "lengths": [lambda *_: None, lambda rng, self: [rng.randint(-1, 17) for _ in range(rng.randint(0, 4))]],
    "data": [lambda rng, self: bytes(rng.randint(0, 17)), lambda *_: np.ones(4, np.uint8)],
    "make": [lambda rng, self: lambda: bytes(rng.choice([1, 1, 1, 17])), lambda *_: Bad().fail],
    "block": [lambda rng, self: rng.random() < 0.5],
    "timeout": [lambda *_: 0, lambda *_: 0.001],
    "interval": [lambda *_: 1, lambda *_: 0.001],
    "capacity": [lambda rng, self: rng.randint(1, 9)],
    "items": [lambda rng, self: rng.randint(1, 9), lambda *_: "abc", _indices],
    "limit": [lambda *_: None, lambda rng, self: rng.randint(1, 9)],
    "size": [lambda rng, self: rng.randint(1, 2000), lambda *_: Tier.SMALL],
    "block_size": [lambda rng, self: rng.randint(1, 2000)],
    "shape": [lambda *_: None, lambda *_: (2, 3), lambda *_: 4, lambda *_: (2**20, 2**20, 2**20), lambda *_: (2, -1)],
    "dtype": [
        lambda rng, self: rng.choice([None, "f4", "i8", "i4,f8", "O", "V0", "S0", ">i4", "f2", ("f4", 2), "(0,)f4"])
    ],
    "page_size": [lambda *_: None, lambda *_: 4096, lambda *_: 2**30, lambda *_: 3],
    "n": [lambda rng, self: rng.randint(0, 40)],
    "order": [lambda rng, self: rng.choice(["relaxed", "acquire", "release", "acq_rel", "seq_cst"])],
    "words": [lambda *_: np.zeros(3, np.int64)],
    "i": [lambda rng, self: rng.randint(-1, 3)],
    **{key: [lambda rng, self: rng.choice(WORDS)] for key in ("value", "expected", "desired")},
    "base": [lambda *_: 1e-9],
    "max": [lambda *_: 1e-6],
    "buffers": [
        lambda rng, self: [bytearray(4), np.zeros((2, 2))],
        lambda *_: [b"read-only"],
        lambda rng, self: rng.randint(1, 4),
    ],
    "iovec": [
        lambda *_: np.zeros(2, IOVEC_DTYPE),
        lambda *_: iovec_from_buffers([bytearray(10), np.zeros(5)]),
        lambda *_: iovec_from_buffers([b"read-only"]),
        lambda *_: [bytearray(3), bytearray(4)],
    ],
    "buffer": [lambda *_: bytearray(10), lambda *_: np.zeros((2, 3)), lambda *_: bytes(5)],
    "pool": [
        lambda *_: BufferPool(4, 16),
        lambda *_: BufferPool(2, 8192),
        lambda *_: BufferPool(3, shape=(2, 2), dtype="f8"),
    ],
    "ring": [lambda *_: _ring(), lambda *_: _closed(_ring() or io.BytesIO())],
    "queue": [lambda *_: _nonblocking(BoundedQueue(4)), lambda *_: _nonblocking(BoundedQueue(2))],
    "receive": [lambda rng, self: rng.randint(0, 5)],
    "entries": [lambda rng, self: rng.choice([1, 3, 64])],
    "mem": [lambda *_: bytearray(1000), lambda *_: bytes(100), lambda *_: np.zeros((4, 25), "i4")],
    "tier": [lambda *_: Tier.PICO, lambda *_: 10, lambda *_: 4096],
    "offset": [lambda rng, self: rng.choice([-1, 0, 1, 5000, 20_000])],
    "end": [lambda rng, self: rng.choice([0, 1000, 10_000])],
    "length": [lambda rng, self: rng.choice([-2, -1, 0, 10, 5000])],
    "fd": [lambda *_: _file(), lambda *_: _socket()],
    "flags": [lambda *_: 0, lambda *_: socket.MSG_DONTWAIT],
    "timeout_ms": [lambda rng, self: rng.choice([0, 1, True, -2, 2**31, 1.5, None, "1"])],
    "at_least": [lambda rng, self: rng.randint(-1, 3)],
    "source": [lambda *_: PATH, lambda *_: _file(), lambda *_: [PATH, PATH]],
    "src": [lambda *_: PATH],
    "dst": [lambda *_: PATH + "-copy", lambda *_: FOLDER.name, lambda *_: PATH],
    "kernel": [lambda *_: _kernel] * 4 + [lambda *_: _failing, lambda *_: lambda: None],
    "state": [lambda *_: np.zeros(1, np.int64)] * 4,
    "combine": [lambda *_: np.add, lambda *_: None],
    "workers": [lambda rng, self: rng.randint(1, 3), lambda *_: None],
    "engine": [lambda rng, self: rng.choice(["auto", "preadv", "uring", "mmap", "?"])],
    "record": [lambda rng, self: rng.choice([None, 1, 3, 8, 250, 10**6])],
    "delimiter": [lambda rng, self: rng.choice([None, None, b"\n", b"ab"])],
    "output": [lambda *_: None] * 3 + [lambda *_: PATH + "-out", lambda *_: FOLDER.name],
    "collect": [lambda *_: None, lambda *_: None, lambda *_: "u1"],
    "output_dtype": [lambda *_: None, lambda *_: "f4"],
    "output_items": [lambda *_: None, lambda *_: 10],
    "overlap": [lambda *_: (0, 0), lambda rng, self: [rng.randint(0, 3), rng.randint(0, 3)]],
    **{key: [lambda rng, self: rng.choice([0, 0, 1, 8, 2000, 10**6])] for key in ("start", "skip")},
    "stop": [lambda rng, self: rng.choice([None, None, 0, 1000, 10**6])],
    "decompress": [lambda rng, self: rng.choice([None, None, "auto", "gzip", "zip"])],
    "progress": [lambda *_: False, lambda *_: lambda done, size: None],
    "owners": [lambda *_: None],
    **{key: [lambda *_: ("127.0.0.1", 9), lambda *_: np.zeros(1, ADDRESS_DTYPE)[0]] for key in ("address", "a", "b")},
    "message": [lambda *_: np.zeros(1, MESSAGE_DTYPE)[0]],
    "messages": [lambda rng, self: np.zeros(rng.randint(0, 4), MESSAGE_DTYPE)],
    **{key: [lambda rng, self: rng.choice([0, 1, 2, 17])] for key in ("how", "level", "kind", "option", "operation")},
    "target": [lambda *_: _file(), lambda *_: _socket()],
    "events": [lambda *_: 1],
    "initial": [lambda *_: 1],
    "records": [lambda *_: np.array([(2**30, 0, 0)], POLL_DTYPE)],  # no such descriptor, which is told at once
    "ready": [lambda *_: np.zeros(2, EPOLL_DTYPE)],
    **{key: [lambda rng, self: rng.choice([0, 0.001, None, -1, "1"])] for key in ("seconds", "first", "interval")},
    "name": [lambda *_: None],
    "shared": [lambda *_: False, lambda *_: True],
}


# With many values that are allowed, these would take seconds, wait for what never comes, or write to any descriptor.
ONLY_GOOD = {"name", "state", "output", "progress", "combine", "timeout_ms", "seconds"}


def _nonblocking(queue):
    queue._words[NONBLOCKING_FLAG] = 1
    return queue


def _used(rng, pool):
    """Take some of a pool's buffers out; no call on it waits."""
    pool.nonblocking = True
    for _ in range(rng.randint(0, pool.capacity)):
        pool.get()
    if rng.random() < 0.1:
        pool.close()
    return pool


def _queue(rng):
    queue = _nonblocking(BoundedQueue(4))
    for _ in range(rng.randint(0, 4)):
        queue.put(rng.randint(0, 3))
    if rng.random() < 0.2:
        queue.close()
    return queue


def _channel(rng):
    pool = BufferPool(4, 16)
    channel = Channel(pool, rng.randint(1, 4))
    channel._words[NONBLOCKING_FLAG] = 1
    for index in [pool.get() for _ in range(rng.randint(0, 4))]:
        if rng.random() < 0.5:
            channel.try_send(index)
    return channel if rng.random() < 0.8 else _closed(channel)


def _magazine(rng):
    source = BufferPool(4, 16, checked=rng.random() < 0.7).magazine(2)
    source.pool.nonblocking = True
    for index in [source.get() for _ in range(rng.randint(0, 4))]:
        if rng.random() < 0.5:
            source.put(index)
    return source if rng.random() < 0.8 else _closed(source)


POOLS = [{}, {}, {"checked": False}, {"stats": True}, {"debug": "any thread"}]

MAKE = {
    Channel: _channel,
    BoundedQueue: _queue,
    BufferPool: lambda rng: _used(rng, BufferPool(4, 16, **rng.choice(POOLS))),
    ItemPool: lambda rng: _used(rng, ItemPool("abcd", checked=rng.random() < 0.7)),
    Magazine: _magazine,
    MagazineSet: lambda rng: MagazineSet(BufferPool(4, 16), 2),
    Backoff: lambda rng: Backoff(1e-9, 1e-6),
    SpinWait: lambda rng: SpinWait(),
    Tier: lambda rng: rng.choice(list(Tier)),
    Ring: lambda rng: Ring(4),
    Sink: lambda rng: Sink(rng.randint(1, 3), 16),
    RegisteredPool: lambda rng: RegisteredPool(_used(rng, BufferPool(4, 16)), Ring(4), receive=rng.choice([0, 2])),
}
