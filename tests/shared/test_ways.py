"""Ways in which a shared pool, queue or channel reaches another process, and what a private one says of them."""

import copy
import multiprocessing
import os
import pickle
import textwrap
from concurrent.futures import ProcessPoolExecutor

import faces
import numpy as np
import pytest
import workers
from support import assert_whole, run, said
from workers import METHODS, Child

from iobuf_nb import BoundedQueue, BufferPool, Channel, atomics

SLOW = [METHODS[0], *(pytest.param(method, marks=pytest.mark.proof) for method in METHODS[1:])]


@pytest.fixture
def pool():
    pool = BufferPool(4, shape=2, dtype="i8", shared=True)
    yield pool
    pool.recover()
    assert_whole(pool)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", METHODS)
def test_as_arguments_of_a_process(pool, method):
    channel, queue = Channel(pool), BoundedQueue(2, 100, shared=True)
    index = pool.get()
    pool.value(index)[:] = 5
    channel.send(index), queue.put(7)
    with Child(workers.pass_on, pool, channel, queue, method=method) as child:
        assert child.says() == ("BufferPool", (2,), "int64", index, child.pid)
        assert queue.get() == 8 and channel.receive(60) == index
        assert pool.value(index).tolist() == [6, 5] and pool.holding_processes() == {index: os.getpid()}
        child.tell(), child.end()
    pool.put(index)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", SLOW)
def test_through_an_executor(pool, method):
    index = pool.get()
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as executor:
        pids = {executor.submit(workers.use, pool, index).result(60) for _ in range(4)}
    assert os.getpid() not in pids and pool.value(index)[0] == 4
    pool.put(index)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", SLOW)
def test_through_a_pool_of_processes(pool, method):
    index = pool.get()
    with multiprocessing.get_context(method).Pool(2) as processes:
        pids = processes.starmap(workers.use, [(pool, index)] * 4)
        processes.close(), processes.join()
    assert os.getpid() not in pids and pool.value(index)[0] == 4
    pool.put(index)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_at_work_at_once(pool):
    """Also with the JIT off, where no instruction makes their operations atomic."""
    mine = pool.get()
    words = pool.value(mine)
    words[:] = 0

    def work():
        atomics.fetch_add(words, 1, 1)
        while atomics.load(words, 1) < 2:
            pass
        for _ in range(5000):
            atomics.fetch_add(words, 0, 1)
            pool.put(pool.get(timeout=60))

    children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0] and words.tolist() == [10_000, 2]
    pool.put(mine)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", SLOW)
def test_through_a_queue_of_multiprocessing(pool, method):
    channel, sent = Channel(pool), multiprocessing.get_context(method).Queue()
    with Child(workers.take_from_queue, sent, method=method) as child:
        index = pool.get()
        sent.put((pool, channel))
        channel.send(index)
        assert child.says() == index and pool.holding_processes() == {index: child.pid}
        child.tell(), child.end()
    sent.close(), sent.join_thread()


def test_pickled_twice_and_in_chains(pool):
    data = pickle.dumps(pool)
    first, second = pickle.loads(data), pickle.loads(data)
    between = pickle.loads(pickle.dumps(second))
    third = pickle.loads(pickle.dumps(between))
    index = third.get()
    third.value(index)[:] = 3
    assert (first.value(index) == 3).all() and pool.holders() == second.holders() != {}
    assert pool.holding_processes() == {index: os.getpid()}
    first.put(index)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(pool, protocol)).capacity == 4


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_same_pool_again(pool, way):
    again = way(pool)
    index = pool.get()
    again.put(index)
    assert pool.available() == 4


def test_a_channel_brings_one_pool_along(pool):
    channel = Channel(pool)
    again, with_it = pickle.loads(pickle.dumps((channel, pool)))
    assert again.pool is with_it
    index = with_it.get()
    again.send(index)
    assert channel.receive() == index
    pool.put(index)


