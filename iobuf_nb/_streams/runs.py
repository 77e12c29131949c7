"""Runs: which sources of a stream are read together, and how."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import closing, suppress

from .decompress import LONGEST_MAGIC, recognised
from .feed import plain_reader
from .job import Job
from .mapping import ALWAYS, MEASURE, NEVER
from .objects import Objects, run_compressed
from .output import IN_TURN, NOWHERE, PLACED
from .pieces import UNKNOWN
from .ranges import AHEAD
from .share import WHOLE, Share, Window
from .source import Opened, Source, read_file
from .table import LARGE_BYTES, Table
from .units import Header, Units, origin_of

_CLAIMS = 64  # that each worker makes of a large file, at least
_HELD_BYTES = 1 << 24  # of remote objects that are read together
_HELD = 1 << 6  # remote objects that are: who waits for the first pieces does not wait for thousands
_GROUP = 1 << 14  # files that are looked at before the first of them is read


def run(
    job: Job, sources: Iterable[Source], paths: list[str] | None, units: Units, header: Header | None, engine: str,
    direct: bool, decompress: str | None, share: Share = WHOLE,
) -> None:  # fmt: skip
    """Run a job over all sources: regular files that are given by their paths, and memory, together, others alone.

    `paths` are the sources if they are nothing but paths.
    """
    job.base = share.base
    planned = units.whole or share.windows is not None
    with closing(_Runs(job, units, header, engine, direct, decompress, share)) as runs:
        if paths is not None and planned and header is None and engine != "uring" and decompress is None:
            for start in range(0, len(paths), _GROUP):
                runs.add_paths(paths[start : start + _GROUP])
        else:
            for source in sources if paths is None else map(Source, paths):
                runs.add(source)
        runs.flush()


class _Runs:
    """The sources that are to be read by the next crew."""

    def __init__(
        self, job: Job, units: Units, header: Header | None, engine: str, direct: bool, decompress: str | None,
        share: Share,
    ) -> None:  # fmt: skip
        self._job = job
        self._share = share
        self._units = units
        self._header = header
        self._engine = engine
        self._direct = direct
        self._decompress = decompress
        self._table = self._new_table()
        self._held = 0  # bytes of remote objects in the table
        self._objects = Objects(job.plan, units, header, decompress, share)

    def _new_table(self) -> Table:
        job = self._job
        in_turns = job.plan.ordered or job.plan.output != NOWHERE
        return Table(job.plan.length, UNKNOWN if in_turns else _CLAIMS * len(job.states))

    def add(self, source: Source) -> None:
        """Add a source to the next run, or run it at once."""
        index = self._share.index + len(self._job.names)
        self._job.names.append(source.name)
        if source.url is not None:
            self._require_file(source.name, False)
            if self._direct:
                raise ValueError(f"direct=True needs a path to open, not {source.name}")
            self._objects.add(source.url, index)
            self._take_objects(AHEAD)
            return
        self._take_objects(0)
        if source.memory is not None:
            self._add_memory(source, source.memory, index)
        elif self._decompress is not None and self._add_compressed(source, index):
            pass
        elif source.path is None or not self._add_path(source, source.path, index):
            self.flush()
            with source.opened(self._direct) as opened:
                self._require_other(opened)
                self._run(opened, index)
        if len(self._table) >= _GROUP:
            self.flush()

    def add_paths(self, paths: list[str]) -> None:
        """Run files at once, if they are regular and not empty, or else one by one."""
        job, share, table = self._job, self._share, self._new_table()
        done = len(job.names)
        windows = share.windows and share.windows[done : done + len(paths)]
        size = table.add_paths(paths, windows, self._units.record, share.index + done, job.base, self._mapping)
        if size is None:
            for path in paths:
                self.add(Source(path))
            return
        self.flush()
        job.names += paths
        job.base += size
        job.run_files(table)

    def flush(self) -> None:
        """Read what was added."""
        self._take_objects(0)
        self._flush_table()

    def _flush_table(self) -> None:
        self._held = 0
        table, self._table = self._table, self._new_table()
        if table.claims:
            self._job.run_files(table)

    def close(self) -> None:
        """End what was begun for sources that are not read."""
        self._objects.close()

    def _window(self, name: str, size: int, index: int, read: Callable[[int, int], bytes]) -> Window:
        """Return what is to be read of a source of `size` bytes; `read` as in `Units.window`."""
        return self._share.window_of(index, name, size) or self._units.window(name, size, read)

    def _take_objects(self, left: int) -> None:
        """Read the remote objects that were added first, small ones together, until `left` are left."""
        job = self._job
        for index, remote, window, begin, data in self._objects.take(left):
            job.watch.start()
            position = 0 if window is None else window.size
            if isinstance(data, bytes):
                if window is not None and window.high > window.low:
                    self._table.add_memory(remote.name, memoryview(data), index, job.base, window, begin, remote.first)
                    self._held += len(data)
                if self._held >= _HELD_BYTES or len(self._table) >= _HELD:
                    self._flush_table()
            else:
                self._flush_table()
                if window is None:
                    position = run_compressed(job, remote, index, self._units, self._decompress or "auto", data.reader)
                else:
                    job.run_fed(remote, index, self._units, data.reader, window)
                remote.require_unchanged()
            job.base += self._share.end_of(index, position)

    def _add_memory(self, source: Source, memory: memoryview, index: int) -> None:
        self._require_file(source.name, False)
        if self._direct:
            raise ValueError(f"direct=True needs a path to open, not {source.name}")
        if self._decompress not in (None, "auto"):
            raise ValueError(f"decompress={self._decompress!r} needs a file, pipe or socket, not {source.name}")
        if self._header is not None:
            raise ValueError(f"{source.name} must be a .npy file, as the first source is one: or pass dtype")
        window = self._window(source.name, len(memory), index, lambda offset, n: bytes(memory[offset : offset + n]))
        if window.high > window.low:
            self._table.add_memory(source.name, memory, index, self._job.base, window)
        self._job.base += len(memory)

    def _add_compressed(self, source: Source, index: int) -> bool:
        """Read a source that is compressed; False if it is not."""
        how = self._decompress or "auto"
        with source.opened(self._direct) as opened:
            looked_at = how == "auto" and opened.seekable
            if looked_at and recognised(os.pread(opened.fd, LONGEST_MAGIC, opened.first)) == "raw":
                return False
            self._require_file(opened.name, False)
            self._require_other(opened)
            self._share.window_of(index, opened.name, opened.size)
            self.flush()
            if source.path is None and opened.seekable:
                os.lseek(opened.fd, opened.first, os.SEEK_SET)  # a buffered file has read ahead
            end = run_compressed(self._job, opened, index, self._units, how, lambda is_stopped: opened.fd)
            self._job.base += self._share.end_of(index, end)
        return True

    def _add_path(self, source: Source, path: str, index: int) -> bool:
        """Add a regular file to the next run; False if it must be read alone."""
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or self._engine == "uring":
            return False
        if status.st_size == 0:
            self._share.window_of(index, path, 0)
            return self._is_empty(source)
        origin = origin_of(path, self._header, status.st_size, lambda offset, n: read_file(path, offset, n))
        self._add_file(path, path, status, origin, index)
        return True

    def _is_empty(self, source: Source) -> bool:
        """Whether a file of no size has no bytes either; virtual ones, such as those in /proc, may have some."""
        self._job.watch.start()
        with source.opened(self._direct) as opened, suppress(OSError):
            if os.pread(opened.fd, 1, 0) == b"":
                self._job.watch.stop()
                return True
        return False

    def _add_file(self, name: str, path: str, status: os.stat_result, origin: int, index: int) -> None:
        size = status.st_size - origin
        window = self._window(name, size, index, lambda offset, n: read_file(path, origin + offset, n))
        if window.high > window.low:
            mapping = self._mapping(window.high - window.low)
            self._table.add_path(name, path, status.st_ino, origin, index, self._job.base, window, mapping)
        self._job.base += size

    def _mapping(self, size: int) -> int:
        """Return how `mapping` is to choose for a file of `size` bytes."""
        plan = self._job.plan
        if self._direct or plan.ordered or plan.before or plan.after or self._engine in ("preadv", "uring"):
            return NEVER
        if self._engine == "mmap":
            return ALWAYS
        return MEASURE if size >= LARGE_BYTES else NEVER

    def _require_file(self, name: str, regular: bool) -> None:
        if self._engine in ("uring", "mmap") and not regular:
            raise ValueError(f"engine={self._engine!r} needs regular files, and {name} is not one")

    def _require_other(self, opened: Opened) -> None:
        """Refuse a file or pipe into which the output goes; a terminal or socket may take what it did not give."""
        plan = self._job.plan
        either = plan.output in (PLACED, IN_TURN) and (opened.seekable or opened.is_pipe)
        if either and os.path.sameopenfile(opened.fd, plan.target):
            raise ValueError(
                f"output must not be the file or pipe that is read, {opened.name:.60}: pass a path, or another file"
            )

    def _run(self, opened: Opened, index: int) -> None:
        """Read one open source."""
        job, units = self._job, self._units
        self._require_file(opened.name, opened.regular)
        self._share.window_of(index, opened.name, opened.size)
        if self._engine == "uring" and opened.size:
            units.window(opened.name, opened.size, lambda offset, n: b"")
            job.run_ring(opened, index)
        elif opened.regular and opened.size:
            own = _own_path(opened)
            if own is not None and self._mapping(opened.size) != NEVER:
                self._add_file(opened.name, own, os.fstat(opened.fd), opened.first, index)
            else:
                window = self._window(
                    opened.name, opened.size, index, lambda offset, n: os.pread(opened.fd, n, opened.first + offset)
                )
                self._table.add_opened(opened, index, job.base, window)
                job.base += opened.size
            before = job.bytes
            self.flush()
            end = opened.size if units.stop is None else min(units.stop, opened.size)
            opened.leave_at(job.bytes - before if units.whole else end)
        elif units.whole:
            job.run_in_turns(opened, index)
        else:
            job.base += job.run_fed(opened, index, units, lambda is_stopped: plain_reader(opened, is_stopped))


def _own_path(opened: Opened) -> str | None:
    """Return a path at which a file can be opened once more, with a position and leases of its own; or None."""
    path = f"/proc/self/fd/{opened.fd}"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return None
    return path
