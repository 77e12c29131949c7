"""Waiting: time limits, wake-up, signals, the GIL, closing."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from numba import njit
from support import (
    EVERY_WAY,
    assert_a_signal_ends,
    change,
    copied_package,
    empty_pool,
    in_a_child,
    interrupted,
    needs_fork,
    python,
    said,
    until,
)

from iobuf_nb import BoundedQueue, PoolClosed, WouldBlock
from iobuf_nb._free.queue import GETTERS, PUTTERS, SPIN_DEBT
from iobuf_nb._free.waiting import SPIN_NS, repay_spin, spin_shared
from iobuf_nb._jit.instructions import wrap
from iobuf_nb._threads.parking import SPIN_TURNS
from iobuf_nb.atomics import load, store


def get_for(pool, timeout):
    return pool.get(timeout=timeout)


@EVERY_WAY
@pytest.mark.parametrize("timeout", [0.0, 0.1])
def test_limits_are_kept(jit, timeout):
    pool, get = empty_pool(), jit(get_for)
    with pytest.raises(WouldBlock):
        get(pool, 0.0)
    late, soon = [], max(0.005, timeout / 10)
    while not late or (min(late) >= soon and len(late) < 20):  # the machine may be busy with others
        start = time.monotonic()
        with pytest.raises(WouldBlock):
            get(pool, timeout)
        late.append(time.monotonic() - start - timeout)
    assert 0 <= min(late) < soon
    pool.put(0)


def put_for(queue, timeout):
    queue.put(0, timeout=timeout)
    return 0


@EVERY_WAY
@pytest.mark.parametrize("boundary", [2**31, 2**32, 2**63], ids=["2**31", "2**32", "2**63"])
@pytest.mark.parametrize(
    "waiters, wait, free", [(GETTERS, get_for, "put"), (PUTTERS, put_for, "get")], ids=["get", "put"]
)
def test_the_word_that_waiters_park_on_may_wrap(jit, boundary, waiters, wait, free):
    queue, wait, event = BoundedQueue(1), jit(wait), waiters + 1
    if waiters == PUTTERS:
        queue.put(0)
    store(queue._words, event, boundary - 10)
    with ThreadPoolExecutor(1) as workers:
        for _ in range(20):
            done = workers.submit(wait, queue, 60.0)
            until(lambda done=done: load(queue._words, waiters) or done.done())
            queue.get() if free == "get" else queue.put(0)
            assert done.result() == 0
    assert load(queue._words, event) == wrap(boundary + 10)


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
    queue = BoundedQueue(1, limit=300)

    def produce(queue, n):
        for k in range(n):
            queue.put(k, timeout=30.0)

    received = []
    thread = threading.Thread(target=lambda: received.extend(queue.get(timeout=30.0) for _ in range(300)))
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


@EVERY_WAY
def test_a_signal_handlers_own_exception_comes_through(jit, untraced):
    pool, get = empty_pool(), jit(get_for)
    with pytest.raises(WouldBlock):
        get(pool, 0.0)
    assert_a_signal_ends(lambda: get(pool, 30.0))
    pool.put(0)
    assert get(pool, 0.0) == 0
    pool.put(0)


@needs_fork
@EVERY_WAY
def test_a_forked_child_cannot_wait(jit):
    pool, get = empty_pool(), jit(get_for)
    with pytest.raises(WouldBlock):
        get(pool, 0.0)

    def check():
        with pytest.raises(RuntimeError, match="a forked child cannot wait"):
            get(pool, 30.0)

    in_a_child(check)
    pool.put(0)


HAND_OVER = """
import os, sys, threading, time
import numpy as np
from numba import njit
from iobuf_nb import BoundedQueue, atomics, pause

@njit(nogil=True)
def put(queue, n, seed):
    for k in range(n):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        pause((seed >> 16) % 1500)  # up to 60 us: about as long as a getter spins before it parks
        queue.put(1)

@njit(nogil=True)
def get(queue, n, seed, got):
    for k in range(n):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        pause((seed >> 16) % 300)
        queue.get()
        atomics.fetch_add(got, 0, 1)

