"""Scan: exact for any source and any split into buffers, and every failure ends it cleanly."""

import _thread
import errno
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_copy import AsBytes

import iobuf_nb
from iobuf_nb import Tier, scan
from iobuf_nb.__main__ import main

BUFFER = Tier.SMALL.size


def text(n, seed=0):
    """Return `n` bytes with an uneven histogram and some line ends."""
    return np.random.default_rng(seed).geometric(0.05, n).astype(np.uint8).tobytes()


def check(result, data):
    array = np.frombuffer(data, np.uint8)
    assert result.bytes == len(data)
    assert result.lines == data.count(b"\n")
    assert (result.histogram == np.bincount(array, minlength=256)).all()
    shares = np.bincount(array) / max(len(data), 1)
    shares = shares[shares > 0]
    assert result.entropy == pytest.approx(-(shares * np.log2(shares)).sum() if len(data) else 0)
    assert result.seconds > 0


@pytest.fixture
def file(tmp_path):
    def make(data):
        path = tmp_path / "data"
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize("n", [0, 1, 7, BUFFER - 1, BUFFER, BUFFER + 1, 10 * BUFFER, 1_000_003])
@pytest.mark.parametrize("workers, buffers", [(1, 1), (2, 2), (3, 16)])
def test_files(file, n, workers, buffers):
    data = text(n)
    check(scan(file(data), workers=workers, buffers=buffers, tier=Tier.SMALL), data)


@given(
    st.integers(0, 20_000),
    st.integers(1, 4),
    st.integers(1, 40),
    st.sampled_from([1, 16, 100, 256, 1000, 4096]),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=60)
def test_any_split(tmp_path_factory, n, workers, buffers, size, seed):
    path = tmp_path_factory.mktemp("scan") / "data"
    data = text(n, seed)
    path.write_bytes(data)
    check(scan(path, workers=workers, buffers=buffers, tier=size), data)


@pytest.mark.parametrize("chunk", [1, 100, 70_000])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_pipes_and_sockets(kind, chunk):
    data = text(3000 if chunk == 1 else 1_000_003)
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())

    def write():
        for start in range(0, len(data), chunk):
            piece = data[start : start + chunk]
            while piece:
                piece = piece[os.write(writer, piece) :]
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    check(scan(reader, buffers=4, tier=Tier.MEDIUM), data)
    thread.join()
    os.close(reader)  # still ours


def test_a_descriptor_is_read_from_where_it_stands(file):
    data = text(100_000)
    with open(file(data), "rb") as opened:
        os.lseek(opened.fileno(), 777, os.SEEK_SET)
        check(scan(opened.fileno(), tier=Tier.MICRO), data[777:])


def test_files_of_the_proc_file_system():
    assert scan("/proc/self/status").lines == Path("/proc/self/status").read_text().count("\n")


def test_files_whose_size_is_only_nominal():
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    result = scan(path)
    assert result.bytes == len(Path(path).read_bytes()) < os.stat(path).st_size


def test_a_descriptor_is_left_at_its_end(file):
    with open(file(text(1000)), "rb") as opened:
        scan(opened.fileno())
        assert os.lseek(opened.fileno(), 0, os.SEEK_CUR) == 1000


def test_a_connection_that_breaks_is_an_error():
    server = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(server.getsockname())
    receiver, _ = server.accept()
    sender.sendall(text(20_000))
    # Closing with this option set breaks the connection off (RST) instead of ending it (FIN).
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def break_off(done, size):
        sender.close()

    with server, receiver, pytest.raises(ConnectionResetError, match="Connection reset by peer at offset"):
        scan(receiver.fileno(), progress=break_off)


def test_threads_that_cannot_be_started(file, monkeypatch, capsys, threads_end):
    start, started = _thread.start_new_thread, []

    def fail(*arguments):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(start(*arguments))

    monkeypatch.setattr(_thread, "start_new_thread", fail)
    path = str(file(text(1000)))
    assert main(["scan", "--workers", "4", path]) == 1
    assert capsys.readouterr().err == f"python -m iobuf_nb: {path}: can't start new thread\n"
    assert len(started) == 2


def test_results_can_be_compared_and_hashed(file):
    result = scan(file(b"x"))
    assert result == result and result != scan(file(b"x")) and hash(result)


