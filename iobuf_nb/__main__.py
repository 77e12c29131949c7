"""The command line: ``python -m iobuf_nb scan [PATH]``, ``copy SRC DST``, ``shared``, ``warm`` and ``doctor``."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import numpy as np

from . import __version__, _command
from ._jit import notice
from ._jit.compile import INTERPRETED
from ._memory import segment
from ._memory.tier import Tier
from ._streams.copy import copy
from ._streams.progress import reporter
from ._streams.scan import ScanResult, scan
from .syscalls import write_full

_SAMPLE_BYTES = 1 << 28
_WORTH_TELLING_S = 0.1  # shorter times to compile, or to load what is compiled, are only told in JSON


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 after an I/O error, 2 for bad arguments.

    That of ``doctor`` is 1 if there are problems.
    """
    parser = argparse.ArgumentParser(prog="python -m iobuf_nb", description="Bounded lock-free pools of buffers.")
    parser.set_defaults(status=0)
    parser.add_argument("--version", action="version", version=f"iobuf_nb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_scan(commands)
    _add_copy(commands)
    _add_shared(commands)
    _add_warm(commands)
    _add_doctor(commands)
    options = parser.parse_args(arguments)
    if INTERPRETED and options.run is not _doctor:
        return _fail(2, f"{options.command} needs compiled kernels: unset NUMBA_DISABLE_JIT")
    try:
        return _print(options.run(options)) or options.status
    except (OSError, RuntimeError) as error:  # a thread that cannot be started is a RuntimeError
        filename, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        path = options.path[0] if isinstance(options.path, list) and options.path else options.path
        name = (path or options.command) if filename is None else (filename or "''")
        return _fail(1, f"{name}: {reason or error}")
    except (TypeError, ValueError, MemoryError, ImportError) as error:  # an extra is missing
        return _fail(2, str(error))
    except KeyboardInterrupt:
        return _fail(_command.STATUS, "interrupted")
    finally:
        _command.ignore()


def _add_scan(commands: Any) -> None:
    command = commands.add_parser(
        "scan",
        help="count the bytes, lines and byte values of a file through a pool",
        description="Count the bytes, lines and byte values of files, all together. Without a path, make a temporary "
        "file of 256 MiB, scan it and remove it.",
    )
    command.add_argument("path", nargs="*", help="a file, or a pattern such as 'logs/*.gz'; - reads standard input")
    command.add_argument("--decompress", action="store_true", help="count what compressed files hold (gzip, zstd ...)")
    command.add_argument(
        "--cluster", metavar="ADDRESS", help="let the workers of a Dask cluster count; of its scheduler"
    )
    command.add_argument(
        "--workers", type=int, help="worker threads (default: one per processor, or task of a cluster)"
    )
    command.add_argument("--buffers", type=int, help="buffers in the pool (default: one per worker)")
    command.add_argument(
        "--tier",
        type=str.upper,
        choices=[tier.name for tier in Tier],
        default="GIANT",
        help="size of a buffer (default: GIANT, 256 KiB)",
    )
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(run=_scan)


def _scan(options: argparse.Namespace) -> str:
    scanner = _scanner(options)
    with _sources(options.path) as (names, sources):
        result = scanner(
            sources,
            workers=options.workers,
            buffers=options.buffers,
            tier=Tier[options.tier],
            decompress="auto" if options.decompress else None,
            progress=_show_progress(),
        )
    names = [_readable(name) for name in names]
    return json.dumps(_as_json(names, result)) if options.json else _as_text(names, result)


def _scanner(options: argparse.Namespace) -> Callable[..., ScanResult]:
    """Return what scans: in this process, or on a cluster."""
    if options.cluster is None:
        return scan
    if not options.path or "-" in options.path:
        raise ValueError("--cluster needs files that workers can open: give their paths, not - for standard input")
    from ._dask.scan import scan_on  # an extra, and slow to import

    return functools.partial(scan_on, options.cluster)


def _add_copy(commands: Any) -> None:
    command = commands.add_parser(
        "copy",
        help="copy a file through a pool",
        description="Copy a regular file with its permissions. The destination is replaced at the end, when the copy "
        "is on the disk; after a failure it is unchanged.",
    )
    command.add_argument("path", metavar="src", help="the file to copy (standard input, -, is refused)")
    command.add_argument("dst", help="a file, or a directory to copy into (standard output, -, is refused)")
    command.add_argument("--direct", action="store_true", help="bypass the page cache (O_DIRECT)")
    command.add_argument("--verify", action="store_true", help="read the copy back and compare hashes")
    command.add_argument("--no-sync", action="store_true", help="do not wait until the copy is on the disk")
    command.add_argument("--workers", type=int, help="worker threads (default: one per processor)")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(run=_copy)


def _copy(options: argparse.Namespace) -> str:
    for name, value in ("src", options.path), ("dst", options.dst):
        if value == "-":
            raise ValueError(f"{name} must be a file, not - for a standard stream; a file of that name is ./-")
    result = copy(
        options.path,
        options.dst,
        direct=options.direct,
        verify=options.verify,
        sync=not options.no_sync,
        workers=options.workers,
        progress=_show_progress(),
    )
    if options.json:
        facts = ("bytes", "seconds", "compile_seconds", "gb_per_s")
        names = {"source": _readable(options.path), "destination": _readable(options.dst)}
        return json.dumps({**names, "verified": options.verify, **{fact: getattr(result, fact) for fact in facts}})
    verified = ", verified" if options.verify else ""
    text = f"{result.bytes:,} bytes in {result.seconds:.4f} s, {result.gb_per_s:.2f} GB/s{verified}"
    if result.compile_seconds >= _WORTH_TELLING_S:
        text += f" (kernels were ready after {result.compile_seconds:.1f} s)"
    return text


def _add_shared(commands: Any) -> None:
    command = commands.add_parser(
        "shared",
        help="list the named pools and queues of all processes, or remove those that nobody uses",
        description="List the named shared pools, queues and channels on this machine, and the processes that use "
        "them. Those that no process uses were left behind by processes that were killed.",
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list them (the default)")
    what.add_argument("--clean", action="store_true", help="remove those that no process uses")
    command.add_argument("--json", action="store_true", help="print one line of JSON")
    command.set_defaults(run=_shared, path=None)


def _shared(options: argparse.Namespace) -> str:
    found: list[dict[str, object]] = []
    for name in segment.names():
        about: dict[str, object] = {"name": name}
        try:
            if options.clean:
                if not segment.clean(name):
                    continue
            else:
                about |= segment.describe(name)
        except FileNotFoundError:  # gone meanwhile
            continue
        except (OSError, ValueError) as error:
            about["error"] = str(error)
        found.append(about)
    if options.json:
        return json.dumps(found)
    return "\n".join(map(_as_line, found)) or f"There is nothing to {'remove' if options.clean else 'list'}."


def _as_line(about: dict[str, Any]) -> str:
    if "error" in about:
        return f"{about['name']}: {about['error']}"
    if "kind" not in about:
        return f"{about['name']}: removed"
    users = ", ".join(map(str, about["processes"])) or "nobody"
    return f"{about['name']}: {about['kind']} of {about['capacity']}, {about['bytes']:,} bytes, used by {users}"


def _add_warm(commands: Any) -> None:
    command = commands.add_parser(
        "warm",
        help="compile what programs will need",
        description="Compile what programs will need of this library into the cache of compiled code, as for the image "
        "of a container. To choose the folder, set the environment variable NUMBA_CACHE_DIR.",
    )
    command.set_defaults(run=_warm, path=None)


def _warm(options: argparse.Namespace) -> str:
    from ._warm import STEPS, warm  # not needed by the other commands

    lines: list[str] = []
    with ExitStack() as stack:
        progress = _show_progress()
        if progress:
            stack.enter_context(notice.silence())
        show = stack.enter_context(reporter(progress, "warm", unit=" steps"))
        show(0, len(STEPS))

        def report(step: str, kernels: int, seconds: float) -> None:
            lines.append(f"{step:12} {kernels:4} compiled in {seconds:.1f} s")
            show(len(lines), len(STEPS))

        folder = warm(report)
    return "\n".join([*lines, f"All of it is cached under {folder}"])


def _add_doctor(commands: Any) -> None:
    command = commands.add_parser(
        "doctor",
        help="find out what works on this machine, and what to do about the rest",
        description="Find out what works on this machine, and what to do about the rest, and try pools, queues and a "
        "stream for a moment. The exit status is 1 if there are problems; notes are what could be better.",
    )
    command.add_argument("--json", action="store_true", help="print the findings as one line of JSON")
    command.set_defaults(run=_doctor, path=None)


def _doctor(options: argparse.Namespace) -> str:
    from ._doctor import examination  # not needed by the other commands

    findings = examination.examine()
    options.status = int(examination.worst(findings) == "problem")
    if options.json:
        return examination.as_json(__version__, findings)
    coloured = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return examination.as_text(__version__, findings, coloured)


def _print(text: str) -> int:
    if sys.stdout is None:
        return _fail(1, "standard output: closed")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        # Keep Python from failing once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # When the reader closes the pipe early, as `head` does, that is no error to report.
        return 1 if isinstance(error, BrokenPipeError) else _fail(1, f"standard output: {error.strerror}")
    return 0


def _fail(status: int, message: str) -> int:
    if sys.stderr is not None:  # with None, print would write to standard output
        with suppress(OSError):  # the other end of the pipe is closed
            print(f"python -m iobuf_nb: {_readable(message)}", file=sys.stderr, flush=True)
    return status


def _readable(text: str) -> str:
    """Return a text with escapes for the bytes in file names that cannot be decoded."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


@contextmanager
def _sources(paths: list[str]) -> Iterator[tuple[list[str], list[str | int]]]:
    """Yield the names of what to scan, and the sources; a sample file is removed afterwards."""
    if "-" in paths and sys.stdin is None:
        raise OSError("standard input is closed")
    if paths:
        names = ["standard input" if path == "-" else path for path in paths]
        try:
            yield names, [sys.stdin.fileno() if path == "-" else path for path in paths]
        except OSError as error:
            if "-" in paths and error.filename not in paths and error.filename == str(sys.stdin.fileno()):
                error.filename = "standard input"
            raise
    else:
        with _sample() as name:
            yield [name], [name]


@contextmanager
def _sample() -> Iterator[str]:
    """Yield the path of a file of random bytes, which is removed afterwards."""
    # TMPDIR itself, or an error: tempfile falls back to other folders if it cannot write there.
    folder = tempfile.tempdir or os.environ.get("TMPDIR") or tempfile.gettempdir()
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="iobuf_nb-", dir=folder, buffering=0))
            _command.temporaries.add((file.name, None))
            generator = np.random.default_rng()
            for _ in range(_SAMPLE_BYTES >> 24):
                rest = memoryview(generator.bytes(1 << 24))
                while rest:
                    rest = rest[write_full(file, rest) :]
        except OSError as error:
            reason = f"{error.strerror}, for a file of {_SAMPLE_BYTES >> 20} MiB; set TMPDIR to use another folder"
            raise OSError(error.errno, reason, folder) from None
        yield file.name


def _show_progress() -> bool:
    """Return whether to draw a progress bar: on a terminal, if tqdm is installed."""
    return sys.stderr is not None and sys.stderr.isatty() and find_spec("tqdm") is not None


def _as_json(names: list[str], result: ScanResult) -> dict[str, object]:
    return {
        "source": names[0] if len(names) == 1 else names,
        "bytes": result.bytes,
        "lines": result.lines,
        "entropy": result.entropy,
        "seconds": result.seconds,
        "compile_seconds": result.compile_seconds,
        "gb_per_s": result.gb_per_s,
        "histogram": result.histogram.tolist(),
    }


def _as_text(names: list[str], result: ScanResult) -> str:
    top = np.argsort(-result.histogram, kind="stable")[:8]
    common = "  ".join(f"{bytes([value])!r:.8} {result.histogram[value]:,}" for value in top if result.histogram[value])
    rows = {
        "source": ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        "bytes": f"{result.bytes:,}",
        "lines": f"{result.lines:,}",
        "entropy": f"{result.entropy:.6f} bits per byte",
        "common": common or "nothing",
        "seconds": f"{result.seconds:.4f}",
        "speed": f"{result.gb_per_s:.2f} GB/s",
    }
    if result.compile_seconds >= _WORTH_TELLING_S:
        rows["kernels"] = f"ready after {result.compile_seconds:.1f} s"
    return "\n".join(f"{label:8} {value}" for label, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
