"""Kernels of a stream: signatures, what is refused, what they may do, what of them is cached."""

import gc
import weakref

import numpy as np
import pytest
from numba import cfunc, guvectorize, jit, njit, prange, types, vectorize
from support import said

from iobuf_nb import stream

OUT, ANY_OUT = types.Array(types.int64, 1, "C"), types.Array(types.int64, 1, "A")


C, A = types.Array(types.uint8, 1, "C"), types.Array(types.uint8, 1, "A")
READ_ONLY = types.Array(types.uint8, 1, "C", readonly=True)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "signatures",
    [
        "void(u1[::1], i8, i8, i8[::1])",
        "(u1[:], i8, i8, i8[:])",
        types.void(READ_ONLY, types.int64, types.int64, ANY_OUT),
        ["void(f4[::1], i8, i8, i8[::1])", "void(u1[:], i8, i8, i8[::1])"],
        ["void(u1[::1], i4, i4, i8[::1])", "void(u1[::1], i8, i8, i8[:])"],
    ],
    ids=str,
)
def test_kernels_compiled_with_signatures(file, signatures):
    @njit(signatures, nogil=True)
    def count(buffer, n, offset, state):
        state[0] += n

    before = list(count.overloads)
    result = stream(file(bytes(100_000)), count, state=np.zeros(1, np.int64), combine=np.add, workers=2, tier=1000)
    assert result.state[0] == 100_000 and list(count.overloads) == before


@pytest.mark.compiled
@pytest.mark.parametrize(
    "signatures, options",
    [
        ("void(u1[::1], i4, i8, i8[::1])", {}),
        ("void(u1[::1], i8, i4, i8[::1])", {}),
        ("void(f4[::1], i8, i8, i8[::1])", {}),
        ("void(u1[::1], i8, i8, f8[::1])", {}),
        ("void(u1[::1], i8, i8, i8[:,:])", {}),
        ("void(u1[::1], i8, i8, i8[::1])", {"dtype": "f4"}),
    ],
)
def test_kernels_compiled_for_other_arguments_are_refused(file, pool, signatures, options):
    kernel = njit(signatures)(lambda buffer, n, offset, state: None)
    with pytest.raises(TypeError, match="kernel must take .* does not: it is compiled only for .*\nkernel must"):
        stream(file(bytes(100)), kernel, state=np.zeros(1, np.int64), pool=pool, **options)


def test_what_cannot_even_be_called_is_no_kernel(file, pool):
    with pytest.raises(TypeError, match="kernel must be a function compiled by numba.njit, not None"):
        stream(file(b"x"), None, state=np.zeros(1, np.int64), pool=pool)


@pytest.mark.compiled
def test_what_is_no_kernel_is_refused(file, pool):
    def one(buffer, n, offset, state):
        return offset

    signature = "f8(f8, f8, f8, f8)"
    made = [vectorize(signature)(one), cfunc(signature)(one), jit(forceobj=True)(one), one]
    made.append(guvectorize("void(f8[:], f8, f8, f8[:])", "(n),(),()->(n)")(lambda buffer, n, offset, state: None))
    for kernel in made:
        with pytest.raises(TypeError, match="kernel must be a function compiled by numba.njit, not"):
            stream(file(bytes(100)), kernel, state=np.zeros(1), pool=pool)


@pytest.mark.compiled
def test_kernels_with_defaults_and_any_number_of_arguments(file):
    @njit
    def default(buffer, n, offset, state, times=2):
        state[0] += times * n

    @njit
    def star(buffer, *rest):
        rest[2][0] += 2 * rest[0]

    for kernel in (default, star):
        state = stream(file(bytes(1000)), kernel, state=np.zeros(1), combine=np.add, workers=2, tier=100).state
        assert state[0] == 2000