def test_progress_reaches_the_end(file):
    seen = []
    scan(file(text(10_000)), progress=lambda done, size: seen.append((done, size)))
    assert seen[-1] == (10_000, 10_000)


@pytest.mark.parametrize(
    "source, options, error, message",
    [
        ("/nonexistent/file", {}, FileNotFoundError, "No such file.*'/nonexistent/file'"),
        ("/tmp", {}, IsADirectoryError, "Is a directory: '/tmp'"),
        (None, {}, TypeError, "source must be a path, a file descriptor or .* not None"),
        (True, {}, TypeError, "source must be .* not True"),
        (1.5, {}, TypeError, "source must be .* not 1.5"),
        (9999, {}, OSError, "Bad file descriptor"),
        (2**40, {}, ValueError, "source .a file descriptor. must be an integer from 0 to"),
        ("/dev/null", {"workers": 0}, ValueError, "workers must be an integer from 1 to 1024, not 0"),
        ("/dev/null", {"workers": "2"}, TypeError, "workers must be .* not '2'"),
        ("/dev/null", {"buffers": 0}, ValueError, "buffers must be .* not 0"),
        ("/dev/null", {"tier": 0}, ValueError, "tier must be .* not 0"),
        ("/proc/self/mem", {}, OSError, "Input/output error at offset 0: '/proc/self/mem'"),
    ],
)
def test_refuses(source, options, error, message, threads_end):
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(error, match=message):
        scan(source, **options)
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("as_path", [os.fsencode, AsBytes, str], ids=["bytes", "PathLike of bytes", "str"])
def test_paths_of_all_kinds(file, tmp_path, as_path):
    odd = tmp_path / os.fsdecode(b"\xff \xc3\xa9")
    file(text(1000)).rename(odd)
    check(scan(as_path(odd)), text(1000))
    check(scan([as_path(odd), as_path(odd)]), text(1000) * 2)
    with pytest.raises(FileNotFoundError) as caught:
        scan(as_path(f"{odd}?"))
    assert caught.value.filename == f"{odd}?"
    with pytest.raises(ValueError, match="source must be a path that the system can take, not b'"):
        scan(b"a\0b")


@pytest.mark.parametrize("how", ["None", "closed"])
def test_a_bar_that_nobody_sees(file, monkeypatch, how):
    stderr = io.StringIO()
    stderr.close()
    monkeypatch.setattr(sys, "stderr", None if how == "None" else stderr)
    check(scan(file(text(1000)), progress=True), text(1000))
    check(scan([file(text(1000))] * 2, progress=True), text(1000) * 2)
    with open("/proc/version", "rb") as source:  # whose size is not known
        scan(source.fileno(), progress=True)
    assert iobuf_nb.copy("/proc/version", file(b""), progress=True).bytes


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become nobody")
def test_an_unreadable_file(file):
    path = file(b"secret")
    path.chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="Permission denied"):
            scan(path)
    finally:
        os.seteuid(0)


@pytest.mark.compiled
def test_a_file_that_shrinks_while_it_is_read(file):
    path = file(b"")
    os.truncate(path, 8 << 30)  # a hole, which takes longer to read than until `progress` is called

    def shrink(done, size):
        os.truncate(path, 100 << 20)

    with pytest.raises(OSError, match="Changed while it was read, after .* of 8589934592 bytes") as caught:
        scan(path, progress=shrink)
    assert caught.value.errno == errno.EIO and caught.value.filename == str(path)


def test_an_error_in_progress_stops_everything(file, threads_end):
    def fail(done, size):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        scan(file(text(10_000)), progress=fail)


# ---- the command line ------------------------------------------------------------------------------------------------


def run(*arguments, **options):
    command = [sys.executable, "-m", "iobuf_nb", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, **options)


def test_json_agrees_with_wc(file, capsys):
    data = text(300_000)
    path = file(data)
    assert main(["scan", "--json", str(path), "--workers", "3", "--buffers", "5", "--tier", "medium"]) == 0
    result = json.loads(capsys.readouterr().out)
    lines, size = map(int, subprocess.run(["wc", "-lc", path], capture_output=True).stdout.split()[:2])
    assert (result["lines"], result["bytes"]) == (lines, size)
    assert result["histogram"] == np.bincount(np.frombuffer(data, np.uint8), minlength=256).tolist()
    assert result["source"] == str(path) and result["gb_per_s"] > 0 and result["seconds"] > 0


