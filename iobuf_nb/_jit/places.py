"""Places: a file and a line as one integer, which kernels carry as a constant in their cached code.

The file is a checksum of its path, because cached code is loaded into processes that have never seen the source. The
path is found again among those that this process knows: of places that were made here, of modules that are loaded, and
of what notebooks and shells have run.
"""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
import sys
import zlib
from types import FrameType, ModuleType
from typing import Any

from numba.core.lowering import BaseLower

from .compile import PACKAGE
from .refusals import caller

_LINE_BITS = 24
_NUMBA_FRAMES = 40  # between the lowering of a statement and that of a call in it, at most

_paths: dict[int, str] = {}


@functools.cache
def _checksum(path: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # the working directory is gone, or this is no path at all
        path = path if path.startswith("<") else os.path.abspath(path)
    return zlib.crc32(path.encode(errors="surrogatepass"))


def place_at(path: str, line: int) -> int:
    """Return a place; never 0."""
    checksum = _checksum(path)
    _paths[checksum] = path
    return checksum << _LINE_BITS | min(line, (1 << _LINE_BITS) - 1) or 1


def frame_outside() -> FrameType | None:
    """Return the frame of the Python code outside this package that has called into it, or an ExitStack that has."""
    frame: FrameType | None = sys._getframe(1)
    while frame and str(frame.f_globals.get("__name__", "")).partition(".")[0] in (PACKAGE, "contextlib"):
        frame = frame.f_back
    return frame


def place_called_from() -> int:
    """Return where Python code outside this package has called into it, or into an ExitStack that has."""
    frame = frame_outside()
    return place_at(frame.f_code.co_filename, frame.f_lineno or 0) if frame else 0


def place_in_kernel() -> int:
    """Return the place of the call that numba is writing code for."""
    frame = caller(BaseLower.lower_block, _NUMBA_FRAMES)
    loc: Any = frame.f_locals["self"].loc if frame else None
    return place_at(loc.filename, loc.line) if loc else 0


def name_of(place: int) -> str:
    """Return a place as text: a path and a line."""
    if place == 0:
        return "a place that is not known"
    checksum, line = place >> _LINE_BITS, place & ((1 << _LINE_BITS) - 1)
    if checksum not in _paths:
        modules = [each for each in list(sys.modules.values()) if type(each) is ModuleType]  # others may load if asked
        files = [vars(module).get("__file__") for module in modules]
        _paths.update({_checksum(path): path for path in [*linecache.cache, *files] if isinstance(path, str)})
    return f"{_paths.get(checksum, 'a file that this process does not know')}:{line}"
