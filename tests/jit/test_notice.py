"""The notice of what is compiled: on a terminal only, of this library only, when it takes long, and erased after it."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest
from numba.core import event
from support import environment

from iobuf_nb._jit import notice
from iobuf_nb._jit.notice import ERASED


class Terminal(io.StringIO):
    """A terminal without a size."""

    def isatty(self):
        return True


@pytest.fixture
def now(monkeypatch):
    """Let the test say what time it is: long after anything that was compiled before."""
    now = [1000.0]
    monkeypatch.setattr(notice._notice, "_end", 0.0)
    monkeypatch.setattr(notice, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(notice, "sys", SimpleNamespace(stderr=terminal))  # not sys.stderr, which pytest replaces
    return terminal


def compiled(name, module="iobuf_nb._free.queue"):
    """Tell numba's listeners, for a ``with`` block, that a function is compiled."""
    function = SimpleNamespace(__name__=name, __module__=module)
    return event.trigger_event("numba:compile", {"dispatcher": SimpleNamespace(py_func=function)})


def shown(*names):
    return "".join(f"{ERASED}compiling kernels, once: {name}" for name in names)


def test_what_takes_a_second_is_silent(now, terminal):
    with compiled("get"):
        now[0] += 1
        with compiled("load"):
            pass
    assert terminal.getvalue() == ""


def test_what_takes_longer_is_shown_and_erased(now, terminal):
    with compiled("get"):
        now[0] += 1.1
        with compiled("load"):
            assert terminal.getvalue() == shown("load")
            with compiled("<lambda>"), compiled("add", "numba.np.arrayobj"):  # names that say nothing
                pass
        with compiled("load"), compiled("store"):
            pass
        assert terminal.getvalue() == shown("load", "store")
    assert terminal.getvalue() == shown("load", "store") + ERASED
    with compiled("put"):
        now[0] += 2
        with compiled("<lambda>"):
            pass
    assert terminal.getvalue() == shown("load", "store") + ERASED + shown("put") + ERASED


def test_one_after_the_other_counts_as_one(now, terminal):
    for _ in range(2):
        with compiled("get"):
            now[0] += 0.4
        now[0] += 0.2
    with compiled("put"):
        assert terminal.getvalue() == shown("put")
    before = terminal.getvalue()
    now[0] += 1.1
    with compiled("get"):
        assert terminal.getvalue() == before


def test_kernels_of_others_do_not_count(now, terminal):
    with compiled("kernel", "__main__"):
        now[0] += 100
        with compiled("other", "iobuf_nb_of_another"), compiled("helper", None):
            assert terminal.getvalue() == ""
        with compiled("get"):
            now[0] += 2
            with compiled("load"):
                pass
        assert terminal.getvalue() == shown("load") + ERASED


def test_c_functions_are_told_of_by_who_compiles_them(now, terminal):
    with notice.compiling("outer"):
        now[0] += 2
        with notice.compiling("inner"):
            pass
        assert terminal.getvalue() == shown("inner")
    assert terminal.getvalue() == shown("inner") + ERASED


def test_an_error_ends_it_too(now, terminal):
    for block in (compiled, notice.compiling):
        with pytest.raises(ZeroDivisionError), block("get"):
            now[0] += 2
            with compiled("load"):
                raise ZeroDivisionError
        assert terminal.getvalue() == shown("load") + ERASED
        terminal.truncate(0), terminal.seek(0)
        now[0] += 2


@pytest.mark.parametrize("stderr", ["no terminal", "closed", "None"])
def test_nothing_is_written_where_nobody_looks(now, monkeypatch, stderr):
    file = Terminal() if stderr == "closed" else io.StringIO()
    if stderr == "closed":
        file.close()
    monkeypatch.setattr(notice, "sys", SimpleNamespace(stderr=None if stderr == "None" else file))
    with compiled("get"):
        now[0] += 2
        with compiled("load"):
            pass
    assert stderr != "no terminal" or file.getvalue() == ""


COMPILE = """
from iobuf_nb import BoundedQueue
from iobuf_nb._jit import notice

clock = iter(range(1000))
notice.monotonic = lambda: 2.0 * next(clock)
BoundedQueue(1).was_size()
"""


@pytest.mark.compiled
@pytest.mark.parametrize("columns", [80, 30, 0])
def test_on_a_terminal(tmp_path, columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    caches = [environment(NUMBA_CACHE_DIR=str(tmp_path / name)) for name in ("one", "other")]
    for stderr, env in zip((theirs, subprocess.PIPE), caches, strict=True):
        done = subprocess.run([sys.executable, "-c", COMPILE], stderr=stderr, env=env, timeout=300)
        assert done.returncode == 0 and not done.stderr
    os.close(theirs)
    told = os.read(ours, 10_000).decode()
    os.close(ours)
    assert told == ERASED + "compiling kernels, once: _first_open"[: (columns or 80) - 1] + ERASED


def test_silence(now, terminal):
    with notice.silence(), compiled("get"):
        now[0] += 2
        with compiled("load"):
            pass
    assert terminal.getvalue() == ""
    with compiled("get"):
        now[0] += 2
        with compiled("load"):
            pass
    assert terminal.getvalue() == shown("load") + ERASED
