"""The cache of compiled code: one checked file per entry, in a folder that does not depend on where the sources are.

numba caches beside the sources, or under their path: a checkout and an installed copy of it compile everything twice.
It keeps an index file for each function and numbers the data files: two processes that save at the same time can lose
each other's entries or load the wrong ones, and a file left empty by a power cut crashes every later process.

Here entries of the same sources are shared. Each *build* has a folder: the same sources, compiled by the same numba for
the same Python and processor. Each entry in it has its own file, named by a hash of its key, which holds a checksum,
the key and the code. An entry that fails the check is ignored and rewritten. A process warns of problems with the
cache once.

A wheel may carry a folder of entries, compiled for a processor that most have: the *baseline*. They are used, and never
written, where the user's cache has no entry.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import config, types
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import user_cache_dir

from .._log import logger

_PACKAGE = __name__.partition(".")[0]
_CHECKSUM_BYTES = 32
_BUILD = re.compile(r"[0-9a-f]{8}-[0-9a-f]{16}")
_BUILDS_KEPT = 16
_SUFFIX = ".nbc"  # of an entry

#: Where the entries of a wheel are in the package, and what they are compiled for: x86-64-v2, all that x86-64 server
#: processors have had since 2009. Pools are no faster with more.
READY_MADE = "_compiled"
BASELINE = "x86-64-v2"
_BASELINE_FEATURES = {"+cx16", "+popcnt", "+sahf", "+sse3", "+sse4.1", "+sse4.2", "+ssse3"}

# The types of functions and jitclasses are named by an address, which means nothing to another process.
_ADDRESS = re.compile(r"(0x|#)[0-9a-f]{6,}")
_warned = False


def _warn_once(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        logger.warning(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class CodeCache(NullCache):
    """The cache of one function, as numba's dispatchers use it.

    `fingerprint` identifies the sources that entries are compiled from, `options` are those of the compiler. If the
    cache is `required`, OSError is raised where an entry is missing and could not be saved.
    """

    def __init__(
        self, function: Callable[..., Any], fingerprint: str, options: Mapping[str, Any], required: bool = False
    ) -> None:
        self._function = function
        self._fingerprint = fingerprint
        self._options = repr(sorted(options.items()))
        self._required = required

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the entry, or None."""
        target_context.refresh()
        for place, cpu in _places_to_read(target_context):
            try:
                data = load(place, self._key(sig, cpu))
                if data is not None:
                    return CompileResult._rebuild(target_context, *data)
            except Exception as error:  # a damaged file can raise anything
                _warn_once(f"a damaged entry in the cache of compiled code is ignored and compiled again: {error}")
        if self._required:
            place_to_write()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save an entry, or warn that it cannot be saved."""
        if data.library.has_dynamic_globals:
            return
        place = "any folder"
        try:
            place = place_to_write()
            # The annotation is a listing of the source, with its path.
            save(place, self._key(sig, data.codegen.magic_tuple()), data._replace(type_annotation="")._reduce())
        except (OSError, pickle.PicklingError) as error:
            _warn_once(
                f"compiled code cannot be cached in {place}, so every process compiles it again: {error}; "
                "set the environment variable NUMBA_CACHE_DIR to use another folder"
            )

    def _key(self, sig: Any, cpu: tuple[str, str, str]) -> Any:
        return _build(self._fingerprint, cpu), _identity(self._function), self._options, sig


def _build(fingerprint: str, cpu: tuple[str, str, str]) -> Any:
    return (
        fingerprint,
        (sys.implementation.cache_tag, getattr(sys, "abiflags", ""), sys.flags.optimize),
        (numba.__version__, llvmlite.__version__, np.__version__.partition(".")[0]),
        (config.OPT, config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT),
        cpu,
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _identity(value: Any) -> Any:
    """Return what tells a function, or what it closes over, from all others, the same in every process."""
    function = getattr(value, "py_func", value)
    if isinstance(function, FunctionType):
        code = function.__code__
        # Functions inside stand in the fingerprint; sets have another order in each process.
        constants = [each for each in code.co_consts if not isinstance(each, (CodeType, frozenset))]
        name = function.__module__, function.__qualname__, code.co_firstlineno
        closure = [_identity(cell.cell_contents) for cell in function.__closure__ or ()]
        return name, _digest(code.co_code, code.co_names, constants), closure
    return repr(value) if isinstance(value, types.Type) else _digest(dumps(value))


# ---- entries ---------------------------------------------------------------------------------------------------------


def _path_of(place: str, key: Any) -> str | None:
    build, (name, *_), *_ = key
    if _ADDRESS.search(repr(key)):
        return None
    readable = re.sub(r"[^\w.]+", "_", f"{name[0].rpartition('.')[2]}.{name[1]}")[:100]
    return os.path.join(_folder_of(place, build), f"{readable}-{_digest(key)[:32]}{_SUFFIX}")


def _folder_of(place: str, build: Any) -> str:
    return os.path.join(place, f"{build[0]}-{_digest(build)[:16]}")


def load(place: str, key: Any) -> Any:
    """Return what was saved under `key` in a folder, or None."""
    path = _path_of(place, key)
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
    if os.path.basename(place) != READY_MADE:
        _mark_as_used(os.path.dirname(path))
    return data if saved_key == key else None


def save(place: str, key: Any, data: Any) -> None:
    """Save `data` under `key` in a folder, replacing what is there."""
    path = _path_of(place, key)
    if path is None:
        return
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        _make_room(place)
        os.makedirs(folder, mode=0o755, exist_ok=True)
    entry = dumps((key, data))
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        # Others may read it, but not write it, whatever the umask is.
        with open(temporary, "xb", opener=functools.partial(os.open, mode=0o644)) as file:
            file.write(hashlib.sha256(entry).digest() + entry)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@functools.cache
def _mark_as_used(folder: str) -> None:
    """Make a build's folder one of the newest, once per process."""
    with contextlib.suppress(OSError):  # it may be of another user
        os.utime(folder)


