"""The benchmarks measure what they say: no peer loses an item, and the documents show the committed results."""

import random
import re
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import peers, python, queues, report, startup, wait
from bench.__main__ import GROUPS, main
from bench.names import CHECKED, POOL, RING, VYUKOV
from bench.peers import PEERS, Peer
from bench.result import Result, dumps, loads, save, slug
from bench.table import Settings, Table, in_turn
from bench.targets import Choice, Comparison, Target, verdict
from bench.work import SUBJECTS
from bench.workloads import WORKLOADS
from bench.workloads.kernels import ALONE, HOLD, TOGETHER

pytestmark = pytest.mark.compiled


def workloads(threads, passes):
    names = [("pairs", 1), ("hold", 1), ("bulk", 1), ("empty", 1), ("pairs", 2), ("hold", 2)]
    passing = [("transfer", 2), ("buffers", 2)]
    return [pair for pair in names + passing * passes if pair[1] <= threads]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_gives_out_every_item_once(peer):
    if peer.missing:
        pytest.skip(peer.missing)
    items = peer.contents(1000)
    assert len(set(items)) == len(items) == 1000
    if peer.passes:
        assert sorted(items) == list(range(1000))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_loses_nothing_in_any_workload(peer):
    if peer.missing:
        pytest.skip(peer.missing)
    for workload, threads in workloads(peer.threads, peer.passes):
        assert peer.run(workload, 960, threads) >= 0, workload


def test_we_lose_nothing_in_any_workload():
    for workload, threads in workloads(2, False):
        assert SUBJECTS[POOL].run(workload, 96, threads) >= 0, workload
    assert SUBJECTS[RING].run("transfer", 96, 2) >= 0


@pytest.mark.parametrize(
    "loop",
    [
        python.leases,
        python.by_hand,
        partial(python.on_held, python.set_values),
        partial(python.on_held, partial(python.call_each, "value")),
    ],
)
def test_methods_that_are_timed_alone_lose_nothing(loop):
    assert SUBJECTS[CHECKED].side_by_side(loop, 96, 1) > 0


@pytest.mark.parametrize("through", queues.CASES.values(), ids=queues.CASES)
def test_no_item_is_lost_on_its_way_to_a_coroutine(through):
    assert queues.timed(through, 100) > 0


def test_both_sides_write_the_same_bytes():
    def set_and_compare(pool, held, n):
        buffers = [bytearray(python.BUFFER) for _ in held]
        python.set_values(pool, held, n)
        python.set_bytearrays(buffers, n)
        assert [bytes(pool.value(index)) for index in held] == buffers == [python.FILLINGS[1]] * len(held)

    python.on_held(set_and_compare, SUBJECTS[CHECKED].make(), python.HELD)


def test_buffers_are_written_through_a_view_where_there_is_one():
    class Viewed:
        def __init__(self):
            self.buffer = bytearray(python.BUFFER)

        def get(self):
            return 0

        def view(self, index):
            return memoryview(self.buffer)

        def put(self, index):
            assert self.buffer == python.FILLINGS[1]

    pool, passing = Viewed(), python.of_deque()
    python.write_buffers(pool, passing, 2)
    assert pool.buffer == python.FILLINGS[1] and passing.was_size() == 2


def test_a_peer_that_cannot_be_built_is_missing_for_a_reason():
    assert "no no-such-module (apt-get install" in Peer("none", "rte_ring.c", "libnone-dev", "no-such-module").missing


@pytest.mark.parametrize(
    "rustc, reason",
    [
        (None, "there is no rustc (apt-get install rustc)"),
        ("rustc", "no cfg-if (apt-get install librust-crossbeam-queue-dev)"),
    ],
)
def test_a_peer_in_rust_is_missing_without_a_compiler_or_a_crate(monkeypatch, tmp_path, rustc, reason):
    monkeypatch.setattr(peers, "REGISTRY", tmp_path)
    monkeypatch.setattr(peers.shutil, "which", lambda name: rustc)
    assert Peer("none", "crossbeam.rs", "librust-crossbeam-queue-dev").missing == reason


def test_a_reason_names_no_folder_of_this_machine(monkeypatch, tmp_path):
    (tmp_path / "broken.c").write_text("#error broken\n")
    (tmp_path / "work.h").touch()
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setattr(peers, "CACHE", tmp_path / "cache")
    reason = Peer("none", "broken.c", "libnone-dev").missing
    if "there is no gcc" in reason:
        pytest.skip(reason)
    assert reason.startswith("not built (apt-get install libnone-dev): broken.c:1:2: ")


