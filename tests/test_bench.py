"""The benchmarks measure what they say: no peer loses an item, and the README shows the committed result."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import report
from bench.__main__ import main
from bench.measure import Comparison, Table
from bench.peers import PEERS, Peer
from bench.work import POOL, RING, SUBJECTS


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


def test_a_peer_that_cannot_be_built_is_missing_for_a_reason():
    assert "no no-such-module (apt-get install" in Peer("none", "rte_ring.c", "libnone-dev", "no-such-module").missing


def test_ratios_are_taken_run_by_run():
    table = Table("title", "ns")
    table.samples = {"ours": [1.0, 2.0, 9.0], "a": [2.0, 1.0, 3.0], "b": [4.0, 8.0, 2.0], "c": [8.0, 4.0, 1.0]}
    best, median = Comparison("ours", ["a", "b", "c"], "<= 1.0"), Comparison("ours", ["a", "b", "c"], "< 1", "median")
    assert best.values(table.samples) == [0.5, 2, 9] and not best.reached([0.5, 2, 9])
    assert median.values(table.samples) == [0.25, 0.5, 4.5] and median.reached([0.25, 0.5, 4.5])
    assert Comparison("ours", [], ">= 2").reached(table.samples["ours"])
    assert Comparison("ours", ["not here"], "<= 1").values(table.samples) == []
    table.compare("ours", "not here", "<= 1")
    assert "| ours / not here | - | - | - | - | <= 1 | not measured |" in str(table)


def test_unknown_groups_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["alone", "none-such"])
    assert "no such group: none-such" in capsys.readouterr().err


def test_the_readme_shows_the_committed_result():
    shown = report.BLOCK.findall(report.README.read_text())
    assert shown == [report.figures(json.loads(report.RESULT.read_text()))]
