"""What a pool shows of a buffer, as an array and as a memoryview, and how bytes are copied into it."""

import array
import gc
import io
import os
import threading
import weakref

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError
from support import Index, needs_fork

from iobuf_nb import BufferPool, ItemPool
from iobuf_nb._pools import layout

PAIR = np.dtype([("key", "i8"), ("price", "f8")])
LAYOUTS = {
    "bytes": {"size": 100},
    "one byte": {"size": 1},
    "3-d": {"shape": (2, 3, 4), "dtype": "f4"},
    "of length one": {"shape": (1, 5, 1), "dtype": "i2"},
    "bool": {"shape": 3, "dtype": "?"},
    "records": {"shape": 3, "dtype": PAIR},
    "complex": {"shape": 3, "dtype": "c16"},
    "text": {"shape": 3, "dtype": "S5"},
}
TIMELESS = pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
NO_VIEW = {
    "times": {"shape": 3, "dtype": "M8[s]"},
    "differences": {"shape": 3, "dtype": "m8[ns]"},
    "records of times": {"shape": 3, "dtype": [("when", "M8[s]"), ("what", "f8")]},
    "overlapping": {"shape": 3, "dtype": {"names": ["a", "b"], "formats": ["i4", "f4"], "offsets": [0, 2]}},
}
ALL = pytest.mark.parametrize("options", [*LAYOUTS.values(), *NO_VIEW.values()], ids=[*LAYOUTS, *NO_VIEW])
BOTH_WAYS = pytest.mark.parametrize("look", [BufferPool.value, BufferPool.view], ids=["value", "view"])


@pytest.fixture
def pool():
    return BufferPool(4, 16)


# ---- arrays and memoryviews ------------------------------------------------------------------------------------------


@ALL
def test_a_value_is_the_same_array_again(options):
    pool = BufferPool(3, **options)
    arrays = [pool.value(index) for index in range(3)]
    assert all(pool.value(index) is arrays[index] for index in range(3))
    assert [(each.shape, each.dtype, each.flags.carray) for each in arrays] == [(pool.shape, pool.dtype, True)] * 3
    assert [each.ctypes.data - pool.arena for each in arrays] == [0, pool.stride, 2 * pool.stride]


CHANGES = {
    "shape": lambda array: setattr(array, "shape", (2, 8)),
    "one more axis": lambda array: setattr(array, "shape", (16, 1)),
    "dtype": lambda array: setattr(array, "dtype", np.dtype("i4")),
    "dtype of the same size": lambda array: setattr(array, "dtype", np.dtype("i1")),
    "read-only": lambda array: setattr(array.flags, "writeable", False),
    "strides": lambda array: setattr(array, "strides", (0,)),
    "aligned": lambda array: array.setflags(align=False),
}


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_array_that_was_changed_in_place_is_not_given_again(pool, change):
    changed = pool.value(1)
    change(changed)
    fresh = pool.value(1)
    assert fresh is not changed and pool.value(1) is fresh
    assert (fresh.shape, fresh.dtype, fresh.strides, fresh.flags.carray) == ((16,), np.uint8, (1,), True)
    assert not pool.view(1).readonly and pool.view(1).shape == (16,)


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
def test_an_array_that_was_transposed_in_place_is_not_given_again():
    pool = BufferPool(1, shape=(2, 2), dtype="f4")
    pool.value(0).strides = (4, 8)
    assert pool.value(0).strides == (8, 4)


@TIMELESS
def test_a_view_shows_what_the_array_shows(options):
    pool = BufferPool(3, **options)
    view, array = pool.view(1), pool.value(1)
    like = memoryview(array)
    assert (view.format, view.shape, view.itemsize, view.readonly) == (like.format, like.shape, like.itemsize, False)
    io.BytesIO(bytes(range(1, 101))).readinto(view)
    assert array.tobytes() == bytes(range(1, 101))[: pool.buffer_size].ljust(pool.buffer_size, b"\0") == view.tobytes()
    assert not pool.value(0).view("u1").any() and not pool.value(2).view("u1").any()


def test_a_view_of_numbers_can_be_indexed():
    pool = BufferPool(2, shape=(2, 3), dtype="f4")
    pool.view(1)[1, 2] = 1.5
    assert pool.value(1)[1, 2] == 1.5


