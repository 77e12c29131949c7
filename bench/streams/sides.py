"""Ways to run a kernel over a file: `stream`, and those written by hand, on as many threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

import iobuf_nb

from .work import State, Work

THREADS = 2  # of each side
CHUNK = 1 << 20  # bytes that are read or processed at once by hand; the best of several


def streamed(work: Work, source: Any, **options: Any) -> State:
    """Run the kernel with `iobuf_nb.stream`."""
    options = {"state": work.state, "combine": work.combine, "dtype": work.dtype, "workers": THREADS, **options}
    state: State = iobuf_nb.stream(source, work.kernel, **options).state
    return state


def side_by_side(work: Work, share: Callable[[int, State], None]) -> State:
    """Call `share(k, state)` on each thread k with a state of its own; return the states merged."""
    states = [work.state() for _ in range(THREADS)]
    threads = [threading.Thread(target=share, args=each) for each in enumerate(states)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reduce(work.combine, states)


def over(work: Work, values: np.ndarray, step: int) -> State:
    """Share the chunks of an array in memory among the threads."""

    def share(k: int, state: State) -> None:
        for start in range(k * step, len(values), THREADS * step):
            part = values[start : start + step]
            work.kernel(part, len(part), start * values.itemsize, state)

    return side_by_side(work, share)


def mapped(work: Work, path: str) -> np.ndarray:
    """Return the items of a file; copy on write, because kernels are compiled for arrays that can be written to."""
    return np.asarray(np.memmap(path, work.dtype, "c"))


def mapped_by_chunks(work: Work, path: str) -> State:
    """Map the file, and go through it in small steps."""
    values = mapped(work, path)
    return over(work, values, CHUNK // values.itemsize)


def mapped_by_parts(work: Work, path: str) -> State:
    """Map the file, and give each thread one part of it."""
    values = mapped(work, path)
    return over(work, values, -(-len(values) // THREADS))


def in_steps(work: Work, path: str, read: Callable[[Any, int, np.ndarray], np.ndarray]) -> State:
    """Call `read(file, offset, buffer)` for each chunk of a file, from all threads; each has a file and a buffer."""
    size = os.path.getsize(path)

    def share(k: int, state: State) -> None:
        buffer = np.empty(CHUNK, np.uint8)
        with open(path, "rb", buffering=0) as file:
            for offset in range(k * CHUNK, size, THREADS * CHUNK):
                values = read(file, offset, buffer)
                work.kernel(values, len(values), offset, state)

    return side_by_side(work, share)


def by_preadv(work: Work, path: str) -> State:
    """Read with os.preadv into one buffer a thread."""

    def read(file: Any, offset: int, buffer: np.ndarray) -> np.ndarray:
        return buffer[: os.preadv(file.fileno(), [buffer.data], offset)].view(work.dtype)

    return in_steps(work, path, read)


def by_fromfile(work: Work, path: str) -> State:
    """Read with np.fromfile, which makes a new array each time."""

    def read(file: Any, offset: int, buffer: np.ndarray) -> np.ndarray:
        file.seek(offset)
        return np.fromfile(file, work.dtype, len(buffer) // np.dtype(work.dtype).itemsize)

    return in_steps(work, path, read)


def by_arrow(work: Work, path: str) -> State:
    """Map the file with pyarrow."""
    import pyarrow

    with pyarrow.memory_map(path) as file:
        values = np.frombuffer(file.read_buffer(), work.dtype)
        return over(work, values, CHUNK // values.itemsize)


def by_readinto(work: Work, file: Any) -> State:
    """Fill one buffer again and again, and run the kernel on it, on one thread."""
    state = work.state()
    buffer = np.empty(CHUNK, np.uint8)
    offset = 0
    while n := file.readinto(buffer.data):
        work.kernel(buffer[:n], n, offset, state)
        offset += n
    return state