def test_ratios_are_taken_run_by_run():
    samples = {"ours": [1.0, 2.0, 9.0], "a": [2.0, 1.0, 3.0], "b": [4.0, 8.0, 2.0], "c": [8.0, 4.0, 1.0]}
    peers = "a", "b", "c", "not here"
    assert Comparison("ours", Choice("best", peers, min)).ratios(samples) == [0.5, 2, 9]
    assert Comparison("ours", Choice("median", peers, statistics.median)).ratios(samples) == [0.25, 0.5, 4.5]
    assert Comparison("ours", "a").ratios(samples) == [0.5, 2, 3]
    assert Comparison("ours", None).ratios(samples) == samples["ours"]
    assert Comparison("ours", "not here").ratios(samples) == Comparison("not here", "a").ratios(samples) == []


@pytest.mark.parametrize(
    ("runs", "bound", "expected"),
    [
        ([1, 2, 3, 4, 5], "<= 5", "yes"),
        ([1, 2, 3, 4, 5], "<= 4", "yes"),  # the upper quartile equals the target, which is allowed
        ([1, 2, 3, 4, 5], "< 4", "unclear"),  # and which is not
        ([1, 2, 3, 4, 5], "<= 3.5", "unclear"),  # though the median keeps it
        ([1, 2, 3, 4, 5], "<= 2.5", "unclear"),  # though the median breaks it
        ([1, 2, 3, 4, 5], "<= 2", "unclear"),
        ([1, 2, 3, 4, 5], "< 2", "no"),  # the lower quartile equals the target, which is not allowed
        ([1, 2, 3, 4, 5], "<= 1.9", "no"),  # though one run keeps it
        ([1, 2, 3, 4, 5], ">= 2", "yes"),
        ([1, 2, 3, 4, 5], ">= 2.1", "unclear"),
        ([1, 2, 3, 4, 5], ">= 4", "unclear"),
        ([1, 2, 3, 4, 5], ">= 4.1", "no"),
        ([2, 2, 2], "<= 2", "yes"),
        ([2, 2, 2], "< 2", "no"),
        ([1, 3], "<= 2", "unclear"),
        ([1], "<= 2", "unclear"),  # one run tells nothing about the spread
        ([3], "<= 2", "unclear"),
    ],
)
def test_a_verdict_is_unclear_where_the_middle_half_straddles_the_target(runs, bound, expected):
    assert verdict(runs, bound) == verdict(runs[::-1], bound) == expected


def test_a_target_for_each_thread_grows_with_their_number():
    target = Target(("a",), ("b",), ">= 0.9", "nothing is shared", per_thread=True)
    assert [target.bound_on(threads) for threads in (2, 16)] == [">= 1.8", ">= 14.4"]
    assert Target(("a",), ("b",), ">= 0.9", "any number").bound_on(2) == ">= 0.9"


def test_a_table_shows_ratios_verdicts_and_what_is_missing():
    table = Table(TOGETHER, 2, {RING: [1.0, 2.0, 3.0], VYUKOV: [10.0, 10.0, 2.0]}, ["peer: not installed"], ["A note."])
    text = str(table)
    assert text.startswith("## W2 together, 2 threads\n")
    assert f"| {RING} / {VYUKOV} | < 1 | 0.2 (0.15 to 0.85) yes |" in text
    assert "| magazine, unchecked / rte_mempool | <= 0.4 | - |" in text
    assert "| magazine, unchecked, alone / magazine, unchecked | >= 1.8 | - |" in text
    assert text.endswith("\n- peer: not installed\n\nA note.\n")


def order_of(seed, workload=ALONE):
    order = []
    cases = {name: lambda name=name: order.append(name) or 1.0 for name in "abcdef"}
    Table(workload).measure(cases, 8, seed)
    assert order[:6] == list("abcdef")  # to warm up
    turns = [tuple(order[k : k + 6]) for k in range(6, len(order), 6)]
    assert len(turns) == 8 and all(sorted(turn) == list("abcdef") for turn in turns)
    return turns


def test_a_case_that_needs_no_warm_up_runs_as_often_as_it_counts():
    calls = []
    Table(ALONE).measure({"a": lambda: calls.append("a") or 1.0}, 3, 1, warm_up=False)
    assert len(calls) == 3