@pytest.mark.parametrize("options", NO_VIEW.values(), ids=NO_VIEW)
def test_a_dtype_that_memoryviews_lack_is_refused(options):
    pool = BufferPool(2, **options)
    for _ in range(2):
        with pytest.raises(TypeError, match="view needs a dtype that a memoryview can describe, not .*: use value"):
            pool.view(0)
    assert memoryview(pool.value(0).view("u1")).nbytes == pool.buffer_size  # what the sentence says


def test_a_view_is_the_same_until_it_is_released(pool):
    view = pool.view(1)
    assert pool.view(1) is view and pool.view(0) is not view
    with view:
        view[:2] = b"ab"
    fresh = pool.view(1)
    assert fresh is not view and pool.view(1) is fresh and bytes(fresh[:2]) == b"ab"
    fresh.release()
    pool.set_value(1, b"cd")
    assert bytes(pool.view(1)[:2]) == b"cd"


@BOTH_WAYS
@pytest.mark.parametrize("kind", [np.uint8, np.int64, Index])
def test_any_integer_is_an_index(pool, look, kind):
    for first, then in [(kind, int), (int, kind)]:
        pool = BufferPool(4, 16)
        seen = look(pool, first(1))
        assert look(pool, then(1)) is seen
        assert all(type(key) is int for key in [*pool._arrays, *pool._views])


@BOTH_WAYS
@pytest.mark.parametrize("seen_before", [False, True])
def test_what_is_no_index_is_refused(pool, look, seen_before):
    if seen_before:
        look(pool, 0), look(pool, 1)
    kept = {**pool._arrays}, {**pool._views}
    for bad in (-1, 4, 2**70, np.int64(-1), np.int64(4)):
        with pytest.raises(IndexError, match=f"index must be from 0 to 3, not {bad}"):
            look(pool, bad)
    for bad in (True, False, np.bool_(True), 1.0, "1", None):  # 1 == True == 1.0, and their hashes too
        with pytest.raises(TypeError, match="index must be an integer, not"):
            look(pool, bad)
    assert (pool._arrays, pool._views) == kept


@BOTH_WAYS
def test_what_a_pool_has_shown_does_not_keep_it(look):
    pool = BufferPool(2, 4096)
    seen = look(pool, 1)
    seen[:3] = np.frombuffer(b"abc", np.uint8)
    gone = weakref.ref(pool)
    gc.disable()  # no cycle, so nothing to collect
    try:
        del pool
        assert gone() is None
    finally:
        gc.enable()
    assert bytes(seen[:3]) == b"abc"
    seen[4095] = 1


@BOTH_WAYS
def test_a_pool_keeps_only_so_many(monkeypatch, look):
    monkeypatch.setattr(layout, "_MOST_KEPT", 2)
    pool = BufferPool(4, 16)
    seen = [look(pool, index) for index in range(4)]
    assert [look(pool, index) is seen[index] for index in range(4)] == [True, True, False, False]
    assert len(pool._arrays) + len(pool._views) == 2
    if look.__name__ == "view":
        seen[0].release()
    else:
        seen[0].flags.writeable = False
    fresh = look(pool, 0)  # in place of what is of no use any more
    assert fresh is not seen[0] and look(pool, 0) is fresh


def test_magazines_forward(pool):
    with pool.magazine() as magazine:
        assert magazine.view(2) is pool.view(2) and magazine.value(2) is pool.value(2)
        with pytest.raises(IndexError):
            magazine.view(4)
    with (
        ItemPool("ab").magazine() as magazine,
        pytest.raises(AttributeError, match="'ItemPool' object has no .*'view'"),
    ):
        magazine.view(0)


@pytest.mark.compiled
def test_kernels_have_no_view(pool):
    with pytest.raises(TypingError, match="^a BufferPool of .* has no attribute 'view' in kernels"):
        njit(lambda pool: pool.view(0))(pool)


def test_fill_keeps_nothing(pool):
    pool.fill(lambda: b"ab")
    assert not pool._arrays and not pool._views
    assert bytes(pool.view(3)[:3]) == b"ab\0"


