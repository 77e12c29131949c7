"""BufferPool and ItemPool as one thread sees them: what is handed out, what is refused, what is changed by neither."""

import gc
import threading
import warnings

import numpy as np
import pytest
from numba import config, njit
from numba.core.errors import TypingError
from support import in_both_kinds

from iobuf_nb import BufferPool, ItemPool, PoolClosed, Tier, WouldBlock, atomics, iovec_from_buffers
from iobuf_nb._pools.allocator import elements

COMPILED = not config.DISABLE_JIT
kind = in_both_kinds(globals(), "BufferPool")


@njit(nogil=True)
def cycle(pool, n):
    for _ in range(n if COMPILED else n // 300):
        pool.put(pool.get())


@pytest.fixture(params=[True, False], ids=["checked", "unchecked"])
def pool(request):
    return BufferPool(4, Tier.SMALL, checked=request.param)


def test_hands_out_every_index_once(face, pool):
    taken = [face.get(pool) for _ in range(4)]
    assert sorted(taken) == [0, 1, 2, 3]
    assert face.try_get(pool) == -1
    assert face.available(pool) == 0
    for index in taken:
        face.put(pool, index)
    assert face.available(pool) == 4


@pytest.mark.parametrize("capacity", [1, 2, 3, 1000, 1025])
def test_capacity_is_what_was_asked(face, capacity):
    pool = BufferPool(capacity, 16)
    assert face.capacity(pool) == capacity
    taken = {face.try_get(pool) for _ in range(capacity)}
    assert taken == set(range(capacity))
    assert face.try_get(pool) == -1
    assert all(face.try_put(pool, index) for index in taken)


def test_refuses_what_is_not_out_and_changes_nothing(face):
    pool = BufferPool(4, 16)
    with pytest.raises(ValueError, match=r"index .*that of a buffer that is .*out"):
        face.put(pool, 2)
    index = face.get(pool)
    face.put(pool, index)
    with pytest.raises(ValueError, match=r"index .*that of a buffer that is .*out"):
        face.put(pool, index)
    assert not face.try_put(pool, index)
    assert face.available(pool) == 4
    assert sorted(face.get(pool) for _ in range(4)) == [0, 1, 2, 3]
    pool.put_many(np.arange(4))


@pytest.mark.parametrize("index", [-1, 4, 2**62])
def test_refuses_indices_out_of_range(face, pool, index):
    with pytest.raises(IndexError, match="index must be from 0 to"):
        face.put(pool, index)
    assert not face.try_put(pool, index)
    assert face.available(pool) == 4


@pytest.mark.parametrize("index", [-1, 4, 2**62])
def test_refuses_values_out_of_range(face, index):
    pool = BufferPool(4, 16)
    for call in (lambda: face.value(pool, index), lambda: face.set_value(pool, index, b"x")):
        with pytest.raises(IndexError, match="index must be from 0 to"):
            call()


@pytest.mark.parametrize("index", [2**63, -(2**63) - 1, 2**200])
def test_refuses_indices_beyond_64_bits(pool, index):
    with pytest.raises(IndexError, match=f"index must be from 0 to 3, not {index}"):
        pool.put(index)
    with pytest.raises(IndexError, match="index must be from 0 to 3"):
        pool.value(index)
    assert not pool.try_put(index)


@pytest.mark.parametrize("index", ["1", 1.0, None])
def test_refuses_indices_that_are_no_integers(face, pool, index):
    for call in (face.put, face.try_put, face.value):
        with pytest.raises((TypeError, TypingError), match="index must be an integer, not"):
            call(pool, index)


def test_takes_any_integer_type_as_an_index(face, pool):
    for kind in (np.uint8, np.int32, np.uint64, np.int64):
        taken = [face.get(pool) for _ in range(4)]
        for index in taken:
            face.put(pool, kind(index))
    assert pool.available() == 4


def test_get_that_may_not_wait_says_so(face, pool):
    taken = [face.get(pool) for _ in range(4)]
    with pytest.raises(WouldBlock):
        face.get_at_once(pool)
    with pytest.raises(WouldBlock):
        face.get_within(pool, 0.02)
    pool.nonblocking = True
    assert face.nonblocking(pool)
    with pytest.raises(WouldBlock):
        face.get(pool)
    pool.nonblocking = False
    assert not face.nonblocking(pool)
    for index in taken:
        face.put(pool, index)


@pytest.mark.parametrize("timeout, error", [(-1, ValueError), (float("nan"), ValueError)])
def test_refuses_bad_timeouts(face, pool, timeout, error):
    with pytest.raises(error, match="timeout must be None or a number of seconds >= 0, not"):
        face.get_within(pool, timeout)
    assert pool.available() == 4


@pytest.mark.parametrize("timeout", ["1", [], True])
def test_refuses_timeouts_that_are_no_numbers(pool, timeout):
    with pytest.raises(TypeError, match="timeout must be None or a number of seconds >= 0, not"):
        pool.get(timeout=timeout)


def test_values_are_views_of_one_aligned_arena(face):
    pool = BufferPool(3, 4096)
    for index in range(3):
        assert pool.value(index).ctypes.data % 4096 == 0
        face.write(pool, index, index + 1)
    for index in range(3):
        assert (face.value(pool, index) == index + 1).all()
        assert (pool.value(index) == index + 1).all()


@pytest.mark.parametrize(
    "size, stride", [(1, 1), (10, 16), (16, 16), (64, 64), (100, 128), (1500, 1536), (4096, 4096), (5000, 8192)]
)
def test_strides(face, size, stride):
    pool = BufferPool(2, size)
    assert face.stride(pool) == stride
    assert len(face.value(pool, 1)) == size == pool.buffer_size


def test_typed_pools(face):
    pool = BufferPool(3, shape=(4, 5), dtype="f4")
    assert face.shape(pool) == (4, 5)
    face.write(pool, 2, 1.5)
    value = face.value(pool, 2)
    assert value.dtype == np.float32 and value.shape == (4, 5) and value.sum() == 30
    assert not face.value(pool, 1).any()
    face.set_value(pool, 1, np.full((2, 5), 2, np.float32))
    assert pool.value(1).sum() == 20


def test_record_pools(face):
    record = np.dtype([("key", "i8"), ("price", "f8")])
    pool = BufferPool(2, shape=3, dtype=record)

    def fill_in(pool):
        items = pool.value(1)
        for k in range(len(items)):
            items[k].key = k
            items[k].price = k / 2

    if face.name == "kernel" and not config.DISABLE_JIT:
        face.jit(fill_in)(pool)
    else:
        pool.value(1)["key"], pool.value(1)["price"] = range(3), [0, 0.5, 1]
    assert pool.value(1).tolist() == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_set_value_copies_over_the_beginning(face, pool):
    face.set_value(pool, 1, b"hello world")
    face.set_value(pool, 1, np.frombuffer(b"HELLO", np.uint8).copy())
    assert bytes(face.value(pool, 1)[:12]) == b"HELLO world\0"
    with pytest.raises(ValueError, match="data must not be longer than the buffer"):
        face.set_value(pool, 1, bytes(1025))
    assert bytes(face.value(pool, 1)[:12]) == b"HELLO world\0"


@pytest.mark.parametrize(
    "data, error",
    [("text", TypeError), (object(), TypeError), (np.zeros(4), TypeError), ([300], TypeError), (5, ValueError)],
)
def test_refuses_data_of_another_kind(pool, data, error):
    with pytest.raises(error, match="data must"):
        pool.set_value(0, data)
    assert not pool.value(0).any()


def test_fill_calls_its_function_for_every_buffer(face, pool):
    face.fill(pool, face.jit(lambda: b"\x07\x08"))
    assert (pool._buffers[:, 0] == 7).all() and (pool._buffers[:, 1] == 8).all()
    index = pool.get()
    with pytest.raises(ValueError, match="fill needs every buffer"):
        face.fill(pool, face.jit(lambda: b"\x09"))
    pool.put(index)
    assert (pool._buffers[:, 0] == 7).all()


def test_get_many_takes_as_many_as_there_are(face, pool):
    out = np.full(6, -7)
    assert face.get_many(pool, out[:3]) == 3
    assert face.get_many(pool, out[3:]) == 1
    assert sorted(out[:4]) == [0, 1, 2, 3] and (out[4:] == -7).all()
    assert face.get_many(pool, out[5:]) == 0
    face.put_many(pool, out[:4])
    assert face.available(pool) == 4


@pytest.mark.parametrize("bad, error", [([0, 1, 1], ValueError), ([0, 1, 4], IndexError), ([0, 1, -1], IndexError)])
def test_put_many_gives_all_or_nothing(face, bad, error):
    pool = BufferPool(4, 16)
    indices = np.arange(4)
    assert face.get_many(pool, indices) == 4
    held = pool.holders()
    with pytest.raises(error, match="index"):
        face.put_many(pool, np.array(bad))
    assert pool.holders() == held and pool.available() == 0
    face.put_many(pool, indices)
    assert pool.available() == 4 and not pool.holders()


@pytest.mark.parametrize("array", [(0,), np.zeros(2, np.int8), np.zeros(2), np.zeros((1, 1), np.int64)])
def test_bulk_calls_refuse_other_arrays(face, pool, array):
    for call in (face.get_many, face.put_many):
        with pytest.raises((TypeError, TypingError), match="(indices|out) must be a one-dimensional int64 array"):
            call(pool, array)
    assert pool.available() == 4


def test_bulk_gets_need_an_array_to_write_to(face, pool):
    array = np.zeros(2, np.int64)
    array.flags.writeable = False
    with pytest.raises((ValueError, TypingError), match="(indices|out) must be a writable array"):
        face.get_many(pool, array)
    assert pool.available() == 4


@pytest.mark.parametrize(
    "options, data",
    [
        ({"size": 16}, np.array([300])),
        ({"size": 16}, np.array([2.7])),
        ({"size": 16}, np.zeros((2, 2), np.uint8)),
        ({"shape": 4, "dtype": "f4"}, bytes(16)),
        ({"shape": (3, 4), "dtype": "f8"}, np.zeros((2, 1))),
        ({"shape": (3, 4), "dtype": "f8"}, np.zeros(4)),
    ],
)
def test_both_faces_refuse_the_same_data(face, options, data):
    pool = BufferPool(2, **options)
    with pytest.raises((TypeError, ValueError, TypingError), match="data must"):
        face.set_value(pool, 0, data)
    assert not pool.value(0).view("u1").any()


def test_holders_may_be_asked_while_others_work():
    pool = BufferPool(2, 16)
    busy = threading.Thread(target=cycle, args=(pool, 300_000))
    busy.start()
    while busy.is_alive():
        assert all(holders > 0 for holders in pool.holders().values())
    busy.join()


def test_holders_are_threads(face):
    pool = BufferPool(3, 16)
    mine = face.get(pool)
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append((face.get(pool), threading.get_ident())))
    thread.start()
    thread.join()
    assert pool.holders() == {mine: threading.get_ident(), theirs[0][0]: theirs[0][1]}
    face.put(pool, theirs[0][0])  # any thread may give back
    assert pool.holders() == {mine: threading.get_ident()}
    face.put(pool, mine)


