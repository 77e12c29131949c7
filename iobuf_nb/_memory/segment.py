"""Segments: memory that processes share, and that says itself what lies in it.

An anonymous segment is a memfd (memfd_create(2)): it has no name, nothing is left of it, and no limit of /dev/shm
applies. A named one is a file in /dev/shm that appears under its name when it is whole (O_TMPFILE, linkat(2)), with
all of its memory (posix_fallocate(3)), so that a full /dev/shm is an error where it is made, not a SIGBUS where it is
used.

Layout: a page of header; the table of `process_slots`; then what is in it, each part at an offset that follows from the
*contents*: a dict of plain values, of which a text is in the header.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import errno
import mmap
import os
import re
import stat
import sys
import weakref
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._jit.compile import INTERPRETED
from ..atomics import share_words
from .aligned import round_up
from .process_slots import (
    FIRST_LOCK,
    MOST_PROCESSES,
    SLOT_WORDS,
    ProcessSlot,
    draw_first_lock,
    is_locked,
    living,
    unlink_same,
    unlink_unused,
)

FOLDER = "/dev/shm"
PREFIX = "iobuf_nb."
LAYOUT = 3  # of what is in a segment; it changes with every change of the words of queues and pools

_MAGIC = 0x626E5F6675626F69  # "iobuf_nb"
_ORDER = 0x0102030405060708
_HEADER_BYTES = 4096
_TEXT_AT = 512
# Words of the header: the magic number is written last. That of the text is its length, and above that its CRC-32.
_MAGIC_WORD, _ORDER_WORD, _LAYOUT_WORD, _SIZE_WORD, _TEXT_WORD, _CREATOR, _UNIQUE, COUNTER, _JIT_OFF = range(9)
_TABLE_WORDS = (MOST_PROCESSES + 1) * SLOT_WORDS
FIRST = _HEADER_BYTES + 8 * _TABLE_WORDS  # offset of what is in it
_NAME = re.compile(rb"[^/\0]+", re.DOTALL)


def require_linux() -> None:
    """Raise unless this system can share pools."""
    if sys.platform != "linux":
        raise NotImplementedError(f"shared pools and queues need Linux, not {sys.platform}")


def path_of(name: Any, longest: int = 200) -> str:
    """Return the path of a named segment; TypeError or ValueError for what cannot be a name of so many bytes."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {name!r:.60}")
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        encoded = b""
    if not _NAME.fullmatch(encoded) or len(encoded) > longest:
        raise ValueError(f"name must have 1 to {longest} bytes of UTF-8, none of them a slash or 0, not {name!r:.60}")
    return f"{FOLDER}/{PREFIX}{os.fsdecode(encoded)}"


