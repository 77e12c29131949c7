"""Methods at the speed of C: the same answers and errors as the Python methods whose places they take."""

import copy
import gc
import inspect
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Index, said

from iobuf_nb import BoundedQueue, BufferPool, Channel, ItemPool, Magazine
from iobuf_nb._jit import c_methods, python_objects

Channel(BufferPool(1, 16)), BufferPool(1, 16).magazine(), ItemPool([None])  # the first ones replace the methods
pytestmark = pytest.mark.skipif(bool(c_methods.WHY_NOT), reason=c_methods.WHY_NOT or "they are replaced")

SLOW = {(cls, method.name): method.slow for method in c_methods.METHODS for cls in method.classes}


def test_the_methods_are_replaced_and_still_explained():
    # Pools and magazines; queues, which have one more; channels, without bulk calls; methods of buffers; leases.
    assert len(SLOW) == 3 * 6 + 7 + 4 + 4 + 2
    for (cls, name), slow in SLOW.items():
        method = vars(cls)[name]
        assert isinstance(method, types.MethodDescriptorType) and isinstance(slow, types.FunctionType)
        assert inspect.getdoc(method) == inspect.getdoc(slow)
        assert list(inspect.signature(method).parameters) == list(inspect.signature(slow).parameters)
        defaults = [p.default for p in inspect.signature(slow).parameters.values()]
        assert [p.default for p in inspect.signature(method).parameters.values()] == defaults


def outcome(function, *arguments, **named):
    try:
        result = function(*arguments, **named)
        return type(result), result
    except Exception as error:
        return type(error), str(error)


def array(values, dtype=np.int64, writable=True, step=1):
    made = np.array(values, dtype)[::step]
    made.flags.writeable = writable
    return made


ARRAYS = st.builds(
    array,
    st.lists(st.integers(-1, 4), max_size=5),
    st.sampled_from([np.int64, np.int64, np.int64, np.int32, ">i8"]),
    st.sampled_from([True, True, False]),
    st.sampled_from([1, 1, 2, -1]),
)
ARGUMENTS = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**62, 2**63 - 1, 2**63, -(2**63), 2**70, True, False, None, 1.0, "1", b"1", Index(1), Index(9)]),
)
NAMED = [{"block": False}, {"timeout": 0}, {"timeout": -1}, {"x": 1}]
CALLS = st.one_of(
    st.just(("get", (), {})),
    st.just(("try_get", (), {})),
    st.just(("get_or_closed", (), {})),
    st.tuples(st.just("get_or_closed"), st.tuples(st.sampled_from([0, -1, "1"])), st.just({})),
    st.tuples(st.just("get"), st.just((False,)), st.just({})),
    st.tuples(
        st.just("get"), st.just(()), st.sampled_from([{"block": False}, {"timeout": 0}, {"timeout": -1}, {"x": 1}])
    ),
    st.tuples(st.just("get"), st.tuples(ARGUMENTS, st.just(0)), st.just({})),
    st.tuples(st.sampled_from(["put", "try_put"]), st.tuples(ARGUMENTS), st.just({})),
    st.tuples(st.just("put"), st.tuples(ARGUMENTS, st.just(False)), st.just({})),
    st.tuples(st.just("put"), st.just(()), st.sampled_from([{}, {"index": 1}, {"item": 1}, {"item": 1, "timeout": 0}])),
    st.tuples(st.sampled_from(["try_get", "try_put"]), st.just((1, 2)), st.just({})),
    st.tuples(st.sampled_from(["get_many", "put_many"]), st.tuples(ARRAYS), st.just({})),
    st.tuples(st.just("get_many"), st.just(()), st.fixed_dictionaries({"out": ARRAYS})),
    st.tuples(st.sampled_from(["get_many", "put_many"]), st.tuples(ARGUMENTS), st.just({})),
    st.tuples(st.just("put_many"), st.tuples(st.sampled_from([[0, 1], np.zeros((1, 2), np.int64)])), st.just({})),
)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BufferPool(3, 16, nonblocking=True),
        lambda: BufferPool(3, 16, checked=False, nonblocking=True),
        lambda: ItemPool("abc", nonblocking=True),
        lambda: BoundedQueue(3),
        lambda: BufferPool(3, 16, nonblocking=True).magazine(2),
        lambda: BufferPool(3, 16, checked=False, nonblocking=True).magazine(2),
    ],
    ids=["checked", "unchecked", "items", "queue", "magazine", "unchecked magazine"],
)
@given(st.lists(CALLS, max_size=30), st.integers(0, 40))
@settings(deadline=None, max_examples=150)
def test_they_answer_as_python_does(make, calls, closed_at):
    """The same calls on two objects, through the C methods and through the Python ones."""
    fast, slow = make(), make()
    cls = type(fast)
    pools = [getattr(each, "pool", each) for each in (fast, slow)]
    for step, (name, arguments, named) in enumerate(calls):
        if (cls, name) not in SLOW:
            continue
        if cls is BoundedQueue:  # it would wait
            if name == "get" and "block" not in named and "timeout" not in named:
                arguments = (False,)
            if name == "get_or_closed" and not (arguments or fast.was_size()):
                arguments = (0,)
            if name == "put" and arguments:
                arguments = (arguments[0], False)
            if name == "put" and named == {"item": 1}:
                named = {"item": 1, "block": False}
        if step == closed_at:
            for each in pools:
                while cls is not BoundedQueue and each.checked and each.holders():
                    each.put(next(iter(each.holders())))
                if cls is BoundedQueue or each.checked:
                    each.close()
        ours, theirs = copy.deepcopy((arguments, named)), copy.deepcopy((arguments, named))
        expected = outcome(SLOW[cls, name], slow, *theirs[0], **theirs[1])
        got = outcome(getattr(fast, name), *ours[0], **ours[1])
        assert repr(ours) == repr(theirs)  # what was filled in, too
        if expected[0] is TypeError and "argument" in expected[1]:
            assert got[0] is TypeError  # what Python says of arguments too many or too few differs
        else:
            assert got == expected
    if cls is not BoundedQueue and fast.checked:
        assert pools[0].holders().keys() == pools[1].holders().keys()
        for each in pools:
            for index in each.holders():
                each.put(index)