@pytest.mark.compiled
def test_standard_input():
    data = text(300_000)
    result = run("scan", "--json", "-", input=data)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["bytes"] == len(data)


def test_text_output(file, capsys):
    assert main(["scan", str(file(b"aab\n"))]) == 0
    out = capsys.readouterr().out
    assert "bytes    4\n" in out and "lines    1\n" in out and "b'a' 2" in out and "entropy  1.500000 bits" in out


@pytest.mark.compiled
def test_without_a_path_it_makes_its_own_file_and_removes_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["scan", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] == 256 << 20 and result["source"].startswith(str(tmp_path))
    assert result["entropy"] > 7.99
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
@pytest.mark.parametrize("size", ["1m", "4k"])
def test_a_temporary_folder_that_is_full(size, tmp_path, monkeypatch, capsys):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path], check=True)
    try:
        (tmp_path / "full").write_bytes(bytes(1 << 12))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert main(["scan"]) == 1
        told = f"{tmp_path}: No space left on device, for a file of 256 MiB; TMPDIR names another folder\n"
        assert capsys.readouterr() == ("", f"python -m iobuf_nb: {told}")
        assert os.listdir(tmp_path) == ["full"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    "folder, reason", [("missing", "No such file or directory"), ("file", "Not a directory"), ("/proc", "No such file")]
)
def test_a_temporary_folder_that_is_none(folder, reason, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / folder))
    assert main(["scan"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"python -m iobuf_nb: {tmp_path / folder}: {reason}")
    assert "TMPDIR names another folder" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["scan", ""], 1, "'': No such file or directory"),
        (["scan", "/nonexistent"], 1, "/nonexistent: No such file or directory"),
        (["scan", "/tmp"], 1, "/tmp: Is a directory"),
        (["scan", "/proc/self/mem"], 1, "/proc/self/mem: Input/output error at offset 0"),
        (["scan", "/dev/null", "--workers", "0"], 2, "workers must be an integer from 1 to 1024, not 0"),
        (["scan", "/dev/null", "--buffers", "-3"], 2, "buffers must be an integer from 1 to 4294967296, not -3"),
        (["scan", "/dev/null", "--buffers", "1099511627776"], 2, "buffers must be"),
        (["scan", "/dev/null", "--buffers", "400000000"], 2, "address space"),
    ],
)
def test_failures_are_one_sentence(arguments, status, message, capsys):
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["scan", "--tier", "enormous"], ["scan", "--workers", "two"], ["fly"], []])
def test_unusable_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert iobuf_nb.__version__ in capsys.readouterr().out


def shell(script):
    return subprocess.run(["sh", "-c", script, "sh", sys.executable], capture_output=True, text=True, timeout=300)


@pytest.mark.compiled
def test_standard_input_that_is_closed():
    result = shell('"$1" -m iobuf_nb scan - <&-')
    assert (result.returncode, result.stderr) == (1, "python -m iobuf_nb: -: standard input is closed\n")


@pytest.mark.compiled
def test_an_output_pipe_that_is_closed_early():
    result = shell('{ "$1" -m iobuf_nb scan --json pyproject.toml; echo $? >&2; } | true')
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr
    assert result.stderr.split() in (["0"], ["1"])  # as the reader was quicker or slower


@pytest.mark.compiled
def test_a_full_disk_under_the_output():
    result = shell('"$1" -m iobuf_nb scan --json pyproject.toml > /dev/full')
    assert (result.returncode, result.stderr) == (1, "python -m iobuf_nb: standard output: No space left on device\n")


@pytest.mark.compiled
def test_standard_error_that_is_closed():
    assert shell('"$1" -m iobuf_nb scan --json pyproject.toml 2>&-').returncode == 0
    result = shell('"$1" -m iobuf_nb scan /nonexistent 2>&-')
    assert (result.returncode, result.stdout) == (1, "")
    # No file of ours gets its number, which others write messages to.
    assert json.loads(shell('"$1" -m iobuf_nb scan --json /dev/fd/2 2>&-').stdout)["bytes"] == 0


@pytest.mark.compiled
def test_standard_output_that_is_closed():
    result = shell('"$1" -m iobuf_nb scan pyproject.toml >&-')
    assert (result.returncode, result.stderr) == (1, "python -m iobuf_nb: standard output: closed\n")


