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
import pytest
from numba import config

import iobuf_nb
from iobuf_nb import BoundedQueue, BufferPool, atomics

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="about compiled code")


def run(tmp_path, face, calls, seed=0):
    """Run the fuzzer; return its report."""
    log = tmp_path / "log"
    process = subprocess.run(
        [sys.executable, fuzz.__file__, face, str(log), str(seed), str(calls)],
        env={**os.environ, "PYTHONPATH": str(Path(iobuf_nb.__file__).parents[1])},
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
    assert {cls for *_, cls in found.values()} <= fuzz.MAKE.keys() | {None}
    parameters = {
        (name, key)
        for name, (_, signature, *_) in found.items()
        for key, each in signature.parameters.items()
        if key not in fuzz.GOOD and each.kind is not each.VAR_KEYWORD and not isinstance(each.default, bool)
    }
    assert not parameters - YES_OR_NO, f"no good values are known for {sorted(parameters - YES_OR_NO)}"


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
        BoundedQueue(2).put(fuzz.Bad())
    except fuzz.Raised as error:
        assert judged(error) is None


def test_documented_errors_are_read_from_docstrings():
    found = {name: {error.__name__ for error in errors} for name, (_, _, errors, _) in fuzz.targets().items()}
    assert found["BufferPool.put"] == {"IndexError", "ValueError", "TypeError"}
    assert found["BoundedQueue.get"] == {"WouldBlock", "PoolClosed", "TypeError", "ValueError"}  # as `put`
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


# ---- what it has found -----------------------------------------------------------------------------------------------


class Index:
    """An integer only by its __index__."""

    def __index__(self):
        return 1


@pytest.mark.parametrize("one", [Index(), fuzz.Number(1), fuzz.np.uint8(1), fuzz.np.array(1)])
def test_atomics_take_whatever_is_an_integer(one):
    words = fuzz.np.zeros(3, fuzz.np.int64)
    assert atomics.fetch_add(words, one, one) == 0 and atomics.load(words, one) == 1
    assert atomics.compare_and_swap(words, one, one, one)


@pytest.mark.parametrize("order", [[], {}, fuzz.np.zeros(2), None, 1])
def test_orders_that_are_no_strings_are_refused_by_name(order):
    with pytest.raises(ValueError, match=r"order of atomics\.load must be one of"):
        atomics.load(fuzz.np.zeros(1, fuzz.np.int64), 0, order)
