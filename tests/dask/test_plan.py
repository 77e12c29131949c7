"""Tasks cover each source once, in order, with borders between records, and are of about one size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iobuf_nb._dask.plan import USUAL_BYTES, piece_size, tasks_of
from iobuf_nb._streams.share import Window
from iobuf_nb._streams.windows import Planned


def planned(name, low, size, whole=False):
    return Planned(name, Window(low, size, 1, low, size, size), whole)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3000), st.booleans()), max_size=12),
    st.integers(1, 4000),
    st.integers(1, 60),
)
def test_tasks_cover_all_sources(some, piece, record):
    sources = [
        planned(f"{k}", skipped * record, (skipped + n) * record, whole) for k, (skipped, n, whole) in enumerate(some)
    ]
    tasks = tasks_of(sources, piece, record)
    bases = [sum(each.window.size for each in sources[:k]) for k in range(len(sources) + 1)]
    found = {each.name: [] for each in sources}
    following = 0
    for share, names in tasks:
        assert (
            share.base == bases[share.index] and names == [each.name for each in sources][share.index :][: len(names)]
        )
        assert share.index in (following, following - 1) and len(names) == len(share.windows)
        following = share.index + len(names)
        for name, window in zip(names, share.windows, strict=True):
            found[name].append(window)
    assert following == len(sources)
    for source in sources:
        windows = found[source.name]
        assert [each.low for each in windows[1:]] == [each.high for each in windows[:-1]]
        assert (windows[0].low, windows[-1].high) == (source.window.low, source.window.high)
        assert [each.known for each in windows] == [1, *[0] * (len(windows) - 1)]
        assert all((each.low - source.window.low) % record == 0 for each in windows)
        assert len(windows) == 1 or not source.whole
        if len(windows) > 1:
            assert max(each.high - each.low for each in windows) < 1.5 * piece + record


@pytest.mark.parametrize(
    ("files", "size", "sizes"),
    [(64, 1 << 26, [2] * 32), (3, 1 << 20, [3]), (5, 1 << 28, [1] * 10), (0, 0, [0])],
)
def test_files_are_put_together_up_to_a_piece(files, size, sizes):
    tasks = tasks_of([planned(f"{k}", 0, size) for k in range(files)], 1 << 27, 1)
    assert [len(task.sources) for task in tasks] == sizes


def test_a_piece_is_smaller_where_there_is_little():
    assert piece_size(1 << 40, 1000) == USUAL_BYTES
    assert piece_size(1 << 28, 8) == 1 << 23
    assert piece_size(1000, 8) == 1 << 23
