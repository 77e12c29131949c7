"""A shared pool that processes come to, and leave, all at once: one pool, and its name until the last leaves."""

import os
from types import SimpleNamespace

import pytest
from support import Process, beginning_with

from iobuf_nb import BufferPool
from iobuf_nb._dask.machine_pool import join_pool
from iobuf_nb._memory import process_slots
from iobuf_nb._memory.segment import Segment

NAME = f"test.{os.getpid()}.machine"

COMES_AND_GOES = """
from iobuf_nb._dask.machine_pool import join_pool

name, rounds, leaks = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "leaks"
print("ready", flush=True)
for _ in range(rounds):
    input()
    pool = join_pool(name, 8, 64)
    if leaks:
        pool.get()
    print(pool._segment.reference()[1], flush=True)
    input()
    leaks and pool._close()
    del pool
    print("left", flush=True)
"""


def in_step(processes):
    """Let all go on at once; return what they say then."""
    for process in processes:
        process.popen.stdin.write("\n")
        process.popen.stdin.flush()
    return [process.popen.stdout.readline().strip() for process in processes]


@pytest.mark.compiled
@pytest.mark.parametrize("rounds, how", [(30, "whole"), (1, "leaks")])
def test_all_come_to_one_pool_and_the_last_removes_its_name(rounds, how):
    processes = [Process(COMES_AND_GOES, NAME, rounds, how) for _ in range(3)]
    for process in processes:
        process.says("ready")
    for _ in range(rounds):
        assert len(set(in_step(processes))) == 1
        assert beginning_with(NAME) == [NAME]
        assert in_step(processes) == ["left"] * 3
        assert how == "leaks" or beginning_with(NAME) == []
    for process in processes:
        process.output()
    assert beginning_with(NAME) == []


def test_who_made_it_may_leave_first():
    first = join_pool(NAME, 4, 64)
    second = join_pool(NAME, 4, 64)
    first.close()
    del first
    assert beginning_with(NAME) == [NAME]
    third = join_pool(NAME, 4, 64)
    index = second.get()
    assert third.available() == 3
    second.put(index)
    second.close()
    del second, third
    assert beginning_with(NAME) == []


def test_who_leaves_while_another_decides_on_the_name_decides_after_it(monkeypatch):
    pool = join_pool(NAME, 4, 64)
    other = os.open(f"/proc/self/fd/{pool._segment.descriptor}", os.O_RDWR)
    assert process_slots.try_lock(pool._segment.table, other, 0)
    waits = SimpleNamespace(sleep=lambda seconds: os.close(other))
    monkeypatch.setattr(process_slots, "time", waits)
    del pool
    assert beginning_with(NAME) == []


def test_a_pool_whose_name_is_just_being_removed_is_not_joined(monkeypatch):
    last = join_pool(NAME, 4, 64)
    attach = BufferPool.attach

    def late(name):
        nonlocal last
        opened = Segment.named(name, "BufferPool")
        last = None  # it leaves now, and sees nobody
        return BufferPool._attached(opened)

    calls = iter([late])
    monkeypatch.setattr(BufferPool, "attach", lambda name: next(calls, attach)(name))
    pool = join_pool(NAME, 4, 64)
    assert beginning_with(NAME) == [NAME] and pool._segment.holds_name()
    del pool
    assert beginning_with(NAME) == []


def test_a_name_in_doubt_is_waited_for_but_not_for_ever(monkeypatch):
    pool = join_pool(NAME, 4, 64)
    other = os.open(f"/proc/self/fd/{pool._segment.descriptor}", os.O_RDWR)
    assert process_slots.try_lock(pool._segment.table, other, 0)  # as who decides on it, and is stopped then
    monkeypatch.setattr("iobuf_nb._dask.machine_pool._LONGEST_S", 0.05)
    with pytest.raises(TimeoutError, match=f"the shared pool '{NAME}' could neither be attached to nor made within"):
        join_pool(NAME, 4, 64)
    os.close(other)
    assert join_pool(NAME, 4, 64)._segment.is_referred(pool._segment.reference())
    del pool
    assert beginning_with(NAME) == []
