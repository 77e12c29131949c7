"""Processes: forks, pickles, exits, signals, caches. Each scenario is a script in a process of its own."""

import compileall
import copy
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

import iobuf_nb
from iobuf_nb import (
    Backoff,
    BoundedQueue,
    BufferPool,
    CopyResult,
    ItemPool,
    MagazineSet,
    PoolClosed,
    SpinWait,
    StreamError,
    StreamResult,
    Tier,
    WouldBlock,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")

PRELUDE = """
import asyncio, atexit, contextlib, faulthandler, gc, multiprocessing, os, signal, sys, threading
import numpy as np
from numba import njit
import iobuf_nb
from iobuf_nb import *
from iobuf_nb._free import deque, queue
from iobuf_nb._jit import methods
from iobuf_nb._pools import magazine as magazines

faulthandler.enable()

def expect(error, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except error as raised:
        return str(raised)
    raise AssertionError(f"no {error.__name__} came")

def until(condition):
    while not condition():
        os.sched_yield()
"""


class Process:
    """A script that runs in a process of its own, in a session with all its children."""

    def __init__(self, script, *arguments, file=None, flags=(), **environment):
        # Since 3.12 Python warns of forks beside threads, which are what some of this is about.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", *flags]
        if file is None:
            command += ["-c", PRELUDE + script]
        else:
            if not file.exists():  # the time of its change counts for numba
                file.write_text(PRELUDE + script)
            command += [str(file)]
        environment = os.environ | {"PYTHONPATH": str(Path(iobuf_nb.__file__).parents[1])} | environment
        self.popen = subprocess.Popen(
            [*command, *map(str, arguments)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",  # which Python looks into before PYTHONPATH
            start_new_session=True,
        )

    def finish(self, timeout=300):
        """Wait for its end, and return how it ended and what it wrote; one that hangs is aborted."""
        try:
            output, errors = self.popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGABRT)  # faulthandler then tells where it is
            output, errors = self.popen.communicate()
            errors = f"it hangs:\n{errors}"
        return self.popen.returncode, output, errors

    def output(self, timeout=300):
        """Return what it wrote, if all went well and it had nothing to complain of."""
        status, output, errors = self.finish(timeout)
        assert (status, errors) == (0, ""), f"status {status}\n{output}\n{errors}"
        return output.strip()


def run(script, *arguments, **options):
    return Process(script, *arguments, **options).output()


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
until(lambda: parked._queue._words[queue.GETTERS] == len(waiters))

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
    until(lambda: own._queue._words[queue.GETTERS])
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
    assert len(parked._queue._words) and parked._queue._words[queue.GETTERS] == len(waiters)
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
during(methods._lock, lambda: BufferPool(1, 16).get())
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
until(lambda: len(pool.holders()) == 2)
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


# ---- pickles and copies ----------------------------------------------------------------------------------------------

WAYS = pytest.mark.parametrize("way", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])


@WAYS
def test_what_owns_memory_says_that_it_cannot_be_copied(way):
    pool = BufferPool(2, 16)
    for thing in (
        *(pool, ItemPool("ab"), BoundedQueue(2), pool.magazine(), MagazineSet(pool, 1), Backoff(), SpinWait()),
    ):
        refusal = f"a {type(thing).__name__} cannot be pickled or copied: .*; make one where it is needed"
        with pytest.raises(TypeError, match=refusal):
            way(thing)
    assert pool.available() == 2


@WAYS
def test_what_is_plain_data_round_trips(way):
    results = CopyResult(3, 0.5), StreamResult([1, 2], 3, 0.5), iobuf_nb.scan(__file__)
    for result in results:
        again = way(result)
        assert type(again) is type(result) and again.bytes == result.bytes and again.gb_per_s == result.gb_per_s
    for error in (WouldBlock("no"), PoolClosed("closed"), StreamError("name", 3, ValueError("why"))):
        again = way(error)
        assert type(again) is type(error) and str(again) == str(error)
    assert way(Tier.GIANT) is Tier.GIANT
    pool = BufferPool(2, 16)
    pool.value(1)[:] = 7
    buffer = way(pool.value(1))
    pool.value(1)[:] = 0
    assert (buffer == 7).all()