SENDS = st.tuples(st.sampled_from(["send", "try_send"]), st.tuples(ARGUMENTS), st.just({}))
RECEIVES = st.tuples(st.sampled_from(["receive", "try_receive"]), st.just(()), st.just({}))
OTHERS = st.sampled_from(
    [
        *[("receive", (value,), {}) for value in (0, -1, "1", None)],
        *[("send", (0, 0), {}), ("send", (), {"index": 1, "timeout": 0}), ("send", (), {}), ("receive", (), {"x": 1})],
        *[("try_send", (), {"index": 0}), ("try_send", (0, 1), {}), ("try_receive", (1,), {})],
    ]
)


@given(st.lists(st.one_of(SENDS, RECEIVES, OTHERS), max_size=30), st.integers(0, 40))
@settings(deadline=None, max_examples=150)
def test_channels_answer_as_python_does(calls, closed_at):
    """The same calls on two channels, through the C methods and through the Python ones."""
    pools = [BufferPool(3, 16) for _ in range(2)]
    fast, slow = (Channel(pool, 2) for pool in pools)
    for pool in pools:
        pool.get(), pool.get(), pool.get()
    for step, (name, arguments, named) in enumerate(calls):
        if step == closed_at:
            fast.close(), slow.close()
        if not fast.closed and name in ("send", "receive") and fast.was_size() == (2 if name == "send" else 0):
            named = {**named, "timeout": 0}  # it would wait
        expected = outcome(SLOW[Channel, name], slow, *arguments, **named)
        got = outcome(getattr(fast, name), *arguments, **named)
        if expected[0] is TypeError and "argument" in expected[1]:
            assert got[0] is TypeError
        else:
            assert got == expected
    for channel, pool in zip((fast, slow), pools, strict=True):
        while channel.try_receive() >= 0:
            pass
        for index in range(3):
            pool.put(index)


def test_nothing_but_such_objects_is_taken():
    for (cls, name), _ in SLOW.items():
        with pytest.raises(TypeError, match="doesn't apply to a 'int' object"):
            vars(cls)[name](3)


def test_objects_that_were_never_made():
    for cls in (BufferPool, ItemPool, BoundedQueue, Magazine, Channel):
        for name, arguments in CALLED.items():
            if hasattr(cls, name):
                with pytest.raises(Exception, match="pyobject|Numba type|attribute"):
                    getattr(cls.__new__(cls), name)(*arguments)
    with pytest.raises(AttributeError), BufferPool.__new__(BufferPool).lease():
        pass


CALLED = {
    **{"get": (), "try_get": (), "put": (0,), "try_put": (0,), "value": (0,), "view": (0,), "set_value": (0, b"")},
    **{name: (np.zeros(1, np.int64),) for name in ("get_many", "put_many")},
    **{"send": (0,), "try_send": (0,), "receive": (), "try_receive": ()},
}


def test_methods_can_be_overridden():
    class Counting(BufferPool):
        gets = 0

        def get(self, block=True, timeout=None):
            self.gets += 1
            return super().get(block, timeout)

    pool = Counting(2, 16)
    with pool.lease():
        assert pool.gets == 1 and len(pool.holders()) == 1


def test_a_method_keeps_its_pool_alive():
    get, put = (lambda pool: (pool.get, pool.put))(BufferPool(2, 16))
    gc.collect()
    put(get())


