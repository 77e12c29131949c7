"""Ctrl-C on the command line ends the process at once, with status 130 and one line, also while all is being imported.

As an exception it would have to find its way through numba and LLVM, which drop it, or tell of it at length, or fail.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

STATUS = 130  # as a shell has it

#: Files to remove before: names, each with the descriptor of the directory that it is in, or paths with None.
temporaries: set[tuple[str, int | None]] = set()


def _leave(number: int, frame: FrameType | None) -> None:
    for name, folder in list(temporaries):
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
    with suppress(OSError):
        os.write(2, b"python -m iobuf_nb: interrupted\n")
    os._exit(STATUS)


def is_command() -> bool:
    """Return whether this process runs the command line, as the module or as the script."""
    if sys.argv[:1] == ["-m"]:  # so it is while the module is being looked for
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == __package__
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == "iobuf-nb"


def leave_at_once() -> None:
    """Let Ctrl-C end the process, unless it is told to ignore that, or does something else."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def ignore() -> None:
    """Let Ctrl-C do nothing when all is done: Python, on its way out, would take it for a signal that kills."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
