"""The cache of compiled code: numba's folder and numba's key, but one checked file per entry.

numba keeps an index file for each function and numbers the data files. Two processes that save at the same time can
lose each other's entries or load the wrong ones, and a file left empty by a power cut crashes every later process.
Here each entry has its own file, named by a hash of its key, which holds a checksum, the key and the code. An entry
that fails the check is ignored and rewritten. A process warns of problems with the cache once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import re
import warnings
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

_CHECKSUM_BYTES = 32
_ENTRY = re.compile(r"\.([0-9a-f]{8})-[0-9a-f]{16}\.nbc$")

# The types of functions and jitclasses are named by an address, which means nothing to another process.
_ADDRESS = re.compile(r"(0x|#)[0-9a-f]{6,}")
_warned = False


def _warn_once(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def _warn_not_cached(place: str, error: Exception | str) -> None:
    _warn_once(
        f"compiled code cannot be cached in {place}, so every process compiles it again: {error}; "
        "set the environment variable NUMBA_CACHE_DIR to use another folder"
    )


class NoCache(NullCache):
    """The cache of a function where no folder is writable."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save_overload(self, sig: Any, data: Any) -> None:
        """Warn that nothing is saved, and why."""
        _warn_not_cached("any folder", self.error)


class CodeCache(FunctionCache):
    """The cache of one function; RuntimeError or OSError if no folder is writable.

    `fingerprint` identifies the sources that entries are compiled from: entries of other sources are ignored, and
    removed by the next save.
    """

    def __init__(self, function: Any, fingerprint: str) -> None:
        super().__init__(function)
        self._cache_file = _Entries(self._cache_path, self._impl.filename_base, fingerprint)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the entry, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged file can raise anything
            _warn_once(f"a damaged entry in the cache of compiled code is ignored and compiled again: {error}")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save an entry, or warn that it cannot be saved."""
        try:
            super().save_overload(sig, data)
        except (OSError, pickle.PicklingError) as error:
            _warn_not_cached(self._cache_path, error)


class _Entries(IndexDataCacheFile):
    """The files of one function."""

    def __init__(self, path: str, base: str, fingerprint: str) -> None:
        super().__init__(path, base, fingerprint)
        self._base = base

    def _path_of(self, key: Any) -> str | None:
        text = repr((self._version, key))
        if _ADDRESS.search(text):
            return None
        number = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._data_path(f"{self._base}.{self._source_stamp}-{number}.nbc")

    def load(self, key: Any) -> Any:
        """Return what was saved under `key`, or None."""
        path = self._path_of(key)
        if path is None or not os.path.lexists(path):
            return None
        try:
            with open(path, "rb") as file:
                checksum, entry = file.read(_CHECKSUM_BYTES), file.read()
        except OSError as error:
            raise ValueError(str(error)) from None
        if hashlib.sha256(entry).digest() != checksum:
            raise ValueError(f"{path} has a wrong checksum")
        saved_key, data = pickle.loads(entry)
        return data if saved_key == key else None

    def save(self, key: Any, data: Any) -> None:
        """Save `data` under `key`, replacing what is there."""
        path = self._path_of(key)
        if path is None:
            return
        _remove_stale(self._cache_path, self._source_stamp)
        entry = self._dump((key, data))
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(entry).digest() + entry)

    def flush(self) -> None:
        """Remove all entries."""
        for name in os.listdir(self._cache_path):
            if name.startswith(f"{self._base}.") and _ENTRY.search(name):
                os.unlink(self._data_path(name))


@functools.cache
def _remove_stale(path: str, fingerprint: str) -> None:
    """Remove the entries compiled from other sources, once per process."""
    for name in os.listdir(path):
        entry = _ENTRY.search(name)
        if entry and entry[1] != fingerprint:
            with contextlib.suppress(OSError):  # another process was faster, or this one may not remove it
                os.unlink(os.path.join(path, name))