def test_no_reference_is_lost_or_kept():
    pool, queue = BufferPool(1000, 16), BoundedQueue(4)
    big = 2**62

    def use():
        for _ in range(300):
            pool.put(pool.get())
            pool.try_put(pool.try_get())
            queue.put(1)
            queue.try_put(3)
            queue.get(), queue.try_get(), queue.try_get()
            for bad in (big, "x", -1):
                outcome(pool.put, bad)
                outcome(pool.try_put, bad)
                outcome(queue.try_put, bad)
                outcome(queue.put, bad, block=False)

    use()
    gc.collect()
    before = sys.getallocatedblocks(), [sys.getrefcount(x) for x in (None, True, False)]
    use()
    gc.collect()
    after = sys.getallocatedblocks(), [sys.getrefcount(x) for x in (None, True, False)]
    assert abs(after[0] - before[0]) < 500  # of 3600 calls
    assert all(abs(a - b) < 50 for a, b in zip(after[1], before[1], strict=True))


@pytest.mark.proof
def test_a_second_process_compiles_nothing(tmp_path):
    script = "from iobuf_nb import *; p = BufferPool(2, 16); p.put(p.get()); q = BoundedQueue(2); q.put(1); q.get()"

    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}

    said("-c", script, NUMBA_CACHE_DIR=str(tmp_path))
    first = files()
    own = {path.name.partition("-")[0] for path in first if path.name.startswith("methods._")}
    assert {"methods._get._locals_.get", "methods._put._locals_.put"} <= own
    said("-c", script, NUMBA_CACHE_DIR=str(tmp_path))
    assert files() == first


@pytest.mark.parametrize(
    "prepare, environment, reason",
    [
        ("", {"NUMBA_DISABLE_JIT": "1"}, "the JIT is off (NUMBA_DISABLE_JIT)"),
        ("sys.implementation.name = 'other'", {}, "this is other 3"),
        ("sys._is_gil_enabled = lambda: False", {}, "this Python runs without the GIL"),
        ("c_methods.cfunc = fail", {}, "no locator available"),
    ],
)
def test_where_it_cannot_be_done_the_python_methods_stay(prepare, environment, reason):
    script = f"""
import sys
from iobuf_nb import BufferPool
from iobuf_nb._jit import c_methods, python_objects
def fail(*a, **k):
    raise RuntimeError("no locator available")
{prepare}
pool = BufferPool(2, 16)
pool.put(pool.get())
print(type(BufferPool.get).__name__, c_methods.WHY_NOT)
"""
    assert said("-c", script, **environment).startswith(f"function {reason}")


@pytest.mark.parametrize(
    "make", [lambda: BufferPool(4, 16), lambda: ItemPool("abcd"), lambda: BufferPool(4, 16).magazine()]
)
@pytest.mark.parametrize(
    ("name", "bad"),
    [("put", 0), ("put", 99), ("put_many", [1, 0]), ("put_many", [1, 1]), ("put_many", [1, 99]), ("put_many", [1, -1])],
)
def test_what_is_refused_is_not_tried_again(monkeypatch, make, name, bad):
    source = make()
    indices = [source.get(), source.get()]
    source.put(indices[0])
    tried = []
    for method in ("_give", "_give_many"):
        monkeypatch.setattr(type(source), method, lambda self, *given: tried.append(given))
    argument = np.array(bad) if isinstance(bad, list) else bad
    with pytest.raises(IndexError if {99, -1} & {*np.ravel(argument).tolist()} else ValueError, match="index must be"):
        getattr(source, name)(argument)
    assert not tried
    monkeypatch.undo()
    source.put(indices[1])


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("through", ["pool", "magazine"])
def test_a_bulk_get_steals_without_the_gil(checked, through):
    pool = BufferPool(300, 16, checked=checked)
    indices = np.empty(300, np.int64)
    others = [pool.magazine(100) for _ in range(2)]
    for magazine in others:
        magazine.put_many(indices[: pool.get_many(indices[:100])])
    source = pool if through == "pool" else pool.magazine(100)
    source.put(source.get())  # a checked magazine is its first user's
    seeks = []
    rest = type(source)._take_rest
    kinds = range(len(python_objects._constants))
    before = [python_objects._table[k] for k in kinds]

    def take_rest(self, out, done):
        seeks.append(done)
        return rest(self, out, done)

    for k, known in zip(kinds, before, strict=True):
        if known == id(rest):
            python_objects._table[k] = id(take_rest)
    try:
        assert source.get_many(indices) == 300 and source.get_many(indices[:1].copy()) == 0
        assert seeks == [100, 0]
    finally:
        for k, known in zip(kinds, before, strict=True):
            python_objects._table[k] = known
    assert sorted(indices) == list(range(300))
    pool.put_many(indices)
    assert pool.available() == 300
