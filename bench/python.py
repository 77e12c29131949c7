"""From plain Python, against queues of the standard library and from PyPI, and against queues of bytearrays."""

from __future__ import annotations

import importlib
import importlib.metadata
import queue
import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from iobuf_nb import BoundedQueue

from .measure import Sampled, Table
from .work import BATCH, BUFFER, CHECKED, ITEMS, MAGAZINE, MAGAZINE_CHECKED, POOL, RING, ROOM, SUBJECTS, Subject, race


class Ends(NamedTuple):
    """A queue by its three ends."""

    get: Callable[[], Any]
    put: Callable[[Any], Any]
    was_size: Callable[[], int]


def of_deque() -> Ends:
    made: deque[int] = deque()
    return Ends(made.popleft, made.append, made.__len__)


def of_standard(kind: Callable[[], Any]) -> Ends:
    made = kind()
    return Ends(made.get, made.put, made.qsize)


def of_slick(package: Any) -> Ends:
    """Carry items as eight bytes; one cursor hands each to one reader. It overwrites what readers are too late for."""
    made = package.SlickQueue(size=4 * ROOM, element_size=8)
    cursor = package.AtomicCursor(bytearray(8))

    def get() -> int:
        while (data := made.read(cursor)[0]) is None:  # one that is reserved, but not yet published
            continue
        item: int = struct.unpack("<Q", data)[0]
        return item

    def put(item: int) -> None:
        index = made.reserve()
        made[index][:] = struct.pack("<Q", item)
        made.publish(index)

    return Ends(get, put, lambda: made.reserve() - cursor.load())


def of_nblf(package: Any) -> Ends:
    made = package.Queue(ROOM)
    return Ends(made.pop, made.push, made.len)


STANDARD: dict[str, Callable[[], Ends]] = {
    "collections.deque": of_deque,
    "queue.SimpleQueue": partial(of_standard, queue.SimpleQueue),
    "queue.Queue": partial(of_standard, queue.Queue),
}
PACKAGES: dict[str, Callable[[Any], Ends]] = {  # by the name of the module, not always that on PyPI
    "culsans": lambda package: of_standard(lambda: package.Queue().sync_q),
    "faster_fifo": lambda package: of_standard(package.Queue),
    "slick_queue_py": of_slick,
    "nblf_queue": of_nblf,
}


def versions() -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    distributions = importlib.metadata.packages_distributions()
    return {name: importlib.metadata.version(distributions[name][0]) for name in PACKAGES if name in distributions}


def filled(make: Callable[[], Ends]) -> Ends:
    ends = make()
    for k in range(ITEMS):
        ends.put(k)
    return ends


def peers() -> tuple[dict[str, Subject], list[str]]:
    """Return the queues that are there, and why others are not."""
    found, missing = {name: Subject(partial(filled, make)) for name, make in STANDARD.items()}, []
    for name, make in PACKAGES.items():
        try:
            found[name] = Subject(partial(filled, partial(make, importlib.import_module(name))))
        except ImportError as reason:
            missing.append(f"{name}: {reason} (pip install 'iobuf-nb[bench]'; not every Python has it)")
    return found, missing


def pairs(thing: Any, n: int) -> None:
    get, put = thing.get, thing.put
    for _ in range(n):
        put(get())


def batches(thing: Any, n: int) -> None:
    get, put = thing.get, thing.put
    for _ in range(0, n, BATCH):
        for item in [get() for _ in range(BATCH)]:
            put(item)


def array_batches(pool: Any, batch: np.ndarray, n: int) -> None:
    for _ in range(0, n, BATCH):
        pool.put_many(batch[: pool.get_many(batch)])


FILLINGS = [bytes([value]) * BUFFER for value in range(256)]


def write_buffers(pool: Any, passing: Any, n: int) -> None:
    for k in range(n):
        index = pool.get()
        # Bytes are copied on both sides: numpy's own fill() lets go of the GIL, which takes longer than to fill 1 KiB.
        memoryview(pool.value(index))[:] = FILLINGS[k & 255]
        passing.put(index)


def read_buffers(pool: Any, passing: Any, n: int) -> int:
    total = 0
    for _ in range(n):
        index = passing.get()
        total += crc32(pool.value(index))
        pool.put(index)
    return total


