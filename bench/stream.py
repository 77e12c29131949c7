"""A float32 file through one kernel on all processors: `stream` against memory maps, chunked reads and dd."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit

import iobuf_nb

from .measure import growth
from .table import Settings, Table
from .workloads.files import STREAM, STREAM_DISK, STREAM_MEMORY

THREADS = len(os.sched_getaffinity(0))
BINS = 256
CHUNK = 1 << 18

Totals = np.ndarray


@njit(nogil=True, cache=True, error_model="numpy")
def summarize(values, n, offset, totals):
    """Sum, minimum, maximum and histogram of values from 0 to 1, into an array of 3 + BINS floats."""
    total, low, high = 0.0, values[0], values[0]
    for x in values:
        total += x
        low = min(low, x)
        high = max(high, x)
        totals[3 + int(x * BINS)] += 1
    totals[0] += total
    totals[1] = min(totals[1], low)
    totals[2] = max(totals[2], high)


@njit(nogil=True, cache=True)
def touch(values, n, offset, totals):
    """Do next to nothing, so that all the time goes into reading."""
    totals[0] += values[0]


def empty() -> Totals:
    totals = np.zeros(3 + BINS)
    totals[1:3] = np.inf, -np.inf
    return totals


def merge(a: Totals, b: Totals) -> Totals:
    total = a + b
    total[1:3] = min(a[1], b[1]), max(a[2], b[2])
    return total


def side_by_side(work: Callable[[int, Totals], None]) -> Totals:
    """Run `work(k, totals)` on THREADS threads, each with totals of its own; return them merged."""
    parts = [empty() for _ in range(THREADS)]
    threads = [threading.Thread(target=work, args=(k, part)) for k, part in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = parts[0]
    for part in parts[1:]:
        result = merge(result, part)
    return result


def over(values: np.ndarray, step: int) -> Totals:
    """Share the chunks of an array in memory among the threads."""

    def work(k: int, totals: Totals) -> None:
        for start in range(k * step, len(values), THREADS * step):
            part = values[start : start + step]
            summarize(part, len(part), start, totals)

    return side_by_side(work)


def mapped(path: str) -> Totals:
    return over(np.asarray(np.memmap(path, "f4", "c")), CHUNK // 4)


def mapped_in_parts(path: str) -> Totals:
    values = np.asarray(np.memmap(path, "f4", "c"))
    return over(values, -(-len(values) // THREADS))


def chunked(path: str) -> Totals:
    size = os.path.getsize(path)
    step = 1 << 20

    def work(k: int, totals: Totals) -> None:
        with open(path, "rb", buffering=0) as file:
            for start in range(k * step, size, THREADS * step):
                file.seek(start)
                part = np.fromfile(file, "f4", step // 4)
                summarize(part, len(part), start, totals)

    return side_by_side(work)


def arrow(path: str) -> Totals:
    import pyarrow

    with pyarrow.memory_map(path) as file:
        return over(np.frombuffer(file.read_buffer(), "f4"), CHUNK // 4)


def streamed(path: str, **options: Any) -> Totals:
    return iobuf_nb.stream(path, summarize, state=empty, combine=merge, dtype="f4", **options).state


def speed(case: Callable[[str], Totals], path: str, expected: Totals) -> float:
    """Return GB/s, after checking the result."""
    start = time.perf_counter()
    totals = case(path)
    seconds = time.perf_counter() - start
    assert np.allclose(totals[0], expected[0], rtol=1e-9) and (totals[1:] == expected[1:]).all()
    return os.path.getsize(path) / seconds / 1e9


def make_file(path: str, size: int) -> Totals:
    """Fill a file with float32 values, and return their totals, computed by numpy."""
    generator = np.random.default_rng(0)
    totals = empty()
    with open(path, "wb") as file:
        for _ in range(size >> 26):
            values = generator.random(1 << 24, dtype=np.float32)
            file.write(values.data)
            counts = np.histogram(values, BINS, (0, 1))[0]
            part = np.array([values.sum(dtype=np.float64), values.min(), values.max(), *counts])
            totals = merge(totals, part)
        os.fsync(file.fileno())
    return totals


def uncache(path: str) -> None:
    """Drop a file from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def from_disk(case: Callable[[str], object], path: str) -> float:
    uncache(path)
    start = time.perf_counter()
    case(path)
    return os.path.getsize(path) / (time.perf_counter() - start) / 1e9


def dd(path: str, flag: str = "iflag=fullblock") -> None:
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", flag], check=True, stderr=subprocess.DEVNULL)


def touched(path: str, **options: Any) -> None:
    iobuf_nb.stream(path, touch, state=np.zeros(1), combine=np.add, dtype="f4", **options)


def run(settings: Settings) -> list[Table]:
    """Measure on a file of 256 MiB (quick) or 4 GiB."""
    size, runs = (1 << 28, 3) if settings.quick else (1 << 32, 5)
    cases: dict[str, Callable[[str], Totals]] = {
        "np.memmap by chunks": mapped,
        "np.memmap by parts": mapped_in_parts,
        "np.fromfile": chunked,
        "pyarrow.memory_map": arrow,
        "stream": streamed,
        "stream, mmap": partial(streamed, engine="mmap"),
    }
    missing = []
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        del cases["pyarrow.memory_map"]
        missing = ["pyarrow.memory_map: pyarrow is not installed (pip install 'iobuf-nb[bench]')"]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "values")
        expected = make_file(path, size)
        warm, cold, memory = Table(STREAM, missing=missing), Table(STREAM_DISK), Table(STREAM_MEMORY)
        measured = {name: partial(speed, case, path, expected) for name, case in cases.items()}
        warm.measure(measured, runs, settings.seed)
        reads: dict[str, Callable[[str], object]] = {
            "dd": dd,
            "stream": touched,
            "dd, direct": partial(dd, flag="iflag=direct"),
            "stream, direct": partial(touched, direct=True),
        }
        cold.measure({name: partial(from_disk, case, path) for name, case in reads.items()}, runs, settings.seed)
        memory.measure({"stream": partial(growth, partial(streamed, path))}, min(runs, 3), settings.seed)
    return [warm, cold, memory]
