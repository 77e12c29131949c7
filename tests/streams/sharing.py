"""Sources that are divided into shares, and a kernel that tells all that it sees of them."""

import numpy as np
from numba import njit

from iobuf_nb import stream
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


def planned(sources, **options):
    return windows_of(sources, **{name: options[name] for name in PLANNED if name in options})


def divided(sources, borders, **options):
    """Return the shares of sources that are divided at `borders`: pairs of the number of a source and a position."""
    units, _, found = planned(sources, **options)
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
    _, dtype, _ = planned(sources, **options)
    options_of_all = complete(**options) | {"dtype": dtype}
    return [stream_share(*share, see, **options_of_all) for share in divided(sources, borders, **options)]


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