@pytest.mark.compiled
def test_a_kernel_with_threads_of_its_own(file):
    values = np.arange(100_000, dtype=np.float64)

    @njit(parallel=True)
    def add(buffer, n, offset, state):
        total = 0.0
        for k in prange(n):
            total += buffer[k]
        state[0] += total

    path = file(values.tobytes())
    for options in ({}, {"ordered": True, "workers": 3}):
        assert stream(path, add, state=np.zeros(1), dtype="f8", tier=4096, **options).state[0][0] == values.sum()
    with pytest.raises(ValueError, match="workers must be 1 for a kernel with parallel=True, not 2"):
        stream(path, add, state=np.zeros(1), dtype="f8", workers=2)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "kernel, message",
    [
        (len, "kernel must be a function compiled by numba.njit, not <built-in function len>"),
        (njit(lambda buffer, n, offset: None), "too many positional arguments"),
        (njit(lambda buffer, n, offset, state: state.no_such_thing), "no_such_thing"),
        (njit("f8(f8, f8, f8, f8)")(lambda buffer, n, offset, state: n), "state: array"),
    ],
)
def test_a_kernel_of_the_wrong_signature(file, kernel, message):
    with pytest.raises(TypeError, match=message) as caught:
        stream(file(b"data"), kernel, state=np.zeros(3))
    if kernel is not len:
        wanted = "kernel must take (buffer: array(uint8, 1d, C), n: int64, offset: int64, state: array(float64, 1d, C))"
        assert wanted in str(caught.value)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.proof
@pytest.mark.compiled
def test_a_second_process_compiles_only_the_kernel_of_its_own(file, cache):
    script = """
import sys
import numpy as np
from numba import njit
from iobuf_nb import stream
from iobuf_nb._streams.work import work_on_files

@njit
def add(buffer, n, offset, state):
    state[0] += buffer.sum()

print(int(stream(sys.argv[1], add, state=np.zeros(1, np.int64), combine=np.add).state[0]))
print(sum(work_on_files.stats.cache_misses.values()), sum(work_on_files.stats.cache_hits.values()))
"""
    path = str(file(b"\1" * 1000))
    runs = [said("-c", script, path, NUMBA_CACHE_DIR=cache).split() for _ in range(2)]
    assert runs == [["1000", "1", "0"], ["1000", "0", "1"]]


@pytest.mark.proof
@pytest.mark.compiled
def test_types_of_one_program_do_not_reach_another_through_the_cache(file, cache):
    script = """
import sys
from collections import namedtuple
import numpy as np
from numba import njit
from iobuf_nb import stream

@njit
def add(buffer, n, offset, state):
    state[0][0] += n

state = np.zeros(1)
{}
print(stream(sys.argv[1], add, state=({}), ordered=True).state[0][0][0])
"""
    scripts = [script.format("Own = namedtuple('Own', 'total')", "Own(state)"), script.format("", "state,")]
    path = str(file(bytes(1000)))
    assert [said("-c", each, path, NUMBA_CACHE_DIR=cache) for each in scripts] == ["1000.0"] * 2


@pytest.mark.compiled
@pytest.mark.parametrize("source, used", [("sys.argv[1]", "work_on_files"), ("reader", "work_in_turns")])
def test_only_the_workers_that_a_stream_needs_are_compiled(file, source, used):
    script = f"""
import os
import sys
import numpy as np
from numba import njit
from iobuf_nb import stream
from iobuf_nb._streams import work

@njit
def add(buffer, n, offset, state):
    state[0] += n

reader, writer = os.pipe()
os.close(writer)
stream({source}, add, state=np.zeros(1))
print([name for name, each in vars(work).items() if name.startswith("work_") and each.overloads])
"""
    assert said("-c", script, str(file(bytes(1000)))) == f"['{used}']"


@pytest.mark.compiled
def test_parameters_are_recognised_by_their_names_alone(file):
    @njit
    def default(buffer, n, offset, state, flag=5, source=-1):
        state[0] += flag
        state[1] += source

    path = file(bytes(1000))
    assert stream([path, path], default, state=np.zeros(2), combine=np.add).state.tolist() == [10, 1]


step = 1  # how much `add_step` adds


@pytest.mark.compiled
def test_a_kernel_that_is_compiled_again_runs_its_new_code(file, monkeypatch):
    @njit("void(u1[::1], i8, i8, i8[::1])")
    def add_step(buffer, n, offset, state):
        state[0] += step

    path = file(bytes(1000))
    for value in (1, 2):
        monkeypatch.setitem(globals(), "step", value)
        add_step.recompile()
        assert stream(path, add_step, state=np.zeros(1, np.int64), combine=np.add).state[0] == value


@pytest.mark.compiled
def test_kernels_are_not_kept(file):
    @njit
    def nothing(buffer, n, offset, state):
        pass

    known = weakref.ref(nothing)
    stream(file(bytes(10)), nothing)
    del nothing
    gc.collect()
    assert known() is None
