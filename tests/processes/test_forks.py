"""Forks beside threads at work, multiprocessing, orphans, subinterpreters."""

import signal

import pytest
from support import Process, needs_fork, python, run

pytestmark = [needs_fork, pytest.mark.proof]


# ---- fork ------------------------------------------------------------------------------------------------------------


FORK = """
def churn(source, stop):
    rounds = 0
    while atomics.load(stop, 0) == 0:
        source.put(source.get())
        rounds += 1
    return rounds

in_kernel, nogil_get = njit(nogil=True)(churn), njit(nogil=True)(lambda pool: pool.get())

@njit(nogil=True)
def in_bulk(pool, stop):
    some = np.empty(4, np.int64)
    while atomics.load(stop, 0) == 0:
        pool.put_many(some[: pool.get_many(some)])

def with_magazine(pool, stop):
    with pool.magazine(8) as mine:
        return in_kernel(mine, stop)

# One buffer, or four, at most is on its way between a thread's hands and the pool at any moment.
WORKERS = {in_kernel: 1, churn: 1, in_bulk: 4, with_magazine: 1}
CAPACITY = 64

pool, parked, stop = BufferPool(CAPACITY, 64), BufferPool(1, 16), np.zeros(1, np.int64)
mine, foreign, queue = pool.magazine(), pool.magazine(), BoundedQueue(4)
thread = threading.Thread(target=lambda: foreign.put(foreign.get()))
thread.start(), thread.join()
over = np.ones(1, np.int64)
for worker in WORKERS:  # compile; a fork while numba does is its own business
    worker(pool, over)
in_kernel(mine, over)
queue.put(1), queue.get(), mine.put(mine.get()), pool.put_many(np.empty(0, np.int64))
parked.put(nogil_get(parked))
held = parked.get()
expect(WouldBlock, parked.get, timeout=0.0)
expect(WouldBlock, queue.get, timeout=0.0)

threads = [threading.Thread(target=worker, args=(pool, stop), daemon=True) for worker in WORKERS]
def wait_and_put(get):
    parked.put(get(parked))

waiters = [threading.Thread(target=wait_and_put, args=(get,), daemon=True) for get in (BufferPool.get, nogil_get) * 2]
for thread in threads + waiters:
    thread.start()
until(lambda: parked._queue._words[GETTERS] == len(waiters))

def child():
    # Everything that was free can be got, once; what threads that are not here had in their hands is out.
    out, dead = np.empty(CAPACITY + 1, np.int64), pool.holders()
    n = pool.get_many(out)
    assert len(set(out[:n])) == n >= CAPACITY - sum(WORKERS.values()), (n, dead)
    assert pool.holders() == dead | {int(index): threading.get_ident() for index in out[:n]}
    pool.put_many(out[:n])
    free = n + sum(pool.try_put(index) for index in dead)  # any thread may put; but not what put_many was about to
    lost = pool.holders()
    assert pool.available() == free == n + len(dead) - len(lost) and len(lost) <= 4
    # Magazines of this thread are its own, those of others are to be closed, and new ones to be had.
    mine.put(mine.get())
    assert "belongs to another thread" in expect(RuntimeError, foreign.get)
    foreign.close()
    # Threads of the child use all of it, in kernels and in Python.
    ends = np.zeros(1, np.int64)
    crew = [threading.Thread(target=worker, args=(pool, ends)) for worker in WORKERS]
    for thread in crew:
        thread.start()
    for _ in range(200):
        pool.put(pool.get(timeout=60.0)), mine.put(mine.get(timeout=60.0))
    ends[0] = 1
    for thread in crew:
        thread.join()
    assert pool.available() == free and pool.holders() == lost
    # It cannot wait on what the parent made, but for its own.
    for get in (parked.get, lambda: nogil_get(parked), queue.get, lambda: asyncio.run(parked.aget())):
        assert "a forked child cannot wait" in expect(RuntimeError, get)
    parked.put(held)  # counts waiters who are not here, and wakes nobody
    assert parked.get() == held
    parked.put(held), parked.close(), queue.put(3)
    assert queue.get() == 3 and "closed" in expect(PoolClosed, parked.get)
    own = BufferPool(1, 16)
    index = own.get()
    waiter = threading.Thread(target=lambda: own.put(own.get()))
    waiter.start()
    until(lambda: own._queue._words[GETTERS])
    own.put(index)
    waiter.join()
    assert own.available() == 1

for k in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        child()
        if k == 0:
            sys.exit()  # through all of Python's end, which takes long
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(parked._queue._words) and parked._queue._words[GETTERS] == len(waiters)
parked.put(held)
stop[0] = 1
for thread in threads + waiters:
    thread.join()
assert pool.available() == CAPACITY and not pool.holders() and parked.available() == 1
print("whole")
"""


