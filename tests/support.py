"""What several test files need: ways to run a kernel, other threads and processes, files, and pools that are whole."""

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import faces
import numpy as np
import pytest
from numba import njit

import iobuf_nb
from iobuf_nb import BufferPool
from iobuf_nb._free.queue import HEAD, SLOTS, TAIL
from iobuf_nb._memory import segment
from iobuf_nb.uring import Ring

PACKAGE = Path(iobuf_nb.__file__).parent

# It decides what runs between two accesses to shared words; test_interpreted.py runs it as it must be run.
MODEL = Path(__file__).parent / "model"
NEEDS_INTERPRETER = "the model checker needs the JIT to be off: NUMBA_DISABLE_JIT=1 pytest tests/model"

BOTH = pytest.mark.parametrize("jit", [lambda function: function, njit], ids=["python", "kernel"])
JITS = [lambda function: function, njit(nogil=True), njit]
EVERY_WAY = pytest.mark.parametrize("jit", JITS, ids=["python", "nogil kernel", "GIL-holding kernel"])

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
SYSFS = "/sys/kernel/mm/transparent_hugepage"  # its files have 4096 bytes, they say
needs_sysfs = pytest.mark.skipif(not os.path.exists(f"{SYSFS}/enabled"), reason="there is no /sys here")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount something or to become nobody")


class Index:
    """An integer only by its __index__."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value

    def __repr__(self):
        return f"Index({self.value})"


# ---- pools -----------------------------------------------------------------------------------------------------------


def take_all(source, face=faces.python):
    return [index for index in iter(lambda: face.try_get(source), -1)]


def put_all(source, indices, face=faces.python):
    for index in indices:
        face.put(source, index)


def assert_whole(pool):
    """Every buffer is free, and is there exactly once."""
    assert pool.available() == pool.capacity
    taken = take_all(pool)
    assert sorted(taken) == list(range(pool.capacity))
    pool.put_many(np.array(taken))


def in_both_kinds(namespace, name):
    """Return a fixture that runs each test of a file twice: what is `name` there makes private objects, or shared."""
    cls = namespace[name]

    def shared(*arguments, checked=True, **options):
        return cls(*arguments, **({"shared": True} if checked else {"checked": False}), **options)

    @pytest.fixture(autouse=True, params=["private", "shared"])
    def kind(request, monkeypatch):
        if request.param == "shared":
            monkeypatch.setitem(namespace, name, shared)
        return request.param

    return kind


def empty_pool(capacity=1):
    pool = BufferPool(capacity, 16)
    take_all(pool)
    return pool


def place(queue, lap):
    """Set an empty queue as it would be after `lap` laps."""
    position = np.array([lap << queue._index_bits], np.uint64).astype(np.int64)[0]
    queue._words[SLOTS:] = np.array([(2 * lap << queue._index_bits) % 2**64], np.uint64).astype(np.int64)[0]
    queue._words[HEAD] = queue._words[TAIL] = position


@functools.cache
def why_no_io_uring():
    """Return why io_uring cannot be used here, or nothing."""
    try:
        Ring(1).close()
    except (ImportError, OSError) as error:
        return str(error)
    return ""


def line_of(path, text):
    """Return the number of the first line of a file that contains a text."""
    return next(k for k, line in enumerate(Path(path).read_text().splitlines(), 1) if text in line)


# ---- threads and signals ---------------------------------------------------------------------------------------------


def until(condition):
    """Go on when something holds, which must be within a minute."""
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "that never came"
        time.sleep(0.001)


def elsewhere(call, *arguments):
    """Call in a thread that ends with the call; return or raise what that did."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call, *arguments).result()


@contextmanager
def beside(function):
    """Run a function in a thread, which must have come to its end with the block."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


class Alarm(Exception):
    """What `ring` raises."""


def ring(*_):
    raise Alarm("rang")


@contextmanager
def alarms(handler, first=0.01, every=0.01):
    """Have SIGALRM come and be handled, once if `every` is 0."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, first, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_a_signal_ends(wait):
    """An exception that a signal's handler raises ends a wait at once; the machine may be busy a while."""
    late = []
    while not late or (min(late) >= 0.1 and len(late) < 20):
        start = time.monotonic()
        with pytest.raises(Alarm, match="rang"), alarms(ring, 0.1, 0):
            wait()
        late.append(time.monotonic() - start - 0.1)
    assert min(late) < 0.1


# ---- processes -------------------------------------------------------------------------------------------------------


def in_a_child(check):
    """Call `check` in a forked child; fail with what it said if it raised."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12 of forks beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said


#: Begins a script in which Ctrl-C raises KeyboardInterrupt.
CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
"""

PRELUDE = (
    CTRL_C
    + """
import asyncio, atexit, contextlib, faulthandler, gc, multiprocessing, os, sys, threading
import numpy as np
from numba import njit
import iobuf_nb
from iobuf_nb import *
from iobuf_nb._free import deque
from iobuf_nb._free.queue import GETTERS, LINE_PAIR
from iobuf_nb._jit import c_methods, python_objects
from iobuf_nb._pools import magazine as magazines

faulthandler.enable()

def expect(error, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except error as raised:
        return str(raised)
    raise AssertionError(f"no {error.__name__} came")

def until(condition):
    while not condition():
        os.sched_yield()

ways = {"python": lambda function: function, "nogil": njit(nogil=True), "gil": njit}
"""
)


