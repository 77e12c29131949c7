"""Pools and queues as kernel arguments: what of them outlives a call, prange, tuples, globals, threads, imports."""

import gc
import re
import threading

import numpy as np
import pytest
from numba import njit, prange, typeof, types
from numba.core.errors import TypingError
from numba.experimental import jitclass
from numba.typed import Dict, List
from structs import Struct, StructType
from support import run_file

from iobuf_nb import Backoff, BoundedQueue, BufferPool, ItemPool, SpinWait, Tier, atomics
from iobuf_nb._jit.handle import find_handle

pytestmark = pytest.mark.compiled


@njit(nogil=True)
def cycle(pool, n):
    for _ in range(n):
        index = pool.get()
        pool.value(index)[0] += 1
        pool.put(index)


def test_import_compiles_nothing(tmp_path):
    script = """
        from numba.core import event
        with event.install_recorder("numba:compile") as recorder:
            import iobuf_nb, iobuf_nb.__main__
        print(len(recorder.buffer))
    """
    assert run_file(tmp_path, script, NUMBA_CACHE_DIR=str(tmp_path / "empty")) == "0"


@pytest.mark.parametrize(
    "name, value, needs", [("maxsize", 2**31 - 1, "a 64-bit Python"), ("byteorder", "big", "a little-endian processor")]
)
def test_other_machines_are_refused(tmp_path, name, value, needs):
    script = f"""
        import sys, numba
        sys.{name} = {value!r}
        try:
            import iobuf_nb
        except ImportError as error:
            print(error)
    """
    assert run_file(tmp_path, script).startswith(f"iobuf_nb needs {needs}: ")


def test_types_are_shared_between_pools_of_one_kind():
    small, large = BufferPool(2, 16), BufferPool(9, Tier.GIANT)
    assert typeof(small) == typeof(large)
    assert typeof(small) != typeof(BufferPool(2, 16, checked=False))
    assert typeof(small) != typeof(BufferPool(2, shape=16, dtype="i1"))
    assert typeof(BufferPool(2, shape=(4, 4))) == typeof(BufferPool(2, shape=(2, 9)))


def test_prange():
    @njit(parallel=True, nogil=True)
    def work(pool, n):
        total = 0
        for k in prange(n):
            index = pool.get()
            buffer = pool.value(index)
            buffer[0] = k
            total += buffer[0]
            pool.put(index)
        return total

    pool = BufferPool(2, shape=1, dtype="i8")
    assert work(pool, 10_000) == 10_000 * 9_999 // 2
    assert pool.available() == 2 and not pool.holders()


