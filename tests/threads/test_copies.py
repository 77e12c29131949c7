"""Many words at once: what is moved, by which instructions, and that none of them leaves its place."""

import re

import llvmlite.binding as llvm
import numpy as np
import pytest
from machine_code import instructions
from numba import njit, types
from support import BOTH

from iobuf_nb import atomics
from iobuf_nb._jit.handle import WORD_POINTER
from iobuf_nb._threads.copies import load_many, store_many


def move(words, out, n):
    """Take n words of `words`, which word 0 leads to, and leave them, the other way round, in front of the rest."""
    i = atomics.load(words, 0)
    load_many(words, i, out, 1, n)
    atomics.compare_and_swap(words, 0, i, i + 1)
    out[1] += 1
    store_many(words, 20, out, 1, n)
    atomics.store(words, 1, 1)


@BOTH
@pytest.mark.parametrize("n", [0, 1, 3, 16, 17])
def test_moves_what_it_is_asked_to_and_nothing_else(jit, n):
    words, out = np.arange(40), np.full(40, -1)
    words[0] = 3
    after, moved = words.copy(), out.copy()
    moved[1 : 1 + n] = words[3 : 3 + n]
    moved[1] += 1
    after[20 : 20 + n] = moved[1 : 1 + n]
    after[:2] = 4, 1
    jit(move)(words, out, n)
    assert out.tolist() == moved.tolist() and words.tolist() == after.tolist()


@pytest.mark.compiled
@pytest.mark.skipif("x86" not in llvm.get_default_triple(), reason="about x86-64")
def test_copies_are_vectors_between_the_atomic_accesses_around_them():
    kernel = njit(nogil=True, error_model="numpy")(move)
    kernel.compile((WORD_POINTER, WORD_POINTER, types.int64))  # as they are in kernels
    code = instructions(next(iter(kernel.inspect_asm().values())))
    assert not re.search(r"\bcall|\brep", code), "a function moves bytes as it likes"
    assert re.search(r"mov(dq|up)", code)
    code = re.search(r"^define .*?^}", next(iter(kernel.inspect_llvm().values())), re.MULTILINE | re.DOTALL)[0]
    before, after = code.partition("load atomic")[0], code.rpartition("store atomic")[2]
    assert len(after) < len(code) and not re.search(r"= load (i64|<)", before) and not re.search("store (i64|<)", after)
