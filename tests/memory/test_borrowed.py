"""What a kernel makes of a buffer keeps the memory alive."""

import gc
import weakref

import numpy as np
import pytest
from numba import njit, typeof, types
from numba.experimental import jitclass
from numba.typed import Dict, List
from structs import Struct, struct_array

from iobuf_nb import BufferPool
from iobuf_nb._memory.borrowed import BorrowedArray

pytestmark = pytest.mark.compiled


# ---- what outlives the call ------------------------------------------------------------------------------------------


@jitclass([("array", types.uint8[::1])])
class Holder:
    def __init__(self, array):
        self.array = array


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


@pytest.mark.proof
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


@pytest.mark.proof
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


@pytest.mark.long
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