def test_threads_share_a_pool_through_kernels():
    pool = BufferPool(2, shape=1, dtype="i8")
    cycle(pool, 0)
    threads = [threading.Thread(target=cycle, args=(pool, 20_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.value(0)[0] + pool.value(1)[0] == 80_000
    assert pool.available() == 2


def test_tuples_of_handles():
    @njit
    def take_each(pools, queue):
        total = 0
        for pool in pools:
            index = pool.get()
            queue.put(index + total)
            total += pool.capacity
            pool.put(index)
        return total

    queue = BoundedQueue(9)
    assert take_each((BufferPool(2, 16), BufferPool(3, 64)), queue) == 5
    assert (queue.get(), queue.get()) == (0, 2)

    @njit
    def mixed(things):
        return things[0].capacity + things[1].capacity + things[2].capacity

    assert mixed((BufferPool(2, 16), BoundedQueue(3), ItemPool("abcd"))) == 9


def test_kernels_return_the_object_they_were_given():
    @njit
    def choose(pool):
        return pool, pool._queue

    pool = BufferPool(2, 16)
    assert choose(pool)[0] is pool and choose(pool)[1] is pool._queue


def test_kernels_may_name_a_pool_as_a_global():
    pool = BufferPool(2, shape=1, dtype="i8")

    @njit
    def work():
        index = pool.get()
        pool.value(index)[0] = 7
        pool.put(index)
        return index

    assert pool.value(work())[0] == 7


def test_item_pools_have_no_values_in_kernels():
    with pytest.raises(Exception, match="value"):
        njit(lambda pool: pool.value(0))(ItemPool([1]))


def test_kernel_cannot_pass_other_objects():
    with pytest.raises(Exception, match="get"):
        njit(lambda pool: pool.get())(np.zeros(3))


HANDLES = {
    "a pool": lambda: BufferPool(2, 16),
    "a pool of items": lambda: ItemPool("ab"),
    "a queue": lambda: BoundedQueue(3),
    "a magazine": lambda: BufferPool(2, 16).magazine(),
    "a backoff": Backoff,
    "a spin wait": SpinWait,
}


class Empty:
    def __init__(self):
        pass


CONTAINERS = {
    "typed.List": lambda handle: List([handle]),
    "typed.List of tuples": lambda handle: List([(1, handle)]),
    "typed.List by append": lambda handle: List().append(handle),
    "typed.List in a kernel": njit(lambda handle: len(List([handle]))),
    "typed.Dict": lambda handle: Dict().__setitem__(1, handle),
    "typed.Dict as a key": lambda handle: Dict().__setitem__(handle, 1),
    "typed.Dict in a kernel": njit(lambda handle: len({1: handle})),
    "list": lambda handle: njit(lambda handles: len(handles))([handle]),
    "jitclass": lambda handle: jitclass([("it", typeof(handle))])(Empty),
    "structref": Struct,
    "structref of its type": lambda handle: StructType([("it", types.Tuple([types.int64, typeof(handle)]))]),
    "deferred type": lambda handle: types.deferred_type().define(typeof(handle)),
}


@pytest.mark.parametrize("handle", HANDLES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_refuse_handles_when_typed(container, handle):
    with pytest.raises(TypingError) as caught:
        CONTAINERS[container](HANDLES[handle]())
    said = (
        rf"a {container.split()[0]}( type)? cannot hold a \w+.*: nothing there keeps its memory alive; give it to ker"
    )
    assert re.search(said, str(caught.value))


def test_a_list_that_a_kernel_makes_for_itself_may_hold_handles():
    @njit
    def first(one, another):
        return [one, another][0]

    pool = BufferPool(2, 16)
    assert first(pool, BufferPool(3, 16)) is pool


def test_what_is_dropped_while_its_kernel_runs_cannot_be_returned():
    queue = BoundedQueue(2)
    descriptor = queue._address
    assert find_handle(descriptor) is queue
    del queue
    gc.collect()
    with pytest.raises(RuntimeError, match="the object that this kernel returns is gone: it was dropped"):
        find_handle(descriptor)


def test_generators_keep_no_waiter_of_their_own():
    @njit
    def own(n):
        waiter = SpinWait()
        for k in range(n):
            waiter.once()
            yield k

    @njit
    def given(waiter, n):
        for k in range(n):
            waiter.once()
            yield k

    with pytest.raises(TypingError, match="a generator cannot keep a SpinWait of its own: give it one as an argument"):
        own(3)
    assert list(given(SpinWait(), 3)) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="lives in its stack frame, and cannot be returned"):
        njit(lambda: given(SpinWait(), 3))()


# ---- what LLVM makes of it -------------------------------------------------------------------------------------------


ATOMIC = re.compile(r"\b(cmpxchg|atomicrmw|load atomic|store atomic)\b")


def publish(words, queue, pool, magazine):
    atomics.store(words, 0, 1)


def look(words, queue, pool, magazine):
    return atomics.load(words, 0)


def swap(words, queue, pool, magazine):
    return atomics.compare_and_swap(words, 0, 1, 2)


def use_all(words, queue, pool, magazine):
    index, other = pool.get(), magazine.try_get()
    pool.value(index)[0] += 1
    pool.put(index)
    magazine.try_put(other)
    some = np.empty(2, np.int64)
    pool.put_many(some[: pool.get_many(some)])
    magazine.put_many(some[: magazine.get_many(some)])
    return queue.try_put(1) + queue.try_get() + pool.closed + pool.available()


def use_in_parallel(words, queue, pool, magazine):
    total = 0
    for k in prange(8):
        index = pool.get()
        buffer = pool.value(index)
        buffer[0] = k
        total += buffer[0] + queue.try_put(1)
        pool.put(index)
    return total


@pytest.mark.proof
@pytest.mark.parametrize("function", [publish, look, swap, use_all, use_in_parallel])
def test_llvm_does_not_take_functions_with_atomics_for_ones_of_their_arguments_alone(function):
    """It would move what a caller does to a buffer across the call that hands the buffer on."""
    pool = BufferPool(8, 64)
    kernel = njit(nogil=True, parallel=function is use_in_parallel)(function)
    kernel(np.ones(1, np.int64), BoundedQueue(4), pool, pool.magazine())
    code = kernel.inspect_llvm(kernel.signatures[0])
    attributes = dict(re.findall(r"^attributes (#\d+) = \{(.*)\}", code, re.MULTILINE))
    atomic = 0
    for text in re.findall(r"^define .*?^\}", code, re.MULTILINE | re.DOTALL):
        head = text.splitlines()[0]
        if "@NRT_" in head or not ATOMIC.search(text):
            continue
        atomic += 1
        said = " ".join(attributes[number] for number in re.findall(r"#\d+", head))
        assert "memory(arg" not in said and "argmemonly" not in said, head
        # numba says that what prange works on is nobody else's; what is behind a handle must not be among it.
        private = re.findall(r"noalias [^,]*%(\"?arg[^,) ]*)", head)
        assert not [name for name in private if re.search("pool|queue|magazine", name)], head
    assert atomic or function is use_in_parallel