def test_an_iovec_can_be_copied_but_not_pickled():
    iovec = BufferPool(2, 16).iovec([1])
    for again in (copy.copy(iovec), copy.deepcopy(iovec)):
        assert (again == iovec).all() and again._owners is not None
    with pytest.raises(TypeError, match="cannot be pickled: .*; send what they point at"):
        pickle.dumps(iovec)


OVER_A_POOL = """
pool = BufferPool(4, 64)

@njit(cache=True)
def of_a_global():
    index = pool.get()
    pool.put(index)
    return index

def make(pool):
    @njit(cache=True)
    def of_a_closure():
        return pool.get()

    return of_a_closure

print(of_a_global(), pool.available(), expect(TypeError, make(pool)))
print(make(pool).py_func(), len(pool.holders()))
"""


@pytest.mark.compiled
def test_kernels_over_a_pool_of_their_surroundings_are_not_cached(tmp_path):
    """An address of this process must not come out of a cache in another: numba warns, or refuses."""
    for _ in range(2):
        status, output, errors = Process(OVER_A_POOL, file=tmp_path / "script.py").finish()
        assert status == 0 and output.startswith("0 4 a BufferPool cannot be pickled or copied"), output + errors
        assert "give it to kernels as an argument" in output and output.endswith("\n1 1\n")
        assert 'Cannot cache compiled function "of_a_global" as it uses dynamic globals' in errors
    assert not [path for path in tmp_path.rglob("*.nbc") if "of_a" in path.name]


# ---- the end of the interpreter --------------------------------------------------------------------------------------

AT_EXIT = {
    "nothing given back": """
        pool = BufferPool(4, 64)
        pool.get(), pool.magazine().get()
        mine = pool.magazine()
        mine.put(mine.get())
        several = MagazineSet(pool, 2)
        several[0].get()
    """,
    "leases open": """
        pool = BufferPool(4, 64)
        lease = pool.lease()
        lease.__enter__()
        async def use():
            await pool.alease().__aenter__()
        asyncio.run(use())
    """,
    "a cycle through a global": """
        class Owner: pass
        owner = Owner()
        owner.self, owner.pool, owner.buffer = owner, BufferPool(4, 64), None
        owner.buffer = owner.pool.value(owner.pool.get())
        items = []
        items.append(ItemPool([items, owner]))
        items[0].get()
    """,
    "atexit": """
        pool, taken = BufferPool(2, 64), BufferPool(1, 64)
        held = taken.get()
        threading.Thread(target=taken.get, daemon=True).start()
        until(lambda: taken._queue._words[queue.GETTERS])
        @atexit.register
        def last():
            with pool.magazine() as mine, pool.lease() as buffer:
                mine.put(mine.get())
                buffer[:] = 1
            expect(WouldBlock, BufferPool.get, taken, timeout=0.1)
            taken.put(held)
            print("last", pool.available())
            pool.close()
    """,
    "threads at work": """
        pool, empty, rounds = BufferPool(4, 64), BufferPool(1, 64), np.zeros(2, np.int64)
        empty.get()
        def churn(pool, rounds, k):
            while True:
                pool.put(pool.get())
                rounds[k] += 1
        for k, work in enumerate((churn, njit(nogil=True)(churn))):
            threading.Thread(target=work, args=(pool, rounds, k), daemon=True).start()
        for get in (BufferPool.get, njit(nogil=True)(lambda pool: pool.get()), njit(lambda pool: pool.get())):
            threading.Thread(target=get, args=(empty,), daemon=True).start()
        until(lambda: empty._queue._words[queue.GETTERS] == 3 and rounds.all())
    """,
    "a stream half-way": """
        @njit
        def nothing(buffer, n, offset, state):
            pass
        seen, (reader, writer) = threading.Event(), os.pipe()
        threading.Thread(
            target=stream, args=(reader, nothing), kwargs={"progress": lambda *_: seen.set()}, daemon=True
        ).start()
        os.write(writer, b"x" * 100)
        seen.wait()
    """,
    "sys.exit in a thread": """
        pool = BufferPool(2, 64)
        def leave():
            pool.get()
            sys.exit(3)
        thread = threading.Thread(target=leave)
        thread.start(), thread.join()
        assert len(pool.holders()) == 1
        sys.exit(0)
    """,
    "os._exit": """
        pool = BufferPool(1, 64)
        pool.get()
        threading.Thread(target=pool.get).start()
        until(lambda: pool._queue._words[queue.GETTERS])
        os._exit(0)
    """,
}


