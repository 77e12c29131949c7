"""Atomic words: what each operation does, on which instructions, and what is refused."""

import re
import signal
import threading

import llvmlite.binding as llvm
import numpy as np
import pytest
from machine_code import WORDS, assembly, compiled, instructions
from numba import config, njit, types
from numba.core.errors import TypingError
from support import BOTH, in_a_child, needs_fork

from iobuf_nb import BoundedQueue, atomics
from iobuf_nb._jit.instructions import minus, plus, times, wrap
from iobuf_nb._threads import fences


@BOTH
@pytest.mark.parametrize("order", ["relaxed", "acquire", "release", "acq_rel", "seq_cst"])
def test_operations(jit, order):
    reading = order if order in ("relaxed", "acquire", "seq_cst") else "acquire"
    writing = order if order in ("relaxed", "release", "seq_cst") else "release"

    def operate(words):
        atomics.store(words, 1, 5, writing)
        return (
            atomics.load(words, 1, reading),
            atomics.swap(words, 1, 6, order),
            atomics.fetch_add(words, 1, -2, order),
            atomics.fetch_or(words, 1, 3, order),
            atomics.fetch_and(words, 1, 6, order),
            atomics.compare_and_swap(words, 1, 6, 10, order),
            atomics.compare_and_swap(words, 1, 6, 11, order=order),
        )

    words = np.zeros(3, np.int64)
    assert jit(operate)(words) == (5, 5, 6, 4, 7, True, False)
    assert words.tolist() == [0, 10, 0]


@BOTH
def test_defaults_fences_and_pauses(jit):
    def operate(words):
        atomics.store(words, 0, 1)
        atomics.fence()
        atomics.fence("acquire")
        fences.light_fence()
        fences.heavy_fence()
        atomics.pause()
        atomics.swap(words, 0, 2)
        return atomics.load(words, 0) + atomics.fetch_add(words, 0, 1)

    assert jit(operate)(np.zeros(1, np.int64)) == 4


@BOTH
def test_additions_wrap(jit):
    words = np.array([2**63 - 1])
    assert jit(lambda words: atomics.fetch_add(words, 0, 1))(words) == 2**63 - 1
    assert words[0] == -(2**63)