def test_holders_need_a_checked_pool():
    with pytest.raises(ValueError, match="holders\\(\\) needs a pool made with checked=True"):
        BufferPool(3, 16, checked=False).holders()


def test_close_ends_gets_and_names_what_is_out(face):
    pool = BufferPool(3, 16)
    index = face.get(pool)
    with pytest.warns(ResourceWarning, match=f"closed with 1 of its buffers still checked out: {index} by MainThread"):
        pool.close()
    pool.close()
    assert face.closed(pool)
    assert face.try_get(pool) == -1
    assert face.get_many(pool, np.empty(3, np.int64)) == 0
    with pytest.raises(PoolClosed):
        face.get(pool)
    with pytest.raises(PoolClosed):
        pool.fill(lambda: b"")
    face.write(pool, index, 1)  # still its owner's
    face.put(pool, index)
    assert pool.available() == 3


def test_a_kernel_can_close(face):
    pool = BufferPool(3, 16)
    face.jit(lambda pool: pool.close())(pool)
    with pytest.raises(PoolClosed):
        pool.get()


def test_dropping_a_pool_with_buffers_out_warns():
    gc.collect()
    pool = BufferPool(3, 16)
    pool.get()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del pool
        gc.collect()
    assert ["dropped with 1 of its buffers still checked out" in str(w.message) for w in caught] == [True]


