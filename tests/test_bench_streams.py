"""The benchmarks of streams measure what they say: every side finds the same, and all that targets name is measured."""

import inspect
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.__main__ import main
from bench.streams import PARTS, output, rows, sides, sizes, text, timing
from bench.streams.work import BYTES, NEWLINES, SUMMARY
from bench.table import Settings, Table
from bench.targets import Target
from bench.workloads.streams import STREAM_CALL, STREAM_FILES, STREAM_NEWLINES, STREAMS
from iobuf_nb import stream

pytestmark = pytest.mark.compiled

TINY = sizes.Sizes(
    file=1 << 20, records=1 << 20, compressed=1 << 18, pipe=300_000, files=20, rows=20_000, calls=2, runs=1
)
PLANNED = {"filter": "output", "collect": "collect", "compressed": "decompress"}  # what parts need of `stream`


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(sizes, "QUICK", TINY)
    return Settings(True, 1)


@pytest.mark.parametrize("part", PARTS)
def test_all_sides_agree_and_every_target_is_measured(part, tiny):
    if part in PLANNED and PLANNED[part] not in inspect.signature(stream).parameters:
        pytest.skip(f"stream has no {PLANNED[part]} yet")
    if part == "rows" and not (find_spec("bench.one_billion_rows") and find_spec("bench.measurements")):
        pytest.skip("there is no program yet, or nothing to generate its input")
    tables = PARTS[part](tiny)
    assert tables
    reasons = " ".join(reason for table in tables for reason in table.missing)
    for table in tables:
        for comparison, _ in table.bounds:
            assert comparison.ratios(table.samples) or str(comparison.base).split(".")[0] in reasons, comparison


def test_parts_are_chosen_by_name(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["stream.none"])
    assert "stream.pipe" in capsys.readouterr().err


def test_a_side_that_finds_something_else_is_refused(tiny):
    def check(result):
        timing.agree(np.array([3]), result)

    cases = {"right": lambda: np.array([3]), "only reads": lambda: None}
    assert set(timing.measured(STREAM_FILES, cases, check, tiny).samples) == set(cases)
    with pytest.raises(AssertionError):
        timing.measured(STREAM_FILES, {**cases, "wrong": lambda: np.array([4])}, check, tiny)


def test_sums_may_differ_in_their_last_digits_and_counts_may_not():
    timing.agree(np.array([1e9]), np.array([1e9 + 0.5]))
    with pytest.raises(AssertionError):
        timing.agree(np.array([1e9]), np.array([1e9 + 2]))
    for wrong in ([10**10 + 1], [10**10, 10**10], 10**10):
        with pytest.raises(AssertionError):
            timing.agree(np.array([10**10]), np.array(wrong))


def test_what_comes_before_a_case_takes_none_of_its_time(monkeypatch):
    now = [0.0]

    def after(seconds, result=None):
        now[0] += seconds
        return result

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert timing.seconds(lambda: after(2), lambda _: after(100), lambda: after(10)) == 2
    workload = STREAM_NEWLINES
    table = timing.measured(workload, {"a": lambda: after(2)}, lambda _: None, Settings(True, 1), 6 * 10**9)
    assert table.samples["a"] == [3.0] * sizes.QUICK.runs


@pytest.mark.parametrize("work", [NEWLINES, SUMMARY, BYTES], ids=lambda work: work.kernel.__name__)
def test_every_way_to_read_sees_each_byte_once(work, tmp_path):
    path = str(tmp_path / "values")
    values = np.random.default_rng(0).random(500_001, np.float32)  # threads get unequal parts, and the last is short
    values.tofile(path)
    whole = work.state()
    items = values.view(work.dtype)
    work.kernel(items, len(items), 0, whole)
    ways = [sides.mapped_by_chunks, sides.mapped_by_parts, sides.by_preadv, sides.by_fromfile, sides.streamed]
    for way in ways:
        found = way(work, path)
        timing.agree(whole.sum(axis=0), found.sum(axis=0))
        if work is not BYTES:
            timing.agree(whole, found)


