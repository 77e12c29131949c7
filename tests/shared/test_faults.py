"""Processes that are killed, stopped, forked at a bad time, or do what they should not: nothing lost, nobody waits."""

import contextlib
import os
import signal
import subprocess
import threading
import time
import traceback
import warnings

import numpy as np
import pytest
import workers
from numba import config
from support import Process, assert_whole, beside, environment, in_a_child, until
from workers import Child, waiting

from iobuf_nb import BoundedQueue, BufferPool, Channel, Closed, WouldBlock
from iobuf_nb._free.queue import GETTERS

SOON = 0.1 if not config.DISABLE_JIT else 1.0  # seconds from a death until who waits has what the dead had
TRIES = 8


@pytest.fixture
def pool():
    """Four buffers, all of which must be back when the test ends."""
    pool = BufferPool(4, shape=2, dtype="i8", shared=True)
    pool.put(pool.get())  # compiled
    yield pool
    pool.recover()
    assert_whole(pool)


def get_all(pool, face):
    return [face.get(pool) for _ in range(pool.capacity)]


def assert_comes_soon(source, take, victim):
    """What `take` waits for comes soon after a death, with nobody calling anything; the machine may be busy a while."""
    late, got = [], []
    while not late or (min(late) >= SOON and len(late) < TRIES):
        with victim() as child, beside(lambda: got.append((take(), time.monotonic()))):
            until(lambda: waiting(source))
            start = time.monotonic()
            child.kill()
        late.append(got[-1][1] - start)
        yield got[-1][0]
    assert min(late) < SOON, late


# ---- kills -----------------------------------------------------------------------------------------------------------


def test_what_a_killed_process_held_comes_to_who_waits(face, pool):
    mine = get_all(pool, face)
    with pytest.raises(WouldBlock):
        face.get_within(pool, 0.06)  # compiled, all that a wait may need
    face.put(pool, mine.pop())

    @contextlib.contextmanager
    def holder():
        with Child(workers.hold, pool, 1) as child:
            (held,) = child.says()
            assert pool.holding_processes()[held] == child.pid
            yield child

    for index in assert_comes_soon(pool, lambda: face.get(pool), holder):
        face.put(pool, index)
    for index in mine:
        face.put(pool, index)


def test_two_are_killed_at_once(face, pool):
    with Child(workers.hold, pool, 2) as first, Child(workers.hold, pool, 2) as second:
        assert sorted(first.says() + second.says()) == [0, 1, 2, 3]
        first.kill(), second.kill()
        assert sorted(get_all(pool, face)) == [0, 1, 2, 3]
    pool.put_many(np.arange(4))


def test_recover_takes_from_the_dead_only_and_a_zombie_is_dead(face, pool):
    with Child(workers.hold, pool, 1) as victim, Child(workers.hold, pool, 1) as other:
        (lost,), (kept,) = victim.says(), other.says()
        assert face.recover(pool) == 0 and face.available(pool) == 2
        victim.kill()
        until(lambda: workers_state(victim) == "Z")
        assert pool.holding_processes() == {lost: 0, kept: other.pid}
        shown = pool._repr_html_()
        assert f"{lost}: a dead process, thread " in shown and f"{kept}: process {other.pid}, thread " in shown
        assert face.recover(pool) == 1 and face.recover(pool) == 0
        assert pool.holding_processes() == {kept: other.pid} and face.available(pool) == 3
        other.tell()
        assert other.says() == {}
        other.end()


