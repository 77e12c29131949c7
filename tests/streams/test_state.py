"""States of a stream: what they may be, how each worker gets one, how they are combined."""

import os

import numpy as np
import pytest
from numba import njit, typed, types
from numba.experimental import jitclass
from streaming import Pair, check, fresh

from iobuf_nb import stream

# ---- state, types, signature -----------------------------------------------------------------------------------------


def test_typed_blocks_and_combine(file):
    values = np.random.default_rng(1).random(100_003).astype(np.float32)

    @njit
    def extremes(buffer, n, offset, state):
        for x in buffer:
            state[0] = min(state[0], x)
            state[1] = max(state[1], x)
        state[2] += n

    def combine(a, b):
        return np.array([min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2]])

    start = np.array([np.inf, -np.inf, 0])
    result = stream(file(values.tobytes()), extremes, state=start, combine=combine, dtype="f4", tier=1000, workers=3)
    assert result.state.tolist() == [values.min(), values.max(), len(values)]
    assert start.tolist() == [np.inf, -np.inf, 0]


def test_records_of_a_structured_dtype(file):
    dtype = np.dtype([("key", "i4"), ("value", "f8")])
    records = np.zeros(1000, dtype)
    records["key"] = np.arange(1000) % 7
    records["value"] = np.arange(1000)

    @njit
    def group(buffer, n, offset, state):
        for k in range(n):
            state[buffer[k]["key"]] += buffer[k]["value"]

    result = stream(file(records.tobytes()), group, state=np.zeros(7), combine=np.add, dtype=dtype, tier=100, workers=2)
    assert result.state.tolist() == np.bincount(records["key"], records["value"]).tolist()


def test_states_by_copy_by_call_and_none_at_all(file):
    path = file(bytes(1000))
    states = stream(path, check, state=fresh(1000), workers=3, tier=16).state
    assert len(states) == 3 and len({id(state) for state in states}) == 3
    made = []

    def make():
        made.append(fresh(1000))
        return made[-1]

    assert stream(path, check, state=make, workers=2, tier=16).state == made and len(made) == 2
    assert len(stream(path, check, state=fresh(1000, ordered=True), workers=2, ordered=True).state) == 1

    @njit
    def nothing(buffer, n, offset, state):
        return n

    result = stream(path, nothing, workers=2)
    assert result.state == [None, None] and result.bytes == 1000


@pytest.mark.compiled
def test_states_of_several_types_are_refused(file, pool):
    array = np.zeros(1, np.int64)
    frozen = array.copy()
    frozen.flags.writeable = False
    others = [
        np.zeros(1),
        np.zeros((1, 1), np.int64),
        np.zeros(4, np.int64)[::2],
        frozen,
        (array,),
        typed.List([1]),
        None,
        1,
    ]
    for other in others:
        states = iter([array, array.copy(), other])
        with pytest.raises(TypeError, match="state must (make the same type for each worker|be something)"):
            stream(file(bytes(100)), check, state=lambda states=states: next(states), workers=3, pool=pool)
    assert frozen.tolist() == [0]


@pytest.mark.compiled
@pytest.mark.parametrize(
    "state",
    [0, 1.5, True, 1j, "text", b"bytes", np.float32(1), np.datetime64(1, "s"), (1, 2.0), Pair(1, (2, "x")), slice(1)],
    ids=repr,
)
def test_states_that_no_kernel_can_change_are_refused(file, pool, state):
    @njit
    def lose(buffer, n, offset, state):
        state = n  # noqa: F841

    message = "state must be something that a kernel can change in place, such as np.zeros.1., not "
    for either in (state, lambda: state):
        with pytest.raises(TypeError, match=message):
            stream(file(bytes(100)), lose, state=either, pool=pool)


