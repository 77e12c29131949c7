"""The start of a new process: the import, and the first use of a kernel that an earlier process compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from .table import Settings, Table
from .workloads import STARTUP

IMPORT = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""

FIRST_USE = """
import numba, time
from numba import njit
import iobuf_nb

@njit(nogil=True, cache=True)
def work(pool):
    index = pool.get()
    pool.value(index)[0] = 1
    pool.put(index)

start = time.perf_counter()
pool = iobuf_nb.BufferPool(1024, iobuf_nb.Tier.SMALL)
{use}
print(time.perf_counter() - start)
"""


def seconds(script: Path, environment: dict[str, str]) -> float:
    """Run a script that prints its own figure."""
    command = [sys.executable, str(script)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(run.stdout)


def run(settings: Settings) -> list[Table]:
    """Measure in fresh processes with a numba cache of their own."""
    runs = 3 if settings.quick else 11
    with tempfile.TemporaryDirectory() as directory:
        root = str(Path(__file__).parents[1])
        environment = {**os.environ, "NUMBA_CACHE_DIR": directory, "PYTHONPATH": root}
        scripts = {
            "import numba": IMPORT.format(module="numba"),
            "import numba, then iobuf_nb": IMPORT.format(module="numba, iobuf_nb"),
            "first kernel over a pool": FIRST_USE.format(use="work(pool)"),
            "first get and put from Python": FIRST_USE.format(use="pool.put(pool.get())"),
        }
        cases = {}
        for name, text in scripts.items():
            path = Path(directory) / f"{name.replace(' ', '_').replace(',', '')}.py"
            path.write_text(text)
            cases[name] = partial(seconds, path, environment)
        table = Table(STARTUP)
        table.measure(cases, runs, settings.seed)
    table.samples["iobuf_nb over numba"] = [
        both - one
        for both, one in zip(table.samples["import numba, then iobuf_nb"], table.samples["import numba"], strict=True)
    ]
    return [table]