@pytest.mark.compiled
@pytest.mark.parametrize("how", AT_EXIT)
def test_the_interpreter_may_end_with(how):
    output = run(textwrap.dedent(AT_EXIT[how]))
    assert output == ("last 2" if how == "atexit" else "")


KILLED = """
def say(done, size):
    print("on the way", flush=True)
    sys.stdin.readline()

copy(sys.argv[1], sys.argv[2], progress=say, workers=1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_copy_that_is_killed_leaves_its_destination_as_it_was(number, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(3_000_000))
    target.write_bytes(b"before")
    process = Process(KILLED, source, target)
    assert process.popen.stdout.readline() == "on the way\n"
    process.popen.send_signal(number)
    assert process.finish()[0] == -number
    assert target.read_bytes() == b"before"
    # What it had written is left beside, under a name that says whose it is.
    (rest,) = {path.name for path in tmp_path.iterdir()} - {"source", "target"}
    assert rest.startswith(".iobuf_nb-")
    assert iobuf_nb.copy(source, target).bytes == 3_000_000 and target.read_bytes() == source.read_bytes()


# ---- Ctrl-C, again and again -----------------------------------------------------------------------------------------

STORM = """
how, path = sys.argv[1:]
pool, stop = BufferPool(1, 4096), np.zeros(1, np.int64)
over = []

def use(pool):
    for _ in range(20):
        index = pool.get()
        pool.put(index)

@njit(nogil=True)
def compete(pool, stop):
    while atomics.load(stop, 0) == 0:
        index = pool.get()
        pause(1000)
        pool.put(index)

@njit(nogil=True)
def add(buffer, n, offset, state):
    state[0] += n

def streamed(pool):
    result = stream(path, add, state=np.zeros(1, np.int64), combine=np.add, pool=pool, workers=3)
    assert result.state[0] == os.path.getsize(path)

def copied(pool):
    copy(path, path + ".copy", sync=False)

work = {"python": use, "nogil": njit(nogil=True)(use), "gil": njit(use), "stream": streamed, "copy": copied}[how]

def once():
    work(pool)

def interrupt(number, frame):
    while frame is not None:
        if frame.f_code is once.__code__:  # nobody else could tell what was interrupted
            raise KeyboardInterrupt
        frame = frame.f_back

compete(pool, np.ones(1, np.int64))
once()
held = pool.get()
expect(WouldBlock, pool.get, timeout=0.01)  # nothing is left to be compiled, which Ctrl-C would spoil
pool.put(held), pool.try_put(held)
expect(ValueError, pool.put, held)
competitor = threading.Thread(target=compete, args=(pool, stop), daemon=True)
competitor.start()
signal.signal(signal.SIGTERM, lambda *_: over.append(True))
signal.signal(signal.SIGINT, interrupt)
print("ready", flush=True)
interrupts = strays = rounds = 0
while not over:
    try:
        once()
        rounds += 1
    except KeyboardInterrupt:
        interrupts += 1
    # An index that was got, but had not reached its name when Ctrl-C came, is where holders() says.
    stray = [index for index, holder in pool.holders().items() if holder != competitor.ident]
    strays += len(stray)
    if how == "python":
        pool.put_many(np.array(stray, np.int64))
    else:  # two Ctrl-C in some microseconds break off the wait for workers, who then come to their end a little later
        until(lambda: not set(pool.holders().values()) - {competitor.ident})