def test_a_pickle_of_what_is_gone_says_so(name):
    pool = BufferPool(2, 16, shared=True)
    data = pickle.dumps(pool)
    del pool
    with pytest.raises(FileNotFoundError, match="the shared BufferPool cannot be found: .* give it a name and attach"):
        pickle.loads(data)


def test_a_pickle_of_a_named_pool_is_found_by_its_name(name):
    pool = BufferPool(2, 16, name=name)
    data = pickle.dumps(pickle.loads(pickle.dumps(pool)))  # the one in between is gone
    assert pickle.loads(data).capacity == 2
    pool.close()


def test_what_is_private_says_how_to_share_it():
    pool = BufferPool(2, 16)
    for thing, instead in ((pool, "make it"), (BoundedQueue(2), "make it"), (Channel(pool), "make its pool")):
        refusal = f"a {type(thing).__name__} cannot be pickled or copied: .*; or {instead} with shared=True"
        with pytest.raises(TypeError, match=refusal):
            pickle.dumps(thing)


# ---- names -----------------------------------------------------------------------------------------------------------


ATTACH = """
import sys
from numba import njit
from iobuf_nb import BoundedQueue, BufferPool, Channel
pool, queue, channel = BufferPool.attach(sys.argv[1]), BoundedQueue.attach(sys.argv[2]), Channel.attach(sys.argv[3])
index = channel.receive(60)
njit(lambda pool, index: pool.set_value(index, pool.value(index) * 2))(pool, index)
channel.send(index)
print(queue.get(timeout=60), pool.capacity, pool.shape, pool.dtype, queue.limit, channel.capacity)
"""


def test_an_unrelated_process_attaches(name):
    names = [f"{name}.{kind}" for kind in ("pool", "queue", "channel")]
    pool = BufferPool(3, shape=(2, 2), dtype="f4", name=names[0])
    queue, channel = BoundedQueue(2, 1000, name=names[1]), Channel(pool, 2, name=names[2])
    index = pool.get()
    pool.value(index)[:] = 1.5
    channel.send(index), queue.put(999)
    assert said("-c", textwrap.dedent(ATTACH), *names) == "999 3 (2, 2) float32 1000 2"
    assert channel.receive() == index and (pool.value(index) == 3).all()
    pool.put(index)
    pool.close(), queue.close(), channel.close()


@pytest.mark.parametrize(
    "options",
    [
        {"size": 100},
        {"shape": (2, 3), "dtype": "f4"},
        {"shape": 3, "dtype": [("key", "i8"), ("price", "f8"), ("pixels", "u1", (2, 2))]},
        {"shape": 2, "dtype": {"names": ["a", "b"], "formats": ["i4", "f4"], "offsets": [0, 8], "itemsize": 16}},
        {"shape": 3, "dtype": "M8[s]"},
        {"shape": 3, "dtype": "S5"},
        {"shape": 3, "dtype": "U3"},
        {"shape": 3, "dtype": "?"},
    ],
)
def test_attaching_needs_no_argument(name, options):
    with BufferPool(3, name=name, **options) as pool:
        again = BufferPool.attach(name)
        assert (again.capacity, again.shape, again.dtype, again.stride) == (3, pool.shape, pool.dtype, pool.stride)
        assert again._numba_type_ == pool._numba_type_
        pool.value(2).view("u1")[:] = 7 if pool.dtype.kind != "?" else 1
        assert again.value(2).tobytes() == pool.value(2).tobytes()


def test_where_buffers_lie_is_decided_by_who_makes_the_pool(name, monkeypatch):
    with BufferPool(3, 5000, name=name) as pool:
        monkeypatch.setattr("iobuf_nb._memory.aligned._page_size", 2**16)  # as set_page_size does, elsewhere
        again = BufferPool.attach(name)
        pool.value(2)[:] = 7
        assert again.stride == pool.stride and (again.value(2) == 7).all() and not again.value(1).any()