class Segment:
    """A segment as one process sees it.

    Attributes
    ----------
    contents : dict
        What lies in it.
    name : str or None
        Its name, if it has one.
    slot : ProcessSlot or None
        The slot of this process; None before `enter`, and in a forked child that found none.
    """

    def __init__(self, descriptor: int, name: str | None, made: bool) -> None:
        self.descriptor, self.name = descriptor, None if name is None else str.__str__(name)  # no subclass of str
        self.slot: ProcessSlot | None = None
        self._maker = os.getpid() if made else 0  # the process that removes the name
        share_words(FOLDER)
        self._file = os.fstat(descriptor)
        self._leave: weakref.finalize[Any, Any] = weakref.finalize(self, _close, descriptor, self._file)
        size = self._file.st_size
        try:
            mapping = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise MemoryError(f"the system cannot provide {size} bytes of address space: {error}") from None
        self.memory = np.frombuffer(mapping, np.uint8)
        self.header = self.memory[:_HEADER_BYTES].view(np.int64)
        self.table = self.memory[_HEADER_BYTES:FIRST].view(np.int64)
        self.contents: dict[str, Any] = {}
        self._at = FIRST

    # ---- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def make(cls, contents: dict[str, Any], size: int, name: str | None) -> Segment:
        """Return a new segment of `size` zeroed bytes after the header and the table, entered by this process."""
        require_linux()
        text = repr(contents).encode()
        if len(text) > _HEADER_BYTES - _TEXT_AT:
            raise ValueError(f"dtype must take less than 3,500 characters to describe, not {len(text)}")
        path = None if name is None else path_of(name)
        made = cls(_new_file(FIRST + size, path), name, True)
        made.memory[_TEXT_AT : _TEXT_AT + len(text)] = np.frombuffer(text, np.uint8)
        unique = int.from_bytes(os.urandom(7), "little")
        made.table[FIRST_LOCK] = draw_first_lock()
        made.header[1:7] = _ORDER, LAYOUT, FIRST + size, _sum_of(text), os.getpid(), unique
        made.header[_JIT_OFF] = INTERPRETED
        made.header[_MAGIC_WORD] = _MAGIC
        made.contents = contents
        made.enter(nothing)
        if path is not None:
            _link(made.descriptor, path, name)
        return made

    @classmethod
    def named(cls, name: str, kind: str) -> Segment:
        """Return the segment of a name; it must hold a `kind`. Not entered yet."""
        require_linux()
        path = path_of(name)
        try:
            descriptor = _open(path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"there is no shared {kind} of the name {name!r}: nobody has made it yet, or its creator has closed it"
            ) from None
        return cls._opened(descriptor, path, name, kind)

    @classmethod
    def _opened(cls, descriptor: int, path: str, name: str | None, kind: str | None) -> Segment:
        try:
            _require_sound(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        opened = cls(descriptor, name, False)
        opened.contents = opened._read_contents(path)
        other = opened.contents["kind"]
        if kind not in (None, other):
            raise ValueError(f"{path} holds a {other}, not a {kind}: attach to it with {other}.attach")
        if opened.header[_JIT_OFF] != INTERPRETED:  # neither's operations on words are atomic for the other
            theirs = "compiled kernels" if INTERPRETED else "the JIT off"
            raise ValueError(
                f"{path} is used by processes that have {theirs}, and this one has not: "
                "set NUMBA_DISABLE_JIT=1 for all of them, or for none"
            )
        return opened

    def _read_contents(self, path: str) -> dict[str, Any]:
        text = self.memory[_TEXT_AT:_HEADER_BYTES][: int(self.header[_TEXT_WORD]) & 0xFFFFFFFF].tobytes()
        if not text or _sum_of(text) != self.header[_TEXT_WORD]:
            raise ValueError(f"{path} is damaged: its header does not say what is in it")
        return dict(ast.literal_eval(text.decode()))

    # ---- sending to other processes ----------------------------------------------------------------------------------

    def reference(self) -> tuple[str, int, str | None]:
        """Return by what another process of the same user finds this segment, while this process has it open."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}", int(self.header[_UNIQUE]), self.name

    def is_referred(self, reference: tuple[str, int, str | None]) -> bool:
        """Return whether a `reference` is to this segment."""
        return int(self.header[_UNIQUE]) == reference[1]

    @classmethod
    def referred(cls, reference: tuple[str, int, str | None], kind: str) -> Segment:
        """Return the segment of a `reference`, not entered yet."""
        require_linux()
        path, _, name = reference
        for place in [path] + ([path_of(name)] if name is not None else []):
            with contextlib.suppress(OSError, ValueError):
                found = cls._opened(os.open(place, os.O_RDWR | os.O_CLOEXEC), place, name, kind)
                if found.is_referred(reference):
                    return found
        raise FileNotFoundError(
            f"the shared {kind} cannot be found: the process that pickled it has closed it, is gone, or is on another "
            "machine; unpickle it on the same one while that lives, or give it a name and attach to that"
        )

    # ---- using -------------------------------------------------------------------------------------------------------

    def enter(self, recover: Any) -> int:
        """Take a process slot and return the process number; see `ProcessSlot` for `recover` and errors."""
        self.slot = ProcessSlot(self.table, self.descriptor, recover)
        self.leave_at_end(nothing)
        return self.slot.number

    def part(self, size: int, alignment: int) -> NDArray[np.uint8]:
        """Return the next `size` bytes that start at a multiple of `alignment`, up to a page."""
        start = round_up(self._at, alignment)
        self._at = start + size
        if self._at > len(self.memory):
            raise ValueError("the segment is damaged: it is smaller than what its header says is in it")
        return self.memory[start : self._at]

    def leave_at_end(self, in_use: Any) -> None:
        """Let go of the slot when this object goes, unless `in_use(number)` then."""
        if self.slot is None:
            return
        self._leave.detach()
        path = None if self.name is None else path_of(self.name)
        self._leave = weakref.finalize(
            self, _leave, self.slot, self.table, self.descriptor, self._file, path, self._maker == os.getpid(), in_use
        )
        # When the program ends, other threads may still be at work: the lock goes with the last of them.
        self._leave.atexit = False
        if self.name is not None:
            _named.add(self)

    def leave_name_to_the_last(self) -> None:
        """Have the name removed by the last process that leaves, not by the one that gave it; see `leave_at_end`."""
        self._maker = 0

    def holds_name(self) -> bool:
        """Return whether the name is that of this segment, and stays so as long as this process holds its slot.

        Otherwise the name is another's, is gone, or may be removed just now by who has not seen this process.
        """
        if self.name is None or is_locked(self.table, 0, self.descriptor):
            return False
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.stat(path_of(self.name), follow_symlinks=False), self._file)
        return False

    def remove_name(self) -> None:
        """Remove the name, in the process that gave it."""
        if self.name is not None and self._maker == os.getpid():
            unlink_same(path_of(self.name), self._file)

    def remove_name_at_exit(self) -> None:
        """Remove the name, in the process that gave it, or if no other process may need it."""
        self.remove_name()
        if self.slot is not None and self.slot.process == os.getpid():
            self.slot.forget_name(self.table)
            with contextlib.suppress(OSError):
                unlink_unused(path_of(self.name), self.table, self.descriptor)

    def renew(self, recover: Any) -> None:
        """In a forked child, take a slot of its own, if there is one."""
        self.slot = None
        with contextlib.suppress(OSError):
            self.require_descriptor()
            self.enter(recover)

    def require_descriptor(self) -> None:
        """Raise OSError unless the descriptor is still that of the segment."""
        if not _is_of(self.descriptor, self._file):
            raise OSError(
                errno.EBADF,
                f"descriptor {self.descriptor} of the segment was closed by somebody: no death can be seen from here",
            )

    @property
    def number(self) -> int:
        """The process number; 0 if this process holds no slot."""
        return 0 if self.slot is None else self.slot.number

    def processes(self) -> dict[int, int]:
        """Return the processes that hold a slot, by process number."""
        return living(self.table, self.descriptor)


_named: weakref.WeakSet[Segment] = weakref.WeakSet()


@atexit.register
def _remove_names() -> None:
    for segment in list(_named):
        segment.remove_name_at_exit()


def _remove_names_in_children() -> None:
    """Do so, too, where multiprocessing ends a process without `atexit`: it runs its own finalizers then."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _remove_names, exitpriority=0)
        util.register_after_fork(_named, lambda _: util.Finalize(None, _remove_names, exitpriority=0))


_remove_names_in_children()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remove_names_in_children)


