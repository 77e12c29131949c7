"""From plain Python, against queues of the standard library and from PyPI, and against bytearrays."""

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

from .measure import Sampled
from .names import (
    BATCH,
    BUFFER,
    BY_HAND,
    BYTEARRAY,
    CHECKED,
    HELD,
    ITEMS,
    LEASE,
    MAGAZINE,
    MAGAZINE_CHECKED,
    POOL,
    PYTHON_VALUE,
    PYTHON_VIEW,
    QUEUE,
    QUEUE_OF_BYTES,
    RING,
    ROOM,
    SET_VALUE,
    SIMPLE_QUEUE,
    SIMPLE_QUEUE_OF_BYTES,
)
from .table import Settings, Table
from .work import SUBJECTS, Subject, race
from .workloads.python import (
    PYTHON_ALONE,
    PYTHON_BUFFERS,
    PYTHON_BULK,
    PYTHON_LEASES,
    PYTHON_TOGETHER,
    PYTHON_VALUES,
    PYTHON_WRITES,
)
from .workloads.workload import Workload


class Methods(NamedTuple):
    """The three methods of a queue that are used here."""

    get: Callable[[], Any]
    put: Callable[[Any], Any]
    was_size: Callable[[], int]


def of_deque() -> Methods:
    made: deque[int] = deque()
    return Methods(made.popleft, made.append, made.__len__)


def of_standard(kind: Callable[[], Any]) -> Methods:
    made = kind()
    return Methods(made.get, made.put, made.qsize)


def of_slick(package: Any) -> Methods:
    """Carry items as eight bytes; a cursor hands each to one reader. It overwrites items that are read too late."""
    made = package.SlickQueue(size=4 * ROOM, element_size=8)
    cursor = package.AtomicCursor(bytearray(8))

    def get() -> int:
        while (data := made.read(cursor)[0]) is None:  # the next is reserved, but not yet published
            continue
        item: int = struct.unpack("<Q", data)[0]
        return item

    def put(item: int) -> None:
        index = made.reserve()
        made[index][:] = struct.pack("<Q", item)
        made.publish(index)

    return Methods(get, put, lambda: made.reserve() - cursor.load())


def of_nblf(package: Any) -> Methods:
    made = package.Queue(ROOM)
    return Methods(made.pop, made.push, made.len)


STANDARD: dict[str, Callable[[], Methods]] = {
    "collections.deque": of_deque,
    SIMPLE_QUEUE: partial(of_standard, queue.SimpleQueue),
    QUEUE: partial(of_standard, queue.Queue),
}
PACKAGES: dict[str, Callable[[Any], Methods]] = {  # by module, whose name on PyPI may differ
    "culsans": lambda package: of_standard(lambda: package.Queue().sync_q),
    "faster_fifo": lambda package: of_standard(package.Queue),
    "slick_queue_py": of_slick,
    "nblf_queue": of_nblf,
}


def versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    distributions = importlib.metadata.packages_distributions()
    return {name: importlib.metadata.version(distributions[name][0]) for name in PACKAGES if name in distributions}


def filled(make: Callable[[], Methods]) -> Methods:
    ends = make()
    for k in range(ITEMS):
        ends.put(k)
    return ends


def peers() -> tuple[dict[str, Subject], list[str]]:
    """Return the queues that can be imported, and why the others cannot."""
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
        # Bytes are copied on both sides: numpy's fill() releases the GIL, which takes longer than filling 1 KiB.
        pool.view(index)[:] = FILLINGS[k & 255]
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
    """Return nanoseconds for each buffer; `ends` makes the writer's pool, the reader's, and the queue between them."""
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


def on_held(loop: Callable[[Any, list[int], int], None], pool: Any, n: int) -> None:
    """Run a loop over buffers that this thread has checked out."""
    held = [pool.get() for _ in range(HELD)]
    loop(pool, held, n)
    for index in held:
        pool.put(index)


