"""The end of the interpreter, kills, and Ctrl-C again and again: nothing is lost, nothing hangs."""

import random
import select
import signal
import textwrap
import time

import numpy as np
import pytest
from support import Process, needs_fork, python, run

import iobuf_nb

pytestmark = [needs_fork, pytest.mark.proof]


# ---- the end of the interpreter --------------------------------------------------------------------------------------


LEFT = """
import os, iobuf_nb
pools = [iobuf_nb.BufferPool(2, 16, trace=trace) for trace in (False, True, False, False)]
indices = [pool.get() for pool in pools]
pools[2].put(indices[2])
with pools[3]:
    pools[3].put(indices[3])
child = os.fork()
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("mode", ["always", "error"])
def test_pools_that_are_left_with_buffers_out_when_the_program_ends_are_told(mode, tmp_path):
    (tmp_path / "left.py").write_text(LEFT)
    said = python("-W", f"{mode}::ResourceWarning", str(tmp_path / "left.py")).stderr
    told = "BufferPool of 2 was open when the program ended with 1 of its buffers still checked out: 0 by MainThread"
    assert f"ResourceWarning: {told}\n{told}, got at {tmp_path}/left.py:4\n" in said and said.count(told) == 2
    assert python("-W", "ignore", str(tmp_path / "left.py")).stderr == ""


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
        until(lambda: taken._queue._words[GETTERS])
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
        until(lambda: empty._queue._words[GETTERS] == 3 and rounds.all())
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
        until(lambda: pool._queue._words[GETTERS])
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

own = BufferPool(1, 16)

def leased(pool):
    for _ in range(500):
        with own.lease() as buffer:
            buffer[0] = 1

work = {
    "python": use,
    "nogil": njit(nogil=True)(use),
    "gil": njit(use),
    "lease": leased,
    "stream": streamed,
    "copy": copied,
}[how]

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
        if interrupts == 1:
            print("interrupted", flush=True)
    assert not own.holders()
    # An index that was got, but had not reached its name when Ctrl-C came, is where holders() says.
    stray = [index for index, holder in pool.holders().items() if holder != competitor.ident]
    strays += len(stray)
    if how == "python":
        pool.put_many(np.array(stray, np.int64))
    else:  # two Ctrl-C in some microseconds break off the wait for workers, who then come to their end a little later
        until(lambda: not set(pool.holders().values()) - {competitor.ident})
stop[0] = 1
competitor.join()
# A worker whose crew was not waited for may still be waiting for a buffer itself.
until(lambda: pool.available() == 1 and not pool.holders() and pool._queue._words[GETTERS] == 0)
print(interrupts, strays, rounds)
"""


@pytest.mark.compiled
@pytest.mark.parametrize("signals", [100, pytest.param(2000, marks=pytest.mark.long)])
@pytest.mark.parametrize("how", ["python", "nogil", "gil", "lease", "stream", "copy"])
def test_a_storm_of_ctrl_c_loses_nothing(how, signals, tmp_path, record_property):
    source = tmp_path / "source"
    source.write_bytes(np.random.default_rng(0).bytes(1 << 22))
    process = Process(STORM, how, source)
    assert process.popen.stdout.readline() == "ready\n", process.finish()
    generator = random.Random(0)
    for _ in range(signals):
        time.sleep(generator.uniform(0.001, 0.02))
        process.popen.send_signal(signal.SIGINT)
    while not select.select([process.popen.stdout], [], [], 0.01)[0]:  # on a busy machine, all may have come as one
        process.popen.send_signal(signal.SIGINT)
    process.popen.send_signal(signal.SIGTERM)
    status, output, errors = process.finish()
    assert status == 0, output + errors
    interrupts, strays, rounds = map(int, output.removeprefix("interrupted\n").split())
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


INTERRUPTED = """
import ctypes

def interrupted(module, name, call, made, *given):
    # Ctrl-C in the n-th call of something, while the first pool is made, or the first get.
    original, calls = getattr(module, name), []

    def function(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments)

    setattr(module, name, function)
    expect(KeyboardInterrupt, made, *given)
    setattr(module, name, original)

for module, name, call in (
    (c_methods, "_obstacle", 1), (python_objects, "slot_offset", 1), (c_methods, "_trampolines", 1)
):
    interrupted(module, name, call, BufferPool, 1, 16)
for call in (1, 3, 5):  # of the methods that are in their places then
    interrupted(ctypes, "addressof", call, BufferPool, 1, 16)
pool = BufferPool(1, 16)
replaced = [method for method in c_methods.METHODS if BufferPool in method.classes]
assert len(replaced) == 10 and c_methods.WHY_NOT is None
assert {type(getattr(BufferPool, method.name)).__name__ for method in replaced} == {"method_descriptor"}
assert {type(method.slow).__name__ for method in replaced} == {"function"}
get, put = pool.get, pool.put
for method in (get, pool.get):
    interrupted(c_methods, "cfunc", 1, method)
assert pool.holders() == {}
put(get()), expect(IndexError, pool.put, 5)
thread = threading.Thread(target=lambda: pool.magazine().get())  # the first one: it needs the same lock
thread.start(), thread.join()
print(pool.available())
"""


@pytest.mark.compiled
def test_ctrl_c_while_the_first_pool_is_made_leaves_nothing_half_done():
    assert run(INTERRUPTED) == "0"
