"""Output: what kernels return arrives whole and in order, or not at all."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from numba import njit
from recording import none_left, open_descriptors
from streaming import fed
from support import CTRL_C, in_a_child, names, needs_root, small_disk, until, without_rights

from iobuf_nb import StreamError, stream

OUTPUTS = ["path", "descriptor", "pipe", "collect"]


@njit(nogil=True)
def keep(buffer, n, offset, state, output):
    """Copy all items."""
    for k in range(n):
        output[k] = buffer[k]
    return n


@njit(nogil=True)
def misuse(buffer, n, offset, state, output):
    """Copy all items, and in the piece with byte `state[0]` do what a kernel must not do."""
    for k in range(n):
        output[k] = buffer[k]
    if offset <= state[0] < offset + n:
        if state[1] == 0:
            return len(output) + 1
        if state[1] == 1:
            return -1
        if state[1] == 2:
            return 1 << 62
        if state[1] == 3:
            raise ZeroDivisionError("no way")
        output[len(output)] = 0  # past the end
    return n


@njit(nogil=True)
def nothing(buffer, n, offset, state, output):
    return 0


def where(kind, folder):
    """Return the argument that says where output goes, and what closes that."""
    if kind == "collect":
        return {"collect": "u1"}, lambda: None
    if kind == "path":
        return {"output": folder / "out"}, lambda: None
    if kind == "descriptor":
        fd = os.open(folder / "opened", os.O_RDWR | os.O_CREAT)
        return {"output": fd}, lambda: os.close(fd)
    reader, writer = os.pipe()
    thread = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 16), b"")])
    thread.start()

    def close():
        os.close(writer)
        thread.join()
        os.close(reader)

    return {"output": writer}, close


MISUSES = [
    "the kernel returned more than the 4096 items for which output has room: pass a larger output_items",
    "the kernel returned a negative number of items, instead of how many of the 4096 of output it has filled",
    "the kernel returned more than the 4096 items for which output has room: pass a larger output_items",
    "no way",
    "the kernel wrote past the end of output, which has 4096 items: pass a larger output_items",
]


@pytest.mark.parametrize("how", range(len(MISUSES)))
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("source", ["path", "pipe"])
@pytest.mark.usefixtures("threads_end")
@pytest.mark.compiled
def test_a_kernel_that_misuses_its_output(file, tmp_path, kind, how, source):
    data = bytes(100_000)
    path = file(data)
    options, close = where(kind, tmp_path)
    try:
        with fed("pipe", data, 5000) as reader, pytest.raises(StreamError, match=MISUSES[how]) as caught:
            stream(path if source == "path" else reader, misuse, state=np.array([50_000, how]), tier=4096, **options)
    finally:
        close()
    assert caught.value.filename == (str(path) if source == "path" else str(reader))
    assert caught.value.offset <= 50_000 < caught.value.offset + 4096
    assert "out" not in names(tmp_path) and not [name for name in names(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_full_device(file, workers):
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match=f"No space left on device: '{full}'") as caught:
        stream(file(bytes(100_000)), keep, output=full, tier=4096, workers=workers)
    assert caught.value.errno == errno.ENOSPC
    os.close(full)


@needs_root
def test_a_full_disk(file, tmp_path):
    with small_disk(tmp_path / "small", 1 << 20) as disk:
        with pytest.raises(OSError, match="No space left on device: '.*/out'") as caught:
            stream(file(bytes(5 << 20)), keep, output=disk / "out")
        assert caught.value.errno == errno.ENOSPC and names(disk) == []
        (disk / "out").write_bytes(b"old")
        with pytest.raises(OSError, match="No space left on device"):
            stream(file(bytes(5 << 20)), keep, output=disk / "out")
        assert names(disk) == ["out"] and (disk / "out").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_has_gone(file, kind):
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    os.close(reader)
    with pytest.raises(BrokenPipeError, match=f"Broken pipe: '{writer}'"):
        stream(file(bytes(100_000)), keep, output=writer, tier=4096)
    os.close(writer)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_goes_in_the_middle(file, kind):
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())

    def read_some():
        for _ in range(5):
            os.read(reader, 10_000)
        os.close(reader)

    thread = threading.Thread(target=read_some)
    thread.start()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        stream(file(bytes(5_000_000)), keep, output=writer)
    thread.join()
    os.close(writer)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_is_slow(file, kind, blocking):
    data = np.random.default_rng(0).bytes(1_000_000)
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    os.set_blocking(writer, blocking)
    got = []

    def read():
        for part in iter(lambda: os.read(reader, 1000), b""):
            got.append(part)
        os.close(reader)

    thread = threading.Thread(target=read)
    thread.start()
    assert stream(file(data), keep, output=writer, workers=3, tier=10_000).written == len(data)
    assert os.get_blocking(writer) == blocking
    os.close(writer)
    thread.join()
    assert b"".join(got) == data


def test_descriptors_that_cannot_be_written(file):
    path = file(bytes(10))
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match=f"output must be open for writing: '{fd}'") as caught:
        stream(path, keep, output=fd)
    assert caught.value.errno == errno.EBADF
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        stream(path, keep, output=fd)
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="output must be open for writing"):
        stream(path, keep, output=reader)
    os.close(reader)
    os.close(writer)


def test_paths_that_cannot_be_written(file, tmp_path):
    path = file(bytes(10))
    opened = open_descriptors()
    with pytest.raises(FileNotFoundError, match="'.*/missing/out'"):
        stream(path, keep, output=tmp_path / "missing" / "out")
    with pytest.raises(ValueError, match=f"output must be a regular file, or a descriptor, not '{tmp_path}'"):
        stream(path, keep, output=tmp_path)
    with pytest.raises(ValueError, match="output must be a regular file, or a descriptor, not '/dev/null'"):
        stream(path, keep, output="/dev/null")
    for bad in (None, 1.5, b"out", "", True, [path]):
        if bad is not None:
            with pytest.raises((TypeError, ValueError), match="output"):
                stream(path, keep, output=bad)
    assert names(tmp_path) == ["data"] and path.read_bytes() == bytes(10)
    none_left(opened)


@needs_root
def test_a_folder_without_rights(file, tmp_path):
    path = file(b"data")
    path.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    with without_rights(), pytest.raises(PermissionError, match="'.*/out'"):
        stream(path, keep, output=tmp_path / "out")
    assert names(tmp_path) == ["data"]


def test_arguments_that_do_not_fit_together(file):
    path = file(bytes(10))

    @njit
    def plain(buffer, n, offset, state):
        return n

    @njit
    def says_nothing(buffer, n, offset, state, output):
        pass

    for options, error, why in [
        ({}, ValueError, "the kernel has a parameter output: say where that goes, by output= or collect="),
        ({"output": path, "collect": "u1"}, ValueError, "output and collect exclude each other"),
        ({"collect": "u1", "output_dtype": "u1"}, ValueError, "output_dtype is for output=: collect= has the dtype"),
        ({"collect": "u1", "output_items": 0}, ValueError, "output_items must be"),
        ({"collect": "O"}, TypeError, "collect"),
        ({"output": 1, "output_dtype": "O"}, TypeError, "output_dtype"),
        ({"output": 1, "output_dtype": "none"}, TypeError, "output_dtype must be one that numba knows, not 'none'"),
    ]:
        with pytest.raises(error, match=why):
            stream(path, keep, **options)
    for options in ({"output_dtype": "u1"}, {"output_items": 1}):
        with pytest.raises(ValueError, match="needs output= or collect="):
            stream(path, plain, **options)
    for name in ("output", "collect"):
        with pytest.raises(TypeError, match=f"{name}= needs a kernel\\(buffer, n, offset, state, output\\)"):
            stream(path, plain, **{name: path if name == "output" else "u1"})
    if not hasattr(says_nothing, "py_func"):
        return  # numba is off
    with pytest.raises(TypeError, match="kernel must return how many items it has put into output, an integer"):
        stream(path, says_nothing, collect="u1")


def test_a_file_that_exists_is_replaced_at_the_end(file, tmp_path):
    data = np.random.default_rng(0).bytes(100_000)
    path, out = file(data), file(b"old", "out")
    out.chmod(0o640)
    link, before = tmp_path / "link", out.stat().st_ino
    link.symlink_to(out)
    seen = []
    stream(path, keep, output=link, progress=lambda *_: seen.append(out.read_bytes()))
    assert seen and set(seen) == {b"old"}
    assert out.read_bytes() == data and out.stat().st_ino != before
    assert stat.S_IMODE(out.stat().st_mode) == 0o640 and link.is_symlink()
    assert names(tmp_path) == ["data", "link", "out"]


def test_the_output_may_be_the_source(file):
    path = file(b"abc" * 10_000)
    assert stream(path, keep, output=path, tier=4096).written == 30_000
    assert path.read_bytes() == b"abc" * 10_000


@pytest.mark.parametrize("options", [{}, {"stop": 100}, {"decompress": "auto"}, {"engine": "mmap"}])
def test_a_descriptor_is_not_source_and_output_at_once(file, options):
    path = file(b"abc" * 10_000)
    other = file(b"else", "other")
    with open(path, "r+b", buffering=0) as opened, open(path, "r+b", buffering=0) as again:
        for source in (opened, opened.fileno(), again, [other, opened]):
            with pytest.raises(ValueError, match="output must not be the file or pipe that is read, .*: pass a path"):
                stream(source, keep, output=opened.fileno(), tier=4096, **options)
        assert opened.tell() == again.tell() == 0 or options
    assert path.read_bytes()[8:] == (b"abc" * 10_000)[8:]


def test_a_pipe_is_not_source_and_output_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    fd = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        with pytest.raises(ValueError, match="output must not be the file or pipe that is read"):
            stream(fd, keep, output=fd)
    finally:
        os.close(fd)


@pytest.mark.usefixtures("threads_end")
def test_a_socket_may_be_source_and_output_at_once():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"echo")
        theirs.shutdown(socket.SHUT_WR)
        assert stream(ours, keep, output=ours).written == 4
        assert theirs.recv(10) == b"echo"


def test_a_new_file_has_the_usual_mode(file, tmp_path):
    before = os.umask(0o027)
    try:
        stream(file(b"abc"), keep, output=str(tmp_path / "out"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


@pytest.mark.parametrize("sources", [b"", []], ids=["empty", "none"])
def test_nothing(tmp_path, sources):
    result = stream(memoryview(sources) if sources == b"" else sources, keep, collect="u1")
    assert result.collected.shape == (0,) and result.collected.dtype == np.uint8 and result.written == 0
    result = stream(memoryview(b"abc"), nothing, collect=("f4", (2, 3)))
    assert result.collected.shape == (0, 2, 3) and result.collected.dtype == np.float32
    out = tmp_path / "out"
    assert stream(sources or memoryview(b""), keep, output=out).written == 0 and out.read_bytes() == b""


@njit(nogil=True)
def rows(buffer, n, offset, state, output):
    """A row of the sum and the largest of each row."""
    for k in range(n):
        output[k, 0] = buffer[k].sum()
        output[k, 1] = buffer[k].max()
    return n


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_of_another_dtype(file, tmp_path, workers):
    data = np.random.default_rng(1).integers(0, 1000, (5000, 7), np.int32)
    expected = np.stack([data.sum(axis=1), data.max(axis=1)], axis=1).astype("f8")
    options = {"dtype": ("i4", (7,)), "workers": workers, "tier": 1000}
    result = stream(file(data.tobytes()), rows, collect=("f8", (2,)), **options)
    assert np.array_equal(result.collected, expected) and result.collected.dtype == np.float64
    assert result.written == expected.nbytes
    result.collected[:] = 0  # it is the user's own
    out = tmp_path / "out"
    assert stream(file(data.tobytes()), rows, output=out, output_dtype=("f8", (2,)), **options).collected is None
    assert out.read_bytes() == expected.tobytes()


@njit(nogil=True)
def repeat(buffer, n, offset, state, output):
    """Each item ten times."""
    for k in range(n):
        output[10 * k : 10 * k + 10] = buffer[k]
    return 10 * n


def test_more_items_than_there_are_in_a_piece(file):
    data = np.random.default_rng(2).bytes(50_000)
    result = stream(file(data), repeat, collect="u1", output_items=10_000, tier=1000)
    assert result.collected.tobytes() == np.repeat(np.frombuffer(data, np.uint8), 10).tobytes()


def test_a_file_is_written_from_where_it_stands(file, tmp_path):
    out = file(b"0123456789", "out")
    with open(out, "r+b", buffering=0) as opened:
        opened.seek(2)
        stream(file(b"abc"), keep, output=opened.fileno())
        opened.write(b"+")
    assert out.read_bytes() == b"01abc+6789"
    fd = os.open(out, os.O_WRONLY | os.O_APPEND)
    stream(file(b"abc" * 1000), keep, output=fd, tier=64, workers=3)
    os.close(fd)
    assert out.read_bytes() == b"01abc+6789" + b"abc" * 1000


@pytest.mark.parametrize("name", ["a missing source", "a directory", "a state that cannot be copied"])
def test_failures_at_the_beginning_leave_nothing(file, tmp_path, name):
    path, opened = file(bytes(10)), open_descriptors()
    source = {"a missing source": tmp_path / "missing", "a directory": tmp_path}.get(name, path)
    state = threading.Lock() if name.startswith("a state") else None
    with pytest.raises((OSError, TypeError)):
        stream([path, source], keep, output=tmp_path / "out", state=state)
    assert names(tmp_path) == ["data"]
    none_left(opened)


def test_what_was_collected_holds_no_descriptor_and_is_not_shared(file):
    path = file(b"abc")
    stream(path, keep, collect="u1")
    opened = open_descriptors()
    kept = [stream(path, keep, collect="u1").collected for _ in range(3)]
    none_left(opened)
    in_a_child(lambda: kept[0].fill(0))
    assert kept[0].tobytes() == b"abc"
    part = kept[1][1:]
    kept.clear()
    assert part.tobytes() == b"bc"


STUCK = """
import os, sys, threading
import numpy as np
from numba import njit
from iobuf_nb import stream

