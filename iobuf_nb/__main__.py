"""The command line: ``python -m iobuf_nb scan [PATH]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from . import __version__
from ._jit import INTERPRETED
from .stream import ScanResult, scan
from .tier import Tier

_SAMPLE_BYTES = 1 << 28


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 after an I/O error, 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m iobuf_nb", description="Bounded lock-free pools of buffers.")
    parser.add_argument("--version", action="version", version=f"iobuf_nb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "scan",
        help="count the bytes, lines and byte values of a file through a pool",
        description="Count the bytes, lines and byte values of a file. Without a path, make a temporary file of "
        "256 MiB, scan it and remove it.",
    )
    command.add_argument("path", nargs="?", help="the file; - reads standard input")
    command.add_argument("--workers", type=int, help="worker threads (default: one for each processor)")
    command.add_argument("--buffers", type=int, default=16, help="buffers in the pool (default: 16)")
    command.add_argument(
        "--tier",
        type=str.upper,
        choices=[tier.name for tier in Tier],
        default="GIANT",
        help="size of a buffer (default: GIANT, 256 KiB)",
    )
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    options = parser.parse_args(arguments)
    if INTERPRETED:
        return _fail(2, "scan needs compiled kernels: unset NUMBA_DISABLE_JIT")
    try:
        with _source(options.path) as (name, source), _progress_bar() as progress:
            result = scan(
                source, workers=options.workers, buffers=options.buffers, tier=Tier[options.tier], progress=progress
            )
    except (OSError, RuntimeError) as error:  # a thread that cannot be started is a RuntimeError
        filename, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        return _fail(1, f"{filename or options.path or 'scan'}: {reason or error}")
    except (TypeError, ValueError, MemoryError) as error:
        return _fail(2, str(error))
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    name = os.fsencode(name).decode(errors="backslashreplace")
    return _print(json.dumps(_as_json(name, result)) if options.json else _as_text(name, result))


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except OSError as error:
        # Keep Python from failing once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # A reader that has gone, as `head` does, has no use for a message.
        return 1 if isinstance(error, BrokenPipeError) else _fail(1, f"standard output: {error.strerror}")
    return 0


def _fail(status: int, message: str) -> int:
    print(f"python -m iobuf_nb: {message}", file=sys.stderr)
    return status


@contextmanager
def _source(path: str | None) -> Iterator[tuple[str, str | int]]:
    """Give the name and the source to scan; a file made for it goes away again."""
    if path == "-":
        if sys.stdin is None:
            raise OSError("standard input is closed")
        yield "standard input", sys.stdin.fileno()
    elif path is not None:
        yield path, path
    else:
        with tempfile.NamedTemporaryFile(prefix="iobuf_nb-") as file:
            generator = np.random.default_rng()
            for _ in range(_SAMPLE_BYTES >> 24):
                file.write(generator.bytes(1 << 24))
            file.flush()
            yield file.name, file.name


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int | None], None] | None]:
    """Give a progress callback that draws a bar on a terminal, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(unit="B", unit_scale=True, leave=False, disable=sys.stderr is None or not sys.stderr.isatty()) as bar:

        def show(done: int, size: int | None) -> None:
            bar.total = size
            bar.update(done - bar.n)

        yield show


def _as_json(name: str, result: ScanResult) -> dict[str, object]:
    return {
        "source": name,
        "bytes": result.bytes,
        "lines": result.lines,
        "entropy": result.entropy,
        "seconds": result.seconds,
        "gb_per_s": result.gb_per_s,
        "histogram": result.histogram.tolist(),
    }


def _as_text(name: str, result: ScanResult) -> str:
    top = np.argsort(-result.histogram, kind="stable")[:8]
    common = "  ".join(f"{bytes([value])!r:.8} {result.histogram[value]:,}" for value in top if result.histogram[value])
    rows = {
        "source": name,
        "bytes": f"{result.bytes:,}",
        "lines": f"{result.lines:,}",
        "entropy": f"{result.entropy:.6f} bits a byte",
        "common": common or "nothing",
        "seconds": f"{result.seconds:.4f}",
        "speed": f"{result.gb_per_s:.2f} GB/s",
    }
    return "\n".join(f"{label:8} {value}" for label, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
