"""What users read: typing errors of kernels begin and end with what helps, and all errors are sentences."""

import re
import sys
import threading

import numpy as np
import pytest
from numba import njit, prange, types
from numba.core.errors import TypingError
from support import BOTH

from iobuf_nb import (
    IOVEC_DTYPE,
    Backoff,
    BoundedQueue,
    BufferPool,
    ItemPool,
    MagazineSet,
    SpinWait,
    WouldBlock,
    advance_iovec,
    atomics,
    fill_iovec,
    iovec_addr_len,
    syscalls,
)
from iobuf_nb.atomics import pause

compiled = pytest.mark.compiled
DROPS_KEYWORDS = (3, 11) <= sys.version_info < (3, 13)


def things():
    """Return what kernels are given: a pool, a queue, a magazine, several, an iovec, words and a descriptor."""
    pool = BufferPool(2, 16)
    return pool, BoundedQueue(4), pool.magazine(), MagazineSet(pool, 2), np.zeros(2, IOVEC_DTYPE), np.zeros(2, np.int64)


def refused(kernel, *arguments):
    """Return the sentence that a kernel's typing error begins and ends with."""
    with pytest.raises(TypingError) as caught:
        njit(kernel)(*arguments)
    lines = [line for line in str(caught.value).splitlines() if line.strip()]
    assert lines[0] == lines[-1] and len(lines) <= 3, str(caught.value)
    return lines[0]


