"""Names that are none, files that are no segment, too much memory: a sentence each, and nothing is left."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from numba import config
from support import needs_root

from iobuf_nb import BoundedQueue, BufferPool, Channel
from iobuf_nb._memory import segment

ATTACH = pytest.mark.parametrize("kind", [BufferPool, BoundedQueue, Channel])


@pytest.fixture
def path(name):
    """Where the file of a name lies; whatever the test puts there is removed."""
    path = Path(segment.path_of(name))
    yield path
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@pytest.fixture
def left(name, path):
    """The bytes of a pool whose creator is gone."""
    pool = BufferPool(4, 16, name=name)
    data = path.read_bytes()
    pool.close()
    return data


def change_word(data, word, value):
    return data[: 8 * word] + struct.pack("q", value) + data[8 * word + 8 :]


DAMAGES = {
    "empty": (lambda data: b"", "is no shared pool or queue of iobuf_nb, or was only half made"),
    "short": (lambda data: data[:30], "is no shared pool or queue of iobuf_nb, or was only half made|is truncated"),
    "foreign": (lambda data: os.urandom(10000), "is no shared pool or queue of iobuf_nb, or was only half made"),
    "half made": (
        lambda data: change_word(data, 0, 0),
        "is no shared pool or queue of iobuf_nb, or was only half made",
    ),
    "truncated": (lambda data: data[:-1], r"is truncated: \d+ of \d+ bytes"),
    "header alone": (lambda data: data[:4096], r"is truncated: 4096 of \d+ bytes"),
    "longer": (lambda data: data + b"x", r"is truncated: \d+ of \d+ bytes"),
    "newer": (
        lambda data: change_word(data, 2, 99),
        f"has layout 99, and this version of iobuf_nb knows layout {segment.LAYOUT} alone",
    ),
    "other byte order": (
        lambda data: np.frombuffer(data[:64], np.int64).byteswap().tobytes() + data[64:],
        "was made on a machine of another byte order",
    ),
    "text": (lambda data: data[:515] + b"x" + data[516:], "is damaged: its header does not say what is in it"),
    "no text": (lambda data: change_word(data, 4, 0), "is damaged: its header does not say what is in it"),
    "endless text": (lambda data: change_word(data, 4, 2**40), "is damaged: its header does not say what is in it"),
    "interpreted here alone": (
        lambda data: change_word(data, 8, not config.DISABLE_JIT),
        "is used by processes that have (compiled kernels|the JIT off), and this one has not: set NUMBA_DISABLE_JIT=1",
    ),
}

STALE = "text", "no text", "endless text", "interpreted here alone"  # what a creator of that name replaces


@pytest.mark.parametrize("damage", DAMAGES)
def test_refuses_what_is_damaged(name, path, left, damage):
    change, message = DAMAGES[damage]
    data = change(left)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} ({message})"):
        BufferPool.attach(name)
    if damage not in STALE:
        with pytest.raises(FileExistsError, match=f"name='{name}' is taken: {path} ({message})"):
            BufferPool(2, 16, name=name)
        assert path.read_bytes() == data


def test_what_is_left_by_the_dead_is_replaced(name, path, left):
    path.write_bytes(left)
    with BufferPool(9, 16, name=name):
        assert BufferPool.attach(name).capacity == 9


@ATTACH
def test_refuses_what_is_missing(name, kind):
    with pytest.raises(FileNotFoundError, match=f"there is no shared {kind.__name__} of the name '{name}': nobody has"):
        kind.attach(name)


OTHER_FILES = {
    "directory": lambda path, target: path.mkdir(),
    "symlink": lambda path, target: path.symlink_to(target),
    "dangling symlink": lambda path, target: path.symlink_to("/nowhere"),
    "pipe": lambda path, target: os.mkfifo(path),
}


@pytest.mark.parametrize("what", OTHER_FILES)
def test_refuses_what_is_no_file(name, path, what):
    with BufferPool(2, 16, name=f"{name}.target") as pool:
        OTHER_FILES[what](path, segment.path_of(pool._segment.name))
        with pytest.raises(ValueError, match=f"{path} is no shared pool or queue of iobuf_nb"):
            BufferPool.attach(name)
        with pytest.raises(FileExistsError, match=f"name='{name}' is taken: {path} is no shared pool or queue"):
            BufferPool(2, 16, name=name)
        assert path.is_symlink() or path.exists()


@needs_root
def test_refuses_what_is_another_users(name, path):
    pool = BufferPool(2, 16, name=name)
    os.chown(path, 65534, -1)
    try:
        with pytest.raises(PermissionError, match=f"{path} belongs to the user 65534, not to this one, 0"):
            BufferPool.attach(name)
        with pytest.raises(FileExistsError, match=f"name='{name}' is taken: {path} belongs to the user 65534"):
            BufferPool(2, 16, name=name)
        os.chown(path, 0, -1)
        os.seteuid(65534)
        with pytest.raises(PermissionError, match=f"{path} belongs to another user"):
            BufferPool.attach(name)
        with pytest.raises(FileExistsError, match=f"name='{name}' is taken: {path} belongs to another user"):
            BoundedQueue(2, name=name)
    finally:
        os.seteuid(0)
    pool.close()


def test_only_its_user_may_read_it(name, path):
    with BufferPool(2, 16, name=name):
        assert path.stat().st_mode & 0o777 == 0o600


@ATTACH
def test_refuses_another_kind(name, kind):
    pool = BufferPool(2, 16, name=f"{name}.BufferPool")
    made = [pool, BoundedQueue(2, name=f"{name}.BoundedQueue"), Channel(pool, name=f"{name}.Channel")]
    for other in {"BufferPool", "BoundedQueue", "Channel"} - {kind.__name__}:
        with pytest.raises(
            ValueError, match=f"{name}.{other} holds a {other}, not a {kind.__name__}: attach to it with"
        ):
            kind.attach(f"{name}.{other}")
    for each in made:
        each.close()


BAD_NAMES = [
    (3, TypeError, "name must be a str, not 3"),
    (b"x", TypeError, "name must be a str, not b'x'"),
    ("", ValueError, "name must have 1 to 200 bytes of UTF-8, none of them a slash or 0, not ''"),
    ("a/b", ValueError, "name must have 1 to 200 bytes of UTF-8, none of them a slash or 0, not 'a/b'"),
    ("a\0b", ValueError, "name must have 1 to 200 bytes"),
    ("x" * 201, ValueError, "name must have 1 to 200 bytes"),
    ("\u00e9" * 101, ValueError, "name must have 1 to 200 bytes"),
    ("\ud800", ValueError, "name must have 1 to 200 bytes"),
]


@pytest.mark.parametrize("bad, error, message", BAD_NAMES)
def test_refuses_bad_names(bad, error, message):
    pool = BufferPool(2, 16, shared=True)
    calls = [BufferPool.attach, BoundedQueue.attach, Channel.attach]
    calls += [lambda name: BufferPool(2, 16, name=name), lambda name: BoundedQueue(2, name=name)]
    for call in (*calls, lambda name: Channel(pool, name=name)):
        with pytest.raises(error, match=message):
            call(bad)
    with pytest.raises(TypeError, match="name must be a str, not None"):
        BufferPool.attach(None)


@pytest.mark.parametrize("good", ["\u00e9" * 80, "with spaces", ".", "..", "a\nb", "x" * 150])
def test_takes_other_names(name, good):
    name = f"{name}{good}"
    with BufferPool(2, 16, name=name):
        assert BufferPool.attach(name).capacity == 2


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"shared": 1}, TypeError, "shared must be a bool, not 1"),
        ({"shared": "yes"}, TypeError, "shared must be a bool, not 'yes'"),
        ({"shared": True, "checked": False}, ValueError, "checked must be True for a shared pool: what a dead process"),
        ({"shared": True, "huge_pages": True}, ValueError, "huge_pages must be False for a shared pool: its memory is"),
        (
            {"shared": True, "page_size": 8192},
            ValueError,
            "page_size of a shared pool must be .* from 1 to 4096, not 8192",
        ),
        ({"shared": True, "page_size": 3000}, ValueError, "page_size of a shared pool must be a power of two"),
        ({"shared": True, "page_size": "x"}, TypeError, "page_size of a shared pool must be an integer from 1 to 4096"),
    ],
)
def test_refuses_what_a_shared_pool_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        BufferPool(2, 16, **options)


def test_takes_what_a_shared_pool_can_be():
    for options in ({"page_size": 64}, {"lock": True}, {"populate": True}, {"nonblocking": True}):
        pool = BufferPool(2, 16, shared=True, **options)
        assert pool.nonblocking == options.get("nonblocking", False)
        pool.put(pool.get())


def test_refuses_what_dev_shm_has_no_room_for(name):
    room = os.statvfs(segment.FOLDER)
    before = room.f_bavail
    for make in (
        lambda: BufferPool(1, room.f_blocks * room.f_frsize + 1, name=name),
        lambda: BoundedQueue(min(room.f_blocks * room.f_frsize // 8, 2**32), name=name),
    ):
        with pytest.raises(
            OSError, match="/dev/shm has no room for [0-9]+ bytes .*: make it larger, or share a pool"
        ) as no:
            make()
        assert no.value.errno == 28
    assert abs(os.statvfs(segment.FOLDER).f_bavail - before) < 1000 and name not in segment.names()


def test_a_refused_pool_leaves_no_descriptor(name, path, left):
    before = len(os.listdir("/proc/self/fd"))
    for data in (b"", left[:515] + b"x" + left[516:]):
        path.write_bytes(data)
        for call in (BufferPool.attach, segment.describe):
            with pytest.raises(ValueError):
                call(name)
    assert len(os.listdir("/proc/self/fd")) == before
