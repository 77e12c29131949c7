"""Scan: exact for any source and any split into buffers, and every failure ends it cleanly."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import fed
from support import SYSFS, AsBytes, needs_root, needs_sysfs, without_rights

import iobuf_nb
from iobuf_nb import Tier, scan

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


@pytest.mark.parametrize("n", [0, 1, BUFFER - 1, BUFFER + 1, 1_000_003])
@pytest.mark.parametrize("workers, buffers", [(1, 1), (3, 16)])
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
@settings(deadline=None, max_examples=30)
def test_any_split(tmp_path_factory, n, workers, buffers, size, seed):
    path = tmp_path_factory.mktemp("scan") / "data"
    data = text(n, seed)
    path.write_bytes(data)
    check(scan(path, workers=workers, buffers=buffers, tier=size), data)


def test_a_pipe():
    data = text(1_000_003)
    with fed("pipe", data, 70_000) as reader:
        check(scan(reader, buffers=4, tier=Tier.MEDIUM), data)


@needs_sysfs
def test_files_whose_size_is_only_nominal():
    path = f"{SYSFS}/enabled"
    result = scan(path)
    assert result.bytes == len(Path(path).read_bytes()) < os.stat(path).st_size


def test_results_can_be_compared_and_hashed(file):
    result = scan(file(b"x"))
    assert result == result and result != scan(file(b"x")) and hash(result)


@pytest.mark.parametrize(
    "source, options, error, message",
    [
        ("/nonexistent/file", {}, FileNotFoundError, "No such file.*'/nonexistent/file'"),
        ("/tmp", {}, IsADirectoryError, "Is a directory: '/tmp'"),
        (True, {}, TypeError, "source must be .* not True"),
        (9999, {}, OSError, "Bad file descriptor"),
        (2**40, {}, ValueError, "source .a file descriptor. must be an integer from 0 to"),
        ("/dev/null", {"workers": "2"}, TypeError, "workers must be .* not '2'"),
        ("/dev/null", {"buffers": 0}, ValueError, "buffers must be .* not 0"),
    ],
)
def test_refuses(source, options, error, message, threads_end):
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(error, match=message):
        scan(source, **options)
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize("as_path", [AsBytes, str], ids=["PathLike of bytes", "str"])
def test_paths_of_all_kinds(file, tmp_path, as_path):
    odd = tmp_path / os.fsdecode(b"\xff \xc3\xa9")
    file(text(1000)).rename(odd)
    check(scan(as_path(odd)), text(1000))
    check(scan([as_path(odd), as_path(odd)]), text(1000) * 2)
    with pytest.raises(FileNotFoundError) as caught:
        scan(as_path(f"{odd}?"))
    assert caught.value.filename == f"{odd}?"
    with pytest.raises(ValueError, match="source must be a path that the system can take, not <"):
        scan(AsBytes(b"a\0b"))
    with pytest.raises(ValueError, match="source is bytes that also name a file, b'.*: pass os.fsdecode"):
        scan(os.fsencode(odd))


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


@needs_root
def test_an_unreadable_file(file):
    path = file(b"secret")
    path.chmod(0o600)
    with without_rights(), pytest.raises(PermissionError, match="Permission denied"):
        scan(path)
