"""io_uring: waits, signals, and what becomes of buffers when rings, threads and processes end."""

import errno
import gc
import os
import resource
import signal
import socket
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from ring_faces import IMPORTS
from support import EVERY_WAY, Process, assert_a_signal_ends, in_a_child, interrupted, run, take_all, why_no_io_uring

from iobuf_nb import BoundedQueue, BufferPool, PoolClosed, uring
from iobuf_nb.uring import RegisteredPool, Ring

pytestmark = pytest.mark.skipif(bool(why_no_io_uring()), reason=why_no_io_uring() or "io_uring works")


def test_nothing_works_after_close(io, make, file):
    pool, queue, registered = make()
    index = pool.get()
    registered.ring.close()
    registered.ring.close()
    registered.close()
    assert registered.ring.closed and io.closed(registered)
    fd = file.fileno()
    for call, *arguments in (
        (io.read_fixed, fd, index, 0),
        (io.write_fixed, fd, index, 0, 1),
        (io.read_batch, fd, 0, 1),
        (io.receive, fd),
        (io.submit,),
        (io.complete, queue),
    ):
        with pytest.raises(PoolClosed, match="closed"):
            call(registered, *arguments)
    assert pool.holders() == {index: threading.get_ident()}
    pool.put(index)
    with pytest.raises(PoolClosed, match="a ring that has been closed"):
        RegisteredPool(pool, registered.ring)


# ---- ends in mid-flight ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "close the ring", "collect"])
def test_ends_with_operations_in_flight(make, file, pipe, how):
    """The kernel lets go of every buffer: what comes into the pipe later stays there."""
    pool, _, registered = make(capacity=12, receive=2)
    ring = registered.ring
    ours, theirs = socket.socketpair()
    with ours, theirs:
        mine = [pool.get(), pool.get()]
        for index in mine:
            registered.read_fixed(pipe[0], index, -1)
        registered.receive(ours)
        registered.read_batch(pipe[0], 0, 4 * 4096)
        assert registered.in_flight == 7 and pool.available() == 3
        start = time.monotonic()
        if how == "close":
            registered.close()
        elif how == "close the ring":
            ring.close()
        else:
            gone = weakref.ref(registered)
            del registered
            gc.collect()
            assert gone() is None
        assert time.monotonic() - start < 5
        assert pool.holders() == dict.fromkeys(mine, threading.get_ident())
        os.write(pipe[1], b"late"), theirs.sendall(b"late")
        assert os.read(pipe[0], 100) == ours.recv(100) == b"late"
        assert not pool._buffers.any()
    for index in mine:
        pool.put(index)


def test_pools_that_do_not_check_get_their_buffers_back_too(file, pipe):
    pool, queue = BufferPool(4, 4096, checked=False), BoundedQueue(4)
    with Ring() as ring:
        registered = RegisteredPool(pool, ring)
        registered.read_batch(file, 0, 4096)
        assert registered.complete(queue) == 1
        pool.put(queue.get())
        registered.read_batch(pipe[0], 0, 8192)
        assert pool.available() == 2
    assert sorted(take_all(pool)) == [0, 1, 2, 3]


def test_what_was_never_submitted_never_happens(make, file):
    pool, queue, registered = make()
    before = Path(file.name).read_bytes()
    taken = take_all(pool)
    for index in taken:
        pool.value(index)[:] = 1
        registered.write_fixed(file, index, 4096 * index)
    registered.close()
    with RegisteredPool(pool, registered.ring) as again:
        assert again.submit() == again.complete(queue, 0) == again.in_flight == 0
        assert Path(file.name).read_bytes() == before
        again.write_fixed(file, taken[0], 0, 2)
        assert again.complete(queue) == 1
        assert queue.get() == taken[0] and again.lengths[taken[0]] == 2
        assert Path(file.name).read_bytes() == b"\1\1" + before[2:]
    pool.put_many(np.array(taken))