def workers_state(child):
    with open(f"/proc/{child.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_a_parked_getter_is_killed(face, pool):
    held = get_all(pool, face)
    with Child(workers.wait_for_one, pool, face.name) as victim:
        victim.says()
        victim.until_it_sleeps()
        victim.kill()
    for index in held[:2]:
        face.put(pool, index)
    assert pool._queue._words[GETTERS] == 0  # puts do not go on waking the dead
    assert {face.get(pool), face.get(pool)} == {*held[:2]}
    pool.put_many(np.array(held))


def test_a_killed_getter_takes_no_wake_up_along(face, pool):
    held = get_all(pool, face)
    with Child(workers.wait_for_one, pool, face.name) as victim, Child(workers.wait_for_one, pool, face.name) as other:
        victim.says(), other.says()
        victim.until_it_sleeps(), other.until_it_sleeps()
        victim.kill()
        face.put(pool, held[0])
        assert other.says() == held[0]
        other.end()  # without putting it
        assert face.get(pool) == held[0]
    pool.put_many(np.array(held))


def test_what_a_killed_sender_had_sent_is_received_and_what_it_held_comes_back(face, pool):
    channel = Channel(pool)
    with Child(workers.send_some, channel, 3) as sender:
        sender.says()
        sender.kill()
    received = [face.receive_within(channel, 60.0) for _ in range(3)]
    assert [int(face.value(pool, index)[0]) for index in received] == [0, 1, 2]
    received.append(face.get(pool))
    pool.put_many(np.array(received))


def test_a_killed_receiver_takes_nothing_along(face, pool):
    channel = Channel(pool)
    with Child(workers.wait_for_one, channel, face.name, "receive") as victim:
        victim.says()
        victim.until_it_sleeps()
        victim.kill()
    index = face.get(pool)
    face.send(channel, index)
    assert face.receive(channel) == index
    with Child(workers.wait_for_one, channel, face.name, "receive") as victim:
        victim.says()
        face.send(channel, index)
        assert victim.says() == index
    assert face.recover(pool) == 1  # it had it, and is gone


def test_what_is_in_transit_and_in_no_queue_is_received(face, pool):
    channel = Channel(pool)
    with Child(workers.hold, pool, 1) as child:
        (index,) = child.says()
        pool._owners[workers.place(pool, index)] = channel._transit  # as if it had died in the middle of a send
        child.kill()
    assert face.receive_within(channel, 60.0) == index
    face.put(pool, index)


# ---- no kills --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.4, pytest.param(10, marks=pytest.mark.long)])
def test_nothing_is_taken_from_a_stopped_process(face, pool, seconds):
    mine = [face.get(pool) for _ in range(3)]
    with Child(workers.hold, pool, 1) as child:
        (held,) = child.says()
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(WouldBlock):
            face.get_within(pool, float(seconds))
        assert face.recover(pool) == 0 and pool.holding_processes()[held] == child.pid
        child.send_signal(signal.SIGCONT)
        child.tell()
        assert face.get(pool) == held
        child.end()
    pool.put_many(np.array([*mine, held]))


def test_a_process_that_closes_all_descriptors_lives_and_owns(face, pool):
    with Child(workers.close_all_descriptors, pool) as child:
        index, said, own = child.says()
        assert "of the segment was closed by somebody: no death can be seen from here" in said and own == 0
        assert face.recover(pool) == 0 and pool.holding_processes() == {index: child.pid}
        child.tell()
        again = child.says()
        assert pool.holding_processes() == {again: child.pid} and face.recover(pool) == 0
        child.kill()
    assert face.recover(pool) == 1


def test_a_process_that_has_closed_all_descriptors_takes_no_living_one_for_dead(pool):
    with Child(workers.hold, pool, 1) as child:
        child.says()

        def check():
            os.closerange(3, 4096)
            others = [BufferPool(1, 16, shared=True) for _ in range(20)]  # their descriptors have the old numbers
            for ask in (pool.recover, pool.holding_processes):
                with pytest.raises(OSError, match="was closed by somebody"):
                    ask()
            with pytest.raises(WouldBlock):
                [pool.get(timeout=0.2) for _ in range(4)]
            assert len(pool.holders()) == 4 and len(others) == 20

        in_a_child_with_a_closed_pipe(check)
        assert sorted(pool.holding_processes().values()) == [0, 0, 0, child.pid]
        child.tell(), child.says(), child.end()


def in_a_child_with_a_closed_pipe(check):
    """Call in a forked child that may close its descriptors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_forks_while_other_threads_wait(face, pool):
    held, got = get_all(pool, face), []
    for _ in range(3):
        with beside(lambda: got.append(face.get(pool))):
            until(lambda: waiting(pool))
            in_a_child(lambda: face.put(pool, held[0]))
    assert got == [held[0]] * 3
    pool.put_many(np.array(held))


def test_a_child_does_not_own_what_its_parent_holds(pool):
    index = pool.get()

    def check():
        assert pool.holding_processes() == {index: os.getppid()}
        mine = pool.get()
        assert pool.holding_processes() == {index: os.getppid(), mine: os.getpid()}

    in_a_child(check)
    assert pool.recover() == 1 and pool.holding_processes() == {index: os.getpid()}
    pool.put(index)


ORPHAN = """
pool = BufferPool(2, 16, shared=True)
held = pool.get()
pool.put(pool.get())
if os.fork() == 0:
    parent = os.getppid()
    print(parent, flush=True)
    until(lambda: os.getppid() != parent)  # it is killed
    assert pool.get(timeout=60) != held and pool.get(timeout=60) == held
    print("recovered", pool.holding_processes() == {0: os.getpid(), 1: os.getpid()}, flush=True)
    pool.put(0), pool.put(1), pool.close()
    os._exit(0)
signal.pause()
"""


def test_a_child_whose_parent_dies_goes_on_and_gets_what_that_held():
    process = Process(ORPHAN)
    os.kill(int(process.popen.stdout.readline()), signal.SIGKILL)
    assert process.popen.stdout.readline() == "recovered True\n", process.finish()
    process.finish()


def test_255_uses_at_once_and_no_more(name):
    with BufferPool(2, 16, name=name) as pool:
        more = [BufferPool.attach(name) for _ in range(254)]
        for _ in range(2):
            with pytest.raises(
                OSError, match="all 255 process slots are in use, or have been taken 4095 times: a shared pool"
            ):
                BufferPool.attach(name)
        index = more[-1].get()
        assert pool.holding_processes() == {index: os.getpid()}
        pool.put(index)
        del more[100:]
        again = [BufferPool.attach(name) for _ in range(100)]
        assert again[-1].available() == 2


def test_a_process_ends_without_closing(pool):
    with Child(workers.hold, pool, 2) as child:
        child.says()
        child.tell()
        assert child.says() == {}
        child.end()
    done = Process(
        "pool = BufferPool(2, 16, name=sys.argv[1])\nBufferPool.attach(sys.argv[1]).get()\nos._exit(0)", "x" * 10
    )
    assert done.finish()[0] == 0
    os.unlink("/dev/shm/iobuf_nb." + "x" * 10)


@pytest.mark.compiled
@pytest.mark.parametrize("method", ["spawn"])
def test_a_process_ends_while_a_thread_of_it_works(pool, method):
    for _ in range(3):
        with Child(workers.end_beside_a_thread, pool, method=method) as child:
            assert child.says() == "at work"
            child.end()
        pool.recover()
        assert pool.available() == 4


# ---- names -----------------------------------------------------------------------------------------------------------


def test_the_creator_is_killed_and_others_go_on(name):
    with Child(workers.make, name) as creator, Child(workers.wait_for_name, name) as user:
        creator.tell()
        assert creator.says() == "made"
        user.tell()
        assert user.says() == 2
        creator.kill()
        creator.process.join()
        attached = BufferPool.attach(name)  # the name is there as long as somebody uses it
        with pytest.raises(FileExistsError, match=f"name='{name}' is in use by a shared pool or queue of living proc"):
            BufferPool(3, 16, name=name)
        del attached
        user.kill()
        user.process.join()
        with BufferPool(3, 16, name=name) as pool:  # nobody lives
            assert BufferPool.attach(name).capacity == pool.capacity == 3


def test_the_last_to_leave_removes_the_name(name):
    with Child(workers.make, name) as creator:
        creator.tell(), creator.says()
        attached = BufferPool.attach(name)
        creator.kill()
    assert os.path.exists(f"/dev/shm/iobuf_nb.{name}")
    del attached
    assert not os.path.exists(f"/dev/shm/iobuf_nb.{name}")


def test_the_last_to_leave_removes_the_name_at_its_end_too(name):
    with Child(workers.make, name) as creator:
        creator.tell(), creator.says()
        process = Process("pool = BufferPool.attach(sys.argv[1])\nprint('in', flush=True)\nsys.stdin.read()", name)
        process.says("in")
        creator.kill()
    assert process.output() == "" and not os.path.exists(f"/dev/shm/iobuf_nb.{name}")


@pytest.mark.parametrize("stale", [False, True])
def test_of_two_creators_of_one_name_one_succeeds(name, stale):
    for _ in range(5):
        if stale:
            with Child(workers.make, name) as creator:
                creator.tell(), creator.says()
        with contextlib.ExitStack() as stack:
            children = [stack.enter_context(Child(workers.make, name)) for _ in range(3)]
            for child in children:
                child.tell()
            said = [child.says() for child in children]
            assert said.count("made") == 1, said
            assert all("is in use" in refusal for refusal in said if refusal != "made")
            children[said.index("made")].tell()
            for child in children:
                child.end()


def test_a_name_that_is_removed_by_hand(name):
    with BufferPool(2, 16, name=name) as first:
        attached = BufferPool.attach(name)
        os.unlink(f"/dev/shm/iobuf_nb.{name}")
        attached.put(first.get())
        with BufferPool(3, 16, name=name):
            first.close()
            del attached
            assert BufferPool.attach(name).capacity == 3  # the other's name is not touched


# ---- closing ---------------------------------------------------------------------------------------------------------


def test_closing_a_pool_leaves_it_to_others(face, pool):
    held = get_all(pool, face)
    with Child(workers.wait_for_one, pool, face.name) as child:
        child.says()
        child.until_it_sleeps()

        def close():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                pool.close()

        in_a_child(close)
        face.put(pool, held[0])
        assert child.says() == held[0]
        child.end()
    assert not face.closed(pool)
    pool.put_many(np.array(held))


@pytest.mark.parametrize("kind", ["queue", "channel"])
def test_closing_a_queue_or_channel_ends_waits_in_all_processes(face, pool, kind):
    source = BoundedQueue(2, shared=True) if kind == "queue" else Channel(pool)
    method = "get" if kind == "queue" else "receive"
    with Child(workers.wait_for_one, source, face.name, method) as child:
        child.says()
        child.until_it_sleeps()
        face.close(source)
        assert "closed and empty" in child.says()
        child.end()
    with pytest.raises(Closed):
        getattr(face, method)(source)


def test_a_warning_names_what_this_process_holds_alone():
    pool = BufferPool(2, 16, shared=True)
    with Child(workers.hold, pool, 1) as child:
        (theirs,) = child.says()
        mine = pool.get()
        with pytest.warns(ResourceWarning, match=f"with 1 of its buffers still checked out: {mine} by MainThread$"):
            pool.close()
        child.tell(), child.says(), child.end()
    pool.put(mine)
    assert theirs != mine


def test_a_warning_comes_of_dropping_too():
    pool = BufferPool(2, 16, shared=True)
    pool.get()
    with pytest.warns(ResourceWarning, match="dropped with 1 of its buffers still checked out: . by MainThread"):
        del pool


def test_nothing_of_a_segment_is_left_open():
    def count():
        return sum("memfd:iobuf_nb" in os.readlink(f"/proc/self/fd/{fd}") for fd in descriptors())

    def descriptors():
        return [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]

    before = count()
    pool, queue = BufferPool(2, 16, shared=True), BoundedQueue(2, shared=True)
    channel = Channel(pool)
    assert count() > before
    del pool, queue, channel
    assert count() == before


def test_children_that_are_executed_inherit_nothing(name):
    with BufferPool(2, 16, name=name):
        listed = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, env=environment(), close_fds=False
        )
    assert "iobuf_nb" not in listed.stdout


def test_threads_and_coroutines_of_two_processes_take_turns(face, pool):
    held = get_all(pool, face)
    with Child(workers.hold, pool, 1) as child:
        thread = threading.Thread(target=face.put, args=(pool, held[0]))
        thread.start()
        assert child.says() == [held[0]]
        thread.join()
        child.tell(), child.says(), child.end()
    face.put_many(pool, np.array(held[1:]))
