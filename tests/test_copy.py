"""Copies: equal, with the source's mode, and never half of one under the destination's name."""

import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iobuf_nb import copy
from iobuf_nb.__main__ import main

module = sys.modules["iobuf_nb.copy"]  # the function has its name


def content(n, seed=0):
    return np.random.default_rng(seed).bytes(n)


@pytest.fixture
def src(tmp_path):
    path = tmp_path / "src"
    path.write_bytes(content(1_000_003))
    return path


def names(folder):
    return sorted(os.listdir(folder))


BLOCK = 1 << 18


@pytest.mark.parametrize("n", [0, 1, 31, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 4096, 2_000_003])
@pytest.mark.parametrize("direct", [False, True])
def test_copies_are_equal(tmp_path, n, direct):
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.write_bytes(content(n))
    for options in ({}, {"verify": True}, {"sync": False, "workers": 1}, {"verify": True, "workers": 3}):
        result = copy(src, dst, direct=direct, **options)
        assert result.bytes == n and result.seconds > 0 and result.gb_per_s >= 0
        assert dst.read_bytes() == content(n)
    assert names(tmp_path) == ["dst", "src"]


@given(st.integers(0, 3_000_000), st.booleans(), st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_any_size(tmp_path_factory, n, direct, workers, seed):
    folder = tmp_path_factory.mktemp("copy")
    (folder / "src").write_bytes(content(n, seed))
    copy(folder / "src", folder / "dst", direct=direct, verify=True, sync=False, workers=workers)
    assert (folder / "dst").read_bytes() == content(n, seed)


def test_the_mode_is_kept_and_an_older_file_replaced(src, tmp_path):
    dst = tmp_path / "dst"
    dst.write_bytes(b"older" * 1_000_000)
    dst.chmod(0o600)
    for mode in (0o751, 0o444, 0o600):
        src.chmod(mode)
        copy(src, dst)
        assert stat.S_IMODE(dst.stat().st_mode) == mode
        assert dst.read_bytes() == src.read_bytes()


def test_into_a_directory_and_through_a_link(src, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    copy(src, folder)
    assert (folder / "src").read_bytes() == src.read_bytes()
    (tmp_path / "link").symlink_to(folder / "target")
    copy(src, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (folder / "target").read_bytes() == src.read_bytes()


@pytest.mark.parametrize(
    "source, target, error, message",
    [
        ("none", "dst", FileNotFoundError, "No such file .*none"),
        ("src", "no/such/dst", FileNotFoundError, "No such file .*no/such/dst"),
        ("src", "src", shutil.SameFileError, "src and dst are the same file"),
        ("src", "hard", shutil.SameFileError, "src and dst are the same file"),
        (".", "dst", IsADirectoryError, "Is a directory"),
        ("/dev/zero", "dst", ValueError, "src must be a regular file, not /dev/zero"),
        ("src", "/dev/null", ValueError, "dst must be a regular file, a new one or a directory, not /dev/null"),
    ],
)
def test_refuses(src, tmp_path, source, target, error, message):
    os.link(src, tmp_path / "hard")
    before = names(tmp_path)
    with pytest.raises(error, match=message):
        copy(tmp_path / source, tmp_path / target)
    assert names(tmp_path) == before and src.read_bytes() == content(1_000_003)


def test_refuses_bad_options_before_it_writes(src, tmp_path):
    with pytest.raises(ValueError, match="workers must be an integer from 1 to 1024, not 0"):
        copy(src, tmp_path / "dst", workers=0)
    assert names(tmp_path) == ["src"]


# ---- failures leave the destination as it was ------------------------------------------------------------------------


@contextmanager
def small_disk(path, size):
    """Mount an empty file system of `size` bytes."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk(tmp_path):
    src = tmp_path / "src"
    src.write_bytes(content(3 << 20))
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        (disk / "dst").write_bytes(b"older")
        with pytest.raises(OSError, match="No space left on device at offset [0-9]+: .*disk/dst") as caught:
            copy(src, disk / "dst")
        assert caught.value.errno == errno.ENOSPC
        assert names(disk) == ["dst"] and (disk / "dst").read_bytes() == b"older"
        assert main(["copy", str(src), str(disk)]) == 1
        assert names(disk) == ["dst"]


def test_a_copy_that_differs_when_it_is_read_again(src, tmp_path, monkeypatch):
    fsync = os.fsync

    def spoil(fd):
        # What a bad disk would do between writing and reading.
        os.pwrite(fd, b"\0\0", BLOCK + 5)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", spoil)
    dst = tmp_path / "dst"
    dst.write_bytes(b"older")
    with pytest.raises(OSError, match="read again, is not what was written, at offset 0: .*dst"):
        copy(src, dst, verify=True, direct=True)  # then it is read when the disk has written
    assert names(tmp_path) == ["dst", "src"] and dst.read_bytes() == b"older"


@pytest.mark.parametrize("position", [0, 7, 100, BLOCK, BLOCK + 32, 999_999, 1_000_002])
def test_every_changed_byte_is_seen(src, position):
    before, after = (np.zeros(1 + 4, np.uint64) for _ in range(2))
    data = np.fromfile(src, np.uint8)
    for hashes in (before, after):
        hashes[0] = BLOCK
        for offset in range(0, len(data), BLOCK):
            block = data[offset : offset + BLOCK]
            module._note_hash(block, len(block), offset, hashes)
        data[position] ^= 1
    assert (before != after).tolist() == [False, *(k == position // BLOCK for k in range(4))]


def test_an_error_of_the_disk_at_the_end(src, tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    for direct in (False, True):
        with pytest.raises(OSError, match="Input/output error"):
            copy(src, tmp_path / "dst", direct=direct)
        assert names(tmp_path) == ["src"]


def test_an_error_in_progress(src, tmp_path):
    def fail(done, size):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        copy(src, tmp_path / "dst", progress=fail)
    assert names(tmp_path) == ["src"]


def test_direct_on_a_file_system_that_refuses_it(tmp_path):
    with pytest.raises(OSError, match="direct=True is refused by the file system: '/proc/version'"):
        copy("/proc/version", tmp_path / "dst", direct=True)
    assert names(tmp_path) == []


CTRL_C = """
import signal, sys
from iobuf_nb.__main__ import main
import iobuf_nb.__main__ as command
copy = command.copy
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with

def slowly(*arguments, progress, **options):
    def say(done, size):
        print("on the way", flush=True)
        sys.stdin.readline()
    return copy(*arguments, progress=say, **options)

command.copy = slowly
raise SystemExit(main(["copy", sys.argv[1], sys.argv[2]]))
"""


@pytest.mark.compiled
def test_ctrl_c(src, tmp_path):
    dst = tmp_path / "dst"
    command = [sys.executable, "-c", CTRL_C, str(src), str(dst)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        assert child.stdout.readline() == "on the way\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
        assert child.stderr.read() == "python -m iobuf_nb: interrupted\n"
    assert names(tmp_path) == ["src"]


# ---- the command line ------------------------------------------------------------------------------------------------


def test_the_command(src, tmp_path, capsys):
    dst = tmp_path / "dst"
    assert main(["copy", str(src), str(dst), "--verify", "--no-sync", "--workers", "2"]) == 0
    assert re.fullmatch(r"1,000,003 bytes in [0-9.]+ s, [0-9.]+ GB/s, verified\n", capsys.readouterr().out)
    assert dst.read_bytes() == src.read_bytes()
    assert main(["copy", str(src), str(dst), "--direct"]) == 0


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["copy", "/nonexistent", "/tmp/x"], 1, "/nonexistent: No such file or directory"),
        (["copy", "/dev/zero", "/tmp/x"], 2, "src must be a regular file, not /dev/zero"),
        (["copy", "pyproject.toml", "pyproject.toml"], 1, "the same file"),
        (["copy", "pyproject.toml", "/tmp/x", "--workers", "0"], 2, "workers must be"),
    ],
)
def test_failures_are_one_sentence(arguments, status, message, capsys):
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1
    assert not Path("/tmp/x").exists()
