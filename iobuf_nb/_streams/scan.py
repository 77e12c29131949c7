"""Scan: count the bytes, lines and byte values of a source in one pass. An example of `stream`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._jit.compile import kernel
from .._memory.tier import Tier
from .progress import Throughput, reporter
from .stream import StreamResult, stream

_TABLES = 8


@dataclass(frozen=True, eq=False)
class ScanResult(Throughput):
    """The result of `scan`."""

    bytes: int  #: bytes read
    lines: int  #: newline bytes among them, as ``wc -l`` counts
    histogram: NDArray[np.int64]  #: count of each of the 256 byte values, shape (256,)
    entropy: float  #: Shannon entropy in bits per byte, from 0 to 8
    seconds: float  #: from the first read to the last result, without `compile_seconds`
    compile_seconds: float  #: spent before reading to compile kernels, or to load them from the cache


@kernel
def count_bytes(buffer, n, offset, tables):
    """Add the count of each byte value in a uint8 `buffer` to the columns of `tables`, int64 of shape (8, 256).

    The caller sums the eight tables; with a single one, equal bytes in a row would wait for each other's increment.
    """
    whole = n // _TABLES * _TABLES
    for i in range(0, whole, _TABLES):
        for k in range(_TABLES):
            tables[k, buffer[i + k]] += 1
    for i in range(whole, n):
        tables[0, buffer[i]] += 1


def scan(
    source: str | os.PathLike[str] | int | Any,
    *,
    workers: int | None = None,
    buffers: int | None = None,
    tier: Tier | int = Tier.GIANT,
    decompress: str | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
) -> ScanResult:
    r"""Count the bytes, lines and byte values of files, pipes or sockets in one pass.

    Parameters
    ----------
    source, workers, buffers, tier, decompress, progress
        As in `stream`, URLs among them. It takes `buffers` * `tier` bytes of memory, whatever the size of the source,
        and what `stream` needs for URLs.

    Returns
    -------
    ScanResult
        Exact, however the source is divided into buffers.

    Raises
    ------
    OSError, TypeError, ValueError, ImportError, MemoryError, RuntimeError
        As in `stream`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"one line\nand another\n")
    ...     file.flush()
    ...     result = scan(file.name)
    >>> result.bytes, result.lines
    (21, 2)
    """
    return scan_by(
        stream, source, workers=workers, buffers=buffers, tier=tier, decompress=decompress, progress=progress
    )


def scan_by(run: Callable[..., StreamResult], source: Any, *, progress: Any, **options: Any) -> ScanResult:
    """Count with `run`, which is `stream` or takes the same arguments."""
    with reporter(progress, "scan") as report:
        result = run(
            source,
            count_bytes,
            state=np.zeros((_TABLES, 256), np.int64),
            combine=np.add,
            dtype=np.uint8,
            engine="preadv",  # the kernel takes longer than reading, in whichever way
            progress=report,
            **options,
        )
    histogram = result.state.sum(axis=0)
    lines, entropy = int(histogram[ord("\n")]), _entropy(histogram)
    return ScanResult(result.bytes, lines, histogram, entropy, result.seconds, result.compile_seconds)


def _entropy(histogram: NDArray[np.int64]) -> float:
    """Return the Shannon entropy in bits of a distribution given by counts."""
    counts = histogram[histogram > 0]
    if len(counts) < 2:
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