@pytest.mark.compiled
@pytest.mark.parametrize("forks", [6, pytest.param(200, marks=pytest.mark.long)])
def test_fork_beside_threads_at_work(forks, record_property):
    assert run(FORK, forks) == "whole"
    record_property("figure", f"{forks} forks beside threads at work: nothing lost in the parent, no child hangs")


FORK_DURING = """
entered, release = threading.Event(), threading.Event()

def hold(lock):
    with lock:
        entered.set()
        release.wait()

def during(lock, child):
    entered.clear(), release.clear()
    thread = threading.Thread(target=hold, args=(lock,))
    thread.start()
    entered.wait()
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(0)
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0

os.register_at_fork(before=release.set)  # called first; without a lock that forks wait for, the child has it for ever
during(c_methods._lock, lambda: BufferPool(1, 16).get())
pool = BufferPool(4, 16)
during(magazines._reserving, lambda: pool.magazine().get())
print("whole")
"""


@pytest.mark.parametrize("jit", [pytest.param("0", marks=pytest.mark.compiled), "1"])
def test_fork_while_a_thread_makes_its_first_pool_or_a_magazine(jit):
    assert run(FORK_DURING, NUMBA_DISABLE_JIT=jit) == "whole"


START_METHODS = """
@njit(nogil=True, cache=True)
def fill(pool, n):
    for k in range(n):
        index = pool.get(timeout=60.0)
        pool.value(index)[:] = k
        pool.put(index)
    return pool.available()

def work(n):
    pool, before = BufferPool(8, 64), sum(fill.stats.cache_misses.values())
    with pool.magazine() as mine:
        mine.put(mine.get())
    return fill(pool, n), sum(fill.stats.cache_misses.values()) - before

def main():
    pool = BufferPool(8, 64)
    fill(pool, 1)
    held = pool.get()
    pool.value(held)[:] = 7
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as processes:
            # A kernel is sent by its name, a buffer by what it holds, a pool not at all.
            results = processes.map(work, [10, 20]), processes.apply(sum, (pool.value(held)[:3],))
            assert results == ([(8, 0)] * 2, 21), results
            for thing in (pool, pool.magazine(), BoundedQueue(2), ItemPool("ab"), Backoff(), SpinWait()):
                assert "make one where it is needed" in expect(TypeError, processes.apply, id, (thing,))
        if method != "fork":
            assert "make one where it is needed" in expect(TypeError, context.Process(target=id, args=(pool,)).start)
    assert pool.holders() == {held: threading.get_ident()}
    pool.put(held)
    print(pool.available())

if __name__ == "__main__":
    main()
"""


@pytest.mark.compiled
def test_multiprocessing_by_every_start_method(tmp_path, record_property):
    assert run(START_METHODS, file=tmp_path / "script.py") == "8"
    record_property(
        "figure", "multiprocessing by fork, spawn and forkserver: children use a cached kernel, no compiling"
    )


ORPHAN = """
pool, hold = BufferPool(4, 64), threading.Event()

def keep():
    pool.value(pool.get())[0] = 5
    hold.wait()

threads = [threading.Thread(target=keep) for _ in range(2)]
for thread in threads:
    thread.start()
until(lambda: sum(int(pool.value(index)[0]) for index in pool.holders()) == 10)
alive, theirs = os.pipe()
if os.fork() == 0:
    os.close(theirs)
    os.read(alive, 1)  # until the parent is dead
    for index in pool.holders():
        assert pool.value(index)[0] == 5
        pool.put(index)
    print("orphan", pool.available(), flush=True)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_child_outlives_its_parent_that_was_killed():
    """No memory is shared between processes yet: whoever dies takes only a copy along."""
    assert Process(ORPHAN).finish() == (-signal.SIGKILL, "orphan 4\n", "")


def test_a_subinterpreter_is_refused_at_once():
    script = """
import importlib
for name in ("_interpreters", "_xxsubinterpreters"):
    try:
        interpreters = importlib.import_module(name)
        break
    except ImportError:
        pass
new, code = interpreters.create(), "import iobuf_nb"
try:
    said = str(getattr(interpreters, "exec", getattr(interpreters, "run_string", None))(new, code))
except Exception as error:
    said = str(error)
print("ImportError" in said, "iobuf_nb needs the main interpreter" in said)
"""
    done = python("-W", "ignore", "-c", script)
    assert done.stdout == "True True\n", done.stderr
