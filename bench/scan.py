"""Scanning a file in the page cache: the pipeline against one thread with the same kernel, over a map or by chunks."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import iobuf_nb
from iobuf_nb._streams.scan import count_bytes

from .measure import growth
from .table import Settings, Table
from .workloads.files import SCAN, SCAN_MEMORY

CHUNK = 1 << 18


def mapped(path: str) -> np.ndarray:
    """Count over a memory map."""
    tables = np.zeros((8, 256), np.int64)
    data = np.memmap(path, np.uint8, "r")
    count_bytes(data, len(data), 0, tables)
    return tables.sum(axis=0)


def chunked(path: str) -> np.ndarray:
    """Count over one buffer, filled by readinto again and again."""
    tables = np.zeros((8, 256), np.int64)
    buffer = np.empty(CHUNK, np.uint8)
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer.data):
            count_bytes(buffer, n, 0, tables)
    return tables.sum(axis=0)


def piped(path: str) -> np.ndarray:
    """Count with `iobuf_nb.scan`."""
    return iobuf_nb.scan(path).histogram


def speed(function: Callable[[str], np.ndarray], path: str, expected: np.ndarray) -> float:
    """Return GB/s, after checking the result."""
    start = time.perf_counter()
    histogram = function(path)
    seconds = time.perf_counter() - start
    assert not expected.any() or (histogram == expected).all()
    expected[:] = histogram
    return os.path.getsize(path) / seconds / 1e9


def run(settings: Settings) -> list[Table]:
    """Measure on a file of 256 MiB (quick) or 2 GiB."""
    pieces, runs = (4, 3) if settings.quick else (32, 7)
    with tempfile.NamedTemporaryFile() as file:
        generator = np.random.default_rng(0)
        for _ in range(pieces):
            file.write(generator.bytes(1 << 26))
        file.flush()
        expected = np.zeros(256, np.int64)
        cases = {"np.memmap, one thread": mapped, "readinto, one thread": chunked, "scan": piped}
        speeds, memory = Table(SCAN), Table(SCAN_MEMORY)
        measured = {name: partial(speed, case, file.name, expected) for name, case in cases.items()}
        speeds.measure(measured, runs, settings.seed)
        memory.measure({"scan": partial(growth, partial(piped, file.name))}, runs, settings.seed)
    return [speeds, memory]