stop[0] = 1
competitor.join()
assert pool.available() == 1 and not pool.holders() and pool._queue._words[queue.GETTERS] == 0
print(interrupts, strays, rounds)
"""


@pytest.mark.compiled
@pytest.mark.parametrize("signals", [100, pytest.param(2000, marks=pytest.mark.long)])
@pytest.mark.parametrize("how", ["python", "nogil", "gil", "stream", "copy"])
def test_a_storm_of_ctrl_c_loses_nothing(how, signals, tmp_path, record_property):
    source = tmp_path / "source"
    source.write_bytes(np.random.default_rng(0).bytes(1 << 22))
    process = Process(STORM, how, source)
    assert process.popen.stdout.readline() == "ready\n", process.finish()
    generator = random.Random(0)
    for _ in range(signals):
        time.sleep(generator.uniform(0.001, 0.02))
        process.popen.send_signal(signal.SIGINT)
    process.popen.send_signal(signal.SIGTERM)
    status, output, errors = process.finish()
    assert status == 0, output + errors
    interrupts, strays, rounds = map(int, output.split())
    assert interrupts > 0
    if "gil" in how:
        assert strays == 0
    target = tmp_path / "source.copy"
    assert not target.exists() or target.read_bytes() == source.read_bytes()
    left = len(list(tmp_path.glob(".iobuf_nb-*")))
    record_property(
        "figure",
        f"{signals} times Ctrl-C, {how}: {interrupts} interrupts, {rounds} rounds, {strays} strays named by holders(), "
        f"none lost" + (f", {left} parts of copies left behind" if how == "copy" else ""),
    )


# ---- the cache of compiled kernels -----------------------------------------------------------------------------------

CACHED = """
from numba.core import event

@njit(nogil=True, cache=True)
def work(pool, magazine):
    index = magazine.get(timeout=60.0)
    total = pool.value(index)[:].sum()
    magazine.put(index)
    other = magazine.get()
    pool.put(other)
    return total

with event.install_recorder("numba:compile") as recorder:
    pool = BufferPool(4, 100)
    pool.value(0)[:] = 2
    sys.stdin.readline()
    with pool.magazine() as mine:
        total = work(pool, mine)
        pool.put(pool.get()), mine.put(mine.get())
compiled_methods = {replaced.compiled for replaced in methods.REPLACED}
user = pool._deques[deque.base_of(0) + deque.OWNER]
compiled = len(recorder.buffer) + len(compiled_methods) - sum(method.cache_hits for method in compiled_methods)
print(total, pool.available(), user == magazines.NOBODY, methods.WHY_NOT, queue.LINE_PAIR, compiled)
"""


def files_in(path):
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*") if file.is_file()}


def copied_package(path):
    """Return where a copy of the library is, with nothing compiled."""
    shutil.copytree(Path(iobuf_nb.__file__).parent, path / "iobuf_nb", ignore=shutil.ignore_patterns("__pycache__"))
    return path


def change(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


class Cached:
    """A copy of the library, and what processes that start at once make of an empty cache."""

    def __init__(self, count, path):
        self.package, self.cache, self.file = copied_package(path / "site"), path / "cache", path / "script.py"
        start = time.monotonic()
        processes = [self.process() for _ in range(count)]
        self.results = [self.split(process.output(timeout=60 * count)) for process in processes]
        self.figure = f"{count} processes at once on an empty cache: all right, {time.monotonic() - start:.0f} s"

    def process(self):
        return Process(CACHED, file=self.file, PYTHONPATH=str(self.package), NUMBA_CACHE_DIR=str(self.cache))

    def split(self, output):
        *values, compiled = output.split()
        return values, int(compiled)

    def next(self):
        """Return what one more process finds, and how many functions it has to compile."""
        return self.split(self.process().output())


@pytest.fixture(scope="module", params=[2, pytest.param(20, marks=pytest.mark.long)])
def cached(request, tmp_path_factory):
    return Cached(request.param, tmp_path_factory.mktemp("cached"))


RESULT = ["200", "4", "True", "None"]


@pytest.mark.compiled
def test_processes_that_start_at_once_on_an_empty_cache(cached, record_property):
    assert [values for values, _ in cached.results] == [[*RESULT, "16"]] * len(cached.results)
    before = files_in(cached.cache)
    assert cached.next() == ([*RESULT, "16"], 0)
    assert files_in(cached.cache) == before and before
    record_property("figure", f"{cached.figure}; the next one compiles and writes nothing")


@pytest.mark.compiled
def test_another_layout_misses_the_cache(cached, record_property):
    """Whatever changes in any file, all is compiled anew: code with another layout's constants inlined never runs."""
    # The deques are of another file, and their functions take no argument that tells of the layout.
    change(cached.package / "iobuf_nb" / "_free" / "queue.py", "LINE_PAIR = 16 ", "LINE_PAIR = 32 ")
    again, compiled = cached.next()
    assert again == [*RESULT, "32"] and compiled >= max(compiled for _, compiled in cached.results)
    assert cached.next() == (again, 0)
    record_property("figure", f"another layout of a queue's words: {compiled} steps of compiling, then none")