def test_views_outlive_their_pool():
    pool = BufferPool(2, 4096)
    view = pool.value(1)
    view[:] = 5
    del pool
    gc.collect()
    assert (view == 5).all()


def test_lease_gives_back_whatever_happens(pool):
    with pool.lease() as buffer:
        buffer[:] = 3
        assert pool.available() == 3
    with pytest.raises(RuntimeError), pool.lease():
        raise RuntimeError
    assert pool.available() == 4


def test_context_manager_closes():
    with BufferPool(2, 16) as pool:
        pass
    assert pool.closed


@pytest.mark.parametrize(
    "arguments, options, error, message",
    [
        ((0, 16), {}, ValueError, "capacity must be an integer from 1 to 4294967296, not 0"),
        ((-1, 16), {}, ValueError, "capacity must be .* not -1"),
        ((2**40, 16), {}, ValueError, "capacity must be .* not 1099511627776"),
        (("8", 16), {}, TypeError, "capacity must be .* not '8'"),
        ((1.5, 16), {}, TypeError, "capacity must be .* not 1.5"),
        ((True, 16), {}, TypeError, "capacity must be .* not True"),
        ((4, 0), {}, ValueError, "size must be an integer from 1 to .* not 0"),
        ((4, "small"), {}, TypeError, "size must be .* not 'small'"),
        ((4,), {}, TypeError, "needs either size or shape"),
        ((4, 16), {"shape": 3}, TypeError, "needs either size or shape"),
        ((4, 16), {"dtype": "f4"}, TypeError, "dtype='f4' needs shape="),
        ((4,), {"shape": (2, 0), "dtype": "f4"}, ValueError, r"shape\[1\] must be .* not 0"),
        ((4,), {"shape": ()}, ValueError, "shape must have at least one axis"),
        ((4,), {"shape": "44"}, TypeError, r"shape\[0\] must be an integer"),
        ((4,), {"shape": 3, "dtype": object}, TypeError, "dtype must be one of plain memory, not object"),
        ((4,), {"shape": 3, "dtype": "nonsense"}, TypeError, "dtype must be a numpy dtype or convertible to one"),
        ((4,), {"shape": 3, "dtype": "f2"}, TypeError, "dtype must be one whose arrays kernels can use"),
        ((4,), {"shape": 3, "dtype": ("f4", (2,))}, TypeError, "dtype must be"),
        ((int, 16), {}, TypeError, "capacity must be an integer from 1 to 4294967296, not <class 'int'>"),
        ((4,), {"shape": 3, "dtype": ">f4"}, TypeError, "dtype must be one that numba knows"),
        ((2**32, 2**40), {}, ValueError, r"capacity \* stride must be"),
        ((2**17, 2**30), {}, MemoryError, "address space"),
        ((4, 16), {"page_size": 3000}, ValueError, "page_size .*must be a power of two .* not 3000"),
    ],
)
def test_refuses_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        BufferPool(*arguments, **options)


