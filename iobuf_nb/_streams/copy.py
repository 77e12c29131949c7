"""Copy: one file to another, piece by piece, by threads that each use one buffer of a pool.

The copy is written under a temporary name beside its destination. It takes the destination's name once it is complete,
synced to disk and, if requested, verified, and its source is unchanged: a failure leaves the destination as it was. All
pieces are planned before the first is read, so a change of the source cannot lead the copy astray.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _command
from .._free.queue import LINE_PAIR
from .._jit import check
from .._jit.compile import compile_for, kernel
from .._memory.tier import Tier
from .._pools.pool import BufferPool
from ..atomics import fetch_add, load, store
from ..syscalls import PREAD, PWRITE, READ, call_full, read_full
from .crew import Crew, require_threads
from .progress import Stopwatch, Throughput, processors, reporter
from .remote import is_url
from .sinks import TEMPORARY
from .source import open_file
from .units import ALIGNMENT, LARGE_PIECE

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_PAGE = 4096  # the smallest hole that is preserved
_TICK_S = 0.01  # longest granularity of file timestamps on Linux's disk file systems

# Words shared by the workers, two cache lines apart.
_NEXT = 0 * LINE_PAIR  # pieces claimed
_DONE = 1 * LINE_PAIR  # bytes moved
_STOP = 2 * LINE_PAIR  # 1: workers are to end
_WORDS = 3 * LINE_PAIR
_SHORT = 1  # how a worker ends, beside 0 and -errno: the file no longer has this piece


@dataclass(frozen=True)
class CopyResult(Throughput):
    """The result of `copy`."""

    bytes: int  #: bytes copied, holes included
    #: From the first read to the end, including verification and the last fsync, without `compile_seconds`.
    seconds: float
    compile_seconds: float  #: spent before reading to compile kernels, or to load them from the cache


class _Plan(NamedTuple):
    """The workers' input, fixed before they start."""

    source: int  # the descriptor to read
    target: int  # the one to write; -1: read only
    size: int
    step: int  # bytes of a piece
    align: int  # offsets and lengths of reads and writes are multiples of it
    sparse: int  # 1: pages of zeros are not written