#: Begins a script with `forbid`, which makes system calls fail with EPERM, and returns whether it could.
FORBID = """
import ctypes

class Filter(ctypes.Structure):  # struct sock_filter
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]

class Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.POINTER(Filter))]

def forbid(*calls):
    # Load the number of the call; if it is one of these: EPERM; else go on.
    filters = [Filter(0x20, 0, 0, 0)]
    for call in calls:
        filters += [Filter(0x15, 0, 1, call), Filter(6, 0, 0, 0x50001)]
    filters.append(Filter(6, 0, 0, 0x7FFF0000))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    program = Program(len(filters), (Filter * len(filters))(*filters))
    return prctl(22, 2, ctypes.byref(program), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""


def environment(**settings):
    """Return the environment in which a process finds this library wherever it starts."""
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **settings}


def python(*arguments, text=True, stdin=None, cwd=None, **settings):
    """Run Python in a process of its own; return how it ended and what it wrote."""
    # Since 3.12 Python warns of forks beside threads, which are what some of this is about.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", *arguments]
    options = {"env": environment(**settings), "input": stdin, "text": text, "cwd": cwd, "timeout": 300}
    return subprocess.run(command, capture_output=True, **options)


def said(*arguments, **options):
    """Return what Python wrote in a process of its own, if all went well and it had nothing to complain of."""
    done = python(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, ""), f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def run_file(directory, script, **settings):
    """Return what a script in a file writes; what numba caches of it is in `directory`."""
    path = directory / "script.py"
    if not path.exists():  # the time of its change counts for numba
        path.write_text(textwrap.dedent(script))
    return said(str(path), cwd=directory, **settings)


def beginning_with(start):
    """Return the names of shared pools and queues that begin so."""
    return [name for name in segment.names() if name.startswith(start)]


class Process:
    """A script, begun with PRELUDE, in a process of its own, in a session with all its children."""

    def __init__(self, script, *arguments, file=None, flags=(), **settings):
        command = [sys.executable, "-W", "ignore::DeprecationWarning", *flags]
        if file is None:
            command += ["-c", PRELUDE + script]
        else:
            if not file.exists():  # the time of its change counts for numba
                file.write_text(PRELUDE + script)
            command += [str(file)]
        try:
            self.popen = subprocess.Popen(
                [*command, *map(str, arguments)],
                env=environment(**settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",  # which Python looks into before PYTHONPATH
                start_new_session=True,
            )
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            pytest.skip("Linux cannot start this Python: it is of another processor, and not registered (binfmt_misc)")

    def says(self, line):
        """Wait for its next line, which must be this one."""
        assert self.popen.stdout.readline() == line + "\n", self.finish()

    def until_it_sleeps(self):
        """Go on when it waits: nothing else in these scripts sleeps."""
        until(lambda: Path(f"/proc/{self.popen.pid}/stat").read_text().split()[2] == "S")

    def finish(self, timeout=300):
        """Wait for its end, and return how it ended and what it wrote; one that hangs is aborted."""
        try:
            output, errors = self.popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGABRT)  # faulthandler then tells where it is
            output, errors = self.popen.communicate()
            errors = f"it hangs:\n{errors}"
        return self.popen.returncode, output, errors

    def output(self, timeout=300):
        """Return what it wrote, if all went well and it had nothing to complain of."""
        status, output, errors = self.finish(timeout)
        assert (status, errors) == (0, ""), f"status {status}\n{output}\n{errors}"
        return output.strip()


def run(script, *arguments, **options):
    return Process(script, *arguments, **options).output()


def interrupted(script, *arguments):
    """Return what a script writes after Ctrl-C in the wait that follows its first line, "waiting"."""
    process = Process(script, *arguments)
    process.says("waiting")
    process.until_it_sleeps()
    process.popen.send_signal(signal.SIGINT)
    return process.output(60)


def copied_package(path):
    """Return where a copy of the library is, with nothing compiled."""
    shutil.copytree(PACKAGE, path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    return path


def change(path, old, new):
    """Replace a text that stands in a file once."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def add_a_comment(package):
    """Change a copy of the library in a way that changes nothing it does."""
    path = package / PACKAGE.name / "_free" / "owners.py"
    path.write_text(path.read_text() + "# another comment\n")


# ---- files -----------------------------------------------------------------------------------------------------------


def content(n, seed=0):
    return np.random.default_rng(seed).bytes(n)


def names(folder):
    return sorted(os.listdir(folder))


def files_in(path):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*") if file.is_file()}


class AsBytes:
    """A path whose file system representation is bytes."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fsencode(self.path)


@contextmanager
def small_disk(path, size):
    """Mount an empty file system of `size` bytes, as root only can."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@contextmanager
def without_rights():
    """Be nobody, as root only can."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
