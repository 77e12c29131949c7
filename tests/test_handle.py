"""Pools and queues as kernel arguments: what of them outlives a call, prange, tuples, globals, threads, imports."""

import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from numba import njit, prange, typeof, types
from numba.core.errors import TypingError
from numba.experimental import jitclass, structref
from numba.typed import Dict, List

import iobuf_nb
from iobuf_nb import Backoff, BoundedQueue, BufferPool, ItemPool, SpinWait, Tier, atomics
from iobuf_nb._jit.handle import find_handle
from iobuf_nb._memory.borrowed import BorrowedArray

pytestmark = pytest.mark.compiled


@njit(nogil=True)
def cycle(pool, n):
    for _ in range(n):
        index = pool.get()
        pool.value(index)[0] += 1
        pool.put(index)


def run_script(directory, script, **environment):
    """Run a script in a process of its own; what numba caches of it is in `directory`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(iobuf_nb.__file__).parents[1]), **environment}
    path = directory / "script.py"
    if not path.exists():
        path.write_text(textwrap.dedent(script))
    run = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, cwd=directory)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.split()


def test_import_compiles_nothing(tmp_path):
    script = """
        from numba.core import event
        with event.install_recorder("numba:compile") as recorder:
            import iobuf_nb, iobuf_nb.__main__
        print(len(recorder.buffer))
    """
    assert run_script(tmp_path, script, NUMBA_CACHE_DIR=str(tmp_path / "empty")) == ["0"]


def test_32_bit_platforms_are_refused(tmp_path):
    script = """
        import sys, numba
        sys.maxsize = 2**31 - 1
        try:
            import iobuf_nb
from iobuf_nb._jit.handle import find_handle
        except ImportError as error:
            print(error)
    """
    assert " ".join(run_script(tmp_path, script)).startswith("iobuf_nb needs a 64-bit Python")


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


# ---- what outlives the call ------------------------------------------------------------------------------------------


@jitclass([("array", types.uint8[::1])])
class Holder:
    def __init__(self, array):
        self.array = array


@structref.register
class StructType(types.StructRef):
    pass


class Struct(structref.StructRefProxy):
    def __new__(cls, array):
        return structref.StructRefProxy.__new__(cls, array)


structref.define_proxy(Struct, StructType, ["array"])
struct_array = njit(lambda struct: struct.array)


@njit
def or_none(pool, wanted):
    return pool.value(1) if wanted else None


@njit
def or_another(pool, other):
    array = np.zeros(3, np.uint8) if other else pool.value(1)
    return array[1:]


@njit
def in_typed_list(pool):
    arrays = List()
    arrays.append(pool.value(0))
    arrays.append(pool.value(1))
    return arrays


@njit
def in_tuples_of_typed_list(pool):
    return List([(pool.value(1), 5)])


@njit
def in_typed_dict(pool):
    arrays = Dict()
    arrays[7] = pool.value(1)
    return arrays


@njit
def slices(pool):
    array = pool.value(1)
    for k in range(1, 4):
        yield array[k:]


@njit
def slices_of(array):
    for k in range(1, 4):
        yield array[k:]


@njit
def slices_of_first(pools, _):
    for k in range(1, 4):
        yield pools[0].value(1)[k:]


class Dropped:
    """A pool whose buffer 1 is all 2s, and what is left of it when nothing of Python's holds it any more."""

    def __init__(self, **kind):
        self.pool = BufferPool(2, **kind or {"size": 2**20})
        self.pool.value(0)[:], self.pool.value(1)[:] = 1, 2
        arena = self.pool._buffers.base
        self.memory = weakref.ref(arena)

    def drop(self):
        del self.pool
        gc.collect()


RETURNED = {
    "a buffer": (njit(lambda pool: pool.value(1)), lambda made: made),
    "a slice": (njit(lambda pool: pool.value(1)[2:5]), lambda made: made),
    "a transposed view": (njit(lambda pool: pool.value(1).reshape(4, -1).T), lambda made: made),
    "bytes seen as words": (njit(lambda pool: pool.value(1).view(np.int16)), lambda made: made.view(np.uint8)),
    "a tuple": (njit(lambda pool: (1, pool.value(1)[::2])), lambda made: made[1]),
    "a list": (njit(lambda pool: [pool.value(0), pool.value(1)]), lambda made: made[1]),
    "a buffer or None": (lambda pool: or_none(pool, True), lambda made: made),
    "a buffer or another array": (lambda pool: or_another(pool, False), lambda made: made),
    "a typed list": (in_typed_list, lambda made: made[1]),
    "a typed list, in a kernel": (in_typed_list, njit(lambda made: made[1].copy())),
    "tuples in a typed list": (in_tuples_of_typed_list, njit(lambda made: made[0][0].copy())),
    "a typed dict": (in_typed_dict, njit(lambda made: made[7].copy())),
    "a jitclass": (njit(lambda pool: Holder(pool.value(1))), lambda made: made.array),
    "a structref": (njit(lambda pool: Struct(pool.value(1))), lambda made: struct_array(made)),
    "a generator": (slices, lambda made: next(made)),
    "a generator, of an array": (njit(lambda pool: slices_of(pool.value(1))), lambda made: next(made)),
    "a generator, of a tuple": (lambda pool: slices_of_first((pool, pool), 1), lambda made: next(made)),
}