def test_a_comment_is_enough_to_miss_the_cache(tmp_path):
    package, show = copied_package(tmp_path), "print(iobuf_nb._jit.compile.FINGERPRINT)"
    before = run(show, PYTHONPATH=str(package))
    change(
        package / "iobuf_nb" / "_free" / "owners.py", "# What became of giving a buffer back.", "# What giving says."
    )
    assert run(show, PYTHONPATH=str(package)) != before


ZIPPED = """
import sys
sys.path.insert(0, sys.argv[1])
import threading, iobuf_nb
from numba import njit

@njit(cache=True)
def get(pool):
    return pool.get()

pool, another = iobuf_nb.BufferPool(1, 64), iobuf_nb.BufferPool(1, 64)
index, other = pool.get(), get(another)
print(iobuf_nb._jit.compile.FINGERPRINT, *[held.holders()[0] - threading.get_ident() for held in (pool, another)])
"""


def zipped(package, path):
    with zipfile.ZipFile(path, "w") as archive:
        for source in package.glob("*.py"):
            archive.write(source, f"iobuf_nb/{source.name}")


def without_sources(package, path):
    shutil.rmtree(path, ignore_errors=True)
    compileall.compile_dir(package, quiet=2, legacy=True, force=True)
    shutil.copytree(package, path / "iobuf_nb", ignore=shutil.ignore_patterns("*.py", "__pycache__"))


def linked(package, path):
    path.mkdir(exist_ok=True)
    if not (path / "iobuf_nb").exists():
        (path / "iobuf_nb").symlink_to(package)


@pytest.mark.compiled
@pytest.mark.parametrize("install", [zipped, without_sources, linked])
def test_wherever_the_sources_are_a_change_misses_the_cache(install, tmp_path):
    """Neither functions here nor a user's kernels go on running what was inlined into them."""
    package, script = copied_package(tmp_path / "site") / "iobuf_nb", tmp_path / "script.py"
    place = tmp_path / ("app.zip" if install is zipped else "app")
    script.write_text(ZIPPED)
    found = []
    for offset in ("", " + 1000"):
        if offset:
            change(
                package / "pool.py", "owner_at(pool, index), thread_id())", "owner_at(pool, index), thread_id() + 1000)"
            )
        install(package, place)
        environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
        command = [sys.executable, "-W", "ignore", str(script), str(place)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert [said[1:] for said in found] == [["0", "0"], ["1000", "1000"]] and found[0][0] != found[1][0]


USED = """
pool = BufferPool(2, 64)
pool.put(pool.get())
queue = BoundedQueue(2)
queue.put(1), queue.get()
print(pool.available(), methods.WHY_NOT)
"""


def used(cache, **environment):
    """Return what a process says that uses a pool with this cache."""
    return Process(USED, file=cache.parent / "script.py", NUMBA_CACHE_DIR=str(cache), **environment).finish()


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory):
    cache = tmp_path_factory.mktemp("whole") / "cache"
    assert used(cache) == (0, "2 None\n", "")
    return cache


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def emptied(path):
    os.truncate(path, 0)


