"""Nothing that is passed to a public function crashes it, blocks it, or ends in an error that is not documented.

The calls are made by `fuzz.py`, in a process of its own whose memory is limited.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import fuzz
import fuzz_values
import numpy as np
import pytest
import support
from fuzz_values import GOOD, MAKE, Bad, Number, Raised
from numba import njit
from numba.core.errors import TypingError
from support import PACKAGE, Index, environment

import iobuf_nb
from iobuf_nb import (
    Backoff,
    BoundedQueue,
    BufferPool,
    IoVec,
    ItemPool,
    MagazineSet,
    Tier,
    aligned_mem_blocks,
    atomics,
    cache_line_aligned_mem_blocks,
    copy,
    fill_iovec,
    iovec_from_buffers,
    iovec_from_registered,
    scan,
    stream,
    syscalls,
)

pytestmark = [pytest.mark.compiled, pytest.mark.proof]


# Where the library is, and what the fuzzer imports beside it.
PATHS = PACKAGE.parent, Path(support.__file__).parent, Path(fuzz_values.__file__).parent


def run(tmp_path, face, calls, seed=0):
    """Run the fuzzer; return its report."""
    log = tmp_path / "log"
    process = subprocess.run(
        [sys.executable, fuzz.__file__, face, str(log), str(seed), str(calls)],
        env=environment(PYTHONPATH=os.pathsep.join(map(str, PATHS))),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,  # 0, 1 and 2 are descriptors that it reads and writes
        capture_output=True,
    )
    last = log.read_bytes().partition(b"\0")[0].decode()
    how = "it blocked" if process.returncode == -signal.SIGALRM else f"exit code {process.returncode}"
    assert process.returncode == 0, (
        f"{how}; the last call was {last}\n{process.stderr.decode(errors='replace')[-3000:]}"
    )
    return json.loads(Path(f"{log}.json").read_text())


def check(report, record):
    record("figure", "{targets} functions, {calls:,} calls, {failed:,} of them refused, 0 crashes".format(**report))
    assert not report["wrong"], "\n".join(report["wrong"].values())
    assert report["failed"] > report["calls"] / 4  # else the nasty values are not nasty any more


@pytest.mark.parametrize("face, calls", [("python", 100), ("kernel", 1)])
def test_refuses_what_it_cannot_take(tmp_path, record_property, face, calls):
    check(run(tmp_path, face, calls), record_property)


@pytest.mark.long
@pytest.mark.parametrize("face, calls", [("python", 2000), ("kernel", 20)])
def test_refuses_what_it_cannot_take_for_long(tmp_path, record_property, face, calls):
    check(run(tmp_path, face, calls, seed=os.getpid()), record_property)


def test_everything_public_is_fuzzed():
    """Functions, classes and methods are found by introspection; what they need must be there, or stand in EXEMPT."""
    names = fuzz.public().keys()
    assert fuzz.EXEMPT.keys() <= names and all(fuzz.EXEMPT.values())
    found = fuzz.targets()
    assert {name.partition(".")[0] for name in found} | {"atomics", "syscalls"} >= {
        name.partition(".")[0] for name in names - fuzz.EXEMPT.keys()
    }
    assert {cls for *_, cls in found.values()} <= MAKE.keys() | {None}
    parameters = {
        (name, key)
        for name, (_, signature, *_) in found.items()
        for key, each in signature.parameters.items()
        if key not in GOOD and each.kind is not each.VAR_KEYWORD and not isinstance(each.default, bool)
    }
    assert not parameters - YES_OR_NO, f"no good values are known for {sorted(parameters - YES_OR_NO)}"


# Set to yes or no, and so to anything.
YES_OR_NO = {("BufferPool.nonblocking", "value"), ("ItemPool.nonblocking", "value")}


# ---- the fuzzer sees what it looks for -------------------------------------------------------------------------------


def judged(error, documented=(TypeError, ValueError), name="BoundedQueue.put"):
    _, signature, *_ = fuzz.targets()[name]
    return fuzz.judge(name, error, frozenset(documented), signature)


def test_undocumented_errors_are_found():
    assert judged(KeyError("item")).startswith("not documented: KeyError")
    assert judged(UnicodeError("item")).startswith("not documented: UnicodeError")  # a ValueError, but which?
    assert judged(ValueError("item must be good")) is None


def test_errors_that_name_no_argument_are_found():
    assert judged(ValueError("must be good")).startswith("names no argument")
    assert judged(OSError(9, "Bad"), [OSError]) is None


def test_errors_of_the_arguments_themselves_are_theirs():
    try:
        BoundedQueue(2).put(Bad())
    except Raised as error:
        assert judged(error) is None


def test_documented_errors_are_read_from_docstrings():
    found = {name: {error.__name__ for error in errors} for name, (_, _, errors, _) in fuzz.targets().items()}
    assert found["BufferPool.put"] == {"IndexError", "ValueError", "TypeError"}
    own = {"WouldBlock", "Closed", "RuntimeError", "KeyboardInterrupt"}
    assert found["BoundedQueue.get"] == own | {"TypeError", "ValueError"}  # as `put`
    assert found["BoundedQueue.was_size"] == set()


def test_changes_are_found():
    pool = BufferPool(2, 16)
    before = fuzz.looks(pool)
    index = pool.get()
    assert fuzz.looks(pool) != before
    pool.put(index)
    assert fuzz.looks(pool) == before


@pytest.mark.parametrize(
    "source, sentence", [("import os; os.abort()", "exit code -6"), ("while True: pass", "it blocked")]
)
def test_crashes_and_calls_that_block_are_found(tmp_path, monkeypatch, source, sentence):
    script = tmp_path / "broken.py"
    text = Path(fuzz.__file__).read_text().replace("SECONDS = 100", "SECONDS = 1")
    script.write_text(
        text.replace("    result = function(**arguments)", f"    {source}\n    result = function(**arguments)")
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    with pytest.raises(AssertionError, match=rf"{sentence}; the last call was \w+"):
        run(tmp_path, "python", 1)


NO_IOVEC, NO_INDEX = np.zeros(0, iobuf_nb.IOVEC_DTYPE), np.zeros(0, np.int64)

# ---- what it has found -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [Index(1), Number(1), np.uint8(1), np.array(1)])
def test_atomics_take_whatever_is_an_integer(one):
    words = np.zeros(3, np.int64)
    assert atomics.fetch_add(words, one, one) == 0 and atomics.load(words, one) == 1
    assert atomics.compare_and_swap(words, one, one, one)


@pytest.mark.parametrize("order", [[], {}, np.zeros(2), None, 1])
def test_orders_that_are_no_strings_are_refused_by_name(order):
    with pytest.raises(ValueError, match=r"order of atomics\.load must be one of"):
        atomics.load(np.zeros(1, np.int64), 0, order)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Backoff(np.timedelta64(1, "s")), TypeError, "base must be a number of seconds"),
        (lambda: Backoff(max=1 + 0j), TypeError, "max must be a number of seconds"),
        (lambda: BoundedQueue(1).get(timeout=bytearray(b"1")), TypeError, "timeout must be None or a number"),
        (lambda: ItemPool(5), TypeError, "items must be an iterable of objects, not 5"),
        (lambda: MagazineSet(BufferPool(2, 16), 2)["1"], TypeError, "k must be an integer, not '1'"),
        (lambda: IoVec(-1, None), ValueError, "n must be an integer from 0 to 4294967296, not -1"),
        (lambda: iovec_from_buffers(5), TypeError, "buffers must be a sequence of buffers, not 5"),
        (lambda: iovec_from_registered(5), TypeError, "pool must be a BufferPool, not 5"),
        (lambda: fill_iovec(NO_IOVEC, 5, []), TypeError, "pool must be a BufferPool, not 5"),
        (lambda: BufferPool(2, 16).iovec(NO_IOVEC), TypeError, "indices must be a sequence of integers"),
        (lambda: BufferPool(2, 16).iovec([[0], [0, 1]]), TypeError, "indices must be a sequence of integers"),
        (lambda: syscalls.readv(0, 5), TypeError, "iovec must be a sequence of buffers, not 5"),
        (lambda: copy(5, "x"), TypeError, "src must be a path, not 5"),
        (lambda: copy("a\0b", "x"), ValueError, "src must be a path that the system can take"),
        (lambda: scan("\ud800"), ValueError, "source must be a path that the system can take"),
        (lambda: aligned_mem_blocks(2**31, 2**30), ValueError, r"n \* page_size must be an integer"),
        (lambda: cache_line_aligned_mem_blocks(2**31, 2**30), ValueError, r"n \* block_size must be an integer"),
        (lambda: BufferPool(2, 16).set_value(0, np.complex128(1)), TypeError, "data must be of dtype uint8"),
        (lambda: stream("x", None, engine=np.zeros(1, "V4")), ValueError, "engine must be 'auto'"),
        (lambda: scan("x", buffers="2"), TypeError, "buffers must be an integer"),
        (lambda: scan("x", tier="2"), TypeError, "tier must be an integer"),
    ],
)
def test_what_was_refused_by_others_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_limits_may_be_numbers_of_any_type():
    backoff = Backoff(np.float16(0.5), Tier.PICO)
    backoff.set_max(np.float16(8))
    assert (backoff.base, backoff.max) == (0.5, 8)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda pool: pool.get(timeout=pool), "timeout must be None or a number of seconds >= 0"),
        (lambda pool: pool.get(timeout=1j), "timeout must be None or a number of seconds >= 0"),
        (lambda pool: pool.get(block=pool), "block must be a bool"),
        (lambda pool: pool.iovec(None), "indices must be a one-dimensional array of integers"),
        (lambda pool: fill_iovec(pool.iovec(NO_INDEX), 5, NO_INDEX), "pool must be a BufferPool"),
        (lambda pool: Backoff(base=pool).block, "base must be a number of seconds"),
        (lambda pool: atomics.pause(pool), "n must be an integer"),
    ],
)
def test_kernels_say_it_in_our_words(call, message):
    with pytest.raises(TypingError, match=message):
        njit(call)(BufferPool(2, 16))