@pytest.mark.parametrize("what", RETURNED)
def test_what_a_kernel_makes_of_a_buffer_keeps_the_memory(what):
    make, look = RETURNED[what]
    dropped = Dropped()
    made = make(dropped.pool)
    dropped.drop()
    assert dropped.memory() is not None
    others = [np.full(2**20, 9, np.uint8) for _ in range(4)]  # where the memory was, if it is gone
    assert (look(made) == 2).all() and len(others) == 4
    del made
    gc.collect()
    assert dropped.memory() is None


RECORD = np.dtype([("x", "u1"), ("sub", "u1", (4,))])


@pytest.mark.parametrize(
    "look",
    [
        lambda pool: pool.value(1)["x"],
        lambda pool: pool.value(1).sub[1:],
        lambda pool: pool.value(1)[3].sub,
        lambda pool: pool.value(1)[3].sub[2:],
        lambda pool: (pool.value(1)[3]["sub"], 1)[0],
    ],
)
def test_fields_of_records_keep_the_memory(look):
    pool = BufferPool(2, shape=1000, dtype=RECORD)
    pool.value(1)["x"], pool.value(1)["sub"] = 2, 2
    memory = weakref.ref(pool._buffers.base)
    made = njit(look)(pool)
    del pool
    gc.collect()
    assert memory() is not None and (made == 2).all() and len(made)
    del made
    gc.collect()
    assert memory() is None


def test_a_callers_containers_keep_the_memory():
    @njit
    def fill(pool, arrays, holder):
        arrays.append(pool.value(1))
        holder.array = pool.value(1)[:1000]

    arrays, holder, dropped = List.empty_list(types.uint8[::1]), Holder(np.zeros(1, np.uint8)), Dropped()
    fill(dropped.pool, arrays, holder)
    dropped.drop()
    assert (arrays[0] == 2).all() and (holder.array == 2).all()
    del arrays
    gc.collect()
    assert dropped.memory() is not None
    del holder
    gc.collect()
    assert dropped.memory() is None


def test_all_that_numpy_makes_of_a_buffer_is_counted_right():
    """As many references are left as there were, by whatever way an array comes from a borrowed one."""
    made = """v.T; v.transpose(); v.transpose((1, 0)); v.real; v.imag; v.ravel(); v.flatten(); v.copy(); v[0]; v[:, 1]
        v[0][v[0] > 1]; v[np.array([1, 0])]; np.sort(v[0]); v.astype("i2"); np.ascontiguousarray(v[:, 1])
        v.reshape(2, -1)
        np.expand_dims(v, 0); np.broadcast_to(v[0], (2, 8)); [row for row in v]; [x for x in v.flat]; np.zeros_like(v)
        v + v; np.where(v > 1, v, 0); np.concatenate((v, v)); np.split(v, 2); (v, v.T.T); v.view(np.int16); v is v
        [x.item() for x in np.nditer(v)]; np.atleast_2d(v[0]); np.asarray(v); np.repeat(v, 2); v.sum(); v[..., None]"""
    pool = BufferPool(2, shape=(4, 8), dtype="u1")
    pool.value(1)[:] = 2
    for expression in made.replace("\n", ";").split(";"):
        scope = {"np": np}
        exec(f"def make(pool):\n    v = pool.value(1)\n    return {expression.strip()}", scope)
        kernel = njit(scope["make"])
        for _ in range(3):
            kernel(pool)
            gc.collect()
            assert pool._memory.refcount == 1, expression


def test_slices_stay_uncounted_and_what_is_new_is_counted():
    array = BorrowedArray(types.float64, 2, "C")
    kinds = {}

    @njit
    def look(pool):
        v = pool.value(0)
        total = v[1:].sum() + v[0][2:].sum() + v[:, 1].sum() + v.copy().sum() + v[np.array([0])].sum()
        for row in v:
            total += row.sum()
        return total

    pool = BufferPool(1, shape=(4, 4), dtype="f8")
    assert look(pool) == 0 and typeof(pool.value(0)) != array
    kinds = [
        call.args[0] for call in look.overloads[look.signatures[0]].type_annotation.calltypes.values() if call.args
    ]
    names = {str(kind) for kind in kinds if isinstance(kind, types.Array)}
    assert "borrowed array(float64, 2d, C)" in names
    assert pool._memory.refcount == 1


def test_a_buffer_goes_where_an_array_is_declared():
    @njit("u8(u1[::1])")
    def total(array):
        return array.sum()

    @njit("f8(f8[:])")
    def mean(array):
        return array.mean()

    pool, numbers = BufferPool(1, 16), BufferPool(1, shape=(3, 4), dtype="f8")
    pool.value(0)[:], numbers.value(0)[:] = 3, 2.5
    assert njit(lambda pool: total(pool.value(0)) + total(pool.value(0)[:2]))(pool) == 54
    assert njit(lambda pool: mean(pool.value(0)[:, 1]) + mean(pool.value(0)[1]))(numbers) == 5


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
    with pytest.raises(RuntimeError, match="what this kernel returns is gone: it was dropped while the kernel ran"):
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
