"""What the command line needs before all else is imported: standard descriptors that are open, and an end by Ctrl-C.

Ctrl-C makes the process exit at once, with status 130 and one line, even during its imports. A KeyboardInterrupt would
have to pass through numba and LLVM, which swallow it, print long tracebacks, or crash.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

STATUS = 130  # 128 + SIGINT, as shells report it

#: Files to remove before exiting: names, each with the descriptor of its directory, or paths with None.
temporaries: set[tuple[str, int | None]] = set()


def _leave(number: int, frame: FrameType | None) -> None:
    for name, folder in list(temporaries):
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\r\x1b[K")  # a progress bar, or the notice of what is compiled
        os.write(2, b"python -m iobuf_nb: interrupted\n")
    os._exit(STATUS)


def is_command() -> bool:
    """Return whether this process runs the command line, as the module or as the script."""
    if sys.argv[:1] == ["-m"]:  # while Python is still locating the module
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == __package__
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == "iobuf-nb"


def occupy_standard_descriptors() -> None:
    """Open any closed standard descriptor: otherwise the next file could become standard error."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def leave_at_once() -> None:
    """Make Ctrl-C exit the process, unless SIGINT is ignored or has another handler."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def ignore() -> None:
    """Ignore Ctrl-C once the work is done: during finalization it would kill the process."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