@BOTH
def test_threads_lose_no_addition(jit):
    def add(words, n):
        for _ in range(n):
            atomics.fetch_add(words, 0, 1)

    words, n = np.zeros(1, np.int64), 2000
    add_compiled = njit(nogil=True)(add)
    add_compiled(words, 0)
    # Python and kernels at once: the interpreted face must be atomic against compiled code too.
    threads = [threading.Thread(target=f, args=(words, n)) for f in (jit(add), add_compiled, add, add_compiled)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words[0] == 4 * n


@pytest.mark.compiled
def test_kernels_refuse_types_that_may_be_misaligned():
    kernel = njit(lambda words: atomics.load(words, 0))
    with pytest.raises(TypingError, match="aligned"):
        kernel.compile((types.Array(types.int64, 1, "C", aligned=False),))


BAD_ARRAYS = {
    "dtype int32": np.zeros(4, np.int32),
    "dtype uint64": np.zeros(4, np.uint64),
    "dimensions": np.zeros((2, 2), np.int64),
    "contiguous": np.zeros(8, np.int64)[::2],
    "writable": np.frombuffer(bytes(32), np.int64),
    "aligned": np.frombuffer(bytearray(33), np.uint8)[1:].view(np.int64),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
@pytest.mark.parametrize(
    "operate",
    [
        lambda words: atomics.load(words, 0),
        lambda words: atomics.store(words, 0, 1),
        lambda words: atomics.compare_and_swap(words, 0, 0, 1),
        lambda words: atomics.fetch_add(words, 0, 1),
    ],
)
@BOTH
def test_refuses_arrays_it_cannot_be_atomic_on(jit, operate, name):
    if jit is njit and name == "aligned" and not config.DISABLE_JIT:
        pytest.skip("numba's type of an array does not say that this one is misaligned")
    words = BAD_ARRAYS[name]
    before = words.copy()
    with pytest.raises(
        (TypeError, ValueError, TypingError), match="must be a one-dimensional contiguous, aligned, writable int64"
    ):
        jit(operate)(words)
    assert (words == before).all()


@BOTH
@pytest.mark.parametrize(
    "operate, allowed",
    [
        (lambda words: atomics.load(words, 0, "release"), "relaxed, acquire, seq_cst, not 'release'"),
        (lambda words: atomics.store(words, 0, 1, "acquire"), "relaxed, release, seq_cst, not 'acquire'"),
        (
            lambda words: atomics.swap(words, 0, 1, "strong"),
            "relaxed, acquire, release, acq_rel, seq_cst, not 'strong'",
        ),
        (lambda words: atomics.fence("relaxed"), "acquire, release, acq_rel, seq_cst, not 'relaxed'"),
    ],
)
def test_refuses_orders(jit, operate, allowed):
    with pytest.raises((ValueError, TypingError), match=f"must be one of {allowed}"):
        jit(operate)(np.zeros(1, np.int64))


@BOTH
@pytest.mark.parametrize(
    "operate",
    [
        lambda words: atomics.load(words, 1.0),
        lambda words: atomics.store(words, 0, 1.7),
        lambda words: atomics.fetch_add(words, 0, True),
        lambda words: atomics.compare_and_swap(words, 0, 0, 1.0),
    ],
)
def test_refuses_what_is_no_integer(jit, operate):
    if config.DISABLE_JIT:
        pytest.skip("interpreted values come from the library itself")
    words = np.zeros(4, np.int64)
    with pytest.raises((TypeError, TypingError), match="must be (an )?integer"):
        jit(operate)(words)
    assert not words.any()


@pytest.mark.parametrize("i", [-1, 4])
def test_python_refuses_words_that_are_not_there(i):
    with pytest.raises(IndexError, match=f"i of atomics.load must be from 0 to 3, not {i}"):
        atomics.load(np.zeros(4, np.int64), i)


@pytest.mark.parametrize("words", [[0, 1], 5, None, b"12345678"])
def test_python_refuses_what_is_no_array(words):
    with pytest.raises(TypeError, match="words of atomics.load must be"):
        atomics.load(words, 0)


@pytest.mark.compiled
@pytest.mark.skipif(
    "x86" not in llvm.get_default_triple() or "darwin" in llvm.get_default_triple(), reason="about x86-64"
)
def test_compare_and_swap_is_one_locked_instruction():
    code = assembly(lambda words: atomics.compare_and_swap(words, 0, 1, 2))
    assert re.findall(r"lock[\s;]+(\w+)", code) == ["cmpxchgq"]
    assert not re.search(r"\bcall", code)


@pytest.mark.compiled
@pytest.mark.parametrize("function, instruction", [(plus, "add"), (minus, "sub"), (times, "mul")])
def test_arithmetic_that_wraps_is_defined_in_compiled_code_too(function, instruction):
    kernel = njit(lambda a, b: function(a, b))
    for a, b in ((3, 4), (2**63 - 1, 1), (-(2**63), -1), (-(2**63), 1), (2**62, 6364136223846793005)):
        assert kernel(a, b) == function(a, b) == wrap({"add": a + b, "sub": a - b, "mul": a * b}[instruction])
    made = re.findall(rf"= {instruction} .*", kernel.inspect_llvm(kernel.signatures[0]))
    assert made and not [line for line in made if "nsw" in line]


@pytest.mark.compiled
def test_differences_of_states_are_not_undefined():
    """LLVM may take it that what is marked nsw never wraps."""
    kernel = njit(lambda queue: queue.try_put(1) + queue.try_get())
    assert kernel(BoundedQueue(5)) == 2
    code = kernel.inspect_llvm(kernel.signatures[0])
    # Of two unknowns: what LLVM itself has found out of a constant cannot wrap.
    assert not re.search(r"sub nsw i64 %[^,]*, %", code) and " sub i64 " in code


@pytest.mark.compiled
@pytest.mark.skipif("x86" not in llvm.get_default_triple(), reason="about x86-64")
def test_loads_and_stores_need_no_lock_unless_seq_cst():
    def operate(words):
        atomics.store(words, 0, atomics.load(words, 1, "seq_cst"), "release")

    assert not re.search("lock|xchg|mfence|call", assembly(operate))
    assert re.search("xchg", assembly(lambda words: atomics.store(words, 0, 1, "seq_cst")))


def aarch64(function, features=""):
    """Cross-compile a kernel and return its assembly."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    source = next(iter(compiled(function).inspect_llvm().values()))
    kernel = re.search(r"^define .*?^}", source, re.MULTILINE | re.DOTALL)[0]  # without the wrapper, which is x86's
    module = llvm.parse_assembly(re.sub(r" #\d+|, ![\w.]+ !\d+", "", kernel))
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(opt=2, features=features)
    module.triple = machine.triple
    return instructions(machine.emit_assembly(module))


@pytest.mark.compiled
@pytest.mark.parametrize(
    "function, features, instruction",
    [
        (lambda words: atomics.load(words, 0, "acquire"), "", r"\bldar\b"),
        (lambda words: atomics.load(words, 0, "seq_cst"), "", r"\bldar\b"),
        (lambda words: atomics.store(words, 0, 1, "release"), "", r"\bstlr\b"),
        (lambda words: atomics.compare_and_swap(words, 0, 1, 2, "acq_rel"), "+lse", r"\bcasal\b"),
        (lambda words: atomics.compare_and_swap(words, 0, 1, 2, "acquire"), "+lse", r"\bcasa\b"),
        (
            lambda words: atomics.compare_and_swap(words, 0, 1, 2, "acq_rel"),
            "-outline-atomics",
            r"\bldaxr\b[\s\S]*\bstlxr\b",
        ),
        (lambda words: atomics.swap(words, 0, 1, "release"), "+lse", r"\bswpl\b"),
        (lambda words: atomics.fetch_add(words, 0, 1, "acq_rel"), "+lse", r"\bldaddal\b"),
        (lambda words: atomics.fetch_add(words, 0, 1, "relaxed"), "+lse", r"\bldadd\b"),
    ],
)
def test_orders_become_aarch64_instructions(function, features, instruction):
    assert re.search(instruction, aarch64(function, features))


@pytest.mark.compiled
def test_relaxed_loads_are_plain_on_aarch64():
    code = aarch64(lambda words: atomics.load(words, 0, "relaxed"))
    assert not re.search("ldar|ldaxr|dmb", code) and re.search(r"\bldr\b", code)


@pytest.mark.compiled
def test_a_loop_reads_the_word_again():
    def wait(words):
        while atomics.load(words, 0, "relaxed") == 0:
            pass

    kernel = njit(nogil=True)(wait)
    words = np.zeros(1, np.int64)
    kernel.compile((WORDS,))
    thread = threading.Thread(target=kernel, args=(words,))
    thread.start()
    atomics.store(words, 0, 1)
    thread.join(30)
    assert not thread.is_alive()


@needs_fork
def test_a_forked_child_waits_for_no_thread_of_its_parent():
    words, stop = np.zeros(2, np.int64), threading.Event()

    def count():
        while not stop.is_set():
            atomics.fetch_add(words, 0, 1)

    def look():
        signal.alarm(30)
        assert atomics.load(words, 1) == 0

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(5):
            in_a_child(look)
    finally:
        stop.set()
        thread.join()
