"""Copying a file against cp: waiting until the data is on the disk, not waiting, and in memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import iobuf_nb

from .table import Settings, Table
from .workloads.files import COPY, COPY_MEMORY
from .workloads.workload import Workload

MEMORY = "/dev/shm"  # a file system in memory, on Linux

Copying = Callable[[str, str], object]


def cp(src: str, dst: str) -> None:
    subprocess.run(["cp", src, dst], check=True)


def cp_and_sync(src: str, dst: str) -> None:
    cp(src, dst)
    subprocess.run(["sync", dst], check=True)


def speed(case: Copying, src: str, dst: str) -> float:
    """Return GB/s, starting when the disk has nothing left to write."""
    if os.path.exists(dst):
        os.unlink(dst)
    os.sync()
    start = time.perf_counter()
    case(src, dst)
    return os.path.getsize(src) / (time.perf_counter() - start) / 1e9


def digest(path: str) -> str:
    with open(path, "rb") as file:
        hasher = hashlib.sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
        return hasher.hexdigest()


def measured(workload: Workload, folder: str | None, cases: dict[str, Copying], settings: Settings) -> Table:
    """Measure on a file of 256 MiB (quick) or 2 GiB, in a directory inside `folder`."""
    pieces, runs = (4, 5) if settings.quick else (32, 11)
    table = Table(workload)
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        src, dst = os.path.join(inside, "src"), os.path.join(inside, "dst")
        generator = np.random.default_rng(0)
        with open(src, "wb") as file:
            for _ in range(pieces):
                file.write(generator.bytes(1 << 26))
        table.measure({name: partial(speed, case, src, dst) for name, case in cases.items()}, runs, settings.seed)
        assert digest(src) == digest(dst), "the copy must be equal"
    return table


def run(settings: Settings) -> list[Table]:
    """Measure on the disk, and in memory, where a copy that waits for the disk has nothing to wait for."""
    cases: dict[str, Copying] = {
        "cp": cp,
        "copy": iobuf_nb.copy,
        "copy, verified": partial(iobuf_nb.copy, verify=True),
    }
    more: dict[str, Copying] = {
        "copy, no sync": partial(iobuf_nb.copy, sync=False),
        "copy, verified, no sync": partial(iobuf_nb.copy, verify=True, sync=False),
        "cp and sync": cp_and_sync,
    }
    disk = measured(COPY, None, {**cases, **more}, settings)
    if not os.path.isdir(MEMORY):
        disk.notes.append(f"Not measured in memory: there is no {MEMORY} here.")
        return [disk]
    return [disk, measured(COPY_MEMORY, MEMORY, cases, settings)]
