"""Files of values or lines, through the lightest kernels: what counts is how the bytes arrive."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from ..measure import growth
from ..names import BLOCKS, DD, LINES, MEMMAP_CHUNKS, MEMMAP_PARTS, PREADV, PYARROW, STREAMED
from ..table import Settings, Table
from ..workloads.streams import (
    STREAM,
    STREAM_COLD,
    STREAM_DISK,
    STREAM_HISTOGRAM,
    STREAM_LINES,
    STREAM_MEMORY,
    STREAM_NEWLINES,
    STREAM_SUM,
)
from .sides import by_arrow, by_fromfile, by_preadv, mapped_by_chunks, mapped_by_parts, streamed
from .sizes import sizes
from .text import write_text
from .timing import Case, absent, agree, measured, new_file
from .work import BINS, HISTOGRAM, LOOK, NEWLINES, SUM, SUMMARY, State, Work, merge, no_summary

PIECE = 1 << 24  # values that are written at once

Expected = dict[Work, State]


def summary_of(values: np.ndarray) -> State:
    """Return the summary of values from 0 to 1 by numpy."""
    counts = np.bincount((values * BINS).astype(np.int64), minlength=BINS)
    return np.array([values.sum(dtype=np.float64), values.min(), values.max(), *counts])


@contextmanager
def values(size: int) -> Iterator[tuple[str, Expected]]:
    """Make a file of float32 values from 0 to 1; yield its path and what numpy finds in it."""
    generator = np.random.default_rng(0)
    summary, newlines = no_summary(), 0
    with new_file() as path:
        with open(path, "wb") as file:
            for start in range(0, size // 4, PIECE):
                part = generator.random(min(PIECE, size // 4 - start), dtype=np.float32)
                file.write(part.data)
                newlines += int(np.count_nonzero(part.view(np.uint8) == ord("\n")))
                summary = merge(summary, summary_of(part))
        found = {NEWLINES: np.array([newlines]), SUM: summary[:1], HISTOGRAM: summary[3:].astype(np.int64)}
        yield path, {**found, SUMMARY: summary}


def uncache(path: str) -> None:
    """Drop a file from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def dd(path: str, flag: str = "iflag=fullblock") -> None:
    """Read a file and do nothing with it."""
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", flag], check=True, stderr=subprocess.DEVNULL)


def looked(path: str, **options: bool) -> None:
    """Stream a file through a kernel that does next to nothing."""
    streamed(LOOK, path, **options)


def by_hand(work: Work, path: str) -> dict[str, Case]:
    """Return what one would write with numpy or the standard library, in two threads."""
    sides = {MEMMAP_CHUNKS: mapped_by_chunks, MEMMAP_PARTS: mapped_by_parts, PREADV: by_preadv}
    return {name: partial(side, work, path) for name, side in sides.items()}


def warm(settings: Settings) -> list[Table]:
    """Measure on a file in the page cache: light kernels, a heavier one, and the memory that this takes."""
    size, missing = sizes(settings).file, absent(PYARROW)
    with values(size) as (path, expected):
        tables = []
        for workload, work in (STREAM_NEWLINES, NEWLINES), (STREAM_SUM, SUM), (STREAM_HISTOGRAM, HISTOGRAM):
            cases: dict[str, Case] = {**by_hand(work, path), STREAMED: partial(streamed, work, path)}
            tables.append(measured(workload, cases, partial(agree, expected[work]), settings, size))
        cases = {
            MEMMAP_CHUNKS: partial(mapped_by_chunks, SUMMARY, path),
            MEMMAP_PARTS: partial(mapped_by_parts, SUMMARY, path),
            "np.fromfile": partial(by_fromfile, SUMMARY, path),
            "pyarrow.memory_map": partial(by_arrow, SUMMARY, path),
            STREAMED: partial(streamed, SUMMARY, path),
            "stream, mmap": partial(streamed, SUMMARY, path, engine="mmap"),
        }
        if missing:
            del cases["pyarrow.memory_map"]
        summary = measured(STREAM, cases, partial(agree, expected[SUMMARY]), settings, size, missing=missing.values())
        memory = Table(STREAM_MEMORY)
        memory.measure({STREAMED: partial(growth, partial(streamed, SUMMARY, path))}, 3, settings.seed)
    return [summary, memory, *tables]


def cold(settings: Settings) -> list[Table]:
    """Measure on a file that is not in the page cache."""
    size = sizes(settings).file
    with values(size) as (path, expected):
        drop = partial(uncache, path)
        reads: dict[str, Case] = {
            DD: partial(dd, path),
            STREAMED: partial(looked, path),
            "dd, direct": partial(dd, path, "iflag=direct"),
            "stream, direct": partial(looked, path, direct=True),
        }
        newlines: dict[str, Case] = {DD: partial(dd, path), STREAMED: partial(streamed, NEWLINES, path)}
        newlines |= by_hand(NEWLINES, path)
        del newlines[MEMMAP_PARTS]  # two places of a disk at once
        for case in (*by_hand(NEWLINES, path).values(), newlines[STREAMED], reads[STREAMED]):
            case()  # to compile it, while the file is in the page cache
        check = partial(agree, expected[NEWLINES])
        tables = (STREAM_DISK, reads), (STREAM_COLD, newlines)
        return [measured(*table, check, settings, size, before=drop, warm_up=False) for table in tables]


def lines(settings: Settings) -> list[Table]:
    """Measure what it costs that pieces are whole lines."""
    with new_file() as path:
        size, found = write_text(path, sizes(settings).file)
        cases = {
            BLOCKS: partial(streamed, NEWLINES, path),
            LINES: partial(streamed, NEWLINES, path, delimiter=b"\n"),
        }
        return [measured(STREAM_LINES, cases, partial(agree, np.array([found])), settings, size)]