def test_the_order_of_cases_changes_from_run_to_run_and_follows_from_the_seed():
    random.seed(5)
    before = random.getstate()
    assert order_of(1) == order_of(1)
    assert len({*map(tuple, map(order_of, range(4)))}) == 4
    assert len(set(order_of(1))) > 1
    assert order_of(1) != order_of(1, TOGETHER)
    assert random.getstate() == before, "the order must depend on nothing else"


def test_the_order_is_the_same_in_every_process():
    assert [*in_turn("abc", 3, 1, "W1 alone")] == [*"bcacabcab"]


def test_wake_ups_are_taken_in_that_order_too(monkeypatch):
    order = []
    monkeypatch.setattr(wait, "latencies", lambda make, n: order.append(make) or [1.0] * n)
    monkeypatch.setattr(wait, "parked_share", lambda make: 1.0)
    median, high, idle = wait.run(Settings(True, 3))
    cases = list(wait.CASES.values())
    assert order == cases + [wait.CASES[name] for name in in_turn(wait.CASES, 3, 3, "Wait")]
    assert order != cases * 4
    assert all(median.samples[name] == high.samples[name] == [1.0] * 3 for name in wait.CASES)
    assert set(idle.samples) < set(wait.CASES)


LEAVES_A_FILE = """
import os, pathlib
cache = pathlib.Path(os.environ["NUMBA_CACHE_DIR"])
print(len([*cache.iterdir()]))
(cache / pathlib.Path(__file__).name).touch()
"""


@pytest.fixture
def scripts(monkeypatch):
    Process = startup.Process
    scripts = dict.fromkeys(("one", "other", "warm"), LEAVES_A_FILE)
    monkeypatch.setattr(startup, "SCRIPTS", scripts)
    cached = {"none": Process("one"), "itself": Process("one", ("one",)), "both": Process("one", ("other", "one"))}
    monkeypatch.setattr(startup, "CACHED", cached)
    monkeypatch.setattr(startup, "FIRST", {"first": Process("other")})
    monkeypatch.setattr(startup, "WARMED", {"first, warmed": Process("other", ("warm",))})
    return scripts


def test_a_process_finds_in_its_cache_what_the_earlier_ones_left_and_nothing_else(scripts):
    cached, first = startup.run(Settings(True, 1))
    assert cached.samples == {"none": [0.0] * 3, "itself": [1.0] * 3, "both": [2.0] * 3}
    assert first.samples == {"first": [0.0], "first, warmed": [1.0]}
    assert not first.missing


def test_a_cache_that_cannot_be_warmed_is_missing_for_a_reason(scripts):
    scripts["warm"] = "import sys; sys.exit('there is no such command')"
    _, first = startup.run(Settings(True, 1))
    assert first.samples == {"first": [0.0]}
    assert first.missing == ["first use after python -m iobuf_nb warm: there is no such command"]


@pytest.mark.long
def test_every_script_prints_its_seconds(tmp_path):
    for name, text in startup.SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "cache").mkdir()
    for name in {process.script for process in (startup.CACHED | startup.FIRST).values()}:
        assert 0 < float(startup.execute(name, tmp_path, tmp_path / "cache")) < 100, name


def test_the_seed_is_an_option_and_is_recorded(monkeypatch, tmp_path, capsys):
    def group(settings):
        table = Table(ALONE)
        table.measure({name: lambda name=name: float(order.append(name) or 1.0) for name in "abcdef"}, 4, settings.seed)
        return [table]

    monkeypatch.setitem(GROUPS, "alone", group)
    orders = []
    for seed in ([], ["--seed", "7"], ["--seed", "7"], ["--seed", "1"]):
        order = []
        main(["alone", "--quick", "--json", str(tmp_path / "result.json"), *seed])
        orders.append(order)
        result = loads((tmp_path / "result.json").read_text())
        assert (result.seed, result.quick) == (int(seed[-1]) if seed else 1, True)
        assert result.tables == [Table(ALONE, None, {name: [1.0] * 4 for name in "abcdef"})]
        assert f"quick run, seed {result.seed}" in capsys.readouterr().out
    assert orders[0] == orders[3] != orders[1] == orders[2]


def test_unknown_groups_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["alone", "none-such"])
    assert "no such group: none-such" in capsys.readouterr().err


