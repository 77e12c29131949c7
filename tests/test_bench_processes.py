"""The benchmarks of processes measure what they say: every side gets every message, and what fails is named."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.processes import PARTS, alone, attach, messages, ways
from bench.processes.ways import WAYS, Way
from bench.table import Settings
from bench.workloads.processes import ONE_WAY, PROCESSES
from iobuf_nb._free.queue import GETTERS

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares pools"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # forks, where other tests have threads
]
OURS = [name for name, make in WAYS.items() if issubclass(make, ways.Shared)]


def sides(*names):
    missing = ways.absent()
    return {name: WAYS[name] for name in names or WAYS if name not in missing}


@pytest.mark.parametrize("kind", [messages.OneWay, messages.RoundTrip, messages.RoundTripApart])
@pytest.mark.parametrize("name", sides())
def test_every_way_delivers_each_message_once(kind, name):
    side = kind(WAYS[name], 512)
    try:
        with messages.limited():
            side.open()
            for _ in range(2):
                assert side.sample(50) > 0
    finally:
        side.end()


def test_other_contents_are_noticed():
    side = messages.OneWay(WAYS[OURS[0]], 512)
    try:
        side.message = side.message + 1  # the other process has the message as it was
        with messages.limited():
            side.open()
            with pytest.raises(AssertionError, match="other contents"):
                side.sample(50)
    finally:
        side.end()


class Broken(Way):
    """A package that is installed, but does not run."""

    def sender(self):
        return lambda message: None

    def receiver(self):
        raise OSError("no such device")


class Silent(Broken):
    """A package of which no message comes."""

    def receiver(self):
        return lambda: __import__("time").sleep(60)


def test_what_does_not_run_is_named(monkeypatch):
    monkeypatch.setattr(messages, "LIMIT", 1)
    some = {"broken": Broken, "silent": Silent, **sides(*OURS)}
    (table,) = messages.measured(ONE_WAY, messages.OneWay, 512, 50, Settings(True, 1), some)
    assert set(table.samples) == set(OURS)
    assert table.missing == ["broken: OSError: no such device", "silent: TimeoutError: no end after 1 seconds"]


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(ways.PACKAGES, "pyzmq ipc", "no_such_module")
    assert ways.absent()["pyzmq ipc"] == "pyzmq ipc: not installed (pip install 'iobuf-nb[bench]')"


def test_a_killed_waiter_has_waited_and_all_buffers_are_back():
    pool = alone.shared_pool()
    alone.kill_a_waiter(pool)
    assert pool._queue._words[GETTERS] <= 1 and pool.available() == pool.capacity
    pool.put(pool.get())
    assert pool._queue._words[GETTERS] == 0  # the flag is down again


def test_a_new_process_is_timed_from_the_attaching_to_the_get(monkeypatch):
    monkeypatch.setattr(attach, "execute", lambda *_: "0.5 0.25\n")
    (table,) = attach.run(Settings(True, 1))
    assert list(table.samples.values()) == [[0.5] * 3, [0.25] * 3]


def test_every_target_is_about_a_case_that_is_measured():
    names = {*WAYS, *(name for name in ("pool, checked", "pool, checked, shared", "before", "after a kill"))}
    names.add("attach, to the first get")
    assert len(PARTS) + 1 == len(PROCESSES)  # round trips have two
    for workload in PROCESSES:
        for target in workload.targets:
            assert {*target.cases} <= names


def test_the_sum_of_numbered_messages():
    message = np.arange(5)
    assert messages.sum_of(message, 3) == sum(k + 1 + 2 + 3 + 4 for k in range(3))
