"""Copies: equal, with the source's mode; what can be copied and what is refused."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from copying import BLOCK, with_holes
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SYSFS, AsBytes, content, names, needs_root, needs_sysfs

from iobuf_nb import copy
from iobuf_nb._streams import copy as module


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


@needs_root
@pytest.mark.parametrize("owner, group", [(0, 0), (1000, 1000), (1000, 0), (0, 1000)])
@pytest.mark.parametrize("bits", [stat.S_ISUID, stat.S_ISGID, stat.S_ISUID | stat.S_ISGID, stat.S_ISVTX])
def test_bits_that_would_change_their_owner_are_dropped(src, tmp_path, owner, group, bits):
    dst = tmp_path / "dst"
    dst.write_bytes(b"older")
    os.chown(src, owner, group)
    src.chmod(bits | 0o755)
    copy(src, dst)
    status = dst.stat()
    assert (status.st_uid, status.st_gid) == (0, 0)
    assert stat.S_IMODE(status.st_mode) == 0o755 | (bits if owner == group == 0 else 0)


def test_the_umask_changes_nothing(src, tmp_path):
    src.chmod(0o666)
    before = os.umask(0o077)
    try:
        copy(src, tmp_path / "dst")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "dst").stat().st_mode) == 0o666


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
        ("src/", "dst", NotADirectoryError, "Not a directory: .*src/"),
        ("loop", "dst", OSError, "Too many levels of symbolic links: .*loop"),
        ("/dev/zero", "dst", ValueError, "src must be a regular file, not /dev/zero"),
        ("fifo", "dst", ValueError, "src must be a regular file, not .*fifo"),
        ("src", "fifo", ValueError, "dst must be a regular file, a new one or a directory, not .*fifo"),
        ("src", "/dev/null", ValueError, "dst must be a regular file, a new one or a directory, not /dev/null"),
        ("src", "to the device", ValueError, "dst must be a regular file, a new one or a directory, not .*device"),
        ("src", "missing/", FileNotFoundError, "No such file .*missing/'"),
        ("src", "missing/.", FileNotFoundError, "No such file .*missing/.'"),
        ("src", "missing/..", FileNotFoundError, "No such file .*missing/..'"),
        ("src", "missing/../dst", FileNotFoundError, "No such file .*missing/../dst'"),
        ("src", "to a missing folder", FileNotFoundError, "No such file .*to a missing folder'"),
        ("src", "into a missing folder", FileNotFoundError, "No such file .*into a missing folder'"),
        ("src", "other/", NotADirectoryError, "Not a directory: .*other/'"),
        ("src", "other/.", NotADirectoryError, "Not a directory: .*other/.'"),
        ("src", "other/../dst", NotADirectoryError, "Not a directory: .*other/../dst'"),
        ("src", "loop", OSError, "Too many levels of symbolic links: .*loop'"),
        ("src", "taken", IsADirectoryError, "Is a directory: .*taken/src'"),
        ("src", "to itself", shutil.SameFileError, "src and dst are the same file"),
        ("to itself", "src", shutil.SameFileError, "src and dst are the same file"),
        ("src", ".", shutil.SameFileError, "src and dst are the same file"),
        ("src", "n" * 256, OSError, "File name too long: .*nnn'"),
    ],
)
def test_refuses(src, tmp_path, source, target, error, message):
    os.link(src, tmp_path / "hard")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "taken" / "src").mkdir(parents=True)
    links = {"itself": src, "the device": "/dev/null", "a missing folder": "missing/"}
    for name, goal in links.items():
        (tmp_path / f"to {name}").symlink_to(goal)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "into a missing folder").symlink_to("missing/dst")
    before = names(tmp_path)
    with pytest.raises(error, match=message):
        copy(
            f"{tmp_path}/{source}" if source[0] != "/" else source,
            f"{tmp_path}/{target}" if target[0] != "/" else target,
        )
    assert names(tmp_path) == before and src.read_bytes() == content(1_000_003)
    assert (tmp_path / "other").read_bytes() == b"other"


def test_refuses_no_path_at_all(src, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for pair in (("src", ""), ("", "dst"), (b"src", b"")):
        with pytest.raises(FileNotFoundError, match="No such file or directory: ''"):
            copy(*pair)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    for target in (".", "./", "../folder/."):
        copy("../src", target)
    assert names(".") == ["src"] and names("..") == ["folder", "src"]


@pytest.mark.parametrize("as_path", [os.fsencode, AsBytes, str], ids=["bytes", "PathLike of bytes", "str"])
def test_paths_of_all_kinds(src, tmp_path, as_path):
    odd = os.fsdecode(b"\xff \xc3\xa9")
    assert copy(as_path(src), as_path(tmp_path / odd)).bytes == 1_000_003
    assert copy(as_path(tmp_path / odd), as_path(tmp_path / ("n" * 255))).bytes == 1_000_003
    assert (tmp_path / ("n" * 255)).read_bytes() == src.read_bytes()
    with pytest.raises(FileNotFoundError) as caught:
        copy(as_path(tmp_path / (odd + "?")), as_path(tmp_path))
    assert caught.value.filename == str(tmp_path / (odd + "?"))
    assert len(names(tmp_path)) == 3


def test_refuses_bad_options_before_it_writes(src, tmp_path):
    with pytest.raises(ValueError, match="workers must be an integer from 1 to 1024, not 0"):
        copy(src, tmp_path / "dst", workers=0)
    assert names(tmp_path) == ["src"]


def test_a_destination_by_its_descriptor(src, tmp_path):
    with open(tmp_path / "dst", "wb") as file:
        copy(src, f"/proc/self/fd/{file.fileno()}")
        assert (tmp_path / "dst").read_bytes() == src.read_bytes()
        with pytest.raises(FileNotFoundError, match="No such file or directory: '/proc/self/fd"):
            copy(src, f"/proc/self/fd/{file.fileno()}")  # what was open has no name any more
    assert names(tmp_path) == ["dst", "src"]


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    "size, places",
    [
        (1 << 40, []),
        ((1 << 40) + 1, [0, 1 << 30, (1 << 30) + 3 * BLOCK, (1 << 40) - 2]),
        (BLOCK - 1, [40_960]),
        (4 * BLOCK, [3 * BLOCK]),
        (4 * BLOCK + 5, [0, 2 * BLOCK - 100]),
    ],
)
def test_holes_are_kept(tmp_path, size, places, direct):
    src, dst = tmp_path / "src", tmp_path / "dst"
    with_holes(src, size, *places)
    for options in ({}, {"verify": True}, {"sync": False, "workers": 1}):
        dst.write_bytes(b"older" * 100_000)
        seen = []
        result = copy(src, dst, direct=direct, progress=lambda done, size: seen.append((done, size)), **options)  # noqa: B023
        assert result.bytes == size == dst.stat().st_size and seen[-1] == (size, size)
        assert dst.stat().st_blocks <= src.stat().st_blocks + 16 * len(places)
        for place in [0, *places, size - 1]:
            with open(src, "rb") as one, open(dst, "rb") as other:
                start = max(0, place - 5000)
                assert os.pread(one.fileno(), 15_000, start) == os.pread(other.fileno(), 15_000, start)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/version",
        "/proc/filesystems",
        "/proc/self/maps",
        pytest.param(f"{SYSFS}/enabled", marks=needs_sysfs),
    ],
)
@pytest.mark.parametrize("verify", [False, True])
def test_files_that_do_not_know_their_size(tmp_path, path, verify):
    assert os.stat(path).st_size != len(Path(path).read_bytes())
    seen = []
    result = copy(path, tmp_path / "dst", verify=verify, progress=lambda done, size: seen.append((done, size)))
    data = (tmp_path / "dst").read_bytes()
    assert result.bytes == len(data) > 0 and seen[-1] == (len(data), len(data))
    assert data == Path(path).read_bytes() or path == "/proc/self/maps"


def test_an_error_of_a_file_that_does_not_know_its_size(tmp_path):
    with pytest.raises(OSError, match="Input/output error: '/proc/self/mem'"):
        copy("/proc/self/mem", tmp_path / "dst")
    assert names(tmp_path) == []


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
