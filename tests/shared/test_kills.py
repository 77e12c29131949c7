"""Kills at random instants beside a survivor that works flat out, and messages between four processes.

Owners stamp what they hold, and must see no stamp of a living one. After each kill every buffer comes back, once.
`pytest tests/shared/test_kills.py` takes half a minute, and with ``-m long`` some minutes: 500 kills, 60 s of messages.
"""

import contextlib
import multiprocessing
import random
import threading
import time
from collections import Counter

import killing
import numpy as np
import pytest
from killing import GET, OWNER, PARKED, SEND, WORDS
from support import assert_whole
from workers import METHODS, Child

from iobuf_nb import BufferPool, Channel, WouldBlock, atomics

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
CAPACITY, SURVIVOR = 5, 1


@pytest.fixture(scope="module", autouse=True)
def preloaded():
    multiprocessing.set_forkserver_preload(["killing"])


@contextlib.contextmanager
def survivor(channel, dead, seen):
    """Let a thread get and put, or receive and send, as fast as it can."""
    stop = np.zeros(1, np.int64)

    def work():
        while not stop[0]:
            part = np.zeros(1, np.int64)
            threading.Timer(0.002, part.fill, [1]).start()
            killing.work(channel.pool, SURVIVOR, dead, part, seen)
            part[0] = 0
            threading.Timer(0.002, part.fill, [1]).start()
            killing.hand_on(channel, SURVIVOR, dead, part, seen)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop[0] = 1
    thread.join()


def take_everything(channel):
    """Get or receive every buffer, and return them; it must be there within a minute, and be there once."""
    pool, got, give_up = channel.pool, [], time.monotonic() + 60
    while len(got) < pool.capacity:
        assert time.monotonic() < give_up, pool.holding_processes()
        for take in (pool.try_get, channel.try_receive, lambda: channel.receive(0.11), lambda: pool.get(timeout=0.11)):
            with contextlib.suppress(WouldBlock):
                if (index := take()) >= 0:
                    got.append(index)
                    break
    assert sorted(got) == [*range(pool.capacity)] and pool.try_get() == channel.try_receive() == -1
    return got


def kill_some(kills, method, generator, tally):
    pool = BufferPool(CAPACITY, shape=WORDS, dtype="i8", shared=True)
    facts = BufferPool(1, shape=4096, dtype="i8", shared=True)  # who is dead, by stamp
    channel, dead, seen = Channel(pool), facts.value(0), np.zeros(2, np.int64)
    stamp = SURVIVOR
    for function, source in ((killing.work, pool), (killing.hand_on, channel)):
        function(source, SURVIVOR, dead, np.ones(1, np.int64), seen)  # compiled
    while tally["kills"] < kills:
        victims = generator.choice([1, 2])
        with survivor(channel, dead, seen), contextlib.ExitStack() as stack:
            children = []
            for _ in range(victims):
                stamp += 1
                what = generator.choice([GET, SEND, PARKED])
                child = stack.enter_context(Child(killing.victim, what, channel, stamp, facts, method=method))
                children.append((child, stamp))
                tally[("of gets and puts", "of channels", "in Python, or parked")[what]] += 1
            for child, _ in children:
                assert child.says() == "ready"
            time.sleep(generator.uniform(0, 0.02))
            for _, number in children:
                atomics.store(dead, number, 1)
            for child, _ in children:
                child.kill()
            for child, _ in children:
                child.process.join()
            time.sleep(generator.uniform(0, 0.005))
        tally["kills"] += victims
        tally["pairs"] += victims == 2
        for index in take_everything(channel):
            before = pool.value(index)[OWNER]
            assert before == 0 or dead[before], f"buffer {index} was that of {before}, who lives"
            pool.value(index)[OWNER] = 0
            pool.put(index)
        assert seen[1] == 0, f"{seen[1]} buffers had two owners"
    pool.recover()
    assert_whole(pool)
    tally["buffers"] += int(seen[0])


PARTS = {"fork": (20, 300), "spawn": (2, 50), "forkserver": (6, 150)}


@pytest.mark.parametrize(
    "method, kills",
    [(method, PARTS[method][0]) for method in METHODS]
    + [pytest.param(method, PARTS[method][1], marks=pytest.mark.long) for method in METHODS],
)
def test_kills_at_random_instants(method, kills, record_property):
    tally = Counter()
    kill_some(kills, method, random.Random(kills), tally)
    kinds = ", ".join(f"{tally[kind]} {kind}" for kind in ("of gets and puts", "of channels", "in Python, or parked"))
    record_property(
        "figure",
        f"{tally['kills']} times SIGKILL of children by {method}, {tally['pairs']} times two at once: {kinds}; "
        f"the survivor got {tally['buffers']:,} buffers; each came back, none had two owners",
    )


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.long)])
def test_messages_between_four_processes(seconds, record_property):
    n, rounds = 20_000, 0
    pool = BufferPool(8, shape=WORDS, dtype="i8", shared=True)
    channel = Channel(pool, 6)
    with contextlib.ExitStack() as stack:
        senders = [
            stack.enter_context(Child(killing.producer, channel, 10 + k, k, 2, n, method="spawn")) for k in range(2)
        ]
        takers = [stack.enter_context(Child(killing.consumer, channel, 20 + k, n, method="spawn")) for k in range(2)]
        for child in (*senders, *takers):
            assert child.says() == "ready"
        deadline = time.monotonic() + seconds
        while rounds == 0 or time.monotonic() < deadline:
            for child in (*takers, *senders):
                child.tell(True)
            assert [child.says() for child in senders] == [0, 0]
            for _ in takers:
                index = pool.get(timeout=60)
                killing.fill(pool.value(index), n)
                channel.send(index)
            wrong, counts = zip(*(child.says() for child in takers), strict=True)
            assert wrong == (0, 0) and (sum(counts) == 1).all()
            rounds += 1
        for child in (*senders, *takers):
            child.tell(False)
            child.end()
    assert_whole(pool)
    record_property("messages between four processes, each of which came once and whole", rounds * n)