def test_threads_may_look_at_once():
    pool = BufferPool(64, shape=4, dtype="i8")
    together, wrong = threading.Barrier(4), []

    def work(k):
        together.wait()
        for turn in range(20):
            for index in range(64):
                pool.view(index)[k] = turn
                if pool.value(index)[k] != turn:
                    wrong.append((k, index))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_looks_at_its_own_copy(pool):
    pool.view(1)[0] = 5
    child = os.fork()
    if child == 0:
        seen = pool.view(1)[0] == pool.value(1)[0] == 5
        pool.set_value(1, b"\x07")
        os._exit(0 if seen and pool.value(1)[0] == 7 == pool.view(1)[0] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pool.value(1)[0] == 5


# ---- set_value -------------------------------------------------------------------------------------------------------


BYTES = {
    "bytes": b"abc",
    "bytearray": bytearray(b"abc"),
    "memoryview": memoryview(b"abc"),
    "part": memoryview(bytearray(b"xabcx"))[1:4],
    "every other": memoryview(b"a-b-c")[::2],
    "chars": memoryview(b"abc").cast("c"),
    "rows": memoryview(b"abc").cast("B", (3, 1)),
    "wide": memoryview(array.array("i", [int.from_bytes(b"abc\0", "little")])),
    "columns": memoryview(np.asfortranarray(np.frombuffer(b"abc\0", np.uint8).reshape(2, 2))),
    "subclass": type("Own", (bytes,), {})(b"abc"),
}


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_bytes_of_every_kind_are_copied(pool, data):
    for index in (1, 1, np.int64(1)):  # the first time, later, and the long way
        pool.value(1)[:] = 9
        pool.set_value(index, data)
        assert bytes(pool.value(1)) in (b"abc" + bytes([9]) * 13, b"abc\0" + bytes([9]) * 12)


def test_no_bytes_change_nothing(pool):
    for _ in range(2):
        pool.set_value(1, b"abc")
        pool.set_value(1, b"")
        pool.set_value(1, bytearray())
        assert bytes(pool.value(1)[:4]) == b"abc\0"


def test_a_part_of_a_buffer_can_be_moved_within_it(pool):
    for move in (pool.view(1)[1:], pool.view(1)[1:].cast("c")):
        pool.set_value(1, bytes(range(16)))
        pool.set_value(1, move)
        assert bytes(pool.value(1)) == bytes([*range(1, 16), 15])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"size": 4}, ValueError, "data must not be longer than the buffer: 5 > 4"),
        ({"shape": 8, "dtype": "i1"}, TypeError, "data must be of dtype int8, not uint8"),
        ({"shape": 8, "dtype": "?"}, TypeError, "data must be of dtype bool, not uint8"),
        ({"shape": 8, "dtype": "S1"}, TypeError, r"data must be of dtype \|S1, not uint8"),
        ({"shape": 8, "dtype": "M8[s]"}, TypeError, r"data must be of dtype datetime64\[s\], not uint8"),
        ({"shape": 8, "dtype": PAIR}, TypeError, "data must be of dtype .*, not uint8"),
        ({"shape": (8, 1)}, ValueError, r"data must have the shape of the buffer, \(8, 1\)"),
    ],
)
def test_bytes_that_do_not_fit_change_nothing(kind, seen_before, options, error, message):
    pool = BufferPool(2, **options)
    if seen_before and options.get("dtype") != "M8[s]":
        pool.view(0)
    for _ in range(2):
        with pytest.raises(error, match=message):
            pool.set_value(0, kind(b"abcde"))
    assert not pool.value(0).view("u1").any()


def test_a_memoryview_of_the_pools_dtype_is_still_only_bytes():
    pool = BufferPool(1, shape=2, dtype="f4")
    pool.view(0)
    for _ in range(2):
        with pytest.raises(TypeError, match="data must be of dtype float32, not uint8"):
            pool.set_value(0, memoryview(np.ones(2, np.float32)))


def test_a_released_memoryview_is_refused(pool):
    data = memoryview(b"abc")
    data.release()
    for _ in range(2):
        with pytest.raises(ValueError, match="released"):
            pool.set_value(0, data)
        pool.view(0)


def test_bytes_go_to_no_other_buffer(pool):
    for index in range(4):
        pool.view(index)
    for bad in (-1, 4, 2**70):
        with pytest.raises(IndexError, match=f"index must be from 0 to 3, not {bad}"):
            pool.set_value(bad, b"abc")
    for bad in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="index must be an integer"):
            pool.set_value(bad, b"abc")
    assert not any(pool.value(index).any() for index in range(4))