def _sum_of(text: bytes) -> int:
    return (zlib.crc32(text) & 0x7FFFFFFF) << 32 | len(text)


def nothing(number: int) -> bool:
    """Return False: there is nothing that a process number could own."""
    return False


def _is_of(descriptor: int, file: os.stat_result) -> bool:
    """Return whether a descriptor is open, and that of a file."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), file)
    return False


def _close(descriptor: int, file: os.stat_result) -> None:
    """Close a descriptor, unless somebody has done so, and it may be another's by now."""
    if _is_of(descriptor, file):
        os.close(descriptor)


def _leave(
    slot: ProcessSlot,
    table: NDArray[Any],
    descriptor: int,
    file: os.stat_result,
    path: str | None,
    made: bool,
    in_use: Any,
) -> None:
    if os.getpid() != slot.process:
        return
    if path is not None and made:
        with contextlib.suppress(OSError):
            unlink_same(path, file)  # while the slot is held: afterwards the name may be another's
    if in_use(slot.number):  # the slot is held as long as the process lives, and with it its buffers
        slot.forget_name(table)
    else:
        slot.release(table)
    if path is not None and not made:
        with contextlib.suppress(OSError):
            unlink_unused(path, table, descriptor)
    _close(descriptor, file)


def _new_file(size: int, path: str | None) -> int:
    """Return the descriptor of a new file of zeros without a name."""
    if path is None:
        descriptor = os.memfd_create("iobuf_nb", os.MFD_CLOEXEC)
    else:
        descriptor = os.open(FOLDER, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if path is None:
            os.ftruncate(descriptor, size)
            return descriptor
        room = os.fstatvfs(descriptor)
        if room.f_blocks and room.f_bavail * room.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.close(descriptor)
        raise OSError(
            error.errno,
            f"{FOLDER} has no room for {size} bytes ({error.strerror}): "
            "make it larger, or share a pool without a name, to which its limit does not apply",
        ) from None
    return descriptor


def _link(descriptor: int, path: str, name: Any) -> None:
    """Give a file its name; take over one that no process uses any more."""
    while True:
        folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_CLOEXEC)  # os.link follows links only from a folder
        try:
            os.link(str(descriptor), path, src_dir_fd=folder, follow_symlinks=True)
            return
        except FileExistsError:
            pass
        finally:
            os.close(folder)
        try:
            if not clean(name):
                raise FileExistsError(
                    f"name={name!r} is in use by a shared pool or queue of living processes: "
                    "attach to it, or choose another name"
                )
        except FileNotFoundError:
            continue  # removed meanwhile
        except (PermissionError, ValueError) as error:
            raise FileExistsError(f"name={name!r} is taken: {error}") from None


