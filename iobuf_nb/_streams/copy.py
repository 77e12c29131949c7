"""Copy: a file to another, piece by piece, by threads that each have one buffer of a pool.

The copy grows under a name of its own beside its destination and takes the destination's name when it is whole, safe on
the disk and, if that was asked for, read back, and its source is still what it was: a failure leaves the destination as
it was. All pieces are planned before the first is read, so nothing that happens to the source leads anywhere else.
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

from .. import _interrupt
from .._free.queue import LINE_PAIR
from .._jit import check
from .._jit.compile import compile_for, kernel
from .._memory.tier import Tier
from .._pools.pool import BufferPool
from ..atomics import fetch_add, load, store
from ..syscalls import PREAD, PWRITE, call_full, read_full
from .crew import Crew, require_threads
from .progress import Throughput, processors, reporter
from .source import open_file
from .stream import ALIGNMENT, DIRECT_BYTES

_PRIME = np.uint64(0x9E3779B97F4A7C15)
_PAGE = 4096  # the smallest hole that is kept
_TICK_S = 0.01  # the clock that stamps files stands still for this long at most, on a disk of Linux

# Words that the workers share, two cache lines apart.
_NEXT = 0 * LINE_PAIR  # pieces claimed
_DONE = 1 * LINE_PAIR  # bytes moved
_STOP = 2 * LINE_PAIR  # 1: go home
_WORDS = 3 * LINE_PAIR
_SHORT = 1  # how a worker ends, beside 0 and -errno: the file has no such piece any more


@dataclass(frozen=True)
class CopyResult(Throughput):
    """What `copy` did."""

    bytes: int  #: bytes copied, holes included
    seconds: float  #: all of it, to the last fsync, and verified if that was asked for


class _Plan(NamedTuple):
    """What the workers do; all of it is fixed before they start."""

    source: int  # the descriptor to read
    target: int  # the one to write; -1: none
    size: int
    step: int  # bytes of a piece
    align: int  # offsets and lengths of reads and writes are multiples of it
    sparse: int  # 1: pages of zeros are not written


@kernel
def _work_on_pieces(plan, runs, words, hashes, buffer):
    """Copy pieces, or only read them, until there are no more: how it ended, at which offset, 1 if it was writing.

    A row of `runs` is how many pieces there are up to the end of a run of them, and what to add to the number of one
    to get its place in the file.
    """
    run = 0
    while not load(words, _STOP):
        number = fetch_add(words, _NEXT, 1)
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
        fetch_add(words, _DONE, n)
    return 0, 0, 0


@kernel
def _move(operation, fd, address, need, length, offset):
    """Read or write `length` bytes, of which `need` must be there: how many, or the -errno of what cut it short."""
    done = call_full(operation, fd, address, length, offset)
    if 0 <= done < need:
        more = call_full(operation, fd, address + done, length - done, offset + done)
        return more if more < 0 else done + more
    return done


@kernel
def _write(fd, buffer, offset, sparse):
    """Write a piece, but for its pages of zeros where holes stand for them: 0 or -errno."""
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
    for byte in page:  # all of them, which is quicker than to look at each whether to stop
        found |= byte
    return found == 0


@kernel
def _note_hash(buffer, n, offset, hashes):
    """Write the hash of a piece into the table, if there is one: its first word is the size of a piece.

    Every step is one-to-one in the word it takes in, so no change of a single word goes unseen. The hash of zeros is
    0, as it is in the table for a hole, which nobody reads.
    """
    if len(hashes) == 1:
        return
    words = buffer[: n // 32 * 32].view(np.uint64)
    a = b = c = d = np.uint64(0)
    for i in range(0, len(words), 4):  # four chains, because a multiplication waits for the one before it
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
        A regular file. It must stay as it is until this returns.
    dst : path
        A file, which is replaced at the end, or a directory, in which the copy gets the name of `src`. Where it is a
        symbolic link, the file that the link leads to is meant, a new one too.
    direct : bool
        Read and write past the page cache (open(2), O_DIRECT).
    verify : bool
        Read the copy again and compare a 64-bit hash of each piece with what was written; from the disk with `direct`,
        else from where the system has it, mostly the page cache.
    sync : bool
        Do not return before the copy is on the disk (fsync(2)).
    workers, progress
        As in `stream`; what is verified counts a second time from 0.

    Returns
    -------
    CopyResult

    Raises
    ------
    OSError
        A file cannot be opened, read, written or replaced, and which; `src` changed meanwhile; both are the same file;
        the copy, read again, is not what was written.
    TypeError, ValueError
        An argument is out of its range; `src` or `dst` is no regular file.
    MemoryError, RuntimeError
        The system cannot give the buffers, or the threads, as Python does not when it is shutting down.

    Whatever is raised, `dst` is as it was; only Ctrl-C at the very end may find the whole copy in its place. If the
    process is killed, or ends meanwhile, `dst` is as it was, too, and a part of the copy, ``.iobuf_nb-*``, is left
    beside it.

    Notes
    -----
    `src` has changed if its size, its time of modification or of change, or the file that its path leads to is not at
    the end what it was at first. That misses only what leaves no such trace: stores into a mapping of the file that its
    pages were dirty from before, and, on file systems whose times are coarser than 10 ms (FAT, some on a network), a
    change within the same moment as the one before it. A file that does not know its size, as in ``/proc``, is read
    from one end to the other, by one thread.

    Unlike ``cp``, and `shutil.copy`, it never writes into a file that is there: a new one takes its name. So it needs a
    folder in which files can be made, replaces a file that is read-only, leaves other hard links to it as they are, and
    is refused (EBUSY) where something is mounted on `dst`. The copy belongs to who makes it, and has all permissions of
    `src`, whatever the umask; the set-user-ID, set-group-ID and sticky bits only if owner and group are those of `src`.
    Access control lists and extended attributes are not copied. A folder that may not be read is synced with all file
    systems (sync(2)).

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
    require_threads()
    src, dst = check.path("src", src), check.path("dst", dst)
    count = check.integer("workers", processors() if workers is None else workers, 1, 1024)
    with ExitStack() as stack:
        report = stack.enter_context(reporter(progress))
        _require_regular(src, os.stat(src))  # before it is opened, which may do something to a device, or wait
        source = open_file(src, os.O_RDONLY, direct)
        stack.callback(os.close, source)
        before = os.fstat(source)
        _require_regular(src, before)
        dst, path = _resolve(dst, src, before)
        folder_path, name = os.path.split(path)
        with _naming(dst):
            folder = _open_folder(folder_path or os.curdir)
        stack.callback(os.close, folder)
        team = _Team(stack.enter_context(BufferPool(count, DIRECT_BYTES if direct else Tier.GIANT)), direct, report)
        files = stack.enter_context(ExitStack())
        temporary = f".iobuf_nb-{os.urandom(8).hex()}"
        _interrupt.temporaries.add((temporary, folder))
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
            if verify:  # at the same time, if it is not the disk that it reads
                team.verify(through, size, hashes, dst, sync and not direct)
            with _naming(dst):
                files.close()  # which may tell of what could not be written
            if not _is_still(before, source, src):
                raise _changed(src)
            with _naming(dst):
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):  # Ctrl-C may come when it has just got its name, or not yet any
                os.unlink(temporary, dir_fd=folder)
            raise
        finally:
            _interrupt.temporaries.discard((temporary, folder))
        if sync:
            _sync_name(folder)
    return CopyResult(size, time.perf_counter() - start)


class _Team:
    """Threads that copy the pieces of a file, or read them again, each with a buffer of a pool."""

    def __init__(self, pool: BufferPool, direct: bool, report: Callable[[int, int | None], None]) -> None:
        self._pool = pool
        self._align = ALIGNMENT if direct else 1
        self._report = report

    def fill(
        self, source: int, target: int, size: int, src: str, dst: str, verify: bool
    ) -> tuple[int, NDArray[np.uint64]]:
        """Write what the source holds to the target; return the bytes, and, to verify, the hashes of its pieces."""
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
            os.ftruncate(target, size)  # it may end in a hole; what direct I/O wrote has ended too late
        return size, hashes

    def verify(self, fd: int, size: int, hashes: NDArray[np.uint64], dst: str, sync: bool) -> None:
        """Raise OSError if a file does not hold what was written; sync it meanwhile if so."""
        again = np.zeros_like(hashes)
        again[0] = hashes[0]

        def sync_file() -> None:
            with _naming(dst):
                os.fsync(fd)

        self._run(fd, -1, size, again, dst, dst, sync_file if sync else None)
        wrong = np.flatnonzero(again != hashes)
        if len(wrong) or os.fstat(fd).st_size != size:
            offset = (int(wrong[0]) - 1) * int(hashes[0]) if len(wrong) else size
            raise OSError(errno.EIO, f"The copy, read again, is not what was written, at offset {offset}", dst)

    def _has_its_size(self, fd: int, size: int) -> bool:
        """Return whether there is a last byte; in file systems that make files up the size may be just a number."""
        offset = (size - 1) // self._align * self._align
        with self._pool.lease() as buffer:
            return os.preadv(fd, [buffer[: self._align]], offset) >= size - offset

    def _fill_in_turn(self, source: int, target: int, src: str, dst: str) -> tuple[int, NDArray[np.uint64]]:
        """Copy a file that does not know its size; return the bytes and the hashes of its pieces."""
        step, size = self._pool.buffer_size, 0
        one = np.array([step, 0], np.uint64)
        hashes = [one[0]]
        with self._pool.lease() as buffer:
            while True:
                with _naming(src):
                    n = read_full(source, buffer)
                if n == 0:
                    break
                if size % step:
                    raise _changed(src)  # it went on after its end
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
        """Run all over a file; call `first` meanwhile, in this thread."""
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

        with self._pool.lease() as buffer:  # not in the middle of Ctrl-C
            compile_for(_work_on_pieces, plan, runs, words, hashes, buffer)
            store(words, _STOP, 0)
        threads = range(min(self._pool.capacity, pieces))
        Crew(lambda: store(words, _STOP, 1)).run(work, threads, report, first)
        self._report(size, size)


def _find_data(fd: int, size: int, step: int) -> tuple[NDArray[np.int64], bool]:
    """Return the runs of pieces that hold data, as `_work_on_pieces` takes them, and whether there are holes."""
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
    """Return where data, or a hole, begins at or after an offset; at the end of a file without is a hole."""
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
    """Return the destination, in the directory if it is one, and its path with no link at the end."""
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
    lost = status and not (there and os.path.samestat(status, there))  # a link of /proc may lead to a deleted file
    if lost or os.path.basename(path) in ("", os.curdir, os.pardir):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), dst)
    return dst, path


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _open_folder(path: str) -> int:
    """Open a directory, to make, name and sync a file in it whatever happens to its path."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return os.open(path, flags)
    except PermissionError:  # files may be made in a directory that may not be read
        return os.open(path, flags | getattr(os, "O_PATH", 0))


def _mode(source: os.stat_result, copy: os.stat_result) -> int:
    """Return the permissions of a copy: set-ID bits must not give to somebody what was somebody else's."""
    same = (source.st_uid, source.st_gid) == (copy.st_uid, copy.st_gid)
    return source.st_mode & (0o7777 if same else 0o777)


def _wait_a_tick(status: os.stat_result) -> None:
    """Wait until a change of a file gets a time of change that is later than the one it has."""
    age = time.time() - status.st_ctime
    if 0 <= age < _TICK_S:
        time.sleep(_TICK_S - age)


def _is_still(before: os.stat_result, fd: int, path: str) -> bool:
    """Return whether an open file, and what its path leads to, is what it was before."""
    path_status = _status(path)
    return path_status is not None and _version(before) == _version(os.fstat(fd)) == _version(path_status)


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _changed(path: str) -> OSError:
    return OSError(errno.EIO, "Changed while it was copied", path)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Let the system's errors name a file by a path that the caller knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def _sync_name(folder: int) -> None:
    """Make a file's new name as safe as its contents; no error, for the file has the name."""
    try:
        os.fsync(folder)
    except OSError:  # it may not be read, or its file system knows no such thing
        os.sync()
