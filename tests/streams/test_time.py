"""The time of streams and copies: from the first read on, and nothing is compiled or loaded in it."""

import json

import numpy as np
import pytest
from numba import njit
from streaming import WITH_URING
from support import content, said

from iobuf_nb import ScanResult, StreamResult, stream
from iobuf_nb._streams import progress


@njit
def nothing(buffer, n, offset, state):
    pass


CLOCK = """
import json, os, sys
import numpy as np
from numba import njit
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher
from iobuf_nb import BufferPool, copy, scan, stream
from iobuf_nb._streams import progress

# A clock that only compiling, or loading what is compiled, advances.
now = 0.0

def slow(method):
    def compile(*arguments):
        global now
        now += 100.0
        return method(*arguments)
    return compile

Dispatcher.compile, CFunc.compile = slow(Dispatcher.compile), slow(CFunc.compile)
progress.perf_counter = lambda: now

@njit
def add(buffer, n, offset, state):
    state[0] += n

def streamed(source, **options):
    return stream(source, add, state=np.zeros(1), **options)

path = sys.argv[1]
result = eval(sys.argv[2])
print(json.dumps([result.bytes, result.seconds, result.compile_seconds]))
"""

CALLS = {
    "scan": "scan(path)",
    "stream": "streamed(path)",
    "of lines": "streamed(path, delimiter=b'\\n', tier=1 << 20)",
    "in order": "streamed(path, ordered=True)",
    "mapped": "streamed(path, engine='mmap')",
    "over fewer buffers than workers": "streamed(path, workers=3, buffers=1, tier=4096)",
    "over a pool of others": "streamed(path, pool=BufferPool(1, 4096), workers=3)",
    "of two sources, the second in turns": "streamed([path, os.popen(f'cat {path}').fileno()])",
    "copy": "copy(path, path + '.copy')",
    "copy that is verified": "copy(path, path + '.copy', verify=True)",
    "copy of a file without a size": "copy('/proc/version', path + '.copy')",
}
CALLS |= {"from a ring": "streamed(path, engine='uring')"} if WITH_URING else {}


@pytest.mark.compiled
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_compiled_while_the_clock_runs(file, call):
    path = file(content(100_000))
    n, seconds, compile_seconds = json.loads(said("-c", CLOCK, str(path), CALLS[call]))
    assert n and seconds == 0 and compile_seconds >= 300


@pytest.fixture
def clock(monkeypatch):
    """Let the test say what time it is."""
    now = [10.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


def test_a_stopwatch(clock):
    watch = progress.Stopwatch()
    watch.stop()
    assert (watch.seconds, watch.compile_seconds) == (0, 0)
    with watch.compiling():
        clock[0] += 100
    clock[0] += 3  # before the first read, and not compiling
    watch.start()
    clock[0] += 2
    watch.start()
    with watch.compiling():  # for a second source
        clock[0] += 50
    watch.stop()
    assert (watch.seconds, watch.compile_seconds) == (2, 150)
    clock[0] += 4
    watch.stop()
    assert watch.seconds == 6


def test_the_time_of_all_sources_counts(file, clock):
    def told(done, size):
        clock[0] += 1

    path = file(content(1000))
    with open(path, "rb") as opened:  # read alone, so that there are three runs; told at the end of each
        assert stream([path, opened, path], nothing, progress=told).seconds >= 2
    assert stream([], nothing).seconds == 0


def test_a_bar_is_made_when_reading_begins(clock, monkeypatch, capsys):
    tqdm = pytest.importorskip("tqdm")
    made = []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            made.append(options)
            super().__init__(**options)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    with progress.reporter(True, "read") as report:
        assert not made and capsys.readouterr().err == ""
        report(1000, 2000)
        report(2000, 2000)
    assert len(made) == 1 and "0.00/2.00k" in capsys.readouterr().err


def test_results_are_tables_in_notebooks():
    result = StreamResult(np.arange(3), 2_000_000_000, 0.5, 0.0, ("<a>",))
    shown = result._repr_html_()
    assert shown.startswith("<table><caption><b>StreamResult</b></caption>") and "None" not in shown
    for name, value in [
        ("bytes", "2,000,000,000"),
        ("seconds", "0.5000"),
        ("GB/s", "4.0000"),
        ("state", "array([0, 1, 2])"),
    ]:
        assert f"<tr><th>{name}</th><td>{value}</td></tr>" in shown
    assert "(&#x27;&lt;a&gt;&#x27;,)" in shown
    scanned = ScanResult(0, 0, np.zeros(256, np.int64), 0.0, 0.0, 0.0)._repr_html_()
    assert "<td>int64 array of shape (256,)</td>" in scanned and "<b>ScanResult</b>" in scanned
