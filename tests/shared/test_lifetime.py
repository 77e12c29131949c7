"""How long names and process slots last, and what is left when one cannot be had."""

import enum
import multiprocessing
import os
import pickle
import sys
import warnings

import numpy as np
import pytest
from support import beginning_with, needs_fork

from iobuf_nb import BufferPool, Channel
from iobuf_nb._memory import process_slots, segment

KEPT = []  # what is still referred to when a process ends


def keep(name):
    KEPT.append(BufferPool(2, 64, name=name))
    KEPT.append(Channel(KEPT[0], name=name + ".channel"))


@needs_fork
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_removes_the_names_that_it_gave(name, method):
    child = multiprocessing.get_context(method).Process(target=keep, args=(name,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert beginning_with(name) == []


def test_the_name_of_a_pool_is_removed_before_another_can_have_it(name, monkeypatch):
    seen = []
    release = process_slots.ProcessSlot.release
    monkeypatch.setattr(
        process_slots.ProcessSlot,
        "release",
        lambda slot, table: (seen.append(beginning_with(name)), release(slot, table)),
    )
    pool = BufferPool(2, 64, name=name)
    del pool
    assert seen == [[]]


@pytest.mark.parametrize("kind", ["numpy", "enum"])
def test_a_name_may_be_a_subclass_of_str(name, kind):
    given = np.str_(name) if kind == "numpy" else enum.Enum("Names", {"ONE": name}, type=str).ONE
    pool = BufferPool(2, 64, name=given)
    channel = Channel(pool, name=str.__str__(given) + ".channel")
    assert beginning_with(name) == [name, name + ".channel"]
    again = Channel.attach(name + ".channel")
    assert type(again.pool._segment.name) is str
    assert again.pool._segment.name == name
    channel.close()
    pool.close()


def test_who_finds_no_process_slot_is_told_so_and_warns_of_nothing(recwarn):
    pool = BufferPool(2, 64, shared=True)
    pool.get()
    text = pickle.dumps(pool)
    rows = pool._segment.table.reshape(-1, process_slots.SLOT_WORDS)
    rows[2:, process_slots.NUMBER] = -(process_slots.MOST_TAKEN - 1 << process_slots.SLOT_BITS)
    with pytest.raises(OSError, match="all 255 process slots are in use, or have been taken 4095 times"):
        pickle.loads(text)
    assert [str(warning.message) for warning in recwarn] == []
    pool.put(0)


def test_a_dead_process_number_is_told_from_a_later_one_of_the_same_process():
    pool = BufferPool(2, 64, shared=True)
    rows = pool._segment.table.reshape(-1, process_slots.SLOT_WORDS)
    rows[7, :2] = 7 | 1 << process_slots.SLOT_BITS, os.getpid()  # as before an execve(2)
    assert list(pool._segment.processes()) == [pool._segment.number]
    pool._owners[0] = int(rows[7, 0]) << 42 | 1
    assert list(pool.holding_processes().values()) == [0]
    assert pool.recover() == 1


def test_names_can_be_seen_and_described(name):
    pool = BufferPool(2, 64, name=name)
    assert segment.describe(name)["processes"] == [os.getpid()]
    pool.close()


@needs_fork
def test_a_child_without_a_process_slot_mends_its_other_pools(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(str(what.exc_value)))
    pool, private = BufferPool(2, 64, shared=True), BufferPool(2, 64)
    index = private.get()
    private._owners[private._owners.nonzero()] *= -1  # as while io_uring has it
    more = [pickle.loads(pickle.dumps(pool)) for _ in range(254)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        child = os.fork()
        if child == 0:
            private.put(index)
            os._exit(7 if pool.closed and private.available() == 2 and "no process slot is free" in told[0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    private._owners[private._owners.nonzero()] *= -1
    private.put(index)
    del more