def call_each(method: str, pool: Any, held: list[int], n: int) -> None:
    call = getattr(pool, method)
    for _ in range(n // HELD):
        for index in held:
            call(index)


def only_loop(pool: Any, held: list[int], n: int) -> None:
    for _ in range(n // HELD):
        for _index in held:
            pass


def set_values(pool: Any, held: list[int], n: int) -> None:
    set_value, data = pool.set_value, FILLINGS[1]
    for _ in range(n // HELD):
        for index in held:
            set_value(index, data)


def set_bytearrays(held: list[bytearray], n: int) -> None:
    data = FILLINGS[1]
    for _ in range(n // HELD):
        for buffer in held:
            buffer[:] = data


def leases(pool: Any, n: int) -> None:
    lease = pool.lease
    for _ in range(n):
        with lease() as _buffer:
            pass


def by_hand(pool: Any, n: int) -> None:
    get, value, put = pool.get, pool.value, pool.put
    for _ in range(n):
        index = get()
        _buffer = value(index)
        put(index)


def run(settings: Settings) -> list[Table]:
    """Measure W1, W2, W4 and W7; ours with every check, as Python users have them, and without. Then single methods."""
    others, missing = peers()
    ours = {name: SUBJECTS[name] for name in (RING, POOL, CHECKED, MAGAZINE, MAGAZINE_CHECKED)}
    pools = {name: subject for name, subject in ours.items() if name != RING}

    def measured(workload: Workload, cases: dict[str, Callable[[int], float]], missing: list[str]) -> Table:
        table = Table(workload, missing=missing)
        sampled = {name: Sampled(case, 0.02) for name, case in cases.items()}
        table.measure(sampled, 5 if settings.quick else 31, settings.seed)
        return table

    def pairs_on(threads: int) -> dict[str, Callable[[int], float]]:
        subjects = {**ours, **others}
        return {name: partial(s.side_by_side, pairs, threads=threads) for name, s in subjects.items()}

    bulk: dict[str, Callable[[int], float]] = {
        **{name: partial(s.side_by_side, array_batches, threads=1, scratch=BATCH) for name, s in pools.items()},
        **{name: partial(s.side_by_side, batches, threads=1) for name, s in others.items()},
    }
    indices = partial(passed, write_buffers, read_buffers)
    objects = partial(passed, write_bytearrays, read_bytearrays)
    buffers: dict[str, Callable[[int], float]] = {
        **{name: partial(indices, partial(of_indices, s)) for name, s in pools.items()},
        SIMPLE_QUEUE_OF_BYTES: partial(objects, partial(of_bytearrays, queue.SimpleQueue)),
        QUEUE_OF_BYTES: partial(objects, partial(of_bytearrays, partial(queue.Queue, ROOM))),
    }
    alone = partial(SUBJECTS[CHECKED].side_by_side, threads=1)

    def called(method: str, n: int) -> float:
        return alone(partial(on_held, partial(call_each, method)), n) - alone(partial(on_held, only_loop), n)

    def on_bytearrays(n: int) -> float:
        nanoseconds, _ = race([partial(set_bytearrays, [bytearray(BUFFER) for _ in range(HELD)], n)])
        return nanoseconds / n

    values: dict[str, Callable[[int], float]] = {
        PYTHON_VALUE: partial(called, "value"),
        PYTHON_VIEW: partial(called, "view"),
    }
    writes: dict[str, Callable[[int], float]] = {
        SET_VALUE: partial(alone, partial(on_held, set_values)),
        BYTEARRAY: on_bytearrays,
    }
    return [
        measured(PYTHON_ALONE, pairs_on(1), missing),
        measured(PYTHON_TOGETHER, pairs_on(2), missing),
        measured(PYTHON_BULK, bulk, missing),
        measured(PYTHON_BUFFERS, buffers, []),
        measured(PYTHON_VALUES, values, []),
        measured(PYTHON_WRITES, writes, []),
        measured(PYTHON_LEASES, {LEASE: partial(alone, leases), BY_HAND: partial(alone, by_hand)}, []),
    ]