@pytest.mark.compiled
def test_states_that_must_not_be_written_are_refused(file, pool):
    frozen = np.zeros(2, [("x", "i8")])
    frozen.flags.writeable = False

    @njit
    def write(buffer, n, offset, state):
        state[0] += n

    @njit
    def write_record(buffer, n, offset, state):
        state.x += n

    readings = [
        (write, frozen["x"]),
        (write, memoryview(bytes(8))),
        (write, (frozen["x"], 1)),
        (write_record, frozen[0]),
    ]
    for kernel, state in readings:
        for either in (state, lambda state=state: state):
            with pytest.raises(TypeError, match="state must be something that a kernel can change"):
                stream(file(bytes(100)), kernel, state=either, workers=1, pool=pool)
    assert frozen["x"].tolist() == [0, 0]

    @njit
    def look_up(buffer, n, offset, state):
        state[1][0] += n + state[0][0]

    assert stream(file(bytes(100)), look_up, state=lambda: (frozen["x"], np.zeros(1)), workers=1).state[0][1] == 100


@jitclass([("n", types.int64)])
class Counter:
    def __init__(self):
        self.n = 0


@pytest.mark.proof
@pytest.mark.compiled
def test_containers_of_numba_are_copied(file):
    @njit
    def into_list(buffer, n, offset, state):
        state[0] += n

    @njit
    def into_nested(buffer, n, offset, state):
        state[0][1][0] += n

    @njit
    def into_dict(buffer, n, offset, state):
        state["n"][0] += n

    @njit
    def into_tuple(buffer, n, offset, state):
        state[0][0] += n
        state[1][7] += n

    path = file(bytes(100_000))
    numbers = typed.List([0])
    nested = typed.List([typed.List([np.zeros(1), np.zeros(1)])])
    by_name = typed.Dict()
    by_name["n"] = np.zeros(1)
    by_number = typed.Dict()
    by_number[7] = 0.0
    for kernel, state, read in (
        (into_list, numbers, lambda s: s[0]),
        (into_nested, nested, lambda s: s[0][1][0]),
        (into_dict, by_name, lambda s: s["n"][0]),
        (into_tuple, Pair(typed.List([0]), by_number), lambda s: s.one[0] + s.other[7]),
    ):
        states = stream(path, kernel, state=state, workers=3, tier=100).state
        times = 2 if isinstance(state, Pair) else 1
        assert sum(map(read, states)) == times * 100_000 and read(state) == 0
    assert stream(path, into_list, state=lambda: numbers, ordered=True).state == [numbers]


@pytest.mark.compiled
def test_states_that_cannot_be_copied_are_made(file, pool):
    @njit
    def add(buffer, n, offset, state):
        state.n += n

    path = file(bytes(100_000))
    made = stream(path, add, state=Counter, workers=3, pool=pool).state
    assert sum(state.n for state in made) == 100_000
    with pytest.raises(TypeError, match="state must be something that can be copied, .* pass a callable"):
        stream(path, add, state=Counter(), pool=pool)
    for nothing in (object(), {"a": 1}, typed.List()):
        with pytest.raises(TypeError, match="state must be something that numba kernels accept, not"):
            stream(path, add, state=lambda nothing=nothing: nothing, pool=pool)


def test_a_state_that_workers_share_counts_once(file):
    @njit
    def mark(buffer, n, offset, state):
        state[offset // 100] = n

    table = np.zeros(100, np.int64)
    result = stream(file(bytes(10_000)), mark, state=lambda: table, combine=np.add, workers=3, tier=100)
    assert result.state is table and table.tolist() == [100] * 100


@pytest.mark.parametrize(
    "combine, message",
    [
        (3, "combine must be a function of two states, such as np.add, not 3"),
        ("add", "combine must be a function of two states"),
        (lambda a: a, "combine must be a function of two states, which .* is not: too many positional arguments"),
        (lambda a, b, c: a, "combine must be a function of two states, which .* is not: missing a required argument"),
    ],
)
def test_combine_is_looked_at_before_anything_is_read(pool, combine, message):
    reader, writer = os.pipe()
    os.write(writer, b"data")
    os.close(writer)
    with pytest.raises(TypeError, match=message):
        stream(reader, check, state=fresh(4), combine=combine, pool=pool)
    assert os.read(reader, 10) == b"data"
    os.close(reader)
    assert stream("/dev/null", check, state=fresh(0), combine=max, workers=1).bytes == 0  # it has no signature
