"""Copying a file against cp: with the same promise (on the disk when it returns), and without."""

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

from .measure import Table


def cp(src: str, dst: str) -> None:
    subprocess.run(["cp", src, dst], check=True)


def cp_and_sync(src: str, dst: str) -> None:
    cp(src, dst)
    subprocess.run(["sync", dst], check=True)


def speed(case: Callable[[str, str], object], src: str, dst: str) -> float:
    """Return GB/s; the disk has nothing else to write at the start."""
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


def run(quick: bool) -> list[Table]:
    """Measure on a file of 256 MiB (quick) or 2 GiB."""
    blocks, runs = (4, 5) if quick else (32, 11)
    with tempfile.TemporaryDirectory() as folder:
        src, dst = os.path.join(folder, "src"), os.path.join(folder, "dst")
        generator = np.random.default_rng(0)
        with open(src, "wb") as file:
            for _ in range(blocks):
                file.write(generator.bytes(1 << 26))
        cases: dict[str, Callable[[str, str], object]] = {
            "cp": cp,
            "copy, no sync": partial(iobuf_nb.copy, sync=False),
            "copy, verified, no sync": partial(iobuf_nb.copy, verify=True, sync=False),
            "cp and sync": cp_and_sync,
            "copy": iobuf_nb.copy,
            "copy, verified": partial(iobuf_nb.copy, verify=True),
        }
        table = Table(f"Copying {blocks * 64} MiB from the page cache", "GB/s")
        table.measure({name: partial(speed, case, src, dst) for name, case in cases.items()}, runs)
        assert digest(src) == digest(dst), "the copy must be equal"
    table.compare("copy, no sync", "cp", ">= 0.9")
    table.compare("copy, verified, no sync", "cp", ">= 0.9")
    table.compare("copy", "cp and sync", ">= 0.9")
    table.compare("copy, verified", "cp and sync", ">= 0.9")
    table.compare("copy, verified", "cp", ">= 0.9")
    return [table]
