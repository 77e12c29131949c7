"""The One Billion Row Challenge, a tenth of it: whole processes, so that all their threads and imports count."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ..names import DUCKDB, MEMMAP_PARTS, POLARS, PYARROW, STREAMED
from ..table import Settings, Table, in_turn
from ..workloads.streams import STREAM_ROWS, STREAM_ROWS_CPU
from .sides import THREADS
from .sizes import sizes
from .timing import absent

ROOT = Path(__file__).parents[2]
GENERATOR, PROGRAM = ([sys.executable, "-m", f"bench.{name}"] for name in ("measurements", "one_billion_rows"))
FEW = 10_000  # lines of the file on which each side is compared with plain Python, and compiled

SHOW = """
def show(rows):
    print("{" + ", ".join(f"{name}={low:.1f}/{mean:.1f}/{high:.1f}" for name, low, mean, high in sorted(rows)) + "}")
"""
SCRIPTS = {  # each prints what the program prints
    POLARS: f"""{SHOW}
import sys
import polars as pl

value = pl.col("value")
rows = pl.scan_csv(sys.argv[1], separator=";", has_header=False, schema={{"name": pl.String, "value": pl.Float64}})
found = rows.group_by("name").agg(value.min().alias("min"), value.mean().alias("mean"), value.max().alias("max"))
show(found.collect(engine="streaming").iter_rows())
""",
    DUCKDB: f"""{SHOW}
import sys
import duckdb

duckdb.sql("SET threads = {THREADS}; SET enable_progress_bar = false")
rows = duckdb.read_csv(sys.argv[1], sep=";", header=False, columns={{"name": "VARCHAR", "value": "DOUBLE"}})
show(duckdb.sql("SELECT name, min(value), avg(value), max(value) FROM rows GROUP BY name").fetchall())
""",
    PYARROW: f"""{SHOW}
import sys
import pyarrow as pa
from pyarrow import csv

pa.set_cpu_count({THREADS})
rows = csv.read_csv(
    sys.argv[1],
    read_options=csv.ReadOptions(column_names=["name", "value"]),
    parse_options=csv.ParseOptions(delimiter=";"),
    convert_options=csv.ConvertOptions(column_types={{"name": pa.string(), "value": pa.float64()}}),
)
found = rows.group_by("name").aggregate([("value", "min"), ("value", "mean"), ("value", "max")])
show(zip(*(found[column].to_pylist() for column in ("name", "value_min", "value_mean", "value_max"))))
""",
    MEMMAP_PARTS: f"""{SHOW}
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from bench.one_billion_rows import COLUMNS, tally
from iobuf_nb.text import ByteTable

data = np.asarray(np.memmap(sys.argv[1], np.uint8, "c"))
ends = [0]
for k in range(1, {THREADS} + 1):
    end = k * len(data) // {THREADS}
    ends.append(end + bytes(data[end : end + 200]).find(b"\\n") + 1)

def share(k):
    part, table = data[ends[k] : ends[k + 1]], ByteTable(COLUMNS)
    tally(part, len(part), ends[k], table)
    return table

with ThreadPoolExecutor({THREADS}) as threads:
    first, *others = threads.map(share, range({THREADS}))
for other in others:
    first = ByteTable.merge(first, other)
show((name.decode(), low / 10, total / n / 10, high / 10) for name, (low, high, total, n) in first.items())
""",
}
STATION = re.compile(r"(?:\{|, )(.+?)=([-\d.]+)/([-\d.]+)/([-\d.]+)(?=, |\})")


class Used(NamedTuple):
    """What a process took."""

    cpu: float  # seconds of user and system time
    wall: float  # seconds
    printed: str


def used(command: list[str], path: str) -> Used:
    """Run a command on a file, on as many processors as threads."""
    everywhere = os.sched_getaffinity(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": str(THREADS)}
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        os.sched_setaffinity(0, sorted(everywhere)[:THREADS])  # the process inherits it
        try:
            process = subprocess.Popen([*command, path], stdout=out, env=environment)
        finally:
            os.sched_setaffinity(0, everywhere)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        return Used(usage.ru_utime + usage.ru_stime, wall, out.read())


Found = dict[str, tuple[float, ...]]  # least, mean and greatest value of each name


def parsed(printed: str) -> Found:
    """Return what a side printed: ``{name=least/mean/greatest, ...}``."""
    return {name: tuple(map(float, values)) for name, *values in STATION.findall(printed)}


def by_python(path: str) -> Found:
    """Return the same from a few lines of Python."""
    values = defaultdict(list)
    with open(path) as file:
        for line in file:
            name, _, value = line.partition(";")
            values[name].append(float(value))
    return {name: (min(some), sum(some) / len(some), max(some)) for name, some in values.items()}


def agree(expected: Found, found: Found) -> None:
    """Refuse what another side found; means are rounded to a digit after the point, some up and some down."""
    assert found.keys() == expected.keys(), "the names differ"
    for name, (low, mean, high) in expected.items():
        least, average, greatest = found[name]
        assert (least, greatest) == (low, high) and abs(average - mean) < 0.101, name


def generate(rows: int, path: str) -> None:
    """Write measurements to a file."""
    subprocess.run([*GENERATOR, str(rows), path], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def run(settings: Settings) -> list[Table]:
    """Measure on a file in the page cache."""
    size, runs, missing = sizes(settings).rows, sizes(settings).runs, absent(POLARS, DUCKDB, PYARROW)
    sides = {STREAMED: PROGRAM}
    sides |= {name: [sys.executable, "-c", text] for name, text in SCRIPTS.items() if name not in missing}
    cpu, wall = Table(STREAM_ROWS_CPU, missing=[*missing.values()]), Table(STREAM_ROWS)
    with tempfile.TemporaryDirectory() as folder:
        few, many = os.path.join(folder, "few"), os.path.join(folder, "many")
        generate(FEW, few)
        for command in sides.values():
            agree(by_python(few), parsed(used(command, few).printed))
        generate(size, many)
        os.sync()
        found = []
        for name in in_turn(sides, min(runs, 3), settings.seed, cpu.label):
            taken = used(sides[name], many)
            found.append(parsed(taken.printed))
            agree(found[0], found[-1])
            cpu.samples.setdefault(name, []).append(taken.cpu)
            wall.samples.setdefault(name, []).append(taken.wall)
    return [cpu, wall]