ENCODINGS = {
    "UTF-8": {"PYTHONIOENCODING": "utf-8:strict"},
    "ASCII": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"LC_ALL": "C"},
    "only C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.compiled
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_file_names_that_are_no_text(tmp_path, encoding):
    path = os.fsencode(tmp_path) + b"/\xff \xc3\xa9\n"
    Path(os.fsdecode(path)).write_bytes(b"one\n")
    environment = {**os.environ, **ENCODINGS[encoding]}
    command = [sys.executable, "-m", "iobuf_nb"]

    def output(*arguments, status=0):
        result = subprocess.run([*command, *arguments], capture_output=True, env=environment)
        assert result.returncode == status and b"Traceback" not in result.stderr, result.stderr
        return result.stderr if status else result.stdout

    assert b"\\xff " in output("scan", path)
    assert "\\xff" in json.loads(output("scan", "--json", path))["source"]
    assert b"\\xff" in output("scan", path + b"?", status=1)
    assert b"\\xff" in output("copy", path, path, status=1)
    assert output("copy", path, path + b"+").startswith(b"4 bytes")


def test_without_the_jit_it_says_so():
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    result = run("scan", "pyproject.toml", env=environment)
    assert (result.returncode, result.stdout) == (2, b"") and b"unset NUMBA_DISABLE_JIT" in result.stderr


# Stands for numba, the largest of what is imported first.
CTRL_C_WHILE_IMPORTING = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
print("still here", flush=True)
os._exit(7)
"""


@pytest.mark.parametrize(
    "script, before, status, err",
    [
        ("-m iobuf_nb scan", "SIG_DFL", 130, "python -m iobuf_nb: interrupted\n"),
        ("-m iobuf_nb copy a b", "SIG_DFL", 130, "python -m iobuf_nb: interrupted\n"),
        ("-miobuf_nb", "SIG_DFL", 130, "python -m iobuf_nb: interrupted\n"),
        ("folder/iobuf-nb scan", "SIG_DFL", 130, "python -m iobuf_nb: interrupted\n"),
        ("-m iobuf_nb scan", "SIG_IGN", 7, ""),
        ("-m another", "SIG_DFL", -2, "KeyboardInterrupt\n"),
    ],
)
def test_ctrl_c_while_importing(tmp_path, script, before, status, err):
    (tmp_path / "numba.py").write_text(CTRL_C_WHILE_IMPORTING)
    (tmp_path / "another.py").write_text("import iobuf_nb\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "iobuf-nb").write_text("from iobuf_nb.__main__ import main\nmain()\n")
    start = f"import os, signal, sys; signal.signal(2, signal.{before}); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", start, sys.executable, *script.split()]
    path = f"{tmp_path}:{Path(iobuf_nb.__file__).parents[1]}"
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, timeout=60
    )
    assert result.returncode == status and result.stderr.endswith(err)
    assert status < 0 or result.stderr == err
    assert result.stdout == ("still here\n" if before == "SIG_IGN" else "")


CTRL_C_ON_A_SAMPLE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
import iobuf_nb.__main__ as command

def interrupted(source, **options):
    assert os.path.getsize(source)
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()

command.scan, command._SAMPLE_BYTES, command.INTERPRETED = interrupted, 1 << 24, False
raise SystemExit(command.main(["scan"]))
"""


def test_ctrl_c_leaves_no_sample(tmp_path):
    (tmp_path / "iobuf-nb").write_text(CTRL_C_ON_A_SAMPLE)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "iobuf-nb")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (result.returncode, result.stderr) == (130, "python -m iobuf_nb: interrupted\n")
    assert os.listdir(tmp_path) == ["iobuf-nb"]


SCAN_STANDARD_INPUT = """
import signal
from iobuf_nb.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
print("ready", flush=True)
raise SystemExit(main(["scan", "-"]))
"""


@pytest.mark.compiled
def test_ctrl_c_on_a_silent_pipe():
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", SCAN_STANDARD_INPUT],
        stdin=reader,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "ready\n"
        os.write(writer, b"x" * 100)
        # Once the pipe is empty the scan runs and waits for more.
        while child.poll() is None and select_readable(reader):
            pass
        child.send_signal(2)
        assert child.wait(60) == 130
        assert child.stderr.read() == "python -m iobuf_nb: interrupted\n"
    os.close(reader)
    os.close(writer)


def select_readable(fd):
    import select

    return bool(select.select([fd], [], [], 0.01)[0])