# ---- typing errors ---------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize(
    "kernel, sentence",
    [
        (lambda p, q, m, s, v, w: p.put("x"), "index must be an integer, not unicode_type"),
        (lambda p, q, m, s, v, w: p.try_put(1.5), "index must be an integer, not float64"),
        (lambda p, q, m, s, v, w: p.value(1.5)[0], "index must be an integer, not float64"),
        (lambda p, q, m, s, v, w: p.set_value(0, 7), "data must be bytes or an array of dtype uint8, not "),
        (lambda p, q, m, s, v, w: p.get(timeout="x"), "timeout must be None or a number of seconds >= 0, not unicode"),
        (lambda p, q, m, s, v, w: p.get_many(v), "out must be a one-dimensional int64 array, not "),
        (lambda p, q, m, s, v, w: p.iovec(0), "indices must be a one-dimensional array of integers in a kernel, not "),
        (lambda p, q, m, s, v, w: q.put(1.0), "item must be an integer, not float64"),
        (lambda p, q, m, s, v, w: m.put(None), "index must be an integer, not none"),
        (lambda p, q, m, s, v, w: s[1.5].size, "k must be an integer, not float64"),
        (lambda p, q, m, s, v, w: s["x"].size, "k must be an integer, not "),
        (lambda p, q, m, s, v, w: fill_iovec(v, q, w), "pool must be a BufferPool, not BoundedQueue"),
        (lambda p, q, m, s, v, w: advance_iovec(v, 0.5), "n must be an integer in a kernel, not float64"),
        (lambda p, q, m, s, v, w: iovec_addr_len(w), "iovec must be a contiguous one-dimensional array of IOVEC_DTYPE"),
        (lambda p, q, m, s, v, w: syscalls.read(0, 5), "buffer must be a contiguous array in a kernel, not "),
        (lambda p, q, m, s, v, w: syscalls.poll_in(0, 1.5), "timeout_ms must be an integer in a kernel, not float64"),
        (lambda p, q, m, s, v, w: atomics.load(w, 0, "no"), "order of atomics.load must be one of .*, not 'no'"),
        (lambda p, q, m, s, v, w: atomics.store(v, 0, 1), "words of atomics.store must be a one-dimensional"),
        (lambda p, q, m, s, v, w: pause("x"), "n must be an integer, not "),
        (lambda p, q, m, s, v, w: Backoff("x").wait(), "base must be a number of seconds, not "),
        # other names, and other numbers of arguments
        (
            lambda p, q, m, s, v, w: p.foo(),
            "a BufferPool of uint8, 1-d, checked=True has no attribute 'foo' in kernels",
        ),
        (lambda p, q, m, s, v, w: p.lease(), "a BufferPool .* has no attribute 'lease' in kernels"),
        (lambda p, q, m, s, v, w: q.size, "a BoundedQueue has no attribute 'size' in kernels"),
        (lambda p, q, m, s, v, w: m.close(), "a Magazine .* has no attribute 'close' in kernels"),
        (lambda p, q, m, s, v, w: p.put(), r"put must be called as put\(index\): missing a required argument: 'index'"),
        (
            lambda p, q, m, s, v, w: q.get(True, 1, 2),
            r"get must be called as get\(block=True, timeout=None\): too many",
        ),
        (lambda p, q, m, s, v, w: p.get(blok=False), r"get must be called as .*: got an unexpected keyword .*'blok'"),
        (
            lambda p, q, m, s, v, w: atomics.load(w),
            r"load must be called as load\(words, i, order='acquire'\): missing",
        ),
        (
            lambda p, q, m, s, v, w: syscalls.pread(0, w),
            r"pread must be called as pread\(fd, buffer, offset\): missing",
        ),
        (
            lambda p, q, m, s, v, w: Backoff(1, 2, 3).wait(),
            r"Backoff must be called as Backoff\(base=0.0005, max=0.1\):",
        ),
        (lambda p, q, m, s, v, w: SpinWait(1).once(), r"SpinWait must be called as SpinWait\(\): too many"),
        # a bool is no number, and a number no bool
        (lambda p, q, m, s, v, w: p.get(0.5), r"block must be a bool, not float64; did you mean timeout=\?"),
        (lambda p, q, m, s, v, w: p.get(1), r"block must be a bool, not int64; did you mean timeout=\?"),
        (lambda p, q, m, s, v, w: q.get(0), r"block must be a bool, not int64; did you mean timeout=\?"),
        (lambda p, q, m, s, v, w: q.put(1, 0.5), r"block must be a bool, not float64; did you mean timeout=\?"),
        (lambda p, q, m, s, v, w: m.get(block="x"), "block must be a bool, not unicode_type"),
        (lambda p, q, m, s, v, w: p.put(True), "index must be an integer, not bool"),
        (lambda p, q, m, s, v, w: p.value(w[0] == 0)[0], "index must be an integer, not bool"),
        (lambda p, q, m, s, v, w: p.put_many(w == 0), "indices must be a one-dimensional int64 array, not array.bool"),
        (lambda p, q, m, s, v, w: q.try_put(True), "item must be an integer, not bool"),
        (lambda p, q, m, s, v, w: m.put(True), "index must be an integer, not bool"),
        (lambda p, q, m, s, v, w: s[True].size, "k must be an integer, not .*bool"),
        (lambda p, q, m, s, v, w: atomics.load(w, True), "i and values of atomics.load must be integers, not .*bool"),
        (lambda p, q, m, s, v, w: fill_iovec(v, p, w == 0), "indices must be a one-dimensional array of integers in a"),
    ],
)
def test_typing_errors_begin_and_end_with_what_helps(kernel, sentence):
    assert re.match(sentence, refused(kernel, *things()))


def call_put(pool, index):
    pool.put(index)


@compiled
@pytest.mark.parametrize("options", [{}, {"inline": "always"}, {"forceinline": True}], ids=str)
def test_typing_errors_come_through_functions_of_the_users_own(options):
    inner = njit(**options)(call_put)
    middle = njit(lambda pool, index: inner(pool, index))
    assert refused(lambda pool: middle(pool, 0.5), BufferPool(2, 16)) == "index must be an integer, not float64"


@compiled
def test_typing_errors_say_where_the_call_is():
    with pytest.raises(TypingError) as caught:
        njit(call_put)(BufferPool(2, 16), 0.5)
    line = call_put.__code__.co_firstlineno + 1
    assert str(caught.value).splitlines()[1] == f"During: typing of call at {__file__} ({line})"


