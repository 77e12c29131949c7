"""Copies: equal, with the source's mode, and never half of one under the destination's name."""

import errno
import glob
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iobuf_nb import copy
from iobuf_nb.__main__ import main
from iobuf_nb._streams import copy as module


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
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


class AsBytes:
    """A path whose file system representation is bytes."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fsencode(self.path)


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


# ---- holes, and files that do not know their size --------------------------------------------------------------------


def with_holes(path, size, *places):
    """Make a file that has a few bytes at each place, and holes around them."""
    with open(path, "wb") as file:
        file.truncate(size)
        for place in places:
            os.pwrite(file.fileno(), content(5000)[: size - place], place)
    if os.stat(path).st_blocks * 512 >= size:
        pytest.skip("the file system keeps no holes")


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
    "path", ["/proc/version", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/self/maps"]
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


# ---- a source that changes -------------------------------------------------------------------------------------------


def grow(path):
    with open(path, "ab") as file:
        file.write(b"more")


def shrink(path):
    os.truncate(path, 999_999)


def empty(path):
    os.truncate(path, 0)


def shrink_and_grow(path):
    os.truncate(path, 10)
    os.truncate(path, 1_000_003)


def rewrite(path):
    with open(path, "r+b") as file:
        file.write(b"NEW")


def rewrite_and_set_back(path):
    status = os.stat(path)
    rewrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    shutil.copystat(path, other)
    other.rename(path)


def touch(path):
    os.utime(path)


def remove(path):
    os.unlink(path)


def link_elsewhere(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("/etc/passwd")


CHANGES = [grow, shrink, empty, shrink_and_grow, rewrite, rewrite_and_set_back, replace, touch, remove, link_elsewhere]


@pytest.mark.parametrize("options", [{}, {"verify": True}, {"direct": True}, {"sync": False}], ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_while_it_is_copied(src, tmp_path, change, options):
    (tmp_path / "dst").write_bytes(b"older")
    changes = [change]

    def progress(done, size):
        while changes:
            changes.pop()(src)

    with pytest.raises(OSError, match="Changed while it was copied: .*src") as caught:
        copy(src, tmp_path / "dst", progress=progress, **options)
    assert caught.value.errno == errno.EIO and not changes
    assert (tmp_path / "dst").read_bytes() == b"older" and not glob.glob(f"{tmp_path}/.iobuf*")


@pytest.mark.parametrize("size", [20 << 20, 2_000_003, 999_999, BLOCK, 1, 0])
@pytest.mark.parametrize("was", [1_000_003, 0])
@pytest.mark.parametrize("options", [{"verify": True}, {"direct": True, "verify": True}, {}], ids=str)
def test_a_source_that_changes_before_it_is_read(src, tmp_path, monkeypatch, was, size, options):
    os.truncate(src, was)
    pool = module.BufferPool

    def change(*arguments):
        os.truncate(src, size)
        return pool(*arguments)

    monkeypatch.setattr(module, "BufferPool", change)
    (tmp_path / "dst").write_bytes(b"older")
    if size == was:
        touch(src)
    with pytest.raises(OSError, match="Changed while it was copied: .*src"):
        copy(src, tmp_path / "dst", **options)
    assert names(tmp_path) == ["dst", "src"] and (tmp_path / "dst").read_bytes() == b"older"


def test_a_change_in_the_same_moment_gets_a_time_of_its_own(src, tmp_path, monkeypatch):
    waits, now = [], src.stat().st_ctime
    monkeypatch.setattr("time.sleep", waits.append)
    for age in (0.004, 0.02, -5.0, 1000.0):  # the second last is a clock that was set
        monkeypatch.setattr("time.time", lambda age=age: now + age)
        copy(src, tmp_path / "dst", sync=False)
    assert waits == [pytest.approx(0.006, abs=1e-6)]


# ---- what is read back is what was written ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 2 * BLOCK + 5, "end"])
@pytest.mark.parametrize("kind", ["regular", "holes", "empty", "/proc/version"])
@pytest.mark.parametrize("direct", [False, True])
def test_a_copy_that_is_spoiled(tmp_path, kind, place, direct):
    if direct and kind[0] == "/":
        return  # refused
    src, dst = tmp_path / "src", tmp_path / "dst"
    if kind == "holes":
        with_holes(src, 4 * BLOCK, BLOCK)
    elif kind[0] != "/":
        src.write_bytes(content(3 * BLOCK if kind == "regular" else 0))

    def spoil(done, size):
        for path in glob.glob(f"{tmp_path}/.iobuf_nb-*"):
            with open(path, "r+b") as file:
                file.seek(0 if place == "end" else place, os.SEEK_END if place == "end" else os.SEEK_SET)
                file.write(b"##")
                os.fsync(file.fileno())

    dst.write_bytes(b"older")
    with pytest.raises(OSError, match="read again, is not what was written, at offset [0-9]+: .*dst"):
        copy(kind if kind[0] == "/" else src, dst, verify=True, direct=direct, progress=spoil)
    assert dst.read_bytes() == b"older" and not glob.glob(f"{tmp_path}/.iobuf*")


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount something")
def test_a_destination_that_something_is_mounted_on(src, tmp_path):
    dst, under = tmp_path / "dst", tmp_path / "under"
    dst.write_bytes(b"older")
    under.write_bytes(b"mounted")
    subprocess.run(["mount", "--bind", under, dst], check=True)
    try:
        with pytest.raises(OSError, match="busy: '.*/dst'$") as caught:
            copy(src, dst)
        assert caught.value.errno == errno.EBUSY and dst.read_bytes() == b"mounted"
    finally:
        subprocess.run(["umount", dst], check=True)
    assert names(tmp_path) == ["dst", "src", "under"] and dst.read_bytes() == b"older"


@contextmanager
def nobody():
    """Be somebody with no rights, in a folder that everybody can get to."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        copy(__file__, f"{folder}/compiled", verify=True)
        os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become nobody")