pairs, seconds = int(sys.argv[1]), float(sys.argv[2])
queue, got = BoundedQueue(1, 2), np.zeros(1, np.int64)
put(queue, 1, 1), get(queue, 1, 1, got)
deadline = time.monotonic() + seconds

def run(k):
    while time.monotonic() < deadline:
        maker = threading.Thread(target=put, args=(queue, 500, k))
        maker.start()
        get(queue, 500, k + 77, got)
        maker.join()

threads = [threading.Thread(target=run, args=(k,)) for k in range(pairs)]
for thread in threads:
    thread.start()
seen, since = 0, time.monotonic()
while any(thread.is_alive() for thread in threads):
    threads[0].join(0.1)
    if got[0] != seen:
        seen, since = got[0], time.monotonic()
    elif time.monotonic() - since > 10:
        print(got[0], "handed over, then nothing more", flush=True)
        os._exit(1)
print(got[0], "handed over, left", queue.was_size())
sys.exit(queue.was_size() != 0)
"""


def hand_over(pairs, seconds, **settings):
    done = python("-c", HAND_OVER, str(pairs), str(seconds), cwd="/", **settings)
    print(done.stdout, done.stderr)
    return done.returncode


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.parametrize("seconds", [2, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("pairs", [1, 2, 8])
def test_no_wake_up_is_lost_among_threads(pairs, seconds):
    assert hand_over(pairs, seconds) == 0


@pytest.mark.long
@pytest.mark.compiled
def test_a_protocol_without_the_recheck_loses_wake_ups(tmp_path):
    """The hunt above can catch its prey: with the second look left out, threads sleep for ever."""
    recheck = "        item = source._get_or_closed()  # the last try"
    without = recheck.replace("source._get_or_closed()", "EMPTY")
    change(copied_package(tmp_path) / "iobuf_nb" / "_free" / "waiting.py", recheck, without)
    assert hand_over(1, 60, PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path)) == 1


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
from iobuf_nb import BufferPool, WouldBlock
other = interpreters.create()
pool = BufferPool(1, 16)
held = pool.get()
try:
    pool.get(timeout=0.05)
except WouldBlock:
    print("waited")
pool.put(held)
interpreters.destroy(other)
"""


def test_a_wait_beside_a_subinterpreter():
    assert said("-c", SUBINTERPRETER) == "waited"


INTERRUPTED = """
def wait(pool):
    return pool.get()

wait = ways[sys.argv[1]](wait)
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
    assert interrupted(INTERRUPTED, how) == "interrupted 1 {} 0"


@pytest.mark.compiled
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


def spins(words, waiters, found):
    """Return whether a wait of processes spins before it parks, or finds something while it does."""
    if spin_shared(words, waiters, 0, 0) == SPIN_TURNS:
        return False
    if found:
        repay_spin(words, waiters, 1)
    else:
        assert spin_shared(words, waiters, 1, SPIN_NS + 1) == SPIN_TURNS
    return True


@pytest.mark.parametrize("waiters", [GETTERS, PUTTERS])
def test_spins_across_processes_are_rare_where_they_are_in_vain(waiters):
    queue = BoundedQueue(2)
    words, others = queue._words, queue._words.copy()
    others[waiters + SPIN_DEBT] = 0
    waits = [spins(words, waiters, False) for _ in range(1000)]
    assert all(waits[:4]) and sum(waits) == 4 + (1000 - 4) // 33
    words[waiters + SPIN_DEBT] -= 1000  # some time later
    assert all(spins(words, waiters, True) for _ in range(100))
    assert words[waiters + SPIN_DEBT] <= 0
    words[waiters + SPIN_DEBT] = 0
    assert (words == others).all()  # nothing else is written


def test_what_was_not_found_by_spinning_repays_nothing():
    words = BoundedQueue(2)._words
    words[GETTERS + SPIN_DEBT] = 50
    for turn in (0, SPIN_TURNS):
        repay_spin(words, GETTERS, turn)
        assert words[GETTERS + SPIN_DEBT] == 50
    repay_spin(words, GETTERS, 1)
    assert words[GETTERS + SPIN_DEBT] == 18
