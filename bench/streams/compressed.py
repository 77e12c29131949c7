"""Compressed files, through the kernel of `scan`: `stream` against Python's modules and a command."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..names import LOOP, STREAMED, ZSTANDARD, ZSTD_AND_WC
from ..table import Settings, Table
from ..workloads.streams import STREAM_GZIP, STREAM_ZSTD
from .sides import by_readinto, streamed
from .sizes import sizes
from .text import write_text
from .timing import Case, absent, agree, measured
from .work import BYTES

NEWLINE = ord("\n")


def histogram(tables: np.ndarray) -> np.ndarray:
    """Return the counts of all bytes from the tables of the kernel."""
    counts: np.ndarray = tables.sum(axis=0)
    return counts


def streaming(path: str, kind: str) -> np.ndarray:
    """Decompress within `iobuf_nb.stream`."""
    return histogram(streamed(BYTES, path, decompress=kind))


def gzip_loop(path: str) -> np.ndarray:
    """Decompress with the module gzip."""
    with gzip.open(path) as file:
        return histogram(by_readinto(BYTES, file))


def zstd_loop(path: str) -> np.ndarray:
    """Decompress with the package zstandard."""
    import zstandard

    with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        return histogram(by_readinto(BYTES, reader))


def zstd_and_wc(path: str) -> np.ndarray:
    """Return the number of lines alone, from two commands."""
    with subprocess.Popen(["zstd", "-dc", path], stdout=subprocess.PIPE) as process:
        return np.array(int(subprocess.check_output(["wc", "-l"], stdin=process.stdout)))


def compress(path: str, target: str, compressing: Callable[[str, str], Any]) -> None:
    """Write what is in a file to another one, opened by a function that compresses."""
    with open(path, "rb") as source, compressing(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def run(settings: Settings) -> list[Table]:
    """Measure on compressed files in the page cache."""
    with tempfile.TemporaryDirectory() as folder:
        path, zipped, zstd = (os.path.join(folder, name) for name in ("text", "text.gz", "text.zst"))
        write_text(path, sizes(settings).compressed)
        parts = np.array_split(np.memmap(path, np.uint8, "r"), 64)
        expected = np.sum([np.bincount(part, minlength=256) for part in parts], axis=0)

        def check(found: np.ndarray) -> None:
            agree(expected if found.ndim else expected[NEWLINE], found)

        compress(path, zipped, partial(gzip.open, compresslevel=6))
        cases: dict[str, Case] = {LOOP: partial(gzip_loop, zipped), STREAMED: partial(streaming, zipped, "gzip")}
        tables = [measured(STREAM_GZIP, cases, check, settings)]
        if missing := absent(ZSTANDARD):
            return [*tables, Table(STREAM_ZSTD, missing=[*missing.values()])]
        import zstandard

        compress(path, zstd, zstandard.open)
        cases = {LOOP: partial(zstd_loop, zstd), STREAMED: partial(streaming, zstd, "zstd")}
        if shutil.which("zstd"):
            cases[ZSTD_AND_WC] = partial(zstd_and_wc, zstd)
        else:
            missing[ZSTD_AND_WC] = f"{ZSTD_AND_WC}: there is no command zstd (apt-get install zstd)"
        return [*tables, measured(STREAM_ZSTD, cases, check, settings, missing=missing.values())]
