"""The cache of compiled code: where numba keeps it and under numba's key, but in files that are whole or not there.

numba keeps an index of each function's entries, and numbers their files. Two processes that save at once can lose one
another's entries, or take them for their own; a file that a power cut left empty ends each process that comes after.
Here an entry is a file of its own, named by a hash of its key. It begins with a checksum and holds the key besides the
code: what does not check is as none, and is written anew. Whatever is wrong with the cache is said once.
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

# Types that are named by an address, those of functions and of jitclasses, mean nothing to another process.
_ADDRESS = re.compile(r"(0x|#)[0-9a-f]{6,}")
_said = False


def _say(what: str) -> None:
    global _said
    if not _said:
        _said = True
        warnings.warn(what, RuntimeWarning, stacklevel=2)


def _say_not_kept(place: str, error: Exception | str) -> None:
    _say(
        f"what is compiled cannot be kept in {place}, so each process compiles it anew: {error}; "
        "the environment variable NUMBA_CACHE_DIR can name another folder"
    )


class NoCache(NullCache):
    """Stand in for a cache that there is no place for."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save_overload(self, sig: Any, data: Any) -> None:
        """Say why it is not saved."""
        _say_not_kept("any folder", self.error)


class CodeCache(FunctionCache):
    """The cache of one function; RuntimeError or OSError if there is no place for one.

    `fingerprint` tells of the sources that entries are made of: entries of others are as none, and are removed.
    """

    def __init__(self, function: Any, fingerprint: str) -> None:
        super().__init__(function)
        self._cache_file = _Entries(self._cache_path, self._impl.filename_base, fingerprint)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the entry, or None."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # there is no telling what lies there
            _say(f"an entry of the cache of compiled code is damaged, and is compiled anew: {error}")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save an entry if that can be done."""
        try:
            super().save_overload(sig, data)
        except (OSError, pickle.PicklingError) as error:
            _say_not_kept(self._cache_path, error)


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
            raise ValueError(f"{path} has another checksum than it should")
        saved_key, data = pickle.loads(entry)
        return data if saved_key == key else None

    def save(self, key: Any, data: Any) -> None:
        """Save `data` under `key`, whatever lies there."""
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
    """Remove, once, the entries that were made of other sources."""
    for name in os.listdir(path):
        entry = _ENTRY.search(name)
        if entry and entry[1] != fingerprint:
            with contextlib.suppress(OSError):  # another process was quicker, or it is not ours to remove
                os.unlink(os.path.join(path, name))
