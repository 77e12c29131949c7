"""The commands: what they print, and that every failure is one sentence."""

import _thread
import dataclasses
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import CTRL_C, PACKAGE, content, environment, names, needs_root, python, small_disk

import iobuf_nb
from iobuf_nb.__main__ import main


def test_threads_that_cannot_be_started(file, monkeypatch, capsys, threads_end):
    start, started = _thread.start_new_thread, []

    def fail(*arguments):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(start(*arguments))

    monkeypatch.setattr(_thread, "start_new_thread", fail)
    path = str(file(content(2_000_000)))
    assert main(["scan", "--workers", "4", path]) == 1
    assert capsys.readouterr().err == f"python -m iobuf_nb: {path}: can't start new thread\n"
    assert len(started) == 2


def test_json_agrees_with_wc(file, capsys):
    data = content(300_000)
    path = file(data)
    assert main(["scan", "--json", str(path), "--workers", "3", "--buffers", "5", "--tier", "medium"]) == 0
    result = json.loads(capsys.readouterr().out)
    lines, size = map(int, subprocess.run(["wc", "-lc", path], capture_output=True).stdout.split()[:2])
    assert (result["lines"], result["bytes"]) == (lines, size)
    assert result["histogram"] == np.bincount(np.frombuffer(data, np.uint8), minlength=256).tolist()
    assert result["source"] == str(path) and result["gb_per_s"] > 0 and result["seconds"] > 0


@pytest.mark.compiled
def test_standard_input():
    data = content(300_000)
    result = python("-m", "iobuf_nb", "scan", "--json", "-", stdin=data, text=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["bytes"] == len(data)


def test_standard_input_that_is_broken(file, monkeypatch, capsys):
    with file(b"\x1f\x8b\x08\x00broken").open() as broken:
        monkeypatch.setattr(sys, "stdin", broken)
        assert main(["scan", "-", "--decompress"]) == 1
    assert capsys.readouterr().err.startswith("python -m iobuf_nb: standard input: Broken gzip data")


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


@needs_root
@pytest.mark.parametrize("size", ["1m", "4k"])
def test_a_temporary_folder_that_is_full(size, tmp_path, monkeypatch, capsys):
    with small_disk(tmp_path, size):
        (tmp_path / "full").write_bytes(bytes(1 << 12))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert main(["scan"]) == 1
        told = f"{tmp_path}: No space left on device, for a file of 256 MiB; set TMPDIR to use another folder\n"
        assert capsys.readouterr() == ("", f"python -m iobuf_nb: {told}")
        assert names(tmp_path) == ["full"]


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
    assert "set TMPDIR to use another folder" in err and err.count("\n") == 1


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
        (["copy", "/nonexistent", "/tmp/x"], 1, "/nonexistent: No such file or directory"),
        (["copy", "/dev/zero", "/tmp/x"], 2, "src must be a regular file, not /dev/zero"),
        (["copy", "pyproject.toml", "pyproject.toml"], 1, "the same file"),
        (["copy", "pyproject.toml", "/tmp/x", "--workers", "0"], 2, "workers must be"),
        (["copy", "pyproject.toml", "-"], 2, "dst must be a file, not - "),
        (["copy", "-", "/tmp/x"], 2, "src must be a file, not - "),
        (["copy", "pyproject.toml", ""], 1, "'': No such file or directory"),
        (["copy", "", "/tmp/x"], 1, "'': No such file or directory"),
        (["copy", "pyproject.toml", "/tmp/x/"], 1, "/tmp/x/: No such file or directory"),
    ],
)
def test_failures_are_one_sentence(arguments, status, message, capsys):
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1
    assert not Path("/tmp/x").exists() and not Path("-").exists()


@pytest.mark.parametrize("arguments", [["scan", "--tier", "enormous"], ["scan", "--workers", "two"], ["fly"], []])
def test_unusable_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("seconds, told", [(0.05, False), (0.1, True), (2.345, True)])
def test_the_time_to_get_kernels_ready_is_told_apart(file, monkeypatch, capsys, seconds, told):
    path = str(file(b"one\n"))

    def with_times(call):
        return lambda *args, **named: dataclasses.replace(call(*args, **named), seconds=1.0, compile_seconds=seconds)

    for name, call in ("scan", iobuf_nb.scan), ("copy", iobuf_nb.copy):
        monkeypatch.setattr(f"iobuf_nb.__main__.{name}", with_times(call))
    assert main(["scan", path]) == 0
    assert (f"\nkernels  ready after {seconds:.1f} s\n" in capsys.readouterr().out) == told
    assert main(["scan", "--json", path]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["seconds"], result["compile_seconds"]) == (1.0, seconds)
    assert main(["copy", path, path + ".copy"]) == 0
    after = f" (kernels were ready after {seconds:.1f} s)" * told
    assert capsys.readouterr().out == f"4 bytes in 1.0000 s, 0.00 GB/s{after}\n"


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert iobuf_nb.__version__ in capsys.readouterr().out