def test_an_interrupted_close_can_be_finished(make, pipe, monkeypatch):
    pool, _, registered = make(capacity=3)
    registered.read_batch(pipe[0], 0, 3 * 4096)
    call = uring.call
    calls = []

    def interrupted(name, *arguments):
        calls.append(name)
        if calls.count("io_uring_cq_advance") == 2:
            raise KeyboardInterrupt
        return call(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(uring, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            registered.close()
    assert len(pool.holders()) == 3 and uring._stuck.pop()[1] is pool
    registered.close()
    assert not pool.holders() and registered.closed


def test_a_thread_that_ends_takes_its_operations_along(make, pipe):
    """What comes then ends them with an error, and is not lost."""
    pool, queue, registered = make()
    index = pool.get()

    def submit():
        registered.read_fixed(pipe[0], index, -1)
        assert registered.submit() == 1

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():  # join returns before it has left the kernel
        time.sleep(0.001)
    os.write(pipe[1], b"x")
    assert registered.complete(queue, 1, 60.0) == 1
    assert queue.get() == index and registered.lengths[index] == -errno.ECANCELED
    assert os.read(pipe[0], 9) == b"x"
    pool.put(index)


def test_a_forked_child_leaves_its_parents_ring_alone(io, make, file, pipe):
    pool, queue, registered = make()
    index, other = pool.get(), pool.get()
    io.read_fixed(registered, file.fileno(), index, 0)  # first of all, for a child should not compile
    assert io.complete(registered, queue) == 1 and queue.get() == index
    io.read_fixed(registered, pipe[0], index, -1)
    assert io.submit(registered) == 1

    def check():
        for call in (lambda: io.read_fixed(registered, file.fileno(), other, 0), lambda: io.submit(registered)):
            with pytest.raises(RuntimeError, match="a forked child cannot use the ring"):
                call()
        registered.ring.close()

    in_a_child(check)
    os.write(pipe[1], b"parent")
    assert io.complete(registered, queue) == 1
    assert queue.get() == index
    assert bytes(pool.value(index)[: registered.lengths[index]]) == b"parent"
    pool.put(index), pool.put(other)


# ---- waiting ---------------------------------------------------------------------------------------------------------


def test_complete_keeps_its_limit(io, make, pipe):
    pool, queue, registered = make()
    index = pool.get()
    io.read_fixed(registered, pipe[0], index, -1)
    io.complete(registered, queue, 1, 0.0)
    start = time.monotonic()
    assert io.complete(registered, queue, 1, 0.2) == 0
    assert time.monotonic() - start >= 0.2
    os.write(pipe[1], b"x")
    assert io.complete(registered, queue, 5) == 1  # no more are under way
    assert io.complete(registered, queue, 5) == 0
    pool.put(queue.get())
    for timeout in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout must be None or a number of seconds >= 0"):
            io.complete(registered, queue, 1, timeout)


def wait_for_one(registered, queue):
    return registered.complete(queue)


@EVERY_WAY
def test_complete_waits_without_the_gil(make, pipe, jit):
    pool, queue, registered = make()
    index = pool.get()
    wait = jit(wait_for_one)
    assert wait(registered, queue) == 0
    registered.read_fixed(pipe[0], index, -1)
    about_to_wait = threading.Event()

    def write():
        about_to_wait.wait()
        os.write(pipe[1], b"x")

    thread = threading.Thread(target=write)
    thread.start()
    about_to_wait.set()
    assert wait(registered, queue) == 1
    thread.join()
    pool.put(queue.get())


INTERRUPTED = """
def wait(registered, queue):
    return registered.complete(queue)

wait = ways[sys.argv[1]](wait)
pool, queue = BufferPool(2, 16), BoundedQueue(2)
registered = RegisteredPool(pool, Ring())
wait(registered, queue)
reader, writer = os.pipe()
index = pool.get()
registered.read_fixed(reader, index, -1)
try:
    print("waiting", flush=True)
    wait(registered, queue)
except KeyboardInterrupt:
    os.write(writer, b"on")
    print("interrupted", wait(registered, queue), registered.lengths[queue.get()], flush=True)
    pool.put(index)
"""


@pytest.mark.proof
@pytest.mark.parametrize("how", ["python", "nogil", "gil"])
def test_ctrl_c_ends_the_wait_and_loses_nothing(how):
    assert interrupted(IMPORTS + INTERRUPTED, how) == "interrupted 1 2"


def test_a_signal_ends_the_wait_at_once(make, pipe, untraced):
    pool, queue, registered = make()
    index = pool.get()
    registered.read_fixed(pipe[0], index, -1)
    assert_a_signal_ends(lambda: registered.complete(queue, 1, 30.0))
    registered.close()
    pool.put(index)


# ---- processes -------------------------------------------------------------------------------------------------------


KILLED = """
pool, queue = BufferPool(32, 65536), BoundedQueue(32)
registered = RegisteredPool(pool, Ring(), receive=4)
reader, writer = os.pipe()
fd = os.open(sys.argv[1], os.O_RDWR)
for _ in range(8):
    registered.read_fixed(reader, pool.get(), -1)
position = registered.read_batch(fd, 0, os.path.getsize(fd))
print(registered.in_flight, flush=True)
while True:  # file reads in flight all the time, and those of the silent pipe
    position = registered.read_batch(fd, position, os.path.getsize(fd)) % os.path.getsize(fd)
    registered.complete(queue)
    while queue.was_size():
        pool.put(queue.get())
"""


def test_kill_9_in_mid_flight(file):
    before = Path(file.name).read_bytes()
    process = Process(IMPORTS + KILLED, file.name)
    process.says("10")  # 8 reads of the pipe, and 2 of the file
    process.popen.kill()
    assert process.finish(10)[0] == -signal.SIGKILL
    assert Path(file.name).read_bytes() == before


AT_EXIT = """
import threading
pool, queue = BufferPool(4, 4096), BoundedQueue(4)
registered = RegisteredPool(pool, Ring(), receive=1)
reader, writer = os.pipe()
registered.read_batch(reader, 0, 8192)
print(registered.in_flight, sorted(pool.holders()))
"""


def test_the_interpreter_may_end_with_operations_in_flight():
    assert run(IMPORTS + AT_EXIT) == "2 [0, 1]"


CACHED = """
from numba.core import event

@njit(nogil=True, cache=True)
def work(registered, queue, fd):
    end = registered.read_batch(fd, 0, 100)
    registered.complete(queue)
    index = queue.get()
    n = registered.lengths[index]
    registered.pool.put(index)
    return n + end

if __name__ == "__main__":
    with event.install_recorder("numba:compile") as recorder:
        pool, queue = BufferPool(4, 4096), BoundedQueue(4)
        with Ring() as ring, open(sys.argv[0], "rb") as file:
            print(work(RegisteredPool(pool, ring), queue, file.fileno()), work.stats.cache_misses != {})
"""


@pytest.mark.proof
@pytest.mark.compiled
def test_a_second_process_compiles_nothing(tmp_path):
    for compiled in ("True", "False"):
        assert run(IMPORTS + CACHED, file=tmp_path / "script.py") == f"200 {compiled}"


def test_they_show_themselves_and_cannot_be_copied(make):
    _, _, registered = make(capacity=2)
    assert repr(registered.ring) == "Ring(entries=64, in_flight=0, closed=False)"
    assert repr(registered).startswith("RegisteredPool(pool=BufferPool(capacity=2,")
    assert "0.0 %" in registered._repr_html_()
    with pytest.raises(TypeError, match="a Ring cannot be pickled or copied"):
        registered.ring.__reduce__()
    with pytest.raises(ValueError, match="read-only"):
        registered.lengths[0] = 1


def test_nothing_stays_open():
    """Rings dropped unclosed leave no descriptor and no locked memory behind."""

    def cycle():
        pool = BufferPool(4, 4096)
        return RegisteredPool(pool, Ring(), receive=2), pool

    cycle()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        cycle()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before