@njit(nogil=True)
def keep(buffer, n, offset, state, output):
    for k in range(n):
        output[k] = buffer[k]
    return n

try:
    stream(sys.argv[1], keep, output=1, workers=3, tier=4096)
except KeyboardInterrupt:
    print("interrupted", threading.active_count(), file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_ctrl_c_while_the_reader_is_stuck(file, kind):
    reader, writer = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    command = [sys.executable, "-c", CTRL_C + STUCK, file(bytes(10_000_000))]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True) as child:
        os.close(writer)
        assert os.read(reader, 100) == bytes(100)
        written = [-1]

        def is_stuck():
            with open(f"/proc/{child.pid}/io") as io:
                written.append(int(io.read().split("wchar: ")[1].split()[0]))
            return written[-1] == written[-2]

        until(is_stuck)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)  # the reader still does not read
    os.close(reader)
    assert said == "interrupted 1\n" and child.returncode == 0


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1"])
def test_links_to_descriptors_are_refused(file, name):
    with pytest.raises(ValueError, match="output must"):
        stream(file(b"data"), keep, output=name)
    assert os.path.exists(name)


def test_what_replaces_a_file_has_its_mode_whatever_the_umask(file, tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o666)
    before = os.umask(0o077)
    try:
        stream(file(b"data"), keep, output=path)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"data" and stat.S_IMODE(path.stat().st_mode) == 0o666