def write_bytearrays(free: Any, passing: Any, n: int) -> None:
    for k in range(n):
        buffer = free.get()
        buffer[:] = FILLINGS[k & 255]
        passing.put(buffer)


def read_bytearrays(free: Any, passing: Any, n: int) -> int:
    total = 0
    for _ in range(n):
        buffer = passing.get()
        total += crc32(buffer)
        free.put(buffer)
    return total


def passed(
    write: Callable[..., None], read: Callable[..., int], ends: Callable[[], tuple[Any, Any, Any]], n: int
) -> float:
    """Return nanoseconds for each buffer that one thread writes and another reads; `ends` are theirs and the queue."""
    writer, reader, passing = ends()
    nanoseconds, (_, total) = race([partial(write, writer, passing, n), partial(read, reader, passing, n)])
    assert total == sum(crc32(bytes([k & 255]) * BUFFER) for k in range(256)) * (n // 256) + sum(
        crc32(bytes([k]) * BUFFER) for k in range(n % 256)
    ), "bytes were lost"
    return nanoseconds / n


def of_indices(subject: Subject) -> tuple[Any, Any, Any]:
    pool = subject.make()
    return subject.seat(pool), subject.seat(pool), BoundedQueue(ROOM)


def of_bytearrays(kind: Callable[[], Any]) -> tuple[Any, Any, Any]:
    free = kind()
    for _ in range(ITEMS):
        free.put(bytearray(BUFFER))
    return free, free, kind()


def run(quick: bool) -> list[Table]:
    """Measure W1, W2, W4 and W7; ours with every check, as Python users have them, and without."""
    others, missing = peers()
    ours = {name: SUBJECTS[name] for name in (RING, POOL, CHECKED, MAGAZINE, MAGAZINE_CHECKED)}

    def measured(short: str, title: str, cases: dict[str, Callable[[int], float]]) -> Table:
        table = Table(title, "ns", f"Python, {short}", missing=missing)
        table.measure({name: Sampled(case, 0.02) for name, case in cases.items()}, 5 if quick else 31)
        return table

    def pairs_of(threads: int) -> dict[str, Callable[[int], float]]:
        subjects = {**ours, **others}
        return {name: partial(s.side_by_side, pairs, threads=threads) for name, s in subjects.items()}

    alone = measured("one thread", f"Get+put from Python, one thread; {ITEMS} items", pairs_of(1))
    for name in CHECKED, RING:
        alone.compare(name, "queue.SimpleQueue", "<= 1.0")
        alone.compare(name, "queue.Queue", "<= 0.05")
    together = measured("two threads", f"Get+put from Python, two threads; {ITEMS} items", pairs_of(2))
    together.compare(CHECKED, "queue.SimpleQueue", "<= 1.0")
    together.compare(CHECKED, "queue.Queue", "<= 0.05")
    bulk = measured(
        "bulk of 32",
        "Get+put from Python, 32 at a time, for each item",
        {
            **{
                name: partial(s.side_by_side, array_batches, threads=1, scratch=BATCH)
                for name, s in ours.items()
                if name != RING
            },
            **{name: partial(s.side_by_side, batches, threads=1) for name, s in others.items()},
        },
    )
    bulk.compare(CHECKED, "queue.SimpleQueue", "<= 1.0")
    indices = partial(passed, write_buffers, read_buffers)
    objects = partial(passed, write_bytearrays, read_bytearrays)
    buffers = measured(
        "buffers",
        "Buffers of 1 KiB written by one Python thread, read by another",
        {
            **{name: partial(indices, partial(of_indices, s)) for name, s in ours.items() if name != RING},
            "queue.SimpleQueue of bytearrays": partial(objects, partial(of_bytearrays, queue.SimpleQueue)),
            "queue.Queue of bytearrays": partial(objects, partial(of_bytearrays, partial(queue.Queue, ROOM))),
        },
    )
    buffers.missing = []
    buffers.compare(CHECKED, "queue.Queue of bytearrays", "<= 0.3")
    buffers.compare(CHECKED, "queue.SimpleQueue of bytearrays", "<= 1.0")
    return [alone, together, bulk, buffers]