def shell(script):
    return subprocess.run(["sh", "-c", script, "sh", sys.executable], capture_output=True, text=True, timeout=300)


LEAVE_A_NAME = """
import os, signal
from iobuf_nb import BufferPool
pool = BufferPool(2, 64, name={name!r})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_names_of_shared_pools_are_listed_and_cleaned(capsys):
    mine, left = (f"test {os.getpid()} {what}" for what in ("mine", "left"))
    subprocess.run([sys.executable, "-c", LEAVE_A_NAME.format(name=left)], env=environment())
    with iobuf_nb.BufferPool(4, 64, name=mine):
        assert main(["shared"]) == 0
        lines = capsys.readouterr().out.splitlines()
        (line,) = (line for line in lines if line.startswith(f"{mine}: "))
        assert re.fullmatch(rf".*: BufferPool of 4, [\d,]+ bytes, used by {os.getpid()}", line)
        assert any(line.startswith(f"{left}: ") and line.endswith("used by nobody") for line in lines)
        assert main(["shared", "--clean"]) == 0
        cleaned = capsys.readouterr().out.splitlines()
        assert f"{left}: removed" in cleaned and f"{mine}: removed" not in cleaned
        assert main(["shared", "--json"]) == 0
        about = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
        assert about[mine]["processes"] == [os.getpid()] and left not in about
    assert main(["shared", "--list"]) == 0
    assert mine not in capsys.readouterr().out


def test_what_only_looks_like_a_shared_pool_is_listed_and_left_alone(capsys):
    name = f"test {os.getpid()} other"
    path = Path(f"/dev/shm/iobuf_nb.{name}")
    path.write_text("other")
    try:
        assert main(["shared", "--clean"]) == 0
        assert f"{name}: {path} is no shared pool or queue" in capsys.readouterr().out
        assert path.read_text() == "other"
    finally:
        path.unlink()


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


# A command for each list of arguments, to which the name of a file may be added, and what it wrote.
COMMANDS = """
import sys
from iobuf_nb.__main__ import main

for arguments in (["scan", ""], ["scan", "--json", ""], ["scan", "?"], ["copy", "", ""], ["copy", "", "+"]):
    status = main([each if each.isalpha() or each[:2] == "--" else sys.argv[1] + each for each in arguments])
    for stream in (sys.stdout, sys.stderr):
        stream.write(f"({status})\\0")
        stream.flush()
"""


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_file_names_that_are_no_text(tmp_path, encoding):
    path = os.fsencode(tmp_path) + b"/\xff \xc3\xa9\n"
    Path(os.fsdecode(path)).write_bytes(b"one\n")
    result = python("-c", COMMANDS, path, text=False, **ENCODINGS[encoding])
    assert result.returncode == 0, result.stderr
    scanned, as_json, *_, copied, rest = result.stdout.split(b"\0")
    *_, missing, same, _, _ = result.stderr.split(b"\0")
    assert b"\\xff " in scanned and scanned.endswith(b"(0)")
    assert "\\xff" in json.loads(as_json.removesuffix(b"(0)"))["source"]
    assert b"\\xff" in missing and missing.endswith(b"(1)")
    assert b"\\xff" in same and same.endswith(b"(1)")
    assert copied.startswith(b"4 bytes") and copied.endswith(b"(0)") and not rest
    assert b"Traceback" not in result.stderr


def test_without_the_jit_it_says_so():
    result = python("-m", "iobuf_nb", "scan", "pyproject.toml", NUMBA_DISABLE_JIT="1")
    assert (result.returncode, result.stdout) == (2, "") and "unset NUMBA_DISABLE_JIT" in result.stderr


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
    command = ["-c", start, sys.executable, *script.split()]
    result = python(*command, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{PACKAGE.parent}")
    assert result.returncode == status and result.stderr.endswith(err)
    assert status < 0 or result.stderr == err
    assert result.stdout == ("still here\n" if before == "SIG_IGN" else "")


def test_ctrl_c_on_a_terminal_clears_the_line_first(tmp_path):
    (tmp_path / "numba.py").write_text(CTRL_C_WHILE_IMPORTING)
    script = f"{CTRL_C}import os, sys; os.execv(sys.executable, [sys.executable, '-m', 'iobuf_nb', 'scan'])"
    ours, theirs = pty.openpty()
    env = environment(PYTHONPATH=f"{tmp_path}:{PACKAGE.parent}")
    done = subprocess.run([sys.executable, "-c", script], stderr=theirs, env=env, cwd=tmp_path, timeout=300)
    os.close(theirs)
    assert (done.returncode, os.read(ours, 1000)) == (130, b"\r\x1b[Kpython -m iobuf_nb: interrupted\r\n")
    os.close(ours)


INTERRUPTED_SAMPLE = """
import os, sys
import iobuf_nb.__main__ as command