def spoiled(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def of_another(path):
    """Put the entry of another function there: whole, and not what is looked for."""
    others = [other for other in sorted(path.parent.glob("*.nbc")) if other.stem != path.stem]
    path.write_bytes(max(others, key=lambda other: other.stat().st_mtime_ns).read_bytes())


def garbage(path):
    path.write_bytes(b"no pickle at all" * 10)


def a_folder(path):
    path.unlink()
    path.mkdir()


def unreadable(path):
    path.unlink()
    path.symlink_to(path.name)  # a loop: root, too, gets an error


@pytest.mark.compiled
@pytest.mark.parametrize("spoil", [cut, emptied, spoiled, garbage, a_folder, unreadable])
def test_a_damaged_entry_is_as_none_and_said_once(spoil, whole_cache, tmp_path):
    cache = shutil.copytree(whole_cache, tmp_path / "cache")
    entries = sorted(cache.rglob("*.nb?"))
    for entry in entries:
        spoil(entry)
    status, output, errors = used(cache)
    assert (status, output) == (0, "2 None\n"), errors
    assert errors.count("RuntimeWarning") == 1 and "an entry of the cache of compiled code is damaged" in errors
    assert any(str(entry) in errors for entry in entries)
    if spoil not in (a_folder,):
        assert used(cache) == (0, "2 None\n", "")  # written anew


@pytest.mark.compiled
def test_an_entry_in_the_place_of_another_is_as_none(whole_cache, tmp_path):
    cache = shutil.copytree(whole_cache, tmp_path / "cache")
    for entry in sorted(cache.rglob("*.nbc")):
        of_another(entry)
    before = len(list(cache.rglob("*.nbc")))
    assert used(cache) == (0, "2 None\n", "")
    assert len(list(cache.rglob("*.nbc"))) == before and not list(cache.rglob("*.tmp*"))


@pytest.mark.compiled
def test_a_cache_that_becomes_full_is_said_once(tmp_path):
    """Where files can be made, and nothing written into them."""
    cache = tmp_path / "cache"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); " + (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    )
    command = [sys.executable, "-c", PRELUDE + limit + USED]
    environment = os.environ | {"PYTHONPATH": str(Path(iobuf_nb.__file__).parents[1]), "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/", timeout=300)
    assert (done.returncode, done.stdout) == (0, "2 None\n"), done.stderr
    assert done.stderr.count("RuntimeWarning") == 1 and f"cannot be kept in {cache}" in done.stderr
    assert "NUMBA_CACHE_DIR can name another folder" in done.stderr
    assert not [path for path in cache.rglob("*") if path.is_file()]  # nothing half-written is left


TWO_SIGNATURES = """
from iobuf_nb._jit.compile import kernel

@kernel
def double(x):
    return x + x

values = {"int": 2, "float": 1.5, "array": np.ones(2), "bytes": np.ones(2, "u1")}
sys.stdin.readline()
print(np.sum(double(values[sys.argv[1]])), double.stats.cache_hits.total() if hasattr(double.stats.cache_hits, "total")
      else sum(double.stats.cache_hits.values()))
"""


@pytest.mark.compiled
def test_processes_that_save_different_signatures_at_once_keep_all_entries(tmp_path):
    kinds, script = {"int": "4", "float": "3.0", "array": "4.0", "bytes": "4"}, tmp_path / "script.py"

    def start(kind):
        return Process(TWO_SIGNATURES, kind, file=script, NUMBA_CACHE_DIR=str(tmp_path / "cache"))

    for hits in ("0", "1"):
        processes = {kind: start(kind) for kind in kinds}
        assert {kind: process.output() for kind, process in processes.items()} == {
            k: f"{v} {hits}" for k, v in kinds.items()
        }