def test_a_part_of_a_run_does_not_replace_the_figures_of_a_machine(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["alone", "--save", str(tmp_path)])
    assert "--save takes the result of all groups" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("processor", "stem"),
    [
        ("Intel(R) Xeon(R) Processor", "intel-xeon-processor"),
        ("AMD EPYC", "amd-epyc"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "intel-core-i7-8550u-cpu-1-80ghz"),
    ],
)
def test_a_result_is_saved_under_the_name_of_its_processor(processor, stem, tmp_path):
    figures = {"a": [12345.678, 0.000123456, 1.0], "b": [2.0, 3.0, 4.0]}
    result = Result({"processor": processor}, {"g++": "12"}, False, 3, 60, [Table(HOLD, 2, figures, ["why"], ["note"])])
    path = save(result, tmp_path / "results")
    assert path == tmp_path / "results" / f"{stem}.json"
    assert '"a": [12350.0, 0.0001235, 1.0],\n"b": [2.0, 3.0, 4.0]\n' in path.read_text()
    table = Table(HOLD, 2, {"a": [12350.0, 0.0001235, 1.0], "b": [2.0, 3.0, 4.0]}, ["why"], ["note"])
    assert loads(path.read_text()) == replace(result, tables=[table])


def test_committed_figures_are_small_and_say_whose_they_are():
    paths = sorted(report.RESULTS.iterdir())
    assert paths
    for path in paths:
        text = path.read_text()
        result = loads(text)
        assert path.name == f"{slug(result.machine['processor'])}.json"
        assert dumps(result) == text, "four digits, and one line a case"
        assert len(text) < 100_000


def test_every_group_has_workloads_and_every_workload_a_group():
    assert list(GROUPS) == [*dict.fromkeys(workload.group for workload in WORKLOADS.values())]


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda workload: workload.name)
def test_targets_are_about_cases_that_are_measured(workload):
    assert workload.does and workload.question
    tables = [table for result in report.committed() for table in result.tables if table.workload is workload]
    assert tables, "no machine has measured it"
    for target in workload.targets:
        assert target.why
        for comparison in target.comparisons:
            assert any(comparison.ratios(table.samples) for table in tables), str(comparison)


def test_a_bound_that_nothing_is_compared_with_has_a_unit():
    shown = report.workloads() + report.figures(report.committed())
    assert shown.count("<= 0.2 ms") == 2 and "<= 0.06 CPU s |" in shown and "/ `loop` <= 0.8 |" in shown


def test_targets_are_declared_in_one_place():
    stated = re.compile(r"""["'](<=|<|>=) [\d.]+["']""")
    files = [path for path in report.FOLDER.rglob("*.py") if stated.search(path.read_text())]
    assert {path.parent.name for path in files} == {"workloads"}


def test_machines_stand_side_by_side():
    def result(processor, samples, threads=2):
        return Result({"processor": processor}, {}, False, 1, 1, [Table(TOGETHER, threads, samples)])

    text = report.figures(
        [
            result("First(R)", {RING: [1.0, 1.0], VYUKOV: [4.0, 4.0]}),
            result("Second", {RING: [3.0, 3.0], VYUKOV: [2.0, 2.0], "boost::lockfree::queue": [2000.0, 2000.0]}),
            result("Third", {RING: [5.0, 5.0]}, threads=4),
        ]
    )
    assert "| ns | W2 together, 2 threads | W2 together, 4 threads |" in text
    assert f"| {RING} | 1 / 3 / - | - / - / 5 |" in text
    assert "| boost::lockfree::queue | - / 2000 / - |  |" in text
    assert "| workload | ratio | target | First | Second | Third |" in text
    ratios = "0.25 (0.25 to 0.25) yes | 1.5 (1.5 to 1.5) **no** | -"
    assert f"| W2 together, 2 threads | {RING} / {VYUKOV} | < 1 | {ratios} |" in text


@pytest.mark.parametrize("path", report.PLACES, ids=lambda path: path.name)
def test_the_documents_show_the_committed_figures(path):
    text = path.read_text()
    assert report.with_blocks(text, report.PLACES[path]) == text


def test_the_figures_of_the_readme_are_measured_and_not_all_flattering():
    lines = report.five(report.committed()).splitlines()[2:]
    assert len(lines) == 5 and not [line for line in lines if line.endswith("| - |")]
    tables = {table.label: table for result in report.committed() for table in result.tables}
    verdicts = [
        tables[label].judged(each, bound)
        for label, comparison in report.FIVE.values()
        for each, bound in tables[label].bounds
        if str(each) == comparison
    ]
    assert len(verdicts) == 5 and any(verdict.endswith("**no**") for verdict in verdicts)