@kernel
def _work_on_pieces(plan, runs, words, hashes, buffer):
    """Copy pieces, or only read them, until none is left: status, file offset, and 1 if it was writing.

    A row of `runs` is the number of pieces up to the end of a run, and what to add to the number of a piece in it to
    get its position in the file, in pieces.
    """
    run = 0
    while not load(words, _STOP, "relaxed"):
        number = fetch_add(words, _NEXT, 1, "relaxed")
        while run < len(runs) and number >= runs[run, 0]:
            run += 1
        if run == len(runs):
            break
        offset = (number + runs[run, 1]) * plan.step
        n = min(plan.step, plan.size - offset)
        length = -(-n // plan.align) * plan.align
        done = _move(PREAD, plan.source, buffer.ctypes.data, n, length, offset)
        if done < n:
            return done if done < 0 else _SHORT, offset, 0
        if plan.target >= 0:
            status = _write(plan.target, buffer[:length], offset, plan.sparse)
            if status:
                return status, offset, 1
        _note_hash(buffer, n, offset, hashes)
        fetch_add(words, _DONE, n, "relaxed")
    return 0, 0, 0


@kernel
def _move(operation, fd, address, need, length, offset):
    """Read or write `length` bytes, at least `need` of them; return how many, or the -errno that cut it short."""
    done = call_full(operation, fd, address, length, offset)
    if 0 <= done < need:
        more = call_full(operation, fd, address + done, length - done, offset + done)
        return more if more < 0 else done + more
    return done


@kernel
def _write(fd, buffer, offset, sparse):
    """Write a piece, except pages of zeros in a sparse file; 0 or -errno."""
    start = 0
    while start < len(buffer):
        end = start
        while end < len(buffer) and not (sparse and _is_zero(buffer[end : end + _PAGE])):
            end += _PAGE
        n = min(end, len(buffer)) - start
        if n > 0:
            done = _move(PWRITE, fd, buffer.ctypes.data + start, n, n, offset + start)
            if done < n:
                return done if done < 0 else -errno.EIO
        start = end + _PAGE
    return 0


@kernel
def _is_zero(page):
    found = np.uint8(0)
    for byte in page:  # faster without an early exit
        found |= byte
    return found == 0


@kernel
def _note_hash(buffer, n, offset, hashes):
    """Store the hash of a piece in the table `hashes`, if it has rows; its first word is the piece size.

    Each step is a bijection of the word it takes in, so a change of any single word changes the hash. The hash of
    zeros is 0, which is also the entry of a hole that is not read.
    """
    if len(hashes) == 1:
        return
    words = buffer[: n // 32 * 32].view(np.uint64)
    a = b = c = d = np.uint64(0)
    for i in range(0, len(words), 4):  # four independent chains hide the latency of the multiplication
        a = (a ^ words[i]) * _PRIME
        b = (b ^ words[i + 1]) * _PRIME
        c = (c ^ words[i + 2]) * _PRIME
        d = (d ^ words[i + 3]) * _PRIME
    for i in range(n // 32 * 32, n):
        a = (a ^ np.uint64(buffer[i])) * _PRIME
    hashes[1 + offset // np.int64(hashes[0])] = ((a * _PRIME + b) * _PRIME + c) * _PRIME + d


def copy(
    src: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    dst: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    direct: bool = False,
    verify: bool = False,
    sync: bool = True,
    workers: int | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
) -> CopyResult:
    """Copy a regular file, with its permissions and its holes.

    Parameters
    ----------
    src : path
        A regular file, no URL. It must not change until this returns.
    dst : path
        A file, which is replaced at the end, or a directory, in which the copy gets the name of `src`. A symbolic link
        is followed, also to a file that does not exist yet.
    direct : bool
        Bypass the page cache (open(2), O_DIRECT).
    verify : bool
        Read the copy back and compare a 64-bit hash of each piece with that of the data written; from disk with
        `direct`, otherwise usually from the page cache.
    sync : bool
        Return only once the copy is on disk (fsync(2)).
    workers, progress
        As in `stream`; progress restarts at 0 for the verification.

    Returns
    -------
    CopyResult

    Raises
    ------
    OSError
        A file cannot be opened, read, written or replaced; the error names it. `src` changed during the copy; `src` and
        `dst` are the same file; the verification failed.
    TypeError, ValueError
        An argument has the wrong type or is out of range; `src` or `dst` is not a regular file.
    MemoryError, RuntimeError
        The system cannot provide the buffers or the threads; Python is shutting down.
    ImportError
        The package for the progress bar is missing.

    Notes
    -----
    If an error is raised, `dst` is unchanged; only Ctrl-C at the very end may leave the complete copy in its place. If
    the process is killed, `dst` is unchanged too, and a partial copy, ``.iobuf_nb-*``, is left beside it.

    `src` counts as changed if its size, its modification or change time, or the file that its path leads to differs
    between start and end. This misses only changes that leave no such trace: stores into a mapping of the file whose
    pages were dirty before, and, on file systems with timestamps coarser than 10 ms (FAT, some network file systems), a
    change within the same tick as the previous one. A file that does not report its size, as in ``/proc``, is read
    sequentially, by one thread.

    Unlike ``cp`` and `shutil.copy`, it never writes into an existing file: a new file takes its name. So it needs a
    directory in which files can be created, replaces read-only files, leaves other hard links to the old file as they
    are, and fails with EBUSY if something is mounted on `dst`. The copy belongs to the user who makes it and has all
    permissions of `src`, whatever the umask; the set-user-ID, set-group-ID and sticky bits only if its owner and group
    are those of `src`. Access control lists and extended attributes are not copied. If a directory cannot be opened for
    reading, its new entry is synced together with all file systems (sync(2)).

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
    require_threads()
    src, dst = check.path("src", src), check.path("dst", dst)
    if is_url(src):
        raise ValueError(f"src must be a path, because only files can be copied, not the URL {src!r:.60}")
    count = check.integer("workers", processors() if workers is None else workers, 1, 1024)
    watch = Stopwatch()
    with ExitStack() as stack:
        report = stack.enter_context(reporter(progress, "copy"))
        _require_regular(src, os.stat(src))  # before opening it, which may block or have effects on a device
        source = open_file(src, os.O_RDONLY, direct)
        stack.callback(os.close, source)
        before = os.fstat(source)
        _require_regular(src, before)
        dst, path = _resolve(dst, src, before)
        folder_path, name = os.path.split(path)
        with _naming(dst):
            folder = _open_folder(folder_path or os.curdir)
        stack.callback(os.close, folder)
        with watch.compiling():
            pool = stack.enter_context(BufferPool(count, LARGE_PIECE if direct else Tier.GIANT))
            with pool.lease():  # compiled now, not in the workers
                pass
        team = _Team(pool, direct, report, watch)
        files = stack.enter_context(ExitStack())
        temporary = f"{TEMPORARY}{os.urandom(8).hex()}"
        _command.temporaries.add((temporary, folder))
        try:
            with _naming(dst):
                fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
                files.callback(os.close, fd)
                through = open_file(temporary, os.O_RDWR, direct, dir_fd=folder)
                files.callback(os.close, through)
            _wait_a_tick(before)
            size, hashes = team.fill(source, through, before.st_size, src, dst, verify)
            with _naming(dst):
                os.fchmod(fd, _mode(before, os.fstat(fd)))
                if sync and not (verify and not direct):
                    os.fsync(fd)
            if verify:  # concurrently with the fsync, unless it reads from disk
                team.verify(through, size, hashes, dst, sync and not direct)
            with _naming(dst):
                files.close()  # which may report failed writes
            if not _is_still(before, source, src):
                raise _changed(src)
            with _naming(dst):
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):  # Ctrl-C may come before it is created or after it is renamed
                os.unlink(temporary, dir_fd=folder)
            raise
        finally:
            _command.temporaries.discard((temporary, folder))
        if sync:
            _sync_name(folder)
        watch.stop()
    return CopyResult(size, watch.seconds, watch.compile_seconds)


class _Team:
    """Threads that copy the pieces of a file, or read them back, each with a buffer of a pool."""

    def __init__(
        self, pool: BufferPool, direct: bool, report: Callable[[int, int | None], None], watch: Stopwatch
    ) -> None:
        self._pool = pool
        self._align = ALIGNMENT if direct else 1
        self._report = report
        self._watch = watch

    def fill(
        self, source: int, target: int, size: int, src: str, dst: str, verify: bool
    ) -> tuple[int, NDArray[np.uint64]]:
        """Write the source to the target; return its size, and, to verify, the hashes of its pieces."""
        step = self._pool.buffer_size
        with _naming(src):
            known = size > 0 and self._has_its_size(source, size)
        if known:
            hashes = np.zeros(1 + (-(-size // step) if verify else 0), np.uint64)
            hashes[0] = step
            self._run(source, target, size, hashes, src, dst)
        else:
            size, hashes = self._fill_in_turn(source, target, src, dst)
        with _naming(dst):
            os.ftruncate(target, size)  # it may end in a hole; direct I/O wrote whole blocks
        return size, hashes

    def verify(self, fd: int, size: int, hashes: NDArray[np.uint64], dst: str, sync: bool) -> None:
        """Raise OSError if a file does not hold what was written; sync it concurrently if `sync`."""
        again = np.zeros_like(hashes)
        again[0] = hashes[0]

        def sync_file() -> None:
            with _naming(dst):
                os.fsync(fd)

        self._run(fd, -1, size, again, dst, dst, sync_file if sync else None)
        wrong = np.flatnonzero(again != hashes)
        if len(wrong) or os.fstat(fd).st_size != size:
            offset = (int(wrong[0]) - 1) * int(hashes[0]) if len(wrong) else size
            raise OSError(errno.EIO, f"Verification failed: the copy differs at offset {offset}", dst)

    def _has_its_size(self, fd: int, size: int) -> bool:
        """Return whether there is a last byte: virtual file systems may report a size that means nothing."""
        offset = (size - 1) // self._align * self._align
        with self._pool.lease() as buffer:
            return os.preadv(fd, [buffer[: self._align].data], offset) >= size - offset

    def _fill_in_turn(self, source: int, target: int, src: str, dst: str) -> tuple[int, NDArray[np.uint64]]:
        """Copy a file that does not report its size; return the size and the hashes of its pieces."""
        step, size = self._pool.buffer_size, 0
        one = np.array([step, 0], np.uint64)
        hashes = [one[0]]
        with self._pool.lease() as buffer:
            with self._watch.compiling():
                compile_for(call_full, READ, source, 0, 0, 0)
                compile_for(_write, target, buffer, 0, 0)
                compile_for(_note_hash, buffer, 0, 0, one)
            self._watch.start()
            while True:
                with _naming(src):
                    n = read_full(source, buffer)
                if n == 0:
                    break
                if size % step:
                    raise _changed(src)  # it grew after it had ended
                status = _write(target, buffer[: -(-n // self._align) * self._align], size, 0)
                if status:
                    raise OSError(-status, os.strerror(-status), dst)
                _note_hash(buffer, n, 0, one)
                hashes.append(one[1])
                size += n
                self._report(size, None)
        self._report(size, size)
        return size, np.array(hashes, np.uint64)

    def _run(
        self,
        source: int,
        target: int,
        size: int,
        hashes: NDArray[np.uint64],
        src: str,
        dst: str,
        first: Callable[[], None] | None = None,
    ) -> None:
        """Run the workers over a file; meanwhile call `first` in this thread."""
        runs, sparse = _find_data(source, size, self._pool.buffer_size)
        plan = _Plan(source, target, size, self._pool.buffer_size, self._align, int(sparse))
        words = np.zeros(_WORDS, np.int64)
        pieces = int(runs[-1, 0]) if len(runs) else 0
        holes = max(0, size - pieces * plan.step)

        def work(_: int) -> None:
            with self._pool.lease() as buffer:
                status, offset, writing = _work_on_pieces(plan, runs, words, hashes, buffer)
            name = dst if writing else src
            if status == _SHORT:
                raise _changed(name)
            if status:
                raise OSError(-status, f"{os.strerror(-status)} at offset {offset}", name)

        def report() -> None:
            self._report(min(size, holes + int(words[_DONE])), size)

        with self._watch.compiling(), self._pool.lease() as buffer:  # compiled now, not while handling Ctrl-C
            compile_for(_work_on_pieces, plan, runs, words, hashes, buffer)
            store(words, _STOP, 0, "relaxed")
            crew = Crew(lambda: store(words, _STOP, 1, "relaxed"))
        threads = range(min(self._pool.capacity, pieces))
        self._watch.start()  # not with a worker's first read: a file that is one hole has none
        crew.run(work, threads, report, first)
        self._report(size, size)


def _find_data(fd: int, size: int, step: int) -> tuple[NDArray[np.int64], bool]:
    """Return the runs of pieces that hold data, as `_work_on_pieces` takes them, and whether the file has holes."""
    rows: list[tuple[int, int]] = []
    pieces = end = position = 0
    sparse = False
    while position < size:
        data = _seek(fd, position, os.SEEK_DATA, size)
        hole = _seek(fd, data, os.SEEK_HOLE, size)
        sparse |= data > position or hole < size
        first, position = max(data // step, end), hole
        end = max(-(-hole // step), end) if hole > data else end
        if end > first:
            if rows and rows[-1][1] == first - pieces:
                rows.pop()
            rows.append((pieces + end - first, first - pieces))
            pieces += end - first
    return np.array(rows, np.int64).reshape(-1, 2), sparse


def _seek(fd: int, offset: int, whence: int, size: int) -> int:
    """Return the offset of the next data or hole; every file ends with a hole."""
    try:
        return min(os.lseek(fd, offset, whence), size)
    except OSError as error:
        return offset if whence == os.SEEK_DATA and error.errno != errno.ENXIO else size


def _require_regular(src: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), src)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"src must be a regular file, not {src}")


def _resolve(dst: str, src: str, source: os.stat_result) -> tuple[str, str]:
    """Return the destination, inside the directory if it is one, and its path with final symbolic links resolved."""
    status = _status(dst)
    if status and stat.S_ISDIR(status.st_mode):
        dst = os.path.join(dst, os.path.basename(src))
        status = _status(dst)
    if status and stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), dst)
    if status and not stat.S_ISREG(status.st_mode):
        raise ValueError(f"dst must be a regular file, a new one or a directory, not {dst}")
    if status and os.path.samestat(source, status):
        raise shutil.SameFileError(f"src and dst are the same file: {src}")
    path = dst
    while os.path.islink(path):
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    there = _status(path)
    lost = status and not (there and os.path.samestat(status, there))  # links in /proc may lead to deleted files
    if lost or os.path.basename(path) in ("", os.curdir, os.pardir):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), dst)
    return dst, path


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _open_folder(path: str) -> int:
    """Open a directory, so that files in it can be created, renamed and synced even if its path changes."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return os.open(path, flags)
    except PermissionError:  # a directory may be writable but not readable
        return os.open(path, flags | getattr(os, "O_PATH", 0))


def _mode(source: os.stat_result, copy: os.stat_result) -> int:
    """Return the permissions of a copy; set-ID bits must not carry over to another owner or group."""
    same = (source.st_uid, source.st_gid) == (copy.st_uid, copy.st_gid)
    return source.st_mode & (0o7777 if same else 0o777)


def _wait_a_tick(status: os.stat_result) -> None:
    """Wait until a change of the file would get a later change time than it has now."""
    age = time.time() - status.st_ctime
    if 0 <= age < _TICK_S:
        time.sleep(_TICK_S - age)


def _is_still(before: os.stat_result, fd: int, path: str) -> bool:
    """Return whether an open file, and the file that its path leads to, is unchanged."""
    path_status = _status(path)
    return path_status is not None and _version(before) == _version(os.fstat(fd)) == _version(path_status)


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _changed(path: str) -> OSError:
    return OSError(errno.EIO, "Changed while it was copied", path)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Make the system's errors name a path that the caller knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _sync_name(folder: int) -> None:
    """Make a file's new name durable. Errors are ignored: the file has its name already."""
    try:
        os.fsync(folder)
    except OSError:  # not readable, or not supported by the file system
        os.sync()
