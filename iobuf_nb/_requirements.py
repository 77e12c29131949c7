"""What this library needs of the machine and the interpreter.

Its import, before that of numpy and numba, raises ImportError: they refuse some of the same, in other words, at length.
"""

import importlib
import sys
from contextlib import suppress


def _in_main_interpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # in Python 3.13, and before
        with suppress(ImportError):
            interpreters = importlib.import_module(name)
            return bool(interpreters.get_current() == interpreters.get_main())
    return True


if sys.maxsize < 2**63 - 1:
    raise ImportError("iobuf_nb needs a 64-bit Python: its queues are made of 64-bit atomic words")
if sys.byteorder != "little":
    raise ImportError("iobuf_nb needs a little-endian processor: futex(2) compares the first half of a word")
if not _in_main_interpreter():
    raise ImportError("iobuf_nb needs the main interpreter: numba, and what it compiles, serve one in a process")
