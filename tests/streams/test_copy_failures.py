"""Copies that fail: never half of one under the destination's name."""

import errno
import glob
import os
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from copying import BLOCK, with_holes
from support import content, names, needs_root, python, small_disk, without_rights

from iobuf_nb import copy
from iobuf_nb.__main__ import main
from iobuf_nb._streams import copy as module

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
    with pytest.raises(OSError, match="Verification failed: the copy differs at offset [0-9]+: .*dst"):
        copy(kind if kind[0] == "/" else src, dst, verify=True, direct=direct, progress=spoil)
    assert dst.read_bytes() == b"older" and not glob.glob(f"{tmp_path}/.iobuf*")


# ---- failures leave the destination as it was ------------------------------------------------------------------------


@needs_root
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


@needs_root
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
        with without_rights():
            yield Path(folder)


@needs_root
def test_a_folder_that_nothing_may_be_written_to():
    with nobody() as folder:
        for dst in (folder / "dst", folder / "compiled", folder):
            with pytest.raises(
                PermissionError, match="Permission denied: '[^']*/(dst|compiled|test_copy_failures.py)'$"
            ):
                copy(__file__, dst)
        assert names(folder) == ["compiled"]


@needs_root
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
        for _ in range(2):  # the first makes the file
            copy(folder / "compiled", folder / "drop" / "dst", sync=sync)
        assert (folder / "drop" / "dst").read_bytes() == (folder / "compiled").read_bytes()
        os.seteuid(0)
        assert names(folder / "drop") == ["dst"]
    assert synced == [True] * 2 * sync


@needs_root
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
    with pytest.raises(OSError, match="Verification failed: the copy differs at offset 0: .*dst"):
        copy(src, dst, verify=True, direct=True)  # then it is read when the disk has written
    assert names(tmp_path) == ["dst", "src"] and dst.read_bytes() == b"older"


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


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.parametrize("how", ["atexit", "__del__"])
def test_at_exit_it_works_or_is_refused_in_a_sentence(src, tmp_path, how):
    result = python("-c", AT_EXIT, str(src), str(tmp_path / "dst"), how)
    assert (result.returncode, result.stderr) == (0, "")
    before, after = result.stdout.splitlines()[:2], result.stdout.splitlines()[2:]
    assert before == ["1000003"] * 2
    assert after == before or (len(after) == 2 and all("shut" in line for line in after))
    assert names(tmp_path) == ["dst", "src"]
