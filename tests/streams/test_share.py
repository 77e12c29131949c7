"""Shares: however the windows of sources are divided, kernels see what those of the whole stream see."""

import errno
import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from iobuf_nb import StreamError, stream
from iobuf_nb._streams.share import Share
from iobuf_nb._streams.stream import stream_share
from iobuf_nb._streams.windows import windows_of

PLANNED = ["record", "dtype", "delimiter", "overlap", "start", "stop", "skip", "decompress"]


@njit
def see(buffer, n, offset, state, source, before, after, output):
    """Tell of each byte where it is, what it is, and what its neighbours are that are asked for by the state."""
    for k in range(n):
        at = before + k
        output[k, 0], output[k, 1], output[k, 2], output[k, 3] = source, offset + k, buffer[at], 0
        for other in range(at - state[1], at + state[2] + 1):
            output[k, 3] = 300 * output[k, 3] + (buffer[other] if 0 <= other < len(buffer) else 299)
    state[0] += n
    return n


def complete(overlap=(0, 0), **options):
    """Return all options of a stream."""
    state = np.array([0, *overlap])
    usual = {"state": state, "combine": np.add, "workers": 2, "collect": ("i8", (4,)), "tier": 16, "overlap": overlap}
    return usual | options


def divided(sources, borders, **options):
    """Return the shares of sources that are divided at `borders`: pairs of the number of a source and a position."""
    units, found = windows_of(sources, **{name: options[name] for name in PLANNED if name in options})
    base, rows = 0, [[]]  # a row has at most one part of each source
    for index, (name, window, must_be_whole) in enumerate(found):
        inner = {at // units.record * units.record for source, at in borders if source == index and not must_be_whole}
        cuts = sorted({0, window.high - window.low} | {at for at in inner if at < window.high - window.low})
        for low, high in zip(cuts, cuts[1:] or cuts, strict=False):
            part = window._replace(low=window.low + low, high=window.low + high, known=window.known if low == 0 else 0)
            rows[-1].append((index, base, name, part))
            if high < cuts[-1]:
                rows.append([])
        base += window.size
    return [
        (Share(row[0][0], row[0][1], tuple(part for *_, part in row)), [name for _, _, name, _ in row]) for row in rows
    ]


def shared(sources, borders, **options):
    return [stream_share(*share, see, **complete(**options)) for share in divided(sources, borders, **options)]


def require_same(sources, borders, **options):
    expected = stream(sources, see, **complete(**options))
    found = shared(sources, borders, **options)
    assert np.concatenate([each.collected for each in found]).tolist() == expected.collected.tolist()
    assert sum(each.state[0] for each in found) == expected.state[0]
    assert sum(each.bytes for each in found) == expected.bytes


RECORDS = bytes(range(48))
LINES = b"abababa\nx\n\n\n\nyabababab\n\n\nab\n\nabababa"
CASES = [
    (RECORDS, {"record": 3}),
    (RECORDS, {"overlap": (3, 2), "record": 2, "start": 4, "stop": 40, "skip": 3}),
    (RECORDS, {"overlap": (5, 0), "tier": 24}),
    (RECORDS, {"engine": "mmap", "record": 4}),
    (LINES, {"delimiter": b"\n"}),
    (LINES, {"delimiter": b"\n", "skip": 2, "start": 3, "stop": 30, "engine": "mmap"}),
    (LINES, {"delimiter": b"\n\n", "skip": 1}),
    (LINES, {"delimiter": b"abab", "start": 1, "tier": 24}),
    (LINES, {"delimiter": b"\n\n", "direct": True, "tier": 4096}),
]


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
