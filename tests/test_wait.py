"""Waiting: time limits, wake-up, signals, the GIL, closing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from numba import config, njit

from iobuf_nb import BoundedQueue, BufferPool, PoolClosed, WouldBlock

JITS = [lambda function: function, njit(nogil=True), njit]
EVERY_WAY = pytest.mark.parametrize("jit", JITS, ids=["python", "nogil kernel", "GIL-holding kernel"])


def get_for(pool, timeout):
    return pool.get(timeout=timeout)


def empty_pool(capacity=1):
    pool = BufferPool(capacity, 16)
    for _ in range(capacity):
        pool.get()
    return pool


@pytest.fixture(autouse=True)
def compiled():
    """Compile outside of what is timed."""
    for jit in JITS:
        with pytest.raises(WouldBlock):
            jit(get_for)(BoundedQueue(1), 0.0)


@EVERY_WAY
@pytest.mark.parametrize("timeout", [0.0, 0.05, 0.3])
def test_limits_are_kept(jit, timeout):
    pool, get = empty_pool(), jit(get_for)
    with pytest.raises(WouldBlock):
        get(pool, 0.0)
    start = time.monotonic()
    with pytest.raises(WouldBlock):
        get(pool, timeout)
    assert timeout <= time.monotonic() - start < timeout + 0.5
    pool.put(0)


@EVERY_WAY
def test_waiting_takes_little_of_a_core(jit):
    pool, get = empty_pool(), jit(get_for)
    with pytest.raises(WouldBlock):
        get(pool, 0.0)
    start = time.thread_time()
    with pytest.raises(WouldBlock):
        get(pool, 1.0)
    assert time.thread_time() - start < 0.2
    pool.put(0)


@EVERY_WAY
def test_a_put_by_another_python_thread_ends_the_wait(jit):
    """A kernel that holds the GIL must let the thread run that would put."""
    pool, get = empty_pool(), jit(get_for)
    for _ in range(20):
        about_to_wait = threading.Event()

        def put(event=about_to_wait):
            event.wait()
            pool.put(0)

        thread = threading.Thread(target=put)
        thread.start()
        about_to_wait.set()
        assert get(pool, 30.0) == 0
        thread.join()
    pool.put(0)


@EVERY_WAY
def test_a_get_by_another_thread_makes_room(jit):
    queue = BoundedQueue(1)

    def produce(queue, n):
        for k in range(n):
            queue.put(k, timeout=30.0)

    received = []
    thread = threading.Thread(target=lambda: received.extend(queue.get(timeout=30.0) for _ in range(300)))
    queue = BoundedQueue(1, items=300)
    thread.start()
    jit(produce)(queue, 300)
    thread.join()
    assert received == list(range(300))


@EVERY_WAY
def test_close_ends_all_waits(jit):
    pool, get = empty_pool(2), jit(get_for)
    with pytest.raises(WouldBlock):
        get(pool, 0.0)
    ended = []

    def wait():
        try:
            get(pool, 30.0)
        except PoolClosed:
            ended.append(True)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    with pytest.warns(ResourceWarning):
        pool.close()
    for thread in threads:
        thread.join(30)
    assert len(ended) == 8


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
@EVERY_WAY
def test_a_signal_handlers_own_exception_comes_through(jit):
    class Alarm(Exception):
        pass

    def handle(number, frame):
        raise Alarm("rang")

    pool, get = empty_pool(), jit(get_for)
    with pytest.raises(WouldBlock):
        get(pool, 0.0)
    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.monotonic()
        with pytest.raises(Alarm, match="rang"):
            get(pool, 30.0)
        assert time.monotonic() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    pool.put(0)
    assert get(pool, 0.0) == 0
    pool.put(0)


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
from numba import njit
from iobuf_nb import BufferPool
how = sys.argv[1]
def wait(pool):
    return pool.get()
wait = {"python": lambda f: f, "nogil": njit(nogil=True), "gil": njit}[how](wait)
pool = BufferPool(1, 16)
pool.put(wait(pool))
held = wait(pool)
try:
    print("waiting", flush=True)
    wait(pool)
except KeyboardInterrupt:
    pool.put(held)
    print("interrupted", pool.available(), pool.holders(), wait(pool), flush=True)
    pool.put(0)
"""


@pytest.mark.parametrize("how", ["python", "nogil", "gil"])
def test_ctrl_c_ends_a_wait_and_leaves_the_pool_whole(how):
    child = subprocess.Popen([sys.executable, "-c", INTERRUPTED, how], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "waiting\n"
        deadline = time.monotonic() + 60
        # Sent until it is seen: the first may come before the wait has begun.
        while child.poll() is None and time.monotonic() < deadline:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(1)
            except subprocess.TimeoutExpired:
                continue
        child.kill()
        assert child.stdout.read() == "interrupted 1 {} 0\n"
    assert child.returncode == 0


@pytest.mark.skipif(config.DISABLE_JIT, reason="about compiled code")
def test_threads_other_than_the_main_one_leave_signals_alone():
    """A signal during a wait elsewhere is handled by the main thread, and the wait goes on."""
    pool = empty_pool()
    get = njit(nogil=True)(get_for)
    results = []
    thread = threading.Thread(target=lambda: results.append(get(pool, 30.0)))
    thread.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    signal.signal(signal.SIGINT, before)
    pool.put(0)
    thread.join()
    assert results == [0]
    pool.put(0)