def test_item_pools_hold_any_object(face):
    items = [object(), "two", [3]]
    pool = ItemPool(items)
    taken = [face.get(pool) for _ in items]
    assert {id(pool.value(index)) for index in taken} == {id(item) for item in items}
    with pytest.raises(WouldBlock):
        face.get_at_once(pool)
    for index in taken:
        face.put(pool, index)
    pool.set_value(0, "new")
    with pool.lease() as item:
        assert item in ("new", "two", [3])
    for bad in (3, -1, 2**70):
        with pytest.raises(IndexError, match="index must be from 0 to 2, not"):
            pool.value(bad)
        with pytest.raises(IndexError, match="index must be from 0 to 2, not"):
            pool.set_value(bad, None)
    with pytest.raises(ValueError, match="items must hold at least one object"):
        ItemPool([])
    for make in ItemPool, iovec_from_buffers:
        with pytest.raises(TypeError, match="can only concatenate str"):  # told as it came, not as a bad argument
            make(name + 1 for name in "a")


def test_pools_show_themselves(kind):
    pool = BufferPool(4, Tier.SMALL)
    shared = "shared=True, name=None, " if kind == "shared" else ""
    with pool.lease():
        assert repr(pool) == f"BufferPool(capacity=4, in_use=1, checked=True, {shared}shape=(1024,), dtype=uint8)"
        assert "25.0 %" in pool._repr_html_()
    assert repr(ItemPool([1])) == "ItemPool(capacity=1, in_use=0, checked=True)"


@pytest.mark.compiled
@pytest.mark.parametrize("with_one", [[64, 5], [5, 5], [5, 63, 5]], ids=["not out", "twice", "twice, later"])
def test_a_bulk_put_that_is_refused_refuses_nobody_else(kind, with_one):
    if kind == "shared":
        pytest.skip("puts of a shared pool refuse what a bulk put has marked")
    pool = BufferPool(65, 16)
    held = [pool.get() for _ in range(64)]
    bad = np.array([*held[:5], *held[6:60], *with_one])
    assert pool._give_many(elements(bad), len(bad)) >= 0

    @njit(nogil=True)
    def put_in_bulk(pool, bad, stop):
        while atomics.load(stop, 0) == 0:
            pool._give_many(elements(bad), len(bad))

    stop = np.ones(1, np.int64)
    put_in_bulk(pool, bad, stop)
    stop[0] = 0
    thread = threading.Thread(target=put_in_bulk, args=(pool, bad, stop))
    thread.start()
    try:
        for _ in range(5000):
            for index in (0, 59):
                assert pool.try_put(index)
                while (got := pool.try_get()) != index:
                    pool.put(got)
    finally:
        stop[0] = 1
        thread.join()
    assert pool.holders().keys() == {*held}
    for index in held:
        pool.put(index)
