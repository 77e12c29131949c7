"""The notice: on a terminal, a line that says what is compiled while that takes long, and is erased at the end.

numba tells its listeners when a compilation starts and ends, nested ones too, and holds its compiler lock meanwhile: so
one thread at a time comes here. Only functions of this package count, and what is compiled inside of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from numba.core import event
from numba.core.compiler_lock import global_compiler_lock

from .._log import logger

PATIENCE_S = 1.0  # how long kernels are compiled in silence; also the longest pause between two that count as one
ERASED = "\r\x1b[K"  # to the start of the line, and clear it

_PACKAGE = __name__.partition(".")[0]


class Notice(event.Listener):
    """What is compiled now, and since when."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what is compiled: its end will not be told."""
        self._outermost: Any = None  # identifies it
        self._begin = 0.0  # of it
        self._start = 0.0  # of the first of those that count as one
        self._end = -PATIENCE_S  # of the last one
        self._name = self._shown = ""

    def on_start(self, event: Any) -> None:
        """Note the start of a compilation, as numba tells it."""
        function: Any = getattr(event.data["dispatcher"], "py_func", None)
        own = (getattr(function, "__module__", None) or "").partition(".")[0] == _PACKAGE
        if own or self._outermost is not None:
            self.begin(event.data, function.__name__ if own else "")

    def on_end(self, event: Any) -> None:
        """Note the end of a compilation, as numba tells it."""
        self.end(event.data)

    def begin(self, compilation: Any, name: str) -> None:
        """Note that a function is compiled, and show it if that has taken long already."""
        now = monotonic()
        if self._outermost is None:
            self._outermost, self._begin = compilation, now
            if now - self._end > PATIENCE_S:
                self._start = now
        if name.isidentifier():  # not "<lambda>"
            self._name = name
        if now - self._start > PATIENCE_S and self._name != self._shown:
            self._shown = self._name if _show(f"compiling kernels, once: {self._name}") else ""

    def end(self, compilation: Any) -> None:
        """Erase the line if it was the outermost one, and end it."""
        if compilation is self._outermost:
            self._outermost = None
            self._end = monotonic()
            logger.debug("compiled or loaded %s in %.2f s", self._name or "a kernel", self._end - self._begin)
            if self._shown:
                _show("")
            self._name = self._shown = ""


def _show(text: str) -> bool:
    """Replace the current line of standard error, if it is a terminal; return whether it is."""
    with suppress(AttributeError, OSError, ValueError):  # it is None, hung up or closed
        if sys.stderr.isatty():
            columns = 0
            with suppress(OSError):
                columns = os.get_terminal_size(sys.stderr.fileno()).columns
            sys.stderr.write(ERASED + text[: (columns or 80) - 1])  # a line that wraps cannot be erased
            sys.stderr.flush()
            return True
    return False


_notice = Notice()
event.register("numba:compile", _notice)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notice.reset)


@contextmanager
def compiling(name: str) -> Iterator[None]:
    """Note that a C function is compiled in a ``with`` block, which numba tells nobody."""
    with global_compiler_lock:
        compilation = object()
        _notice.begin(compilation, name)
        try:
            yield
        finally:
            _notice.end(compilation)


@contextmanager
def silence() -> Iterator[None]:
    """Show nothing in a ``with`` block, which shows its own progress."""
    event.unregister("numba:compile", _notice)
    _notice.reset()
    try:
        yield
    finally:
        event.register("numba:compile", _notice)