def interrupted(sources, **options):
    assert os.path.getsize(sources[0])
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()

command.scan, command._SAMPLE_BYTES, command.INTERPRETED = interrupted, 1 << 24, False
raise SystemExit(command.main(["scan"]))
"""


def test_ctrl_c_leaves_no_sample(tmp_path):
    (tmp_path / "iobuf-nb").write_text(CTRL_C + INTERRUPTED_SAMPLE)
    result = python(str(tmp_path / "iobuf-nb"), TMPDIR=str(tmp_path))
    assert (result.returncode, result.stderr) == (130, "python -m iobuf_nb: interrupted\n")
    assert os.listdir(tmp_path) == ["iobuf-nb"]


SCAN_STANDARD_INPUT = """
from iobuf_nb.__main__ import main
print("ready", flush=True)
raise SystemExit(main(["scan", "-"]))
"""


@pytest.mark.compiled
def test_ctrl_c_on_a_silent_pipe():
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C + SCAN_STANDARD_INPUT],
        stdin=reader,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "ready\n"
        os.write(writer, b"x" * 100)
        # Once the pipe is empty the scan runs and waits for more.
        while child.poll() is None and select.select([reader], [], [], 0.01)[0]:
            pass
        child.send_signal(2)
        assert child.wait(60) == 130
        assert child.stderr.read() == "python -m iobuf_nb: interrupted\n"
    os.close(reader)
    os.close(writer)


# ---- copies --------------------------------------------------------------------------------------------------------

SLOW_COPY = """
import sys
import iobuf_nb.__main__ as command
copy = command.copy

def slowly(*arguments, progress, **options):
    def say(done, size):
        print("on the way", flush=True)
        sys.stdin.readline()
    return copy(*arguments, progress=say, **options)

command.copy = slowly
raise SystemExit(command.main(["copy", sys.argv[1], sys.argv[2]]))
"""


@pytest.mark.compiled
def test_ctrl_c_on_a_copy(src, tmp_path):
    dst = tmp_path / "dst"
    command = [sys.executable, "-c", CTRL_C + SLOW_COPY, str(src), str(dst)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        assert child.stdout.readline() == "on the way\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert child.stderr.read() == "python -m iobuf_nb: interrupted\n"
    assert names(tmp_path) == ["src"]


INTERRUPTED_COPY = """
import os, sys
import iobuf_nb.__main__ as command
copy = command.copy

def interrupted(*arguments, progress, **options):
    def press(done, size):
        assert [name for name in os.listdir(os.path.dirname(sys.argv[2])) if name.startswith(".iobuf_nb-")]
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    return copy(*arguments, progress=press, **options)

command.copy = interrupted
raise SystemExit(command.main(["copy", sys.argv[1], sys.argv[2]]))
"""


@pytest.mark.compiled
def test_ctrl_c_on_the_command(src, tmp_path):
    (tmp_path / "dst").write_bytes(b"older")
    (tmp_path / "iobuf-nb").write_text(CTRL_C + INTERRUPTED_COPY)  # as the script is called that pip makes
    result = python(str(tmp_path / "iobuf-nb"), str(src), str(tmp_path / "dst"))
    assert (result.returncode, result.stderr) == (130, "python -m iobuf_nb: interrupted\n")
    assert names(tmp_path) == ["dst", "iobuf-nb", "src"] and (tmp_path / "dst").read_bytes() == b"older"


@pytest.mark.compiled
def test_standard_descriptors_that_are_closed(src, tmp_path):
    script = '"$1" -m iobuf_nb copy --verify "$2" "$3" <&- 2>&-'
    result = subprocess.run(["sh", "-c", script, "sh", sys.executable, src, tmp_path / "dst"], timeout=300)
    assert result.returncode == 0 and (tmp_path / "dst").read_bytes() == src.read_bytes()


def test_copy(src, tmp_path, capsys):
    dst = tmp_path / "dst"
    assert main(["copy", str(src), str(dst), "--verify", "--no-sync", "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert re.fullmatch(r"1,000,003 bytes in [0-9.]+ s, [0-9.]+ GB/s, verified( .kernels were ready .*)?\n", text)
    assert dst.read_bytes() == src.read_bytes()
    assert main(["copy", str(src), str(dst), "--direct"]) == 0