def test_a_folder_that_nothing_may_be_written_to():
    with nobody() as folder:
        for dst in (folder / "dst", folder / "compiled", folder):
            with pytest.raises(PermissionError, match="Permission denied: '[^']*/(dst|compiled|test_copy.py)'$"):
                copy(__file__, dst)
        assert names(folder) == ["compiled"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become nobody")
@pytest.mark.parametrize("sync", [True, False])
def test_a_folder_that_may_not_be_read(sync, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "sync", lambda: synced.append(True))
    with nobody() as folder:
        os.seteuid(0)
        (folder / "drop").mkdir()
        (folder / "drop").chmod(0o1733)
        os.chown(folder / "drop", 1000, 1000)
        os.seteuid(65534)
        for source in (folder / "compiled", __file__):
            copy(source, folder / "drop" / "dst", sync=sync)
        assert (folder / "drop" / "dst").read_bytes() == Path(__file__).read_bytes()
        os.seteuid(0)
        assert names(folder / "drop") == ["dst"]
    assert synced == [True] * 2 * sync


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become nobody")
def test_a_source_that_may_not_be_read():
    with nobody() as folder:
        os.seteuid(0)
        (folder / "compiled").chmod(0o600)
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        os.seteuid(65534)
        with pytest.raises(PermissionError, match="Permission denied: '.*/compiled'"):
            copy(folder / "compiled", folder / "open" / "dst")
        assert names(folder / "open") == []


def test_an_error_when_the_copy_is_closed(src, tmp_path, monkeypatch):
    close = os.close

    def fail(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        close(fd)
        if path.startswith(f"{tmp_path}/") and path != str(src):  # as on a network, where that is what writes
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "close", fail)
    (tmp_path / "dst").write_bytes(b"older")
    with pytest.raises(OSError, match="quota exceeded: '.*/dst'"):
        copy(src, tmp_path / "dst", sync=False)
    assert names(tmp_path) == ["dst", "src"] and (tmp_path / "dst").read_bytes() == b"older"


def test_no_error_once_the_copy_has_its_name(src, tmp_path, monkeypatch):
    fsync = os.fsync

    def fail(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    assert copy(src, tmp_path / "dst").bytes == 1_000_003
    assert (tmp_path / "dst").read_bytes() == src.read_bytes()


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
    for options in ({}, {"direct": True}, {"verify": True}, {"direct": True, "verify": True}):
        with pytest.raises(OSError, match="Input/output error: .*dst"):
            copy(src, tmp_path / "dst", **options)
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
from iobuf_nb._streams import copy as module
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


AT_EXIT = """
import atexit, sys, iobuf_nb
src, dst, how = sys.argv[1:]

def go():
    for work in (lambda: iobuf_nb.copy(src, dst, verify=True), lambda: iobuf_nb.scan(src)):
        try:
            print(work().bytes)
        except RuntimeError as error:
            print(error)

class Last:
    def __del__(self):
        go()

go()
atexit.register(go) if how == "atexit" else setattr(sys.modules["__main__"], "last", Last())
"""


@pytest.mark.compiled
@pytest.mark.parametrize("how", ["atexit", "__del__"])
def test_at_exit_it_works_or_is_refused_in_a_sentence(src, tmp_path, how):
    command = [sys.executable, "-c", AT_EXIT, str(src), str(tmp_path / "dst"), how]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    before, after = result.stdout.splitlines()[:2], result.stdout.splitlines()[2:]
    assert before == ["1000003"] * 2
    assert after == before or (len(after) == 2 and all("shut" in line for line in after))
    assert names(tmp_path) == ["dst", "src"]


# ---- the command line ------------------------------------------------------------------------------------------------


CTRL_C_AS_A_COMMAND = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
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
def test_ctrl_c_as_a_command(src, tmp_path):
    (tmp_path / "dst").write_bytes(b"older")
    (tmp_path / "iobuf-nb").write_text(CTRL_C_AS_A_COMMAND)  # as the script is called that pip makes
    command = [sys.executable, str(tmp_path / "iobuf-nb"), str(src), str(tmp_path / "dst")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (130, "python -m iobuf_nb: interrupted\n")
    assert names(tmp_path) == ["dst", "iobuf-nb", "src"] and (tmp_path / "dst").read_bytes() == b"older"


@pytest.mark.compiled
def test_standard_descriptors_that_are_closed(src, tmp_path):
    script = '"$1" -m iobuf_nb copy --verify "$2" "$3" <&- 2>&-'
    result = subprocess.run(["sh", "-c", script, "sh", sys.executable, src, tmp_path / "dst"], timeout=300)
    assert result.returncode == 0 and (tmp_path / "dst").read_bytes() == src.read_bytes()


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
