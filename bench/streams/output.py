"""Kernels that write what they find: records to a file, positions into one array."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial

import numpy as np
from numba import njit

import iobuf_nb
from iobuf_nb.text import find_byte

from ..names import NUMPY, STREAMED
from ..table import Settings, Table
from ..workloads.streams import STREAM_COLLECT, STREAM_FILTER
from .sides import CHUNK, THREADS
from .sizes import sizes
from .timing import agree, measured, new_file

RECORD = np.dtype([("time", "i8"), ("sensor", "i4"), ("value", "f4")])
KEPT = np.float32(0.1)  # of the values, which lie between 0 and 1
SOUGHT, VALUES = 10, 100  # a byte, and how many different ones there are


@njit(nogil=True, cache=True)
def keep(records, n, offset, state, output):
    """Copy the records of low values; a record is copied always, and overwritten by the next one if it is not kept."""
    kept = 0
    for i in range(n):
        output[kept] = records[i]
        kept += records[i].value < KEPT
    return kept


@njit(nogil=True, cache=True)
def locate(buffer, n, offset, state, output):
    """Write the positions of a byte."""
    found = 0
    at = find_byte(buffer, SOUGHT, 0, n)
    while at >= 0:
        output[found] = offset + at
        found += 1
        at = find_byte(buffer, SOUGHT, at + 1, n)
    return found


def filtered_by_stream(path: str, out: str) -> None:
    """Filter with `iobuf_nb.stream`."""
    iobuf_nb.stream(path, keep, dtype=RECORD, output=out, workers=THREADS)


def filtered_by_numpy(path: str, out: str) -> None:
    """Filter by chunks, each with a mask."""
    with open(path, "rb", buffering=0) as file, open(out, "wb", buffering=0) as kept:
        while len(records := np.fromfile(file, RECORD, CHUNK // RECORD.itemsize)):
            records[records["value"] < KEPT].tofile(kept)


def filtering(settings: Settings) -> list[Table]:
    """Measure on records in the page cache; what is kept goes to a new file."""
    size, generator = sizes(settings).records, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path, out = os.path.join(folder, "records"), os.path.join(folder, "kept")
        records = np.empty(size // RECORD.itemsize, RECORD)
        records["time"] = np.arange(len(records))
        records["sensor"] = records["time"] % 1000
        records["value"] = generator.random(len(records), np.float32)
        records.tofile(path)
        expected = records[records["value"] < KEPT].view(np.uint8)
        del records

        def case(filtered: Callable[[str, str], None]) -> str:
            filtered(path, out)
            return out

        def check(out: str) -> None:
            assert np.array_equal(np.fromfile(out, np.uint8), expected)

        def renew() -> None:
            if os.path.exists(out):
                os.unlink(out)

        cases = {NUMPY: partial(case, filtered_by_numpy), STREAMED: partial(case, filtered_by_stream)}
        return [measured(STREAM_FILTER, cases, check, settings, before=renew)]


def located_by_stream(path: str) -> np.ndarray:
    """Search with `iobuf_nb.stream`."""
    found = iobuf_nb.stream(path, locate, collect=np.int64, workers=THREADS).collected
    assert found is not None
    return found


def located_by_numpy(path: str) -> np.ndarray:
    """Search by chunks, and join what was found in each."""
    found, offset = [], 0
    with open(path, "rb", buffering=0) as file:
        while n := len(chunk := np.fromfile(file, np.uint8, CHUNK)):
            found.append(np.flatnonzero(chunk == SOUGHT) + offset)
            offset += n
    return np.concatenate(found)


def collecting(settings: Settings) -> list[Table]:
    """Measure on bytes in the page cache, of which one in a hundred is the one that is sought."""
    size, generator = sizes(settings).records, np.random.default_rng(0)
    with new_file() as path:
        data = generator.integers(0, VALUES, size, np.uint8)
        data.tofile(path)
        expected = np.flatnonzero(data == SOUGHT)
        del data
        cases = {NUMPY: partial(located_by_numpy, path), STREAMED: partial(located_by_stream, path)}
        return [measured(STREAM_COLLECT, cases, partial(agree, expected), settings)]
