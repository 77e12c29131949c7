"""Fences: a light one and a heavy one are as good as two full ones, and say where they cannot be had."""

import re
import threading

import llvmlite.binding as llvm
import numpy as np
import pytest
from machine_code import assembly
from numba import njit
from support import FORBID, in_a_child, python

from iobuf_nb import atomics
from iobuf_nb._threads import fences


@pytest.mark.compiled
@pytest.mark.skipif("x86" not in llvm.get_default_triple(), reason="about x86-64")
def test_a_light_fence_is_no_instruction_and_keeps_the_order():
    def operate(words):
        atomics.store(words, 0, 1, "relaxed")
        fences.light_fence()
        return atomics.load(words, 1, "relaxed")

    code = assembly(operate)
    assert not re.search("lock|xchg|mfence", code)
    assert re.search(r"movq\s+\$1, \([\s\S]*movq\s+8\(", code)


@pytest.mark.proof
@pytest.mark.compiled
@pytest.mark.skipif(not fences.register_heavy_fence(), reason="needs membarrier(2)")
def test_a_light_and_a_heavy_fence_are_as_good_as_two_full_ones():
    rounds = 20_000

    def owner(words, seen):
        for k in range(rounds):
            while atomics.load(words, 2) != k:
                atomics.pause()
            atomics.store(words, 0, k + 1, "relaxed")
            fences.light_fence()
            seen[k] = atomics.load(words, 16, "relaxed")
            atomics.fetch_add(words, 3, 1)

    def thief(words, seen):
        for k in range(rounds):
            atomics.store(words, 2, k)
            atomics.store(words, 16, k + 1, "relaxed")
            fences.heavy_fence()
            seen[k] = atomics.load(words, 0, "relaxed")
            while atomics.load(words, 3) != k + 1:
                atomics.pause()

    words, seen = np.zeros(32, np.int64), np.zeros((2, rounds), np.int64)
    words[2] = -1
    thread = threading.Thread(target=njit(nogil=True)(owner), args=(words, seen[0]))
    thread.start()
    njit(nogil=True)(thief)(words, seen[1])
    thread.join()
    assert not ((seen[0] <= np.arange(rounds)) & (seen[1] <= np.arange(rounds))).any()


@pytest.mark.skipif(not fences.register_heavy_fence(), reason="needs membarrier(2)")
def test_a_forked_child_need_not_register_again():
    def check():
        assert fences._membarrier(fences._EXPEDITE) == 0

    in_a_child(check)


FORBIDDEN = (
    FORBID
    + """
from numba import njit
from iobuf_nb._threads import fences, libc

in_kernel = njit(lambda: fences.heavy_fence())
assert fences.register_heavy_fence() and fences.heavy_fence() is True and in_kernel() is True
print([fences.heavy_fence(), in_kernel()] if forbid(libc.MEMBARRIER) else "no seccomp")
"""
)


@pytest.mark.compiled
@pytest.mark.skipif(not fences.register_heavy_fence(), reason="needs membarrier(2)")
def test_a_heavy_fence_that_is_forbidden_later_says_so():
    done = python("-c", FORBIDDEN)
    if done.stdout == "no seccomp\n":
        pytest.skip("needs seccomp(2)")
    assert done.stdout == "[False, False]\n", done.stderr
