"""No lock-free code goes round the seam through which the model checker decides what other threads and time do."""

import pytest
from going_round import OUTSIDE, in_package, ways_round
from support import PACKAGE, copied_package

IMPORTS = """
import os
import threading
import time as clock
import numpy as np
from time import monotonic_ns
from .._jit import seam
from .._jit.compile import hot, kernel
from .._jit.faces import in_kernels
from .._jit.instructions import llvm_load, plus
from .._threads.clock import now_ns
from .._threads.gil import _own_state, process_id, thread_id
from .._threads.libc import getpid, sched_yield
from ..atomics import load, pause, store
"""


def test_the_library_does_not_go_round_it():
    found, outside = in_package(PACKAGE)
    assert not found, "\n".join(found)
    assert outside == OUTSIDE.keys(), "what does not go round need not be listed"


@pytest.mark.parametrize(
    "line",
    [
        "return load(queue._words, 3) + thread_id() + now_ns() + process_id()",
        "store(words, 3, plus(load(words, 3, 'relaxed'), 1))",
        "words = pool._deques; pause(8); return load(words, 0)",
        "for k in range(4): out[k] = indices[k]",
        "other(queue._words, 3)",
    ],
)
def test_what_goes_through_it_is_left_alone(line):
    assert not ways_round(f"{IMPORTS}\ndef f(queue, pool, words, out, indices):\n    {line}", True)


@pytest.mark.parametrize(
    "line, said",
    [
        ("return queue._words[3]", "queue._words[3] touches shared words"),
        ("words[3] = 1", "words[3] touches"),
        ("words[3] += 1", "words[3] touches"),
        ("return pool._owners[k] if k else pool._bulks[0]", "pool._owners[k] touches"),
        ("mine = pool._deques\n    return mine[3]", "mine[3] touches"),
        ("mine, k = pool._queue._words, 3\n    return mine[k]", "mine[k] touches"),
        ("return (mine := owners)[3]", "mine"),
        ("first, *_ = words\n    return [*words]", "*words touches"),
        ("return words.sum()", "words.sum touches"),
        ("words.fill(0)", "words.fill touches"),
        ("for word in words: pass", "words walks over"),
        ("return [word for word in bulks]", "bulks walks over"),
        ("return np.count_nonzero(words)", "hands shared words"),
        ("return int(sum(words))", "hands shared words"),
        ("return clock.monotonic_ns()", "clock is of no room"),
        ("return monotonic_ns()", "monotonic_ns is of no room"),
        ("return threading.get_ident()", "threading is of no room"),
        ("return os.getpid()", "os is of no room"),
        ("return getpid()", "getpid lies on this side"),
        ("sched_yield()", "sched_yield lies on this side"),
        ("return llvm_load(words, 3)", "llvm_load lies on this side"),
        ("return seam.hook('now', None, -1, '')", "seam lies on this side"),
        ("return _own_state()", "_own_state is private"),
        ("from time import sleep\n    sleep(1)", "import in the midst"),
    ],
)
def test_each_way_round_it_is_seen(line, said):
    (_, _, what), *_ = ways_round(f"{IMPORTS}\ndef f(queue, pool, words, owners, bulks, k):\n    {line}", True)
    assert said in what


@pytest.mark.parametrize("mark", ["hot", "kernel", "in_kernels", "property\n    @in_kernels"])
def test_where_python_objects_are_it_looks_at_what_kernels_have(mark):
    source = f"{IMPORTS}\nclass Pool:\n    def __init__(self):\n        self._words[3] = 1\n\n"
    assert not ways_round(source, False)
    assert len(ways_round(f"{source}    @{mark}\n    def f(self):\n        return self._words[3]\n", False)) == 1


def test_a_new_module_is_looked_at(tmp_path):
    package = copied_package(tmp_path) / PACKAGE.name
    (package / "_free" / "depot.py").write_text("def get(words):\n    return words[0]\n")
    assert in_package(package)[0] == ["_free/depot.py:2: words[0] touches shared words without atomics"]