@compiled
def test_typing_errors_of_eager_and_parallel_kernels():
    words = types.int64[::1]
    with pytest.raises(TypingError, match="^order of atomics.load must be one of .*, not 'release'\n"):
        njit(types.int64(words))(lambda words: atomics.load(words, 0, "release"))

    @njit(parallel=True)
    def parallel(pool):
        for _ in prange(2):
            pool.put(0.5)

    with pytest.raises(TypingError, match="^index must be an integer, not float64\n"):
        parallel(BufferPool(2, 16))


@compiled
def test_a_refusal_ends_no_search_among_types():
    """numba asks again without literals, and again when a loop has told it more of a variable's type."""

    @njit
    def inner(words, order):
        return atomics.load(words, 0, order)

    assert njit(lambda words: atomics.load(words, np.uint8(0), order="seq_cst"))(np.ones(1, np.int64)) == 1
    assert njit(lambda words: inner(words, "seq_cst"))(np.ones(1, np.int64)) == 1

    @njit
    def late(queue):
        item = True  # becomes an integer with what follows
        for k in range(2):
            queue.put(item)
            item = k
        return queue.get() + queue.get()

    assert late(BoundedQueue(2)) == 1


@compiled
def test_kernels_may_ask_what_there_is():
    @njit
    def size(source):
        return source.size if hasattr(source, "size") else -source.capacity

    pool = BufferPool(2, 16)
    assert (size(pool), size(pool.magazine(8))) == (-2, 8)
    assert njit(lambda pool: getattr(pool, "foo", 7))(pool) == 7


# ---- keywords inside try ---------------------------------------------------------------------------------------------


def get_within(pool, queue, words):
    try:
        pool.put(pool.get(timeout=0.001))
    except Exception:
        return -1
    return 0


def put_within(pool, queue, words):
    try:
        queue.put(3, timeout=1)
    except Exception:
        return -1
    return queue.get()


def swap_in_order_of_its_own(pool, queue, words):
    try:
        return atomics.compare_and_swap(words, 0, desired=7, expected=0) * words[0]
    except Exception:
        return -1


def make_a_backoff(pool, queue, words):
    try:
        backoff = Backoff(max=0.25)
        return int(backoff.max * 100 + backoff.base)
    except Exception:
        return -1


def call_in_two_lines(pool, queue, words):
    try:
        index = pool.get(
            timeout=0.001,
        )
    except Exception:
        return -1
    pool.put(index)
    return index


def call_where_an_error_is_handled(pool, queue, words):
    try:
        pool.put(77)
    except Exception:
        try:
            pool.put(pool.get(timeout=0.001))
        except Exception:
            return -1
        return 0
    return 5


@compiled
@pytest.mark.parametrize(
    "kernel, result",
    [
        (get_within, 0),
        (put_within, 3),
        (swap_in_order_of_its_own, 7),
        (make_a_backoff, 25),
        (call_in_two_lines, 0),
        (call_where_an_error_is_handled, 0),
    ],
)
def test_keywords_inside_try_mean_what_they_say_or_are_refused(kernel, result):
    arguments = BufferPool(1, 16), BoundedQueue(4), np.zeros(1, np.int64)
    if DROPS_KEYWORDS:
        sentence = refused(kernel, *arguments)
        assert re.match(r"\w+\(.*\) must get [\w, ]+ by position inside try, not by name: numba on", sentence)
        assert arguments[0].available() == 1 and arguments[1].was_size() == 0 and not arguments[2].any()
    else:
        assert njit(kernel)(*arguments) == result


@compiled
@pytest.mark.parametrize("method", ["read_fixed", "write_fixed", "read_batch", "complete"])
def test_keywords_of_io_uring_inside_try(method):
    uring = pytest.importorskip("iobuf_nb.uring")
    pool, queue = BufferPool(4, 1024), BoundedQueue(4)
    calls = {
        "read_fixed": "registered.read_fixed(-1, 0, length=1, offset=0)",
        "write_fixed": "registered.write_fixed(-1, 0, length=1, offset=0)",
        "read_batch": "registered.read_batch(-1, end=2, offset=2)",
        "complete": "registered.complete(queue, timeout=1)",
    }
    space = {}
    source = f"def kernel(registered, queue):\n try:\n  return {calls[method]}\n except Exception:\n  return -77"
    exec(source, space)
    try:
        ring = uring.Ring(4)
    except (ImportError, OSError) as error:
        pytest.skip(f"no io_uring here: {error}")
    with ring:
        arguments = pool.register(ring), queue
        if DROPS_KEYWORDS:
            assert re.match(rf"{method}\(.*\) must get", refused(space["kernel"], *arguments))
        else:
            expected = {"read_fixed": -77, "write_fixed": -77, "read_batch": 2, "complete": 0}
            assert njit(space["kernel"])(*arguments) == expected[method]