def _make_room(place: str) -> None:
    """Remove the builds that were not used for longest, so that with a new one there are no more than are kept."""
    with contextlib.suppress(OSError):  # another process was faster
        builds = [each.path for each in os.scandir(place) if _BUILD.fullmatch(each.name)]
        for path in sorted(builds, key=os.path.getmtime, reverse=True)[_BUILDS_KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)


# ---- places ----------------------------------------------------------------------------------------------------------


def _places() -> list[str]:
    """Return the folders that may hold builds; entries are saved in the first that can be written."""
    chosen = os.path.abspath(config.CACHE_DIR) if config.CACHE_DIR else user_cache_dir()
    beside = [os.path.join(folder, "__pycache__") for folder in sys.modules[_PACKAGE].__path__]
    # Without a home the user's folder is relative.
    return [os.path.join(folder, _PACKAGE) for folder in (chosen, *beside) if os.path.isabs(folder)]


def _is_safe(place: str) -> bool:
    """Whether a folder is there, and only those can put code into it who can run code here anyway.

    These are this user, root, and the owner of this package's sources.
    """
    try:
        status = os.stat(place)
    except OSError:
        return False
    if not hasattr(os, "geteuid"):
        return True
    owners = [0, os.geteuid()]
    with contextlib.suppress(OSError):  # in a zip
        owners += [os.stat(folder).st_uid for folder in sys.modules[_PACKAGE].__path__]
    return status.st_uid in owners and not status.st_mode & stat.S_IWOTH


def _places_to_read(target_context: Any) -> list[tuple[str, tuple[str, str, str]]]:
    """Return the folders that are looked into, the first first, each with the processor that its code must be for."""
    triple, _, features = host = target_context.codegen().magic_tuple()
    found = [(place, host) for place in _places() if _is_safe(place)]
    if set(features.split(",")) >= _BASELINE_FEATURES:
        folders = sys.modules[_PACKAGE].__path__
        found += [(os.path.join(folder, READY_MADE), (triple, BASELINE, "")) for folder in folders]
    return found


def builds(fingerprint: str, target_context: Any) -> dict[str, int]:
    """Return the folders whose code this process can use, the first first, with their numbers of entries."""
    counts = {}
    for place, cpu in _places_to_read(target_context):
        folder = _folder_of(place, _build(fingerprint, cpu))
        with contextlib.suppress(OSError):  # it is not there
            counts[folder] = sum(name.endswith(_SUFFIX) for name in os.listdir(folder))
    return counts


@functools.cache
def place_to_write() -> str:
    """Return the folder to save in; OSError if there is none."""
    problems = []
    for place in _places():
        try:
            os.makedirs(place, mode=0o755, exist_ok=True)
            if not _is_safe(place):
                raise PermissionError(f"other users can write to {place}")
            tempfile.TemporaryFile(dir=place).close()
            return place
        except OSError as error:
            problems.append(str(error))
    raise OSError(f"no folder for compiled code can be written: {'; '.join(problems)}")