@pytest.mark.parametrize("offsets", [[8, 0], [0, 2]], ids=["out of order", "overlapping"])
def test_refuses_dtypes_that_have_no_text(name, offsets):
    dtype = {"names": ["a", "b"], "formats": ["i4", "f4"], "offsets": offsets}
    for options in ({"shared": True}, {"name": name}):
        with pytest.raises(TypeError, match="dtype must be one that a text can describe, in a shared pool, not"):
            BufferPool(2, shape=2, dtype=dtype, **options)


def test_a_channel_attaches_to_a_pool_that_is_there(name):
    with BufferPool(3, 16, name=name) as pool, Channel(pool, name=f"{name}.channel"):
        again = Channel.attach(f"{name}.channel", pool)
        assert again.pool is pool
        for other in (BufferPool(3, 16, shared=True), BufferPool(3, 16)):
            with pytest.raises(ValueError, match="pool must be the pool of this channel, not BufferPool"):
                Channel.attach(f"{name}.channel", other)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def test_kernels_cannot_tell():
    private, shared = BufferPool(2, 16), BufferPool(2, 16, shared=True)
    assert private._numba_type_ == shared._numba_type_
    assert Channel(private)._numba_type_ == Channel(shared)._numba_type_
    assert BoundedQueue(2)._numba_type_ == BoundedQueue(2, shared=True)._numba_type_


@pytest.mark.compiled
def test_a_kernel_is_compiled_once():
    function = faces.kernel.jit(lambda pool: pool.get())
    for shared in (False, True):
        pool = BufferPool(2, 16, shared=shared)
        pool.put(function(pool))
    assert len(function.signatures) == 1


CACHED = """
@njit(nogil=True, cache=True)
def cycle(pool):
    pool.put(pool.get())

pool = BufferPool(2, 16, shared=sys.argv[1] == "shared")
cycle(pool)
print(sum(cycle.stats.cache_hits.values()), sum(cycle.stats.cache_misses.values()))
"""


@pytest.mark.compiled
def test_private_and_shared_pools_have_one_cache(tmp_path):
    file = tmp_path / "cached.py"
    assert [run(CACHED, kind, file=file) for kind in ("private", "shared", "private")] == ["0 1", "1 0", "1 0"]


# ---- as ever ---------------------------------------------------------------------------------------------------------


def test_what_a_shared_pool_does_not_do(pool):
    with pytest.raises(ValueError, match="a shared pool has no magazines: get and put with the pool itself"):
        pool.magazine()
    from iobuf_nb.uring import Ring

    with pytest.raises(ValueError, match="a shared pool cannot be registered: Linux might use a buffer after"):
        pool.register(Ring.__new__(Ring))
    with pytest.raises(ValueError, match=r"holding_processes\(\) needs a shared pool: this one belongs to one process"):
        BufferPool(2, 16).holding_processes()


def test_recover_leaves_a_private_pool_alone(face):
    pool = BufferPool(4, 16)
    with pool.magazine(4) as mine:
        mine.put(mine.get())  # free, and not in the queue
        assert face.recover(pool) == 0
        taken = [face.try_get(pool) for _ in range(5)]
        assert sorted(taken) == [-1, 0, 1, 2, 3]
        for index in taken[:-1] if taken[-1] < 0 else sorted(taken)[1:]:
            face.put(pool, index)


def test_an_aligned_struct_is_one_where_it_is_attached(name):
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    with BufferPool(2, shape=3, dtype=dtype, name=name) as pool:
        again = BufferPool.attach(name)
        assert again.dtype == dtype and again.dtype.isalignedstruct
        assert again._numba_type_ is pool._numba_type_ is BufferPool(2, shape=3, dtype=dtype)._numba_type_
        assert (again.shared, again.name) == (True, name)


def test_an_index_that_is_sent_twice_at_once_is_refused():
    pool = BufferPool(2, 16, shared=True)
    channel = Channel(pool)
    first, second = pool.get(), pool.get()
    with pytest.raises(ValueError, match=f"{first} was put already or never got"):
        channel.send_many(np.array([first, first, second]))
    assert (channel.receive(), channel.try_receive()) == (first, -1)
    pool.put_many(np.array([first, second]))