def _open(path: str) -> int:
    """Open what has a name; OSError, or ValueError if it is no file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except PermissionError:
        raise PermissionError(f"{path} belongs to another user") from None
    except OSError as error:
        raise ValueError(f"{path} is no shared pool or queue of iobuf_nb: {error.strerror}") from None


def _require_sound(descriptor: int, path: str) -> None:
    """Raise unless a file is a whole segment of this user that this version can read."""
    about = os.fstat(descriptor)
    if about.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to the user {about.st_uid}, not to this one, {os.geteuid()}")
    head = os.pread(descriptor, 64, 0) if stat.S_ISREG(about.st_mode) else b""
    words = np.frombuffer(head.ljust(64, b"\0"), np.int64)
    reversed_magic = int(np.int64(_MAGIC).byteswap())
    if words[_MAGIC_WORD] == reversed_magic:
        raise ValueError(f"{path} was made on a machine of another byte order")
    if words[_MAGIC_WORD] != _MAGIC:
        raise ValueError(f"{path} is no shared pool or queue of iobuf_nb, or was only half made")
    if words[_ORDER_WORD] != _ORDER:
        raise ValueError(f"{path} was made on a machine of another byte order")
    if words[_LAYOUT_WORD] != LAYOUT:
        raise ValueError(
            f"{path} has layout {words[_LAYOUT_WORD]}, and this version of iobuf_nb knows layout {LAYOUT} alone: "
            "use the same version in all processes"
        )
    if words[_SIZE_WORD] != about.st_size or about.st_size < FIRST:
        raise ValueError(f"{path} is truncated: {about.st_size} of {words[_SIZE_WORD]} bytes")


def _table_of(descriptor: int) -> NDArray[np.int64]:
    """Return a copy of the table of a sound segment."""
    return np.frombuffer(os.pread(descriptor, 8 * _TABLE_WORDS, _HEADER_BYTES), np.int64)


def names() -> list[str]:
    """Return the names of all segments on this machine."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry.removeprefix(PREFIX) for entry in os.listdir(FOLDER) if entry.startswith(PREFIX))
    return []


def describe(name: str) -> dict[str, Any]:
    """Return what a named segment holds, its size, and which processes use it; OSError or ValueError if unreadable."""
    path = path_of(name)
    found = Segment._opened(_open(path), path, name, None)
    kept = {key: found.contents[key] for key in ("kind", "capacity")}
    return {**kept, "bytes": len(found.memory), "processes": [*living(found.table, found.descriptor).values()]}


def clean(name: str) -> bool:
    """Remove a named segment that no process uses; return whether it is gone."""
    path = path_of(name)
    descriptor = _open(path)
    try:
        _require_sound(descriptor, path)
        return unlink_unused(path, _table_of(descriptor), descriptor)
    finally:
        os.close(descriptor)