@pytest.mark.compiled
def test_entries_of_other_sources_are_removed(tmp_path):
    package, cache = copied_package(tmp_path / "site"), tmp_path / "cache"
    assert used(cache, PYTHONPATH=str(package)) == (0, "2 None\n", "")
    before = {path.name for path in cache.rglob("*.nbc")}
    change(
        package / "iobuf_nb" / "_free" / "owners.py", "# What became of giving a buffer back.", "# What giving says."
    )
    assert used(cache, PYTHONPATH=str(package)) == (0, "2 None\n", "")
    after = {path.name for path in cache.rglob("*.nbc")}
    assert len(after) == len(before) and not before & after


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
    environment = os.environ | {"PYTHONPATH": str(Path(iobuf_nb.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr


INTERRUPTED = """
import ctypes

def interrupted(module, name, call):
    # Ctrl-C in the n-th call of something, while the first pool is made.
    original, calls = getattr(module, name), []

    def function(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments)

    setattr(module, name, function)
    expect(KeyboardInterrupt, BufferPool, 1, 16)
    setattr(module, name, original)

for name, call in (("register_heavy_fence", 1), ("_slot_offset", 1), ("cfunc", 1), ("cfunc", 4), ("_MethodDef", 3)):
    interrupted(methods, name, call)
for call in (1, 3, 5):  # of the methods, two are in their places then, and four, and eight
    interrupted(ctypes, "addressof", call)
pool = BufferPool(1, 16)
names = [replaced.name for replaced in methods.REPLACED if replaced.cls is BufferPool]
assert len(names) == 6 and methods.WHY_NOT is None
assert {type(getattr(BufferPool, name)).__name__ for name in names} == {"method_descriptor"}
assert {type(replaced.slow).__name__ for replaced in methods.REPLACED} == {"function"}
pool.put(pool.get()), expect(IndexError, pool.put, 5)
thread = threading.Thread(target=lambda: pool.magazine().get())  # the first one: it needs the same lock
thread.start(), thread.join()
print(pool.available())
"""


@pytest.mark.compiled
def test_ctrl_c_while_the_first_pool_is_made_leaves_nothing_half_done():
    assert run(INTERRUPTED) == "0"


# Root may write anywhere, until it gives that up for all it starts: PR_CAPBSET_DROP, CAP_DAC_OVERRIDE.
GIVE_UP = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

READ_ONLY = """

@njit(nogil=True)
def work(pool, magazine):
    index = pool.get()
    pool.put(index)
    magazine.put(magazine.get())
    return index

pool = BufferPool(2, 64)
with pool.magazine() as mine:
    pool.put(pool.get()), mine.put(mine.get())
    print(work(pool, mine) >= 0, pool.available())
expect(WouldBlock, BoundedQueue(1).get, timeout=0.01)
print(methods.WHY_NOT)
expect(RuntimeError, njit(cache=True), work.py_func)
"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="needs capabilities")
def test_where_nothing_can_be_written_kernels_are_compiled_in_memory(tmp_path):
    package = copied_package(tmp_path / "site")
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "file").touch()
    for folder in (package / "iobuf_nb", home):
        folder.chmod(0o555)
    places = {"HOME": str(home), "NUMBA_CACHE_DIR": str(tmp_path / "file" / "below")}
    process = Process(READ_ONLY, flags=("-c", GIVE_UP), PYTHONPATH=str(package), **places)
    status, output, errors = process.finish()
    used, why_not = output.splitlines()
    assert (status, used) == (0, "True 2") and "cannot cache function" in why_not
    assert errors.count("RuntimeWarning") == 1 and "cannot be kept in any folder" in errors and str(package) in errors
    assert not list(home.iterdir()) and not list(package.rglob("*.nb?"))
    package.joinpath("iobuf_nb").chmod(0o755)
