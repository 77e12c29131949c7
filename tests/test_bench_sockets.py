"""The benchmark of sockets measures what it says: every side gets every datagram once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import sockets
from bench.table import Settings
from bench.workloads.sockets import SOCKETS

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("name", sockets.sides())
def test_every_side_receives_each_datagram_once(name):
    side = sockets.sides()[name]()
    side.n = 128
    assert side.sample() > 0
    with pytest.raises(BlockingIOError):
        side.receiver.recv(1)
    side.n = 64
    side.sender.send(b"12345678")  # one more
    with pytest.raises(AssertionError, match="datagrams were lost, or came with other contents"):
        side.seconds()
    side.close()


def test_what_cannot_be_built_is_named(monkeypatch):
    monkeypatch.setattr(sockets, "sides", dict)
    monkeypatch.setitem(sockets.RECEIVER.__dict__, "missing", "there is no gcc")
    (table,) = sockets.run(Settings(True, 1))
    assert table.missing == ["recvmmsg in C: there is no gcc"]


def test_every_target_is_about_a_case_that_is_measured():
    for workload in SOCKETS:
        for target in workload.targets:
            assert {*target.cases, *target.bases} <= {*sockets.sides(), "recvmmsg in C"}