@pytest.mark.parametrize("size", [0, 100, 40_000_000])
def test_text_is_whole_lines_and_nearly_as_long_as_asked_for(size, tmp_path):
    length, lines = text.write_text(str(tmp_path / "text"), size)
    data = (tmp_path / "text").read_bytes()
    assert len(data) == length and size - 20 < length <= size
    assert data.count(b"\n") == lines and data[-1:] in (b"", b"\n")


def test_kernels_that_write_keep_what_numpy_keeps():
    records = np.zeros(1000, output.RECORD)
    records["value"] = np.random.default_rng(0).random(1000)
    records["time"] = np.arange(1000)
    out = np.empty(1000, output.RECORD)
    n = output.keep(records, 1000, 0, None, out)
    assert np.array_equal(out[:n], records[records["value"] < output.KEPT]) and 50 < n < 150
    values = np.arange(1000, dtype=np.uint8)
    positions = np.empty(1000, np.int64)
    n = output.locate(values, 1000, 7000, None, positions)
    assert np.array_equal(positions[:n], np.flatnonzero(values == output.SOUGHT) + 7000) and n == 4


BUSY = "import os, sys, time\nwhile time.process_time() < 0.2: pass\nprint(os.path.basename(sys.argv[1]))"


def test_a_process_is_charged_for_all_of_its_threads():
    taken = rows.used([sys.executable, "-c", BUSY], "/some/file")
    assert taken.cpu >= 0.2 and taken.wall > 0 and taken.printed == "file\n"
    twice = f"import threading\nif threading.Thread(target=exec, args=({BUSY.replace('0.2', '0.6')!r},)).start(): pass"
    assert rows.used([sys.executable, "-c", twice], "/some/file").cpu >= 0.6


def test_a_process_gets_as_many_processors_as_there_are_threads():
    before = os.sched_getaffinity(0)
    taken = rows.used([sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"], "/some/file")
    assert int(taken.printed) == min(sides.THREADS, len(before)) and os.sched_getaffinity(0) == before


def test_a_process_that_fails_is_an_error():
    with pytest.raises(rows.subprocess.CalledProcessError):
        rows.used([sys.executable, "-c", "raise SystemExit(3)"], "file")


def test_rows_are_compared_by_name(tmp_path):
    (tmp_path / "rows").write_text("b;1.0\na;-2.5\nb;2.1\n")
    found = rows.by_python(str(tmp_path / "rows"))
    assert found == {"a": (-2.5, -2.5, -2.5), "b": (1.0, 1.55, 2.1)}
    rows.agree(found, rows.parsed("{a=-2.5/-2.5/-2.5, b=1.0/1.6/2.1}\n"))
    for wrong in ("{a=-2.5/-2.5/-2.5}", "{a=-2.5/-2.5/-2.5, b=1.0/1.6/2.2}", "{a=-2.5/-2.5/-2.5, b=1.0/1.7/2.1}"):
        with pytest.raises(AssertionError):
            rows.agree(found, rows.parsed(wrong))


def test_names_of_stations_may_have_commas():
    found = rows.parsed("{Washington, D.C.=-1.0/0.5/2.0, Xi'an=3.0/3.0/3.0, Zürich=0.0/-0.0/0.1}")
    assert found == {"Washington, D.C.": (-1, 0.5, 2), "Xi'an": (3, 3, 3), "Zürich": (0, 0, 0.1)}


def test_what_is_not_installed_is_named():
    assert list(timing.absent("numpy", "no_such_package")) == ["no_such_package"]
    table = Table(STREAM_CALL, missing=[*timing.absent("no_such_package").values()])
    assert "- no_such_package: not installed (pip install 'iobuf-nb[bench]')" in str(table)


def test_names_of_cases_fit_into_tables():
    targets: list[Target] = [target for workload in STREAMS for target in workload.targets]
    assert all("|" not in str(comparison) for target in targets for comparison in target.comparisons)
