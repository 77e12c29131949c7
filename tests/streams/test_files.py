"""Many files in one stream: those that are missing, unreadable, empty or changing, and arrays in .npy files."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from recording import log, look, none_left, open_descriptors, recorded
from streaming import WITH_URING, fed, needs_uring
from support import SYSFS, needs_root, needs_sysfs, without_rights

from iobuf_nb import atomics, stream

WAYS = [{"engine": "preadv"}, {"engine": "mmap"}, {"ordered": True}, {"delimiter": b"\n"}, *WITH_URING[:1]]
OVER_ALL = pytest.mark.parametrize("way", WAYS, ids=str)
SIZE = 4096


def contents(result, item=1):
    """Return the bytes of each source that reached kernels, with their neighbours checked to be none."""
    pieces = [piece for state in {id(s): s for s in result.state}.values() for piece in recorded(state)]
    found = [b""] * len(result.names)
    for piece in sorted(pieces, key=lambda piece: piece.offset):
        assert piece.length == piece.items == len(piece.data) // item
        found[piece.source] += piece.data
    return found


def streamed(sources, item=1, **options):
    options = {"tier": SIZE, "workers": 3, "state": log(item, 1 << 24)} | options
    return stream(sources, look, **options)


def numbered(file, count, size=10_000):
    """Make files that all have other bytes, whole lines each."""
    return [file(line(k) * (size // 100), f"file{k:04}") for k in range(count)]


def line(k):
    return bytes([65 + k % 26]) * 99 + b"\n"


@pytest.fixture
def nothing_left(threads_end):
    """No descriptor is left open, no thread left at work."""
    opened = open_descriptors()
    yield
    none_left(opened)


pytestmark = pytest.mark.usefixtures("nothing_left")


# ---- what is there ---------------------------------------------------------------------------------------------------


@OVER_ALL
def test_every_file_is_read_in_order_of_the_list(file, way):
    way = {k: v for k, v in way.items() if k != "delimiter"}
    paths = numbered(file, 30, 2 * SIZE)
    paths.insert(7, file(b"", "empty"))
    paths += [file(b"", "another"), paths[0]]  # the same once more
    result = streamed(paths, **way)
    assert result.names == tuple(map(str, paths))
    assert contents(result) == [path.read_bytes() for path in paths]


def test_only_empty_files(file):
    result = streamed([file(b"", f"empty{k}") for k in range(5)])
    assert result.bytes == 0 and len(result.names) == 5 and contents(result) == [b""] * 5
    assert streamed([]).names == () and streamed(iter([])).bytes == 0


def test_a_pattern(file, tmp_path):
    numbered(file, 5)
    (tmp_path / "file0002x").mkdir()  # no file
    result = streamed(str(tmp_path / "file*"))
    assert [os.path.basename(name) for name in result.names] == [f"file{k:04}" for k in range(5)]
    with pytest.raises(FileNotFoundError, match="No file has this name or matches this pattern: '.*/other\\*'"):
        streamed(str(tmp_path / "other*"))
    odd = file(b"odd\n", "[file]*")
    assert contents(streamed(str(odd))) == [b"odd\n"]  # a path that exists is no pattern


def test_sources_of_all_kinds_know_their_number(file):
    paths = numbered(file, 3)
    with fed("pipe", b"p" * 9000, 700) as pipe, open(paths[1], "rb") as opened:
        sources = [paths[0], pipe, b"bytes" * 3000, opened, np.arange(200, 210, dtype=np.uint8), paths[2]]
        result = streamed(sources)
        assert result.names == (str(paths[0]), str(pipe), "<bytes>", str(opened), "<ndarray>", str(paths[2]))
    expected = [line(0) * 100, b"p" * 9000, b"bytes" * 3000, line(1) * 100, bytes(range(200, 210)), line(2) * 100]
    assert contents(result) == expected


def test_more_files_than_may_be_open(file):
    paths = numbered(file, 300, 3 * SIZE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 10, hard))
    try:
        results = [streamed(paths, engine=engine) for engine in ("preadv", "mmap")]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for result in results:
        assert contents(result) == [path.read_bytes() for path in paths]


def test_no_descriptor_is_free(file):
    paths = numbered(file, 3)
    streamed(paths)  # compiled
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match=r"Too many open files at offset \d+; 0 of 3 sources .*: '.*/file"):
            streamed(paths)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@needs_uring
@pytest.mark.skipif(not os.path.exists("/proc/kallsyms"), reason="this Linux does not list its symbols")
def test_io_uring_and_a_file_that_does_not_tell_its_size():
    with open("/proc/kallsyms", "rb") as opened:
        data = opened.read(100_000)  # it is larger than all buffers, which have no room behind a piece
    result = streamed("/proc/kallsyms", engine="uring", state=log(1, 20 << 20))
    assert contents(result)[0][:100_000] == data


# ---- what cannot be read ---------------------------------------------------------------------------------------------


@OVER_ALL
@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_a_missing_file(file, tmp_path, way, make):
    paths = numbered(file, 10)
    with pytest.raises(FileNotFoundError, match="No such file or directory: '.*/missing'"):
        streamed(make([*paths[:5], tmp_path / "missing", *paths[5:]]), **way)


@OVER_ALL
def test_a_directory(file, tmp_path, way):
    paths = numbered(file, 10)
    with pytest.raises(IsADirectoryError, match=f"Is a directory: '{tmp_path}'"):
        streamed([*paths[:5], tmp_path, *paths[5:]], **way)


@needs_root
@OVER_ALL
def test_an_unreadable_file(file, tmp_path, way):
    paths = numbered(file, 10)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    paths[5].chmod(0)
    with without_rights(), pytest.raises(PermissionError, match="Permission denied.*: '.*/file0005'"):
        streamed(paths, **way)


def removed(path):
    path.unlink()


def replaced(path):
    path.rename(path.with_name("old"))
    path.write_bytes(b"y" * 10_000)


def truncated(path):
    os.truncate(path, 100)


@OVER_ALL
@pytest.mark.parametrize("change", [removed, replaced, truncated])
def test_a_file_that_changes_before_it_is_opened(file, way, change):
    paths = numbered(file, 10)

    def sources():
        yield from paths
        change(paths[4])

    if "uring" in way.values():
        assert streamed(sources(), **way).bytes == 100_000  # read before the next one is asked for
        return
    why = "No such file or directory" if change is removed else "Changed while it was read, after 0 of 10000 bytes"
    with pytest.raises(OSError, match=f"{why}.*; [0-9] of 10 sources were read whole: '.*/file0004'") as caught:
        streamed(sources(), **way)
    assert caught.value.filename == str(paths[4])


@njit(nogil=True)
def held_up(buffer, n, offset, state, source):
    """Say in `state[2]` that a piece is here, and record it when told to go on."""
    atomics.fetch_add(state[2], 0, 1)
    while atomics.load(state[2], 1) == 0:
        atomics.pause(100)
    look(buffer, n, offset, state[:2], source, 0, 0)


def held_up_until(change, path, **options):
    """Stream a file, of which the first pieces wait until it has been changed, which is when all workers have it."""
    words = np.zeros(2, np.int64)
    make = log(1, 1 << 24)
    workers = 3

    def once(*_):
        if not words[1] and words[0] >= (1 if "ordered" in options else workers):
            change(path)
            atomics.store(words, 1, 1)

    result = stream(path, held_up, state=lambda: (*make(), words), progress=once, tier=SIZE, workers=workers, **options)
    states = {id(state): state[:2] for state in result.state}
    pieces = sorted((p for s in states.values() for p in recorded(s)), key=lambda p: p.offset)
    return b"".join(piece.data for piece in pieces)


def appended(path):
    with open(path, "ab") as opened:
        opened.write(b"and more\n")


def renamed(path):
    path.rename(path.with_name("elsewhere"))
    path.write_bytes(b"another\n")


# Whoever opens a file that is mapped for writing waits until the kernels have done with it: see test_mapping.py.
READ = pytest.mark.parametrize("way", [way for way in WAYS if "mmap" not in way.values()], ids=str)


@READ
@pytest.mark.parametrize("change", [removed, renamed, appended])
def test_a_file_is_what_it_was_at_the_start(file, way, change):
    data = (b"0123456\n" * (1 << 17))[:1_000_000]
    path = file(data)
    assert held_up_until(change, path, **way) == data


def test_a_mapped_file_that_is_removed_or_replaced(file):
    data = (b"0123456\n" * (1 << 17))[:1_000_000]
    for change in (removed, replaced):
        path = file(data)
        (path.parent / "old").unlink(missing_ok=True)
        got = held_up_until(change, path, engine="mmap")
        assert got == data


@READ
def test_a_file_that_shrinks_while_it_is_read(file, way):
    path = file((b"0123456\n" * (1 << 17))[:1_000_000])
    with pytest.raises(OSError, match="Changed while it was read, after [0-9]+ of 1000000 bytes") as caught:
        held_up_until(truncated, path, **way)
    assert caught.value.errno == errno.EIO and caught.value.filename == str(path)


def test_a_generator_that_raises(file):
    paths, made = numbered(file, 10), []

    def sources():
        for path in paths[:5]:
            made.append(path)
            yield path
        raise ZeroDivisionError("that was all")

    with pytest.raises(ZeroDivisionError, match="that was all"):
        streamed(sources())
    assert made == paths[:5]


@pytest.mark.parametrize("bad", [None, 1.5, [1], {}, True, b"\xff" * 3], ids=str)
def test_a_source_that_is_none(file, bad):
    good = file(b"abc")
    if isinstance(bad, bytes):
        assert streamed([good, bad]).bytes == 6
        return
    for sources in ([good, bad], iter([good, bad])):
        with pytest.raises(TypeError, match="source must be a path, a URL, a file descriptor, an object with fileno"):
            streamed(sources)


# ---- arrays ----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def total(buffer, n, offset, state):
    """Sum up items, and their weights: the numbers of the first ones of pieces, in bytes."""
    state[0] += buffer.sum()
    state[1] += n
    state[2] = max(state[2], offset)


def npy(path, array, version=None, **options):
    with open(path, "wb") as opened:
        np.lib.format.write_array(opened, np.asanyarray(array), version, **options)
    return path


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("shape", [(1000,), (1000, 3), (100, 3, 5), (1, 7)])
@pytest.mark.parametrize("dtype", ["f8", "i2"])
def test_npy(tmp_path, version, shape, dtype):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    path = npy(tmp_path / "array.npy", array, version)
    for engine in ("auto", "mmap"):
        result = stream(path, total, state=np.zeros(3), combine=np.add, workers=1, tier=512, engine=engine)
        assert result.bytes == array.nbytes and result.state[:2].tolist() == [array.sum(), shape[0]]
        assert result.state[2] < array.nbytes  # offsets are from the first item on
    with_header = stream(path, total, state=np.zeros(3), combine=np.add, dtype="u1")
    assert with_header.bytes == path.stat().st_size


def test_npy_files_of_one_kind(tmp_path):
    arrays = [np.random.default_rng(k).random((100 * k, 4)) for k in range(4)]  # the first one is empty
    for order in (1, -1):
        paths = [npy(tmp_path / f"{k}.npy", array) for k, array in enumerate(arrays)][::order]
        result = streamed(paths, item=32)
        assert contents(result, 32) == [array.tobytes() for array in arrays[::order]]
    result = streamed(paths, item=32, start=64, stop=640, skip=2)
    assert contents(result, 32) == [array.tobytes()[128:640] for array in arrays[::-1]]


def test_npy_files_that_do_not_fit(tmp_path, file):
    first = npy(tmp_path / "first.npy", np.zeros((10, 3)))
    others = {
        "must hold float64 of shape \\(3,\\), as the first source does, not float64 of \\(4,\\)": np.zeros((10, 4)),
        "must hold float64 of shape \\(3,\\), as the first source does, not float64 of \\(\\)": np.zeros(10),
        "must hold float64 of shape \\(3,\\), as the first source does, not int32 of \\(3,\\)": np.zeros((9, 3), "i4"),
        "must be C-contiguous, but is in Fortran order": np.asfortranarray(np.zeros((10, 3))),
    }
    for why, array in others.items():
        other = npy(tmp_path / "other.npy", array)
        with pytest.raises(ValueError, match=f"{other}.*{why}"):
            stream([first, other], total, state=np.zeros(3))
    with pytest.raises(ValueError, match="must be a .npy file, as the first source is one: or pass dtype"):
        stream([first, np.zeros((10, 3))], total, state=np.zeros(3))
    with pytest.raises(ValueError, match="data must be"):
        stream([first, file(b"no array")], total, state=np.zeros(3))


@pytest.mark.parametrize(
    ("array", "error", "why"),
    [
        (np.asfortranarray(np.zeros((10, 3))), ValueError, "array.npy must be C-contiguous, but is in Fortran order"),
        (np.array([None, 1], object), ValueError, "array.npy must be an array of plain memory"),
        (np.zeros(10, ">f8"), TypeError, "dtype must be one that numba knows, not >f8"),
        (np.zeros(10, "f2"), TypeError, "dtype must be one whose arrays kernels can use, not float16"),
    ],
    ids=["Fortran", "object", "big-endian", "f2"],
)
def test_npy_files_that_are_refused(tmp_path, array, error, why):
    with pytest.raises(error, match=why):
        stream(npy(tmp_path / "array.npy", array), total, state=np.zeros(3))


def test_files_that_are_no_npy_files(file):
    for data in (b"", b"no array", b"\x93NUMPY", b"\x93NUMPY\x09\x00\x10\x00" + bytes(100)):
        with pytest.raises(ValueError, match="array.npy must be"):
            stream(file(data, "array.npy"), total, state=np.zeros(3))
    whole = file(b"", "array.npy")
    npy(whole, np.zeros(100))
    os.truncate(whole, 500)
    with pytest.raises(ValueError, match="array.npy must be"):
        stream(whole, total, state=np.zeros(3))


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_an_empty_array(tmp_path, shape):
    result = stream(npy(tmp_path / "array.npy", np.zeros(shape)), total, state=np.zeros(3), combine=np.add)
    assert result.bytes == 0 and result.state.tolist() == [0, 0, 0]


def test_an_array_without_axes(tmp_path):
    result = stream(npy(tmp_path / "array.npy", np.float64(3)), total, state=np.zeros(3), combine=np.add)
    assert result.state.tolist() == [3, 1, 0]


def test_an_array_in_memory_says_its_dtype():
    array = np.arange(3000.0).reshape(1000, 3)
    result = stream([array, array], total, state=np.zeros(3), combine=np.add, tier=SIZE)
    assert result.state[:2].tolist() == [2 * array.sum(), 2000]


# ---- where a descriptor is left --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, end", [({}, 5000), ({"start": 100, "stop": 200}, 200), ({"stop": 9999}, 5000), ({"skip": 10}, 5000)]
)
def test_a_descriptor_is_left_where_the_stream_ended(file, options, end):
    with open(file(bytes(5000)), "rb", buffering=0) as opened:
        stream(opened, look, state=log(1, 100_000), workers=1, **options)
        assert opened.tell() == end


@needs_sysfs
def test_files_that_report_a_size_that_means_nothing():
    paths = [f"{SYSFS}/{name}" for name in ("enabled", "defrag")]
    expected = b"".join(Path(path).read_bytes() for path in paths)
    result = stream(paths, look, state=log(1, 100_000), workers=1)
    assert b"".join(piece.data for piece in recorded(result.state[0])) == expected
