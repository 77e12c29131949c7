"""Shares: however the windows of sources are divided, kernels see what those of the whole stream see."""

import errno
import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from sharing import CASES, RECORDS, complete, divided, require_same, see, shared

from iobuf_nb import StreamError
from iobuf_nb._streams.stream import stream_share
from iobuf_nb._streams.windows import windows_of


@pytest.mark.parametrize("data, options", CASES, ids=str)
def test_a_file_divided_anywhere_is_the_whole(file, data, options):
    path = file(data)
    for at in range(1, len(data)):
        require_same([path], [(0, at)], **options)
    require_same([path], [(0, at) for at in range(len(data))], **options)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=2, max_size=4),
    borders=st.sets(st.tuples(st.integers(0, 3), st.integers(1, 40))),
    data=st.binary(min_size=48, max_size=48).map(lambda data: bytes(b"\nab"[byte % 3] for byte in data)),
    options=st.sampled_from(
        [
            {"delimiter": b"\n", "tier": 64},
            {"delimiter": b"aba", "skip": 1, "tier": 64},
            {"record": 4},
            {"overlap": (2, 3)},
        ]
    ),
)
def test_files_divided_anywhere_are_the_whole(tmp_path_factory, sizes, borders, data, options):
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for k, size in enumerate(sizes):
        (folder / str(k)).write_bytes(data[: 4 * size])
        paths.append(str(folder / str(k)))
    require_same(paths, borders, **options)


def test_arrays_and_compressed_files(file, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(200, dtype="u1"))
    np.save(tmp_path / "b.npy", np.arange(56, dtype="u1"))
    for at in 1, 77, 199:
        require_same(f"{tmp_path}/*.npy", [(0, at), (1, 20)], overlap=(1, 1), skip=2)
    require_same([file(RECORDS), str(tmp_path / "a.npy")], [(0, 20), (1, 99)])  # which is read as it is
    plain, packed = file(RECORDS), file(gzip.compress(RECORDS), "packed")
    options = {"record": 2, "skip": 3, "decompress": "auto"}
    require_same([plain, packed], [(0, 20), (1, 2)], **options)
    np.save(tmp_path / "b.npy", np.arange(56, dtype="i8"))
    with pytest.raises(ValueError, match=r"b\.npy must hold uint8 of shape \(\), as the first source does, not int64"):
        windows_of(f"{tmp_path}/*.npy")


def test_states_of_each_source_are_those_of_the_share(file):
    paths = [str(file(RECORDS[:n], f"{n}")) for n in (48, 0, 10, 47)]
    first, second, third = shared(paths, [(0, 30), (3, 6)], per_file=True)
    assert [each[0] for each in first.state] == [30] and first.names == (paths[0],)
    assert [each[0] for each in second.state] == [18, 0, 10, 6] and list(second.names) == paths
    assert [each[0] for each in third.state] == [41]


def test_errors_name_the_place_in_the_file(file, tmp_path):
    @njit
    def fail(buffer, n, offset, state, source):
        if offset <= state[0] < offset + n:
            raise ZeroDivisionError("no way")

    np.save(tmp_path / "a.npy", np.zeros(64, "u1"))
    (_, names), (share, _) = divided([str(tmp_path / "a.npy")], [(0, 32)])
    with pytest.raises(StreamError, match=r"offset 176 of .*a\.npy"):
        stream_share(share, names, fail, state=np.array([50]), workers=1, tier=16)
    path = file(b"0123456789\n" * 3 + b"x" * 100)
    (_, names), (share, _) = divided([path], [(0, 30)], delimiter=b"\n")
    with pytest.raises(ValueError, match="has a line at offset 33 that is longer than a piece, 16 bytes"):
        stream_share(share, names, see, **complete(delimiter=b"\n"))


@pytest.mark.parametrize("options", [{}, {"overlap": (1, 1)}, {"decompress": "gzip"}])
def test_what_has_changed_since_is_refused(file, options):
    data = gzip.compress(RECORDS) if "decompress" in options else RECORDS
    paths = [file(data), file(data, "other")]
    (share,) = divided(paths, [], **options)
    for changed in data + b"!", data[:-1], b"":
        with open(paths[1], "wb") as opened:
            opened.write(changed)
        what = f"Changed since the stream was planned: it had {len(data)} bytes, and has {len(changed)}"
        with pytest.raises(OSError, match=what) as caught:
            stream_share(*share, see, **complete(**options))
        assert caught.value.errno == errno.EIO and caught.value.filename == str(paths[1])


def test_what_cannot_be_divided(file, tmp_path):
    for source, error in [(b"bytes", TypeError), (str(tmp_path), ValueError), ("/proc/self/stat", ValueError)]:
        with pytest.raises(error, match="source must be .* if several streams are to divide it"):
            windows_of([source])
    with pytest.raises(ValueError, match="must be whole records of 5 bytes"):
        windows_of(file(RECORDS), record=5)
    share, names = divided([file(RECORDS)], [])[0]
    with pytest.raises(ValueError, match="engine='uring'"):
        stream_share(share, names, njit(lambda buffer, n, offset, state: None), engine="uring")
