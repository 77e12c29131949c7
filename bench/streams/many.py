"""Where calls count more than bytes: many small files, the pieces of a pipe, and a single small file."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..names import LOOP, STREAMED
from ..table import Settings, Table
from ..workloads.streams import STREAM_CALL, STREAM_FILES, STREAM_PIPE
from .sides import CHUNK, by_readinto, streamed
from .sizes import sizes
from .text import text, write_text
from .timing import agree, measured
from .work import NEWLINES, State

SMALL = 8000  # bytes of a small file


def one_by_one(paths: list[str]) -> State:
    """Read each file into one buffer, and run the kernel on it."""
    state = NEWLINES.state()
    buffer = np.empty(CHUNK, np.uint8)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            n = file.readinto(buffer.data)
        NEWLINES.kernel(buffer[:n], n, 0, state)
    return state


def files(settings: Settings) -> list[Table]:
    """Measure on many small files in the page cache."""
    data = text()
    parts = [data[k * SMALL : (k + 1) * SMALL] for k in range(1000)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, str(k)) for k in range(sizes(settings).files)]
        for k, path in enumerate(paths):
            Path(path).write_bytes(parts[k % len(parts)])
        found = np.array([sum(parts[k % len(parts)].count(b"\n") for k in range(len(paths)))])
        cases = {LOOP: partial(one_by_one, paths), STREAMED: partial(streamed, NEWLINES, paths)}
        return [measured(STREAM_FILES, cases, partial(agree, found), settings)]


def pipe(settings: Settings) -> list[Table]:
    """Measure on a pipe that another process fills."""
    with tempfile.NamedTemporaryFile() as file:
        _, found = write_text(file.name, sizes(settings).pipe)

        def through(read: Callable[[Any], State]) -> State:
            with subprocess.Popen(["cat", file.name], stdout=subprocess.PIPE, bufsize=0) as process:
                return read(process.stdout)

        cases = {
            LOOP: partial(through, partial(by_readinto, NEWLINES)),
            STREAMED: partial(through, partial(streamed, NEWLINES)),
        }
        return [measured(STREAM_PIPE, cases, partial(agree, np.array([found])), settings)]


def call(settings: Settings) -> list[Table]:
    """Measure calls of `stream` on a file of 4 KiB."""
    calls, runs = sizes(settings).calls, sizes(settings).runs
    with tempfile.NamedTemporaryFile() as file:
        _, found = write_text(file.name, 4096)

        def milliseconds() -> float:
            start = time.perf_counter()
            states = [streamed(NEWLINES, file.name) for _ in range(calls)]
            taken = time.perf_counter() - start
            for state in states:
                agree(np.array([found]), state)
            return taken / calls * 1e3

        table = Table(STREAM_CALL)
        table.measure({STREAMED: milliseconds}, runs, settings.seed)
        return [table]
