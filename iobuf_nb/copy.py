"""Copy: a file to another through a pool, written by the workers of a `stream`.

The copy grows under a name of its own beside its destination and takes the destination's name when it is whole, safe on
the disk and, if that was asked for, read back: a failure leaves the destination as it was.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._jit import kernel
from .stream import ALIGNMENT, DIRECT_BYTES, StreamError, Throughput, open_file, stream
from .syscalls import pwrite_full
from .tier import Tier

__all__ = ["CopyResult", "copy"]

_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class CopyResult(Throughput):
    """What `copy` did."""

    bytes: int  #: bytes copied
    seconds: float  #: all of it, to the last fsync, and verified if that was asked for


@kernel
def _write(buffer, n, offset, state):
    """Write a block where it belongs, and its hash into the table."""
    fd, direct_fd, hashes = state
    if n % ALIGNMENT == 0:
        fd = direct_fd
    done = pwrite_full(fd, buffer, offset)
    if 0 <= done < n:
        done = pwrite_full(fd, buffer[done:], offset + done)  # says why the first came short
    if done < 0:
        raise OSError(-done, "write")
    _note_hash(buffer, n, offset, hashes)


@kernel
def _note_hash(buffer, n, offset, hashes):
    """Write the hash of a block into the table, if there is one: its first word is the size of a block.

    Every step is one-to-one in the word it takes in, so no change of a single word goes unseen.
    """
    if len(hashes) == 1:
        return
    words = buffer[: n // 32 * 32].view(np.uint64)
    a = b = c = d = np.uint64(n)
    for i in range(0, len(words), 4):  # four chains, because a multiplication waits for the one before it
        a = (a ^ words[i]) * _PRIME
        b = (b ^ words[i + 1]) * _PRIME
        c = (c ^ words[i + 2]) * _PRIME
        d = (d ^ words[i + 3]) * _PRIME
    for i in range(n // 32 * 32, n):
        a = (a ^ np.uint64(buffer[i])) * _PRIME
    hashes[1 + offset // np.int64(hashes[0])] = ((a * _PRIME + b) * _PRIME + c) * _PRIME + d


def copy(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    direct: bool = False,
    verify: bool = False,
    sync: bool = True,
    workers: int | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
) -> CopyResult:
    """Copy a regular file, with its permissions.

    Parameters
    ----------
    src : path
        A regular file.
    dst : path
        A file, which is replaced at the end, or a directory, in which the copy gets the name of `src`.
    direct : bool
        Read and write past the page cache (open(2), O_DIRECT).
    verify : bool
        Read the copy again and compare a 64-bit hash of each block; from the disk with `direct`, else from where the
        system has it, mostly the page cache.
    sync : bool
        Do not return before the copy is on the disk (fsync(2)).
    workers, progress
        As in `stream`.

    Returns
    -------
    CopyResult

    Raises
    ------
    OSError
        A file cannot be opened, read or written, or `src` changed meanwhile; both are the same file; the copy, read
        again, is not what was written.
    TypeError, ValueError
        An argument is out of its range; `src` or `dst` is no regular file.
    MemoryError, RuntimeError
        The system cannot give the buffers, or the threads.

    Whatever is raised, `dst` is as it was; only Ctrl-C at the very end may find the whole copy in its place. If the
    process is killed, `dst` is as it was, too, and a part of the copy, ``.iobuf_nb-*``, is left beside it.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_bytes(bytes(1000))
    >>> copy(folder / "a", folder / "b", verify=True).bytes
    1000
    >>> (folder / "b").read_bytes() == bytes(1000)
    True
    """
    start = time.perf_counter()
    src, dst = _check.path("src", src), os.path.realpath(_check.path("dst", dst))
    if os.path.isdir(dst):
        dst = os.path.join(dst, os.path.basename(src))
    if os.path.exists(dst) and not os.path.isfile(dst):
        raise ValueError(f"dst must be a regular file, a new one or a directory, not {dst}")
    status = os.stat(src)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), src)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"src must be a regular file, not {src}")
    if os.path.exists(dst) and os.path.samefile(src, dst):
        raise shutil.SameFileError(f"src and dst are the same file: {src}")
    if not os.path.isdir(os.path.dirname(dst)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), dst)
    fd, path = tempfile.mkstemp(prefix=".iobuf_nb-", dir=os.path.dirname(dst))
    try:
        block = DIRECT_BYTES if direct else Tier.GIANT
        hashes = np.zeros(1 + (-(-status.st_size // block) if verify else 0), np.uint64)
        hashes[0] = block
        options: dict[str, Any] = {"workers": workers, "direct": direct, "tier": block, "progress": progress}
        done = _fill(fd, path, src, dst, hashes, options)
        os.fchmod(fd, stat.S_IMODE(status.st_mode))
        with ThreadPoolExecutor(1) as background:
            synced = background.submit(os.fsync, fd) if sync else None
            if synced and direct:
                synced.result()
            if verify:
                _verify(path, dst, hashes, options)  # at the same time, if it is not the disk that it reads
            if synced:
                synced.result()
        os.replace(path, dst)
    except BaseException:
        with suppress(FileNotFoundError):  # Ctrl-C may come when it has just got its name
            os.unlink(path)
        raise
    finally:
        os.close(fd)
    if sync:
        _sync_directory(os.path.dirname(dst))
    return CopyResult(done, time.perf_counter() - start)


def _fill(fd: int, path: str, src: str, dst: str, hashes: NDArray[np.uint64], options: dict[str, Any]) -> int:
    """Write what `src` holds to the file at `path`, open as `fd`, and the hashes of its blocks; return the bytes."""
    direct_fd = open_file(path, os.O_WRONLY, True) if options["direct"] else fd
    try:
        return stream(src, _write, state=lambda: (fd, direct_fd, hashes), **options).bytes
    except StreamError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        code = error.__cause__.args[0]
        raise OSError(code, f"{os.strerror(code)} at offset {error.offset}", dst) from None
    finally:
        if direct_fd != fd:
            os.close(direct_fd)


def _verify(path: str, dst: str, hashes: NDArray[np.uint64], options: dict[str, Any]) -> None:
    again = np.zeros_like(hashes)
    again[0] = hashes[0]
    stream(path, _note_hash, state=lambda: again, **options)
    wrong = np.flatnonzero(again != hashes)
    if len(wrong):
        offset = (int(wrong[0]) - 1) * int(hashes[0])
        raise OSError(errno.EIO, f"The copy, read again, is not what was written, at offset {offset}", dst)


def _sync_directory(path: str) -> None:
    """Make a file's new name as safe as its contents."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