@compiled
def test_keywords_that_stand_where_their_parameters_do_are_taken_inside_try():
    @njit
    def kernel(pool, words):
        try:
            index = pool.get(block=False)
            pool.put(index)
            return index + atomics.fetch_add(words, 0, value=2, order="relaxed") + atomics.load(words, i=0)
        except Exception:
            return -1

    assert kernel(BufferPool(1, 16), np.zeros(1, np.int64)) == 2


@compiled
def test_keywords_are_taken_outside_of_try_and_by_position_in_it():
    @njit
    def kernel(pool):
        index = pool.get(timeout=0.001)
        try:
            pool.get(True, 0.001)
        except Exception:
            pool.put(index)
        return pool.get(timeout=0.001)

    @njit
    def indices(pool):  # a generator is inside a try of Python's own
        yield pool.get(timeout=0.001)

    pool = BufferPool(1, 16)
    for take in (kernel, njit(lambda pool: sum([index for index in indices(pool)]))):
        assert take(pool) == 0 and pool.available() == 0
        pool.put(0)


# ---- run-time errors -------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda p, q, s, v, w: p.put(7), IndexError, "index must be from 0 to 1, not 7"),
        (
            lambda p, q, s, v, w: p.put(1),
            ValueError,
            "index must be that of a buffer that is checked out; 1 was put already or",
        ),
        (lambda p, q, s, v, w: p.value(-1)[0], IndexError, "index must be from 0 to 1, not -1"),
        (lambda p, q, s, v, w: p.set_value(2, b"x"), IndexError, "index must be from 0 to 1, not 2"),
        (
            lambda p, q, s, v, w: p.set_value(0, b"x" * 17),
            ValueError,
            "data must not be longer than the buffer: 17 > 16",
        ),
        (lambda p, q, s, v, w: p.put_many(w), IndexError, "index must be from 0 to 1, not 8"),
        (lambda p, q, s, v, w: p.iovec(w)[0], IndexError, "indices must be from 0 to capacity - 1, 1, not 8"),
        (lambda p, q, s, v, w: p.iovec(w[:0], w)[0], ValueError, "lengths must have one entry per index, 0, not 2"),
        (
            lambda p, q, s, v, w: p.iovec(w[:1] - 8, w[:1] + 9)[0],
            ValueError,
            "lengths must be from 0 to .*, 16, not 17",
        ),
        (
            lambda p, q, s, v, w: p.get(True, -1.0),
            ValueError,
            "timeout must be None or a number of seconds >= 0, not -1",
        ),
        (lambda p, q, s, v, w: q.put(4), ValueError, "item must be .*0 to 3, not 4"),
        (lambda p, q, s, v, w: s[2].size, IndexError, "k must be from 0 to 1, not 2"),
        (
            lambda p, q, s, v, w: fill_iovec(v[:1], p, w),
            ValueError,
            "iovec must have an entry for each index, 2, not 1",
        ),
        (lambda p, q, s, v, w: advance_iovec(v, 5), ValueError, "n must be .*(0 to 0|of the iovec, 0), not 5"),
        (lambda p, q, s, v, w: Backoff(-1.0).block, ValueError, "base must be a number of seconds > 0, not -1"),
        (
            lambda p, q, s, v, w: Backoff(2.0, 1.0).block,
            ValueError,
            r"max must be .* from base \(2.0\) to 2\*\*33, not 1",
        ),
    ],
)
def test_errors_are_sentences(jit, call, error, sentence):
    pool = BufferPool(2, 16)
    arguments = pool, BoundedQueue(4), MagazineSet(pool, 2), np.zeros(2, IOVEC_DTYPE), np.array([8, 9])
    with pytest.raises(error) as caught:
        jit(call)(*arguments)
    assert type(caught.value) is error and len(caught.value.args) == 1
    assert re.match(sentence, str(caught.value)), caught.value


@BOTH
def test_errors_of_who_uses_anothers_magazine_are_sentences(jit):
    magazine = BufferPool(2, 16).magazine()
    thread = threading.Thread(target=lambda: magazine.put(magazine.get()))
    thread.start()
    thread.join()
    sentence = rf"the magazine belongs to another thread until it is released: thread {thread.ident}$"
    with pytest.raises(RuntimeError, match=sentence) as caught:
        jit(lambda magazine: magazine.try_get())(magazine)
    assert type(caught.value) is RuntimeError


@compiled
def test_sentences_can_be_caught_in_kernels():
    @njit
    def kernel(pool):
        try:
            pool.put(7)
        except Exception:
            return -1
        return 0

    assert kernel(BufferPool(2, 16)) == -1


# ---- bools and numbers, in Python ------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 1, 0.5, np.float64(0.5), np.int64(1), "x", None, []], ids=repr)
def test_block_must_be_a_bool(block):
    pool, queue = BufferPool(2, 16), BoundedQueue(2)
    number = isinstance(block, (int, float, np.integer))
    hint = f"; did you mean timeout={re.escape(repr(block))}[?]" if number else ""
    calls = [pool.get, pool.magazine().get, queue.get, ItemPool("ab").get, lambda block: queue.put(1, block)]
    calls += [lambda block: pool.lease(block).__enter__(), lambda block: queue.put(1, block=block, timeout=0)]
    for call in calls:
        with pytest.raises(TypeError, match=f"^block must be a bool, not {re.escape(repr(block))}{hint}$"):
            call(block)
    assert pool.available() == 2 and queue.was_size() == 0


def test_block_may_be_a_bool_of_numpys():
    pool = BufferPool(1, 16)
    assert pool.get(np.True_) == 0
    with pytest.raises(WouldBlock):
        pool.get(np.False_)
    pool.put(0)


@pytest.mark.parametrize("bad", [True, False, np.True_, np.False_], ids=repr)
def test_a_bool_is_no_index_and_no_item(bad):
    pool, queue, items = BufferPool(2, 16), BoundedQueue(2), ItemPool("ab")
    magazine, magazines, words = pool.magazine(), MagazineSet(pool, 2), np.zeros(2, np.int64)
    pool.get_many(np.zeros(2, np.int64))
    calls = [pool.put, pool.try_put, pool.value, lambda bad: pool.set_value(bad, b"x"), queue.put, queue.try_put]
    calls += [
        magazine.put,
        magazine.try_put,
        magazine.value,
        items.put,
        items.value,
        lambda bad: items.set_value(bad, 1),
    ]
    calls += [lambda bad: magazines[bad], lambda bad: atomics.load(words, bad), lambda bad: pool.iovec([bad])]
    calls += [
        lambda bad: pool.iovec((0, bad)),
        lambda bad: pool.iovec(np.array([bad])),
        lambda bad: pool.iovec([0], [bad]),
    ]
    calls += [lambda bad: pool.put_many(np.array([bad, bad])), lambda bad: atomics.store(words, bad, 1)]
    for call in calls:
        with pytest.raises(TypeError, match="must be an? (integer|sequence of integers|one-dimensional int64 array)"):
            call(bad)
    assert pool.available() == 0 and queue.was_size() == 0 and items.value(0) == "a" and not words.any()
    pool.put_many(np.arange(2))


@compiled
@pytest.mark.skipif(not DROPS_KEYWORDS, reason="numba keeps the names here")
def test_keywords_that_are_lost_are_seen_for_types_that_are_known():
    @njit
    def by_position():
        return Backoff(0.05).base

    assert by_position() == 0.05
    refused(make_a_backoff, BufferPool(1, 16), BoundedQueue(4), np.zeros(1, np.int64))
